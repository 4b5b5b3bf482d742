"""The image files of a folder, what they are called, and the masks that belong to them.

Training and prediction list folders by the same rules: `list_images`.
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from ltcam_cli.errors import LtcamError
from ltcam_cli.files import short_hash

IMAGE_SUFFIXES = frozenset(
    ".png .jpg .jpeg .jpe .jfif .bmp .dib .tif .tiff .webp .gif .jp2 .j2k .pgm .ppm .pbm .pnm"
    .split()
)  # fmt: skip
# What file managers, drives and notebooks leave behind, besides names that begin with a dot.
CLUTTER = frozenset(
    {"@eadir", "@recycle", "@recently-snapshot", "@tmp", "#recycle", "#snapshot", "$recycle.bin",
     "system volume information", "lost+found", "__macosx", "__pycache__", "thumbs.db",
     "ehthumbs.db", "desktop.ini"}
)  # fmt: skip
MASK_ENDING = re.compile(r"(.+)[-_. ](?:mask|masks|gt|label|labels)", re.IGNORECASE | re.DOTALL)
Place = tuple[int, int]  # device and inode of a folder
LONGEST = 255  # bytes of a file's name on common file systems
STEM = 200  # bytes of the stem of a file that is named after something


@dataclass
class Listing:
    """Image files of a folder and those below it.

    Attributes:
        folder: the folder.
        files: image files by path.
        left_out: number of other files, by what they are: `.heic`, `without suffix`, `no file`.
        places: the folders that were looked into.
    """

    folder: Path
    files: list[Path] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    places: set[Place] = field(default_factory=set)

    def named(self) -> list[tuple[str, Path]]:
        """Name below the folder, without its suffix, and path of each file; see `file_name`."""
        return [
            (file_name(file.relative_to(self.folder).with_suffix("")), file) for file in self.files
        ]


def list_images(folder: Path, besides: Path | None = None) -> Listing:
    """Image files of a folder, recursively, also by links; none if there is no such folder.

    Hidden files, and those of caches and waste baskets, are no images and are not counted.

    Args:
        folder: where to look.
        besides: a folder that is not looked into.

    Raises:
        LtcamError: if a folder cannot be listed, or a link leads back to a folder above it.
    """
    listing = Listing(folder)
    if folder.is_dir():
        _list(folder, listing, {}, os.path.realpath(besides) if besides else None)
        listing.files.sort()
    return listing


def _list(folder: Path, listing: Listing, above: dict[Place, Path], besides: str | None) -> None:
    seen = folder.stat()
    here = (seen.st_dev, seen.st_ino)
    if here in above:
        raise LtcamError(
            f"{folder}: a link that leads back to {above[here]}; remove it, it has no end"
        )
    if besides and os.path.realpath(folder) == besides:
        return
    if here in listing.places:
        listing.left_out["folder linked twice"] += 1
        return
    listing.places.add(here)
    for entry in entries(folder):
        path = folder / entry.name
        if entry.is_dir():
            _list(path, listing, {**above, here: folder}, besides)
        elif _is_special(entry):
            listing.left_out["no file"] += 1
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            listing.files.append(path)
        else:
            listing.left_out[path.suffix.lower() or "without suffix"] += 1


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """Entries of a folder that are neither hidden nor clutter; links come last.

    Raises:
        LtcamError: if it cannot be listed.
    """
    try:
        with os.scandir(folder) as found:
            shown = [entry for entry in found if not is_clutter(entry.name)]
            return sorted(shown, key=lambda entry: (entry.is_symlink(), entry.name))
    except OSError as error:
        raise LtcamError(
            f"{folder}: cannot be listed ({error.strerror}); make it readable, or move it away"
        ) from error


def is_clutter(name: str) -> bool:
    """Whether a file or folder is hidden, or of a cache or waste basket."""
    return name.startswith((".", "~$")) or name.lower() in CLUTTER


def _is_special(entry: os.DirEntry[str]) -> bool:
    """Whether it is a pipe, socket or device, which a reader would wait for for ever."""
    try:
        return not stat.S_ISREG(entry.stat().st_mode)
    except OSError:  # a link to nothing: an error that is told if anybody reads it
        return False


def said(left_out: Counter[str]) -> str:
    """`3 .heic, 1 .txt`: what a listing left out."""
    return ", ".join(f"{count} {kind}" for kind, count in sorted(left_out.items()))


def readable(path: PurePath | str) -> str:
    """A path as text that every file and terminal holds: `\\xfc` for bytes that are not UTF-8.

    Control characters but tab and newline are written so, too: a carriage return ends a CSV's row.
    """
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(
        f"\\x{ord(c):02x}" if unicodedata.category(c) == "Cc" and c not in "\t\n" else c
        for c in text
    )


def file_name(path: PurePath | str) -> str:
    """Name of an image in its data set: readable, with `/`, and composed (NFC).

    Some file systems decompose names, so that `ü` of an image and of its mask differ in bytes.
    """
    text = path.as_posix() if isinstance(path, PurePath) else path
    return unicodedata.normalize("NFC", readable(text))


def stem_of(name: str) -> str:
    """A name as a file's stem: `_` for `/`; one of more than 200 bytes is cut, with its hash."""
    stem = name.replace("/", "_")
    if len(stem.encode()) <= STEM:
        return stem
    return f"{stem.encode()[: STEM - 13].decode(errors='ignore')}-{short_hash(name, 12)}"


