"""The threshold again, of the heatmap smoothed along the edges of the image."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import scipy
from pydantic import Field

from ltcam_cli.masks.inputs import Calibrator, HeatmapThreshold, SegInput, grey


class GuidedThreshold:
    """The segmenter's own threshold again, of the heatmap after a guided filter.

    Args:
        threshold: Threshold of the segmenter.
        radius: Radius in pixels of the filter's square windows.
        eps: ε; the variance of grey values in [0, 1] below which a window counts as flat.
    """

    margin = None
    calibrators: tuple[Calibrator, ...] = ()

    def __init__(
        self,
        threshold: HeatmapThreshold,
        *,
        radius: Annotated[int, Field(ge=1, le=1000)] = 8,
        eps: Annotated[float, Field(ge=1e-9, le=10)] = 1e-3,
    ) -> None:
        self.threshold, self.radius, self.eps = threshold, radius, eps

    def __call__(self, given: SegInput, inside: np.ndarray) -> np.ndarray:
        """See `Refinement`."""
        guide = grey(given.image)
        return self.threshold(guided_filter(guide, given.heatmap, self.radius, self.eps))


def guided_filter(guide: np.ndarray, values: np.ndarray, radius: int, eps: float) -> np.ndarray:
    """Values (H, W) smoothed along the edges of a guide (H, W); windows end at the border.

    He, Sun, Tang, Guided image filtering, PAMI 2013, eq. 5, 6 and 8.
    """
    side = 2 * radius + 1
    counts = scipy.ndimage.uniform_filter(np.ones_like(guide), side, mode="constant")

    def mean(of: np.ndarray) -> np.ndarray:
        return scipy.ndimage.uniform_filter(of, side, mode="constant") / counts

    guide = guide - guide.mean()  # changes nothing, and float32 keeps more digits of the variance
    level = mean(values)
    slope = (mean(guide * values) - mean(guide) * level) / (
        np.maximum(mean(guide * guide) - mean(guide) ** 2, 0) + eps
    )
    offset = level - slope * mean(guide)
    return mean(slope) * guide + mean(offset)
