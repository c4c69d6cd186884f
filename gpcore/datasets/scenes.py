"""Scenes of objects: handwritten digits with bodies on a cluttered ground, in the manner of PASCAL VOC's pictures."""

import colorsys
import functools
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import Dataset

from gpcore.checks import expect
from gpcore.datasets.handwriting import EXAMPLES, handwriting

CLASSES = ("ground", *"0123456789")
VOID = 255  # contours, as VOC has them
# Tol's "muted" scheme for the digits, grey for the ground
COLOURS = (
    (221, 221, 221), (204, 102, 119), (51, 34, 136), (221, 204, 119), (17, 119, 51), (136, 204, 238),
    (136, 34, 85), (68, 170, 153), (153, 153, 51), (170, 68, 153), (102, 51, 0),
)  # fmt: skip
HEIGHT, WIDTH = 128, 160
OBJECT = (44, 104)  # the least and the largest height of a digit, in pixels
COUNTS = (0.36, 0.33, 0.2, 0.11)  # how often a scene has one to four
CONTRAST = (0.14, 0.34)  # of ink on its body
NOISE = 0.03
GROUNDS = ("cloud", "grain", "stripes", "weave")
# the finer task, in which every pixel has a meaning: digit x ink x size, and kinds of ground
SCENE_CLASSES = (
    *GROUNDS,
    *(f"{size} {ink} {digit}" for digit in "0123456789" for ink in ("dark", "light") for size in ("small", "large")),
)
LARGE = 72  # pixels of height from which a digit is large
# greys and browns for grounds; a digit has its hue, deep for dark ink and bright for light, muted where it is small
GROUND_COLOURS = ((225, 225, 225), (178, 178, 178), (196, 178, 148), (128, 112, 94))
HUES = (0.0, 0.07, 0.14, 0.25, 0.38, 0.48, 0.56, 0.65, 0.77, 0.89)
SHADES = ((0.36, 0.5), (0.27, 1.0), (0.77, 0.75), (0.6, 0.95))  # lightness, saturation


def _shade(hue: float, lightness: float, saturation: float) -> tuple[int, int, int]:
    red, green, blue = (round(255 * part) for part in colorsys.hls_to_rgb(hue, lightness, saturation))
    return red, green, blue


SCENE_COLOURS = (*GROUND_COLOURS, *(_shade(hue, *shade) for hue in HUES for shade in SHADES))


Array = np.ndarray[Any, Any]


class Scene(NamedTuple):
    """An image 3 x H x W in [0, 1], its labels of both tasks and, where an object is seen, its number from 1 on."""

    image: Tensor
    labels: Tensor
    finer: Tensor
    instances: Tensor


class Scenes(Dataset[tuple[Tensor, Tensor]]):
    """Scenes as (3 x 128 x 160 float image in [0, 1], 128 x 160 int64 labels: ground 0, digits 1 to 10, VOID).

    One to four digits, each on a tinted and textured body in its shape, the later ones in front, stand on a ground of
    two textures among scraps of writing that mean nothing. A scene is a pure function of (split, index, seed). With
    `finer` the labels are those of SCENE_CLASSES.

    Raises:
        ValueError: unknown split.  IndexError: index outside [0, count).
    """

    def __init__(self, split: str, count: int, *, seed: int = 0, finer: bool = False) -> None:
        expect("split", repr(split), split in EXAMPLES, f"one of {', '.join(EXAMPLES)}")
        self.split, self.count, self.seed, self.finer = split, count, seed, finer

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if not 0 <= index < self.count:
            raise IndexError(f"index: got {index}, expected 0 <= index < {self.count}")
        found = scene(self.split, index, self.seed)
        return found.image.clone(), (found.finer if self.finer else found.labels).clone()


class Instances(Scenes):
    """Scenes with, for labels, which object a pixel belongs to: 16 times its number plus its label, 0 on the ground.

    Contours belong to their object. One that is seen by contours alone has no label and counts as ground.
    """

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, labels = super().__getitem__(index)
        numbers = scene(self.split, index, self.seed).instances
        coded = torch.zeros_like(labels)
        for number in range(1, int(numbers.max()) + 1):
            seen = labels[(numbers == number) & (labels != VOID)]
            coded[numbers == number] = 16 * number + seen[0] if len(seen) else 0
        return image, coded


