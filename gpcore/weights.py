"""Our trained networks: safetensors shards under `data/weights`, vouched for by SHA-256 in its `index.json`."""

import difflib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from gpcore import paths

HEADER = 256  # more than safetensors' header needs for one tensor, its name apart


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
    """Stores `state` as root/`name`-IofN.safetensors, no file above `shard_bytes`, and its index entry.

    Floating tensors become float16 if `half`. A tensor equal to one of the saved `base`, under its name or behind a
    prefix ("network.conv1.weight"), is not stored again. `info` (recipe, seed, data set, scores, epsilon) joins the
    entry beside "files" and "parameters" (floating values stored). Same state, same bytes. An earlier save's other
    shards go.
    Raises ValueError: bad name, no tensors, "files" in info, a tensor above the limit or out of float16's range.
    """
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", name):
        raise ValueError(f"name: got {name!r}, expected words joined by '/', such as 'digits/fcn-seed0'")
    if not state:
        raise ValueError("state: got no tensors, expected at least one")
    shards: list[dict[str, Tensor]] = []
    room = -1
    known = load(base, root=root) if base else {}
    shared: dict[str, str] = {}
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
    blobs = {f"{name}-{i}of{len(shards)}.safetensors": safetensors.torch.save(s) for i, s in enumerate(shards, 1)}
    parameters = sum(t.numel() for shard in shards for t in shard.values() if t.is_floating_point())
    files = {file: hashlib.sha256(blob).hexdigest() for file, blob in blobs.items()}
    entry = {"parameters": parameters, "files": files} | ({"base": base, "shared": shared} if base else {})
    _put(root, name, entry, info, blobs)
    shard_name = re.compile(re.escape(Path(name).name) + r"-\d+of\d+\.safetensors")
    for path in (root / name).parent.iterdir():
        if shard_name.fullmatch(path.name) and path.relative_to(root).as_posix() not in files:
            path.unlink()


def load(name: str, *, root: Path = paths.WEIGHTS) -> dict[str, Tensor]:
    """The state saved as `name`, floating tensors as float32; every file's hash is checked before it is parsed.

    Raises ValueError: unknown name, or a file that is not the one saved. FileNotFoundError: a shard is missing.
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
    _put(root, name, info(name, root=root), fields, {})


def _index(root: Path) -> dict[str, Any]:
    path = root / "index.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _put(root: Path, name: str, entry: dict[str, Any], fields: Mapping[str, object], blobs: dict[str, bytes]) -> None:
    if "files" in fields:
        raise ValueError("info: got a field 'files', which is kept for the shards' hashes")
    index = {**_index(root), name: {**entry, **fields}}
    text = json.dumps(index, indent=1, sort_keys=True, allow_nan=False)  # fails, if it must, before anything is written
    for file, content in {**blobs, "index.json": f"{text}\n".encode()}.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        part = (root / file).with_suffix(".part")
        part.write_bytes(content)
        os.replace(part, root / file)
