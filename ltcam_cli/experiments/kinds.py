"""Scores of cells by kind of defect, where the kinds of the images are known."""

from __future__ import annotations

from collections.abc import Sequence

from ltcam_cli.experiments.session import Session
from ltcam_cli.files import write_table
from ltcam_cli.runs.cells import Cell
from ltcam_cli.scores.kinds import mask_kinds

KINDS = "kinds.csv"  # of a cell


def write_kinds(session: Session, cells: Sequence[Cell]) -> None:
    """Write `kinds.csv` of cells; from their scores of images, so that nothing is computed again.

    The kinds are those that the data set has now.
    """
    part = session.split.part(session.settings.evaluation.split)
    kinds = {sample.name: sample.kinds for sample in part if sample.kinds}
    for cell in cells if kinds else ():
        write_table(cell.path / KINDS, mask_kinds(cell.images(), kinds))
