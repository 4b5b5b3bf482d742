"""The command line that makes a run or a cell again, from the config that it keeps."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ltcam_cli.errors import LtcamError
from ltcam_cli.experiments.overrides import Compose, override_text
from ltcam_cli.experiments.settings import TRAINING, Settings
from ltcam_cli.runs.cells import Cell
from ltcam_cli.runs.dotted import flat, with_lists
from ltcam_cli.runs.folder import RunFolder

# Keys of an evaluation that decide its scores.
SCORING = ("evaluation.images", "evaluation.split")
FLAGS = {
    "method": "--method",
    "method.delta": "--delta",
    "method.layers": "--layers",
    "segmenter": "--segmenter",
    "evaluation.images": "--images",
}


def command_of_run(run: RunFolder, compose: Compose) -> str:
    """`ltcam train …` with all that differs from the defaults; empty if it was imported."""
    if "imported" in run.config:
        return ""
    kept = {part: value for part, value in run.config.items() if part in TRAINING}
    groups = {"dataset": kept["dataset"]["kind"], "backbone": kept["backbone"]["name"]}
    return shlex.join(["ltcam", "train", *differing("train", flat(kept), groups, compose)])


def command_of_cell(cell: Cell, compose: Compose) -> str:
    """`ltcam evaluate --run RUN --method METHOD …` with all that decides the cell's scores."""
    parts = ("method", "tta", "segmenter", "evaluation", "bf16", "ensemble")
    kept = flat({part: cell.config[part] for part in parts})
    kept = {k: v for k, v in kept.items() if not k.startswith("evaluation.") or k in SCORING}
    groups = {part: kept[f"{part}.name"] for part in ("method", "segmenter")}
    words = ["ltcam", "evaluate", "--run", cell.run.name]
    for override in differing("evaluate", kept, groups, compose):
        key, _, value = override.partition("=")
        words += [FLAGS[key], value] if key in FLAGS else [override]
    return shlex.join(words)


def differing(
    job: str, kept: Mapping[str, Any], groups: Mapping[str, str], compose: Compose
) -> list[str]:
    """The overrides that turn a command's default config into a kept one.

    Args:
        job: Command.
        kept: Dotted keys with their values.
        groups: Choice of each config group; left out where there is no such config any more.
        compose: Composes a command's config of overrides.
    """
    choices = [f"{group}={name}" for group, name in groups.items()]
    try:
        composed = compose(job, choices)
    except LtcamError:
        choices = [choice for choice in choices if _exists(job, choice, compose)]
        composed = compose(job, choices)
    given = flat(with_lists(asdict(Settings.of(composed.values))))
    return choices + [
        f"{key}={override_text(value)}"
        for key, value in kept.items()
        if key not in given or given[key] != value
    ]


def _exists(job: str, choice: str, compose: Compose) -> bool:
    try:
        compose(job, [choice])
    except LtcamError:
        return False
    return True
