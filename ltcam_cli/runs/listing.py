"""The list of runs: one row each. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ltcam_cli.errors import DamagedFileError
from ltcam_cli.runs.environment import date_of
from ltcam_cli.runs.folder import RunFolder
from ltcam_cli.scores.skill import confusion_text, no_skill


def run_rows(runs: Sequence[RunFolder]) -> list[dict[str, Any]]:
    """Rows of runs, the most important columns first.

    Data set and backbone are None where all names begin with both, as they do unless chosen. A
    damaged run has a row, too: it must not hide the others. `said` is what is wrong with a run.
    """
    rows = [_row(run) for run in runs]
    shown = [row for row in rows if "dataset" in row]
    if all(row["run"].startswith(f"{row['dataset']}-{row['backbone']}-") for row in shown):
        rows = [row | {"dataset": None, "backbone": None} for row in rows]
    return rows


def _row(run: RunFolder) -> dict[str, Any]:
    try:
        run.check()
        config = run.config
        dataset, backbone = config["dataset"], config["backbone"]
        size = [dataset.get("height"), dataset.get("width")]
        data = dataset.get("name") or Path(str(dataset.get("root") or dataset["kind"])).name
        network = backbone["name"]
    except DamagedFileError as error:
        return {"run": run.name, "trained": "damaged", "said": f"ltcam: {error}"}
    metrics = run.metrics
    warning = no_skill(metrics)
    return {
        "run": run.name,
        "date": f"{date_of(run):%Y-%m-%d}",
        "dataset": data,
        "size": None if None in size else "x".join(map(str, size)),
        "backbone": network,
        "test_ap": metrics.get("test_ap"),
        "trained": "yes" if run.checkpoint.is_file() else "unfinished",
        "cells": len(run.results()),
        "tp/fp/fn/tn": confusion_text(metrics),
        "balanced": metrics.get("test_balanced_accuracy"),
        "test_auroc": metrics.get("test_auroc"),
        "seconds": metrics.get("seconds"),
        "said": None if warning is None else f"{run.name}: {warning}",
    }
