"""Threshold-free scores of pixels ranked by heatmap, in memory that does not grow with the images.

The ranking is given by two histograms over the levels of score, lowest first: the number of
positives and of negatives at each level.
"""

from __future__ import annotations

import numpy as np

from ltcam_cli.scores.regions import Truth, as_truth

BINS = 4096
FPR_LIMIT = 0.3


class PixelCurves:
    """Threshold-free pixel scores of heatmaps, added image by image.

    Each heatmap is divided by its own maximum and binned by its root, since maps are peaked and
    most of one is small: bin 0 holds exactly the zeros, bin i ((i - 1)², i²] / 4095². Scores are
    fractions in [0, 1], NaN where undefined, and within 1e-3 of the exact ones from some thousand
    defect pixels on (equal bins miss that for a map whose peak is ten times the rest).
    """

    def __init__(self) -> None:
        self.positives = np.zeros(BINS, dtype=np.int64)
        self.negatives = np.zeros(BINS, dtype=np.int64)
        self.overlaps = np.zeros(BINS)  # sum over regions of (region's histogram / its size)
        self.regions = 0

    def update(self, heatmap: np.ndarray, truth: np.ndarray | Truth) -> None:
        """Add an image that counts.

        Args:
            heatmap: (H, W), any non-negative scale; what is negative counts as 0.
            truth: (H, W) bool, True on defects.

        Raises:
            ValueError: if the shapes differ or the heatmap holds NaN or +infinity.
        """
        heatmap, truth = np.asarray(heatmap), as_truth(truth)
        if heatmap.shape != truth.mask.shape:
            raise ValueError(
                f"heatmap {heatmap.shape} and truth {truth.mask.shape} differ in shape"
            )
        bins = _binned(heatmap).ravel()
        everywhere = np.bincount(bins, minlength=BINS)
        defect = bins[truth.pixels]
        positives = np.bincount(defect, minlength=BINS)
        self.positives += positives
        self.negatives += everywhere - positives
        region, n_regions = truth.regions
        self.overlaps += np.bincount(defect, 1 / np.bincount(region)[region], minlength=BINS)
        self.regions += n_regions

    @property
    def pixel_ap(self) -> float:
        """Average precision over the pixels of all images; NaN unless there are both kinds."""
        return histogram_average_precision(self.positives, self.negatives)

    @property
    def aupro(self) -> float:
        """Area under the per-region overlap up to a false positive rate of 0.3, over 0.3.

        The overlap (share of a region above the threshold) is the mean over the 8-connected
        regions of all images, the rate pooled over the background of all images; Bergmann et
        al., IJCV 129 (2021). NaN without a region or without background.
        """
        if not self.regions or not self.negatives.any():
            return float("nan")
        rate = _from_the_top(self.negatives) / self.negatives.sum()
        overlap = _from_the_top(self.overlaps) / self.regions
        inside = int(np.searchsorted(rate, FPR_LIMIT, side="right"))  # the last rate, 1, is not
        ends = slice(inside - 1, inside + 1)
        x = np.append(rate[:inside], FPR_LIMIT)
        y = np.append(overlap[:inside], np.interp(FPR_LIMIT, rate[ends], overlap[ends]))
        return _area(x, y) / FPR_LIMIT

    @property
    def oracle_iou(self) -> float:
        """Pooled IoU of the best single threshold, which only the truth can tell.

        Not a result: a bound for thresholds. NaN without a positive pixel.
        """
        if not self.positives.any():
            return float("nan")
        tp, fp = _from_the_top(self.positives), _from_the_top(self.negatives)
        return float(np.max(tp / (tp[-1] + fp)))

    def precision_recall(self, points: int = 300) -> np.ndarray:
        """The pixel precision-recall curve, thinned.

        Of the 4096 thresholds those are kept, from the highest down, at which recall first reaches
        each of `points` equal steps: what lies between two of them spans less than 1 / points.

        Returns:
            (n, 2) float: recall, rising from above 0 to 1, and precision, both in [0, 1], with
            n <= points; (0, 2) unless there are both kinds of pixels.
        """
        if not self.positives.any() or not self.negatives.any():
            return np.empty((0, 2))
        tp, fp = _from_the_top(self.positives)[1:], _from_the_top(self.negatives)[1:]
        recall = tp / tp[-1]
        kept = np.unique(np.searchsorted(recall, np.arange(1, points + 1) / points))
        return np.stack([recall[kept], tp[kept] / (tp + fp)[kept]], axis=1)


def histogram_average_precision(positives: np.ndarray, negatives: np.ndarray) -> float:
    """Σ (recall_i − recall_{i−1}) · precision_i down the levels, as scikit-learn defines it.

    Args:
        positives: (levels,) int, number of positives at each level of score, lowest first.
        negatives: (levels,) int, number of negatives.

    Returns:
        A fraction in [0, 1]; NaN unless there are both kinds.
    """
    if not positives.any() or not negatives.any():
        return float("nan")
    tp, fp = _from_the_top(positives), _from_the_top(negatives)
    precision = tp / np.maximum(tp + fp, 1)
    return float(np.sum(np.diff(tp) * precision[1:]) / tp[-1])


def _binned(heatmap: np.ndarray) -> np.ndarray:
    """(H, W) int in 0..4095."""
    peak = heatmap.max(initial=0)
    if not np.isfinite(peak):
        raise ValueError("the heatmap holds NaN or +infinity")
    if peak <= 0:
        return np.zeros(heatmap.shape, dtype=np.intp)
    share = np.divide(heatmap, peak)  # then in place: five times as fast
    np.sqrt(np.maximum(share, 0, out=share), out=share)
    share *= BINS - 1
    return np.ceil(share, out=share).astype(np.intp)


def _from_the_top(histogram: np.ndarray) -> np.ndarray:
    """(levels + 1,): what lies above each threshold, from none to all."""
    return np.concatenate([[0], np.cumsum(histogram[::-1])])


def _area(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1])) / 2)
