import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from torch import Tensor

from gpcore import paths, weights

NAME = "digits/fcn-seed0"


def state(seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    tensors = {f"conv{i}.weight": torch.randn(64, 16, generator=draw) for i in range(6)}
    return {**tensors, "bn.running_var": torch.tensor([0.1, 1.0, 65504.0]), "bn.num_batches": torch.tensor(70_001)}


def files(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_float32_round_trip_is_exact_and_leaves_the_caller_alone(tmp_path: Path) -> None:
    original = state()
    original["transposed"] = torch.arange(6.0).view(2, 3).T  # safetensors itself refuses what is not contiguous
    weights.save(NAME, original, {"seed": 0}, root=tmp_path)
    loaded = weights.load(NAME, root=tmp_path)
    assert loaded.keys() == original.keys()
    assert all(torch.equal(loaded[k], v) and loaded[k].dtype == v.dtype for k, v in original.items())
    assert loaded["transposed"].tolist() == [[0, 3], [1, 4], [2, 5]] and not original["transposed"].is_contiguous()


def test_half_stores_float16_loads_float32_and_keeps_integers(tmp_path: Path) -> None:
    weights.save(NAME, state(), {}, half=True, root=tmp_path)
    stored = safetensors.numpy.load_file(tmp_path / "digits/fcn-seed0-1of1.safetensors")
    loaded = weights.load(NAME, root=tmp_path)
    for key, tensor in state().items():
        if key == "bn.num_batches":
            assert stored[key].dtype == np.int64 and loaded[key].item() == 70_001  # above float16's range
        else:
            assert stored[key].dtype == np.float16 and loaded[key].dtype == torch.float32
            np.testing.assert_array_equal(loaded[key].numpy(), tensor.numpy().astype(np.float16).astype(np.float32))
    assert not torch.equal(loaded["conv0.weight"], state()["conv0.weight"])


def test_half_refuses_values_that_overflow(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'running_var'.*7e\+04.*65504"):
        weights.save(NAME, {"running_var": torch.tensor([1.0, 7e4])}, {}, half=True, root=tmp_path)
    assert files(tmp_path) == {}


def test_index_entry_literally(tmp_path: Path) -> None:
    weights.save(
        "camvid/a", {"w": torch.ones(2, 3), "n": torch.tensor(4)}, {"seed": 3, "scores": {"val": 0.5}}, root=tmp_path
    )
    weights.save("b", {"w": torch.ones(1)}, {}, root=tmp_path)
    found = hashlib.sha256((tmp_path / "camvid/a-1of1.safetensors").read_bytes()).hexdigest()
    entry = {"files": {"camvid/a-1of1.safetensors": found}, "parameters": 6, "scores": {"val": 0.5}, "seed": 3}
    assert weights.info("camvid/a", root=tmp_path) == entry
    text = (tmp_path / "index.json").read_text()
    assert text == json.dumps(json.loads(text), indent=1, sort_keys=True) + "\n" and list(json.loads(text)) == [
        "b",
        "camvid/a",
    ]


def test_shards_keep_the_limit_and_cover_everything(tmp_path: Path) -> None:
    limit = 9_500  # conv weights are 4,096 bytes each: two fit beside their headers
    weights.save(NAME, state(), {}, shard_bytes=limit, root=tmp_path)
    names = [f"digits/fcn-seed0-{i}of3.safetensors" for i in (1, 2, 3)]
    assert (
        sorted(files(tmp_path)) == [*names, "index.json"]
        and sorted(weights.info(NAME, root=tmp_path)["files"]) == names
    )
    assert max((tmp_path / file).stat().st_size for file in names) <= limit
    keys = [key for file in names for key in safetensors.numpy.load_file(tmp_path / file)]
    assert sorted(keys) == sorted(state())
    assert all(torch.equal(tensor, state()[key]) for key, tensor in weights.load(NAME, root=tmp_path).items())


def test_shard_limit_holds_with_many_small_tensors(tmp_path: Path) -> None:
    many = {f"{'long_module_name.' * 4}{i}": torch.full((1, 1, 1, 1), float(i)) for i in range(200)}
    weights.save(NAME, many, {}, shard_bytes=2_000, root=tmp_path)
    assert max(len(blob) for file, blob in files(tmp_path).items() if file != "index.json") <= 2_000
    assert {k: v.item() for k, v in weights.load(NAME, root=tmp_path).items()} == {k: v.item() for k, v in many.items()}


def test_a_tensor_above_the_limit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'fc6'.*shard_bytes allows 4000"):
        weights.save(NAME, {"fc6": torch.zeros(1000)}, {}, shard_bytes=4_000, root=tmp_path)


def test_same_state_same_bytes(tmp_path: Path) -> None:
    for root, items in ((tmp_path / "a", state().items()), (tmp_path / "b", reversed(state().items()))):
        weights.save(NAME, dict(items), {"seed": 0, "recipe": {"epochs": 2}}, half=True, shard_bytes=5_000, root=root)
    assert len(files(tmp_path / "a")) > 2 and files(tmp_path / "a") == files(tmp_path / "b")


def test_saving_again_removes_stale_shards_of_that_name_only(tmp_path: Path) -> None:
    for name in (NAME, NAME + "-2of3", NAME + "0"):
        weights.save(name, state(), {"epsilon": 0.1}, shard_bytes=5_000, root=tmp_path)
    others = {file: blob for file, blob in files(tmp_path).items() if file.startswith((NAME + "-2of3-", NAME + "0-"))}
    weights.save(NAME, state(1), {}, root=tmp_path)
    assert files(tmp_path).keys() == others.keys() | {NAME + "-1of1.safetensors", "index.json"}
    assert others.items() <= files(tmp_path).items() and len(others) >= 8
    assert "epsilon" not in weights.info(NAME, root=tmp_path)
    assert torch.equal(weights.load(NAME, root=tmp_path)["conv0.weight"], state(1)["conv0.weight"])


def test_one_altered_byte_is_refused(tmp_path: Path) -> None:
    weights.save(NAME, state(), {}, root=tmp_path)
    path = tmp_path / "digits/fcn-seed0-1of1.safetensors"
    blob = bytearray(path.read_bytes())
    expected = hashlib.sha256(blob).hexdigest()
    blob[-1] ^= 1  # still a well-formed file: only the hash can tell
    path.write_bytes(blob)
    with pytest.raises(ValueError, match=rf"fcn-seed0-1of1.*{hashlib.sha256(blob).hexdigest()}.*expected {expected}"):
        weights.load(NAME, root=tmp_path)


def test_missing_file_and_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none are saved"):
        weights.load(NAME, root=tmp_path)
    weights.save(NAME, state(), {}, shard_bytes=5_000, root=tmp_path)
    weights.save("camvid/other", {"w": torch.ones(1)}, {}, root=tmp_path)
    with pytest.raises(ValueError, match=r"got 'digits/fcn-seed1', expected one of: digits/fcn-seed0"):
        weights.info("digits/fcn-seed1", root=tmp_path)
    (tmp_path / f"{NAME}-2of6.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"fcn-seed0-2of6\.safetensors is missing"):
        weights.load(NAME, root=tmp_path)


def test_update_merges_fields_and_nothing_else(tmp_path: Path) -> None:
    weights.save(NAME, state(), {"seed": 0, "epsilon": None}, root=tmp_path)
    before = files(tmp_path)
    weights.update(NAME, root=tmp_path, epsilon=0.002, scores={"test": 0.75})
    entry = weights.info(NAME, root=tmp_path)
    assert (entry["seed"], entry["epsilon"], entry["scores"]) == (0, 0.002, {"test": 0.75})
    assert {k: v for k, v in files(tmp_path).items() if before[k] != v}.keys() == {"index.json"}
    assert weights.load(NAME, root=tmp_path).keys() == state().keys()
    with pytest.raises(ValueError, match="'files'"):
        weights.update(NAME, root=tmp_path, files={})
    with pytest.raises(ValueError, match="expected one of: digits/fcn-seed0"):
        weights.update("digits/nothing", root=tmp_path, epsilon=1.0)


@pytest.mark.parametrize("name", ["../evil", "/evil", "digits/../evil", "digits//fcn", "", "digits/.hidden"])
def test_names_that_leave_the_folder_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name: got"):
        weights.save(name, state(), {}, root=tmp_path / "store")
    assert files(tmp_path) == {}


def test_info_that_json_cannot_hold_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    weights.save(NAME, state(), {}, root=tmp_path)
    before = files(tmp_path)
    for bad in (object(), float("nan")):
        with pytest.raises((TypeError, ValueError)):
            weights.save(NAME, state(1), {"score": bad}, root=tmp_path)
    assert files(tmp_path) == before


@pytest.mark.skipif(not (paths.WEIGHTS / "index.json").is_file(), reason="no trained weights yet")
def test_committed_weights_are_the_indexed_ones() -> None:
    index = json.loads((paths.WEIGHTS / "index.json").read_text())
    indexed = {file: digest for entry in index.values() for file, digest in entry["files"].items()}
    present = {p.relative_to(paths.WEIGHTS).as_posix(): p for p in paths.WEIGHTS.rglob("*.safetensors")}
    assert {file: hashlib.sha256(p.read_bytes()).hexdigest() for file, p in present.items()} == indexed


def test_tensors_of_a_base_are_stored_once(tmp_path: Path) -> None:
    """Equal tensors come from the base, under their own name or behind a prefix; a changed or new one is stored."""
    weights.save("digits/base", state(), {}, half=True, root=tmp_path)
    halved = weights.load("digits/base", root=tmp_path)
    own = {f"network.{key}": value.clone() for key, value in halved.items()}
    own["network.conv3.weight"] += 1
    own["head.weight"] = torch.ones(2)
    weights.save("digits/crf", own, {}, half=True, base="digits/base", root=tmp_path)
    stored = safetensors.numpy.load_file(tmp_path / "digits/crf-1of1.safetensors")
    assert set(stored) == {"network.conv3.weight", "head.weight"}
    loaded = weights.load("digits/crf", root=tmp_path)
    assert loaded.keys() == own.keys()
    for key, value in own.items():
        assert torch.equal(loaded[key], value.half().float() if value.is_floating_point() else value), key
    plain = dict(halved)
    plain["conv0.weight"] = -plain["conv0.weight"]
    weights.save("digits/plain", plain, {}, half=True, base="digits/base", root=tmp_path)
    assert set(safetensors.numpy.load_file(tmp_path / "digits/plain-1of1.safetensors")) == {"conv0.weight"}
    assert torch.equal(weights.load("digits/plain", root=tmp_path)["conv0.weight"], plain["conv0.weight"])
