"""Response within a region -> mask, by a threshold or by hysteresis."""

from __future__ import annotations

from typing import Any

import numpy as np
from skimage import filters

from ltcam_cli.masks.inputs import Calibrator, SegInput, fitted_state
from ltcam_cli.masks.quantile import Quantiles
from ltcam_cli.masks.responses import Response
from ltcam_cli.masks.thresholds import RULES

SAMPLED = 20_000  # pixels of a good image that a threshold is calibrated on
ONE_SIGMA = 0.8413  # share of a normal distribution below its mean + one standard deviation
GOOD_QUANTILE = "good_quantile"


class ThresholdedResponse:
    """The pixels of the region whose response is above a threshold.

    Where all responses are equal, the image says nothing, and the region stays as it is.

    Args:
        response: Response.
        threshold: A key of `thresholds.RULES`, or `good_quantile`.
        quantile: Share of the good images' pixels below the threshold; for `good_quantile`.
    """

    label, reads_maps = 0, False

    def __init__(self, response: Response, threshold: str, quantile: float) -> None:
        self.response, self.threshold, self.quantile = response, threshold, quantile
        self.margin = response.margin
        self.state: Any = None
        self.calibrators: tuple[Calibrator, ...] = (
            *response.calibrators,
            *([self] if threshold == GOOD_QUANTILE else []),
        )
        self._values, self._random = Quantiles(), np.random.default_rng(0)

    def partial_fit(self, given: SegInput) -> None:
        """Count the responses of a good image's pixels, or of as many as are enough."""
        size = given.image.shape[:2]
        chosen = np.ones(size, dtype=bool)
        if chosen.size > SAMPLED:
            chosen[:] = False
            chosen.flat[self._random.choice(chosen.size, SAMPLED, replace=False)] = True
        self._values.add(self.response(given.image, chosen))

    def finalize(self) -> None:
        """Set the threshold."""
        self.state = self._values.quantile(self.quantile)

    def __call__(self, given: SegInput, inside: np.ndarray) -> np.ndarray:
        """See `Refinement`."""
        values = self.response(given.image, inside)
        mask = inside.copy()
        if values.min() < values.max():
            if self.threshold == GOOD_QUANTILE:
                threshold = fitted_state(self, "segmenter.refine.threshold=good_quantile")
            else:
                threshold = RULES[self.threshold](values)
            mask[inside] = values > threshold
        return mask


class DeviationHysteresis:
    """What stands out of the image where the heatmap is high, by hysteresis.

    The evidence of a pixel is e = √(M / max M) · r / σ: M the heatmap, r the response, σ its
    84.13 % quantile over the whole image, which is the standard deviation of normal noise and
    hardly feels a defect. What is above `low` stays where it is connected to a pixel above `high`.
    If even the highest e is small, both sink, so that `high` is at most 0.8 of it: a defective
    image has a mask. Ours.
    """

    margin = None

    def __init__(self, response: Response, low: float, high: float) -> None:
        self.response, self.low, self.high = response, low, high
        self.calibrators = response.calibrators

    def __call__(self, given: SegInput, inside: np.ndarray) -> np.ndarray:
        """See `Refinement`."""
        r = self.response(given.image, np.ones_like(inside)).reshape(inside.shape)
        M, sigma = given.heatmap, float(np.quantile(r, ONE_SIGMA))
        if sigma <= 0 or M.max() <= 0:
            return inside
        e = np.where(inside, np.sqrt(np.maximum(M, 0) / M.max()) * r / sigma, 0)
        sink = min(1.0, 0.8 * float(e.max()) / self.high)
        if sink <= 0:
            return inside
        return filters.apply_hysteresis_threshold(e, sink * self.low, sink * self.high)
