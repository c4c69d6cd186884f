import io
import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gpcore import paths
from gpcore.datasets.camvid import CLASSES, COLOURS, SEQUENCES, SIZES, VOID, CamVid
from gpcore.datasets.fetch import DIGEST

LAID_OUT = pytest.mark.skipif(not (paths.DATA / "camvid").is_dir(), reason="CamVid is not laid out")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two 2 x 3 validation frames, listed under another machine's paths and not in alphabetical order."""
    red_to_white = [[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[0, 0, 0], [51, 102, 153], [255, 255, 255]]]
    frames = {"b": (red_to_white, [[0, 1, 2], [3, 10, 11]]), "a": (np.full((2, 3, 3), 51), np.full((2, 3), 11))}
    for folder in ("val", "valannot"):
        (tmp_path / folder).mkdir()
    for name, (image, labels) in frames.items():
        Image.fromarray(np.array(image, np.uint8)).save(tmp_path / "val" / f"{name}.png")
        Image.fromarray(np.array(labels, np.uint8)).save(tmp_path / "valannot" / f"{name}.png")
    rows = [f"/home/somebody/CamVid/val/{name}.png /SegNet/CamVid/valannot/{name}.png" for name in frames]
    (tmp_path / "val.txt").write_text("\n".join(rows) + "\n\n")
    return tmp_path


def test_frames_come_in_listed_order_with_these_values(root: Path) -> None:
    data = CamVid("val", root)
    assert len(data) == 2
    image, labels = data[0]
    assert (image.dtype, image.shape, labels.dtype) == (torch.float32, (3, 2, 3), torch.int64)
    assert labels.tolist() == [[0, 1, 2], [3, 10, VOID]]
    np.testing.assert_allclose(image[0], [[1.0, 0.0, 0.0], [0.0, 0.2, 1.0]], atol=1e-6)
    np.testing.assert_allclose(image[1], [[0.0, 1.0, 0.0], [0.0, 0.4, 1.0]], atol=1e-6)
    np.testing.assert_allclose(image[2], [[0.0, 0.0, 1.0], [0.0, 0.6, 1.0]], atol=1e-6)
    image, labels = data[1]
    np.testing.assert_allclose(image, np.full((3, 2, 3), 0.2), atol=1e-6)
    assert labels.tolist() == [[11] * 3] * 2


def test_the_frame_after_the_last_is_an_index_error(root: Path) -> None:
    with pytest.raises(IndexError):
        CamVid("val", root)[2]


def test_files_lie_under_root_whatever_the_lists_say(root: Path) -> None:
    assert CamVid("val", root).files == [(root / "val" / n, root / "valannot" / n) for n in ("b.png", "a.png")]


def test_default_root_is_the_data_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root.rename(root.with_name("camvid"))
    monkeypatch.setattr(paths, "DATA", root.parent)
    assert CamVid("val").files[0][0] == root.with_name("camvid") / "val" / "b.png"


def test_unknown_split_names_the_splits(root: Path) -> None:
    with pytest.raises(ValueError, match=r"split: got 'valid', expected one of train, val, test"):
        CamVid("valid", root)


def test_missing_data_say_how_to_get_them(root: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"test\.txt; run `make data` or `make data CAMVID="):
        CamVid("test", root)
    (root / "valannot" / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"valannot/a\.png"):
        CamVid("val", root)[1]


def png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


# Its data are said to end after a byte: pillow has a SyntaxError for what follows.
SHORT = re.sub(rb"(?s).IDAT", b"\x01IDAT", png(Image.new("L", (3, 2))))


def wrong(mode: str) -> Image.Image:
    return Image.fromarray(np.zeros((2, 3), np.uint16)) if mode == "I;16" else Image.new(mode, (3, 2))


