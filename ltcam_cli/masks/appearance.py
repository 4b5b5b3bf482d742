"""How far a pixel's neighbourhood is from what good training images look like, wherever it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import scipy
from pydantic import Field

from ltcam_cli.masks.inputs import Calibrator, HeatmapThreshold, SegInput, fitted_state, grey
from ltcam_cli.masks.responses import Widths

DRAWN = 2000  # pixels of an image that may come into the memory
CHUNK = 1 << 13  # pixels whose distances to the memory are held at once


def features(image: np.ndarray, scales: Sequence[float]) -> np.ndarray:
    """A small bank of local filters, none of which sees the absolute brightness.

    For each scale s (pixels): the luminance smoothed by a Gaussian of s minus its mean over a
    square of side 8s + 1, the magnitude of its gradient, and the standard deviation in the square;
    and two differences of colours minus their mean, of the smallest scale, which are 0 of a grey
    image.

    Args:
        image: (H, W) or (H, W, 3), uint8, or float32 in [0, 1].
        scales: Scales s in pixels.

    Returns:
        (H, W, 3·len(scales) + 2) float32.
    """
    gaussian, mean_filter = scipy.ndimage.gaussian_filter, scipy.ndimage.uniform_filter
    light = grey(image)
    planes = []
    for scale in scales:
        side = 2 * round(4 * scale) + 1
        smooth = gaussian(light, scale, truncate=3)
        mean = mean_filter(light, side)
        variance = mean_filter(light * light, side) - mean * mean
        planes += [
            smooth - mean,
            np.hypot(*np.gradient(smooth)),
            np.sqrt(np.maximum(variance, 0)),
        ]
    if image.ndim == 3:
        red, green, blue = (grey(image[..., channel]) for channel in range(3))
        side = 2 * round(4 * min(scales)) + 1
        for difference in (red - green, blue - (red + green) / 2):
            smooth = gaussian(difference, min(scales), truncate=3)
            planes.append(smooth - mean_filter(difference, side))
    else:
        planes += [np.zeros_like(light)] * 2
    return np.stack(planes, axis=-1, dtype=np.float32)


class Appearance:
    """The distance of a pixel's features to those of good training images, position-free.

    Estimated from images and their labels alone: no map, no mask.

    Args:
        scales: Scales in pixels, see `features`.
        model: `gaussian`: the Mahalanobis distance to all their pixels; `nearest`: the Euclidean
            one to the nearest of a random few, after whitening.
        memory: Number of pixels that `nearest` keeps.
    """

    label, reads_maps = 0, False

    def __init__(
        self,
        _: HeatmapThreshold,
        *,
        scales: Widths = (1.0, 2.0, 4.0),
        model: Literal["gaussian", "nearest"] = "gaussian",
        memory: Annotated[int, Field(ge=1, le=10_000)] = 2000,
    ) -> None:
        self.scales, self.memory = scales, memory if model == "nearest" else 0
        self.margin = round(4 * max(scales)) + 2
        self.state: Any = None
        self.calibrators: tuple[Calibrator, ...] = (self,)
        self._count, self._sum, self._products = 0, np.zeros(()), np.zeros(())
        self._random = np.random.default_rng(0)
        self._memory: list[np.ndarray] = []
        self._keys = np.empty(0)

    def partial_fit(self, given: SegInput) -> None:
        """Add an image's pixels to the sums, and a few to the memory."""
        rows = features(given.image, self.scales)
        rows = rows.reshape(-1, rows.shape[-1]).astype(np.float64)
        self._count += len(rows)
        self._sum = self._sum + rows.sum(axis=0)
        self._products = self._products + rows.T @ rows
        if self.memory:
            drawn = rows[self._random.integers(len(rows), size=DRAWN)]
            keys = np.concatenate([self._keys, self._random.random(len(drawn))])
            rows = np.concatenate([*self._memory, drawn])
            first = np.argsort(keys)[: self.memory]  # of random keys: each pixel as likely
            self._keys, self._memory = keys[first], [rows[first]]

    def finalize(self) -> None:
        """Set mean and whitening, and the memory."""
        mean = self._sum / self._count
        covariance = self._products / self._count - np.outer(mean, mean)
        values, vectors = np.linalg.eigh(covariance)
        # What never varies, such as colour in a grey set, is weighed as if it hardly did.
        whitening = vectors / np.sqrt(np.maximum(values, 1e-10))
        self.state = {"mean": mean.tolist(), "whitening": whitening.tolist()}
        if self.memory:
            memory = (self._memory[0] - mean) @ whitening
            self.state["memory"] = memory.astype(np.float32).tolist()

    def __call__(self, image: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """See `Response`; distances in standard deviations."""
        state = fitted_state(self, "segmenter.refine.rule=appearance")
        rows = features(image, self.scales)[inside] - np.array(state["mean"], np.float32)
        rows = rows @ np.array(state["whitening"], np.float32)
        if not self.memory:
            return np.sqrt(np.einsum("ij,ij->i", rows, rows))
        memory = np.array(state["memory"], np.float32)
        lengths = np.einsum("ij,ij->i", memory, memory)
        squared = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), CHUNK):
            part = rows[start : start + CHUNK]
            nearest = (lengths - 2 * part @ memory.T).min(axis=1)
            squared[start : start + CHUNK] = nearest + np.einsum("ij,ij->i", part, part)
        return np.sqrt(np.maximum(squared, 0))
