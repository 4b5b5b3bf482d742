"""`compare`: cells of runs side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ltcam_cli.commands.options import deltas_of, print_table
from ltcam_cli.files import write_text
from ltcam_cli.runs.cells import Cell, find_cells
from ltcam_cli.runs.comparison import compare as compared
from ltcam_cli.runs.folder import find_run, write_table
from ltcam_cli.runs.tables import as_markdown

NOTE = """\
difference: of the pooled IoU from the first row's, in points, with its 95 % interval (2000
resamples of the physical items, the same for both); better: percentage of these in which the row's
is higher. On a test split it tells whether a difference may be noise, and chooses no method."""


def compare(
    places: Sequence[str],
    outputs: Path,
    names: Sequence[str],
    methods: Sequence[str],
    deltas: Sequence[str],
    out: Path | None,
) -> pd.DataFrame:
    """Compare cells; print the table, and write `compare.csv` and `compare.md`.

    Args:
        places: runs by name or path, and paths of cells; the first cell is what all are held
            against.
        outputs: the folder of the runs.
        names, methods, deltas: of the cells of runs; see `find_cells`.
        out: folder of the tables; None: `outputs`.
    """
    cells: dict[Path, Cell] = {}
    for place in places:
        if (Path(place) / "metrics.json").is_file() and Path(place).parent.name == "evaluate":
            found = [Cell(Path(place))]
        else:
            found = find_cells(find_run(outputs, place), names, methods, deltas_of(deltas))
        cells |= {cell.path.resolve(): cell for cell in found}
    table = compared(list(cells.values()))
    print_table(table.drop(columns="cell"))
    print(f"\n{NOTE}")
    path = (out or outputs) / "compare.csv"
    write_table(path, table)
    write_text(path.with_suffix(".md"), f"{as_markdown(table)}\n{NOTE}\n")
    print(os.path.relpath(path))
    return table
