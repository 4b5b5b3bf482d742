"""Cells side by side: is one better than another on the same images?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from ltcam_cli.errors import LtcamError
from ltcam_cli.runs.cells import Cell
from ltcam_cli.scores.intervals import paired_iou
from ltcam_cli.scores.pixels import PixelCounts

OF_CELL = ("run", "method", "delta", "layers", "segmenter", "images", "iou", "iou_low", "iou_high")
PAIRED = ("difference", "difference_low", "difference_high", "better")
# Columns of a printed table, the most important first.
SHOWN = ("run", "method", "delta", "iou", "iou_low", "iou_high", *PAIRED, "layers", "segmenter",
         "images")  # fmt: skip


def compare(cells: Sequence[Cell]) -> pd.DataFrame:
    """One row per cell, with the paired bootstrap of its pooled IoU against the first cell's.

    Returns:
        Table with the columns `OF_CELL`, `PAIRED` and `cell`. `PAIRED` are the difference of the
        pooled IoUs in points, its 95 % interval over physical items, and the percentage of
        resamples in which the cell is better than the first; NaN in the first row.

    Raises:
        LtcamError: if there are fewer than two cells, or if they did not count the same images.
    """
    if len(cells) < 2:
        raise LtcamError("there is nothing to compare; give two runs or cells, or evaluate another")
    first, rows = cells[0], list[dict[str, Any]]()
    reference = first.images()
    for cell in cells:
        row: dict[str, Any] = {key: cell.metrics.get(key) for key in OF_CELL}
        row |= {"run": cell.run.name}
        if cell.path != first.path:
            table = _same_images(cell, first, reference)
            paired = paired_iou(_counts(table), _counts(reference), list(reference["group"]))
            values = (paired.difference, paired.low, paired.high, paired.better)
            row |= {key: 100 * value for key, value in zip(PAIRED, values, strict=True)}
        rows.append(row | {"cell": cell.name})
    return pd.DataFrame(rows).reindex(columns=[*OF_CELL, *PAIRED, "cell"])


def _same_images(cell: Cell, first: Cell, reference: pd.DataFrame) -> pd.DataFrame:
    """Images of a cell in the order of the first cell's.

    Raises:
        LtcamError: if they are other images, or have other true masks.
    """
    table = cell.images()
    both = f"{cell.path} and {first.path}"
    if others := sorted(set(table.index) ^ set(reference.index)):
        raise LtcamError(
            f"{both}: count different images ({len(others)}, e.g. {others[0]}); "
            "compare cells of one split, with equal evaluation.images"
        )
    table = table.loc[reference.index]
    truth = [t["tp"] + t["fn"] for t in (table, reference)]
    size = [t[["tp", "fp", "fn", "tn"]].sum(axis=1) for t in (table, reference)]
    other = (truth[0] != truth[1]) | (size[0] != size[1]) | (table["group"] != reference["group"])
    if other.any():
        raise LtcamError(
            f"{both}: {other.idxmax()} is another image, or has another true mask or item; "
            "compare cells of one data set"
        )
    return table


def _counts(table: pd.DataFrame) -> list[PixelCounts]:
    return [PixelCounts(*map(int, row)) for row in table[["tp", "fp", "fn", "tn"]].to_numpy()]
