"""Heatmap (and the image beside it) -> binary mask."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from skimage import filters

from ltcam_cli.errors import LtcamError, nearest
from ltcam_cli.maps.fusion import upscale
from ltcam_cli.masks.histogram import histogram


@dataclass(frozen=True)
class SegInput:
    """What a segmenter may read of one image.

    Attributes:
        heatmap: (H, W) float32, at the image's own size.
        image: (H, W) or (H, W, 3) original pixels.
        features: of the classifier, for segmenters that compare appearances.
    """

    heatmap: np.ndarray
    image: np.ndarray
    features: np.ndarray | None = None


class Segmenter(Protocol):
    """Draws a mask. One that must be fitted sees training images first, and keeps a state.

    The state is a JSON-like value; it is part of the cell's hash.
    """

    state: Any

    def fit(self, inputs: Iterable[SegInput]) -> None:
        """Learn from training images; nothing to do for most."""
        ...

    def __call__(self, given: SegInput) -> np.ndarray:
        """The mask (H, W) bool."""
        ...


@dataclass
class SegmenterConfig:
    """Which segmenter (conf/segmenter/*.yaml).

    Attributes:
        name: in run names and tables.
        rule: one of `RULES`.
        options: of the rule, by keyword.
    """

    name: str = "otsu"
    rule: str = "otsu"
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise LtcamError(f"segmenter.rule={self.rule}: no such rule{nearest(self.rule, RULES)}")
        known = [*inspect.signature(RULES[self.rule]).parameters][1:]
        for option in self.options:
            if option not in known:
                raise LtcamError(
                    f"segmenter.options.{option}: {self.rule} has no such option"
                    f"{nearest(option, known)}"
                )


def otsu(heatmap: np.ndarray, nbins: int = 256) -> float:
    """The threshold that parts the values into two classes of least variance (Otsu 1979)."""
    return filters.threshold_otsu(hist=histogram(heatmap, nbins))


def yen(heatmap: np.ndarray, nbins: int = 256) -> float:
    """The threshold of Yen's maximum correlation criterion (1995)."""
    return filters.threshold_yen(hist=histogram(heatmap, nbins))


def fraction(heatmap: np.ndarray, of_maximum: float = 0.5) -> float:
    """A fixed share of the map's maximum, in [0, 1)."""
    if not isinstance(of_maximum, (int, float)) or not 0 <= of_maximum < 1:
        raise LtcamError(f"segmenter.options.of_maximum={of_maximum}: must lie in [0, 1)")
    return of_maximum * float(heatmap.max())


RULES: dict[str, Callable[..., float]] = {
    "otsu": otsu,
    "li": filters.threshold_li,
    "triangle": filters.threshold_triangle,
    "yen": yen,
    "fraction": fraction,
}


class Threshold:
    """Mask = heatmap > a threshold that is found in the map itself; a constant map has no mask."""

    state: Any = None

    def __init__(self, config: SegmenterConfig) -> None:
        self.rule, self.options = RULES[config.rule], config.options

    def fit(self, inputs: Iterable[SegInput]) -> None:
        """Nothing to learn."""

    def __call__(self, given: SegInput) -> np.ndarray:
        """The mask (H, W) bool."""
        heatmap = given.heatmap
        if heatmap.min() == heatmap.max():
            return np.zeros(heatmap.shape, dtype=bool)
        return heatmap > self.rule(heatmap, **self.options)


def make_segmenter(config: SegmenterConfig) -> Segmenter:
    """The segmenter that a config describes."""
    return Threshold(config)


def at_size(heatmaps: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """Bilinear (N, h, w) -> (N, *size), float32 on the host."""
    return upscale(heatmaps.float(), size).cpu().numpy()


def segment(
    heatmap: np.ndarray, image: np.ndarray, rule: str = "otsu", **options: Any
) -> np.ndarray:
    """Mask (H, W) bool of one heatmap (H, W), in one call.

    Args:
        heatmap: before any threshold.
        image: (H, W) or (H, W, 3), for rules that read it.
        rule: one of `RULES`.
        options: of the rule.
    """
    return make_segmenter(SegmenterConfig(rule, rule, options))(SegInput(heatmap, image))
