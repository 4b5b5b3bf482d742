"""Sweep: methods × deltas × layer sets, a row a cell, in one pass over the images."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import pandas as pd

from ltcam_cli.data.listing import stem_of
from ltcam_cli.errors import LtcamError
from ltcam_cli.experiments.evaluate import evaluate_pipelines
from ltcam_cli.experiments.session import Session, find_session
from ltcam_cli.experiments.settings import Composed, Pipeline
from ltcam_cli.experiments.sources import distinct
from ltcam_cli.experiments.tasks import Row
from ltcam_cli.maps.method import CamMethod, Method
from ltcam_cli.report.curves import draw_delta_curve, score_of
from ltcam_cli.runs.folder import write_config
from ltcam_cli.runs.identity import Identity
from ltcam_cli.runs.tables import rows_of, write_results

log = logging.getLogger("ltcam_cli")


def grid(
    method: Method, deltas: Sequence[float | None] = (), layers: Sequence[str] = ()
) -> list[Method]:
    """All combinations for one method; δ stays as it is where the method reads no gradients.

    Args:
        method: Method.
        deltas: Percentiles; none: the method's own.
        layers: Layer sets; none: the method's own.

    Raises:
        LtcamError: If a method, layer or δ does not exist.
    """
    methods: list[Method] = [method]
    if isinstance(method, CamMethod):
        values = deltas if deltas and method.reads_gradients else [method.delta]
        sets = layers or [method.layers]
        methods = [replace(method, delta=delta, layers=one) for one in sets for delta in values]
    for one in methods:
        one.check()  # refuses what does not exist before anything is computed
    return methods


@dataclass(frozen=True)
class Sweep:
    """A grid of pipelines on one or both parts of the data set.

    Attributes:
        pipelines: Cells of the grid.
        parts: `test`, `train`, or both: then the training part chooses a row.
    """

    pipelines: list[Pipeline]
    parts: tuple[Literal["test", "train"], ...]

    def __call__(self, composed: Composed) -> Row:
        """Run the sweep for the config's run."""
        return self.run(find_session(composed))

    def run(self, session: Session) -> Row:
        """Evaluate the grid on each part, and mark the row that the training part chose."""
        rows: list[Row] = []
        loop, pipelines = 0.0, distinct(self.pipelines)
        for part in self.parts:
            evaluation = replace(session.settings.evaluation, split=part, overlays=0)
            of_part = session.with_settings(evaluation=evaluation)
            part_rows, seconds = evaluate_pipelines(of_part, pipelines)
            loop += seconds
            rows += [row | {"part": part} for row in part_rows]
        table = mark_chosen(pd.DataFrame(rows))
        identity = Identity("sweep", {"cells": [row["cell"] for row in rows], "parts": self.parts})
        names = "+".join(dict.fromkeys(pipeline.method.name for pipeline in pipelines))
        folder = session.run.path / "sweep" / f"{stem_of(names)}-{identity.hash}"
        cells = [asdict(pipeline) for pipeline in pipelines]
        write_config(folder, {**asdict(session.settings), "cells": cells})
        identity.write(folder)
        marked = rows_of(table)
        write_results(folder, marked, "sweep")
        try:
            draw_delta_curve(table, folder / "delta_curve.png")
        except LtcamError as error:
            log.info("no delta_curve.png: %s", error)
        return {"rows": marked, "loop": loop, "folder": str(folder)}


def mark_chosen(table: pd.DataFrame) -> pd.DataFrame:
    """Add the column `chosen`: the cell with the highest IoU on the training part, on every part.

    Where no training image has a mask, it has the highest evidence instead. Never the best of a
    test part: without a training part nothing is chosen.
    """
    training = table[table["part"] == "train"]
    table = table.assign(chosen=False)
    criterion = score_of(training)
    if len(training) and training[criterion].notna().any():
        best = training.loc[training[criterion].idxmax()]
        same = (table["method"] == best["method"]) & (table["layers"] == best["layers"])
        delta = table["delta"].isna() if pd.isna(best["delta"]) else table["delta"] == best["delta"]
        table["chosen"] = same & delta
        if criterion == "iou":  # masks of training images chose it
            table.loc[table["chosen"], "supervision"] = "pixel"
    return table
