"""Fit a study's networks: `python -m gpcore.companion.training digits --only unet`; resumes from the last epoch."""

import argparse
import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.models import VGG16_Weights, vgg16
from tqdm.auto import tqdm

from gpcore import denoise, paths
from gpcore.attacks import pgd
from gpcore.checks import expect
from gpcore.companion import epochs, studies, tuning, weights
from gpcore.companion.studies import Attack, Recipe, Refiner, Study
from gpcore.networks.vgg import load_imagenet_vgg16

Seen = dict[tuple[str, str | None, int, bool], list[epochs.Item]]  # what refiners of one kind learn from


def class_weights(recipe: Recipe, device: str = "cpu") -> Tensor | None:
    """Class weights of mean 1 over pixels, or None when the loss is plain."""
    if not recipe.balance:
        return None
    frequency = torch.tensor(recipe.frequencies) / sum(recipe.frequencies)
    weight = frequency**-recipe.balance
    return (weight / (frequency * weight).sum()).to(device)


def adversarial(network: nn.Module, images: Tensor, labels: Tensor, attack: Attack | None, void: int) -> Tensor:
    """A batch with its first images, a share `attack.ratio`, moved by PGD to raise the network's loss on their labels.

    The loss is the plain cross-entropy of what the network answers in evaluation mode, as it will when attacked: so an
    image's example depends neither on its batch nor on dropout, and running statistics see none of the attack's steps.
    Random starts follow torch's global seed.  Raises ValueError: a ratio outside [0, 1], or what `pgd` refuses.
    """
    options = dataclasses.asdict(attack) if attack else {"ratio": 0.0}
    ratio, mode = options.pop("ratio"), network.training
    expect("ratio", ratio, 0 <= ratio <= 1, "0 <= ratio <= 1")
    count = round(ratio * len(images))
    if not count:
        return images
    seed = int(torch.randint(2**31, ()))
    moved = pgd(network.eval(), images[:count], labels[:count], **options, void=void, seed=seed).images
    network.train(mode)
    return torch.cat([moved, images[count:]])


def fit(
    network: nn.Module,
    epoch: Callable[[], Iterable[tuple[Tensor, ...]]],
    objective: Callable[..., Tensor],
    recipe: Recipe,
    *,
    checkpoint: Path,
    identity: Mapping[str, object] | None = None,
    started: Iterable[str] = (),
    seed: int = 0,
    device: str = "cpu",
) -> tuple[nn.Module, list[float]]:
    """Trains `network`, which `objective` runs; returns it averaged, in eval mode, and the mean loss of every epoch.

    `epoch` begins one: batches of tensors, which become the arguments of `objective`. `started` names the parameters
    that do not start from scratch. After each epoch everything needed to go on is written to `checkpoint`; a run that
    finds one continues there and ends in the same weights as one that was never interrupted.
    Raises ValueError: a checkpoint of another name, recipe, seed or `identity`: what else the weights depend on.
    """
    network.to(device).train()
    if recipe.bfloat16:
        network.to(memory_format=torch.channels_last)
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
    plan = {**dataclasses.asdict(recipe), "seed": seed, "store": checkpoint.stem, **(identity or {})}
    if checkpoint.is_file():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        history, found = state["history"], state.get("plan", {})
        differ = [key for key in {**plan, **found} if found.get(key) != plan.get(key)]
        got, wanted = (", ".join(f"{key} {each.get(key)!r}" for key in differ) for each in (found, plan))
        expect(str(checkpoint), got, not differ, f"{wanted}; remove it to start anew")
        for key, part in parts.items():
            part.load_state_dict(state[key])
    for number in range(len(history), recipe.epochs):
        total = 0.0
        with torch.random.fork_rng():
            torch.manual_seed(seed * 10_000 + number)
            for batch in tqdm(epoch(), total=steps, desc=f"epoch {number + 1}/{recipe.epochs}"):
                with torch.autocast(device, torch.bfloat16, enabled=recipe.bfloat16):
                    loss = objective(*(part.to(device) for part in batch))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                averaged.update_parameters(network)
                total += loss.item() * len(batch[0]) / recipe.samples
        history.append(total)
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        state = {name: part.state_dict() for name, part in parts.items()}
        torch.save(state | {"history": history, "plan": plan}, f"{checkpoint}.part")
        os.replace(f"{checkpoint}.part", checkpoint)
        print(f"epoch {number + 1}/{recipe.epochs}: loss {total:.4f}", flush=True)
    network.load_state_dict(averaged.module.state_dict())
    return network.eval(), history


