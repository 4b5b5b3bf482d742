"""Threshold: chosen again after training, on the validation images that the training left out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from ltcam_cli.classifier.checkpoint import THRESHOLD
from ltcam_cli.classifier.config import TrainerConfig
from ltcam_cli.classifier.predictions import image_metrics, predict_images, threshold_of
from ltcam_cli.config import build
from ltcam_cli.data.sample import Sample
from ltcam_cli.data.split import split_fraction
from ltcam_cli.errors import LtcamError
from ltcam_cli.experiments.session import Session, find_session
from ltcam_cli.experiments.settings import Composed
from ltcam_cli.files import exclusive, write_json, write_table
from ltcam_cli.runs.folder import ANEW
from ltcam_cli.runs.identity import kept_identity
from ltcam_cli.runs.reading import read_table
from ltcam_cli.scores.images import confusion

FIXED = ("trainer", "backbone", "seed")  # parts of the config that the training has settled
PRIOR = 0.5  # threshold of the rule `prior`


@dataclass(frozen=True)
class ThresholdTask:
    """Choice of a run's threshold by a rule of `trainer.threshold`."""

    rule: str

    def __call__(self, composed: Composed) -> dict[str, Any]:
        """Choose, keep and report; the row has the threshold, the one before, and the parts."""
        if given := composed.overrides_of(FIXED):
            raise LtcamError(
                f"{given[0].lstrip('+')}: the training has settled that; train another run"
            )
        return choose_again(find_session(composed), self.rule)


def choose_again(session: Session, rule: str) -> dict[str, Any]:
    """Choose the threshold of a run again, and keep it beside the checkpoint.

    Metrics and image table of the training's test part are written anew, with the same
    probabilities. The threshold of the training itself needs no file of its own.

    Raises:
        LtcamError: If there are no validation images, or they cannot be told from those that the
            classifier was trained on.
    """
    run, classifier = session.run, session.classifier
    before, tables = classifier.threshold, {}
    if rule == "prior":
        threshold = PRIOR
    else:
        held_out = validation_images(session)
        trainer = build(TrainerConfig, asdict(session.settings.trainer) | {"threshold": rule})
        table = predict_images(classifier, held_out, on_error=session.settings.dataset.on_error)
        tables["validation"], threshold = table, threshold_of(table, trainer)
    images = run.train / "images.csv"
    with exclusive(run.train):
        test = read_table(images, ANEW, ("name",), ("label", "probability", "logit"))
        path = run.train / THRESHOLD
        if threshold == classifier.metrics.get("threshold"):
            path.unlink(missing_ok=True)
        else:
            write_json(path, {"threshold": threshold, "rule": rule})
        test["predicted"] = (test["probability"] >= threshold).astype(int)
        write_table(images, test)
        chosen = {"threshold": threshold, "threshold_rule": rule}
        write_json(run.train / "metrics.json", run.metrics | image_metrics(test) | chosen)
    tables["test (report only)"] = test
    parts = [_part(name, table, threshold) for name, table in tables.items()]
    return {"run": run.name, "threshold": threshold, "before": before, "parts": parts}


def validation_images(session: Session) -> list[Sample]:
    """The images that a run's training held out.

    Raises:
        LtcamError: If it held out none, or the data set has other images now.
    """
    run, settings = session.run, session.settings
    kept = kept_identity(run.train) or {}
    if "images" not in kept or not settings.trainer.validation:
        raise LtcamError(
            f"{run.path}: has no validation images, and a threshold must not be chosen on images "
            "that were trained on; train with trainer.validation=0.2"
        )
    if session.split.fingerprint() != kept["images"]:
        raise LtcamError(
            f"{run.path}: was trained on other images or another split than the data set has now; "
            f"see: ltcam runs why {run.name}"
        )
    return split_fraction(session.split.train, settings.trainer.validation, settings.seed)[1]


def _part(name: str, table: pd.DataFrame, threshold: float) -> dict[str, Any]:
    """What a threshold finds of some images, and what it costs."""
    counts = confusion(table["label"], table["probability"] >= threshold)
    defective, good = counts["tp"] + counts["fn"], counts["fp"] + counts["tn"]
    return {
        "images": name,
        "defective": defective,
        "found": counts["tp"],
        "recall %": 100 * counts["tp"] / defective,
        "good": good,
        "false alarms": counts["fp"],
        "false alarms %": 100 * counts["fp"] / good,
    }
