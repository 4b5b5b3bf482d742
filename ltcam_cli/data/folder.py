"""Anybody's own images: `good/`, `defect/`, `masks/`, or a tree in the layout of MVTec AD."""

from __future__ import annotations

from pathlib import Path

from ltcam_cli.data.sample import IMAGE_SUFFIXES, Sample
from ltcam_cli.data.split import Split, split_by, split_by_csv, split_fraction
from ltcam_cli.errors import LtcamError


def images_in(folder: Path) -> list[Path]:
    """Image files directly in `folder`, by name; empty if there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)


def folder_split(
    root: Path, split: str, split_file: str | None, test_fraction: float | None, seed: int
) -> Split:
    """Samples of a folder, split by a CSV, by the tree itself, or by a seeded share of its items.

    Args:
        root: holds `good/`, `defect/` and perhaps `masks/` (same stems); or `train/good`,
            `test/<kind>` and perhaps `ground_truth/<kind>`.
        split: `csv`, `given` (the tree's train and test), `fraction`, or `auto`: the first of
            these that the folder allows.
        split_file: CSV `name,split[,group]` with split `train`, `test` or empty (left out).
        test_fraction: share of the items that are tested.
        seed: of that draw.

    Raises:
        LtcamError: if the folder or the CSV does not hold that.
    """
    is_tree = (root / "train" / "good").is_dir()
    table = Path(split_file) if split_file else root / "split.csv"
    if split == "auto":
        by_tree = "given" if is_tree else "fraction"
        split = "csv" if split_file or table.is_file() else by_tree
    if not root.is_dir():
        raise LtcamError(f"dataset.root={root}: no such folder")
    samples = _tree_samples(root) if is_tree else _flat_samples(root)
    if split == "csv":
        return split_by_csv(samples, table)
    if split == "given":
        if not is_tree:
            raise LtcamError(f"dataset.split=given: {root} has no train/good; use csv or fraction")
        return split_by(samples, lambda sample: sample.name.startswith("test/"))
    if split == "fraction":
        train, test = split_fraction(
            samples, test_fraction or 0.25, seed, key="dataset.test_fraction"
        )
        return Split(train, test)
    raise LtcamError(f"dataset.split={split}: a folder has auto, csv, given, fraction")


def _flat_samples(root: Path) -> list[Sample]:
    masks = {path.stem: path for path in images_in(root / "masks")}
    samples = [
        Sample.of_files(path, masks.get(path.stem), name=path.stem, group=path.stem, label=label)
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
                samples.append(Sample.of_files(path, mask, name=name, group=name, label=label))
    return samples
