"""Heatmap -> the mask of what lies above a threshold.

A rule is a function of values, (H, W) or (N,) floats that are not all equal, that returns one
threshold; or a class such as `GoodImageThreshold` that is called with the heatmap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Real
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from skimage import filters

from ltcam_cli.config import NotNegative, Share, shown
from ltcam_cli.errors import LtcamError
from ltcam_cli.masks.histogram import histogram
from ltcam_cli.masks.inputs import Calibrator, HeatmapThreshold, SegInput, fitted_state
from ltcam_cli.masks.quantile import Quantiles
from ltcam_cli.parts import checked_options, find_part

CHOSEN = "auto"  # rule of a segmenter that training images choose: `experiments.choice`
GROUP = "ltcam.segmenters"  # entry points of others' rules
Bins = Annotated[int, Field(ge=2, le=65536)]


def otsu(values: np.ndarray, nbins: Bins = 256) -> float:
    """The threshold that parts the values into two classes of least variance (Otsu 1979)."""
    return filters.threshold_otsu(hist=histogram(values, nbins))


def li(values: np.ndarray) -> float:
    """The threshold of minimum cross entropy (Li and Tam 1998)."""
    return filters.threshold_li(values)


def triangle(values: np.ndarray, nbins: Bins = 256) -> float:
    """The threshold of the triangle algorithm (Zack et al. 1977)."""
    return filters.threshold_triangle(values, nbins)


def yen(values: np.ndarray, nbins: Bins = 256) -> float:
    """The threshold of Yen's maximum correlation criterion (1995)."""
    return filters.threshold_yen(hist=histogram(values, nbins))


def fraction(values: np.ndarray, of_maximum: Annotated[float, Field(ge=0, lt=1)] = 0.5) -> float:
    """A fixed share of the maximum."""
    return of_maximum * float(values.max())


def fixed(values: np.ndarray, at: NotNegative = 0.5) -> float:
    """A fixed value, for maps of which one means the same in every image."""
    return at


def multiotsu(
    values: np.ndarray,
    classes: Annotated[int, Field(ge=2, le=5)] = 4,
    nbins: Annotated[int, Field(ge=2, le=256)] = 128,
) -> float:
    """The lower end of the top class of several of least variance (Liao et al. 2001).

    All ways to part the bins into the classes are tried, so that twice the bins take eight times
    as long. Where fewer bins than classes hold values, the highest bin is the top class.
    """
    counts, centres = histogram(values, nbins)
    occupied = np.flatnonzero(counts)
    if len(occupied) <= classes:
        return centres[occupied[-2]]
    return filters.threshold_multiotsu(classes=classes, hist=(counts, centres))[-1]


def iterative_otsu(
    values: np.ndarray, rounds: Annotated[int, Field(ge=1, le=100)] = 2, nbins: Bins = 256
) -> float:
    """Otsu's threshold, again of what lies above it, and so on: `rounds` in all."""
    threshold = -np.inf
    for _ in range(rounds):
        values = values[values > threshold]
        if values.min() == values.max():
            break
        threshold = otsu(values, nbins)
    return threshold


class PerImageThreshold:
    """A threshold that is computed from the map itself; a constant map has no mask."""

    calibrators: tuple[Calibrator, ...] = ()

    def __init__(self, name: str, rule: Callable[..., float], options: dict[str, Any]) -> None:
        self.name, self.rule, self.options = name, rule, options

    def __call__(self, heatmap: np.ndarray) -> np.ndarray:
        """The mask (H, W) bool."""
        if heatmap.min() == heatmap.max():
            return np.zeros(heatmap.shape, dtype=bool)
        threshold = self.rule(heatmap, **self.options)
        if not isinstance(threshold, Real) or np.isnan(float(threshold)):
            raise LtcamError(
                f"segmenter.rule={self.name}: gave {shown(threshold)}; "
                "a rule must return one number"
            )
        return heatmap > threshold


