"""Image-level predictions of a classifier, their threshold and their scores."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ltcam_cli.classifier.checkpoint import Classifier
from ltcam_cli.classifier.config import TrainerConfig
from ltcam_cli.data.batches import batches
from ltcam_cli.data.sample import Sample
from ltcam_cli.errors import LtcamError
from ltcam_cli.files import write_table
from ltcam_cli.progress import FIRST, Progress
from ltcam_cli.scores import images as image_scores
from ltcam_cli.scores.kinds import image_kinds, kind_accuracy

log = logging.getLogger(__name__)

CONSTANT = 1e-3  # spread of the logits of all test images below which a training has collapsed


def predict_images(
    classifier: Classifier,
    samples: Sequence[Sample],
    *,
    batch_size: int = 16,
    on_error: str = "raise",
) -> pd.DataFrame:
    """Image-level table: name, group, label, logit (as trained), probability, predicted.

    Of a classifier of kinds also kind (`crack+hole`), predicted_kind and probability_<kind>.

    Raises:
        LtcamError: if no image, or with `on_error="raise"` one image, cannot be read.
    """
    images = classifier.images(samples, on_error=on_error)
    classifier.model.eval()
    rows = []
    with torch.inference_mode(), Progress("classifying", len(images), delay=FIRST) as progress:
        for batch in batches(images, batch_size):
            progress.update(len(batch.items) + len(batch.skipped))
            if not batch.items:
                continue
            logits = classifier.model(classifier.prepare(batch.images)).float()
            log_odds = classifier.log_odds(logits).cpu()
            probability = classifier.probability(logits).cpu()
            kinds = classifier.kind_verdicts(logits)
            for item, odds, p, verdict in zip(
                batch.items, log_odds, probability, kinds, strict=True
            ):
                predicted = bool(p >= classifier.threshold)
                rows.append(
                    {
                        "name": item.sample.name,
                        "group": item.sample.group,
                        "label": item.sample.label,
                        "logit": float(odds),
                        "probability": float(p),
                        "predicted": int(predicted),
                        **({"kind": "+".join(item.sample.kinds)} if classifier.kinds else {}),
                        **verdict.columns(predicted),
                    }
                )
    if not rows:
        raise LtcamError(f"none of the {len(samples)} images could be read")
    return pd.DataFrame(rows)


def choose_threshold(
    classifier: Classifier, validation: Sequence[Sample], trainer: TrainerConfig, on_error: str
) -> float:
    """Probability from which an image is defective, by the trainer's rule on validation images."""
    if trainer.threshold == "prior":
        return classifier.threshold
    return threshold_of(predict_images(classifier, validation, on_error=on_error), trainer)


def threshold_of(table: pd.DataFrame, trainer: TrainerConfig) -> float:
    """Threshold by the trainer's rule, which is not `prior`, on a table of `predict_images`.

    Raises:
        LtcamError: If no image is defective.
    """
    labels, probabilities = table["label"].to_numpy(), table["probability"].to_numpy()
    if trainer.recall is None:
        return image_scores.max_f1_threshold(labels, probabilities)
    return image_scores.recall_threshold(labels, probabilities, trainer.recall)


def validation_ap(classifier: Classifier, validation: Sequence[Sample], on_error: str) -> float:
    """Average precision of the classifier's logits on validation images."""
    table = predict_images(classifier, validation, on_error=on_error)
    return image_scores.average_precision(table["label"].to_numpy(), table["logit"].to_numpy())


def image_metrics(table: pd.DataFrame) -> dict[str, Any]:
    """Scores of a table of `predict_images`; warns of a classifier that is constant on it."""
    labels, logits = table["label"].to_numpy(), table["logit"].to_numpy()
    predicted = table["predicted"].to_numpy()
    if len(table) > 1 and np.ptp(logits) < CONSTANT:
        log.warning(
            "the classifier says the same of all %d test images: its training collapsed, and its "
            "maps will be empty; try another seed, a lower trainer.lr or backbone.head=max",
            len(table),
        )
    return {
        "test_ap": image_scores.average_precision(labels, logits),
        "test_auroc": image_scores.auroc(labels, logits),
        "test_accuracy": image_scores.accuracy(labels, predicted),
        "test_balanced_accuracy": image_scores.balanced_accuracy(labels, predicted),
        **{f"test_{k}": v for k, v in image_scores.confusion(labels, predicted).items()},
        "test_images": len(table),
    }


def write_kinds(folder: Path, table: pd.DataFrame, kinds: Sequence[str]) -> dict[str, float]:
    """Write `kinds.csv`, the scores of each kind in a table of `predict_images`; their means."""
    if not kinds:
        return {}
    scores = image_kinds(table, kinds)
    write_table(folder / "kinds.csv", scores)
    return {"test_kind_ap": float(scores["ap"].mean()), "test_kind_accuracy": kind_accuracy(table)}
