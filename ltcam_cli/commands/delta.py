"""`method.delta=auto`: a number, chosen on the training part before there is a spec."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

import ltcam_cli
from ltcam_cli.classifier.checkpoint import load_classifier
from ltcam_cli.commands.compose import Row
from ltcam_cli.commands.pipeline import drawings, fitted_names, heatmap_source
from ltcam_cli.commands.settings import Settings
from ltcam_cli.data.split import Split
from ltcam_cli.errors import LtcamError
from ltcam_cli.files import hashed, lock, read_json, sha256, short_hash, write_json
from ltcam_cli.maps.method import AUTO, MethodConfig
from ltcam_cli.report.curves import draw_choice
from ltcam_cli.runs.delta import Evidence, judge
from ltcam_cli.runs.folder import RunFolder, write_table

log = logging.getLogger("ltcam_cli")
Evaluate = Callable[[Settings, Split, RunFolder, Sequence[MethodConfig]], tuple[list[Row], float]]


@dataclass(frozen=True)
class Choice:
    """A method with a δ that is a number or None, and how it came by it.

    Attributes:
        method: its spec can be made.
        by: `image` or `pixel-val`, the labels that chose δ; empty where nothing was chosen.
        curve: δ, the criterion and `chosen`, a row a candidate.
    """

    method: MethodConfig
    by: str = ""
    curve: pd.DataFrame | None = None

    def write(self, folder: Path) -> None:
        """Write `delta.csv` and `delta.png` beside a cell's result, if δ was chosen."""
        if self.curve is None:
            return
        write_table(folder / "delta.csv", self.curve)
        try:
            draw_choice(self.curve, folder / "delta.png")
        except LtcamError as error:
            log.info("no delta.png: %s", error)


def chosen(
    settings: Settings,
    split: Split,
    run: RunFolder,
    methods: Sequence[MethodConfig],
    evaluate: Evaluate,
) -> list[Choice]:
    """The methods with every `delta=auto` replaced by the best of `evaluation.deltas`.

    With `evaluation.labels=pixel-val` the best has the highest pooled IoU on the defective training
    images; with `image`, no mask is read, and the best has the highest mean `Evidence`. Of equals,
    the smallest. The test part is never looked at.

    Args:
        evaluate: `evaluate_methods`.

    Raises:
        LtcamError: if a method reads no gradients, or a training mask is wanted and missing.
    """
    wanted = [method for method in methods if method.delta == AUTO]
    if not wanted:
        return [Choice(method) for method in methods]
    by, deltas = settings.evaluation.labels, sorted(set(settings.evaluation.deltas))
    cells = [replace(method, delta=delta) for method in wanted for delta in deltas]
    for cell in cells:
        cell.check()  # refuses a method without gradients
    judged = _by_masks if by == "pixel-val" else _by_images
    name, values = judged(settings, split, run, cells, evaluate)
    curves = iter(
        [
            _curve(name, deltas, values[start : start + len(deltas)])
            for start in range(0, len(cells), len(deltas))
        ]
    )
    choices = []
    for method in methods:
        if method.delta != AUTO:
            choices.append(Choice(method))
            continue
        curve = next(curves)
        delta = float(curve.loc[curve["chosen"], "delta"].iloc[0])
        log.info("%s: delta %g chosen by %s of training images", method.name, delta, name)
        choices.append(Choice(replace(method, delta=delta), by, curve))
    return choices


def _by_masks(
    settings: Settings,
    split: Split,
    run: RunFolder,
    cells: Sequence[MethodConfig],
    evaluate: Evaluate,
) -> tuple[str, list[float]]:
    """The pooled IoU of each cell on the defective training images."""
    training = replace(
        settings.evaluation, split="train", images="defective", overlays=0, save_maps=False
    )
    rows, _ = evaluate(replace(settings, evaluation=training), split, run, cells)
    return "iou", [float("nan") if row["iou"] is None else row["iou"] for row in rows]


def _by_images(
    settings: Settings,
    split: Split,
    run: RunFolder,
    cells: Sequence[MethodConfig],
    evaluate: Evaluate,
) -> tuple[str, list[float]]:
    """The criterion of each cell on the defective training images; kept in the run folder."""
    samples = [sample for sample in split.train if sample.label]
    known = [
        hashed(settings.segmenter),
        sha256(run.checkpoint),
        [sample.name for sample in samples],
        ltcam_cli.__version__,
        *settings.options,
    ]
    fitted = fitted_names(settings, run, cells)
    names = [
        short_hash([hashed(cell), *known, *filter(None, [name])], 12)
        for cell, name in zip(cells, fitted, strict=True)
    ]
    path = run.path / "delta.json"
    held = read_json(path) if path.is_file() and not settings.overwrite else {}
    missing = [number for number, name in enumerate(names) if name not in held]
    if missing:
        classifier = load_classifier(run.checkpoint, settings.torch_device())
        methods = [cells[number] for number in missing]
        values = judge(
            classifier,
            heatmap_source(settings, run, classifier, methods),
            drawings(settings, run, classifier, methods),
            samples,
            Evidence(classifier),
            batch_size=settings.evaluation.batch_size,
            on_error=settings.dataset.on_error,
            progress="delta",
        )
        with lock(path):  # another process may have judged others meanwhile
            held |= read_json(path) if path.is_file() else {}
            held |= {names[n]: value for n, value in zip(missing, values, strict=True)}
            write_json(path, held)
    return "evidence", [float("nan") if held[n] is None else held[n] for n in names]


def _curve(name: str, deltas: Sequence[float], values: Sequence[float]) -> pd.DataFrame:
    curve = pd.DataFrame({"delta": deltas, name: values}, dtype=float)
    if curve[name].isna().all():
        raise LtcamError(
            "method.delta=auto: no mask of a training image has a pixel; give a number"
        )
    return curve.assign(chosen=curve.index == curve[name].idxmax())
