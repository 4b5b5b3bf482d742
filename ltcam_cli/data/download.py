"""A zip archive from the web, unpacked into a folder: all or nothing."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import pooch
from requests import HTTPError, RequestException

from ltcam_cli import files
from ltcam_cli.data.archive import BadArchiveError, unpack
from ltcam_cli.errors import LtcamError
from ltcam_cli.progress import Progress

TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as broken."""


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
                raise BadArchiveError(f"{archive.stat().st_size} bytes, expected {size}")
            unpack(archive, work / "content", f"unpacking {final.name}", progress)
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
    except BadArchiveError as error:
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
        raise LtcamError(
            f"{target}: another process is downloading it; wait for that one"
        ) from None
    try:
        yield
    finally:
        guard.release()
        Path(guard.lock_file).unlink(missing_ok=True)


def _fetch(url: str, work: Path, sha256: str | None, progress: bool) -> Path:
    """The archive, checked by its hash."""
    pooch.get_logger().setLevel("WARNING")
    terminal = sys.stderr.isatty()
    downloader = pooch.HTTPDownloader(
        progressbar=progress and terminal,
        chunk_size=1 << 16,
        timeout=TIMEOUT,
        headers={"User-Agent": "ltcam"},
    )
    try:
        with Progress(f"fetching {url}", None, shown=progress and not terminal):
            return Path(pooch.retrieve(url, sha256, "archive.zip", work, downloader=downloader))
    except RequestException:
        raise
    except ValueError as error:  # pooch's, of another hash; or an address of wrong form
        raise BadArchiveError(str(error)) from error