def train(chosen: Study, store: str, seed: int = 0, device: str = "cpu", seen: Seen | None = None) -> None:
    """Fits the network or refiner kept in `store` and saves it, then tunes all that share it on "val".

    `seen` is for refiners, see `candidates`.
    """
    networks = {**chosen.networks, **chosen.robust}
    sharing = [name for name, network in networks.items() if network.store == store] or [store]
    plan, name = chosen.plan(sharing[-1]), chosen.stored_as(sharing[-1], seed)
    file = paths.DATA / "checkpoints" / f"{name.replace('/', '-')}.pt"
    torch.manual_seed(seed)
    network = plan.build(len(chosen.classes))
    recipe, base, started, facts = plan.recipe, "", set[str](), dict[str, Any]()
    weight = class_weights(recipe, device)
    if isinstance(plan, Refiner):
        facts["refiner"] = {field: getattr(plan, field) for field in ("network", "at", "images", "sigma", "truth")}
        epoch = partial(epochs.batches, candidates(chosen, store, seen), recipe, epochs.cut)
        objective = partial(refiner_loss, network, plan, weight, chosen.void)
    else:
        beside = plan.start if "/" in plan.start else f"{chosen.name}/{plan.start}"
        trunk = seed if weights.known(f"{beside}-seed{seed}") else 0  # whose other trainings may not have been kept
        base = "" if plan.start in ("", "imagenet") else f"{beside}-seed{trunk}"
        started = start(network, base or plan.start)
        vary = partial(epochs.augment, void=chosen.void)
        epoch = partial(epochs.batches, (plan.dataset or chosen.dataset)("train"), recipe, vary)
        objective = partial(network_loss, network, recipe.attack, weight, chosen.void)
    trained, history = fit(
        network, epoch, objective, recipe, checkpoint=file, identity=facts, started=started, seed=seed, device=device
    )
    info = {"study": chosen.name, "seed": seed, "recipe": dataclasses.asdict(recipe), "loss": history} | facts
    weights.save(name, trained.cpu().state_dict(), info, base=base)
    if isinstance(plan, Refiner):
        weights.update(name, networks={store: tuning.tune_refiner(chosen, store)})
    elif not plan.dataset:  # for a task of its own there is nothing to choose
        weights.update(name, networks={each: tuning.tune(chosen, each, seed) for each in sharing})
    file.unlink()  # at last: what is killed before need not be trained again


def supervised(network: nn.Module, images: Tensor) -> list[Tensor]:
    """The logits that the loss is put on: of all its heads where a network says by `supervised` that it has several."""
    heads = getattr(network, "supervised", None)
    return heads(images) if heads else [network(images)]


def network_loss(
    network: nn.Module, attack: Attack | None, weight: Tensor | None, void: int, images: Tensor, labels: Tensor
) -> Tensor:
    """Mean over heads of the (class-weighted) cross-entropy, averaged over the batch's non-void pixels."""
    heads = supervised(network, adversarial(network, images, labels, attack, void))
    return torch.stack([nn.functional.cross_entropy(out, labels, weight, ignore_index=void) for out in heads]).mean()


def refiner_loss(
    network: nn.Module, plan: Refiner, weight: Tensor | None, void: int, y: Tensor, h: Tensor, labels: Tensor
) -> Tensor:
    given = denoise.one_hot(labels, y.shape[1], void) if plan.truth else y
    return denoise.reconstruction_loss(network(given + plan.sigma * torch.randn_like(given), h), labels, void, weight)


def candidates(chosen: Study, name: str, seen: Seen | None = None) -> list[epochs.Item]:
    """What a refiner learns from, for each of its training images: the prediction y and the features h of its network,
    in half precision, and the labels in 8 bits. With `recipe.mirror`, the mirrored images follow.

    `seen` holds what the last refiner of the study learned from, until another needs something else.
    """
    refiner, seen = chosen.refiners[name], {} if seen is None else seen
    key = (refiner.network, refiner.at, refiner.images, refiner.recipe.mirror)
    if key in seen:
        return seen[key]
    seen.clear()  # before the next: there is room for one
    network, kept = chosen.network(refiner.network), list[epochs.Item]()
    for mirrored in (False, True)[: 1 + refiner.recipe.mirror]:
        for images, labels in chosen.batches("train", refiner.images):
            images, labels = (part.flip(-1) if mirrored else part for part in (images, labels))
            y, h = denoise.candidate(network, images, refiner.at)
            kept += zip(y.half(), h.half(), labels.byte(), strict=True)
    return seen.setdefault(key, kept)


def start(network: nn.Module, source: str) -> set[str]:
    """Copies what fits of saved weights, or "imagenet"'s, into `network`; returns the names of those parameters."""
    if source == "imagenet":
        load_imagenet_vgg16(network, imagenet_features())  # type: ignore[arg-type]
        return {name for name, _ in network.named_parameters() if name.startswith("conv")}
    given = weights.load(source) if source else {}
    names = {name: name.removeprefix("network.") for name in network.state_dict()}  # CRF-RNN's, which wraps another
    sizes = {name: value.shape for name, value in network.state_dict().items()}  # a head for other classes does not fit
    fitting = {n: given[known] for n, known in names.items() if known in given and given[known].shape == sizes[n]}
    network.load_state_dict(fitting, strict=False)
    return {*fitting}


def imagenet_features() -> dict[str, Tensor]:
    """torchvision's VGG16 features, IMAGENET1K_V1: from data/pretrained if they lie there, else downloaded."""
    local = paths.DATA / "pretrained" / "vgg16_features.safetensors"
    return (
        load_file(local) if local.is_file() else dict(vgg16(weights=VGG16_Weights.IMAGENET1K_V1).features.state_dict())
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", choices=studies.STUDIES)
    parser.add_argument("--only", nargs="+", metavar="STORE", help="fcn deeplab ...; default: all, one after the other")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    chosen = studies.get(args.study)
    networks = (*chosen.networks.values(), *chosen.robust.values())
    known = [*dict.fromkeys(each.store for each in networks), *chosen.refiners]
    seen = Seen()
    for store in args.only or known:
        if store not in known:
            parser.error(f"--only: got {store!r}, expected some of {', '.join(known)}")
        train(chosen, store, args.seed, args.device, seen)


if __name__ == "__main__":
    main()
