"""What upsampling leaves behind, fields of dilated stacks, RoI pooling, and the cost of windows (notebook 40)."""

from collections.abc import Callable, Mapping, Sequence
from time import process_time
from timeit import timeit

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from gpcore import metrics
from gpcore.companion.cost import PeakMemory

Upsampler = Callable[[str, int, int], nn.Module]  # method, channels in and out: a layer that doubles height and width
METHODS = ("transposed, k = 3", "transposed, k = 4", "nearest + conv", "bilinear + conv")
STEPS = (0, 10, 25, 50, 100)
SIDE = 48  # of the pictures that decoders learn


def flat_share(out: Tensor, period: int = 2) -> float:
    """Share in [0, 1] of the energy of ... x H x W that repeats with the period and is not flat; borders cut off."""
    inner = out[..., 4 * period : -4 * period, 4 * period : -4 * period]
    rows, columns = (side // period * period for side in inner.shape[-2:])
    inner = inner[..., :rows, :columns].double()
    return float((inner - inner.mean((-2, -1), keepdim=True)).square().sum() / inner.square().sum())


def spectrum(picture: Tensor) -> Tensor:
    """H x W power of C x H x W under a Hann window, summed over channels, frequency 0 in the corner; sums to 1."""
    x = picture.double() - picture.double().mean((-2, -1), keepdim=True)
    rows, columns = (torch.hann_window(side, dtype=torch.double) for side in x.shape[-2:])
    power = torch.fft.fft2(x * rows[:, None] * columns).abs().square().sum(0)
    whole: Tensor = power / power.sum()
    return whole


def comb_share(picture: Tensor, *, reach: int = 4) -> float:
    """Share of a picture's variance that alternates from pixel to pixel, beyond what its surroundings let one expect.

    At the frequencies (0, 1/2), (1/2, 0), (1/2, 1/2): the power of 3 x 3 bins (a Hann window smears a line over them)
    less nine times the mean of those around them, up to `reach` bins away. C x H x W, sides even; negative for a hole.
    """
    power, size = spectrum(picture), 2 * reach + 1
    half = [side // 2 for side in power.shape]
    total = 0.0
    for y, x in ((half[0], 0), (0, half[1]), (half[0], half[1])):
        near = power.roll((reach - y, reach - x), (0, 1))[:size, :size]
        inner, outer = (near[reach - i : reach + i + 1, reach - i : reach + i + 1].sum() for i in (1, 2))
        total += float(inner - 9 * (near.sum() - outer) / (size**2 - 25))
    return total


def kernel_rows(methods: Mapping[str, tuple[int, Callable[[Tensor, Tensor], Tensor]]], seeds: int) -> pd.DataFrame:
    """What each method makes of a flat map: the share of energy that repeats every two pixels, in per cent.

    One channel, `seeds` kernels each with equal weights, with weights uniform in [0, 1] and normal around 0; `methods`
    map a name to its kernel's side and a function of map and kernel.
    """
    draws: Mapping[str, Callable[..., Tensor]] = {
        "all weights equal": lambda *size, **how: torch.ones(size, dtype=torch.double),
        "random, positive": torch.rand,
        "random around zero": torch.randn,
    }
    flat, rows = torch.ones(1, 1, 16, 16, dtype=torch.double), []
    for kernels, draw in draws.items():
        for method, (side, layer) in methods.items():
            source = torch.Generator().manual_seed(0)
            for seed in range(seeds):
                kernel = draw(1, 1, side, side, generator=source, dtype=torch.double)
                rows.append((method, kernels, seed, 100 * round(flat_share(layer(flat, kernel)), 12)))
    return pd.DataFrame(rows, columns=["method", "kernels", "seed", "share"])


def patches(pictures: Sequence[Tensor], count: int, *, side: int = SIDE) -> Tensor:
    """`count` random squares of 3 x H x W pictures, each picture in turn: count x 3 x side x side, double precision."""
    source = torch.Generator().manual_seed(0)
    found = []
    for i in range(count):
        picture = pictures[i % len(pictures)]
        y, x = (int(torch.randint(n - side + 1, (1,), generator=source)) for n in picture.shape[1:])
        found.append(picture[:, y : y + side, x : x + side].double())
    return torch.stack(found)


def decoder(layer: Upsampler, method: str, *, width: int = 8, code: int = 16) -> nn.Sequential:
    """From noise to a picture four times as large: twice `layer` and a ReLU, then a 1x1 convolution to colours."""
    stages = [layer(method, code, width), nn.ReLU(), layer(method, width, width), nn.ReLU()]
    return nn.Sequential(*stages, nn.Conv2d(width, 3, 1)).double()


def fit_rows(layer: Upsampler, targets: Tensor, *, rate: float = 1e-2) -> tuple[pd.DataFrame, dict[str, Tensor]]:
    """Decoders that learn one picture each by Adam from a fixed noise, one for each method and target.

    Returns rows of method, unit, step, error and `share` (per cent, `comb_share` less that of the target), and for each
    method the output at all STEPS, units x steps x 3 x H x W.
    """
    rows, drawn, threads = [], {}, torch.get_num_threads()
    torch.set_num_threads(1)  # more would cost tensors of this size more than they give
    own = [comb_share(target) for target in targets]
    for method in METHODS:
        shown = []
        for unit, target in enumerate(targets):
            torch.manual_seed(unit)
            network, code = decoder(layer, method), torch.randn(1, 16, SIDE // 4, SIDE // 4).double()
            optimizer = torch.optim.Adam(network.parameters(), lr=rate)
            for step in range(STEPS[-1] + 1):
                out = network(code)[0]
                loss = F.mse_loss(out, target)
                if step in STEPS:
                    shown.append(out.detach())
                    share = 100 * (comb_share(out.detach()) - own[unit])
                    rows.append((method, unit, step, float(loss.detach()), share))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        drawn[method] = torch.stack(shown).unflatten(0, (len(targets), len(STEPS)))
    torch.set_num_threads(threads)
    return pd.DataFrame(rows, columns=["method", "unit", "step", "error", "share"]), drawn


def tenth(rows: pd.DataFrame, method: str) -> metrics.Interval:
    """A tenth of the first of METHODS' share at the last step less that of another, paired over units."""
    last = rows[rows["step"] == STEPS[-1]].pivot(index="unit", columns="method", values="share")
    return metrics.mean(torch.tensor((0.1 * last[METHODS[0]] - last[method]).to_numpy()))


def stack(dilations: Sequence[int], *, width: int = 1, inputs: int = 1, classes: int = 1) -> nn.Sequential:
    """3x3 convolutions without padding, dilated as told, ReLUs between, all `width` channels; the last to `classes`."""
    layers: list[nn.Module] = []
    for i, dilation in enumerate(dilations):
        last = i == len(dilations) - 1
        outputs = classes if last else width
        layers += [nn.Conv2d(inputs if i == 0 else width, outputs, 3, dilation=dilation), *[nn.ReLU()] * (not last)]
    return nn.Sequential(*layers)


def ones(module: nn.Module) -> nn.Module:
    """The module in double precision with all parameters one: then the output's gradient counts the paths to it."""
    for parameter in module.double().parameters():
        nn.init.ones_(parameter)
    return module


def paths(layer: Callable[[Tensor], Tensor], inputs: int = 1, *, side: int = 75) -> Tensor:
    """The gradient at the input, side x side of the first channel, of the middle of `layer`'s first output channel."""
    x = torch.ones(1, inputs, side, side, dtype=torch.double, requires_grad=True)
    out = layer(x)
    middle = out[0, 0, out.shape[2] // 2, out.shape[3] // 2]
    return torch.autograd.grad(middle, x)[0][0, 0]


def multiply_adds(task: Callable[[], object]) -> int:
    """The multiplications of convolutions and matrix products, each with its addition, that a task executes."""
    with FlopCounterMode(display=False) as counter:
        task()
    return int(counter.get_total_flops()) // 2


def convolutional(classifier: nn.Sequential, side: int) -> nn.Sequential:
    """A classifier of pictures that reach its `flat` layer with side x side places, as convolutions throughout."""
    layers: list[nn.Module] = []
    for layer in classifier:
        if isinstance(layer, nn.Linear):
            k = 1 if any(isinstance(each, nn.Conv2d) and each.kernel_size == (side, side) for each in layers) else side
            conv = nn.Conv2d(layer.in_features // k**2, layer.out_features, k)
            conv.load_state_dict({"weight": layer.weight.view_as(conv.weight), "bias": layer.bias})
            layers.append(conv)
        elif not isinstance(layer, nn.Flatten | nn.Dropout):
            layers.append(layer)
    return nn.Sequential(*layers).eval()


def windows(picture: Tensor, side: int, stride: int) -> Tensor:
    """All windows of a C x H x W picture, N x C x side x side, row by row."""
    return picture.unfold(1, side, stride).unfold(2, side, stride).permute(1, 2, 0, 3, 4).flatten(0, 1)


def training_cost(networks: Mapping[str, nn.Module], images: Tensor) -> pd.DataFrame:
    """Per network: parameters, and the multiply-adds and peak bytes of one forward and backward pass."""
    rows = []
    for name, network in networks.items():

        def task(network: nn.Module = network) -> None:
            network(images).sum().backward()

        with PeakMemory() as memory:
            task()
        network.zero_grad()
        weights = sum(parameter.numel() for parameter in network.parameters())
        rows.append((name, weights, multiply_adds(task) / 1e6, memory.peak / 1e6))
    return pd.DataFrame(rows, columns=["network", "parameters", "million_multiply_adds", "megabytes"])


def milliseconds(tasks: Mapping[str, Callable[[], object]], *, repeats: int = 5) -> pd.DataFrame:
    """Processor time on one thread: medians over rounds in which every task has its turn."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rounds = [
        {name: 1000 * timeit(task, timer=process_time, number=1) for name, task in tasks.items()}
        for _ in range(repeats + 1)
    ]
    torch.set_num_threads(threads)
    median = pd.DataFrame(rounds[1:]).median()  # the first round warms up
    return median.rename_axis("task").rename("milliseconds").reset_index()


def first_cells(features: Tensor, shifts: Sequence[float]) -> pd.DataFrame:
    """The first of 2 x 2 bins of the box (1 + d, 1 + d, 5 + d, 5 + d) on an H x W map, by RoIPool and RoIAlign."""
    from torchvision import ops

    maps, rows = features[None, None], []
    for shift in shifts:
        box = [torch.tensor([[1.0 + shift] * 2 + [5.0 + shift] * 2])]
        pooled, aligned = ops.roi_pool(maps, box, 2), ops.roi_align(maps, box, 2, aligned=True)
        rows.append((shift, float(pooled[0, 0, 0, 0]), float(aligned[0, 0, 0, 0])))
    return pd.DataFrame(rows, columns=["d", "RoIPool", "RoIAlign"])
