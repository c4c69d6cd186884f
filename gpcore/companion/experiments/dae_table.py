"""Notebooks 21 to 24: ways to refine a finished prediction: DAEs, the context module, CRFs."""

import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import TypeVar

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from gpcore import denoise, metrics
from gpcore.companion import weights
from gpcore.companion.cost import ALONE
from gpcore.companion.measure import Answer, once, with_crf
from gpcore.companion.report import tables
from gpcore.companion.report.panels import OKABE_ITO, PAGE
from gpcore.companion.studies import LABELS, Study

T = TypeVar("T")
Seen = Callable[[Tensor, str | None], tuple[Tensor, Tensor]]  # from images and the name of h's module to y and h
CRF, CONTEXT, CRF_RNN, DAE_TRUTH, DAE_Y = "+CRF", "+context module", "+CRF-RNN", "+DAE(ytrue)", "+DAE(y)"
JOINT = "+CRF-RNN, trained with the network"


def tuned_rows(study: Study, network: str) -> pd.DataFrame:
    """Every refiner of a network: its noise, its step size and steps, and its validation mIoU beside the network's."""
    rows = []
    for name, refiner in study.refiners.items():
        if refiner.network == network:
            tuned = study.tuned(name)
            rows.append((name, refiner.at, refiner.sigma, *(tuned[k] for k in ("epsilon", "steps", "val", "miou"))))
    return pd.DataFrame(rows, columns=["refiner", "h", "sigma", "epsilon", "steps", "alone", "refined"])


def best_dae(study: Study, network: str, source: str) -> str:
    """Of a network's DAEs trained on "y" or "truth", the one that does best on validation images."""
    names = [name for name in study.refiners if name.startswith(f"{network}-dae-{source}-")]
    return max(names, key=lambda name: study.tuned(name)["miou"])


def best_crfrnn(study: Study, network: str) -> str:
    """CRF-RNN on a network: put behind it, or trained with it, whichever does best on validation images."""
    scores = {name: study.tuned(name)["miou"] for name in study.refiners if name.startswith(f"{network}-crfrnn")}
    if not scores:
        return JOINT
    if network == "fcn8s":
        scores[JOINT] = study.tuned("crfrnn")["val"]
    return max(scores, key=lambda name: scores[name])


def by_sigma(study: Study, network: str) -> pd.DataFrame:
    """The DAEs of a network that differ in nothing but what they learn from, DAE(y) or DAE(ytrue), and in their noise:
    rows source, sigma, and the best validation mIoU less the network's."""
    rows = []
    for name, refiner in study.refiners.items():
        if match := re.fullmatch(rf"{network}-dae-(y|truth)-[0-9.]+", name):
            tuned = study.tuned(name)
            rows.append((f"DAE({match[1].replace('truth', 'ytrue')})", refiner.sigma, tuned["miou"] - tuned["val"]))
    return pd.DataFrame(rows, columns=["source", "sigma", "gain"])


VARIANTS = {
    "": "as it is",
    "-pool4": "h from pool4",
    "-unpooled": "unpooling with switches",
    "-far": "not near the identity",
    "-switches": "switches instead of skips",
    "-printed": "the paper's: all of these",
}


def ablation_rows(counts: Mapping[str, Tensor], name: str) -> pd.DataFrame:
    """What each ingredient of a DAE's design is worth, from counts of it and of those that differ from it in one, by
    their names: rows design, miou, its gain over the network alone, and what it loses beside the first, with
    intervals."""
    found = {title: counts[name + variant] for variant, title in VARIANTS.items() if name + variant in counts}
    first, *_ = found.values()
    gained = [
        (title, 100 * metrics.miou(each.sum(0)).item(), *metrics.gain(counts[ALONE], each))
        for title, each in found.items()
    ]
    beside = [metrics.gain(first, each) for each in found.values()]
    rows = pd.DataFrame(gained, columns=["design", "miou", *tables.GAIN])
    return rows.join(pd.DataFrame(beside, columns=["beside", "beside_low", "beside_high"]))


def gain_rows(counts: Mapping[str, Mapping[str, Tensor]], published: pd.DataFrame) -> pd.DataFrame:
    """Of every network's Table 1, by method: miou and its gain over the network alone with the interval, and the
    published gain; rows network (its label), method, miou, gain, low, high, paper."""
    rows = tables.gains_by("network", counts)
    mean = published.set_index(["network", "method"])["mean IoU"]
    alone = mean.xs(ALONE, level="method")
    rows["paper"] = [
        mean.get((name, method), math.nan) - alone[name] for name, method in rows[["network", "method"]].values
    ]
    return rows.assign(network=rows["network"].map(LABELS))


