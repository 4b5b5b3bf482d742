"""A zip archive from the web, unpacked into a folder: all or nothing."""

from __future__ import annotations

import errno
import lzma
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import filelock
import pooch
from requests import HTTPError, RequestException
from tqdm import tqdm

from ltcam_cli import files
from ltcam_cli.errors import LtcamError

TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as broken."""


class _BadArchiveError(Exception):
    """The archive is complete and is not what it should be."""


def download_archive(
    url: str,
    target: Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    progress: bool = True,
) -> Path:
    """Fetch a zip archive and unpack it as the folder `target`, which appears when all is there.

    If all the archive's content lies in one folder, that folder's content becomes the target's.

    Args:
        url: http or https.
        target: a folder that does not exist or is empty.
        size: the archive's length in bytes, if it is published.
        sha256: the archive's hex SHA-256, if it is published.
        progress: show progress bars on standard error.

    Returns:
        `target`.

    Raises:
        LtcamError: if the target is not empty, the server cannot be reached or refuses, the
            transfer breaks, the archive is not what was expected, is damaged or holds members
            that would leave the target, or the disk is full.
    """
    if not re.match(r"https?://[^/\s]", url):
        raise LtcamError(f"{url}: not an http or https address; pass another one with --url")
    final = target.resolve()  # a link to an empty folder on a larger disk is filled there
    work = final.with_name(f".{final.name}.download")
    with _one_line_errors(url, target), _only_process(target, work):
        if final.exists() and not (final.is_dir() and not any(final.iterdir())):
            raise LtcamError(
                f"{target}: exists and is not an empty folder; delete it or pass another "
                "dataset.root"
            )
        shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
        try:
            archive = _fetch(url, work, sha256, progress)
            if size not in {None, archive.stat().st_size}:
                raise _BadArchiveError(f"{archive.stat().st_size} bytes, expected {size}")
            _unpack(archive, work / "content", f"unpacking {final.name}", progress)
            if final.exists():
                final.rmdir()
            (work / "content").rename(final)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return target


@contextmanager
def _one_line_errors(url: str, target: Path) -> Iterator[None]:
    """What a server, an archive or a disk does wrong, as one line with the remedy."""
    remedy = "run the same command again, pass another --url or download by hand"
    try:
        yield
    except _BadArchiveError as error:
        raise LtcamError(f"{url}: the archive is not the right one ({error}); {remedy}") from error
    except HTTPError as error:
        raise LtcamError(f"{url}: the server refuses ({error}); {remedy}") from error
    except RequestException as error:
        raise LtcamError(f"{url}: cannot be reached, or broke off ({error}); {remedy}") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise LtcamError(
            f"{error.filename or target}: cannot be written ({reason}); make room or pass another "
            "dataset.root, then run the same command again"
        ) from error


@contextmanager
def _only_process(target: Path, work: Path) -> Iterator[None]:
    guard = files.lock(work)
    try:
        guard.acquire(timeout=0)
    except filelock.Timeout:
        raise LtcamError(f"{target}: another process is downloading it; wait for that one") from None
    try:
        yield
    finally:
        guard.release()
        Path(guard.lock_file).unlink(missing_ok=True)


def _fetch(url: str, work: Path, sha256: str | None, progress: bool) -> Path:
    """The archive, checked by its hash."""
    pooch.get_logger().setLevel("WARNING")
    downloader = pooch.HTTPDownloader(
        progressbar=progress, chunk_size=1 << 16, timeout=TIMEOUT, headers={"User-Agent": "ltcam"}
    )
    try:
        return Path(pooch.retrieve(url, sha256, "archive.zip", work, downloader=downloader))
    except RequestException:
        raise
    except ValueError as error:  # pooch's, of another hash; or an address of wrong form
        raise _BadArchiveError(str(error)) from error


def _unpack(archive: Path, folder: Path, title: str, progress: bool) -> None:
    """Unpack as a new folder; members are judged before the first is written."""
    try:
        with zipfile.ZipFile(archive) as content:
            if _entries(archive) != len(content.infolist()) % (1 << 16):
                raise _BadArchiveError("its table of contents is not complete")
            members = _members(content)
            for member, steps in tqdm(members, desc=title, unit="file", disable=not progress):
                path = folder.joinpath(*steps)
                path.parent.mkdir(parents=True, exist_ok=True)
                with content.open(member) as source, path.open("xb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
    except (FileExistsError, NotADirectoryError) as error:
        raise _BadArchiveError("two members have one name") from error
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise _BadArchiveError(f"not a zip archive, or damaged: {error}") from error
    except (NotImplementedError, RuntimeError, ValueError) as error:
        raise _BadArchiveError(f"cannot be unpacked: {error}") from error
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENAMETOOLONG, errno.EILSEQ}:
            raise  # the disk's fault
        raise _BadArchiveError(f"damaged: {error.strerror}") from error


def _entries(archive: Path) -> int:
    """Number of members by the end of a zip file, modulo 2**16; zipfile does not compare it."""
    with archive.open("rb") as stream:
        stream.seek(max(0, archive.stat().st_size - (22 + (1 << 16))))
        tail = stream.read()
    start = tail.rfind(b"PK\x05\x06")
    return int.from_bytes(tail[start + 10 : start + 12], "little")


def _members(archive: zipfile.ZipFile) -> list[tuple[zipfile.ZipInfo, tuple[str, ...]]]:
    """The files of an archive and the steps of their paths below the target."""
    members = []
    for member in archive.infolist():
        steps = _safe_steps(member)
        clutter = "__MACOSX" in steps or ".DS_Store" in steps
        if steps and not member.is_dir() and not clutter:
            members.append((member, steps))
    if not members:
        raise _BadArchiveError("it holds no files")
    if len({steps[0] for _, steps in members}) == 1 and all(len(steps) > 1 for _, steps in members):
        return [(member, steps[1:]) for member, steps in members]
    return members


def _safe_steps(member: zipfile.ZipInfo) -> tuple[str, ...]:
    """The steps of a member's path.

    Raises:
        _BadArchiveError: if it would leave the target folder or is no plain file or folder.
    """
    name = member.orig_filename  # as stored; `filename` is already mended
    steps = name.split("/")
    if name.startswith("/") or ".." in steps or re.search(r"[\\\0]|^[A-Za-z]:", name):
        raise _BadArchiveError(f"member {name!r} would leave the target folder")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise _BadArchiveError(f"member {name!r} is a symbolic link")
    return tuple(step for step in steps if step not in {"", "."})
