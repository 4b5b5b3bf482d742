"""How well a score finds the defective images among those that were called good.

Labels are (N,) of 0 (good, rightly called so) or 1 (missed: a false negative); doubts are (N,)
floats, higher where the verdict is the more doubtful. Images of several classifiers are ranked
within each one, and the scores are averaged, since doubts of two classifiers need not compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ltcam_cli.scores.intervals import percentile_interval, resample_groups


@dataclass(frozen=True)
class Called:
    """Images that one classifier calls good.

    Attributes:
        missed: (N,) of 0 or 1, whether it is defective.
        doubt: (N,) float, higher where more doubtful.
        groups: Physical item of each image.
    """

    missed: ArrayLike
    doubt: ArrayLike
    groups: Sequence[str]

    @property
    def has_both(self) -> bool:
        """Whether there are both missed and good images, without which no score is defined."""
        return 0 < int(np.sum(self.missed)) < len(np.asarray(self.missed))


@dataclass(frozen=True)
class Ranking:
    """Scores in [0, 1], means over classifiers, with bootstrap intervals over the items; or NaN.

    Attributes:
        auroc: Area under the ROC curve.
        ap: Average precision.
        review: Share of the good images that must be looked at again until all missed ones are
            found.
        auroc_interval, ap_interval: Ends of the intervals.
    """

    auroc: float
    ap: float
    review: float
    auroc_interval: tuple[float, float]
    ap_interval: tuple[float, float]


def ranking(called: Sequence[Called], draws: int = 1000, seed: int = 0) -> Ranking:
    """Scores over the classifiers that miss some images and call others rightly good.

    All classifiers see the same resamples of the items.

    Args:
        called: Images of each classifier.
        draws: Number of resamples D; those without images of both kinds are left out.
        seed: Seed of the generator.
    """
    called = [one for one in called if one.has_both]
    if not called:
        nan = float("nan")
        return Ranking(nan, nan, nan, (nan, nan), (nan, nan))
    names, drawn = resample_groups([g for one in called for g in one.groups], draws, seed)
    row = {name: number for number, name in enumerate(names)}
    drawn = np.concatenate([np.ones((1, len(names)), dtype=drawn.dtype), drawn])  # all, once, first
    values = []
    for one in called:
        positives, negatives = _levels(one, drawn[:, [row[group] for group in one.groups]])
        values.append((_auroc(positives, negatives), _average_precision(positives, negatives)))
    auroc, ap = np.mean(values, axis=0)
    return Ranking(
        float(auroc[0]),
        float(ap[0]),
        float(np.mean([review_share(one.missed, one.doubt) for one in called])),
        percentile_interval(auroc[1:]),
        percentile_interval(ap[1:]),
    )


def review_share(missed: ArrayLike, doubt: ArrayLike) -> float:
    """Share of the good images that are at least as doubtful as the least doubtful missed one."""
    missed, doubt = np.asarray(missed, dtype=bool), np.asarray(doubt, dtype=float)
    return float(np.mean(doubt[~missed] >= doubt[missed].min()))


def _levels(one: Called, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Missed and good images at each distinct doubt, lowest first: (D, L) each, of (D, N)."""
    levels, ranks = np.unique(np.asarray(one.doubt, dtype=float), return_inverse=True)
    at_level = np.eye(len(levels), dtype=np.int64)[ranks]
    missed = np.asarray(one.missed, dtype=bool)
    return weights[:, missed] @ at_level[missed], weights[:, ~missed] @ at_level[~missed]


def _auroc(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """(D,): share of the pairs that are ranked right, ties half (Mann and Whitney 1947)."""
    below = np.cumsum(negatives, axis=1) - negatives / 2
    return _ratio((positives * below).sum(axis=1), positives.sum(axis=1) * negatives.sum(axis=1))


def _average_precision(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """(D,): Σ (recall_i − recall_{i−1}) · precision_i down the levels, as scikit-learn's."""
    tp, fp = (np.cumsum(each[:, ::-1], axis=1) for each in (positives, negatives))
    gained = positives[:, ::-1] * tp / np.maximum(tp + fp, 1)
    return np.where(negatives.any(axis=1), _ratio(gained.sum(axis=1), tp[:, -1]), np.nan)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0)
