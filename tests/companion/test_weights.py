import contextlib
import hashlib
import itertools
import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from torch import Tensor

from gpcore import paths
from gpcore.companion import weights

NAME = "digits/fcn-seed0"


def state(seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    tensors = {f"conv{i}.weight": torch.randn(64, 16, generator=draw) for i in range(6)}
    return {**tensors, "bn.running_var": torch.tensor([0.1, 1.0, 65504.0]), "bn.num_batches": torch.tensor(70_001)}


def files(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def shards(root: Path, name: str = NAME) -> list[str]:
    """The files of an entry, seen to be named by their number and their hash."""
    found = sorted(weights.info(name, root=root)["files"])
    for i, file in enumerate(found, 1):
        digest = hashlib.sha256((root / file).read_bytes()).hexdigest()
        assert file == f"{name}-{i}of{len(found)}-{digest[:12]}.safetensors"
    return found


def edit(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes the index by hand."""
    index = json.loads((root / "index.json").read_text())
    change(index)
    (root / "index.json").write_text(json.dumps(index))


def equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[key], value) for key, value in expected.items())


def test_float32_round_trip_is_exact_and_leaves_the_caller_alone(tmp_path: Path) -> None:
    original = state()
    original["transposed"] = torch.arange(6.0).view(2, 3).T  # safetensors itself refuses what is not contiguous
    original["tied"] = original["conv0.weight"]  # and what shares its memory
    weights.save(NAME, original, {"seed": 0}, root=tmp_path)
    loaded = weights.load(NAME, root=tmp_path)
    assert loaded.keys() == original.keys()
    assert all(torch.equal(loaded[k], v) and loaded[k].dtype == v.dtype for k, v in original.items())
    assert loaded["transposed"].tolist() == [[0, 3], [1, 4], [2, 5]] and not original["transposed"].is_contiguous()


def test_half_stores_float16_loads_float32_and_keeps_integers(tmp_path: Path) -> None:
    weights.save(NAME, state(), {}, half=True, root=tmp_path)
    stored = safetensors.numpy.load_file(tmp_path / shards(tmp_path)[0])
    loaded = weights.load(NAME, root=tmp_path)
    for key, tensor in state().items():
        if key == "bn.num_batches":
            assert stored[key].dtype == np.int64 and loaded[key].item() == 70_001  # above float16's range
        else:
            assert stored[key].dtype == np.float16 and loaded[key].dtype == torch.float32
            np.testing.assert_array_equal(loaded[key].numpy(), tensor.numpy().astype(np.float16).astype(np.float32))
    assert not torch.equal(loaded["conv0.weight"], state()["conv0.weight"])


def test_half_refuses_values_that_overflow(tmp_path: Path) -> None:
    weights.save(NAME, {"mask": torch.tensor([1.0, -torch.inf])}, {}, half=True, root=tmp_path / "infinite")
    assert weights.load(NAME, root=tmp_path / "infinite")["mask"].tolist() == [1, -torch.inf]
    with pytest.raises(ValueError, match=r"'running_var'.*7e\+04.*65504"):
        weights.save(NAME, {"running_var": torch.tensor([1.0, 7e4])}, {}, half=True, root=tmp_path)
    assert not (tmp_path / "index.json").exists()


def test_index_entry_literally(tmp_path: Path) -> None:
    weights.save(
        "camvid/a", {"w": torch.ones(2, 3), "n": torch.tensor(4)}, {"seed": 3, "scores": {"val": 0.5}}, root=tmp_path
    )
    weights.save("b", {"w": torch.ones(1)}, {}, root=tmp_path)
    (file,) = shards(tmp_path, "camvid/a")
    found = hashlib.sha256((tmp_path / file).read_bytes()).hexdigest()
    entry = {"files": {file: found}, "parameters": 6, "scores": {"val": 0.5}, "seed": 3}
    assert weights.info("camvid/a", root=tmp_path) == entry
    text = (tmp_path / "index.json").read_text()
    assert text == json.dumps(json.loads(text), indent=1, sort_keys=True) + "\n" and list(json.loads(text)) == [
        "b",
        "camvid/a",
    ]


def test_shards_keep_the_limit_and_cover_everything(tmp_path: Path) -> None:
    limit = 9_500  # conv weights are 4,096 bytes each: two fit beside their headers
    weights.save(NAME, state(), {}, shard_bytes=limit, root=tmp_path)
    names = shards(tmp_path)
    assert len(names) == 3 and sorted(files(tmp_path)) == [*names, "index.json"]
    assert max((tmp_path / file).stat().st_size for file in names) <= limit
    keys = [key for file in names for key in safetensors.numpy.load_file(tmp_path / file)]
    assert sorted(keys) == sorted(state())
    assert all(torch.equal(tensor, state()[key]) for key, tensor in weights.load(NAME, root=tmp_path).items())


def test_files_stay_below_eight_megabytes_unless_told(tmp_path: Path) -> None:
    weights.save(NAME, {"a": torch.zeros(1_000_000), "b": torch.zeros(1_000_000)}, {}, root=tmp_path)
    assert len(shards(tmp_path)) == 2


def test_shard_limit_holds_with_many_small_tensors(tmp_path: Path) -> None:
    many = {f"{'long_module_name.' * 24}{i}": torch.full((1, 1, 1, 1), float(i)) for i in range(200)}
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
    (tmp_path / "digits" / "mine-1of1.safetensors").write_bytes(b"not in the index")
    others = {
        file: blob
        for file, blob in files(tmp_path).items()
        if file.startswith((NAME + "-2of3-", NAME + "0-", "digits/mine"))
    }
    weights.save(NAME, state(1), {}, root=tmp_path)
    assert files(tmp_path).keys() == {*others, *shards(tmp_path), "index.json"}
    assert others.items() <= files(tmp_path).items() and len(others) >= 8
    assert "epsilon" not in weights.info(NAME, root=tmp_path)
    assert torch.equal(weights.load(NAME, root=tmp_path)["conv0.weight"], state(1)["conv0.weight"])


def test_one_altered_byte_is_refused(tmp_path: Path) -> None:
    weights.save(NAME, state(), {}, root=tmp_path)
    path = tmp_path / shards(tmp_path)[0]
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
    with pytest.raises(ValueError, match="got '12345', expected one of: camvid/other, digits/fcn-seed0"):
        weights.info("12345", root=tmp_path)
    (tmp_path / shards(tmp_path)[1]).unlink()
    with pytest.raises(FileNotFoundError, match=r"fcn-seed0-2of6-\w{12}\.safetensors is missing"):
        weights.load(NAME, root=tmp_path)


def test_update_merges_fields_and_nothing_else(tmp_path: Path) -> None:
    weights.save(NAME, state(), {"seed": 0, "epsilon": None}, root=tmp_path)
    before = files(tmp_path)
    weights.update(NAME, root=tmp_path, epsilon=0.002, scores={"test": 0.75})
    entry = weights.info(NAME, root=tmp_path)
    assert (entry["seed"], entry["epsilon"], entry["scores"]) == (0, 0.002, {"test": 0.75})
    assert {k: v for k, v in files(tmp_path).items() if before[k] != v}.keys() == {"index.json"}
    assert weights.load(NAME, root=tmp_path).keys() == state().keys()
    for field in ("base", "files", "parameters", "shared", "stale"):
        with pytest.raises(ValueError, match=f"info: got a field '{field}'"):
            weights.update(NAME, root=tmp_path, **{field: {}})
    with pytest.raises(ValueError, match="expected one of: digits/fcn-seed0"):
        weights.update("digits/nothing", root=tmp_path, epsilon=1.0)


@pytest.mark.parametrize("name", ["../evil", "/evil", "digits/../evil", "digits//fcn", "", "digits/.hidden"])
def test_names_that_leave_the_folder_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name: got"):
        weights.save(name, state(), {}, root=tmp_path / "store")
    assert files(tmp_path) == {}


def test_no_tensors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="state: got no tensors"):
        weights.save(NAME, {}, {}, root=tmp_path)
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
    own["head.weight"], own["another_conv4.weight"] = torch.ones(2), halved["conv4.weight"]
    weights.save("digits/crf", own, {}, half=True, base="digits/base", root=tmp_path)
    stored = safetensors.numpy.load_file(tmp_path / shards(tmp_path, "digits/crf")[0])
    assert set(stored) == {"network.conv3.weight", "head.weight", "another_conv4.weight"}
    loaded = weights.load("digits/crf", root=tmp_path)
    assert loaded.keys() == own.keys()
    for key, value in own.items():
        assert torch.equal(loaded[key], value.half().float() if value.is_floating_point() else value), key
    plain = dict(halved)
    plain["conv0.weight"] = -plain["conv0.weight"]
    weights.save("digits/plain", plain, {}, half=True, base="digits/base", root=tmp_path)
    assert set(safetensors.numpy.load_file(tmp_path / shards(tmp_path, "digits/plain")[0])) == {"conv0.weight"}
    assert torch.equal(weights.load("digits/plain", root=tmp_path)["conv0.weight"], plain["conv0.weight"])


def test_what_shares_tensors_of_a_base_that_changed_is_refused_until_saved_again(tmp_path: Path) -> None:
    def save(name: str, content: dict[str, Tensor], base: str = "") -> None:
        weights.save(name, content, {}, base=base, root=tmp_path)

    save("base", state())
    own = state() | {"head": torch.ones(2)}
    save("own", own, base="base")
    save("base", state())
    weights.update("base", epsilon=0.1, root=tmp_path)
    assert equal(weights.load("own", root=tmp_path), own)
    save("base", state(1))
    weights.update("own", epsilon=0.1, root=tmp_path)
    with pytest.raises(ValueError, match="weights 'own': 'base', whose tensors it shares, has changed"):
        weights.load("own", root=tmp_path)
    save("own", own, base="base")
    assert equal(weights.load("own", root=tmp_path), own)
    before = files(tmp_path)
    for name, base in (("base", "own"), ("own", "own")):
        with pytest.raises(ValueError, match=rf"index.json, entry '{name}' on .*: got .*does not build on it"):
            save(name, state(2), base=base)
    assert files(tmp_path) == before
    edit(tmp_path, lambda index: index["own"]["shared"].update({"head": "tail"}))
    with pytest.raises(ValueError, match="weights 'own': 'base', whose tensors it shares, has changed"):
        weights.load("own", root=tmp_path)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("dead", [False, True])
def test_stopped_at_any_moment_the_old_network_loads_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dead: bool
) -> None:
    """Each change to the disk fails in turn, alone or with all after it. The old files have names without a hash."""
    seeds, states, write = [], (state(), state(1)), Path.write_bytes
    for moment in itertools.count():
        root, calls = tmp_path / str(moment), itertools.count()
        weights.save(NAME, states[0], {"seed": 0}, shard_bytes=5_000, root=root)
        for file in shards(root):
            (root / file).rename(root / (file[:-25] + ".safetensors"))
        edit(
            root,
            lambda index: index[NAME].update(
                files={k[:-25] + ".safetensors": v for k, v in index[NAME]["files"].items()}
            ),
        )

        def stopping(change: Callable[..., Any], calls: Any = calls, moment: int = moment) -> Callable[..., Any]:
            def call(*args: Any, **options: Any) -> Any:
                number = next(calls)
                if number == moment or (dead and number > moment):
                    if change is write:
                        write(args[0], args[1][:99])
                    raise Killed
                return change(*args, **options)

            return call

        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            for owner, name in ((Path, "write_bytes"), (os, "replace"), (os, "unlink")):
                patch.setattr(owner, name, stopping(getattr(owner, name)))
            weights.save(NAME, states[1], {"seed": 1}, shard_bytes=9_500, root=root)
        seeds.append(weights.info(NAME, root=root)["seed"])
        assert equal(weights.load(NAME, root=root), states[seeds[-1]])
        if next(calls) <= moment:
            break
        weights.save(NAME, states[1], {"seed": 1}, shard_bytes=9_500, root=root)  # also removes what was left
        assert sorted(path.relative_to(root).as_posix() for path in root.rglob("*.safetensors")) == shards(root)
        assert dead or sorted(files(root)) == [*shards(root), "index.json"]
    assert seeds == sorted(seeds) and seeds.count(0) > 7 and seeds.count(1) > 6


@pytest.mark.skipif(sys.platform == "win32", reason="has no such lock")
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (
            lambda root: weights.save("a", state(1), {}, root=root),
            lambda root: weights.save("b", state(2), {}, root=root),
        ),
        (
            lambda root: weights.update("a", root=root, epsilon=0.1),
            lambda root: weights.update("b", root=root, epsilon=0.2),
        ),
        (
            lambda root: weights.save("a", state(1), {}, root=root),
            lambda root: weights.save("b", state(), {}, base="a", root=root),
        ),
    ],
)
def test_of_two_who_save_at_once_the_second_waits(
    first, second, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one puts the index in its place another begins: the store is as if it had begun afterwards."""
    for root in (tmp_path / "expected", tmp_path / "found"):
        for name in ("a", "b"):
            weights.save(name, state(), {}, root=root)
    first(tmp_path / "expected"), second(tmp_path / "expected")
    replace, others = os.replace, []

    def meanwhile(source: Path, target: Path) -> None:
        if target.name == "index.json" and not others:
            others.append(threading.Thread(target=second, args=[tmp_path / "found"]))
            others[0].start()
            others[0].join(0.1)
        replace(source, target)

    monkeypatch.setattr(os, "replace", meanwhile)
    first(tmp_path / "found")
    others[0].join()
    assert files(tmp_path / "found") == files(tmp_path / "expected")


def test_without_locks_one_may_save_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)  # as on Windows
    root = tmp_path / "new" / "store"
    weights.save(NAME, state(), {}, root=root)
    assert equal(weights.load(NAME, root=root), state())


WHOLE = {"files": {}, "parameters": 0}
BROKEN: dict[str, tuple[bytes | dict[str, Any], str]] = {
    "empty": (b"", "holds no JSON object"),
    "cut off": (b'{"a": {', "holds no JSON object"),
    "no text": (b"\xff\xfe\x00", "holds no JSON object"),
    "deep": (b"[" * 100_000, "holds no JSON object"),
    "a list": (b"[]", "holds no JSON object"),
    "null": (b"null", "holds no JSON object"),
    "an entry that is none": ({"a": "files parameters"}, "entry 'a': got 'files parameters'"),
    "no files": ({"a": {"parameters": 0}}, "entry 'a': got"),
    "a list of files": ({"a": {"files": ["x"], "parameters": 0}}, "entry 'a': got"),
    "no parameters": ({"a": {"files": {}}}, "entry 'a': got"),
    "a file above": ({"a": {"files": {"../../x": "0"}, "parameters": 0}}, r"entry 'a': got .*\.\./\.\./x"),
    "a file above, hidden": ({"a": {"files": {"a/../../x": "0"}, "parameters": 0}}, "entry 'a': got"),
    "a file elsewhere": ({"a": {"files": {"ok": "0", "/etc/passwd": "0"}, "parameters": 0}}, "entry 'a': got .*passwd"),
    "a drive": ({"a": {"files": {"C:\\x": "0"}, "parameters": 0}}, "entry 'a': got"),
    "a name above": ({"a": WHOLE, "../b": WHOLE}, r"entry '\.\./b': got"),
    "no such base": ({"a": {**WHOLE, "base": "b", "shared": {}}}, "entry 'a' on 'b': got None"),
    "a base that is none": ({"a": {**WHOLE, "base": ["a"], "shared": {}}}, "entry 'a' on .*: got None"),
    "its own base": ({"a": {**WHOLE, "base": "a", "shared": {}}}, "entry 'a' on 'a': got"),
    "a circle": (
        {"a": {**WHOLE, "base": "b", "shared": {}}, "b": {**WHOLE, "base": "a", "shared": {}}, "c": WHOLE},
        "entry 'a' on 'b' on 'a': got",
    ),
    "nothing shared": ({"a": {**WHOLE, "base": "b"}, "b": WHOLE}, "entry 'a': got"),
    "shared with none": ({"a": {**WHOLE, "shared": {}}}, "entry 'a': got"),
}


@pytest.mark.parametrize(("index", "message"), BROKEN.values(), ids=BROKEN)
def test_an_index_that_does_not_hold_together_is_named(
    index: bytes | dict[str, Any], message: str, tmp_path: Path
) -> None:
    (tmp_path / "index.json").write_bytes(index if isinstance(index, bytes) else json.dumps(index).encode())
    before = files(tmp_path)
    for act in (
        lambda: weights.load("a", root=tmp_path),
        lambda: weights.update("a", root=tmp_path, epsilon=0.1),
        lambda: weights.save("d", state(), {}, root=tmp_path),
    ):
        with pytest.raises(ValueError, match=rf"index\.json(: |, ){message}.*; restore it"):
            act()
    assert files(tmp_path) == before


def test_a_base_may_have_a_base(tmp_path: Path) -> None:
    for name, base in (("a", ""), ("b", "a"), ("c", "b"), ("d", "b")):
        weights.save(name, state() | {name: torch.ones(1)}, {}, base=base, root=tmp_path)
    assert equal(weights.load("c", root=tmp_path), state() | {"c": torch.ones(1)})
    assert weights.info("d", root=tmp_path)["parameters"] == 1
