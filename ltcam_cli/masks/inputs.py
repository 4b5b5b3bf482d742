"""What a segmenter reads of an image, and how one is calibrated on training images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import skimage

from ltcam_cli.errors import LtcamError


@dataclass(frozen=True)
class SegInput:
    """What a segmenter may read of one image.

    Attributes:
        heatmap: (H, W) float32, at the image's own size.
        image: (H, W) or (H, W, 3) original pixels, uint8, or float32 in [0, 1].
    """

    heatmap: np.ndarray
    image: np.ndarray


class Calibrator(Protocol):
    """What a segmenter estimates from training images, one after another; from no mask.

    Attributes:
        label: Class of the images that it reads: 0 good, 1 defective.
        reads_maps: Whether it reads their heatmaps; if not, they may be zeros.
        state: Estimate, JSON-like; None before `finalize`.
    """

    label: int
    reads_maps: bool
    state: Any

    def partial_fit(self, given: SegInput) -> None:
        """Take one image into account."""
        ...

    def finalize(self) -> None:
        """Set the state, after the last image."""
        ...


class Calibrated(Protocol):
    """Something that may have to be calibrated before it is called."""

    @property
    def calibrators(self) -> Sequence[Calibrator]:
        """Calibrators in the order in which they must be fitted; most have none."""
        ...


class HeatmapThreshold(Calibrated, Protocol):
    """A mask from a heatmap alone."""

    def __call__(self, heatmap: np.ndarray) -> np.ndarray:
        """(H, W) -> (H, W) bool."""
        ...


def fitted_state(calibrator: Calibrator, key: str) -> Any:
    """State of a calibrator.

    Raises:
        LtcamError: if it has none.
    """
    if calibrator.state is None:
        raise LtcamError(f"{key}: must see training images first; evaluate or predict with a run")
    return calibrator.state


def grey(image: np.ndarray) -> np.ndarray:
    """The luminance (H, W) float32 in [0, 1] of an image."""
    pixels = scaled(image)
    return pixels if image.ndim == 2 else skimage.color.rgb2gray(pixels)


def scaled(image: np.ndarray) -> np.ndarray:
    """An image of either type as float32 in [0, 1]."""
    pixels = image.astype(np.float32)
    return pixels / 255 if image.dtype == np.uint8 else pixels


def window(mask: np.ndarray, margin: int) -> tuple[slice, slice]:
    """The box around a mask (H, W) that is not empty, `margin` pixels wider on each side."""
    spans = []
    for axis in (1, 0):
        occupied = np.flatnonzero(mask.any(axis=axis))
        spans.append(slice(max(0, int(occupied[0]) - margin), int(occupied[-1]) + 1 + margin))
    return spans[0], spans[1]
