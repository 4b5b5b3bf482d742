"""Evaluation: choose δ where it is open, plan the cells, run those that are missing."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from ltcam_cli.experiments.cells import plan, run
from ltcam_cli.experiments.delta import choose_deltas
from ltcam_cli.experiments.session import Session, find_session
from ltcam_cli.experiments.settings import Composed, Pipeline
from ltcam_cli.experiments.students import best_pipeline
from ltcam_cli.experiments.tasks import Row
from ltcam_cli.runs.cells import KINDS
from ltcam_cli.scores.skill import no_skill

log = logging.getLogger("ltcam_cli")


def evaluate_pipelines(session: Session, pipelines: Sequence[Pipeline]) -> tuple[list[Row], float]:
    """Evaluate a cell for each pipeline; those that can, share their passes over the images.

    Warns, after that, of a data set without masks, and of a classifier that learnt nothing.

    Returns:
        Rows as the pipelines are listed, and the seconds of the loops: 0 if all cells were there.
    """
    chosen = [best_pipeline(session, pipeline) for pipeline in pipelines]
    rows, seconds = run(session, plan(session, choose_deltas(session, chosen)))
    if any("evidence" in row for row in rows):
        part = session.settings.evaluation.split
        log.warning("no masks in the %s part: evidence and area stand in place of IoU", part)
    warning = no_skill(session.run.metrics)
    if warning and session.settings.evaluation.split != "train":
        log.warning("%s: %s", session.run.name, warning)
    return rows, seconds


def evaluate_task(composed: Composed) -> Row:
    """Evaluate the config's pipeline; its row.

    Besides, the row has the seconds of this call's `loop`, `results`, the run's table, and `kinds`,
    that of the kinds of defects where they are known.
    """
    session = find_session(composed)
    [row], loop = evaluate_pipelines(session, [session.settings.pipeline])
    kinds = session.run.path / "evaluate" / row["cell"] / KINDS
    told = {"kinds": os.path.relpath(kinds)} if kinds.is_file() else {}
    return row | told | {"loop": loop, "results": os.path.relpath(session.run.path / "results.csv")}
