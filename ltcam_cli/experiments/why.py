"""In what a run or a cell differs from what the config describes now."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ltcam_cli.data.load import load_split
from ltcam_cli.errors import LtcamError
from ltcam_cli.experiments.cells import ChosenPipeline, plan
from ltcam_cli.experiments.overrides import Compose
from ltcam_cli.experiments.session import Session, settings_of_run, training_identity
from ltcam_cli.experiments.settings import TRAINING, Composed, with_kept_parts
from ltcam_cli.runs.cells import Cell
from ltcam_cli.runs.folder import find_run
from ltcam_cli.runs.identity import FILE, differences, kept_identity, kept_threads


def identity_differences(
    name: str, compose: Compose, overrides: list[str]
) -> list[tuple[str, Any, Any]]:
    """Dotted keys in which the kept identity and the one of now differ, with both values.

    Args:
        name: Run by name or path, or path of a cell.
        compose: Composes a command's config of overrides.
        overrides: Changes of the config; without any, what the run or cell was made with, on the
            data of now.

    Raises:
        LtcamError: If it is no run or cell, or a run that was imported.
    """
    path = Path(name)
    if path.parent.name == "evaluate":
        return _of_cell(Cell(path), compose("evaluate", overrides))
    return _of_run(name, compose("train", overrides))


def _of_run(name: str, composed: Composed) -> list[tuple[str, Any, Any]]:
    run = find_run(Path(str(composed.values["outputs"])), name)
    if "imported" in run.config:
        raise LtcamError(f"{run.path}: was imported; there is no training to compare with")
    settings, _ = settings_of_run(
        Composed({**composed.values, "run": str(run.path)}, composed.overrides)
    )
    kept = _kept(run.train)
    if settings.threads is None:
        settings = replace(settings, threads=kept_threads(run.train))
    now = training_identity(settings, load_split(settings.dataset))
    return differences(kept, now.mapping)


def _of_cell(cell: Cell, composed: Composed) -> list[tuple[str, Any, Any]]:
    parts = (*TRAINING, "method", "segmenter", "tta", "evaluation", "ensemble", "bf16")
    settings = with_kept_parts(composed, cell.config, parts, cell.path / "config.yaml")
    settings = replace(settings, outputs=str(cell.run.path.parent))
    kept = _kept(cell.path)
    chosen = ChosenPipeline(settings.pipeline, str(kept.get("supervision", "")))
    [job] = plan(Session(settings, cell.run), [chosen])
    return differences(kept, job.identity.mapping)


def _kept(folder: Path) -> dict[str, Any]:
    kept = kept_identity(folder)
    if kept is None:
        raise LtcamError(f"{folder}: holds no {FILE}; it is no finished run or cell")
    return kept
