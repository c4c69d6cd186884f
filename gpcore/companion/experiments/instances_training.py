"""Train notebook 46's Mask R-CNN: `python -m gpcore.companion.experiments.instances_training`; resumes from the last
epoch. Its weights become digits/maskrcnn-seed0."""

import dataclasses
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from gpcore import paths
from gpcore.companion import epochs, studies, training, weights
from gpcore.companion.experiments import instances
from gpcore.companion.studies import Recipe, Study
from gpcore.networks.maskrcnn import LOSSES, objects

RECIPE = Recipe(epochs=12, samples=3000, batch=8, rate=2e-3, frozen=("backbone.fcn.",))
LEAST = (1, 30, 100, 300, 600, 1000)  # pixels of a component


def train(study: Study, seed: int = 0, recipe: Recipe = RECIPE) -> None:
    """Fits and saves it, with the mean of each of its LOSSES in every epoch, then tunes what is read off on "val"."""
    name = instances.stored_as(study, seed)
    file = paths.DATA / "checkpoints" / f"{name.replace('/', '-')}.pt"
    log = file.with_suffix(".csv")
    torch.manual_seed(seed)
    network = instances.untrained(study, seed)
    epoch = partial(epochs.batches, instances.dataset("train"), recipe, lambda image, coded, _: (image, coded))
    trained, history = training.fit(
        network, epoch, partial(objective, network, log), recipe, checkpoint=file, seed=seed
    )
    info = {"study": study.name, "seed": seed, "recipe": dataclasses.asdict(recipe), "loss": history}
    weights.save(
        name, trained.state_dict(), info | {"losses": logged(log, recipe)}, base=f"{study.name}/fcn-seed{seed}"
    )
    weights.update(name, tuned=tuned(study, seed))
    file.unlink()
    log.unlink()


def objective(network: nn.Module, log: Path, images: Tensor, coded: Tensor) -> Tensor:
    """The sum of the five LOSSES, and a row of them in `log`, behind what the epoch's random numbers start from."""
    terms = network([*images], [objects(each) for each in coded])
    values = [terms[name] for name in LOSSES]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        print(torch.initial_seed(), *(value.item() for value in values), sep=",", file=file)
    return torch.stack(values).sum()


def logged(log: Path, recipe: Recipe) -> dict[str, list[float]]:
    """The mean of each loss in every epoch; of one that was begun anew only the rows of the last time count."""
    rows = pd.read_csv(log, names=["epoch", *LOSSES])
    last = rows.groupby("epoch").tail(-(-recipe.samples // recipe.batch))
    return {str(name): means.tolist() for name, means in last.groupby("epoch").mean().items()}


def tuned(study: Study, seed: int = 0) -> dict[str, dict[str, float]]:
    """By method, what validation scenes choose: the score from which on to believe it, at the highest F1, and for
    components the least number of pixels, at the highest mask AP50; with what they came to."""
    scenes = [*map(instances.dataset("val").__getitem__, range(instances.SPLITS["val"]))]
    truth = [objects(coded) for _, coded in scenes]
    network, fcn = instances.detector(study, seed), study.network("fcn8s", seed)
    with torch.inference_mode():
        logits = [fcn(image[None])[0] for image, _ in scenes]
    trials = [(instances.METHODS[0], 0, [instances.detected(network, image) for image, _ in scenes])]
    trials += [(instances.METHODS[1], n, [instances.components(each, n) for each in logits]) for n in LEAST]
    every, chosen = instances.true_rows(truth), dict[str, dict[str, float]]()
    for method, least, found in trials:
        rows = instances.found_rows(found, truth)
        ap = float(instances.mean_ap(rows, every, torch.ones(len(scenes), dtype=torch.double)))
        score, f1 = instances.best_score(rows, every)
        if ap > chosen.get(method, {"ap50": -1.0})["ap50"]:
            chosen[method] = {"least": least, "ap50": ap, "score": score, "f1": f1}
    return chosen


if __name__ == "__main__":
    train(studies.get("digits"))
