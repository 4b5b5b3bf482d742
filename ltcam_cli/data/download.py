"""A zip archive from the web, unpacked into a folder: resumed if broken, all or nothing."""

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
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import filelock
from tqdm import tqdm

from ltcam_cli import files
from ltcam_cli.errors import LtcamError

TIMEOUT = 30.0
"""Seconds without an answer, or without a byte, after which a connection counts as broken."""

CHUNK = 1 << 16


def download_archive(
    url: str,
    target: Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    progress: bool = True,
) -> Path:
    """Fetch a zip archive and unpack it as the folder `target`.

    A transfer that breaks leaves `.<name>.zip.part` and `.<name>.zip.json` beside the target; the
    next call goes on from there if the server can and its file is still the same, and otherwise
    starts anew. The folder appears when all is unpacked; then the archive is deleted. If all the
    archive's content lies in one folder, that folder's content becomes the target's.

    Args:
        url: http or https.
        target: a folder that does not exist or is empty.
        size: the archive's length in bytes, if known.
        sha256: the archive's hex SHA-256, if known.
        progress: show progress bars on standard error.

    Returns:
        `target`.

    Raises:
        LtcamError: if the target is not empty, the server cannot be reached or refuses, the
            transfer breaks, the archive is not what was expected, is damaged or holds members
            that would leave the target, or the disk is full.
    """
    if not _is_web(url):
        raise LtcamError(f"{url}: not an http or https address; pass another one with --url")
    final = target.resolve()  # a link to an empty folder on a larger disk is filled there
    partial = final.with_name(f".{final.name}.zip.part")
    notes = final.with_name(f".{final.name}.zip.json")
    with _disk(target):
        if final.exists() and not (final.is_dir() and not any(final.iterdir())):
            raise LtcamError(
                f"{target}: exists and is not an empty folder; delete it or pass another "
                "dataset.root"
            )
        guard = files.lock(partial)
        try:
            guard.acquire(timeout=0)
        except filelock.Timeout:
            raise LtcamError(
                f"{target}: another process is downloading it; wait for that one"
            ) from None
        try:
            _fetch(url, partial, notes, size, progress)
            with _deleting_if_bad(url, partial, notes):
                _verify(partial, size, sha256)
                _unpack(partial, final, progress)
            partial.unlink()
            notes.unlink(missing_ok=True)
        finally:
            guard.release()
            Path(guard.lock_file).unlink(missing_ok=True)
    return target


def _is_web(url: str) -> bool:
    try:
        address = urlsplit(url)
    except ValueError:
        return False
    return address.scheme in {"http", "https"} and bool(address.netloc)


class _BadArchiveError(Exception):
    """The whole archive is here and is not what it should be; getting it again may help."""


@contextmanager
def _deleting_if_bad(url: str, partial: Path, notes: Path) -> Iterator[None]:
    try:
        yield
    except _BadArchiveError as error:
        partial.unlink(missing_ok=True)
        notes.unlink(missing_ok=True)
        raise LtcamError(
            f"{url}: {error}; deleted, run the same command again or pass another --url"
        ) from error


