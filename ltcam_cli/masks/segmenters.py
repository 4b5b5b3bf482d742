"""Heatmap and the image beside it -> binary mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from skimage.measure import label
from skimage.morphology import isotropic_closing, isotropic_opening

from ltcam_cli.files import LATER
from ltcam_cli.maps.fusion import upscale
from ltcam_cli.masks.inputs import Lesson, SegInput, checked
from ltcam_cli.masks.refine import RefineConfig, refined, refinement
from ltcam_cli.masks.thresholds import drawer


class Segmenter(Protocol):
    """Draws a mask, once its lessons are learnt; most have none."""

    @property
    def lessons(self) -> Sequence[Lesson]:
        """In the order in which they must be learnt."""
        ...

    def __call__(self, given: SegInput) -> np.ndarray:
        """The mask (H, W) bool."""
        ...


@dataclass
class SegmenterConfig:
    """Which segmenter (conf/segmenter/*.yaml): a threshold, a refinement, and what is tidied.

    Attributes:
        name: in run names and tables, where `+` and the refinement follow.
        rule: one of `thresholds.RULES`, or `clean`.
        options: of the rule, by keyword.
        refine: by the image, within what the rule draws.
        closing: radius in pixels of a disc; gaps and holes narrower than it are filled.
        opening: radius in pixels of a disc; what is narrower than it goes.
        min_area: pixels of the smallest 8-connected region that stays.
    """

    name: str = "otsu"
    rule: str = "otsu"
    options: dict[str, Any] = field(default_factory=dict)
    refine: RefineConfig = field(default_factory=RefineConfig, metadata=LATER)
    closing: int = field(default=0, metadata=LATER)
    opening: int = field(default=0, metadata=LATER)
    min_area: int = field(default=0, metadata=LATER)

    def __post_init__(self) -> None:
        for key in ("closing", "opening", "min_area"):
            checked(key, getattr(self, key), whole=True)
        make_segmenter(self)

    @property
    def label(self) -> str:
        """What tables call it."""
        rule = self.refine.rule
        return self.name if rule == "none" else f"{self.name}+{rule}"


class Masks:
    """The mask of a map's threshold, refined and tidied as a config says."""

    def __init__(self, config: SegmenterConfig) -> None:
        self.config = config
        self.draw = drawer(config.rule, config.options)
        self.refinement = refinement(config.refine, self.draw)
        self.lessons: tuple[Lesson, ...] = (
            *self.draw.lessons,
            *(self.refinement.lessons if self.refinement else ()),
        )

    def __call__(self, given: SegInput) -> np.ndarray:
        """The mask (H, W) bool."""
        mask = self.draw(given.heatmap)
        if self.refinement:
            mask = refined(self.refinement, given, mask, self.config.refine.grow)
        if self.config.closing:
            mask = isotropic_closing(mask, self.config.closing)
        if self.config.opening:
            mask = isotropic_opening(mask, self.config.opening)
        return without_small(mask, self.config.min_area)


def make_segmenter(config: SegmenterConfig) -> Segmenter:
    """The segmenter that a config describes, with its lessons to be learnt.

    Raises:
        LtcamError: naming the key that is wrong.
    """
    return Masks(config)


def without_small(mask: np.ndarray, min_area: int) -> np.ndarray:
    """A mask without its 8-connected regions of fewer than `min_area` pixels."""
    if min_area <= 1 or not mask.any():
        return mask
    regions = label(mask, connectivity=2)
    large = np.bincount(regions.ravel()) >= min_area
    large[0] = False
    return large[regions]


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
        rule: one of `thresholds.RULES`.
        options: of the rule.
    """
    return make_segmenter(SegmenterConfig(rule, rule, options))(SegInput(heatmap, image))