@functools.lru_cache(maxsize=512)  # notebooks come back to the same few hundred
def scene(split: str, index: int, seed: int = 0) -> Scene:
    """All that is known of one scene."""
    rng = np.random.default_rng([seed, list(EXAMPLES).index(split), index])
    image, finer = _ground(rng, EXAMPLES[split])
    labels, instances = np.zeros((HEIGHT, WIDTH), np.int64), np.zeros((HEIGHT, WIDTH), np.int64)
    for number in range(1, 2 + int(rng.choice(len(COUNTS), p=COUNTS))):
        digit, height = int(rng.integers(10)), _height(rng)
        ink, body = _digit(rng, handwriting()[digit, rng.choice(EXAMPLES[split])].numpy(), height)
        light = bool(rng.random() < 0.5)
        window, part = _placed(rng, body, instances)
        colour = _colour(rng) + _texture(rng, str(rng.choice(GROUNDS)), body.shape, 0.05)
        colour = colour + (1 if light else -1) * rng.uniform(*CONTRAST) * ink
        seen = body[part]
        image[(slice(None), *window)] = np.where(seen, colour[(slice(None), *part)], image[(slice(None), *window)])
        for labelled, value in (
            (labels, digit + 1),
            (instances, number),
            (finer, len(GROUNDS) + 4 * digit + 2 * light + (height >= LARGE)),
        ):
            labelled[window][seen] = value
    image = image + NOISE * rng.standard_normal(image.shape, np.float32)
    contours = _contours(instances)
    labels[contours] = finer[contours] = VOID
    pixels = torch.from_numpy(np.rint(255 * image.clip(0, 1)).astype(np.float32)) / 255  # 8 bits, as pictures have
    return Scene(pixels, *(torch.from_numpy(each) for each in (labels, finer, instances)))


def _height(rng: np.random.Generator) -> float:
    return float(rng.uniform(*OBJECT))


def _colour(rng: np.random.Generator) -> Array:
    """A muted colour, 3 x 1 x 1: some grey, some hue."""
    return (rng.uniform(0.3, 0.7) + rng.uniform(-0.18, 0.18, (3, 1, 1))).astype(np.float32)


def _smooth(rng: np.random.Generator, channels: int, knots: tuple[int, int], size: tuple[int, ...]) -> Array:
    """A smooth random field, channels x size, of unit standard deviation at its knots."""
    field = torch.from_numpy(rng.normal(size=(1, channels, *knots)).astype(np.float32))
    return interpolate(field, size, mode="bicubic", align_corners=True)[0].numpy()