@contextmanager
def _disk(target: Path) -> Iterator[None]:
    """Say what a full disk or a missing permission means; network errors never come here."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise LtcamError(
            f"{error.filename or target}: cannot be written ({reason}); make room or pass another "
            "dataset.root, then run the same command again"
        ) from error


def _fetch(url: str, partial: Path, notes: Path, size: int | None, progress: bool) -> None:
    """Bring `partial` to its full length, from where it stands if that is possible."""
    known = _remembered(notes, url)
    have = partial.stat().st_size if known and partial.exists() else 0
    if have and have == known.get("total"):
        return  # complete, but was not unpacked
    response, have, total = _open(url, have, known, partial)
    with response:
        if size is not None and total is not None and total != size:
            partial.unlink(missing_ok=True)
            notes.unlink(missing_ok=True)
            raise LtcamError(
                f"{url}: the server offers {total} bytes, expected {size}; pass another --url or "
                "download by hand"
            )
        with partial.open("ab" if have else "wb") as stream:
            if not have:
                files.write_json(notes, {"url": url, "total": total, **_validators(response)})
            with tqdm(
                desc=partial.name.strip(".").removesuffix(".part"),
                total=total,
                initial=have,
                unit="B",
                unit_scale=True,
                unit_divisor=1024,
                disable=not progress,
            ) as bar:
                while chunk := _read(response, url, have, total):
                    stream.write(chunk)
                    have += len(chunk)
                    bar.update(len(chunk))
    if total is not None and have < total:
        raise _broken(url, have, total, "the connection closed")


def _open(
    url: str, have: int, known: dict[str, Any], partial: Path
) -> tuple[HTTPResponse, int, int | None]:
    """A response, the byte it starts at (`have` or 0) and the full length, None if not told."""
    headers = {"User-Agent": "ltcam", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if condition := _condition(known):
            headers["If-Range"] = condition
    try:
        response: HTTPResponse = urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        error.close()
        if have and error.code == 416:  # the file there is shorter than what is here
            return _open(url, 0, {}, partial)
        raise LtcamError(
            f"{url}: the server answers {error.code} {error.reason}; check the address, try again "
            "later, pass another one with --url or download by hand"
        ) from error
    except (OSError, HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        raise LtcamError(
            f"{url}: cannot be reached ({_one_line(reason)}); check the connection and run the "
            "same command again, pass another --url or download by hand"
        ) from error
    length = response.headers.get("Content-Length", "")
    if response.status == 200:
        return response, 0, int(length) if length.isdigit() else None
    span = re.fullmatch(
        r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip()
    )
    if have and response.status == 206 and span and int(span[1]) == have:
        total = int(span[2]) if span[2].isdigit() else None
        if _same(known, {"total": total, **_validators(response)}):
            return response, have, total
    response.close()
    if have:
        return _open(url, 0, {}, partial)
    raise LtcamError(
        f"{url}: the server answers {response.status} {response.reason}, expected 200; pass "
        "another --url or download by hand"
    )


def _read(response: HTTPResponse, url: str, have: int, total: int | None) -> bytes:
    """The next bytes as they come; none at the end."""
    try:
        return response.read1(CHUNK)
    except (OSError, HTTPException, ValueError) as error:
        raise _broken(url, have, total, _one_line(error)) from error


def _broken(url: str, have: int, total: int | None, reason: str) -> LtcamError:
    of = f" of {total}" if total is not None else ""
    return LtcamError(
        f"{url}: the transfer broke after {have}{of} bytes ({reason}); run the same command again "
        "to resume"
    )


def _one_line(reason: object) -> str:
    return " ".join(str(reason).split()) or type(reason).__name__


def _remembered(notes: Path, url: str) -> dict[str, Any]:
    """What the server said when this partial file was begun; empty if that is not known."""
    try:
        known = files.read_json(notes)
    except (FileNotFoundError, ValueError):
        return {}
    return known if isinstance(known, dict) and known.get("url") == url else {}


def _validators(response: HTTPResponse) -> dict[str, str | None]:
    return {
        "etag": response.headers.get("ETag"),
        "last_modified": response.headers.get("Last-Modified"),
    }


def _condition(known: dict[str, Any]) -> str | None:
    """The value for If-Range: a strong ETag, else the date, else nothing."""
    etag = known.get("etag")
    return etag if etag and not etag.startswith("W/") else known.get("last_modified")


def _same(known: dict[str, Any], told: dict[str, Any]) -> bool:
    """Whether nothing that was told then and is told now differs."""
    return all(known.get(key) in (None, value) for key, value in told.items() if value is not None)


def _verify(partial: Path, size: int | None, sha256: str | None) -> None:
    length = partial.stat().st_size
    if size is not None and length != size:
        raise _BadArchiveError(f"the archive has {length} bytes, expected {size}")
    if sha256 is not None and (digest := files.sha256(partial)) != sha256.lower():
        raise _BadArchiveError(f"the archive's SHA-256 is {digest}, expected {sha256.lower()}")


def _unpack(partial: Path, final: Path, progress: bool) -> None:
    """Unpack beside `final`, then rename; members are judged before the first is written."""
    unpacked = final.with_name(f".{final.name}.unpacking")
    shutil.rmtree(unpacked, ignore_errors=True)  # of a process that was killed
    try:
        with zipfile.ZipFile(partial) as archive:
            if _entries(partial) != len(archive.infolist()) % (1 << 16):
                raise _BadArchiveError("damaged (its table of contents is not complete)")
            members = _members(archive)
            unpacked.mkdir(exist_ok=True)
            for member, path in tqdm(
                members, desc=f"unpacking {final.name}", unit="file", disable=not progress
            ):
                place = unpacked.joinpath(*path)
                place.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, place.open("xb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
        if final.exists():
            final.rmdir()
        unpacked.rename(final)
    except (FileExistsError, NotADirectoryError) as error:
        raise _BadArchiveError("two members of the archive have one name") from error
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise _BadArchiveError(f"not a zip archive, or damaged ({_one_line(error)})") from error
    except (NotImplementedError, RuntimeError, ValueError) as error:
        raise _BadArchiveError(f"cannot be unpacked ({_one_line(error)})") from error
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENAMETOOLONG, errno.EILSEQ}:
            raise  # the disk's fault
        raise _BadArchiveError(f"damaged ({_one_line(error.strerror)})") from error
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def _entries(partial: Path) -> int:
    """How many members the end of a zip says there are, modulo 2**16; zipfile does not look."""
    with partial.open("rb") as stream:
        stream.seek(max(0, partial.stat().st_size - (22 + (1 << 16))))
        tail = stream.read()
    at = tail.rfind(b"PK\x05\x06")
    return int.from_bytes(tail[at + 10 : at + 12], "little")


def _members(archive: zipfile.ZipFile) -> list[tuple[zipfile.ZipInfo, tuple[str, ...]]]:
    """The files of an archive and where they belong below the target."""
    found = []
    for member in archive.infolist():
        path = _safe_parts(member)
        ignored = "__MACOSX" in path or ".DS_Store" in path
        if path and not member.is_dir() and not ignored:
            found.append((member, path))
    if not found:
        raise _BadArchiveError("the archive holds no files")
    tops = {path[0] for _, path in found}
    if len(tops) == 1 and all(len(path) > 1 for _, path in found):
        return [(member, path[1:]) for member, path in found]
    return found


def _safe_parts(member: zipfile.ZipInfo) -> tuple[str, ...]:
    """The steps of a member's path.

    Raises:
        _BadArchiveError: if it would leave the target folder or is no plain file or folder.
    """
    name = member.orig_filename  # as stored; `filename` is already mended
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or re.search(r"[\\\0]|^[A-Za-z]:", name):
        raise _BadArchiveError(f"member {name!r} would leave the target folder")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise _BadArchiveError(f"member {name!r} is a symbolic link")
    return tuple(part for part in parts if part not in {"", "."})
