"""The students of a run: <run>/student/<name>-<hash>/, and which of them is meant."""

from __future__ import annotations

from pathlib import Path

from ltcam_cli.errors import LtcamError, nearest
from ltcam_cli.files import content_digest
from ltcam_cli.runs.folder import RunFolder, read_config

AUTO = "auto"  # name of the students that `pipeline=auto` makes


def students_of(run: RunFolder) -> list[Path]:
    """Folders of the trained students of the run's classifier as it is now, newest first.

    Those that `pipeline=auto` made come after those that the user trained.
    """
    folders = [path.parent for path in (run.path / "student").glob("*/checkpoint.pt")]
    digest = content_digest(run.checkpoint)
    fitting = [folder for folder in folders if _classifier_of(folder) == digest]
    return sorted(fitting, key=lambda path: (path.name.startswith(f"{AUTO}-"), _age(path)))


def find_student(run: RunFolder, name: str | None = None) -> Path:
    """Folder of the run's newest student, or of the newest one of that name.

    Args:
        run: Run.
        name: Name of the folder, or of the student's config.

    Raises:
        LtcamError: If there is none, with the command that trains it.
    """
    students = students_of(run)
    for folder in students:
        if name is None or name in {folder.name, folder.name.rpartition("-")[0]}:
            return folder
    if name is not None and students:
        raise LtcamError(
            f"method.student={name}: {run.name} has no such student"
            f"{nearest(name, [folder.name for folder in students])}"
        )
    stale = any((run.path / "student").glob("*/checkpoint.pt"))
    why = "its students are of another checkpoint" if stale else "no student is trained"
    raise LtcamError(f"{run.path}: {why}; train one with: ltcam student train --run {run.name}")


def _age(folder: Path) -> float:
    return -(folder / "checkpoint.pt").stat().st_mtime


def _classifier_of(folder: Path) -> str | None:
    """Digest of the checkpoint of a student's classifier; None if that cannot be read."""
    try:
        return read_config(folder, "train the student anew").get("classifier")
    except LtcamError:
        return None