@pytest.mark.parametrize(
    ("folder", "content", "message"),
    [
        ("val", wrong("L"), r"got uint8 \[2, 3\] up to 0, expected uint8 \[2, 3, 3\] up to 255"),
        ("val", wrong("P"), r"got uint8 \[2, 3\] "),
        ("val", wrong("LA"), r"got uint8 \[2, 3, 2\] "),
        ("val", wrong("RGBA"), r"got uint8 \[2, 3, 4\] "),
        ("val", wrong("I;16"), r"got uint16 \[2, 3\] "),
        ("valannot", wrong("RGB"), r"got uint8 \[2, 3, 3\] up to 0, expected uint8 \[2, 3\] up to 11"),
        ("valannot", wrong("I;16"), r"got uint16 \[2, 3\] "),
        ("valannot", wrong("1"), r"got bool \[2, 3\] "),
        ("valannot", Image.new("L", (2, 3)), r"got uint8 \[3, 2\] up to 0, expected uint8 \[2, 3\] "),
        (
            "valannot",
            Image.fromarray(np.array([[0, 0, 0], [0, 12, 0]], np.uint8)),
            r"got uint8 \[2, 3\] up to 12, expected .* up to 11",
        ),
        ("val", b"<html>", "not a whole image"),
        ("valannot", SHORT, "not a whole image"),
    ],
)
def test_a_file_that_holds_no_such_frame_is_named(
    folder: str, content: Image.Image | bytes, message: str, root: Path
) -> None:
    file = root / folder / "a.png"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        content.save(file)
    data = CamVid("val", root)
    with pytest.raises(ValueError, match=rf"/{folder}/a\.png: {message}"):
        data[1]
    assert data[0][1].max() == VOID


def test_label_maps_with_a_palette_hold_its_indices(root: Path) -> None:
    file = root / "valannot" / "b.png"
    labels = Image.open(file).convert("L")
    labels.putpalette(np.array(COLOURS, np.uint8).tobytes())
    assert labels.mode == "P"
    labels.save(file)
    assert CamVid("val", root)[0][1].tolist() == [[0, 1, 2], [3, 10, VOID]]


def test_classes_in_the_order_of_the_published_tables() -> None:
    assert CLASSES[:4] == ("sky", "building", "pole", "road") and CLASSES[8:] == ("car", "pedestrian", "bicyclist")
    assert len(CLASSES) == VOID == 11 and len(set(COLOURS)) == 11
    assert DIGEST.startswith("/".join(map(str, SIZES.values())))
    assert COLOURS[CLASSES.index("road")] == (128, 64, 128) and COLOURS[CLASSES.index("car")] == (64, 0, 128)


@LAID_OUT
def test_real_splits_hold_the_published_numbers_of_frames() -> None:
    assert {split: len(CamVid(split)) for split in SIZES} == {"train": 367, "val": 101, "test": 233}
    names = [image.name for split in SIZES for image, _ in CamVid(split).files]
    assert len(set(names)) == 701  # no frame in two splits
    assert all(image.name == labels.name for split in SIZES for image, labels in CamVid(split).files)


@LAID_OUT
def test_real_validation_frames_have_the_counted_class_shares() -> None:
    data = CamVid("val")
    counts = sum(torch.bincount(data[i][1].flatten(), minlength=12) for i in range(len(data)))
    assert isinstance(counts, torch.Tensor) and counts.shape == (12,) and counts.sum() == 101 * 360 * 480
    shares = 100 * counts[:VOID] / counts[:VOID].sum()
    counted = [9.34, 26.41, 0.57, 29.46, 8.87, 16.62, 0.91, 3.13, 1.78, 0.66, 2.26]  # two-decimal percentages
    np.testing.assert_allclose(shares.numpy(), counted, rtol=0, atol=0.01)
    assert abs(100 * counts[VOID].item() / counts.sum().item() - 1.70) < 0.01
    image = data[0][0]
    assert image.shape == (3, 360, 480) and image.max() <= 1 and image.std() > 0.1


@LAID_OUT
@pytest.mark.parametrize("split", SIZES)
def test_sequences_end_where_the_frames_names_change(split: str) -> None:
    videos = [image.name.split("_")[0] for image, _ in CamVid(split).files]
    runs = [len([*run]) for _, run in itertools.groupby(videos)]
    assert tuple(runs) == SEQUENCES[split]
