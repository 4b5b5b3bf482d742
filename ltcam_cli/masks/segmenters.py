"""Heatmap and the image beside it -> binary mask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any

import numpy as np
import skimage
from pydantic import Field

from ltcam_cli.config import FolderName, Pixels, build, config
from ltcam_cli.masks.inputs import Calibrator, SegInput
from ltcam_cli.masks.refine import RefineConfig, make_refinement, refined
from ltcam_cli.masks.thresholds import find_rule, make_threshold


@config("segmenter")
class SegmenterConfig:
    """How a heatmap becomes a mask (conf/segmenter/*.yaml): threshold, refinement, clean-up.

    Attributes:
        name: Name in run names and tables, where `+` and the refinement follow.
        rule: Threshold of the heatmap: otsu, li, triangle, yen, fraction, fixed, multiotsu,
            iterative_otsu, hysteresis or good_quantile; or another's, as module:function or the
            name of an entry point of the group ltcam.segmenters.
        options: Options of the rule.
        refine: Refinement by the image, within what the rule draws.
        closing: Radius of a disc in pixels; gaps and holes narrower than it are filled.
        opening: Radius of a disc in pixels; what is narrower than it is removed.
        min_area: Size in pixels of the smallest 8-connected region that stays.
    """

    name: FolderName = "otsu"
    rule: str = "otsu"
    options: dict[str, Any] = field(default_factory=dict)
    refine: RefineConfig = field(default_factory=RefineConfig)
    closing: Pixels = 0
    opening: Pixels = 0
    min_area: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0

    def __post_init__(self) -> None:
        Segmenter(self)  # names what does not exist

    @property
    def label(self) -> str:
        """What tables call it."""
        rule = self.refine.rule
        return self.name if rule in {"none", self.name} else f"{self.name}+{rule}"


def make_segmenter_config(values: Any) -> SegmenterConfig:
    """Config of a mapping; the rule is checked before a name that was made of it.

    Raises:
        LtcamError: Naming the key that is wrong.
    """
    if isinstance(values, Mapping) and "rule" in values:
        find_rule(str(values["rule"]))
    return build(SegmenterConfig, values)


class Segmenter:
    """The mask of a heatmap's threshold, refined and cleaned up as a config says.

    Calibrated by its `calibrators`, if it has any, before it is called.
    """

    def __init__(self, config: SegmenterConfig) -> None:
        """Read the config.

        Raises:
            LtcamError: Naming the key that is wrong.
        """
        self.config = config
        self.threshold = make_threshold(config.rule, config.options)
        self.refinement = make_refinement(config.refine, self.threshold)
        self.calibrators: tuple[Calibrator, ...] = (
            *self.threshold.calibrators,
            *(self.refinement.calibrators if self.refinement else ()),
        )

    def __call__(self, given: SegInput) -> np.ndarray:
        """The mask (H, W) bool."""
        mask = self.threshold(given.heatmap)
        if self.refinement:
            mask = refined(self.refinement, given, mask, self.config.refine.grow)
        if self.config.closing:
            mask = skimage.morphology.isotropic_closing(mask, self.config.closing)
        if self.config.opening:
            mask = skimage.morphology.isotropic_opening(mask, self.config.opening)
        return without_small(mask, self.config.min_area)


def without_small(mask: np.ndarray, min_area: int) -> np.ndarray:
    """A mask without its 8-connected regions of fewer than `min_area` pixels."""
    if min_area <= 1 or not mask.any():
        return mask
    regions = skimage.measure.label(mask, connectivity=2)
    large = np.bincount(regions.ravel()) >= min_area
    large[0] = False
    return large[regions]


def segment(
    heatmap: np.ndarray, image: np.ndarray, rule: str = "otsu", **options: Any
) -> np.ndarray:
    """Mask (H, W) bool of one heatmap, in one call.

    Args:
        heatmap: (H, W) float, before any threshold.
        image: (H, W) or (H, W, 3), uint8, or float32 in [0, 1].
        rule: Threshold, as `SegmenterConfig.rule`.
        options: Options of the rule.

    Raises:
        LtcamError: if there is no such rule or option, or a value is not allowed.
    """
    return Segmenter(SegmenterConfig(rule, rule, options))(SegInput(heatmap, image))
