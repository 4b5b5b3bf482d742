"""Whether a classifier does better than one that says the same of every image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

SCORES = ("ap", "auroc", "accuracy", "balanced_accuracy", "tp", "fp", "fn", "tn")
TOLD = (*SCORES, "kind_ap", "kind_accuracy")  # of kinds of defects, where they were learnt
LEVEL = 0.05  # of both tests
ADVICE = (
    "nothing was learnt; try a lower trainer.lr, more trainer.epochs, a larger dataset.height and "
    "dataset.width, or, where there are none, pre-trained backbone.weights"
)


def no_skill(metrics: Mapping[str, Any]) -> str | None:
    """What is wrong with a classifier that is no better than always saying the same; None if it is.

    Its decisions must be better than chance by Fisher's exact test, one-sided, at 5 %. Where the
    images are too few for that, its balanced accuracy must exceed 0.5. If they are not, the AUROC
    says by the Mann-Whitney test whether another threshold would help.

    Args:
        metrics: Scores of test images: `test_auroc`, `test_accuracy`, `test_balanced_accuracy`,
            and `test_tp`, `test_fp`, `test_fn`, `test_tn`. Without all of them, nothing is said.
    """
    counts = [metrics.get(f"test_{name}") for name in ("tp", "fp", "fn", "tn")]
    scores = [metrics.get(f"test_{n}") for n in ("auroc", "accuracy", "balanced_accuracy")]
    if not all(isinstance(value, (int, float)) for value in (*counts, *scores)):
        return None
    tp, fp, fn, tn = (int(value) for value in counts if value is not None)
    auroc, accuracy, balanced = (float(value) for value in scores if value is not None)
    possible = fisher(tp + fn, 0, 0, fp + tn) <= LEVEL
    if balanced > 0.5 and (not possible or fisher(tp, fp, fn, tn) <= LEVEL):
        return None
    called, total = tp + fp, tp + fp + fn + tn
    always = called == total if called in {0, total} else 2 * (tp + fn) >= total
    advice = ADVICE
    if mann_whitney(auroc, tp + fn, fp + tn) <= LEVEL:
        advice = (
            "its scores do rank them; choose the threshold with trainer.validation=0.2 "
            "trainer.threshold=f1"
        )
    word = "defective" if always else "good"
    degree = "no" if balanced <= 0.5 else "not clearly"
    return (
        f"{degree} better than always saying {word}: it calls "
        f"{called} of {total} test images defective (accuracy {accuracy:.2f}, balanced "
        f"accuracy {balanced:.2f}, tp {tp}, fp {fp}, fn {fn}, tn {tn}, AUROC {auroc:.2f}); {advice}"
    )


def confusion_text(metrics: Mapping[str, Any]) -> str | None:
    """Counts of test images as `tp/fp/fn/tn`; None of a training that is not finished."""
    counts = [metrics.get(f"test_{name}") for name in ("tp", "fp", "fn", "tn")]
    return None if None in counts else "/".join(map(str, counts))


# scipy.stats has both tests, and takes longer to import than `ltcam runs`, which shows them, may.
def fisher(tp: int, fp: int, fn: int, tn: int) -> float:
    """P-value of Fisher's exact test: so many or more true positives, if labels did not matter."""
    positive, called, total = tp + fn, tp + fp, tp + fp + fn + tn
    whole = _log_choose(total, called)
    return min(
        1.0,
        sum(
            math.exp(
                _log_choose(positive, hits) + _log_choose(total - positive, called - hits) - whole
            )
            for hits in range(max(tp, called + positive - total), min(positive, called) + 1)
        ),
    )


def mann_whitney(auroc: float, positive: int, negative: int) -> float:
    """P-value of an AUROC as high, if scores said nothing (Mann and Whitney 1947, normal).

    Args:
        auroc: Area under the ROC curve, in [0, 1].
        positive, negative: Numbers of images.
    """
    deviation = math.sqrt((positive + negative + 1) / (12 * positive * negative))
    return 0.5 * math.erfc((auroc - 0.5) / deviation / math.sqrt(2))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
