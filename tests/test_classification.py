"""Classification data: sizes, splits that share nothing, formats read to the byte; the classifiers' shapes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import relu

from gpcore import paths
from gpcore.datasets.classification import OBJECTS, Pictures
from gpcore.datasets.handwriting import handwriting
from gpcore.networks.classifiers import cifar_net, lenet


def test_handwriting_is_split_as_for_the_scenes():
    splits = {split: Pictures("handwriting", split) for split in ("train", "val", "test")}
    assert {split: len(data) for split, data in splits.items()} == {"train": 3000, "val": 1000, "test": 1000}
    picture, label = splits["val"][205]  # the sixth validation example of the digit 2
    assert picture.shape == (1, 28, 28)
    assert picture.dtype == torch.float32
    assert label.dtype == torch.int64
    assert label == 2
    torch.testing.assert_close(picture[0], handwriting()[2, 305])


def write_cifar(folder, generator):
    folder.mkdir()
    parts = []
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        rows = generator.integers(0, 256, (1200, 3073), dtype=np.uint8)
        rows[:, 0] %= 10
        rows.tofile(folder / name)
        parts.append(rows)
    return np.concatenate(parts[:5]), parts[5]


def test_cifar10_binary_version_is_read_and_split(tmp_path, monkeypatch):
    train, test = write_cifar(tmp_path / "cifar-10-batches-bin", np.random.default_rng(0))
    monkeypatch.setattr(paths, "DATA", tmp_path)
    data = {split: Pictures("cifar10", split) for split in ("train", "val", "test")}
    assert [len(d) for d in data.values()] == [1000, 5000, 1200]
    for split, row in (("train", train[7]), ("val", train[1007]), ("test", test[7])):
        picture, label = data[split][7]
        assert label == row[0] and label.dtype == torch.int64
        planes = row[1:].reshape(3, 32, 32) / np.float32(255)  # red, green, blue, each row by row
        np.testing.assert_allclose(picture, planes, atol=1e-7)
    assert " ".join(OBJECTS) == "airplane automobile bird cat deer dog frog horse ship truck"  # its batches.meta.txt


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (bytes([9]) + bytes(3072) + bytes([10]) + bytes(3072), "6146 bytes, labels up to 10"),
        (bytes(3073 + 3072), "6145 bytes, labels up to 0"),
        (b"", "0 bytes"),
    ],
)
def test_a_cifar10_batch_of_anything_else_is_named(content, found, tmp_path, monkeypatch):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for i in range(1, 6):
        (folder / f"data_batch_{i}.bin").write_bytes(content if i == 3 else bytes(3073))
    monkeypatch.setattr(paths, "DATA", tmp_path)
    with pytest.raises(ValueError, match=rf"data_batch_3\.bin: got {found}.*label from 0 to 9 and 3072 values"):
        Pictures("cifar10", "val")


def test_without_it_torchvision_is_asked(tmp_path, monkeypatch):
    data, asked = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8), []
    loaded = SimpleNamespace(data=data, targets=[5, 0, 9])
    monkeypatch.setattr("torchvision.datasets.CIFAR10", lambda root, **options: asked.append((root, options)) or loaded)
    monkeypatch.setattr(paths, "DATA", tmp_path)
    picture, label = Pictures("cifar10", "test")[2]
    assert asked == [(str(tmp_path), {"train": False, "download": True})]
    assert label == 9
    np.testing.assert_allclose(picture, data[2].transpose(2, 0, 1) / np.float32(255), atol=1e-7)


def test_mnist_is_read_from_the_data_folder(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    known = {}
    for part, count in (("train", 5100), ("t10k", 30)):
        pictures = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = generator.integers(0, 10, count, dtype=np.uint8)
        sizes = np.array([0x803, count, 28, 28], ">i4").tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(sizes + pictures.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(np.array([0x801, count], ">i4").tobytes() + labels.tobytes())
        known[part] = pictures, labels
    monkeypatch.setattr(paths, "DATA", tmp_path)
    for split, part, index in (("train", "train", 9), ("val", "train", 109), ("test", "t10k", 9)):
        picture, label = Pictures("mnist", split)[9]
        pictures, labels = known[part]
        assert label == labels[index]
        np.testing.assert_allclose(picture[0], pictures[index] / np.float32(255), atol=1e-7)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="source: got 'svhn', expected one of handwriting, mnist, cifar10"):
        Pictures("svhn", "val")
    with pytest.raises(ValueError, match="split: got 'valid', expected one of train, val, test"):
        Pictures("handwriting", "valid")


def test_lenet_is_caffes_with_relus():
    torch.manual_seed(0)
    network, x = lenet(10).eval(), torch.rand(3, 1, 28, 28)
    assert sum(p.numel() for p in network.parameters()) == 431_080
    pool = torch.nn.functional.max_pool2d
    hidden = pool(relu(network.conv2(pool(relu(network.conv1(x)), 2))), 2).flatten(1)
    assert hidden.shape == (3, 800)
    expected = network.score(relu(network.fc3(hidden)))
    torch.testing.assert_close(network(x), expected)


def test_cifar_net_has_the_papers_widths():
    network = cifar_net(10).eval()
    assert sum(p.numel() for p in network.parameters()) == 671_818
    widths = [m.out_channels for m in network if isinstance(m, torch.nn.Conv2d)]
    assert widths == [64, 64, 128, 128, 128]
    assert [m.out_features for m in network if isinstance(m, torch.nn.Linear)] == [128, 10]
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 10)
