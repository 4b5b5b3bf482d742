"""Cells side by side: is one better than another on the same images?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, replace
from typing import Any

import pandas as pd

from ltcam_cli.errors import LtcamError
from ltcam_cli.runs.cells import Cell
from ltcam_cli.runs.folder import MASK_FREE
from ltcam_cli.scores.intervals import Paired, paired_iou, paired_mean
from ltcam_cli.scores.pixels import counts_of

OF_CELL = ("run", "method", "delta", "layers", "segmenter", "images", "iou", "iou_low", "iou_high")
PAIRED = ("difference", "difference_low", "difference_high", "better")
# Columns of a printed table, the most important first.
SHOWN = ("run", "method", "delta", *MASK_FREE, "iou", "iou_low", "iou_high", *PAIRED, "layers",
         "segmenter", "images")  # fmt: skip
NOTE = """\
difference: of the pooled IoU from the first row's, in points, with its 95 % interval (2000
resamples of the physical items, the same for both); better: percentage of these in which the row's
is higher. On a test split it tells whether a difference may be noise, and chooses no method."""
NOTE_MASK_FREE = """\
There are no masks. difference: of the mean evidence from the first row's, with its 95 % interval
(2000 resamples of the physical items, the same for both); better: percentage of these in which the
row's is higher. Evidence is what a mask hides from the run's own classifier: it does not rank two
classifiers."""


def note(table: pd.DataFrame) -> str:
    """What the columns of a table of `compare` mean."""
    return NOTE_MASK_FREE if "evidence" in table else NOTE


def compare(cells: Sequence[Cell]) -> pd.DataFrame:
    """One row per cell, with the paired bootstrap of its pooled IoU against the first cell's.

    Where no mask was there, it is the mean evidence in place of the IoU.

    Returns:
        Table with the columns `OF_CELL`, `PAIRED` and `cell`; without masks, `MASK_FREE` stand
        behind `OF_CELL`. `PAIRED` are the difference of the
        pooled IoUs in points, its 95 % interval over physical items, and the percentage of
        resamples in which the cell is better than the first; NaN in the first row.

    Raises:
        LtcamError: if there are fewer than two cells, or if they did not count the same images, or
            only some of them had masks.
    """
    if len(cells) < 2:
        raise LtcamError("there is nothing to compare; give two runs or cells, or evaluate another")
    first, rows = cells[0], list[dict[str, Any]]()
    reference = first.images()
    of_cell = (*OF_CELL, *(MASK_FREE if first.mask_free else ()))
    for cell in cells:
        row: dict[str, Any] = {key: cell.metrics.get(key) for key in of_cell}
        row |= {"run": cell.run.name}
        if cell.path != first.path:
            table = _same_images(cell, first, reference)
            paired = _paired(table, reference, free=first.mask_free)
            row |= dict(zip(PAIRED, astuple(paired), strict=True))
        rows.append(row | {"cell": cell.name})
    return pd.DataFrame(rows).reindex(columns=[*of_cell, *PAIRED, "cell"])


def _paired(table: pd.DataFrame, reference: pd.DataFrame, *, free: bool) -> Paired:
    """Difference of the IoUs in points, or of the evidence; `better` in per cent."""
    groups = list(reference["group"])
    if free:
        paired = paired_mean(list(table["evidence"] - reference["evidence"]), groups)
        return replace(paired, better=100 * paired.better)
    paired = paired_iou(counts_of(table), counts_of(reference), groups)
    return Paired(*(100 * value for value in astuple(paired)))


def _same_images(cell: Cell, first: Cell, reference: pd.DataFrame) -> pd.DataFrame:
    """Images of a cell in the order of the first cell's.

    Raises:
        LtcamError: if they are other images, or have other true masks.
    """
    table = cell.images()
    both = f"{cell.path} and {first.path}"
    if cell.mask_free != first.mask_free:
        raise LtcamError(f"{both}: only one was scored with masks; evaluate the other anew")
    if others := sorted(set(table.index) ^ set(reference.index)):
        raise LtcamError(
            f"{both}: count different images ({len(others)}, e.g. {others[0]}); "
            "compare cells of one split, with equal evaluation.images"
        )
    table = table.loc[reference.index]
    other = table["group"] != reference["group"]
    if not cell.mask_free:
        truth = [t["tp"] + t["fn"] for t in (table, reference)]
        size = [t[["tp", "fp", "fn", "tn"]].sum(axis=1) for t in (table, reference)]
        other |= (truth[0] != truth[1]) | (size[0] != size[1])
    if other.any():
        raise LtcamError(
            f"{both}: {other.idxmax()} is another image, or has another true mask or item; "
            "compare cells of one data set"
        )
    return table
