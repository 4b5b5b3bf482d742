"""Atomic writes, locks and hashes. Importable by every station.

What is promised, and to whom: docs/reliability.md.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import sqlite3
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs
from filelock import FileLock, Timeout

if TYPE_CHECKING:
    import pandas as pd

try:
    import fcntl
except ImportError:  # Windows: temporary files of killed processes stay
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

RACY = 3.0  # seconds for which a changed file may change again unseen
TEMPORARY = ".ltcam-"  # begins the names of temporary files; short, since a name has 255 bytes
TEMPORARY_NAME = re.compile(r"\.ltcam-[a-z0-9_]{8}(\..*)?")
_DIGESTS_LOCK = threading.Lock()


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder, renamed to `path` if the block succeeds.

    Whoever reads `path` sees the old content or the new one, never a part; also after a power cut,
    since the content is on the disk before it has the name.

    Raises:
        OSError: If it cannot be written; it names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = _temporary(path)
    try:
        with _naming(path, temporary):
            temporary.chmod(0o666 & ~_umask())  # mkstemp makes it private; a result is to be shared
            yield temporary
            # May be another file than that of the handle; Windows syncs only what can be written.
            with temporary.open("rb" if fcntl is not None else "r+b") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        if handle is not None:
            os.close(handle)


def _temporary(path: Path) -> tuple[int | None, Path]:
    """Handle and path of an empty file beside `path`, locked for as long as the handle is open.

    No handle without `fcntl`: Windows renames no open file, and there is no lock to hold.
    """
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=TEMPORARY, suffix=path.suffix[:20])
        if fcntl is None:
            os.close(handle)
            return None, Path(name)
        if _try_lock(handle) and os.fstat(handle).st_nlink:
            return handle, Path(name)
        os.close(handle)  # swept before it was locked


@contextmanager
def _naming(path: Path, temporary: Path) -> Iterator[None]:
    """Let errors of writing name the file that is meant, not the temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # numpy's and Pillow's, of a full disk
            raise OSError(errno.EIO, f"cannot be written ({error})", str(path)) from error
        if error.filename in {None, str(temporary)}:
            error.filename = str(path)
        raise


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files below a folder that processes left when they were killed.

    A living process holds the lock of each of its own, on whatever machine it runs. Sub-folders
    with a lock file in them are left to whoever takes that lock.
    """
    for here, folders, names in os.walk(folder):
        if Path(here) != folder and any(name.endswith(".lock") for name in names):
            folders.clear()
            continue
        for name in filter(TEMPORARY_NAME.fullmatch, names):
            _remove_without_owner(Path(here, name))


def _remove_without_owner(path: Path) -> None:
    with suppress(OSError):  # another process was faster, or may not be disturbed
        handle = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
        try:
            if fcntl is not None and _try_lock(handle, without_locks=False):
                path.unlink(missing_ok=True)
        finally:
            os.close(handle)


def _try_lock(handle: int, without_locks: bool = True) -> bool:
    """Whether a file could be locked until its handle is closed.

    Args:
        handle: File.
        without_locks: Result where the system or the file system has no locks.
    """
    if fcntl is None:
        return without_locks
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return without_locks
    return True


def write_text(path: Path, text: str) -> None:
    """Write `text` atomically, as UTF-8."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` atomically as indented JSON; NaN becomes null."""
    write_text(path, json.dumps(_plain(value), indent=2, allow_nan=False) + "\n")


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV, atomically and in full precision."""
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False)


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def append(path: Path, text: str) -> None:
    """Append whole lines to a file, as UTF-8, on the disk; all, or none if that is full."""
    content = text.encode("utf-8", "surrogateescape")
    with path.open("ab", buffering=0) as stream:
        size = stream.tell()
        if stream.write(content) != len(content):
            stream.truncate(size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(stream.fileno())


def lock(path: Path) -> FileLock:
    """An inter-process lock that guards `path`; use as a context manager."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_name(f".{path.name}.lock"))


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock of a folder or file for long work, without what killed processes left there.

    Says so if another process has it, and waits.
    """
    guard = lock(path)
    try:
        guard.acquire(timeout=0)
    except Timeout:
        log.info("%s: another process is at work there; waiting for it", path.parent)
        guard.acquire()
    try:
        remove_leftovers(path if path.is_dir() else path.parent)
        yield
    finally:
        guard.release()


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def regular(path: Path) -> os.stat_result:
    """Status of a regular file, or of a link to one; opening anything else may wait for ever.

    Raises:
        OSError: If it is a folder, FIFO, socket or device, or cannot be looked at.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "is no regular file, but a folder, FIFO or device", str(path))
    return status


def content_digest(path: Path) -> str:
    """Hex SHA-256 of a file's bytes; it is read again only if its size, times or inode change.

    Digests are kept in the user's cache folder, or in that of the environment's `LTCAM_CACHE`. As
    with git's index, a file that was changed within the last seconds is not kept: it might change
    once more within the clock's step. The time of modification can be set back (`cp -p`, `rsync
    -t`); that of the inode's change cannot.

    Raises:
        OSError: If it is no regular file, or cannot be read.
    """
    status = regular(path)
    key = os.fsencode(path.resolve())  # bytes: not every name is UTF-8
    seen = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"
    with _digests() as known:
        select = "SELECT digest FROM digests WHERE path = ? AND seen = ?"
        with suppress(sqlite3.Error):  # a damaged or full cache costs reading the file
            if held := known.execute(select, (key, seen)).fetchone():
                return str(held[0])
        digest = sha256(path)
        if time.time() - max(status.st_mtime, status.st_ctime) > RACY:
            with suppress(sqlite3.Error):
                known.execute("REPLACE INTO digests VALUES (?, ?, ?)", (key, seen, digest))
    return digest


@contextmanager
def _digests() -> Iterator[sqlite3.Connection]:
    """The kept digests; of this process alone where the cache folder cannot be written."""
    with _DIGESTS_LOCK:
        folder = Path(os.environ.get("LTCAM_CACHE") or platformdirs.user_cache_dir("ltcam"))
        connection = _connection(folder / "digests.sqlite")
        yield connection
        with suppress(sqlite3.Error):  # another process writes; it costs a digest
            connection.commit()


@cache
def _connection(path: Path) -> sqlite3.Connection:
    table = "CREATE TABLE IF NOT EXISTS digests (path TEXT PRIMARY KEY, seen TEXT, digest TEXT)"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, check_same_thread=False, timeout=10)
        connection.execute("PRAGMA synchronous=OFF")  # a lost digest costs reading a file again
        connection.execute(table)
    except (OSError, sqlite3.Error):
        connection = sqlite3.connect(":memory:", check_same_thread=False)
        connection.execute(table)
    return connection


def short_hash(value: Any, length: int = 6) -> str:
    """First hex digits of the SHA-256 of a JSON-like value, read from a file or not yet written.

    Dictionaries count without order, numpy's scalars as Python's.
    """
    text = json.dumps(_plain(value), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _plain(value: Any) -> Any:
    """`value` with NaN as None and numpy scalars as Python's own."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and value != value else value
