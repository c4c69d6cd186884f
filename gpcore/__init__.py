"""Guided perturbations and their neighbours: what the gradient at the input can do."""

from gpcore.choose import Choice, choose_epsilon
from gpcore.perturb import Guided, GuidedPerturbation, guide, sweep

__all__ = ["Choice", "Guided", "GuidedPerturbation", "choose_epsilon", "guide", "sweep"]
