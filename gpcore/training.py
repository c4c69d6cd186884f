"""Fit a study's networks: `python -m gpcore.training digits --only unet`. Runs resume from their last epoch."""

import argparse
import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision import tv_tensors
from torchvision.models import VGG16_Weights, vgg16
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.transforms import v2
from tqdm.auto import tqdm

from gpcore import experiments, metrics, neighbours, paths, weights
from gpcore.crf import CRFRNN
from gpcore.networks import Trunk, load_imagenet_vgg16
from gpcore.studies import STUDIES, Data, Recipe, Study, study

LAYER_FACTORS = (0.001, 0.003, 0.01, 0.03)  # of a layer's scale: the epsilons tried there


def class_weights(recipe: Recipe) -> Tensor | None:
    """Class weights of mean 1 over pixels, or None when the loss is plain."""
    if not recipe.balance:
        return None
    frequency = torch.tensor(recipe.frequencies) / sum(recipe.frequencies)
    weight = frequency**-recipe.balance
    return weight / (frequency * weight).sum()


def segmentation_loss(outputs: list[Tensor], labels: Tensor, weight: Tensor | None, void: int) -> Tensor:
    """Mean over heads of the (class-weighted) cross-entropy, averaged over the batch's non-void pixels."""
    labels = labels.masked_fill(labels == void, -100)
    return torch.stack([nn.functional.cross_entropy(out, labels, weight) for out in outputs]).mean()


