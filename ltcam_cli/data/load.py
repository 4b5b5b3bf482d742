"""From a data set's configuration to its class, and from that to its two parts."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from ltcam_cli.config import build, shown
from ltcam_cli.data.dataset import Dataset
from ltcam_cli.data.folder import Folder
from ltcam_cli.data.ksdd import Ksdd
from ltcam_cli.data.ksdd2 import Ksdd2
from ltcam_cli.data.split import Split, read_labels, without_leaks
from ltcam_cli.data.synthetic import Synthetic
from ltcam_cli.errors import LtcamError, nearest

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
    name = shown(kind)
    if name in DATASETS:
        return DATASETS[name]
    key = f"dataset.kind={name}"
    installed = {point.name: point.value for point in entry_points(group=ENTRY_POINTS)}
    reference = installed.get(name, str(kind))
    module, colon, name = reference.partition(":")
    if not colon:
        raise LtcamError(f"{key}: unknown{nearest(reference, [*DATASETS, *installed])}")
    try:
        members = vars(importlib.import_module(module))
    except Exception as error:  # a module of others may raise whatever it likes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise LtcamError(
            f"{key}: {module or 'the module'} cannot be imported ({reason}); install it or add its "
            "folder to PYTHONPATH"
        ) from error
    if not _is_dataset(members.get(name)):
        classes = [member for member, value in members.items() if _is_dataset(value)]
        raise LtcamError(
            f"{key}: {module} has no subclass {name} of Dataset with a method listed"
            f"{nearest(name, classes)}"
        )
    return members[name]


def _is_dataset(value: Any) -> bool:
    return (
        isinstance(value, type)
        and issubclass(value, Dataset)
        and value.listed is not Dataset.listed
    )


def load_split(dataset: Dataset) -> Split:
    """The images of a data set, split, labelled and without leaks. No pixel is read yet.

    Raises:
        LtcamError: if the images are not there, if there are not as many as expected, or if train
            and test share an item that may not be dropped.
    """
    split = dataset.listed()
    found = len(split.listed_train) + len(split.listed_test) + split.left_out
    if dataset.count not in {None, found}:
        raise LtcamError(
            f"dataset.root={dataset.root}: {found} images instead of {dataset.count}; "
            "complete the data set, or set dataset.count=null"
        )
    labels = read_labels(Path(dataset.labels)) if dataset.labels else None
    return without_leaks(replace(split, labels=labels), drop=dataset.drop_leaks)
