"""`predict`, `watch`: masks of images that nobody labelled."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import typer

from ltcam_cli.commands.compose import launch
from ltcam_cli.commands.experiments import run_task, with_named_method
from ltcam_cli.commands.options import REJECTED, Call
from ltcam_cli.errors import LtcamError
from ltcam_cli.experiments.overrides import quoted
from ltcam_cli.experiments.settings import named_keys
from ltcam_cli.experiments.tasks import LazyTask, Row

PREDICTED = ("shard", "images", "defective", "regions", "rejected", "look_again", "skipped", "out")


def predict(call: Call, paths: Sequence[str]) -> None:
    """Predict images and folders; prints where the results are, or a JSON line of each image."""
    if not paths or not all(paths):
        raise LtcamError("predict: name an image or a folder")
    if call.multirun and "predict.json=true" in call.overrides:
        raise LtcamError("predict.json=true: not with -m; predict the shards one by one")
    rows = _predicted(_with_pipeline(call), list(paths))
    if any(row["rejected"] for row in rows):
        raise typer.Exit(REJECTED)


def _predicted(call: Call, paths: list[str]) -> list[Row]:
    task = LazyTask("ltcam_cli.experiments.predict:Prediction", (paths,))
    if call.multirun:
        rows = run_task("predict", task, call, PREDICTED)
        if any(row["shard"] for row in rows):
            for out in dict.fromkeys(row["out"] for row in rows):
                print(f"join the shards with: {shlex.join(['ltcam', 'runs', 'gather', out])}")
        return rows
    [row], _ = launch("predict", task, call)
    skipped = f", {row['skipped']} unreadable ones skipped" if row["skipped"] else ""
    rejected = "" if row["rejected"] is None else f", {row['rejected']} rejected"
    again = "" if row["look_again"] is None else f", {row['look_again']} to be looked at again"
    say = partial(print, file=sys.stderr if "lines" in row else sys.stdout)
    say(
        f"{row['images']} images, {row['defective']} called defective, "
        f"{row['regions']} regions{rejected}{again}{skipped}{row['left_out']}"
    )
    say(f"{row['out']}: {row['tables']} masks/ {row['also']}")
    for line in row.get("lines", ()):
        print(line)
    return [row]


def watch(call: Call, folder: Path) -> None:
    """Predict images as they come into a folder; prints a JSON line of each."""
    task = LazyTask("ltcam_cli.experiments.watch:Watch", (folder, partial(print, flush=True)))
    launch("watch", task, _with_pipeline(call))


def review(call: Call, place: str, out: Path | None, port: int) -> None:
    """Serve the review page of a folder of predictions, or of a run, which is predicted first."""
    from ltcam_cli.runs.prediction_tables import is_prediction

    folder = Path(place)
    if not is_prediction(folder):
        named = call.preceded_by("evaluation.split=train").followed_by(f"run={quoted(place)}")
        task = LazyTask("ltcam_cli.experiments.review:OwnMasks", ())
        [row], _ = launch("review", task, _with_pipeline(named))
        folder, out = Path(row["out"]), out or Path(row["corrections"])
    from ltcam_cli.experiments.review import review_predictions

    review_predictions(folder, out, port)


def _with_pipeline(call: Call) -> Call:
    named = named_keys(call.overrides) & {"pipeline", "method", "experiment"}
    if "predict.runtime=onnx" in call.overrides and not named:
        call = call.preceded_by("pipeline=student")  # what a file can hold
    return with_named_method(call)
