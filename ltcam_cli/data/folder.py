"""Anybody's own images: `good/`, `defect/`, `masks/`, or a tree in the layout of MVTec AD."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from PIL import Image
from pydantic import Field

from ltcam_cli.config import NO_EFFECT, Seed, config
from ltcam_cli.data.dataset import Dataset
from ltcam_cli.data.listing import (
    IMAGE_SUFFIXES,
    entries,
    file_name,
    list_images,
    mask_of,
    pair_masks,
    readable,
    said,
    without_twins,
)
from ltcam_cli.data.sample import Sample
from ltcam_cli.data.split import Split, split_by, split_by_csv, split_fraction
from ltcam_cli.data.tables import DEFECT, GOOD, kinds_in, plain
from ltcam_cli.errors import LtcamError
from ltcam_cli.files import lock
from ltcam_cli.progress import track

MASKS = frozenset({"mask", "masks", "groundtruth", "gt"})


@config("dataset")
class Folder(Dataset):
    """A folder of images, and of folders of images.

    It holds `good/`, `defect/` and perhaps `masks/` with the same stems; or `train/good`,
    `test/<kind>` and perhaps `ground_truth/<kind>`. Folders in `defect/` name kinds, too.

    Attributes:
        root: Folder of the images; must be set.
        split: csv, given (the tree's train and test), fraction (a random share of the items is
            tested), or auto: the first of these that the folder allows.
        split_file: CSV `name,split[,group]` of csv, with split `train`, `test` or empty (left
            out); null: split.csv in the root.
        test_fraction: Share of the items that fraction tests.
        split_seed: Seed of that draw.
    """

    kind: Literal["folder"] = "folder"
    split: Literal["auto", "csv", "given", "fraction"] = "auto"
    split_file: Annotated[str | None, NO_EFFECT] = None
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.25
    split_seed: Seed = 0
    channels: Literal[1, 3] = 3

    def listed(self) -> Split:
        """Both parts; labels are in the folders' names."""
        root = self.folder()
        is_tree = any(_subfolders(part, GOOD) for part in _subfolders(root, {"train"}))
        table = self._split_table
        split: str = self.split
        if split == "auto":
            by_tree = "given" if is_tree else "fraction"
            split = "csv" if self.split_file or table.is_file() else by_tree
        if split == "given" and not is_tree:
            raise LtcamError(f"dataset.split=given: {root} has no train/good; use csv or fraction")
        found = _Found(root, is_tree=is_tree)
        found.tree() if is_tree else found.flat()
        if not found.samples:
            raise LtcamError(
                f"dataset.root={self.root}: no image in good/ or defect/ below it (OK/ and "
                f"NG/ do, too), and no train/good{''.join(f'; {note}' for note in found.notes)}"
            )
        if split == "csv":
            parts = split_by_csv(found.samples, table)
        elif split == "fraction":
            parts = Split(*split_fraction(found.samples, self.test_fraction, self.split_seed))
            parts.remedy = "choose another dataset.split_seed or dataset.test_fraction"
        else:
            parts = split_by(found.samples, lambda sample: sample.name.startswith("test/"))
            parts.remedy = "use dataset.split=fraction"
        parts.notes, parts.unread_masks = found.notes, found.unread_masks
        return parts

    @property
    def _split_table(self) -> Path:
        return Path(self.split_file) if self.split_file else self.folder() / "split.csv"

    def kind_files(self) -> list[Path]:
        """The file of labels, `kinds.csv`, and the file of the split."""
        own = [self.folder() / "kinds.csv", self._split_table]
        return [*super().kind_files(), *(path for path in own if path.is_file())]


