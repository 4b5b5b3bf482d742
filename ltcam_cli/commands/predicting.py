"""`predict`: masks of images that nobody labelled."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from ltcam_cli.commands.compose import LazyTask, Row, launch
from ltcam_cli.commands.experiments import run_task, with_named_method
from ltcam_cli.commands.options import Call
from ltcam_cli.errors import LtcamError
from ltcam_cli.experiments.settings import named_keys

PREDICTED = ("shard", "images", "defective", "regions", "skipped", "out")


def predict(call: Call, paths: Sequence[str]) -> list[Row]:
    """Predict images and folders; prints where the results are."""
    if not paths or not all(paths):
        raise LtcamError("predict: name an image or a folder")
    named = named_keys(call.overrides) & {"pipeline", "method", "experiment"}
    if "predict.runtime=onnx" in call.overrides and not named:
        call = call.preceded_by("pipeline=student")  # what a file can hold
    call = with_named_method(call)
    task = LazyTask("ltcam_cli.experiments.predict:Prediction", (list(paths),))
    if call.multirun:
        rows = run_task("predict", task, call, PREDICTED)
        if any(row["shard"] for row in rows):
            for out in dict.fromkeys(row["out"] for row in rows):
                print(f"join the shards with: {shlex.join(['ltcam', 'runs', 'gather', out])}")
        return rows
    [row], _ = launch("predict", task, call)
    skipped = f", {row['skipped']} unreadable ones skipped" if row["skipped"] else ""
    print(
        f"{row['images']} images, {row['defective']} called defective, "
        f"{row['regions']} regions{skipped}{row['left_out']}"
    )
    print(f"{row['out']}: {row['tables']} masks/ {row['also']}")
    return [row]
