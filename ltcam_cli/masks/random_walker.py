"""The random walker of scikit-image, from seeds that the heatmap plants."""

from __future__ import annotations

import warnings
from typing import Annotated

import numpy as np
import scipy
import skimage
from pydantic import Field

from ltcam_cli.config import Share
from ltcam_cli.errors import LtcamError
from ltcam_cli.masks.inputs import Calibrator, HeatmapThreshold, SegInput, scaled


class RandomWalker:
    """Pixels whose walker reaches a seed of the defect before one of the background (Grady 2006).

    Args:
        high: Quantile of the map's values in the region; what is above is a seed of the defect.
        low: Quantile; what is below, and all around the region, is a seed of the background.
        beta: How much an edge of the image holds the walker back.

    Raises:
        LtcamError: if `high` is below `low`.
    """

    margin = 2
    calibrators: tuple[Calibrator, ...] = ()

    def __init__(
        self,
        _: HeatmapThreshold,
        *,
        high: Share = 0.9,
        low: Share = 0.1,
        beta: Annotated[float, Field(ge=1e-9, le=1e9)] = 130.0,
    ) -> None:
        if high < low:
            raise LtcamError(
                f"segmenter.refine.options.high={high:g}: must be a number of at least "
                f"segmenter.refine.options.low, {low:g}, and at most 1"
            )
        self.low, self.high, self.beta = low, high, beta

    def __call__(self, given: SegInput, inside: np.ndarray) -> np.ndarray:
        """See `Refinement`."""
        values = given.heatmap[inside]
        low, high = np.quantile(values, [self.low, self.high])
        ring = scipy.ndimage.binary_dilation(inside) & ~inside
        labels = np.where(ring, 2, -1)  # -1: not walked on
        labels[inside] = np.select([values >= high, values <= low], [1, 2], 0)
        image = scaled(given.image).astype(np.float64)
        if low >= high or not (labels == 2).any() or image.min() == image.max():
            return inside
        if (labels == 0).any():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of islands without a seed: they are no defect
                labels = skimage.segmentation.random_walker(
                    image,
                    labels,
                    beta=self.beta,
                    mode="cg_j",
                    channel_axis=-1 if image.ndim == 3 else None,
                )
        return labels == 1
