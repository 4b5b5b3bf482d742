"""Image files -> images as every viewer shows them: upright, and with white at its true level."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ltcam_cli.data.decoding import MAX_PIXELS, is_deep, read_pixels
from ltcam_cli.errors import LtcamError

log = logging.getLogger(__name__)

White = float | Literal["file"]
_said: set[str] = set()


@dataclass(frozen=True)
class ImageReader:
    """How image files are read.

    Attributes:
        white: Level of white of files with more than 8 bits; `file`: what each file says.
        max_pixels: Most pixels of an image.
    """

    white: White = "file"
    max_pixels: int = MAX_PIXELS

    def __call__(self, path: Path) -> np.ndarray:
        """Image (H, W) or (H, W, 3): uint8, or float32 in [0, 1] of files with more than 8 bits.

        Raises:
            LtcamError: See `decoding.read_pixels`.
        """
        pixels = read_pixels(path, self.max_pixels)
        if not pixels.is_deep:
            return pixels.values
        white = pixels.white if self.white == "file" else self.white
        low, high = float(pixels.values.min()), float(pixels.values.max())
        if low < 0 or high > white:
            warn_once(
                f"white {white:g}",
                f"{path}: has values from {low:g} to {high:g}, beyond black (0) or white "
                f"({white:g}), which are cut off; dataset.white sets the level of white",
            )
        share = (pixels.values / np.float64(white)).clip(0, 1)
        return (1 - share if pixels.inverted else share).astype(np.float32)


def white_level(paths: Sequence[Path], max_pixels: int = MAX_PIXELS) -> White:
    """Level of white of files of one camera: the least 2^n - 1 that no pixel exceeds.

    Floats up to 1 have white at 1. Where no file has more than 8 bits, only their heads are read.

    Args:
        paths: Image files; those that cannot be read do not count.
        max_pixels: Most pixels of an image.

    Returns:
        The level; `file` if no file has more than 8 bits.
    """
    greatest = -math.inf
    for path in paths:
        try:
            if is_deep(path):
                greatest = max(greatest, float(read_pixels(path, max_pixels).values.max()))
        except LtcamError as error:
            log.debug("white: %s", error)  # said, or skipped, by who reads it as an image
    if greatest == -math.inf:
        return "file"
    return 1.0 if greatest <= 1 else float(2 ** math.ceil(math.log2(greatest + 1)) - 1)


def warn_once(kind: str, text: str) -> None:
    """Log the first file of each kind of oddity."""
    if kind not in _said:
        _said.add(kind)
        log.warning(text)
