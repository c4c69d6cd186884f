"""Our trained networks: safetensors shards under `data/weights`, vouched for by SHA-256 in its `index.json`."""

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

HEADER = 256  # more than safetensors' header needs for one tensor, its name apart
NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*")  # of networks, and of files below the root


def save(
    name: str,
    state: Mapping[str, Tensor],
    info: Mapping[str, object],
    *,
    half: bool = False,
    base: str = "",
    shard_bytes: int = 7_500_000,
    root: Path = paths.WEIGHTS,
) -> None:
    """Stores `state` as root/`name`-IofN-HASH.safetensors, no file above `shard_bytes`, and its index entry.

    Floating tensors become float16 if `half`. A tensor equal to one of the saved `base`, under its name or behind a
    prefix ("network.conv1.weight"), is not stored again. `info` (recipe, seed, data set, scores, epsilon) joins the
    entry beside "files" and "parameters" (floating values stored). Same state, same bytes. An earlier save's other
    shards go; what shares tensors with them is refused from then on.  Raises ValueError: bad name, no tensors, "files"
    in info, a tensor above the limit or out of float16's range, a base that builds on `name`.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"name: got {name!r}, expected words joined by '/', such as 'digits/fcn-seed0'")
    if not state:
        raise ValueError("state: got no tensors, expected at least one")
    with _alone(root):
        shards, shared, room = list[dict[str, Tensor]](), dict[str, str](), -1
        known = load(base, root=root) if base else {}
        for key, value in sorted(state.items()):
            twin = next((k for k in known if f".{key}".endswith(f".{k}") and torch.equal(known[k], value.cpu())), None)
            if twin is not None:
                shared[key] = twin
                continue
            tensor = value.detach().cpu().clone(memory_format=torch.contiguous_format)
            if half and tensor.is_floating_point():
                tensor = tensor.half()
                if not torch.equal(tensor.isfinite(), value.detach().cpu().isfinite()):
                    raise ValueError(f"state[{key!r}]: got values up to {value.abs().max():.3g}, float16 ends at 65504")
            size = tensor.nbytes + len(key.encode()) + HEADER
            if size > shard_bytes:
                raise ValueError(f"state[{key!r}]: got {size} bytes with its header, shard_bytes allows {shard_bytes}")
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
        _put(root, name, entry, info, dict(zip(files, blobs, strict=True)))


def load(name: str, *, root: Path = paths.WEIGHTS) -> dict[str, Tensor]:
    """The state saved as `name`, floating tensors as float32; every file's hash is checked before it is parsed.

    Raises ValueError: unknown name, a file or base that is not the one saved. FileNotFoundError: a shard is missing.
    """
    state: dict[str, Tensor] = {}
    entry = info(name, root=root)
    for file, expected in entry["files"].items():
        if not (root / file).is_file():
            raise FileNotFoundError(f"weights {name!r}: {root / file} is missing; restore it or train anew")
        blob = (root / file).read_bytes()
        if (found := hashlib.sha256(blob).hexdigest()) != expected:
            raise ValueError(f"weights {name!r}: {root / file} has SHA-256 {found}, expected {expected}")
        state |= safetensors.torch.load(blob)
    if "base" in entry:
        known = load(entry["base"], root=root)
        if entry.get("stale") or not known.keys() >= {*entry["shared"].values()}:
            raise ValueError(f"weights {name!r}: {entry['base']!r}, whose tensors it shares, has changed; train anew")
        state |= {key: known[twin] for key, twin in entry["shared"].items()}
    return {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in state.items()}


def info(name: str, *, root: Path = paths.WEIGHTS) -> dict[str, Any]:
    """The index entry of `name`: files with hashes, parameters, recipe, seed, data set, scores, epsilon."""
    index = _index(root)
    if name not in index:
        near = difflib.get_close_matches(name, index, cutoff=0.3) or sorted(index)
        raise ValueError(f"weights: got {name!r}, expected one of: {', '.join(near) or f'none are saved in {root}'}")
    return dict(index[name])


def update(name: str, *, root: Path = paths.WEIGHTS, **fields: object) -> None:
    """Merges `fields` (a tuned epsilon, scores) into the entry of `name`; its files stay."""
    with _alone(root):
        _put(root, name, info(name, root=root), fields, {})


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Nobody else saves meanwhile. The lock lies on the folder itself and so leaves no file."""
    root.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError, OSError):  # Windows and some network drives know no such lock
            import fcntl

            folder = os.open(root, os.O_RDONLY)
            stack.callback(os.close, folder)
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield


def _index(root: Path, changed: dict[str, Any] | None = None) -> dict[str, Any]:
    """The index, or what it is to become.  Raises ValueError, naming the file and the entry that does not hold."""
    path = root / "index.json"
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
                    needed = "'files' in this folder, 'parameters', and 'shared' with a base that does not build on it"
                    of = " on ".join(map(repr, chain))
                    raise ValueError(f"{path}, entry {of}: got {entry!r:.60}, expected {needed}; restore it")
    return index


def _put(root: Path, name: str, entry: dict[str, Any], fields: Mapping[str, object], blobs: dict[str, bytes]) -> None:
    """Shards under new names, then the index, then what it names no more: killed at any moment, old or new loads."""
    if own := sorted({"files", "parameters", "base", "shared", "stale"} & fields.keys()):
        raise ValueError(f"info: got a field {own[0]!r}, which is kept for what `save` stores")
    index = _index(root)
    if {*index.get(name, entry)["files"].values()} != {*entry["files"].values()}:
        index |= {key: each | {"stale": True} for key, each in index.items() if each.get("base") == name}
    index[name] = {**entry, **fields}
    text = json.dumps(_index(root, index), indent=1, sort_keys=True, allow_nan=False)
    with tempfile.TemporaryDirectory(dir=root, prefix=".") as folder:  # nothing is written until here
        for file, content in {**blobs, "index.json": f"{text}\n".encode()}.items():
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            part = Path(folder, "part")
            part.write_bytes(content)
            os.replace(part, root / file)
    named = {file for each in index.values() for file in each["files"]}
    shard = re.compile(re.escape(Path(name).name) + r"-\d+of\d+(-[0-9a-f]{12})?\.safetensors")
    for path in (root / name).parent.glob("*.safetensors"):
        if shard.fullmatch(path.name) and path.relative_to(root).as_posix() not in named:
            path.unlink()
