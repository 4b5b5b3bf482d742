"""Image -> how much each pixel differs from what is around it, as cracks and scratches do."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import scipy
import skimage
from pydantic import Field

from ltcam_cli.config import Says
from ltcam_cli.masks.inputs import (
    Calibrated,
    Calibrator,
    HeatmapThreshold,
    SegInput,
    fitted_state,
    grey,
    window,
)

log = logging.getLogger(__name__)
UNSURE = 0.3  # share of ±1 below which a learnt polarity is no better than a guess
Polarity = Literal["dark", "bright", "both", "auto"]
Sigma = Annotated[float, Field(ge=0, le=100)]
Widths = Annotated[
    Sequence[Annotated[float, Field(ge=0.1, le=50)]],
    Field(min_length=1, max_length=10),
    Says(
        "a list of up to 10 numbers of pixels, each of at least 0.1 and at most 50, such as [1,2,4]"
    ),
]


class Response(Calibrated, Protocol):
    """How much pixels differ from what is around them."""

    @property
    def margin(self) -> int:
        """How many pixels around one decide its value."""
        ...

    def __call__(self, image: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """Of an image, the values (n,) of the pixels `inside` (H, W) bool; the higher, the more."""
        ...


class PolarityResponse:
    """A response that depends on whether defects are darker or brighter than their surroundings.

    With `auto` the defective training images decide it, all together, so that a set has one
    polarity. In each, the region of its map is compared with a ring around it. What counts is by
    how much more the region's squared dark responses exceed the ring's than its bright ones do, as
    a share of the ring's. The mean over images decides; where no map has a region, both count.
    """

    label, reads_maps = 1, True
    margin = 0

    def __init__(self, threshold: HeatmapThreshold, polarity: Polarity) -> None:
        self.threshold, self.polarity = threshold, polarity
        self.state: Any = None
        self.calibrators: tuple[Calibrator, ...] = (self,) if polarity == "auto" else ()
        self._darker: list[float] = []

    def response(self, pixels: np.ndarray, polarity: str) -> np.ndarray:
        """The response (H, W) of grey pixels (H, W), not negative."""
        raise NotImplementedError

    def __call__(self, image: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """See `Response`."""
        polarity: str = self.polarity
        if polarity == "auto":
            polarity = fitted_state(self, "segmenter.refine.options.polarity=auto")["polarity"]
        return self.response(grey(image), polarity)[inside]

    def partial_fit(self, given: SegInput) -> None:
        """How much darker than its surroundings the region of a map is; nothing of an empty one."""
        region = self.threshold(given.heatmap)
        if not region.any():
            return
        width = max(2, self.margin)
        part = window(region, width + self.margin)
        region, pixels = region[part], grey(given.image[part])
        ring = skimage.morphology.isotropic_dilation(region, width) & ~region
        if not ring.any():
            return
        excess, scale = [], 0.0
        for polarity in ("dark", "bright"):
            squares = self.response(pixels, polarity) ** 2
            excess.append(float(squares[region].mean() - squares[ring].mean()))
            scale += float(squares[ring].mean())
        dark, bright = excess
        if scale > 0 or dark != bright:
            self._darker.append(float(np.clip((dark - bright) / max(scale, 1e-12), -1, 1)))

    def finalize(self) -> None:
        """Set the polarity; `both` if no map has a region."""
        if not self._darker:
            log.warning("polarity=auto: no map of a defective training image has a region; both")
            self.state = {"polarity": "both", "darker": None}
            return
        darker = float(np.mean(self._darker))
        if abs(darker) < UNSURE:
            log.warning(
                "polarity=auto: the maps hardly tell dark from bright defects (%+.2f of ±1); "
                "compare with --pipeline auto, or set the polarity",
                darker,
            )
        self.state = {"polarity": "dark" if darker >= 0 else "bright", "darker": darker}


class Contrast(PolarityResponse):
    """The image minus its local background.

    Args:
        threshold: Threshold that draws the regions, for `polarity=auto`.
        scale: Size in pixels, several times the defect's width: the standard deviation of the
            Gaussian that makes the background, or the half side of the median's square.
        background: `gaussian` or `median`; thin defects do not colour the latter.
        smooth: Standard deviation in pixels by which the image itself is smoothed first.
        polarity: `dark`, `bright`, `both` (the absolute value) or `auto`, see `PolarityResponse`.
    """

    def __init__(
        self,
        threshold: HeatmapThreshold,
        *,
        scale: Annotated[float, Field(ge=0.5, le=500)] = 10.0,
        background: Literal["gaussian", "median"] = "gaussian",
        smooth: Sigma = 1.0,
        polarity: Polarity = "auto",
    ) -> None:
        super().__init__(threshold, polarity)
        self.scale, self.background, self.smooth = scale, background, smooth
        self.margin = round(3 * scale)

    def response(self, pixels: np.ndarray, polarity: str) -> np.ndarray:
        """The response (H, W) of grey pixels (H, W), not negative."""
        smoothed = scipy.ndimage.gaussian_filter
        if self.background == "median":
            eight_bit = np.rint(255 * np.clip(pixels, 0, 1)).astype(np.uint8)
            side = 2 * max(1, round(self.scale)) + 1
            square = np.ones((side, side), np.uint8)
            background = skimage.filters.rank.median(eight_bit, square) / 255
        else:
            background = smoothed(pixels, self.scale, truncate=3)
        brighter = smoothed(pixels, self.smooth) if self.smooth else pixels
        brighter = brighter - background.astype(np.float32)
        if polarity == "both":
            return np.abs(brighter)
        return np.maximum(brighter if polarity == "bright" else -brighter, 0)


class Ridge(PolarityResponse):
    """A ridge filter of scikit-image, for thin lines.

    Args:
        threshold: Threshold that draws the regions, for `polarity=auto`.
        filter: `sato`, `frangi` or `meijering`.
        sigmas: Half widths of the lines in pixels; the strongest counts.
        polarity: `dark`, `bright`, `both` (the stronger) or `auto`, see `PolarityResponse`.
    """

    def __init__(
        self,
        threshold: HeatmapThreshold,
        *,
        filter: Literal["sato", "frangi", "meijering"] = "sato",
        sigmas: Widths = (1.0, 2.0, 3.0),
        polarity: Polarity = "auto",
    ) -> None:
        super().__init__(threshold, polarity)
        self.filter, self.sigmas = filter, list(sigmas)
        self.margin = round(4 * max(sigmas))

    def response(self, pixels: np.ndarray, polarity: str) -> np.ndarray:
        """The response (H, W) of grey pixels (H, W), not negative."""
        ridges = getattr(skimage.filters, self.filter)
        black = {"dark": [True], "bright": [False]}.get(polarity, [True, False])
        return np.maximum.reduce(
            [ridges(pixels, sigmas=self.sigmas, black_ridges=dark) for dark in black]
        )
