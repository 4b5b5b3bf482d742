"""The command line that makes a run or a cell again, from the config that it keeps."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ltcam_cli.commands.compose import compose
from ltcam_cli.commands.options import KEYS, quoted
from ltcam_cli.commands.settings import TRAINING, Settings
from ltcam_cli.errors import LtcamError
from ltcam_cli.report.page import flat
from ltcam_cli.runs.cells import Cell
from ltcam_cli.runs.folder import RunFolder

# Of an evaluation, what decides its scores.
SCORING = ("evaluation.images", "evaluation.split")
OPTIONS = {KEYS[name]: f"--{name}" for name in ("method", "delta", "layers", "segmenter", "images")}


def command_of_run(run: RunFolder, config_dir: Path | None = None) -> str:
    """`ltcam train …` with all that differs from the defaults; empty if it was imported."""
    if "imported" in run.config:
        return ""
    held = {part: value for part, value in run.config.items() if part in TRAINING}
    groups = {"dataset": held["dataset"]["kind"], "backbone": held["backbone"]["name"]}
    return shlex.join(["ltcam", "train", *differing(flat(held), groups, config_dir)])


def command_of_cell(cell: Cell, config_dir: Path | None = None) -> str:
    """`ltcam evaluate --run RUN --method METHOD …` with all that decides the cell's scores."""
    config = {"bf16": False, "tta": {}, "ensemble": [], **cell.config}  # keys that older cells lack
    parts = ("method", "tta", "segmenter", "evaluation", "bf16", "ensemble")
    held = flat({part: config[part] for part in parts})
    held = {k: v for k, v in held.items() if not k.startswith("evaluation.") or k in SCORING}
    groups = {part: held[f"{part}.name"] for part in ("method", "segmenter")}
    words = ["ltcam", "evaluate", "--run", cell.run.name]
    for override in differing(held, groups, config_dir):
        key, _, value = override.partition("=")
        words += [OPTIONS[key], value] if key in OPTIONS else [override]
    return shlex.join(words)


def differing(
    held: Mapping[str, Any], groups: Mapping[str, str], config_dir: Path | None = None
) -> list[str]:
    """The overrides that turn the default config into a held one.

    Args:
        held: dotted keys with their values.
        groups: the choice of each config group, which is left away where there is no such config
            any more.
        config_dir: of the user's own configs.
    """
    choices = []
    for group, name in groups.items():
        try:
            compose("config", [f"{group}={name}"], config_dir)
        except LtcamError:
            continue
        choices.append(f"{group}={name}")
    composed = compose("config", choices, config_dir)
    given = flat(asdict(Settings.of(composed)))
    written = flat(OmegaConf.to_container(composed))  # type: ignore[arg-type]
    return choices + [
        f"{'' if key in written else '+'}{key}={_text(value)}"
        for key, value in held.items()
        if key not in given or given[key] != value
    ]


def _text(value: Any) -> str:
    """A value in Hydra's grammar."""
    if value is None:
        return "null"
    if isinstance(value, (list, tuple)):
        return f"[{','.join(_text(item) for item in value)}]"
    if isinstance(value, str):
        return quoted(value)
    return str(value).lower() if isinstance(value, bool) else f"{value:.17g}"
