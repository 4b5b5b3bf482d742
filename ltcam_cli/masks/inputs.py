"""What a segmenter reads of an image, and how one learns from training images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from skimage.color import rgb2gray

from ltcam_cli.errors import LtcamError


@dataclass(frozen=True)
class SegInput:
    """What a segmenter may read of one image.

    Attributes:
        heatmap: (H, W) float32, at the image's own size.
        image: (H, W) or (H, W, 3) original pixels, uint8, or float32 in [0, 1].
        features: of the classifier, for segmenters that compare appearances.
    """

    heatmap: np.ndarray
    image: np.ndarray
    features: np.ndarray | None = None


class Lesson(Protocol):
    """Something that a segmenter learns from training images, one after another; from no mask.

    Attributes:
        label: of the images that it is shown: 0 good, 1 defective.
        reads_maps: whether it reads their heatmaps; if not, it may be shown zeros.
        state: what was learnt, JSON-like; None before.
    """

    state: Any

    @property
    def label(self) -> int:
        """See above."""
        ...

    @property
    def reads_maps(self) -> bool:
        """See above."""
        ...

    def learn(self, given: SegInput) -> None:
        """See one image."""
        ...

    def conclude(self) -> None:
        """Set the state, after the last image."""
        ...


class Draw(Protocol):
    """Draws a mask from a heatmap alone, once its lessons are learnt."""

    @property
    def lessons(self) -> Sequence[Lesson]:
        """In the order in which they must be learnt."""
        ...

    def __call__(self, heatmap: np.ndarray) -> np.ndarray:
        """(H, W) -> (H, W) bool."""
        ...


def learnt(lesson: Lesson, key: str) -> Any:
    """A lesson's state.

    Raises:
        LtcamError: if it has none.
    """
    if lesson.state is None:
        raise LtcamError(f"{key}: must see training images first; evaluate or predict with a run")
    return lesson.state


def grey(image: np.ndarray) -> np.ndarray:
    """The luminance (H, W) float32 in [0, 1] of an image."""
    pixels = scaled(image)
    return pixels if image.ndim == 2 else rgb2gray(pixels)


def scaled(image: np.ndarray) -> np.ndarray:
    """An image of either type as float32 in [0, 1]."""
    pixels = image.astype(np.float32)
    return pixels / 255 if image.dtype == np.uint8 else pixels


def checked(
    key: str, value: Any, low: float = 0, high: float = np.inf, *, whole: bool = False
) -> Any:
    """A number of a segmenter's config in [low, high].

    Raises:
        LtcamError: naming the key, if it is something else.
    """
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        kind = "a whole number" if whole else "a number"
        span = f"of at least {low:g}" if high == np.inf else f"in [{low:g}, {high:g}]"
        raise LtcamError(f"segmenter.{key}={value}: must be {kind} {span}")
    return value


def window(mask: np.ndarray, margin: int) -> tuple[slice, slice]:
    """The box around a mask (H, W) that is not empty, `margin` pixels wider on each side."""
    spans = []
    for axis in (1, 0):
        found = np.flatnonzero(mask.any(axis=axis))
        spans.append(slice(max(0, int(found[0]) - margin), int(found[-1]) + 1 + margin))
    return spans[0], spans[1]
