"""Anybody's own images: `good/`, `defect/`, `masks/`, or a tree in the layout of MVTec AD."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from PIL import Image
from pydantic import Field

from ltcam_cli.config import NO_EFFECT, Seed, config
from ltcam_cli.data.dataset import Dataset
from ltcam_cli.data.sample import IMAGE_SUFFIXES, Sample
from ltcam_cli.data.split import Split, split_by, split_by_csv, split_fraction
from ltcam_cli.errors import LtcamError


@config("dataset")
class Folder(Dataset):
    """A folder of images.

    It holds `good/`, `defect/` and perhaps `masks/` with the same stems; or `train/good`,
    `test/<kind>` and perhaps `ground_truth/<kind>`.

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
        is_tree = (root / "train" / "good").is_dir()
        table = Path(self.split_file) if self.split_file else root / "split.csv"
        split: str = self.split
        if split == "auto":
            by_tree = "given" if is_tree else "fraction"
            split = "csv" if self.split_file or table.is_file() else by_tree
        samples = _tree_samples(root) if is_tree else _flat_samples(root)
        if split == "csv":
            return split_by_csv(samples, table)
        if split == "fraction":
            return Split(*split_fraction(samples, self.test_fraction, self.split_seed))
        if not is_tree:
            raise LtcamError(f"dataset.split=given: {root} has no train/good; use csv or fraction")
        return split_by(samples, lambda sample: sample.name.startswith("test/"))


def images_in(folder: Path) -> list[Path]:
    """Image files directly in `folder`, by name; empty if there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)


def _flat_samples(root: Path) -> list[Sample]:
    masks = {path.stem: path for path in images_in(root / "masks")}
    samples = [
        Sample.from_files(path, masks.get(path.stem), name=path.stem, group=path.stem, label=label)
        for kind, label in (("good", 0), ("defect", 1))
        for path in images_in(root / kind)
    ]
    if not samples:
        raise LtcamError(
            f"dataset.root={root}: no image in good/ or defect/ below it, and no train/good"
        )
    names = [sample.name for sample in samples]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise LtcamError(f"dataset.root={root}: two images are called {twice}; rename one")
    return samples


def _tree_samples(root: Path) -> list[Sample]:
    samples = []
    for part in ("train", "test"):
        for folder in sorted(path for path in (root / part).glob("*") if path.is_dir()):
            kind = folder.name
            truth = root / "ground_truth" / kind
            masks = {path.stem.removesuffix("_mask"): path for path in images_in(truth)}
            for path in images_in(folder):
                name = f"{part}/{kind}/{path.stem}"
                label = int(kind != "good")
                mask = masks.get(path.stem)
                samples.append(Sample.from_files(path, mask, name=name, group=name, label=label))
    return samples


def write_folder(samples: Sequence[Sample], root: Path) -> None:
    """Write samples as PNG files: `good/`, `defect/`, and `masks/` (0 and 255) of the defective.

    A file's stem is the sample's name with `_` for `/`; a mask has the stem of its image.
    The folder appears when all is written.

    Raises:
        LtcamError: if `root` exists and is not empty, or cannot be written.
    """
    from tqdm import tqdm

    target = root.resolve()
    try:
        if target.exists() and not (target.is_dir() and not any(target.iterdir())):
            raise LtcamError(f"{root}: not an empty folder; delete it or name another one")
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as name:
            content = Path(name) / "content"
            for folder in ("good", "defect", "masks"):
                (content / folder).mkdir(parents=True)
            for sample in tqdm(samples, desc=f"writing {root}", unit="image"):
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
