"""Our trained networks: safetensors shards below `paths.WEIGHTS`, vouched for by SHA-256 in its `index.json`."""

import contextlib
import difflib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from gpcore import paths
from gpcore.checks import expect

HEADER = 256  # more than safetensors' header needs for one tensor, its name apart
NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*")  # of networks, and of files below the root


def save(
    name: str, state: Mapping[str, Tensor], info: Mapping[str, object], *, base: str = "", shard_bytes: int = 7_500_000
) -> None:
    """Stores `state`, floating tensors in half precision, as `name`-IofN-HASH.safetensors, and its index entry.

    No file exceeds `shard_bytes`. A tensor equal to one of the saved `base`, under its name or behind a prefix
    ("network.conv1.weight"), is not stored again. `info` (recipe, seed, data set, scores, epsilon) joins the entry
    beside "files" and "parameters" (floating values stored). Same state, same bytes. An earlier save's other shards
    go; what shares tensors with them is refused from then on.  Raises ValueError: bad name, no tensors, "files" in
    info, a tensor above the limit or out of float16's range, a base that builds on `name`.
    """
    expect("name", repr(name), NAME.fullmatch(name), "words joined by '/', such as 'digits/fcn-seed0'")
    expect("state", "no tensors", state, "at least one")
    with _alone():
        known = load(base) if base else {}
        shared = {
            key: twin
            for key, value in state.items()
            for twin in known
            if f".{key}".endswith(f".{twin}") and torch.equal(known[twin], value.cpu())
        }
        shards, room = list[dict[str, Tensor]](), -1
        for key in sorted(state.keys() - shared.keys()):
            value = state[key].detach().cpu()
            tensor = (value.half() if value.is_floating_point() else value).clone(memory_format=torch.contiguous_format)
            lost = value[tensor.isfinite() != value.isfinite()]
            expect(f"state[{key!r}]", f"{lost[:1].tolist()}", not len(lost), "float16's range, which ends at 65504")
            size = tensor.nbytes + len(key.encode()) + HEADER
            expect(f"state[{key!r}]", f"{size} bytes with its header", size <= shard_bytes, f"at most {shard_bytes}")
            if size > room:
                shards.append({})
                room = shard_bytes
            shards[-1][key] = tensor
            room -= size
        blobs = [safetensors.torch.save(shard) for shard in shards]
        digests = [hashlib.sha256(blob).hexdigest() for blob in blobs]
        files = {f"{name}-{i}of{len(blobs)}-{each[:12]}.safetensors": each for i, each in enumerate(digests, 1)}
        parameters = sum(t.numel() for shard in shards for t in shard.values() if t.is_floating_point())
        entry = {"parameters": parameters, "files": files} | ({"base": base, "shared": shared} if base else {})
        _put(name, entry, info, dict(zip(files, blobs, strict=True)))


def load(name: str) -> dict[str, Tensor]:
    """The state saved as `name`, floating tensors as float32; every file's hash is checked before it is parsed.

    Raises ValueError: unknown name, a file or base that is not the one saved. FileNotFoundError: a shard is missing.
    """
    state, entry = dict[str, Tensor](), info(name)
    for file, expected in entry["files"].items():
        path = paths.WEIGHTS / file
        if not path.is_file():
            raise FileNotFoundError(f"weights {name!r}: {path} is missing; restore it or train anew")
        blob = path.read_bytes()
        found = hashlib.sha256(blob).hexdigest()
        expect(f"weights {name!r}", f"{path} with SHA-256 {found}", found == expected, expected)
        state |= safetensors.torch.load(blob)
    if "base" in entry:
        known = load(entry["base"])
        same = not entry.get("stale") and known.keys() >= {*entry["shared"].values()}
        expect(f"weights {name!r}", f"a changed {entry['base']!r}", same, "the one whose tensors it shares; train anew")
        state |= {key: known[twin] for key, twin in entry["shared"].items()}
    return {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in state.items()}