class _Found:
    """What a folder holds: samples, and notes on what is none."""

    def __init__(self, root: Path, *, is_tree: bool) -> None:
        self.root, self.is_tree = root, is_tree
        self.samples: list[Sample] = []
        self.left_out: Counter[str] = Counter()
        self.masks: list[Path] = []  # of no image
        self.beside = 0  # masks that lie beside their images

    def flat(self) -> None:
        """Samples of `good/`, `defect/` and `masks/`, called as the file below its folder."""
        images: list[tuple[str, Path]] = []
        labels: dict[Path, int] = {}
        for words, label in ((GOOD, 0), (DEFECT, 1)):
            for folder in _subfolders(self.root, words):
                listed = self._listed(folder)
                images += listed
                labels |= dict.fromkeys((path for _, path in listed), label)
        masks = [pair for folder in _subfolders(self.root, MASKS) for pair in self._listed(folder)]
        self._add(images, labels, masks)
        self._count_others(GOOD | DEFECT | MASKS)

    def tree(self) -> None:
        """Samples of `train/<kind>` and `test/<kind>`, called `test/<kind>/<file>`."""
        images: list[tuple[str, Path]] = []
        labels: dict[Path, int] = {}
        for part in ("train", "test"):
            for kind in (kind for top in _subfolders(self.root, {part}) for kind in _folders(top)):
                prefix = f"{part}/{file_name(kind.name)}"
                listed = [(f"{prefix}/{name}", path) for name, path in self._listed(kind)]
                images += listed
                label = int(plain(kind.name) not in GOOD)
                labels |= dict.fromkeys((path for _, path in listed), label)
        masks = [pair for folder in _subfolders(self.root, MASKS) for pair in self._listed(folder)]
        tested = {name.removeprefix("test/") for name, _ in images if name.startswith("test/")}
        parts = [
            "test" if name in tested or mask_of(name) in tested else "train" for name, _ in masks
        ]
        self._add(
            images,
            labels,
            [(f"{part}/{name}", path) for part, (name, path) in zip(parts, masks, strict=True)],
        )
        self._count_others(MASKS | {"train", "test"})

    @property
    def notes(self) -> list[str]:
        """Lines on files that are no samples, and masks of none."""
        notes = [f"left out: {said(self.left_out)}"] if self.left_out else []
        if self.masks:
            some = ", ".join(readable(path.relative_to(self.root)) for path in self.masks[:3])
            more = ", …" if len(self.masks) > 3 else ""
            notes.append(f"masks of no image: {len(self.masks)} ({some}{more})")
        if self.beside:
            notes.append(f"taken as masks of the images beside them: {self.beside}")
        return notes

    @property
    def unread_masks(self) -> str:
        """Folder of masks of which none is any image's."""
        if any(sample.read_mask for sample in self.samples):
            return ""
        return next((str(path) for path in _subfolders(self.root, MASKS) if entries(path)), "")

    def _listed(self, folder: Path) -> list[tuple[str, Path]]:
        listing = list_images(folder)
        self.left_out += listing.left_out
        return listing.named()

    def _add(
        self,
        images: list[tuple[str, Path]],
        labels: Mapping[Path, int],
        masks: list[tuple[str, Path]],
    ) -> None:
        """Add samples; masks may also lie beside their images, called `x_mask`."""
        names = {name for name, _ in images}
        beside = [(name, path) for name, path in images if mask_of(name) in names]
        apart = {path for _, path in beside}
        files = without_twins(image for image in images if image[1] not in apart)
        found, others = pair_masks(files.keys(), [*masks, *beside])
        self.beside, self.masks = len(beside), [path for _, path in others]
        for name, path in files.items():
            label = labels[path]
            folder = name.partition("/")[2] if self.is_tree else name
            kinds = kinds_in(folder.partition("/")[0]) if label and "/" in folder else ()
            sample = Sample.from_files(path, found.get(name), name=name, label=label, kinds=kinds)
            self.samples.append(sample)

    def _count_others(self, known: Collection[str]) -> None:
        """Count folders and images beside those that are read."""
        for entry in entries(self.root):
            if entry.is_dir() and plain(entry.name) not in known:
                self.left_out[f"folder {file_name(entry.name)}/"] += 1
            elif not entry.is_dir() and Path(entry.name).suffix.lower() in IMAGE_SUFFIXES:
                self.left_out["image beside the folders"] += 1


def _folders(folder: Path) -> list[Path]:
    return sorted(folder / entry.name for entry in entries(folder) if entry.is_dir())


def _subfolders(folder: Path, words: Collection[str]) -> list[Path]:
    """Folders that are called by one of some words, in any case, with `_` or without."""
    return [path for path in _folders(folder) if plain(path.name) in words]


def write_folder(samples: Sequence[Sample], root: Path) -> None:
    """Write samples as PNG files: `good/`, `defect/`, and `masks/` (0 and 255) of the defective.

    A file's stem is the sample's name with `_` for `/`; a mask has the stem of its image.
    The folder appears when all is written. Until then its content lies beside it, in a hidden
    folder that the next call deletes if this one is killed.

    Raises:
        LtcamError: if `root` exists and is not empty, or cannot be written.
    """
    target = root.resolve()
    try:
        if target.exists() and not (target.is_dir() and not any(target.iterdir())):
            raise LtcamError(f"{root}: not an empty folder; delete it or name another one")
        with _unfinished(target) as content:
            for folder in ("good", "defect", "masks"):
                (content / folder).mkdir(parents=True)
            for sample in track(samples, f"writing {root}"):
                file = f"{sample.name.replace('/', '_')}.png"
                folder = "defect" if sample.label else "good"
                Image.fromarray(sample.image).save(content / folder / file)
                mask = sample.mask
                if sample.label and mask is not None:
                    Image.fromarray(mask.astype(np.uint8) * 255).save(content / "masks" / file)
            if target.exists():
                target.rmdir()
            content.rename(target)
    except OSError as error:
        reason = error.strerror or error
        raise LtcamError(
            f"{root}: cannot be written ({reason}); make room or name another folder"
        ) from error


@contextmanager
def _unfinished(target: Path) -> Iterator[Path]:
    """A path beside `target` for its content; it is deleted in the end, also a killed process's."""
    hidden = target.with_name(f".{target.name}.unfinished")
    content = hidden / "content"
    with lock(content):
        try:
            shutil.rmtree(content, ignore_errors=True)
            yield content
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
