"""Scores of image labels, and thresholds chosen on validation items.

Labels are (N,) of 0 (good) or 1 (defective); scores are (N,) floats, probabilities or logits,
higher where more defective. A threshold t calls an image defective where score >= t.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
from numpy.typing import ArrayLike

from ltcam_cli.errors import LtcamError
from ltcam_cli.scores.curves import auroc_of, average_precision_of
from ltcam_cli.scores.pixels import PixelCounts


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Average precision in [0, 1], as scikit-learn defines it; NaN if one class only."""
    _, positives, negatives = _ranking(labels, scores)
    return average_precision_of(positives, negatives)


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve in [0, 1], ties counted half; NaN if one class only."""
    _, positives, negatives = _ranking(labels, scores)
    return auroc_of(positives, negatives)


def confusion(labels: ArrayLike, predicted: ArrayLike) -> dict[str, int]:
    """Images as `tp`, `fp`, `fn`, `tn`, from labels and predicted labels.

    Raises:
        ValueError: if lengths differ or a label is neither 0 nor 1.
    """
    return asdict(PixelCounts.of(_zero_or_one(predicted), _zero_or_one(labels)))


def accuracy(labels: ArrayLike, predicted: ArrayLike) -> float:
    """Share of images labelled right, in [0, 1]; NaN of none. Raises as `confusion` does."""
    counts = confusion(labels, predicted)
    total = sum(counts.values())
    return (counts["tp"] + counts["tn"]) / total if total else float("nan")


def max_f1_threshold(labels: ArrayLike, scores: ArrayLike) -> float:
    """The score that as threshold gives the highest F1; of equals, the highest.

    Raises:
        LtcamError: if no label is positive.
    """
    levels, tp, fp = _thresholds(labels, scores)
    f1 = 2 * tp / (tp + fp + tp[0])
    return float(levels[np.flatnonzero(f1 == f1.max())[-1]])


def recall_threshold(labels: ArrayLike, scores: ArrayLike, recall: float) -> float:
    """The highest score that as threshold finds at least this share of the defective images.

    Args:
        labels: (N,) of 0 or 1.
        scores: (N,) floats.
        recall: a fraction in (0, 1].

    Raises:
        LtcamError: if recall is out of range or no label is positive.
    """
    if not 0 < recall <= 1:
        raise LtcamError(
            f"recall {recall} is out of range; give a fraction above 0 and up to 1, e.g. 0.99"
        )
    levels, tp, _ = _thresholds(labels, scores)
    return float(levels[np.flatnonzero(tp / tp[0] >= recall)[-1]])


def _ranking(labels: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct scores, lowest first, and how many positives and negatives have each."""
    truth, values = _zero_or_one(labels), np.asarray(scores, dtype=np.float64)
    if truth.shape != values.shape:
        raise ValueError(f"labels {truth.shape} and scores {values.shape} differ in shape")
    if np.isnan(values).any():
        raise ValueError("a score is NaN")
    levels, level = np.unique(values, return_inverse=True)
    positives = np.bincount(level[truth], minlength=levels.size)
    return levels, positives, np.bincount(level[~truth], minlength=levels.size)


def _thresholds(labels: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct scores, lowest first, and the true and false positives of each as threshold."""
    levels, positives, negatives = _ranking(labels, scores)
    if not positives.any():
        raise LtcamError(
            "no threshold can be chosen: no validation item is defective; "
            "take more items for validation or a fixed threshold"
        )
    return levels, np.cumsum(positives[::-1])[::-1], np.cumsum(negatives[::-1])[::-1]


def _zero_or_one(labels: ArrayLike) -> np.ndarray:
    """(N,) bool."""
    values = np.asarray(labels)
    if not np.isin(values, (0, 1)).all():
        raise ValueError("labels must be 0 or 1")
    return values.astype(bool)
