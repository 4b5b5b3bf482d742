"""`train`, `evaluate`, `reliability`, `export`, `import`, …: run a task, and show its table."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from ltcam_cli.commands.compose import compose, compose_here, launch
from ltcam_cli.commands.options import Call
from ltcam_cli.errors import LtcamError
from ltcam_cli.experiments.overrides import quoted
from ltcam_cli.experiments.settings import Settings, named_keys
from ltcam_cli.experiments.tasks import LazyTask, Row, Task
from ltcam_cli.report.terminal import print_files, print_table, spent
from ltcam_cli.runs.tables import SHOWN, once, write_results
from ltcam_cli.scores.skill import TOLD

TRAINED = ("run", "head", "seed", *(f"test_{name}" for name in TOLD), "seconds", "threshold")
STUDENT = ("run", "student", "defect_share", "ignored_share", "without_defect", "change", "loss",
           "seconds")  # fmt: skip
TEACHER = "ltcam_plus"  # pipeline that makes a student's first labels


def run_task(job: str, task: Task, call: Call, columns: Sequence[str]) -> list[Row]:
    """Run a task and print its row, or one table of a multirun's rows, which is written too.

    Args:
        job: Name of the command.
        task: Task.
        call: Overrides, and whether it is a multirun.
        columns: Columns that are printed.

    Raises:
        LtcamError: If a run of a multirun failed; the others' rows are kept.
    """
    rows, folder = launch(job, task, call)
    import pandas as pd

    failed = [str(row["error"]) for row in rows if "error" in row]
    rows = once(row for row in rows if "error" not in row)
    if not rows and not failed:
        raise LtcamError("nothing to run: a sweep of the overrides has no values")
    if rows:
        varying = [
            c for c in ("dataset", "fold", "seed", "run") if len({r.get(c) for r in rows}) > 1
        ]
        table = write_results(folder, rows) if folder else pd.DataFrame(rows)
        rest = None if folder else rows[0].get("results")
        print_table(table, list(dict.fromkeys([*varying, *columns])), rest)
        if folder:
            print(f"\n{os.path.relpath(folder / 'results.csv')}")
    if failed:
        raise LtcamError(f"{len(failed)} of {len(failed) + len(rows)} runs failed: {failed[0]}")
    return rows


def train(call: Call) -> list[Row]:
    """Train one classifier, or several."""
    return run_task("train", LazyTask("ltcam_cli.experiments.train:train_task"), call, TRAINED)


def evaluate(call: Call) -> list[Row]:
    """Evaluate one cell, or several."""
    started = time.perf_counter()
    task = LazyTask("ltcam_cli.experiments.evaluate:evaluate_task")
    rows = run_task("evaluate", task, call, SHOWN)
    print_files(row["kinds"] for row in rows if "kinds" in row)
    if not call.multirun:  # whose runs may have been side by side, or elsewhere
        print(f"\n{spent(rows[0]['loop'], started)}")
    return rows


def with_named_method(call: Call) -> Call:
    """The call without its command's pipeline where the user names a method or an experiment."""
    named = named_keys(call.overrides) & {"pipeline", "method", "experiment"}
    return call.preceded_by("~pipeline") if named and "pipeline" not in named else call


def train_student(call: Call) -> list[Row]:
    """Train one student, or several; prints what its labels were."""
    task = LazyTask("ltcam_cli.experiments.students:student_task")
    rows = run_task("student", task, with_named_method(call), STUDENT)
    for run in dict.fromkeys(row["run"] for row in rows):
        print(f"Now: ltcam evaluate --run {run} --pipeline student")
    return rows


def threshold(call: Call, run: str, rule: str) -> None:
    """Choose a run's threshold again; print what it finds, and what it costs."""
    task = LazyTask("ltcam_cli.experiments.threshold:ThresholdTask", (rule,))
    [row], _ = launch("threshold", task, call.preceded_by(f"run={quoted(run)}"))
    import pandas as pd

    print(f"threshold {row['threshold']:.4g} by {rule}, before {row['before']:.4g}")
    print_table(pd.DataFrame(row["parts"]))
    print("The test images chose nothing: their row is a report.")


def reliability(call: Call, runs: Sequence[str]) -> None:
    """Hold the verdicts of runs against their maps; print what that finds, beside other scores."""
    composed = [compose_here("reliability", call.followed_by(f"run={quoted(run)}")) for run in runs]
    from ltcam_cli.experiments.reliability import reliabilities

    found = reliabilities(composed)
    import pandas as pd

    print_table(pd.DataFrame(found["rows"]))
    for run, below in found["ask_below"].items():
        print(f"{run}: " + ("none is missed" if below is None else f"predict.ask_below={below:g}"))
    print("The test images chose nothing: their rows are a report.")


def export(call: Call, out: Path | None) -> None:
    """Write an ONNX file; print where it is, and how far it is from the original."""
    composed = compose_here("export", call)
    from ltcam_cli.experiments.export import export_pipeline

    exported = export_pipeline(composed, out)
    path = os.path.relpath(exported.path)
    differences = ", ".join(f"{name} {value:.1e}" for name, value in exported.differences.items())
    print(f"{exported.measure} differences from the original: {differences}")
    print(f"{path} {exported.path.with_suffix('.json').name}")
    print(f"Now: ltcam predict FOLDER --runtime onnx --model {path}")


def import_state(
    call: Call, path: Path, target: int | None, norm: tuple[str | None, str | None]
) -> None:
    """Make a run folder of a state dict; print where it is, and what was taken for granted."""
    composed = compose("import", call.preceded_by("backbone.weights=null", "backbone.head=own"))
    Settings.of(composed.values)
    from ltcam_cli.experiments.importing import import_state as import_run

    run, told = import_run(composed, path, target, norm)
    print(
        f"{run.path}\n{told}\nNow: ltcam predict FOLDER --run {run.name}, "
        f"or ltcam evaluate --run {run.name}"
    )
