"""Removal of run folders, but of none that a process is at work in."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from filelock import FileLock, Timeout

from ltcam_cli.errors import LtcamError
from ltcam_cli.files import lock
from ltcam_cli.runs.folder import CORRECTIONS, RunFolder, find_run


def removable_runs(outputs: Path, names: Sequence[str]) -> list[RunFolder]:
    """The runs of these names, each once.

    Raises:
        LtcamError: If there is no such run, it is not in `outputs`, a process works in it, or it
            holds corrections.
    """
    runs = {}
    for name in names:
        run = find_run(outputs, name)
        if run.path.is_symlink() or run.path.resolve().parent != outputs.resolve():
            raise LtcamError(f"{run.path}: is not in {outputs}; name its folder with --outputs")
        runs[run.path.resolve()] = RunFolder(run.path.resolve())
    for run in runs.values():
        for table in run.path.rglob(f"{CORRECTIONS}/labels.csv"):
            raise LtcamError(
                f"{table.parent}: holds masks that a person corrected; move or delete it first"
            )
        _taken(run).close()
    return list(runs.values())


def remove_run(run: RunFolder) -> None:
    """Delete a run folder with all that was made of it.

    It is renamed first, so that a killed removal leaves no run that is half there.

    Raises:
        LtcamError: If a process works in it.
    """
    away = run.path.with_name(f".removed-{run.name}")
    with _taken(run):
        run.path.rename(away)
    shutil.rmtree(away)


def _taken(run: RunFolder) -> ExitStack:
    """All locks of a run folder.

    Raises:
        LtcamError: If another process has one.
    """
    with ExitStack() as stack:
        for path in {Path(lock(run.train).lock_file), *run.path.rglob(".*.lock")}:
            try:
                stack.enter_context(FileLock(path).acquire(timeout=0))
            except Timeout as error:
                raise LtcamError(
                    f"{run.path}: a process is at work there ({path.name}); end it first"
                ) from error
        return stack.pop_all()
