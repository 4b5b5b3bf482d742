"""Kinds of defects: from folders, or from a column `kind` of a CSV.

`crack+hole` is an image with both. Good images have none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ltcam_cli.data.dataset import Dataset
from ltcam_cli.data.sample import Sample
from ltcam_cli.data.split import Split
from ltcam_cli.data.tables import Row, kinds_in, read_table, values_by_name
from ltcam_cli.errors import LtcamError
from ltcam_cli.files import short_hash


def with_kinds(split: Split, dataset: Dataset, named: Sequence[Sample]) -> Split:
    """A split with the kinds of `dataset.kinds`, or of the first file of the data set with any.

    Args:
        split: Split with the kinds of the folders.
        dataset: Data set.
        named: All samples that the file may name.

    Raises:
        LtcamError: If the file is missing, has no such column, or names other images.
    """
    files = [Path(dataset.kinds)] if dataset.kinds else dataset.kind_files()
    for path in files:
        wanted = ("name", "kind") if dataset.kinds else ("name",)
        rows = read_table(path, "dataset.kinds", wanted)
        if rows and "kind" in rows[0].cells:
            return _named(split, values_by_name(path, rows, named, _kinds_of))
    return split


def _kinds_of(row: Row) -> tuple[str, ...]:
    return kinds_in(row.cells["kind"])


def _named(split: Split, kinds: Mapping[str, tuple[str, ...]]) -> Split:
    return split.changed(lambda sample: replace(sample, kinds=kinds.get(sample.name, sample.kinds)))


def kind_names(samples: Sequence[Sample]) -> tuple[str, ...]:
    """Kinds of some labelled training images, by name.

    Raises:
        LtcamError: If there are none.
    """
    names = sorted({kind for sample in samples if sample.label for kind in sample.kinds})
    if not names:
        raise LtcamError(
            "trainer.kinds=true: no training image has a kind; sort the images into "
            "defect/<kind>/, or give dataset.kinds=FILE.csv with the columns name,kind"
        )
    return tuple(names)


def kinds_digest(split: Split) -> str:
    """Sixteen hex digits of which image has which kinds."""
    return short_hash([(sample.name, sample.kinds) for sample in split.listed], 16)