class HysteresisThreshold:
    """What lies above `low`, where it hangs together with something above `high` (Canny 1986).

    Args:
        low: Share of the maximum.
        high: Share of the maximum, or `otsu`.

    Raises:
        LtcamError: if `high` is below `low`.
    """

    calibrators: tuple[Calibrator, ...] = ()

    def __init__(self, *, low: Share = 0.3, high: Share | Literal["otsu"] = 0.6) -> None:
        if high != "otsu" and high < low:
            raise LtcamError(
                f"segmenter.options.high={high:g}: must be otsu, or a number of at least "
                f"segmenter.options.low, {low:g}, and at most 1"
            )
        self.low, self.high = low, high

    def __call__(self, heatmap: np.ndarray) -> np.ndarray:
        """The mask (H, W) bool."""
        maximum = float(heatmap.max())
        if heatmap.min() == maximum:
            return np.zeros(heatmap.shape, dtype=bool)
        upper = otsu(heatmap) if self.high == "otsu" else self.high * maximum
        return filters.apply_hysteresis_threshold(heatmap, min(self.low * maximum, upper), upper)


class GoodImageThreshold:
    """A threshold that all but a few pixels of good training images stay below.

    It is a quantile over the pixels of the heatmaps of all good training images together. So maps
    must be comparable between images, as raw ones are. Maps that were normalised image by image
    (to a maximum of 1, or of min-max normalised stages) reach the same values on every image,
    good or not. The quantile then says what share of an image is covered, and nothing of defects.

    Args:
        quantile: Share of the pixels that stay below.
    """

    label, reads_maps = 0, True

    def __init__(self, *, quantile: Share = 0.999) -> None:
        self.quantile = quantile
        self.state: Any = None
        self.calibrators: tuple[Calibrator, ...] = (self,)
        self._values = Quantiles()

    def partial_fit(self, given: SegInput) -> None:
        """Count the map's values."""
        self._values.add(given.heatmap)

    def finalize(self) -> None:
        """Set the threshold."""
        self.state = self._values.quantile(self.quantile)

    def __call__(self, heatmap: np.ndarray) -> np.ndarray:
        """The mask (H, W) bool."""
        threshold = fitted_state(self, "segmenter.rule=good_quantile")
        return (heatmap > threshold) & (heatmap.min() < heatmap.max())


class UnchosenThreshold:
    """The place of a rule that training images choose."""

    calibrators: tuple[Calibrator, ...] = ()

    def __call__(self, heatmap: np.ndarray) -> np.ndarray:
        """Refuse.

        Raises:
            LtcamError: Always.
        """
        raise LtcamError(
            "segmenter=auto: is chosen by evaluate, predict and student train; name another"
        )


RULES: dict[str, Callable[..., float]] = {
    rule.__name__: rule
    for rule in (otsu, li, triangle, yen, fraction, fixed, multiotsu, iterative_otsu)
}
THRESHOLDS: dict[str, Callable[..., HeatmapThreshold]] = {
    "hysteresis": HysteresisThreshold,
    "good_quantile": GoodImageThreshold,
    CHOSEN: UnchosenThreshold,
}


def find_rule(name: str) -> Callable[..., Any]:
    """The function or class of a rule.

    Raises:
        LtcamError: if there is no such rule.
    """
    builtin: dict[str, Callable[..., Any]] = {**RULES, **THRESHOLDS}
    return find_part("segmenter.rule", name, builtin, GROUP)


def make_threshold(name: str, options: Mapping[str, Any]) -> HeatmapThreshold:
    """The threshold of a rule, to be calibrated before it is called.

    Args:
        name: A key of `RULES` or `THRESHOLDS`, an entry point of the group `ltcam.segmenters`, or
            `module:function`.
        options: Keyword arguments of the rule.

    Raises:
        LtcamError: if there is no such rule or option, or a value is not allowed.
    """
    rule = find_rule(name)
    checked = checked_options("segmenter.options", name, rule, options)
    return rule(**checked) if isinstance(rule, type) else PerImageThreshold(name, rule, checked)