def learning_figure(losses: pd.DataFrame) -> Figure:
    """The loss over epochs, from `curves`: a panel for each kind of refiner, FC-DenseNet's dashed."""
    parts = losses["refiner"].str.extract(r"(?P<network>\w+?)-(?P<kind>dae-y|dae-truth|)-?(?P<name>.*)")
    rows = pd.concat([losses, parts], axis=1)
    titles = {"": "context module, CRF-RNN", "dae-y": "DAE(y), by σ", "dae-truth": "DAE(ytrue), by σ"}
    figure, panels = plt.subplots(1, 3, figsize=(PAGE, 2.4), layout="constrained")
    for axes, (kind, title) in zip(panels, titles.items(), strict=True):
        part = rows[rows["kind"] == kind]
        names = list(part["name"].unique())
        for pair, line in part.groupby(["network", "name"], sort=False):
            network, name = map(str, pair)
            dashed = "" if network == "fcn8s" else f", {LABELS[network]}"
            axes.plot(
                line["epoch"],
                line["loss"],
                "--" if dashed else "-",
                color=OKABE_ITO[names.index(name)],
                label=name + dashed,
            )
        axes.set(title=title, xlabel="epoch")
        if names:
            axes.legend(fontsize=6)
    panels[0].set_ylabel("mean training loss (eq. 5)")
    return figure


def curves(study: Study, network: str) -> pd.DataFrame:
    """The mean training loss of every epoch of a network's refiners: rows refiner, epoch, loss."""
    names = (name for name, refiner in study.refiners.items() if refiner.network == network)
    losses = {name: weights.info(study.stored_as(name))["loss"] for name in names}
    rows = [(name, epoch, loss) for name, each in losses.items() for epoch, loss in enumerate(each, 1)]
    return pd.DataFrame(rows, columns=["refiner", "epoch", "loss"])


def subject(study: Study) -> str:
    """Whose DAE(y) to look at: the paper's FCN-8s where it gains a point on validation images, else the network that
    gains most."""

    def gain(network: str) -> float:
        tuned = study.tuned(best_dae(study, network, "y"))
        return float(tuned["miou"] - tuned["val"])

    most = max(dict.fromkeys(refiner.network for refiner in study.refiners.values()), key=gain)
    return "fcn8s" if gain("fcn8s") >= 1 else most


def refined(study: Study, name: str, seen: Seen | None = None) -> Answer:
    """What a refiner with its own step size and steps makes of images, from its network's `seen`(images, at)."""
    refiner, tuned, module = study.refiners[name], study.tuned(name), study.network(name)
    seen = seen or functools.partial(denoise.candidate, study.network(refiner.network))

    def answer(x: Tensor) -> Tensor:
        y, h = seen(x, refiner.at)
        inferred = denoise.iterative_inference(denoise.given(module, h), y, tuned["epsilon"], steps=tuned["steps"])
        return inferred.trajectory[-1]

    return answer


def refinements(study: Study, network: str) -> dict[str, Answer]:
    """Ways to refine one network's prediction: the CRF, CRF-RNN where the study has one on that network, and every
    refiner under its own name. They share the passes of the network through the images that they are asked for last."""
    crf = study.tuned(network)["crf"]
    seen = once(functools.partial(denoise.candidate, study.network(network)))
    every: dict[str, Answer] = {
        ALONE: lambda x: seen(x, None)[0],
        CRF: lambda x: with_crf(seen(x, None)[0].log(), x, crf),
    }
    if network == "fcn8s":
        every[JOINT] = study.network("crfrnn")
    own = (name for name, refiner in study.refiners.items() if refiner.network == network)
    return every | {name: refined(study, name, seen) for name in own}


def table_one(study: Study, network: str, every: Mapping[str, T]) -> dict[str, T]:
    """Of something for each of `refinements`, Table 1's rows under its names: of the DAEs those that validation images
    chose."""
    daes = {DAE_TRUTH: best_dae(study, network, "truth"), DAE_Y: best_dae(study, network, "y")}
    rows = {ALONE: ALONE, CRF: CRF, CONTEXT: f"{network}-context", CRF_RNN: best_crfrnn(study, network), **daes}
    return {row: every[name] for row, name in rows.items() if name in every}
