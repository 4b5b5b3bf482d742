"""The students of a run: <run>/student/<name>-<hash>/, and which of them is meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ltcam_cli.errors import LtcamError, nearest
from ltcam_cli.files import sha256
from ltcam_cli.runs.folder import RunFolder


def students_of(run: RunFolder) -> list[Path]:
    """Folders of the trained students of the run's classifier as it is now, newest first."""
    folders = [path.parent for path in (run.path / "student").glob("*/checkpoint.pt")]
    digest = sha256(run.checkpoint)
    fitting = [folder for folder in folders if config_of(folder).get("classifier") == digest]
    return sorted(fitting, key=lambda path: (path / "checkpoint.pt").stat().st_mtime, reverse=True)


def find_student(run: RunFolder, name: str | None = None) -> Path:
    """The folder of the run's newest student, or of the newest one of that name.

    Args:
        name: the folder's, or its config's.

    Raises:
        LtcamError: if there is none, with the command that trains it.
    """
    found = students_of(run)
    for folder in found:
        if name is None or name in {folder.name, folder.name.rpartition("-")[0]}:
            return folder
    if name is not None and found:
        raise LtcamError(
            f"method.options.student={name}: {run.name} has no such student"
            f"{nearest(name, [folder.name for folder in found])}"
        )
    stale = any((run.path / "student").glob("*/checkpoint.pt"))
    why = "its students are of another checkpoint" if stale else "no student is trained"
    raise LtcamError(f"{run.path}: {why}; train one with: ltcam student train --run {run.name}")


def config_of(folder: Path) -> dict[str, Any]:
    """What a student was trained with; empty if that cannot be read."""
    try:
        held = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return {}
    return held if isinstance(held, dict) else {}
