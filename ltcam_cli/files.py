"""Atomic writes, locks and hashes. Importable by every station."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

RACY = 3.0  # seconds for which a changed file may change again unseen
_DIGESTS_LOCK = threading.Lock()


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder, renamed to `path` if the block succeeds.

    Whoever reads `path` sees the old content or the new one, never a part.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    temporary.chmod(0o666 & ~_umask())  # mkstemp makes it private; a result is to be shared
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` atomically, as UTF-8."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` atomically as indented JSON; NaN becomes null."""
    write_text(path, json.dumps(_plain(value), indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def append(path: Path, text: str) -> None:
    """Append whole lines to a file, as UTF-8; all of them, or none if the disk is full."""
    content = text.encode("utf-8", "surrogateescape")
    with path.open("ab", buffering=0) as stream:
        size = stream.tell()
        if stream.write(content) != len(content):
            stream.truncate(size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def lock(path: Path) -> FileLock:
    """An inter-process lock that guards `path`; use as a context manager."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_name(f".{path.name}.lock"))


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock of `path` for long work; says so if another process has it, and waits."""
    guard = lock(path)
    try:
        guard.acquire(timeout=0)
    except Timeout:
        log.info("%s: another process is at work there; waiting for it", path.parent)
        guard.acquire()
    try:
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


def content_digest(path: Path) -> str:
    """Hex SHA-256 of a file's bytes; the file is read again only if its size, time or inode change.

    Digests are kept in the user's cache folder, or in that of the environment's `LTCAM_CACHE`. As
    with git's index, a file that was changed within the last seconds is not kept: it might change
    once more within the clock's step.
    """
    stat = path.stat()
    key = str(path.resolve())
    seen = f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ino}"
    with _digests() as known:
        row = known.execute("SELECT digest FROM digests WHERE path = ? AND seen = ?", (key, seen))
        if held := row.fetchone():
            return str(held[0])
        digest = sha256(path)
        if time.time() - stat.st_mtime > RACY:
            known.execute("REPLACE INTO digests VALUES (?, ?, ?)", (key, seen, digest))
    return digest


@contextmanager
def _digests() -> Iterator[sqlite3.Connection]:
    """The kept digests; of this process alone where the cache folder cannot be written."""
    with _DIGESTS_LOCK:
        folder = Path(os.environ.get("LTCAM_CACHE") or platformdirs.user_cache_dir("ltcam"))
        connection = _connection(folder / "digests.sqlite")
        yield connection
        with suppress(sqlite3.OperationalError):  # another process writes; it costs a digest
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
    """First hex digits of the SHA-256 of a JSON-like value; dictionaries count without order."""
    text = json.dumps(value, sort_keys=True, default=str)
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
