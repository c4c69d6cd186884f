"""Fit a study's networks: `python -m gpcore.training digits`. Runs resume from their last epoch."""

import argparse
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision import tv_tensors
from torchvision.models import VGG16_Weights, vgg16
from torchvision.transforms import v2
from tqdm.auto import tqdm

from gpcore import experiments, metrics, paths, weights
from gpcore.networks import FCN, load_imagenet_vgg16
from gpcore.studies import Data, Recipe, Study, study


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
        yield torch.stack(images), torch.stack(labels)


def fit(
    network: FCN,
    data: Data,
    recipe: Recipe,
    *,
    void: int,
    checkpoint: Path,
    seed: int = 0,
    device: str = "cpu",
) -> tuple[FCN, list[float]]:
    """Trains `network` on `data`; returns the averaged network in eval mode and the mean loss of every epoch.

    After each epoch everything needed to go on is written to `checkpoint`; a run that finds one continues there and
    ends in the same weights as one that was never interrupted.
    """
    network.to(device).train()
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(not name.startswith(recipe.frozen))
        rate = recipe.trunk_rate if recipe.trunk_rate and name.startswith("conv") else recipe.rate
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


def train(chosen: Study, seed: int = 0, device: str = "cpu") -> None:
    """Fits the shared trunk and heads, stores them, then scores each stride and chooses its epsilon on "val"."""
    torch.manual_seed(seed)
    network = chosen.build(len(chosen.classes), 8)
    if chosen.pretrained:
        load_imagenet_vgg16(network, imagenet_features())
    name = chosen.weights(seed)
    checkpoint = paths.DATA / "checkpoints" / f"{name.replace('/', '-')}.pt"
    trained, history = fit(
        network,
        chosen.dataset("train"),
        chosen.recipe,
        void=chosen.void,
        checkpoint=checkpoint,
        seed=seed,
        device=device,
    )
    info = {"study": chosen.name, "seed": seed, "recipe": dataclasses.asdict(chosen.recipe), "loss": history}
    weights.save(name, trained.cpu().state_dict(), info, half=chosen.half)
    weights.update(name, networks={stride: tune(chosen, stride) for stride in chosen.networks})


def imagenet_features() -> dict[str, Tensor]:
    """torchvision's VGG16 features, IMAGENET1K_V1: from data/pretrained if they lie there, else downloaded."""
    local = paths.DATA / "pretrained" / "vgg16_features.safetensors"
    if local.is_file():
        return load_file(local)
    features: dict[str, Tensor] = vgg16(weights=VGG16_Weights.IMAGENET1K_V1).features.state_dict()
    return features


def tune(chosen: Study, name: str) -> dict[str, object]:
    """Validation mIoU of a network alone and over the study's epsilons, and the epsilon that does best."""
    counts = experiments.sweep_counts(chosen, name, "val", (0.0, *chosen.epsilons))
    scores = (100 * metrics.miou(counts.sum(1))).tolist()
    best = max(zip(scores[1:], chosen.epsilons, strict=True))[1]
    return {"epsilon": best, "val": scores[0], "sweep": dict(zip(map(str, chosen.epsilons), scores[1:], strict=True))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=study, help="digits or camvid")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    train(args.study, args.seed, args.device)


if __name__ == "__main__":
    main()
