"""Downloads from a server on this machine that breaks off and lies on demand."""

from __future__ import annotations

import errno
import hashlib
import io
import shutil
import socket
import stat
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from ltcam_cli import files
from ltcam_cli.data import archive, download
from ltcam_cli.data.download import download_archive
from ltcam_cli.data.ksdd import Ksdd
from ltcam_cli.errors import LtcamError


class Server(ThreadingHTTPServer):
    """Serves `content` at every path and counts how often it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = b""
        self.chunked = False
        self.status = 200
        self.break_after: int | None = None  # of the next answer only
        self.asked = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/KolektorSDD.zip"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server, content = self.server, self.server.content
        server.asked += 1
        cut, server.break_after = server.break_after, None
        if server.status != 200:
            self.send_error(server.status)
            return
        self.send_response(200)
        if server.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n" % len(content) + content[:cut])
            if cut is None:
                self.wfile.write(b"\r\n0\r\n\r\n")
        else:
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[:cut])
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as one:
        one.content = zipped(CONTENT)
        thread = threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield one
        one.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "data" / "KolektorSDD"


def random_bytes(seed: int, length: int = 9000) -> bytes:
    return np.random.default_rng(seed).bytes(length)


CONTENT = {
    f"KolektorSDD/kos{item:02d}/Part{part}{suffix}": random_bytes(100 * item + 10 * part + index)
    for item in (1, 2)
    for part in range(3)
    for index, suffix in enumerate((".jpg", "_label.bmp"))
}


def zipped(content: dict[str, bytes], *, link: str | None = None) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as content_of:
        for name, data in content.items():
            info = zipfile.ZipInfo("placeholder")
            info.filename = info.orig_filename = name
            if name == link:
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
            content_of.writestr(info, data)
    return stream.getvalue()


def tree(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file()
    }


def beside(target: Path) -> set[str]:
    return {path.name for path in target.parent.iterdir()} if target.parent.exists() else set()


def is_right(target: Path, content: dict[str, bytes] = CONTENT) -> bool:
    wanted = {name.removeprefix("KolektorSDD/"): data for name, data in content.items()}
    return tree(target) == wanted and beside(target) == {target.name}


def fails(server_or_url: Server | str, target: Path, match: str, **options: object) -> LtcamError:
    url = server_or_url if isinstance(server_or_url, str) else server_or_url.url
    with pytest.raises(LtcamError, match=match) as caught:
        download_archive(url, target, progress=False, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return caught.value


def test_plain(server: Server, target: Path, capfd: pytest.CaptureFixture[str]) -> None:
    size, digest = len(server.content), hashlib.sha256(server.content).hexdigest()
    dataset = Ksdd(root=str(target), url=server.url, size=size, sha256=digest.upper())
    assert dataset.download() == target
    assert is_right(target)
    assert server.asked == 1
    out, err = capfd.readouterr()
    assert out == err == ""  # quick, and no terminal


def test_empty_target_and_quiet(
    server: Server, target: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    target.mkdir(parents=True)
    download_archive(server.url, target, progress=False)
    assert is_right(target)
    assert capfd.readouterr() == ("", "")


def test_linked_target_is_filled_where_it_points(
    server: Server, target: Path, tmp_path: Path
) -> None:
    real = tmp_path / "large-disk" / "ksdd"
    real.mkdir(parents=True)
    target.parent.mkdir()
    target.symlink_to(real)
    download_archive(server.url, target, progress=False)
    assert is_right(real) and target.is_symlink() and beside(target) == {target.name}


def test_clutter_is_ignored_and_no_single_folder(server: Server, target: Path) -> None:
    wanted = {"kos01/Part0.jpg": b"a", "kos02/Part0.jpg": b"b"}
    clutter = {"__MACOSX/kos01/._Part0.jpg": b"x", ".DS_Store": b"x", "kos01/.DS_Store": b"x"}
    server.content = zipped({**clutter, **wanted, "kos01/": b""})
    download_archive(server.url, target, progress=False)
    assert is_right(target, wanted)


def test_single_folder_beside_clutter(server: Server, target: Path) -> None:
    server.content = zipped({"__MACOSX/._KolektorSDD": b"x", **CONTENT, "KolektorSDD/": b""})
    download_archive(server.url, target, progress=False)
    assert is_right(target)


@pytest.mark.parametrize("chunked", [False, True])
def test_broken_transfer(server: Server, target: Path, chunked: bool) -> None:
    server.chunked, server.break_after = chunked, len(server.content) // 2
    fails(server, target, "broke off .*run the same command again")
    assert beside(target) == set()
    download_archive(server.url, target, progress=False)
    assert is_right(target) and server.asked == 2


def test_leftovers_of_a_killed_process(server: Server, target: Path) -> None:
    work = target.with_name(".KolektorSDD.download")
    (work / "content").mkdir(parents=True)
    (work / "archive.zip").write_bytes(zipped({"another": b"archive"}))
    download_archive(server.url, target, progress=False)
    assert is_right(target)


@pytest.mark.parametrize("chunked", [False, True])
def test_wrong_size(server: Server, target: Path, chunked: bool) -> None:
    server.chunked = chunked
    fails(server, target, f"{len(server.content)} bytes, expected 7", size=7)
    assert beside(target) == set()


def test_wrong_sha256(server: Server, target: Path) -> None:
    digest = hashlib.sha256(server.content).hexdigest()
    fails(server, target, f"expected {'0' * 64} but got {digest}", sha256="0" * 64)
    assert beside(target) == set()


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "KolektorSDD/../../evil",
        "/evil",
        "//evil",
        "C:/evil",
        "c:evil",
        "..\\evil",
        "a\\b",
        "evil\0.jpg",
    ],
)
def test_member_that_leaves(server: Server, target: Path, name: str) -> None:
    server.content = zipped({**CONTENT, name: b"evil"})
    error = fails(server, target, "would leave the target folder")
    assert repr(name) in str(error)
    assert beside(target) == set()
    assert not list(target.parent.parent.rglob("*evil*"))


def test_symbolic_link(server: Server, target: Path) -> None:
    name = "KolektorSDD/kos01/link"
    server.content = zipped({**CONTENT, name: b"/etc/passwd"}, link=name)
    fails(server, target, f"member '{name}' is a symbolic link")
    assert beside(target) == set()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<html>please log in</html>", "not a zip archive"),
        (b"", "not a zip archive"),
        (zipped(CONTENT)[:-3000], "not a zip archive"),
        (zipped({}), "holds no files"),
        (zipped({"__MACOSX/._a": b"x"}), "holds no files"),
        (zipped({"a": b"x", "a/b": b"y"}), "have one name"),
        (zipped({"a": b"x", "a/b/c": b"y"}), "have one name"),
        (zipped({"a" * 300: b"x"}), "File name too long"),
        (zipped({"a/b": b"x", "./a/b": b"y"}), "have one name"),
    ],
)
def test_bad_archive(server: Server, target: Path, content: bytes, reason: str) -> None:
    server.content = content
    fails(server, target, reason)
    assert beside(target) == set()


def test_an_archive_that_would_fill_the_disk(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as content:
        content.writestr("a/black.bmp", bytes(10**6))
    server.content = stream.getvalue()
    monkeypatch.setattr(archive, "FREE_BYTES", 10**5)
    monkeypatch.setattr(archive, "MAX_RATIO", 9)
    fails(server, target, "unpacks from .* to 1000000 bytes, .* 9 times as many")
    monkeypatch.setattr(archive, "FREE_BYTES", 10**6)
    monkeypatch.setattr(archive, "MAX_BYTES", 10**6 - 1)
    fails(server, target, "more than 999999 in all")
    assert beside(target) == set()


def test_damaged_archive(server: Server, target: Path) -> None:
    """Whatever byte is wrong: right content or one clear line, and never a part of the content."""
    good = zipped({name: data[:40] for name, data in CONTENT.items()})
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        damaged = bytearray(good)
        damaged[random.integers(len(good))] ^= 1 << random.integers(8)
        server.content = bytes(damaged)
        try:
            download_archive(server.url, target, progress=False)
        except LtcamError:
            assert beside(target) == set()
            refused += 1
        else:
            assert sorted(tree(target).values()) == sorted(data[:40] for data in CONTENT.values())
            shutil.rmtree(target)
    assert refused > 30


@pytest.mark.parametrize("status", [403, 404, 503])
def test_refused_by_the_server(server: Server, target: Path, status: int) -> None:
    server.status = status
    fails(server, target, f"{status} .*--url")
    assert beside(target) == set()


def test_connection_refused(target: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    fails(f"http://127.0.0.1:{port}/x.zip", target, "cannot be reached.*Connection refused.*--url")
    assert beside(target) == set()


def test_silent_server(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert download.TIMEOUT == 30
    monkeypatch.setattr(download, "TIMEOUT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        fails(f"http://127.0.0.1:{silent.getsockname()[1]}/x.zip", target, "timed out")


@pytest.mark.parametrize("url", ["", "KolektorSDD.zip", "file:///etc/passwd", "ftp://a/b", "http:"])
def test_no_web_address(target: Path, url: str) -> None:
    fails(url, target, "not an http or https address")


@pytest.mark.parametrize("url", ["http://[/x.zip", "http://127.0.0.1:port/x", "http://a b/x"])
def test_malformed_address(target: Path, url: str) -> None:
    fails(url, target, "address|reached")


def test_existing_target(server: Server, target: Path) -> None:
    (target / "kos01").mkdir(parents=True)
    fails(server, target, "not an empty folder; delete it or pass another dataset.root")
    assert server.asked == 0 and beside(target) == {target.name}
    (target / "kos01").rmdir()
    target.rmdir()
    target.write_text("a file")
    fails(server, target, "not an empty folder")


def test_parent_is_a_file(server: Server, target: Path) -> None:
    target.parent.write_text("a file")
    fails(server, target, "cannot be written .*dataset.root")


@pytest.mark.parametrize("step", ["copyfileobj", "move"])  # while unpacking, while downloading
def test_full_disk(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, step, full)
        fails(server, target, "No space left on device.*run the same command again")
    assert beside(target) == set()
    download_archive(server.url, target, progress=False)
    assert is_right(target)


def test_two_at_once(server: Server, target: Path) -> None:
    with files.lock(target.with_name(".KolektorSDD.download")):
        fails(server, target, "another process is downloading it")
    assert server.asked == 0


@pytest.mark.parametrize("key", ["url", "root"])
def test_data_set_without_address(key: str) -> None:
    with pytest.raises(LtcamError, match=rf"dataset\.{key} is not set"):
        Ksdd(**{key: None}).download()