def without_twins(
    named: Iterable[tuple[str, Path]], remedy: str = "rename one of them"
) -> dict[str, Path]:
    """Files by name.

    Raises:
        LtcamError: if two files have one name.
    """
    files: dict[str, Path] = {}
    for name, path in named:
        if name in files:
            first, second = readable(files[name]), readable(path)
            helps = "name it once" if first == second else remedy
            raise LtcamError(f"two images are called {name}: {first} and {second}; {helps}")
        files[name] = path
    return files


def kept_apart(listing: Listing) -> Iterator[tuple[str, Path]]:
    """Name and path of each file; those that differ in their suffix alone keep it.

    Unlike in a data set, names are not composed: so two files never share one.
    """
    names = {file: readable(file.relative_to(listing.folder).as_posix()) for file in listing.files}
    stems = {file: name.removesuffix(file.suffix) for file, name in names.items()}
    while True:
        count = Counter(stems.values())
        twice = [file for file in stems if count[stems[file]] > 1 and stems[file] != names[file]]
        if not twice:
            break
        stems.update((file, names[file]) for file in twice)
    return ((stems[file], file) for file in listing.files)


def mask_of(name: str) -> str | None:
    """Name of the image whose mask a name announces: `x` of `x_mask`, `x_GT`, `x-label`."""
    match = MASK_ENDING.fullmatch(name)
    return match[1] if match else None


def pair_masks(
    names: Collection[str], masks: Iterable[tuple[str, Path]]
) -> tuple[dict[str, Path], list[tuple[str, Path]]]:
    """Mask of each image that has one, and the masks of no image.

    A mask has its image's name, or that with `_mask`, `_GT` or `_label`.

    Args:
        names: of the images.
        masks: name and path of each mask.

    Raises:
        LtcamError: if an image has two masks.
    """
    found: dict[str, Path] = {}
    others = []
    for name, path in masks:
        image = name if name in names else mask_of(name)
        if image is None or image not in names:
            others.append((name, path))
        elif image in found:
            raise LtcamError(
                f"{image} has two masks: {readable(found[image])} and {readable(path)}; "
                "delete one of them"
            )
        else:
            found[image] = path
    return found, others


def check_lengths(names: Sequence[str], added: int, where: str) -> None:
    """Refuse names that are too long for the files that are made of them.

    Args:
        names: of images; each step is a file's or folder's.
        added: bytes that are added to a name's last step.
        where: what begins the error's line.

    Raises:
        LtcamError: naming the image.
    """
    for name in names:
        if len(name.rpartition("/")[2].encode()) + added > LONGEST:
            raise LtcamError(
                f"{where}: the name {name[:40]}… is too long for files that are made of it; "
                "rename the image"
            )
