import contextlib
import hashlib
import itertools
import json
import os
import shutil
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
COMMITTED = paths.WEIGHTS


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store."""
    monkeypatch.setattr(paths, "WEIGHTS", tmp_path / "store")
    paths.WEIGHTS.mkdir()
    return paths.WEIGHTS


def state(seed: int = 0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    tensors = {f"conv{i}.weight": torch.randn(64, 16, generator=draw).half().float() for i in range(6)}
    return {**tensors, "bn.running_var": torch.tensor([0.125, 1.0, 65504.0]), "bn.num_batches": torch.tensor(70_001)}


def files(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def shards(name: str = NAME) -> list[str]:
    """The files of an entry, seen to be named by their number and their hash."""
    found = sorted(weights.info(name)["files"])
    for i, file in enumerate(found, 1):
        digest = hashlib.sha256((paths.WEIGHTS / file).read_bytes()).hexdigest()
        assert file == f"{name}-{i}of{len(found)}-{digest[:12]}.safetensors"
    return found


def edit(change: Callable[[dict[str, Any]], object]) -> None:
    """Changes the index by hand."""
    path = paths.WEIGHTS / "index.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))


def equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[key], value) for key, value in expected.items())


def test_round_trip_in_half_precision_leaves_integers_and_the_caller_alone(root: Path) -> None:
    third, original = torch.tensor([1 / 3]), state()
    original["transposed"] = torch.arange(6.0).view(2, 3).T  # safetensors itself refuses what is not contiguous
    original["tied"] = original["conv0.weight"]  # and what shares its memory
    weights.save(NAME, {**original, "third": third}, {"seed": 0})
    stored, loaded = safetensors.numpy.load_file(root / shards()[0]), weights.load(NAME)
    assert loaded.pop("third").numpy() == third.numpy().astype(np.float16).astype(np.float32) != third
    assert equal(loaded, original)
    for key, tensor in original.items():
        assert loaded[key].dtype == tensor.dtype
        assert stored[key].dtype == (np.int64 if key == "bn.num_batches" else np.float16)
    assert loaded["bn.num_batches"].item() == 70_001  # above float16's range
    assert loaded["transposed"].tolist() == [[0, 3], [1, 4], [2, 5]] and not original["transposed"].is_contiguous()


def test_values_that_overflow_are_refused(root: Path) -> None:
    weights.save(NAME, {"mask": torch.tensor([1.0, -torch.inf])}, {})
    assert weights.load(NAME)["mask"].tolist() == [1, -torch.inf]
    before = files(root)
    with pytest.raises(ValueError, match=r"'running_var'.*: got \[70000\.0\], expected .*65504"):
        weights.save(NAME, {"running_var": torch.tensor([1.0, 7e4])}, {})
    assert files(root) == before


def test_index_entry_literally(root: Path) -> None:
    weights.save("camvid/a", {"w": torch.ones(2, 3), "n": torch.tensor(4)}, {"seed": 3, "scores": {"val": 0.5}})
    weights.save("b", {"w": torch.ones(1)}, {})
    (file,) = shards("camvid/a")
    found = hashlib.sha256((root / file).read_bytes()).hexdigest()
    entry = {"files": {file: found}, "parameters": 6, "scores": {"val": 0.5}, "seed": 3}
    assert weights.info("camvid/a") == entry
    text = (root / "index.json").read_text()
    assert text == json.dumps(json.loads(text), indent=1, sort_keys=True) + "\n" and list(json.loads(text)) == [
        "b",
        "camvid/a",
    ]


def test_shards_keep_the_limit_and_cover_everything(root: Path) -> None:
    limit = 5_400  # conv weights are 2,048 bytes each: two fit beside their headers
    weights.save(NAME, state(), {}, shard_bytes=limit)
    names = shards()
    assert len(names) == 3 and sorted(files(root)) == [*names, "index.json"]
    assert max((root / file).stat().st_size for file in names) <= limit
    keys = [key for file in names for key in safetensors.numpy.load_file(root / file)]
    assert sorted(keys) == sorted(state())
    assert all(torch.equal(tensor, state()[key]) for key, tensor in weights.load(NAME).items())


def test_files_stay_below_eight_megabytes_unless_told(root: Path) -> None:
    weights.save(NAME, {"a": torch.zeros(2_000_000), "b": torch.zeros(2_000_000)}, {})
    assert len(shards()) == 2


def test_shard_limit_holds_with_many_small_tensors(root: Path) -> None:
    many = {f"{'long_module_name.' * 24}{i}": torch.full((1, 1, 1, 1), float(i)) for i in range(200)}
    weights.save(NAME, many, {}, shard_bytes=2_000)
    assert max(len(blob) for file, blob in files(root).items() if file != "index.json") <= 2_000
    assert {k: v.item() for k, v in weights.load(NAME).items()} == {k: v.item() for k, v in many.items()}


def test_a_tensor_above_the_limit_is_refused(root: Path) -> None:
    with pytest.raises(ValueError, match=r"'fc6'.*: got 2259 bytes with its header, expected at most 2000"):
        weights.save(NAME, {"fc6": torch.zeros(1000)}, {}, shard_bytes=2_000)


def test_same_state_same_bytes(root: Path) -> None:
    found = []
    for items in (state().items(), reversed(state().items())):
        weights.save(NAME, dict(items), {"seed": 0, "recipe": {"epochs": 2}}, shard_bytes=3_000)
        found.append(files(root))
        shutil.rmtree(root)
    assert len(found[0]) > 2 and found[0] == found[1]


def test_saving_again_removes_stale_shards_of_that_name_only(root: Path) -> None:
    for name in (NAME, NAME + "-2of3", NAME + "0"):
        weights.save(name, state(), {"epsilon": 0.1}, shard_bytes=3_000)
    (root / "digits" / "mine-1of1.safetensors").write_bytes(b"not in the index")
    others = {
        file: blob
        for file, blob in files(root).items()
        if file.startswith((NAME + "-2of3-", NAME + "0-", "digits/mine"))
    }
    weights.save(NAME, state(1), {})
    assert files(root).keys() == {*others, *shards(), "index.json"}
    assert others.items() <= files(root).items() and len(others) >= 8
    assert "epsilon" not in weights.info(NAME)
    assert torch.equal(weights.load(NAME)["conv0.weight"], state(1)["conv0.weight"])


def test_one_altered_byte_is_refused(root: Path) -> None:
    weights.save(NAME, state(), {})
    path = root / shards()[0]
    blob = bytearray(path.read_bytes())
    expected = hashlib.sha256(blob).hexdigest()
    blob[-1] ^= 1  # still a well-formed file: only the hash can tell
    path.write_bytes(blob)
    with pytest.raises(ValueError, match=rf"fcn-seed0-1of1.*{hashlib.sha256(blob).hexdigest()}.*expected {expected}"):
        weights.load(NAME)


def test_missing_file_and_unknown_name(root: Path) -> None:
    with pytest.raises(ValueError, match="none are saved"):
        weights.load(NAME)
    weights.save(NAME, state(), {}, shard_bytes=3_000)
    weights.save("camvid/other", {"w": torch.ones(1)}, {})
    with pytest.raises(ValueError, match=r"got 'digits/fcn-seed1', expected one of: digits/fcn-seed0"):
        weights.info("digits/fcn-seed1")
    with pytest.raises(ValueError, match="got '12345', expected one of: camvid/other, digits/fcn-seed0"):
        weights.info("12345")
    (root / shards()[1]).unlink()
    with pytest.raises(FileNotFoundError, match=r"fcn-seed0-2of6-\w{12}\.safetensors is missing"):
        weights.load(NAME)


def test_update_merges_fields_and_nothing_else(root: Path) -> None:
    weights.save(NAME, state(), {"seed": 0, "epsilon": None})
    before = files(root)
    weights.update(NAME, epsilon=0.002, scores={"test": 0.75})
    entry = weights.info(NAME)
    assert (entry["seed"], entry["epsilon"], entry["scores"]) == (0, 0.002, {"test": 0.75})
    assert {k: v for k, v in files(root).items() if before[k] != v}.keys() == {"index.json"}
    assert weights.load(NAME).keys() == state().keys()
    for field in ("base", "files", "parameters", "shared", "stale"):
        with pytest.raises(ValueError, match=f"info: got fields {{'{field}'}}, expected none"):
            weights.update(NAME, **{field: {}})
    with pytest.raises(ValueError, match="expected one of: digits/fcn-seed0"):
        weights.update("digits/nothing", epsilon=1.0)


def test_what_is_forgotten_leaves_nothing_behind(root: Path) -> None:
    weights.save("digits/other", state(), {})
    before = files(root)
    weights.save(NAME, state(1), {})
    weights.save("digits/above", state(1), {}, base=NAME)
    assert weights.known(NAME) and not weights.known("digits/nothing")
    with pytest.raises(ValueError, match=f"got '{NAME}', on which digits/above build"):
        weights.forget(NAME)
    for name in ("digits/above", NAME, NAME):  # the last is gone already
        weights.forget(name)
    assert not weights.known(NAME) and files(root) == before


@pytest.mark.parametrize("name", ["../evil", "/evil", "digits/../evil", "digits//fcn", "", "digits/.hidden"])
def test_names_that_leave_the_folder_are_refused(name: str, root: Path) -> None:
    with pytest.raises(ValueError, match="name: got"):
        weights.save(name, state(), {})
    assert files(root.parent) == {}


def test_no_tensors_are_refused(root: Path) -> None:
    with pytest.raises(ValueError, match="state: got no tensors"):
        weights.save(NAME, {}, {})
    assert files(root) == {}


def test_info_that_json_cannot_hold_leaves_the_store_as_it_was(root: Path) -> None:
    weights.save(NAME, state(), {})
    before = files(root)
    for bad in (object(), float("nan")):
        with pytest.raises((TypeError, ValueError)):
            weights.save(NAME, state(1), {"score": bad})
    assert files(root) == before


def test_committed_weights_are_the_indexed_ones() -> None:
    index = json.loads((COMMITTED / "index.json").read_text())
    indexed = {file: digest for entry in index.values() for file, digest in entry["files"].items()}
    present = {p.relative_to(COMMITTED).as_posix(): p for p in COMMITTED.rglob("*.safetensors")}
    assert {file: hashlib.sha256(p.read_bytes()).hexdigest() for file, p in present.items()} == indexed


def test_tensors_of_a_base_are_stored_once(root: Path) -> None:
    """Equal tensors come from the base, under their own name or behind a prefix; a changed or new one is stored."""
    weights.save("digits/base", state(), {})
    halved = weights.load("digits/base")
    own = {f"network.{key}": value.clone() for key, value in halved.items()}
    own["network.conv3.weight"] += 1
    own["head.weight"], own["another_conv4.weight"] = torch.ones(2), halved["conv4.weight"]
    weights.save("digits/crf", own, {}, base="digits/base")
    stored = safetensors.numpy.load_file(root / shards("digits/crf")[0])
    assert set(stored) == {"network.conv3.weight", "head.weight", "another_conv4.weight"}
    loaded = weights.load("digits/crf")
    assert loaded.keys() == own.keys()
    for key, value in own.items():
        assert torch.equal(loaded[key], value.half().float() if value.is_floating_point() else value), key
    plain = dict(halved)
    plain["conv0.weight"] = -plain["conv0.weight"]
    weights.save("digits/plain", plain, {}, base="digits/base")
    assert set(safetensors.numpy.load_file(root / shards("digits/plain")[0])) == {"conv0.weight"}
    assert torch.equal(weights.load("digits/plain")["conv0.weight"], plain["conv0.weight"])


def test_what_shares_tensors_of_a_base_that_changed_is_refused_until_saved_again(root: Path) -> None:
    def save(name: str, content: dict[str, Tensor], base: str = "") -> None:
        weights.save(name, content, {}, base=base)

    save("base", state())
    own = state() | {"head": torch.ones(2)}
    save("own", own, base="base")
    save("base", state())
    weights.update("base", epsilon=0.1)
    assert equal(weights.load("own"), own)
    save("base", state(1))
    weights.update("own", epsilon=0.1)
    with pytest.raises(ValueError, match="weights 'own': got a changed 'base', expected the one"):
        weights.load("own")
    save("own", own, base="base")
    assert equal(weights.load("own"), own)
    before = files(root)
    for name, base in (("base", "own"), ("own", "own")):
        with pytest.raises(ValueError, match=rf"index.json, entry '{name}' on .*: got .*does not build on it"):
            save(name, state(2), base=base)
    assert files(root) == before
    edit(lambda index: index["own"]["shared"].update({"head": "tail"}))
    with pytest.raises(ValueError, match="weights 'own': got a changed 'base', expected the one"):
        weights.load("own")


class Killed(BaseException):
    pass


@pytest.mark.parametrize("dead", [False, True])
def test_stopped_at_any_moment_the_old_network_loads_or_the_new_one(
    root: Path, monkeypatch: pytest.MonkeyPatch, dead: bool
) -> None:
    """Each change to the disk fails in turn, alone or with all after it. The old files have names without a hash."""
    seeds, states, write = [], (state(), state(1)), Path.write_bytes
    for moment in itertools.count():
        shutil.rmtree(root)
        calls = itertools.count()
        weights.save(NAME, states[0], {"seed": 0}, shard_bytes=3_000)
        old = {file: file[:-25] + ".safetensors" for file in shards()}
        for file in old:
            (root / file).rename(root / old[file])
        edit(lambda index, old=old: index[NAME].update(files={old[k]: v for k, v in index[NAME]["files"].items()}))

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
            weights.save(NAME, states[1], {"seed": 1}, shard_bytes=5_400)
        seeds.append(weights.info(NAME)["seed"])
        assert equal(weights.load(NAME), states[seeds[-1]])
        if next(calls) <= moment:
            break
        weights.save(NAME, states[1], {"seed": 1}, shard_bytes=5_400)  # also removes what was left
        assert sorted(path.relative_to(root).as_posix() for path in root.rglob("*.safetensors")) == shards()
        assert dead or sorted(files(root)) == [*shards(), "index.json"]
    assert seeds == sorted(seeds) and seeds.count(0) > 7 and seeds.count(1) > 6


@pytest.mark.skipif(sys.platform == "win32", reason="has no such lock")
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lambda: weights.save("a", state(1), {}), lambda: weights.save("b", state(2), {})),
        (lambda: weights.update("a", epsilon=0.1), lambda: weights.update("b", epsilon=0.2)),
        (lambda: weights.save("a", state(1), {}), lambda: weights.save("b", state(), {}, base="a")),
    ],
)
def test_of_two_who_save_at_once_the_second_waits(
    first: Callable[[], None], second: Callable[[], None], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one puts the index in its place another begins: the store is as if it had begun afterwards."""

    def begin() -> None:
        shutil.rmtree(root)
        for name in ("a", "b"):
            weights.save(name, state(), {})

    begin(), first(), second()
    expected, replace, others = files(root), os.replace, list[threading.Thread]()

    def meanwhile(source: Path, target: Path) -> None:
        if target.name == "index.json" and not others:
            others.append(threading.Thread(target=second))
            others[0].start()
            others[0].join(0.1)
        replace(source, target)

    begin()
    monkeypatch.setattr(os, "replace", meanwhile)
    first()
    others[0].join()
    assert files(root) == expected


def test_without_locks_one_may_save_still(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)  # as on Windows
    root.rmdir()  # it is made when needed
    weights.save(NAME, state(), {})
    assert equal(weights.load(NAME), state())


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
def test_an_index_that_does_not_hold_together_is_named(index: bytes | dict[str, Any], message: str, root: Path) -> None:
    (root / "index.json").write_bytes(index if isinstance(index, bytes) else json.dumps(index).encode())
    before = files(root)
    for act in (
        lambda: weights.load("a"),
        lambda: weights.update("a", epsilon=0.1),
        lambda: weights.save("d", state(), {}),
    ):
        with pytest.raises(ValueError, match=rf"index\.json(: |, ){message}.*; restore it"):
            act()
    assert files(root) == before


def test_a_base_may_have_a_base(root: Path) -> None:
    for name, base in (("a", ""), ("b", "a"), ("c", "b"), ("d", "b")):
        weights.save(name, state() | {name: torch.ones(1)}, {}, base=base)
    assert equal(weights.load("c"), state() | {"c": torch.ones(1)})
    assert weights.info("d")["parameters"] == 1
