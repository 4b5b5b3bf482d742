"""`report` and `compare`: cells of runs on a page, or side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ltcam_cli.commands.compose import compose_here, composer
from ltcam_cli.commands.options import Call
from ltcam_cli.errors import LtcamError, require
from ltcam_cli.experiments.ranges import deltas_of
from ltcam_cli.files import remove_leftovers, write_table, write_text
from ltcam_cli.report.terminal import print_table
from ltcam_cli.runs.cells import cells_at
from ltcam_cli.runs.reading import healthy
from ltcam_cli.runs.tables import as_markdown

Chosen = tuple[Sequence[str], Sequence[str], Sequence[str]]  # names, methods and deltas, as typed


def report(call: Call, names: Sequence[str], chosen: Chosen, limit: int, out: Path | None) -> Path:
    """Write the page of some runs, or of a prediction, and print where it is.

    Args:
        call: Overrides; a cell's method and segmenter stay as they are.
        names: Runs, or their paths; or one folder of predictions; none: the run that the config
            fits.
        chosen: Names, methods and deltas of cells; none: a few of all.
        limit: Most images: defective ones first, then those that look most like it.
        out: File of the page; None: `report.html` in the folder, or below `outputs`.

    Raises:
        LtcamError: If there is no such cell, an override would change one, or an extra is missing.
    """
    for module in ("jinja2", "matplotlib"):
        require(module, "report")
    for override in call.overrides:
        key = override.lstrip("+~").partition("=")[0]
        if key.split(".")[0] in {"method", "segmenter", "tta", "ensemble", "pipeline"}:
            raise LtcamError(
                f"{override}: a report shows cells as they were evaluated; "
                "choose them with --method, --delta or --cell"
            )
    deltas = deltas_of(chosen[2])
    composed = compose_here("report", call)
    from ltcam_cli.experiments.reporting import Selection, write_page

    selection = Selection(chosen[0], chosen[1], deltas)
    path, told = write_page(names, selection, composed, composer(call), limit, out)
    print(f"{told}, {path.stat().st_size / 1e6:.1f} MB\n{os.path.relpath(path)}")
    return path


def compare(places: Sequence[str], outputs: Path, chosen: Chosen, out: Path | None) -> None:
    """Compare cells; print the table, and write `compare.csv` and `compare.md`.

    Args:
        places: Runs by name or path, and paths of cells; the first cell is the reference.
        outputs: Folder of the runs.
        chosen: Names, methods and deltas of the cells of runs; see `find_cells`.
        out: Folder of the tables; None: `outputs`.
    """
    cells = cells_at(outputs, places, chosen[0], chosen[1], deltas_of(chosen[2]))
    from ltcam_cli.runs.comparison import SHOWN, note
    from ltcam_cli.runs.comparison import compare as compare_cells

    cells[0].check()  # to leave it out would compare with another one
    table = compare_cells(healthy(cells))
    path = (out or outputs) / "compare.csv"
    print_table(table, SHOWN, path)
    print(f"\n{note(table)}")
    remove_leftovers(path.parent)
    write_table(path, table)
    write_text(path.with_suffix(".md"), f"{as_markdown(table)}\n{note(table)}\n")
    print(os.path.relpath(path))
