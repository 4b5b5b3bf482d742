"""`runs why`: in what a run or a cell differs from what the config describes now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ltcam_cli.commands.compose import compose
from ltcam_cli.commands.options import Call
from ltcam_cli.config import shown
from ltcam_cli.data.load import load_split
from ltcam_cli.errors import LtcamError
from ltcam_cli.experiments.session import Session, settings_of_run, training_identity
from ltcam_cli.experiments.settings import TRAINING, Composed, with_kept_parts
from ltcam_cli.runs.cells import Cell
from ltcam_cli.runs.folder import find_run
from ltcam_cli.runs.identity import FILE, differences, kept_identity


def why(call: Call, name: str) -> None:
    """Print a line for each key in which the kept identity and the one of now differ.

    Args:
        call: Overrides; without any, what the run or cell was made with, on the data of now.
        name: Run by name or path, or path of a cell.
    """
    path = Path(name)
    if path.parent.name == "evaluate":
        kept, now = _of_cell(call, Cell(path))
    else:
        kept, now = _of_run(call, name)
    lines = differences(kept, now)
    for key, before, after in lines:
        print(f"{key}: {shown(before)} -> {shown(after)}")
    if not lines:
        print(f"{name}: nothing differs")


def _of_run(call: Call, name: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    composed = compose("train", call)
    run = find_run(Path(str(composed.values["outputs"])), name)
    composed = Composed({**composed.values, "run": str(run.path)}, composed.named)
    settings, _ = settings_of_run(composed)
    if "imported" in run.config:
        raise LtcamError(f"{run.path}: was imported; there is no training to compare with")
    identity = training_identity(replace(settings, run=None), load_split(settings.dataset))
    return _kept(run.train), identity.mapping


def _of_cell(call: Call, cell: Cell) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    from ltcam_cli.experiments.cells import ChosenPipeline, plan

    composed = compose("evaluate", call)
    parts = (*TRAINING, "method", "segmenter", "tta", "evaluation", "ensemble", "bf16")
    settings = with_kept_parts(composed, cell.config, parts)
    kept = _kept(cell.path)
    settings = replace(settings, outputs=str(cell.run.path.parent))
    chosen = ChosenPipeline(settings.pipeline, str(kept.get("supervision", "")))
    [job] = plan(Session(settings, cell.run), [chosen])
    return kept, job.identity.mapping


def _kept(folder: Path) -> dict[str, Any]:
    kept = kept_identity(folder)
    if kept is None:
        raise LtcamError(f"{folder}: holds no {FILE}; it is no finished run or cell")
    return kept