def info(name: str) -> dict[str, Any]:
    """The index entry of `name`: files with hashes, parameters, recipe, seed, data set, scores, epsilon."""
    index = _index()
    near = difflib.get_close_matches(name, index, cutoff=0.3) or sorted(index) or [f"none are saved in {paths.WEIGHTS}"]
    expect("weights", repr(name), name in index, f"one of: {', '.join(near)}")
    return dict(index[name])


def update(name: str, **fields: object) -> None:
    """Merges `fields` (a tuned epsilon, scores) into the entry of `name`; its files stay."""
    with _alone():
        _put(name, info(name), fields, {})


def known(name: str) -> bool:
    """Whether anything is saved as `name`."""
    return name in _index()


def forget(name: str) -> None:
    """Removes `name`, if it is there, with its files.  Raises ValueError: others build on it."""
    with _alone():
        index = _index()
        above = [key for key, each in index.items() if each.get("base") == name]
        expect("weights", f"{name!r}, on which {', '.join(above)} build", not above, "what nothing builds on")
        if name in index:
            files = index.pop(name)["files"]
            _write(index, {})
            for file in files:
                (paths.WEIGHTS / file).unlink(missing_ok=True)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Nobody else saves meanwhile. The lock lies on the folder itself and so leaves no file."""
    paths.WEIGHTS.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError, OSError):  # Windows and some network drives know no such lock
            import fcntl

            folder = os.open(paths.WEIGHTS, os.O_RDONLY)
            stack.callback(os.close, folder)
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield


def _index(changed: dict[str, Any] | None = None) -> dict[str, Any]:
    """The index, or what it is to become.  Raises ValueError, naming the file and the entry that does not hold."""
    path = paths.WEIGHTS / "index.json"
    try:
        index: dict[str, Any] = {**(changed or (json.loads(path.read_bytes()) if path.is_file() else {}))}
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: holds no JSON object of entries ({error}); restore it") from error
    for chain in [[name] for name in index]:
        for name in chain:  # an entry, then those that it builds on
            match entry := index.get(name):
                case {"files": dict(files), "parameters": int(), **rest} if (
                    all(map(NAME.fullmatch, (name, *files)))
                    and ("base" in rest) == isinstance(rest.get("shared"), dict)
                    and chain.count(name) == 1
                ):
                    chain += [str(rest["base"])] if "base" in rest else []
                case _:
                    chained = " on ".join(map(repr, chain))
                    needed = "'files' in this folder, 'parameters', and 'shared' with a base that does not build on it"
                    expect(f"{path}, entry {chained}", f"{entry!r:.60}", False, f"{needed}; restore it")
    return index


def _put(name: str, entry: dict[str, Any], fields: Mapping[str, object], blobs: dict[str, bytes]) -> None:
    """Shards under new names, then the index, then what it names no more: killed at any moment, old or new loads."""
    own = {"files", "parameters", "base", "shared", "stale"} & fields.keys()
    expect("info", f"fields {own}", not own, "none of those that `save` stores")
    root, index = paths.WEIGHTS, _index()
    if {*index.get(name, entry)["files"].values()} != {*entry["files"].values()}:
        index |= {key: each | {"stale": True} for key, each in index.items() if each.get("base") == name}
    index[name] = {**entry, **fields}
    _write(index, blobs)
    named = {root / file for each in index.values() for file in each["files"]}
    for shard in {*root.glob(f"{name}-[0-9]*of[0-9]*.safetensors")} - named:
        shard.unlink()


def _write(index: dict[str, Any], blobs: dict[str, bytes]) -> None:
    """New files, then the index that names them, each whole or not at all."""
    root, text = paths.WEIGHTS, json.dumps(_index(index), indent=1, sort_keys=True, allow_nan=False)
    with tempfile.TemporaryDirectory(dir=root, prefix=".") as folder:  # nothing is written until here
        for file, content in {**blobs, "index.json": f"{text}\n".encode()}.items():
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            part = Path(folder, "part")
            part.write_bytes(content)
            os.replace(part, root / file)
