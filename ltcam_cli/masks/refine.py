"""Refinement: of a heatmap's region, the pixels that the image says are the defect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import Any, Protocol

import numpy as np
import skimage

from ltcam_cli.config import NotNegative, Pixels, Positive, Share, config
from ltcam_cli.errors import LtcamError, nearest
from ltcam_cli.masks.appearance import Appearance
from ltcam_cli.masks.colour_mixtures import ColourMixtures
from ltcam_cli.masks.guided import GuidedThreshold
from ltcam_cli.masks.inputs import Calibrated, HeatmapThreshold, SegInput, window
from ltcam_cli.masks.parts import checked_options
from ltcam_cli.masks.random_walker import RandomWalker
from ltcam_cli.masks.response_thresholds import (
    GOOD_QUANTILE,
    DeviationHysteresis,
    ThresholdedResponse,
)
from ltcam_cli.masks.responses import Contrast, Response, Ridge
from ltcam_cli.masks.thresholds import RULES

DEVIATION = "deviation"


class Refinement(Calibrated, Protocol):
    """A choice among the pixels of a region."""

    @property
    def margin(self) -> int | None:
        """How many pixels around the region it reads; None: the whole image."""
        ...

    def __call__(self, given: SegInput, inside: np.ndarray) -> np.ndarray:
        """The mask (H, W) bool, of which only what lies `inside` (H, W) bool counts."""
        ...


RESPONSES: dict[str, Callable[..., Response]] = {
    "contrast": Contrast,
    "ridge": Ridge,
    "appearance": Appearance,
}
REFINEMENTS: dict[str, Callable[..., Refinement]] = {
    "random_walker": RandomWalker,
    "guided": GuidedThreshold,
    "gmm": ColourMixtures,
}


@config("segmenter.refine")
class RefineConfig:
    """How a region is refined by the image.

    Attributes:
        rule: Refinement: a response of the image (contrast, ridge, appearance), random_walker,
            guided or gmm; none: the region stays as it is.
        threshold: Threshold of a response within the region: a rule of the segmenter that is
            computed per image, such as otsu; good_quantile: a quantile of the responses of good
            training images; or deviation: hysteresis of the evidence of map and image.
        quantile: Share of the good images' pixels below the threshold; for good_quantile.
        low, high: Evidence in standard deviations that a region must reach everywhere, and
            somewhere; for deviation.
        grow: Pixels by which the region is made wider before; the result may fill them.
        options: Options of the rule.
    """

    rule: str = "none"
    threshold: str = "otsu"
    quantile: Share = 0.999
    low: NotNegative = 1.2
    high: Positive = 2.5
    grow: Pixels = 0
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rules, thresholds = ["none", *RESPONSES, *REFINEMENTS], [*RULES, GOOD_QUANTILE, DEVIATION]
        for key, name, known in (
            ("rule", self.rule, rules),
            ("threshold", self.threshold, thresholds),
        ):
            if name not in known:
                raise LtcamError(f"segmenter.refine.{key}={name}: unknown{nearest(name, known)}")
        if self.high < self.low:
            raise LtcamError(
                f"segmenter.refine.high={self.high:g}: must be a number of at least "
                f"segmenter.refine.low, {self.low:g}"
            )
        if self.rule in REFINEMENTS and self.threshold != "otsu":
            raise LtcamError(
                f"segmenter.refine.threshold={self.threshold}: {self.rule} takes none; "
                f"those that do: {', '.join(RESPONSES)}"
            )
        for option in self.options if self.rule == "none" else ():
            raise LtcamError(f"segmenter.refine.options.{option}: refine.rule=none has no options")


def make_refinement(config: RefineConfig, threshold: HeatmapThreshold) -> Refinement | None:
    """The refinement that a config describes; None if there is none.

    Args:
        config: Config.
        threshold: Threshold that draws the regions.

    Raises:
        LtcamError: if an option does not exist or has a value that is not allowed.
    """
    if config.rule == "none":
        return None
    maker = {**RESPONSES, **REFINEMENTS}[config.rule]
    options = checked_options("segmenter.refine.options", config.rule, maker, config.options)
    if config.rule in REFINEMENTS:
        return REFINEMENTS[config.rule](threshold, **options)
    response = RESPONSES[config.rule](threshold, **options)
    if config.threshold == DEVIATION:
        return DeviationHysteresis(response, config.low, config.high)
    return ThresholdedResponse(response, config.threshold, config.quantile)


def refined(refine: Refinement, given: SegInput, region: np.ndarray, grow: int = 0) -> np.ndarray:
    """The mask (H, W) bool that a refinement makes of a region: a part of it, or of it grown.

    Only the window around the region is looked at, as far as the refinement reads.
    """
    if not region.any():
        return region
    inside = skimage.morphology.isotropic_dilation(region, grow) if grow else region
    if refine.margin is None:
        return refine(given, inside) & inside
    part = window(inside, refine.margin)
    mask = np.zeros_like(region)
    mask[part] = refine(SegInput(given.heatmap[part], given.image[part]), inside[part])
    return mask & inside
