"""From a data set's configuration to its class, and from that to its two parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ltcam_cli.config import build, shown
from ltcam_cli.data.annotated import annotated_samples
from ltcam_cli.data.dataset import Dataset
from ltcam_cli.data.folder import Folder
from ltcam_cli.data.image_files import White, forget_warnings, white_level
from ltcam_cli.data.kinds import with_kinds
from ltcam_cli.data.ksdd import Ksdd
from ltcam_cli.data.ksdd2 import Ksdd2
from ltcam_cli.data.sample import Sample
from ltcam_cli.data.split import Split, without_leaks
from ltcam_cli.data.synthetic import Synthetic
from ltcam_cli.data.tables import read_labels
from ltcam_cli.errors import LtcamError
from ltcam_cli.parts import find_part

DATASETS: dict[str, type[Dataset]] = {
    "ksdd": Ksdd,
    "ksdd2": Ksdd2,
    "folder": Folder,
    "synthetic": Synthetic,
}
ENTRY_POINTS = "ltcam.datasets"


def make_dataset(values: Mapping[str, Any]) -> Dataset:
    """A data set of its configuration; the key `kind` chooses the class.

    Raises:
        LtcamError: if there is no such kind or key, or a value is not allowed.
    """
    return build(dataset_class(values.get("kind")), values)


def dataset_class(kind: Any) -> type[Dataset]:
    """Class of a kind: a built-in name, an entry point of `ltcam.datasets`, or `module:Class`.

    Raises:
        LtcamError: if there is none, it cannot be imported, or it is no `Dataset`.
    """
    name = kind if isinstance(kind, str) else shown(kind)
    part = find_part("dataset.kind", name, DATASETS, ENTRY_POINTS)
    if not (isinstance(part, type) and issubclass(part, Dataset)):
        raise LtcamError(f"dataset.kind={shown(name)}: is no subclass of Dataset")
    if part.listed is Dataset.listed:
        raise LtcamError(f"dataset.kind={shown(name)}: defines no method listed")
    return part


def load_split(dataset: Dataset) -> Split:
    """The images of a data set, split, labelled and without leaks. No pixel is read yet.

    Raises:
        LtcamError: if the images are not there, if there are not as many as expected, or if train
            and test share an item that may not be dropped.
    """
    forget_warnings()
    split = dataset.listed()
    total = len(split.listed_train) + len(split.listed_test) + len(split.left_out)
    if dataset.count not in {None, total}:
        raise LtcamError(
            f"dataset.root={dataset.root}: {total} images instead of {dataset.count}; "
            "complete the data set, or set dataset.count=null"
        )
    everything = [*split.listed, *split.left_out]
    labels = read_labels(Path(dataset.labels), everything) if dataset.labels else None
    if dataset.annotations:
        annotated = annotated_samples(Path(dataset.annotations), everything, dataset.max_pixels)
        split = split.changed(lambda sample: annotated.get(sample.name, sample))
    split = with_kinds(split, dataset, everything)
    split = split.read_by(dataset.image_reader("auto"), dataset.mask_reader())
    return without_leaks(replace(split, labels=labels), drop=dataset.drop_leaks)


def white_of(dataset: Dataset, samples: Sequence[Sample]) -> White:
    """Level of white of training images; see `Dataset.white`."""
    if dataset.white != "auto":
        return dataset.white
    paths = [sample.path for sample in samples if sample.path is not None]
    return white_level(paths, dataset.max_pixels)
