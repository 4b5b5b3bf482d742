"""How sure a pooled IoU is: a bootstrap over the physical items, and the mean over images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ltcam_cli.scores.pixels import PixelCounts, pooled


def resample_groups(
    groups: Sequence[str], draws: int = 2000, seed: int = 0
) -> tuple[list[str], np.ndarray]:
    """Resample groups with replacement; equal sets of names, draws and seed give equal draws.

    Args:
        groups: Names, in any order; repetitions do not matter.
        draws: Number of resamples D.
        seed: Seed of the generator.

    Returns:
        The G distinct names, sorted; (D, G) int, how often each is drawn: each row sums to G.
    """
    names = sorted(set(groups))
    if not names:
        return names, np.zeros((draws, 0), dtype=np.int64)
    chances = np.full(len(names), 1 / len(names))
    return names, np.random.default_rng(seed).multinomial(len(names), chances, size=draws)


def resampled_iou(
    counts: Sequence[PixelCounts], groups: Sequence[str], draws: int = 2000, seed: int = 0
) -> np.ndarray:
    """The pooled IoU of each resample of the groups (`resample_groups`).

    For a paired comparison of two methods on the same images, subtract two of these.

    Args:
        counts: Counts of each image.
        groups: Physical item of each image.
        draws: Number of resamples D.
        seed: Seed of the generator.

    Returns:
        (D,) float in [0, 1], NaN where a resample has neither defect nor mask pixels.

    Raises:
        ValueError: if there are not as many groups as counts.
    """
    if len(counts) != len(groups):
        raise ValueError(f"{len(counts)} counts but {len(groups)} groups")
    pairs = [(count.tp, count.tp + count.fp + count.fn) for count in counts]
    return _resampled_ratio(np.array(pairs, dtype=np.int64).reshape(-1, 2), groups, draws, seed)


def _resampled_ratio(
    pairs: np.ndarray, groups: Sequence[str], draws: int = 2000, seed: int = 0
) -> np.ndarray:
    """Sum over sum of pairs (n, 2) in each resample of their groups (D,); NaN of 0 over 0."""
    names, drawn = resample_groups(groups, draws, seed)
    row = {name: index for index, name in enumerate(names)}
    per_group = np.zeros((len(names), 2), dtype=pairs.dtype)
    for pair, group in zip(pairs, groups, strict=True):
        per_group[row[group]] += pair
    above, below = (drawn @ per_group).T
    return np.divide(above, below, out=np.full(draws, np.nan), where=below > 0)


def bootstrap_iou(
    counts: Sequence[PixelCounts],
    groups: Sequence[str],
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the pooled IoU, resampling the groups.

    Args:
        counts: Counts of each image.
        groups: Physical item of each image.
        draws: Number of resamples; those whose IoU is NaN are left out.
        seed: Seed of the generator.
        level: Level of confidence, in (0, 1).

    Returns:
        Low and high end in [0, 1]; NaN both if no resample has an IoU.

    Raises:
        ValueError: if there are not as many groups as counts, or level is out of range.
    """
    return percentile_interval(resampled_iou(counts, groups, draws, seed), level)


@dataclass(frozen=True)
class Paired:
    """How one method's score differs from another's on the same images.

    Attributes:
        difference: Difference of the scores, of pooled IoUs in [-1, 1]; NaN where undefined.
        low, high: Ends of the 95 % bootstrap interval of the difference.
        better: Share of the resamples in which the difference is above 0.
    """

    difference: float
    low: float
    high: float
    better: float


def paired_iou(
    counts: Sequence[PixelCounts],
    reference: Sequence[PixelCounts],
    groups: Sequence[str],
) -> Paired:
    """Paired percentile bootstrap: both methods see the same resamples of the groups.

    What makes an item hard is hard for both methods and cancels in the difference. The difference
    is therefore surer than the two intervals by themselves suggest. Resamples in which an IoU is
    NaN are left out.

    Args:
        counts: Counts of each image.
        reference: Counts of the other method, on the same images in the same order.
        groups: Physical item of each image.

    Raises:
        ValueError: if the lengths differ.
    """
    drawn = resampled_iou(counts, groups) - resampled_iou(reference, groups)
    return _paired(pooled(counts).iou - pooled(reference).iou, drawn)


def paired_mean(differences: Sequence[float], groups: Sequence[str]) -> Paired:
    """Paired percentile bootstrap of a mean over images, as `paired_iou`.

    Args:
        differences: One method's value less the other's, of each image; NaN ones are left out.
        groups: Physical item of each image.
    """
    pairs = np.array([(d, 1) if d == d else (0, 0) for d in differences], dtype=float).reshape(
        -1, 2
    )
    whole, count = pairs.sum(axis=0)
    means = _resampled_ratio(pairs, groups)
    return _paired(float(whole / count) if count else float("nan"), means)


def _paired(difference: float, drawn: np.ndarray) -> Paired:
    """A difference with its interval and share above 0 in the resamples (D,)."""
    low, high = percentile_interval(drawn)
    defined = drawn[~np.isnan(drawn)]
    better = float(np.mean(defined > 0)) if defined.size else float("nan")
    return Paired(difference, low, high, better)


def mean_iou(counts: Sequence[PixelCounts]) -> tuple[float, int]:
    """Mean of the IoU of each image, in [0, 1], without the NaN ones; and how many were NaN."""
    values = np.array([count.iou for count in counts])
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan"), values.size - defined.size


def percentile_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Both ends of the middle share `level` of the values, without the NaN ones."""
    if not 0 < level < 1:
        raise ValueError(f"level {level} is not between 0 and 1")
    values = values[~np.isnan(values)]
    if not values.size:
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
