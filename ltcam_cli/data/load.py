"""From a data set's config to its two parts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ltcam_cli.data.config import DatasetConfig
from ltcam_cli.data.folder import folder_split
from ltcam_cli.data.ksdd import ksdd_samples, split_ksdd
from ltcam_cli.data.ksdd2 import ksdd2_split
from ltcam_cli.data.split import (
    Split,
    read_labels,
    split_by_csv,
    split_fraction,
    without_leaks,
)
from ltcam_cli.data.synthetic import synthetic_samples
from ltcam_cli.errors import LtcamError


def load_split(config: DatasetConfig) -> Split:
    """List the images of a data set and split them. No pixel is read yet.

    Raises:
        LtcamError: if the root is missing or holds something else, if the number of images is not
            the expected one, or if train and test share an item that may not be dropped.
    """
    split = _listed(config)
    if config.kind != "ksdd":  # whose CSV may leave out images of the published set
        _check_count(config, len(split.listed_train) + len(split.listed_test))
    labels = read_labels(Path(config.labels)) if config.labels else None
    return without_leaks(replace(split, labels=labels), drop=config.drop_leaks)


def _check_count(config: DatasetConfig, found: int) -> None:
    if config.count is not None and found != config.count:
        raise LtcamError(
            f"dataset.root={config.root}: {found} images instead of {config.count}; "
            "complete the data set, or set dataset.count=null"
        )


def dataset_name(config: DatasetConfig) -> str:
    """The data set's name in run folders and tables."""
    return config.name or (Path(config.root).name if config.root else config.kind)


def _listed(config: DatasetConfig) -> Split:
    if config.kind == "synthetic":
        samples = synthetic_samples(
            items=config.items or 40,
            parts=config.parts or 4,
            defective=0.25 if config.defective is None else config.defective,
            height=config.height,
            width=config.width,
            seed=config.seed,
        )
        return Split(
            *split_fraction(
                samples,
                config.test_fraction or 0.25,
                config.split_seed,
                key="dataset.test_fraction",
            )
        )
    if not config.root:
        raise LtcamError("dataset.root is not set; give the folder of the images")
    root = Path(config.root)
    if not root.is_dir():
        fetch = f", or run: ltcam data download {config.kind}" if config.url else ""
        raise LtcamError(f"dataset.root={root}: no such folder; give the images' folder{fetch}")
    if config.kind == "ksdd":
        samples = ksdd_samples(root)
        _check_count(config, len(samples))
        if config.split == "csv":
            return split_by_csv(samples, Path(config.split_file or root / "split.csv"))
        return split_ksdd(samples, config.split, config.fold)
    if config.kind == "ksdd2":
        return ksdd2_split(root)
    return folder_split(
        root, config.split, config.split_file, config.test_fraction, config.split_seed
    )
