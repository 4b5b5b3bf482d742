"""How far a pixel's neighbourhood is from what clean training images look like, wherever it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from ltcam_cli.errors import LtcamError, nearest
from ltcam_cli.masks.inputs import Draw, Lesson, SegInput, checked, grey, learnt
from ltcam_cli.masks.responses import widths

MODELS = ("gaussian", "nearest")
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
        scales: s.

    Returns:
        (H, W, 3·len(scales) + 2) float32.
    """
    light = grey(image)
    planes = []
    for scale in scales:
        side = 2 * round(4 * scale) + 1
        smooth = ndimage.gaussian_filter(light, scale, truncate=3)
        mean = ndimage.uniform_filter(light, side)
        variance = ndimage.uniform_filter(light * light, side) - mean * mean
        planes += [
            smooth - mean,
            np.hypot(*np.gradient(smooth)),
            np.sqrt(np.maximum(variance, 0)),
        ]
    if image.ndim == 3:
        red, green, blue = (grey(image[..., channel]) for channel in range(3))
        side = 2 * round(4 * min(scales)) + 1
        for difference in (red - green, blue - (red + green) / 2):
            smooth = ndimage.gaussian_filter(difference, min(scales), truncate=3)
            planes.append(smooth - ndimage.uniform_filter(difference, side))
    else:
        planes += [np.zeros_like(light)] * 2
    return np.stack(planes, axis=-1, dtype=np.float32)


class Appearance:
    """The distance of a pixel's features to those of good training images, position-free.

    Learns from images and their labels alone: no map, no mask.

    Args:
        draw: not used.
        scales: see `features`.
        model: `gaussian`: the Mahalanobis distance to all their pixels; `nearest`: the Euclidean
            one to the nearest of a random few, after whitening.
        memory: how many pixels `nearest` keeps.
    """

    label, reads_maps = 0, False

    def __init__(
        self,
        draw: Draw,
        scales: Sequence[float] = (1.0, 2.0, 4.0),
        model: str = "gaussian",
        memory: int = 2000,
    ) -> None:
        if model not in MODELS:
            raise LtcamError(
                f"segmenter.refine.options.model={model}: unknown{nearest(model, MODELS)}"
            )
        self.scales = widths("scales", scales)
        self.margin = round(4 * max(self.scales)) + 2
        self.kept = checked("refine.options.memory", memory, 1, whole=True)
        self.kept = self.kept if model == "nearest" else 0
        self.state: Any = None
        self.lessons: tuple[Lesson, ...] = (self,)
        self._count, self._sum, self._products = 0, np.zeros(()), np.zeros(())
        self._random = np.random.default_rng(0)
        self._memory: list[np.ndarray] = []
        self._keys = np.empty(0)

    def learn(self, given: SegInput) -> None:
        """Add an image's pixels to the sums, and a few to the memory."""
        rows = features(given.image, self.scales)
        rows = rows.reshape(-1, rows.shape[-1]).astype(np.float64)
        self._count += len(rows)
        self._sum = self._sum + rows.sum(axis=0)
        self._products = self._products + rows.T @ rows
        if self.kept:
            drawn = rows[self._random.integers(len(rows), size=DRAWN)]
            keys = np.concatenate([self._keys, self._random.random(len(drawn))])
            rows = np.concatenate([*self._memory, drawn])
            first = np.argsort(keys)[: self.kept]  # of random keys: each pixel as likely
            self._keys, self._memory = keys[first], [rows[first]]

    def conclude(self) -> None:
        """Set mean and whitening, and the memory."""
        mean = self._sum / self._count
        covariance = self._products / self._count - np.outer(mean, mean)
        values, vectors = np.linalg.eigh(covariance)
        # What never varies, such as colour in a grey set, is weighed as if it hardly did.
        whitening = vectors / np.sqrt(np.maximum(values, 1e-10))
        self.state = {"mean": mean.tolist(), "whitening": whitening.tolist()}
        if self.kept:
            memory = (self._memory[0] - mean) @ whitening
            self.state["memory"] = memory.astype(np.float32).tolist()

    def __call__(self, image: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """See `Response`; distances in standard deviations."""
        state = learnt(self, "segmenter.refine.rule=appearance")
        rows = features(image, self.scales)[inside] - np.array(state["mean"], np.float32)
        rows = rows @ np.array(state["whitening"], np.float32)
        if not self.kept:
            return np.sqrt(np.einsum("ij,ij->i", rows, rows))
        memory = np.array(state["memory"], np.float32)
        lengths = np.einsum("ij,ij->i", memory, memory)
        found = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), CHUNK):
            part = rows[start : start + CHUNK]
            squares = (lengths - 2 * part @ memory.T).min(axis=1)
            found[start : start + CHUNK] = squares + np.einsum("ij,ij->i", part, part)
        return np.sqrt(np.maximum(found, 0))
