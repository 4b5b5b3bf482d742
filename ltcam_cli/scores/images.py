"""Scores of image labels, and thresholds chosen on validation items.

Labels are (N,) of 0 (good) or 1 (defective); scores are (N,) floats, probabilities or logits,
higher where more defective. A threshold t calls an image defective where score >= t.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
from numpy.typing import ArrayLike

from ltcam_cli.errors import LtcamError
from ltcam_cli.scores.pixels import PixelCounts


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Average precision in [0, 1], scikit-learn's; NaN if one class only."""
    from sklearn import metrics

    truth, _, ranks = _ranked(labels, scores)
    if not _both(truth):
        return float("nan")
    return min(1.0, float(metrics.average_precision_score(truth, ranks)))  # rounding exceeds 1


def auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve in [0, 1], scikit-learn's; NaN if one class only."""
    from sklearn import metrics

    truth, _, ranks = _ranked(labels, scores)
    return float(metrics.roc_auc_score(truth, ranks)) if _both(truth) else float("nan")


def confusion(labels: ArrayLike, predicted: ArrayLike) -> dict[str, int]:
    """Images as `tp`, `fp`, `fn`, `tn`, from labels and predicted labels.

    Raises:
        ValueError: if lengths differ or a label is neither 0 nor 1.
    """
    return asdict(PixelCounts.from_masks(_zero_or_one(predicted), _zero_or_one(labels)))


def accuracy(labels: ArrayLike, predicted: ArrayLike) -> float:
    """Share of images labelled right, in [0, 1]; NaN of none. Raises as `confusion` does."""
    counts = confusion(labels, predicted)
    total = sum(counts.values())
    return (counts["tp"] + counts["tn"]) / total if total else float("nan")


def balanced_accuracy(labels: ArrayLike, predicted: ArrayLike) -> float:
    """Mean of the shares of defective and of good images labelled right; NaN if one class only."""
    counts = confusion(labels, predicted)
    defective, good = counts["tp"] + counts["fn"], counts["fp"] + counts["tn"]
    if not defective or not good:
        return float("nan")
    return (counts["tp"] / defective + counts["tn"] / good) / 2


def precision_recall(labels: ArrayLike, scores: ArrayLike) -> np.ndarray:
    """(n, 2) float: recall, rising, and precision of each threshold, in [0, 1].

    Raises:
        LtcamError: if no label is positive.
    """
    _, tp, fp = _thresholds(labels, scores)
    return np.stack([tp / tp[0], tp / (tp + fp)], axis=1)[::-1]


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
        recall: Fraction in (0, 1].

    Raises:
        LtcamError: if recall is out of range or no label is positive.
    """
    if not 0 < recall <= 1:
        raise LtcamError(
            f"recall {recall} is out of range; give a fraction above 0 and up to 1, e.g. 0.99"
        )
    levels, tp, _ = _thresholds(labels, scores)
    return float(levels[np.flatnonzero(tp / tp[0] >= recall)[-1]])


def _thresholds(labels: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct scores, lowest first, and the true and false positives of each as threshold."""
    truth, levels, ranks = _ranked(labels, scores)
    if not truth.any():
        raise LtcamError(
            "no threshold can be chosen: no validation item is defective; "
            "take more items for validation or a fixed threshold"
        )
    tp, fp = (
        np.cumsum(np.bincount(ranks[images], minlength=levels.size)[::-1])[::-1]
        for images in (truth, ~truth)
    )
    return levels, tp, fp


def _ranked(labels: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels (N,) bool; the distinct scores, lowest first; and which of them each image has."""
    truth, values = _zero_or_one(labels), np.asarray(scores, dtype=np.float64)
    if truth.shape != values.shape:
        raise ValueError(f"labels {truth.shape} and scores {values.shape} differ in shape")
    if np.isnan(values).any():
        raise ValueError("a score is NaN")
    return truth, *np.unique(values, return_inverse=True)


def _both(truth: np.ndarray) -> bool:
    """Whether there are both good and defective images."""
    return bool(truth.any() and not truth.all())


def _zero_or_one(labels: ArrayLike) -> np.ndarray:
    """(N,) bool."""
    values = np.asarray(labels)
    if not np.isin(values, (0, 1)).all():
        raise ValueError("labels must be 0 or 1")
    return values.astype(bool)
