"""Heatmap -> the mask of what lies above a threshold."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from skimage import filters

from ltcam_cli.errors import LtcamError, nearest
from ltcam_cli.masks.histogram import histogram
from ltcam_cli.masks.inputs import Draw, Lesson, SegInput, checked, learnt
from ltcam_cli.masks.quantile import Quantiles

Threshold = float | tuple[float, float]  # one, or a low and a high one for hysteresis


def otsu(values: np.ndarray, nbins: int = 256) -> float:
    """The threshold that parts the values into two classes of least variance (Otsu 1979)."""
    return filters.threshold_otsu(hist=histogram(values, nbins))


def yen(values: np.ndarray, nbins: int = 256) -> float:
    """The threshold of Yen's maximum correlation criterion (1995)."""
    return filters.threshold_yen(hist=histogram(values, nbins))


def fraction(values: np.ndarray, of_maximum: float = 0.5) -> float:
    """A fixed share of the maximum, in [0, 1)."""
    if not isinstance(of_maximum, (int, float)) or not 0 <= of_maximum < 1:
        raise LtcamError(f"segmenter.options.of_maximum={of_maximum}: must lie in [0, 1)")
    return of_maximum * float(values.max())


def multiotsu(values: np.ndarray, classes: int = 4, nbins: int = 128) -> float:
    """The lower end of the top class of several of least variance (Liao et al. 2001).

    All ways to part the bins into the classes are tried, so that twice the bins take eight times
    as long. Where fewer bins than classes hold values, the highest bin is the top class.
    """
    checked("options.classes", classes, 2, 5, whole=True)
    counts, centres = histogram(values, nbins)
    held = np.flatnonzero(counts)
    if len(held) <= classes:
        return centres[held[-2]]
    return filters.threshold_multiotsu(classes=classes, hist=(counts, centres))[-1]


def iterated(values: np.ndarray, rounds: int = 2, nbins: int = 256) -> float:
    """Otsu's threshold, again of what lies above it, and so on: `rounds` in all."""
    checked("options.rounds", rounds, 1, whole=True)
    threshold = -np.inf
    for _ in range(rounds):
        values = values[values > threshold]
        if values.min() == values.max():
            break
        threshold = otsu(values, nbins)
    return threshold


def hysteresis(
    values: np.ndarray, low: float = 0.3, high: float | str = 0.6
) -> tuple[float, float]:
    """What lies above `low`, where it hangs together with something above `high` (Canny 1986).

    Args:
        values: of a heatmap.
        low: share of the maximum.
        high: share of the maximum, or `otsu`.
    """
    maximum = float(values.max())
    lower = checked("options.low", low, 0, 1) * maximum
    share = None if high == "otsu" else checked("options.high", high, low, 1)
    upper = otsu(values) if share is None else share * maximum
    return min(lower, upper), upper


def level(values: np.ndarray, at: float = 0.5) -> float:
    """A fixed value, for maps of which one means the same in every image."""
    return checked("options.at", at)


RULES: dict[str, Callable[..., Threshold]] = {
    "otsu": otsu,
    "li": filters.threshold_li,
    "triangle": filters.threshold_triangle,
    "yen": yen,
    "fraction": fraction,
    "level": level,
    "multiotsu": multiotsu,
    "iterated": iterated,
    "hysteresis": hysteresis,
}


def above(heatmap: np.ndarray, threshold: Threshold) -> np.ndarray:
    """The mask (H, W) bool of a map (H, W)."""
    if isinstance(threshold, tuple):
        return filters.apply_hysteresis_threshold(heatmap, *threshold)
    return heatmap > threshold


class OfMap:
    """A threshold that is found in the map itself; a constant map has no mask."""

    lessons: tuple[Lesson, ...] = ()

    def __init__(self, rule: str, options: dict[str, Any]) -> None:
        self.rule, self.options = RULES[rule], options

    def __call__(self, heatmap: np.ndarray) -> np.ndarray:
        """The mask (H, W) bool."""
        if heatmap.min() == heatmap.max():
            return np.zeros(heatmap.shape, dtype=bool)
        return above(heatmap, self.rule(heatmap, **self.options))


class OfCleanImages:
    """A threshold that all but a few pixels of clean training images stay below.

    It is a quantile over the pixels of the heatmaps of all good training images together. So maps
    must be comparable between images, as raw ones are. Maps that were normalised image by image
    (to a maximum of 1, or of min-max normalised stages) reach the same values on every image,
    clean or not: the quantile then says what share of an image is covered, and nothing of defects.
    """

    label, reads_maps = 0, True

    def __init__(self, quantile: float = 0.999) -> None:
        self.quantile = checked("options.quantile", quantile, 0, 1)
        self.state: Any = None
        self.lessons: tuple[Lesson, ...] = (self,)
        self._seen = Quantiles()

    def learn(self, given: SegInput) -> None:
        """Count the map's values."""
        self._seen.add(given.heatmap)

    def conclude(self) -> None:
        """Set the threshold."""
        self.state = self._seen.quantile(self.quantile)

    def __call__(self, heatmap: np.ndarray) -> np.ndarray:
        """The mask (H, W) bool."""
        threshold = learnt(self, "segmenter.rule=clean")
        return (heatmap > threshold) & (heatmap.min() < heatmap.max())


def drawer(rule: str, options: dict[str, Any]) -> Draw:
    """What draws a mask from a heatmap by a rule; its `lessons` must be learnt before.

    Raises:
        LtcamError: if there is no such rule or option.
    """
    makers = [*RULES, "clean"]
    if rule not in makers:
        raise LtcamError(f"segmenter.rule={rule}: no such rule{nearest(rule, makers)}")
    clean = rule == "clean"
    parameters = inspect.signature(OfCleanImages if clean else RULES[rule]).parameters
    check_options("segmenter.options", rule, [*parameters][not clean :], options)
    return OfCleanImages(**options) if clean else OfMap(rule, options)


def check_options(key: str, rule: str, known: list[str], options: dict[str, Any]) -> None:
    """Refuse options that a rule does not have."""
    for option in options:
        if option not in known:
            raise LtcamError(f"{key}.{option}: {rule} has no such option{nearest(option, known)}")
