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
    "false_regions tp fp fn tn checkpoint cell skipped undefined_iou seg_miou seg_recall "
    "weights tta ensemble"
).split()
COUNTS = ("n_images", "fold", "seed", "tp", "fp", "fn", "tn", "skipped", "undefined_iou")
SHOWN = (
    "method delta layers segmenter images iou precision recall f1 iou_low iou_high mean_iou "
    "pixel_ap aupro n_images seconds"
).split()


def add_rows(run: RunFolder, rows: Sequence[Mapping[str, Any]]) -> None:
    """Put cells' rows into `results.csv` and `results.md`; older rows of these cells go.

    Two processes may do so at once: the file is locked meanwhile.
    """
    path = run.path / "results.csv"
    with lock(path):
        tables = [pd.DataFrame(rows)]
        if path.is_file():
            held = pd.read_csv(path, dtype=str)  # as text, so that no digit of it changes
            tables.insert(0, held[~held["cell"].isin(tables[0]["cell"])])
        write_table(path, in_order(pd.concat(tables)))
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


def write_results(
    folder: Path, rows: Sequence[Mapping[str, Any]], stem: str = "results"
) -> pd.DataFrame:
    """Write `<stem>.csv` and `<stem>.md` of several cells or runs, e.g. of a multirun."""
    table = in_order(rows) if rows and "cell" in rows[0] else pd.DataFrame(rows)
    write_table(folder / f"{stem}.csv", table)
    write_text(folder / f"{stem}.md", as_markdown(table))
    return table


def _text(value: Any) -> str:
    if pd.isna(value):
        return ""
    return f"{value:.2f}" if isinstance(value, float) else str(value)
