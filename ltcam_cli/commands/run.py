"""`train` and `evaluate`: run a task, once or many times, and show the table."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ltcam_cli.commands.compose import Row, Task, launch
from ltcam_cli.commands.options import print_table, spent
from ltcam_cli.errors import LtcamError
from ltcam_cli.runs.tables import SHOWN, write_results

TRAINED = ("run", "head", "seed", "test_ap", "test_auroc", "test_accuracy", "threshold", "seconds")


def run_task(
    job: str,
    task: Task,
    overrides: Sequence[str],
    multirun: bool,
    config_dir: Path | None,
    columns: Sequence[str],
) -> list[Row]:
    """Run a task and print its row, or one table of a multirun's rows, which is written too.

    Args:
        columns: that are printed.

    Raises:
        LtcamError: if a run of a multirun failed; the others' rows are kept.
    """
    rows, folder = launch(job, task, overrides, multirun=multirun, config_dir=config_dir)
    failed = [str(row["error"]) for row in rows if "error" in row]
    rows = [row for row in rows if "error" not in row]
    if rows:
        varying = [
            c for c in ("dataset", "fold", "seed", "run") if len({r.get(c) for r in rows}) > 1
        ]
        table = write_results(folder, rows) if folder else pd.DataFrame(rows)
        print_table(table, list(dict.fromkeys([*varying, *columns])))
    if folder and rows:
        print(f"\n{os.path.relpath(folder / 'results.csv')}")
    if failed:
        raise LtcamError(f"{len(failed)} of {len(failed) + len(rows)} runs failed: {failed[0]}")
    return rows


def train(overrides: Sequence[str], multirun: bool, config_dir: Path | None) -> list[Row]:
    """Train one classifier, or several."""
    from ltcam_cli.commands.tasks import train_task

    return run_task("train", train_task, overrides, multirun, config_dir, TRAINED)


def evaluate(overrides: Sequence[str], multirun: bool, config_dir: Path | None) -> list[Row]:
    """Evaluate one cell, or several."""
    started = time.perf_counter()
    from ltcam_cli.commands.tasks import evaluate_task

    rows = run_task("evaluate", evaluate_task, overrides, multirun, config_dir, SHOWN)
    if not multirun:  # whose runs may have been side by side, or elsewhere
        print(f"\n{spent(rows[0]['loop'], started)}")
    return rows
