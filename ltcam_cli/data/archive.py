"""Unpacking a zip archive that may be damaged or hostile."""

from __future__ import annotations

import errno
import lzma
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from ltcam_cli.progress import track

MAX_BYTES = 100 * 10**9  # of all members; published data sets have a few GB
MAX_RATIO = 100  # of all members to the archive; black masks alone reach 1000
FREE_BYTES = 10**9  # for which no ratio counts


class BadArchiveError(Exception):
    """The archive is not what it should be."""


def unpack(archive: Path, folder: Path, title: str, progress: bool) -> None:
    """Unpack a zip archive as a new folder; members are judged before the first is written.

    If all its content lies in one folder, that folder's content becomes the new folder's.

    Raises:
        BadArchiveError: if it is no zip archive, is damaged, unpacks to too much, or holds members
            that would leave the folder or have one name.
    """
    try:
        with zipfile.ZipFile(archive) as content:
            if _entries(archive) != len(content.infolist()) % (1 << 16):
                raise BadArchiveError("its table of contents is not complete")
            _check_size(archive, content.infolist())
            members = _members(content)
            for member, steps in track(members, title, "file", shown=progress):
                path = folder.joinpath(*steps)
                path.parent.mkdir(parents=True, exist_ok=True)
                with content.open(member) as source, path.open("xb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
    except (FileExistsError, NotADirectoryError) as error:
        raise BadArchiveError("two members have one name") from error
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise BadArchiveError(f"not a zip archive, or damaged: {error}") from error
    except (NotImplementedError, RuntimeError, ValueError) as error:
        raise BadArchiveError(f"cannot be unpacked: {error}") from error
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENAMETOOLONG, errno.EILSEQ}:
            raise  # the disk's fault
        raise BadArchiveError(f"damaged: {error.strerror}") from error


def _entries(archive: Path) -> int:
    """Number of members by the end of a zip file, modulo 2**16; zipfile does not compare it."""
    with archive.open("rb") as stream:
        stream.seek(max(0, archive.stat().st_size - (22 + (1 << 16))))
        tail = stream.read()
    start = tail.rfind(b"PK\x05\x06")
    return int.from_bytes(tail[start + 10 : start + 12], "little")


def _check_size(archive: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    """Refuse what would fill the disk; no member unpacks to more than it states.

    Raises:
        BadArchiveError: if all members together are too large, or too large for the archive.
    """
    total, packed = sum(member.file_size for member in members), archive.stat().st_size
    if total > MAX_BYTES or total > FREE_BYTES + MAX_RATIO * packed:
        raise BadArchiveError(
            f"unpacks from {packed} to {total} bytes, more than {MAX_BYTES} in all or "
            f"{MAX_RATIO} times as many; unpack it by hand if that is right"
        )


def _members(archive: zipfile.ZipFile) -> list[tuple[zipfile.ZipInfo, tuple[str, ...]]]:
    """The files of an archive and the steps of their paths below the target."""
    members = []
    for member in archive.infolist():
        steps = _safe_steps(member)
        clutter = "__MACOSX" in steps or ".DS_Store" in steps
        if steps and not member.is_dir() and not clutter:
            members.append((member, steps))
    if not members:
        raise BadArchiveError("it holds no files")
    if len({steps[0] for _, steps in members}) == 1 and all(len(steps) > 1 for _, steps in members):
        return [(member, steps[1:]) for member, steps in members]
    return members


def _safe_steps(member: zipfile.ZipInfo) -> tuple[str, ...]:
    """The steps of a member's path.

    Raises:
        BadArchiveError: if it would leave the target folder or is no plain file or folder.
    """
    name = member.orig_filename  # as stored; `filename` is already mended
    steps = name.split("/")
    if name.startswith("/") or ".." in steps or re.search(r"[\\\0]|^[A-Za-z]:", name):
        raise BadArchiveError(f"member {name!r} would leave the target folder")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise BadArchiveError(f"member {name!r} is a symbolic link")
    return tuple(step for step in steps if step not in {"", "."})
