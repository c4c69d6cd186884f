"""Where a guided step helps: one network under other temperatures, priors, noise and trainings, beside the others."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from gpcore import metrics
from gpcore.companion import studies
from gpcore.companion.experiments.when_does_it_help import islands
from gpcore.companion.measure import count_pixels
from gpcore.companion.studies import Study
from gpcore.datasets.corruptions import corrupt
from gpcore.perturb import guide


class Setting(NamedTuple):
    """A network as a guided step meets it: what is varied, its epsilon, and the severity of noise on the images."""

    kind: str
    network: nn.Module
    epsilon: float
    noise: int = 0


class Adjusted(nn.Module):
    """`model` with its logits at another temperature, or less a share of the log prior (Menon et al., ICLR 2021):
    (z - share log prior) / temperature.  Logits B x K x h x w, prior K."""

    def __init__(
        self, model: nn.Module, *, temperature: float = 1.0, prior: Tensor | None = None, share: float = 1.0
    ) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature
        self.offset = 0.0 if prior is None else share * prior.log().view(-1, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = (self.model(images) - self.offset) / self.temperature
        return logits


def settings(chosen: Study, name: str) -> dict[str, Setting]:
    """Every network of the study; `name` at other temperatures, priors and noise, and its shorter trainings if any."""
    epsilon, network = chosen.epsilon(name), chosen.network(name)
    covers = [y[y != chosen.void].bincount(minlength=len(chosen.classes)) for _, y in chosen.batches("val", 20)]
    prior = torch.stack(covers).sum(0) / torch.stack(covers).sum()
    shorter = chosen.tasks.get("shorter_trainings")

    def own(kind: str, of: Study) -> dict[str, Setting]:
        return {each: Setting(kind, of.network(each), of.epsilon(each)) for each in of.networks}

    def adjusted(kind: str, **options: Any) -> Setting:
        return Setting(kind, Adjusted(network, **options), epsilon)

    return {
        **own("network", chosen),
        **{f"temperature {each:g}": adjusted("temperature", temperature=each) for each in (0.25, 4.0)},
        "prior + 0.5": adjusted("prior", prior=prior, share=-0.5),
        "prior − 1": adjusted("prior", prior=prior),
        **{f"noise {severity}": Setting("noise", network, epsilon, severity) for severity in (1, 3)},
        **(own("training", studies.get(shorter)) if shorter else {}),
    }


def measure(chosen: Study, tried: Mapping[str, Setting], split: str, count: int) -> pd.DataFrame:
    """Per setting: base mIoU, gain with its interval, and what may explain it.

    `entropy` is the mean over pixels before the step (nats); `to_frequent` the share of changed pixels that go to the
    class which covers more of the image; `from_islands` the share that lay in islands (per cent).
    """
    rows = []
    for label, setting in tried.items():
        counts, seen, generator = [], [], torch.Generator().manual_seed(0)
        for clean, y in chosen.batches(split, count):
            x = corrupt(clean, "noise", setting.noise, seed=generator) if setting.noise else clean
            done = guide(setting.network, x, setting.epsilon)
            counts.append(torch.stack([count_pixels(chosen, z, y) for z in done.trajectory]))
            was, now = (z.argmax(1) for z in done.trajectory)
            covers = torch.stack([image.flatten().bincount(minlength=len(chosen.classes)) for image in was])
            sizes = [torch.stack([c[m] for c, m in zip(covers, maps, strict=True)]) for maps in (was, now)]
            log_y = done.before.log_softmax(1)
            entropy = -(log_y.exp() * log_y).sum(1).mean((1, 2))
            parts = (was != now, (was != now) & (sizes[1] > sizes[0]), (was != now) & islands(was))
            seen.append(torch.stack([entropy, *(part.sum((1, 2)) for part in parts)]))
        before, after = torch.cat(counts, 1)
        entropy, changed, frequent, island = torch.cat(seen, 1)
        base, pixels = 100 * metrics.miou(before.sum(0)).item(), changed.sum().item() / y[0].numel() / len(before) * 100
        shares = (100 * (part.sum() / changed.sum().clamp_min(1)).item() for part in (frequent, island))
        rows.append((label, setting.kind, base, *metrics.gain(before, after), entropy.mean().item(), pixels, *shares))
    columns = ["setting", "kind", "base", "gain", "low", "high", "entropy", "changed", "to_frequent", "from_islands"]
    return pd.DataFrame(rows, columns=columns)


def correlations(rows: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Spearman's rank correlation of the gain with other columns of `measure`, with p of a test against none."""
    found = {column: spearmanr(rows[column], rows["gain"]) for column in columns}
    return pd.DataFrame({c: {"rank correlation": r.statistic, "p": r.pvalue} for c, r in found.items()}).T