def augment(image: Tensor, labels: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """A random square crop of `recipe.crop` pixels after a random rescaling, flip and colour jitter; labels follow."""
    if recipe.crop is None:
        return image, labels
    height, width = image.shape[-2:]
    low, high = recipe.scale
    side = min(round(recipe.crop / (low * (high / low) ** torch.rand(()).item())), height)
    top, left = (int(torch.randint(extent - side + 1, ())) for extent in (height, width))
    crop = v2.Lambda(lambda x: v2.functional.resized_crop(x, top, left, side, side, [recipe.crop, recipe.crop]))
    pair = crop(tv_tensors.Image(image)), crop(tv_tensors.Mask(labels))
    image, labels = v2.Compose([v2.RandomHorizontalFlip(), v2.ColorJitter(0.3, 0.3, 0.3)])(*pair)
    return image.as_subclass(Tensor), labels.as_subclass(Tensor)


def batches(data: Data, recipe: Recipe) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch: `recipe.samples` items of `data` in random order, augmented and stacked."""
    order = torch.randperm(len(data))[: recipe.samples].tolist()  # type: ignore[arg-type]
    for start in range(0, recipe.samples, recipe.batch):
        pairs = [augment(*data[i], recipe) for i in order[start : start + recipe.batch]]
        images, labels = zip(*pairs, strict=True)
        stacked = torch.stack(images)
        if recipe.mirror:
            stacked = torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, stacked, stacked.flip(-1))
        yield stacked, torch.stack(labels)


def fit(
    network: Trunk | CRFRNN,
    data: Data,
    recipe: Recipe,
    *,
    void: int,
    checkpoint: Path,
    started: Iterable[str] = (),
    seed: int = 0,
    device: str = "cpu",
) -> tuple[nn.Module, list[float]]:
    """Trains `network` on `data`; returns the averaged network in eval mode and the mean loss of every epoch.

    `started` names the parameters that do not start from scratch. After each epoch everything needed to go on is
    written to `checkpoint`; a run that finds one continues there and ends in the same weights as one that was never
    interrupted.
    """
    network.to(device).train()
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not name.startswith(recipe.frozen))
        rate = recipe.start_rate if recipe.start_rate and name in started else recipe.rate
        if parameter.requires_grad:
            groups.setdefault(rate, []).append(parameter)
    optimizer = torch.optim.AdamW([{"params": group} for group in groups.values()], weight_decay=recipe.weight_decay)
    steps = -(-recipe.samples // recipe.batch)
    schedule = OneCycleLR(optimizer, list(groups), total_steps=steps * recipe.epochs, pct_start=0.15)
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(recipe.average), use_buffers=True)
    parts: dict[str, Any] = {"network": network, "averaged": averaged, "optimizer": optimizer, "schedule": schedule}
    history: list[float] = []
    if checkpoint.is_file():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        history = state.pop("history")
        for key, part in parts.items():
            part.load_state_dict(state[key])
    weight = class_weights(recipe)
    weight = None if weight is None else weight.to(device)
    for epoch in range(len(history), recipe.epochs):
        total = 0.0
        with torch.random.fork_rng():
            torch.manual_seed(seed * 10_000 + epoch)
            for images, labels in tqdm(batches(data, recipe), total=steps, desc=f"epoch {epoch + 1}/{recipe.epochs}"):
                loss = segmentation_loss(network.supervised(images.to(device)), labels.to(device), weight, void)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                averaged.update_parameters(network)
                total += loss.item() * len(images) / recipe.samples
        history.append(total)
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        torch.save(
            {name: part.state_dict() for name, part in parts.items()} | {"history": history}, f"{checkpoint}.part"
        )
        os.replace(f"{checkpoint}.part", checkpoint)
        print(f"epoch {epoch + 1}/{recipe.epochs}: loss {total:.4f}", flush=True)
    network.load_state_dict(averaged.module.state_dict())
    return network.eval(), history


def train(chosen: Study, store: str, seed: int = 0, device: str = "cpu") -> None:
    """Fits the network kept in `store` and saves it, then chooses the settings of all that share it on "val"."""
    sharing = [name for name, network in chosen.networks.items() if network.store == store]
    planned = chosen.networks[sharing[-1]]
    torch.manual_seed(seed)
    network: Any = planned.build(len(chosen.classes))
    started = start(network, planned.start, chosen, seed)
    name = chosen.weights(sharing[-1], seed)
    checkpoint = paths.DATA / "checkpoints" / f"{name.replace('/', '-')}.pt"
    trained, history = fit(
        network,
        chosen.dataset("train"),
        planned.recipe,
        void=chosen.void,
        checkpoint=checkpoint,
        started=started,
        seed=seed,
        device=device,
    )
    info = {"study": chosen.name, "seed": seed, "recipe": dataclasses.asdict(planned.recipe), "loss": history}
    base = f"{chosen.name}/{planned.start}-seed{seed}" if planned.start not in ("", "imagenet") else ""
    weights.save(name, trained.cpu().state_dict(), info, half=True, base=base)
    weights.update(name, networks={each: tune(chosen, each, seed) for each in sharing})


def start(network: nn.Module, source: str, chosen: Study, seed: int) -> set[str]:
    """Copies what fits of a store's weights, or ImageNet's, into `network`; returns the names of those parameters."""
    if source == "imagenet":
        load_imagenet_vgg16(network, imagenet_features())  # type: ignore[arg-type]
        return {name for name, _ in network.named_parameters() if name.startswith("conv")}
    given = weights.load(f"{chosen.name}/{source}-seed{seed}") if source else {}
    inner = network.network if isinstance(network, CRFRNN) else network
    fitting = {key: value for key, value in given.items() if key in inner.state_dict()}
    inner.load_state_dict(fitting, strict=False)
    prefix = "network." if isinstance(network, CRFRNN) else ""
    return {prefix + key for key in fitting}


def imagenet_features() -> dict[str, Tensor]:
    """torchvision's VGG16 features, IMAGENET1K_V1: from data/pretrained if they lie there, else downloaded."""
    local = paths.DATA / "pretrained" / "vgg16_features.safetensors"
    if local.is_file():
        return load_file(local)
    features: dict[str, Tensor] = vgg16(weights=VGG16_Weights.IMAGENET1K_V1).features.state_dict()
    return features


def tune(chosen: Study, name: str, seed: int = 0) -> dict[str, object]:
    """What does best on validation images: the network's epsilon, and the CRF put on its scores where there is a grid.

    With them the scores (mIoU of 100) over the whole sweep, `val` being the network alone. For a classifier, see
    `neighbours.choose`.
    """
    if chosen.networks[name].features:
        return neighbours.choose(chosen, name)
    base, best, sweep = choose(chosen, name, chosen.epsilons, seed=seed)
    found: dict[str, object] = {"epsilon": best, "val": base, "sweep": sweep}
    if seed:
        return found
    if chosen.networks[name].layers:
        _, best, sweep = choose(chosen, name, chosen.epsilons, signal="entropy", count=chosen.images["val"] // 2)
        found["entropy"] = {"epsilon": best, "sweep": sweep}
    for layer in chosen.networks[name].layers:
        epsilons = [float(f"{factor * layer_scale(chosen, name, layer):.2g}") for factor in LAYER_FACTORS]
        _, best, sweep = choose(chosen, name, epsilons, at=layer, count=chosen.images["val"] // 2)
        found[layer] = {"epsilon": best, "sweep": sweep}
    if chosen.crfs:
        counts = experiments.crf_grid_counts(chosen, name, "val", chosen.images["val"] // 4)
        scores = (100 * metrics.miou(counts.sum(1))).tolist()
        grid = {json.dumps(crf): round(score, 4) for crf, score in zip(chosen.crfs, scores, strict=True)}
        found |= {"crf": chosen.crfs[scores.index(max(scores))], "grid": grid}
    return found


def choose(
    chosen: Study,
    name: str,
    epsilons: Sequence[float],
    *,
    at: str | None = None,
    signal: str = "ce",
    count: int | None = None,
    seed: int = 0,
) -> tuple[float, float, dict[str, float]]:
    """Validation mIoU of the network alone, the best of `epsilons`, and the mIoU of each."""
    options: dict[str, Any] = {"at": at, "signal": signal, "count": count, "seed": seed}
    counts = experiments.sweep_counts(chosen, name, "val", (0.0, *epsilons), **options)
    base, *scores = (round(score, 4) for score in (100 * metrics.miou(counts.sum(1))).tolist())
    return base, max(zip(scores, epsilons, strict=True))[1], dict(zip(map(str, epsilons), scores, strict=True))


def layer_scale(chosen: Study, name: str, layer: str) -> float:
    """Root mean square of a layer's activations on a few validation images: the unit of its epsilons."""
    with torch.no_grad():
        network = create_feature_extractor(chosen.network(name), [layer])
        squares = [network(x)[layer].square().mean() for x, _ in chosen.batches("val", 5)]
    return torch.stack(squares).mean().sqrt().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=study, help=", ".join(STUDIES))
    parser.add_argument("--only", nargs="+", metavar="STORE", help="fcn deeplab ...; default: all, one after the other")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    stores = dict.fromkeys(network.store for network in args.study.networks.values())
    for store in args.only or stores:
        if store not in stores:
            parser.error(f"--only: got {store!r}, expected some of {', '.join(stores)}")
        train(args.study, store, args.seed, args.device)


if __name__ == "__main__":
    main()