def _texture(rng: np.random.Generator, kind: str, size: tuple[int, ...], strength: float) -> Array:
    """One of GROUNDS as 1 x H x W brightness of about that standard deviation, at a random scale and angle."""
    height, width = size
    if kind == "cloud":
        knots = (max(2, round(height / rng.uniform(9, 14))), max(2, round(width / rng.uniform(9, 14))))
        return strength * _smooth(rng, 1, knots, size)
    if kind == "grain":
        return strength * _smooth(rng, 1, (max(2, height // 3), max(2, width // 3)), size)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    angle, pitch = rng.uniform(0, np.pi), rng.uniform(5, 9)
    along = (rows * np.sin(angle) + columns * np.cos(angle)) * 2 * np.pi / pitch
    across = (rows * np.cos(angle) - columns * np.sin(angle)) * 2 * np.pi / pitch
    waves = np.sin(along) if kind == "stripes" else np.sin(along) * np.sin(across) * np.sqrt(2)
    texture: Array = (strength * np.sqrt(2) * waves)[None].astype(np.float32)
    return texture


def _ground(rng: np.random.Generator, examples: range) -> tuple[Array, Array]:
    """Two kinds of ground on either side of a wavering line, with scraps of writing: image and kinds."""
    first, second = rng.choice(len(GROUNDS), 2, replace=False)
    angle, (row, column) = rng.uniform(0, np.pi), rng.uniform((0.2, 0.2), (0.8, 0.8)) * (HEIGHT, WIDTH)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    side = (rows - row) * np.sin(angle) + (columns - column) * np.cos(angle) + 8 * _smooth(
        rng, 1, (4, 5), (HEIGHT, WIDTH)
    )[0] > 0
    image = np.empty((3, HEIGHT, WIDTH), np.float32)
    base = _colour(rng)
    for where, kind in ((side, first), (~side, second)):
        tint = base + rng.uniform(-0.1, 0.1, (3, 1, 1)).astype(np.float32)
        image[:, where] = (tint + _texture(rng, GROUNDS[kind], (HEIGHT, WIDTH), 0.05))[:, where]
    image += 0.06 * _smooth(rng, 3, (4, 5), (HEIGHT, WIDTH))
    for _ in range(rng.integers(6, 13)):
        ink, _ = _digit(rng, handwriting()[rng.integers(10), rng.choice(examples)].numpy(), _height(rng), body=False)
        ink = ink * _half(rng, ink.shape)
        window, part = _placed(rng, ink > 0.1)
        image[(slice(None), *window)] += rng.choice((-1, 1)) * rng.uniform(0.05, 0.16) * ink[part]
    return image, np.where(side, first, second)


def _half(rng: np.random.Generator, size: tuple[int, ...]) -> Array:
    """A half plane through somewhere near the middle: what is left of a scrap."""
    rows, columns = np.mgrid[: size[0], : size[1]] - np.reshape(np.array(size) * rng.uniform(0.35, 0.65, 2), (2, 1, 1))
    angle = rng.uniform(0, 2 * np.pi)
    half: Array = rows * np.sin(angle) + columns * np.cos(angle) > 0
    return half


def _digit(rng: np.random.Generator, ink: Array, height: float, body: bool = True) -> tuple[Array, Array]:
    """28 x 28 ink turned, sheared and enlarged to about that height, and its body: dilated, its holes filled."""
    scale = height / 20  # ink stands in the middle 20 pixels
    turn, shear, aspect = rng.uniform(-0.35, 0.35), rng.uniform(-0.25, 0.25), rng.uniform(0.85, 1.2)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    inverse = np.linalg.inv(rotation @ np.array([[1, 0], [shear, aspect]])) / scale
    side = int(np.ceil(33 * scale))
    offset = np.array([13.5, 13.5]) - inverse @ np.array([(side - 1) / 2] * 2)
    specks, count = ndimage.label(ink > 0.3, np.ones((3, 3)))
    sizes = np.bincount(specks.ravel(), minlength=count + 1)
    ink = ink * (sizes[specks] >= 8)  # what the writing has lost in the margin is no part of an object
    drawn = ndimage.affine_transform(ink, inverse, offset, (side, side), order=1)
    drawn = np.clip(2.5 * drawn - 0.5, 0, 1)
    if not body:
        return drawn, drawn > 0.1
    reach = ndimage.distance_transform_edt(drawn < 0.5) <= max(2.0, 0.07 * height)
    return drawn, ndimage.binary_fill_holes(reach)


def _placed(
    rng: np.random.Generator, body: Array, instances: Array | None = None
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where a shape lands, its middle anywhere in the scene: the slices of the scene and of the shape that meet.

    At the last of ten places at the latest; before, it hides at most 40 % of each of the `instances`.
    """
    found = ndimage.find_objects(body.astype(np.int8)) or [(slice(0, 1), slice(0, 1))]
    for _ in range(10):
        window, part = tuple[slice, ...](), tuple[slice, ...]()
        for size, middle, piece in zip((HEIGHT, WIDTH), rng.uniform(0.15, 0.85, 2), found[0], strict=True):
            extent = piece.stop - piece.start
            start = round(middle * size - extent / 2)
            low, high = max(start, 0), min(start + extent, size)
            window += (slice(low, high),)
            part += (slice(piece.start + low - start, piece.start + high - start),)
        if instances is None:
            break
        hidden = np.bincount(instances[window][body[part]], minlength=6)[1:]
        if (hidden <= 0.4 * np.bincount(instances.ravel(), minlength=6)[1:]).all():
            break
    return window, part


def _contours(instances: Array) -> Array:
    """Pixels that touch one of another object or of the ground: two pixels wide in all."""
    found = np.zeros(instances.shape, bool)
    for axis in (0, 1):
        differs = np.diff(instances, axis=axis) != 0
        pads = [(0, 1), (0, 0)] if axis == 0 else [(0, 0), (0, 1)]
        found |= np.pad(differs, pads) | np.pad(differs, [pair[::-1] for pair in pads])
    return found
