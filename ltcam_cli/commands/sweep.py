"""`sweep`: methods × deltas × layer sets, a row a cell, from one pass over the images."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ltcam_cli.commands.compose import Row, compose, launch
from ltcam_cli.commands.options import deltas_of, print_table, spent
from ltcam_cli.commands.settings import Pipeline, Settings, trained
from ltcam_cli.commands.tasks import evaluate_pipelines
from ltcam_cli.errors import LtcamError
from ltcam_cli.files import hashed, short_hash
from ltcam_cli.maps.method import MethodConfig
from ltcam_cli.report.curves import draw_delta_curve
from ltcam_cli.runs.folder import write_config
from ltcam_cli.runs.tables import SHOWN, write_results

PARTS = {"test": ("test",), "train": ("train",), "both": ("train", "test")}
log = logging.getLogger("ltcam_cli")


def sweep(
    names: str,
    deltas: str | None,
    layers: str | None,
    part: str,
    overrides: Sequence[str],
    config_dir: Path | None,
) -> list[Row]:
    """Evaluate a grid; print its table and where it was written.

    Args:
        names: methods, joined by commas.
        deltas: comma list of percentiles, `null` and ranges; None keeps each method's own.
        layers: comma list of layer sets; None keeps each method's own.
        part: `test`, `train` or `both`.
    """
    started = time.perf_counter()
    if part not in PARTS:
        raise LtcamError(f"--split {part}: must be test, train or both")
    cells: list[Pipeline] = []
    for name in names.split(","):
        settings = Settings.of(compose("sweep", [*overrides, f"method={name}"], config_dir))
        methods = grid(settings.method, deltas, layers)
        cells += [replace(settings.pipeline, method=method) for method in methods]
    rows, _ = launch("sweep", SweepTask(cells, PARTS[part]), overrides, config_dir=config_dir)
    found = rows[0]
    table = pd.DataFrame(found["rows"])
    columns = ["part", *SHOWN] if part == "both" else SHOWN
    print_table(table, [*columns, *(["chosen"] if part != "test" else [])])
    print(f"\n{len(table)} cells: {spent(found['loop'], started)}")
    print(os.path.relpath(found["folder"]))
    return list(found["rows"])


def grid(method: MethodConfig, deltas: str | None, layers: str | None) -> list[MethodConfig]:
    """All cells of one method; one that reads no gradients is not swept over δ."""
    sets = layers.split(",") if layers else [method.layers]
    values = [method.delta]
    if deltas and method.reads_gradients:
        values = deltas_of([deltas])
    cells = [replace(method, delta=delta, layers=one) for one in sets for delta in values]
    for cell in cells:
        cell.check()  # refuses what does not exist before anything is computed
    return cells


@dataclass(frozen=True)
class SweepTask:
    """The task that Hydra runs."""

    cells: list[Pipeline]
    parts: tuple[str, ...]

    def __call__(self, cfg: DictConfig) -> Row:
        """Evaluate the grid on each part, and mark the row that the training part chose."""
        settings, split, run = trained(cfg, HydraConfig.get().overrides.task)
        rows: list[Row] = []
        loop = 0.0
        for part in self.parts:
            evaluation = replace(settings.evaluation, split=part, overlays=0)
            own = replace(settings, evaluation=evaluation)
            of_part, seconds = evaluate_pipelines(own, split, run, self.cells)
            loop += seconds
            rows += [row | {"part": part} for row in of_part]
        table = mark_chosen(pd.DataFrame(rows))
        identity = [[hashed(cell) for cell in self.cells], self.parts, rows[0]["checkpoint"]]
        names = "+".join(dict.fromkeys(cell.method.name for cell in self.cells))
        folder = run.path / "sweep" / f"{names}-{short_hash(identity + settings.options)}"
        write_config(folder, {**asdict(settings), "cells": [asdict(cell) for cell in self.cells]})
        marked = [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]
        write_results(folder, marked, "sweep")
        try:
            draw_delta_curve(table, folder / "delta_curve.png")
        except LtcamError as error:
            log.info("no delta_curve.png: %s", error)
        return {"rows": marked, "loop": loop, "folder": str(folder)}


def mark_chosen(table: pd.DataFrame) -> pd.DataFrame:
    """Add the column `chosen`: the cell with the highest IoU on the training part, on every part.

    Never the best of a test part: without a training part nothing is chosen.
    """
    trained_on = table[table["part"] == "train"]
    table = table.assign(chosen=False)
    if trained_on["iou"].notna().any():
        best = trained_on.loc[trained_on["iou"].idxmax()]
        same = (table["method"] == best["method"]) & (table["layers"] == best["layers"])
        delta = table["delta"].isna() if pd.isna(best["delta"]) else table["delta"] == best["delta"]
        table["chosen"] = same & delta
        table.loc[table["chosen"], "labels"] = "pixel-val"  # masks of training images chose it
    return table
