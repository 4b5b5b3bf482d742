"""The table of results: one row per cell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltcam_cli.files import exclusive, remove_leftovers, write_table, write_text
from ltcam_cli.runs.folder import RunFolder

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "method delta layers segmenter images iou precision recall f1 iou_low iou_high mean_iou "
    "pixel_ap aupro oracle_iou n_images seconds "
    "dataset split fold seed supervision target scope form fusion normalize regions_touched "
    "false_regions tp fp fn tn checkpoint cell skipped undefined_iou seg_miou seg_recall "
    "weights tta ensemble dtype pipeline backward"
).split()
COUNTS = ("n_images", "fold", "seed", "tp", "fp", "fn", "tn", "skipped", "undefined_iou")
MADE = ("run", "cell", "student", "out", "shard")  # what tells rows of a multirun apart
# Columns of a printed table, the most important first.
SHOWN = (
    "method delta layers segmenter images evidence area iou precision recall f1 iou_low iou_high "
    "mean_iou pixel_ap n_images"
).split()


def add_rows(run: RunFolder, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add cells' rows to `results.csv` and `results.md`; they replace older rows of these cells.

    Several processes may do so at once: a lock guards the file.
    """
    import pandas as pd

    path = run.path / "results.csv"
    with exclusive(path):
        tables = [pd.DataFrame(rows)]
        older = run.results(dtype=str)  # as text, so that no digit of it changes
        if len(older):
            tables.insert(0, older[~older["cell"].isin(tables[0]["cell"])])
        write_table(path, in_order(pd.concat(tables)))
        write_text(path.with_suffix(".md"), as_markdown(in_order(run.results())))


def rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a table, by the names of its columns."""
    return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]


def in_order(rows: pd.DataFrame | Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows with the columns of the results table first, and all their other columns after them."""
    import pandas as pd

    table = pd.DataFrame(rows)
    others = [column for column in table.columns if column not in COLUMNS]
    table = table.reindex(columns=[*COLUMNS, *others])
    for column in COUNTS:
        table[column] = pd.to_numeric(table[column]).astype("Int64")
    return table


def write_results(
    folder: Path, rows: Sequence[Mapping[str, Any]], stem: str = "results"
) -> pd.DataFrame:
    """Write `<stem>.csv` and `<stem>.md` of several cells or runs, e.g. of a multirun."""
    import pandas as pd

    remove_leftovers(folder)
    table = in_order(rows) if rows and "cell" in rows[0] else pd.DataFrame(rows)
    write_table(folder / f"{stem}.csv", table)
    write_text(folder / f"{stem}.md", as_markdown(table))
    return table


def once(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a multirun, one for each thing that was made, also where it was asked for twice."""
    things: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        things.setdefault(tuple(row.get(key) for key in MADE), dict(row))
    return list(things.values())


def as_markdown(table: pd.DataFrame) -> str:
    """A table in Markdown; see `text_of` for its cells."""
    texts = [map(text_of, table[column]) for column in table]
    return markdown(list(table.columns), list(zip(*texts, strict=True)))


def markdown(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Texts as a Markdown table with aligned columns."""
    lines = [titles, *rows]
    least = 3 if len(lines) > 1 else 0
    widths = [max(least, *map(len, texts)) for texts in zip(*lines, strict=True)]
    written = [
        "| " + " | ".join(text.ljust(w) for text, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([written[0], rule, *written[1:]]) + "\n"


def text_of(value: Any) -> str:
    """A table's value as text: a number with two decimals, nothing for None and NaN."""
    import pandas as pd

    if pd.isna(value):
        return ""
    return f"{value:.2f}" if isinstance(value, float) else str(value)
