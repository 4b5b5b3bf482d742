"""Image files -> images as every viewer shows them: upright, and with white at its true level."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ltcam_cli.data.decoding import MAX_PIXELS, Pixels, is_deep, read_pixels
from ltcam_cli.errors import LtcamError
from ltcam_cli.progress import track

log = logging.getLogger(__name__)

White = float | Literal["auto", "file"]
_said: set[str] = set()


@dataclass(frozen=True)
class ImageReader:
    """How image files are read.

    Attributes:
        white: Level of white of files with more than 8 bits; `file`: what each file says; `auto`:
            none of the training images had more, so each file's values tell.
        max_pixels: Most pixels of an image.
    """

    white: White = "auto"
    max_pixels: int = MAX_PIXELS

    def __call__(self, path: Path) -> np.ndarray:
        """Image (H, W) or (H, W, 3): uint8, or float32 in [0, 1] of files with more than 8 bits.

        Raises:
            LtcamError: See `decoding.read_pixels`.
        """
        pixels = read_pixels(path, self.max_pixels)
        if pixels.pages > 1:
            warn_once("pages", f"{path}: has {pixels.pages} pages or frames; the first is read")
        if not pixels.is_deep:
            return pixels.values
        white = self._white(path, pixels)
        low, high = float(pixels.values.min()), float(pixels.values.max())
        if low < 0 or high > white:
            warn_once(
                f"white {white:g}",
                f"{path}: has values from {low:g} to {high:g}, beyond black (0) or white "
                f"({white:g}), which are cut off; dataset.white sets the level of white",
            )
        share = (pixels.values / np.float64(white)).clip(0, 1)
        return (1 - share if pixels.inverted else share).astype(np.float32)

    def _white(self, path: Path, pixels: Pixels) -> float:
        """Level of white of a file with more than 8 bits."""
        if self.white == "file":
            return pixels.white
        if self.white != "auto":
            return self.white
        high = float(pixels.values.max())
        whole = pixels.values.dtype.kind != "f"
        if high <= pixels.white < (2 * high if whole else math.inf):
            return pixels.white  # most of the range is used
        white = _least_white(high)
        warn_once(
            "white auto",
            f"{path}: has more than 8 bits, unlike the training images, and values to {high:g}; "
            f"white is taken to be {white:g}, and dataset.white sets it",
        )
        return white

    @property
    def setting(self) -> str:
        """What of it decides pixels; empty where nothing is set."""
        return "" if self.white == "auto" else f"white {self.white}"


def or_skip(error: LtcamError, key: str = "dataset.on_error") -> LtcamError:
    """The error of an image that cannot be read, with the key that skips such images."""
    all_of_them = "; ltcam data check lists all" if key.startswith("dataset.") else ""
    return LtcamError(f"{error} (or {key}=skip{all_of_them})")


def white_level(paths: Sequence[Path], max_pixels: int = MAX_PIXELS) -> White:
    """Level of white of files of one camera: the least 2^n - 1 that no pixel exceeds.

    Floats up to 1 have white at 1. Where no file has more than 8 bits, only their heads are read.

    Args:
        paths: Image files; those that cannot be read do not count.
        max_pixels: Most pixels of an image.

    Returns:
        The level; `auto` if no file has more than 8 bits.

    Raises:
        LtcamError: If some files hold shares of 1 and others whole numbers.
    """
    greatest: dict[bool, tuple[float, Path]] = {}  # of shares up to 1, and of all else
    for path in track(paths, "level of white"):
        try:
            if not is_deep(path):
                continue
            values = read_pixels(path, max_pixels).values
        except LtcamError as error:
            log.debug("white: %s", error)  # said, or skipped, by who reads it as an image
            continue
        high = float(values.max())
        share = values.dtype.kind == "f" and high <= 1
        greatest[share] = max(greatest.get(share, (high, path)), (high, path))
    if len(greatest) == 2:
        raise LtcamError(
            f"dataset.white=auto: {greatest[True][1]} has floats up to 1, and {greatest[False][1]} "
            f"values to {greatest[False][0]:g}; give them one range, or set dataset.white=file"
        )
    return _least_white(next(iter(greatest.values()))[0]) if greatest else "auto"


def _least_white(greatest: float) -> float:
    """The least 2^n - 1 that a value does not exceed."""
    return 1.0 if greatest <= 1 else float(2 ** math.ceil(math.log2(greatest + 1)) - 1)


def warn_once(kind: str, text: str) -> None:
    """Log the first file of each kind of oddity since `forget_warnings`."""
    if kind not in _said:
        _said.add(kind)
        log.warning("warning: %s", text)


def forget_warnings() -> None:
    """Let every kind of oddity be said once more, of files that are read from now on."""
    _said.clear()
