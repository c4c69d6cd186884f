"""Guided perturbations and their neighbours: what the gradient at the input can do."""

from gpcore.perturb import Guided, GuidedPerturbation, guide, sweep

__all__ = ["Guided", "GuidedPerturbation", "guide", "sweep"]
