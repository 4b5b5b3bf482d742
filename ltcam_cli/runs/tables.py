"""The table of results: a row a cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ltcam_cli.files import lock, write_text
from ltcam_cli.runs.folder import RunFolder, write_table

COLUMNS = (
    "method delta layers segmenter images iou precision recall f1 iou_low iou_high mean_iou "
    "pixel_ap aupro oracle_iou n_images seconds "
    "dataset split fold seed labels target scope form fusion normalize regions_touched "
    "false_regions tp fp fn tn checkpoint cell skipped undefined_iou"
).split()
COUNTS = ("n_images", "fold", "seed", "tp", "fp", "fn", "tn", "skipped", "undefined_iou")
SHOWN = (
    "method delta layers segmenter images iou precision recall f1 iou_low iou_high mean_iou "
    "pixel_ap aupro n_images seconds"
).split()


def add_row(run: RunFolder, row: Mapping[str, Any]) -> None:
    """Put a cell's row into `results.csv` and `results.md`; an older row of the cell goes.

    Two processes may do so at once: the file is locked meanwhile.
    """
    path = run.path / "results.csv"
    with lock(path):
        rows = [pd.DataFrame([row])]
        if path.is_file():
            held = pd.read_csv(path, dtype=str)  # as text, so that no digit of it changes
            rows.insert(0, held[held["cell"] != row["cell"]])
        write_table(path, in_order(pd.concat(rows)))
        write_text(path.with_suffix(".md"), as_markdown(in_order(run.results())))


def in_order(rows: pd.DataFrame | Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows with the columns of the results table, and whatever else they have after them."""
    table = pd.DataFrame(rows)
    others = [column for column in table.columns if column not in COLUMNS]
    table = table.reindex(columns=[*COLUMNS, *others])
    for column in COUNTS:
        table[column] = pd.to_numeric(table[column]).astype("Int64")
    return table


def as_markdown(table: pd.DataFrame, columns: Sequence[str] | None = None) -> str:
    """A table in Markdown: numbers with two decimals, empty where there is none."""
    columns = list(columns or table.columns)
    cells = [[_text(table[column].iloc[i]) for column in columns] for i in range(len(table))]
    widths = [max(len(c), *(len(row[i]) for row in cells), 3) if cells else len(c)
              for i, c in enumerate(columns)]  # fmt: skip
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in [columns, *cells]
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]]) + "\n"


def write_results(folder: Path, rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Write `results.csv` and `results.md` of several cells or runs, e.g. of a multirun."""
    table = in_order(rows) if rows and "cell" in rows[0] else pd.DataFrame(rows)
    write_table(folder / "results.csv", table)
    write_text(folder / "results.md", as_markdown(table))
    return table


def _text(value: Any) -> str:
    if pd.isna(value):
        return ""
    return f"{value:.2f}" if isinstance(value, float) else str(value)
