"""Image -> how much each pixel differs from what is around it, as cracks and scratches do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from scipy import ndimage
from skimage import filters
from skimage.morphology import isotropic_dilation

from ltcam_cli.errors import LtcamError, nearest
from ltcam_cli.masks.inputs import Draw, Lesson, SegInput, checked, grey, learnt, window

log = logging.getLogger(__name__)
POLARITIES = ("dark", "bright", "both")
AUTO = "auto"
RIDGES: dict[str, Callable[..., np.ndarray]] = {
    "sato": filters.sato,
    "frangi": filters.frangi,
    "meijering": filters.meijering,
}
BACKGROUNDS = ("gaussian", "median")


class Response(Protocol):
    """Says how much pixels differ, once its lessons are learnt."""

    @property
    def margin(self) -> int:
        """How many pixels around one decide its value."""
        ...

    @property
    def lessons(self) -> Sequence[Lesson]:
        """In the order in which they must be learnt."""
        ...

    def __call__(self, image: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """Of an image, the values (n,) of the pixels `inside` (H, W) bool; the higher, the more."""
        ...


class Polar:
    """A response that is told whether defects are darker or brighter than their surroundings.

    With `auto` the defective training images say it, all together, so that a set has one polarity:
    in each, the region of its map is held against a ring around it, and what counts is by how much
    more the region's squared dark responses exceed the ring's than its bright ones do, as a share
    of the ring's. The mean over images decides; where no
    map has a region, both count.
    """

    label, reads_maps = 1, True
    margin = 0

    def __init__(self, draw: Draw, polarity: str) -> None:
        if polarity not in (*POLARITIES, AUTO):
            raise LtcamError(
                f"segmenter.refine.options.polarity={polarity}: unknown"
                f"{nearest(polarity, (*POLARITIES, AUTO))}"
            )
        self.draw, self.polarity = draw, polarity
        self.state: Any = None
        self.lessons: tuple[Lesson, ...] = (self,) if polarity == AUTO else ()
        self._darker: list[float] = []

    def of(self, pixels: np.ndarray, polarity: str) -> np.ndarray:
        """The response (H, W) of grey pixels (H, W)."""
        raise NotImplementedError

    def __call__(self, image: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """See `Response`."""
        polarity = self.polarity
        if polarity == AUTO:
            polarity = learnt(self, "segmenter.refine.options.polarity=auto")["polarity"]
        return self.of(grey(image), polarity)[inside]

    def learn(self, given: SegInput) -> None:
        """How much darker than its surroundings the region of a map is; nothing of an empty one."""
        region = self.draw(given.heatmap)
        if not region.any():
            return
        ring = max(2, self.margin)
        part = window(region, ring + self.margin)
        region, pixels = region[part], grey(given.image[part])
        around = isotropic_dilation(region, ring) & ~region
        if not around.any():
            return
        excess, scale = [], 0.0
        for polarity in ("dark", "bright"):
            squares = self.of(pixels, polarity) ** 2
            excess.append(float(squares[region].mean() - squares[around].mean()))
            scale += float(squares[around].mean())
        dark, bright = excess
        if scale > 0 or dark != bright:
            self._darker.append(float(np.clip((dark - bright) / max(scale, 1e-12), -1, 1)))

    def conclude(self) -> None:
        """Set the polarity; `both` if no map has a region."""
        if not self._darker:
            log.warning("polarity=auto: no map of a defective training image has a region; both")
            self.state = {"polarity": "both", "darker": None}
            return
        darker = float(np.mean(self._darker))
        self.state = {"polarity": "dark" if darker >= 0 else "bright", "darker": darker}


class Contrast(Polar):
    """The image minus its local background.

    Args:
        draw: of the regions, for `polarity=auto`.
        scale: in pixels, several times the defect's width: the standard deviation of the Gaussian
            that makes the background, or the half side of the median's square.
        background: `gaussian` or `median`, which thin defects do not colour.
        smooth: standard deviation in pixels by which the image itself is smoothed first.
        polarity: `dark`, `bright`, `both` (its absolute value) or `auto`, see `Polar`.
    """

    def __init__(
        self,
        draw: Draw,
        scale: float = 10.0,
        background: str = "gaussian",
        smooth: float = 1.0,
        polarity: str = AUTO,
    ) -> None:
        super().__init__(draw, polarity)
        self.scale = checked("refine.options.scale", scale, 0.5)
        self.smooth = checked("refine.options.smooth", smooth)
        if background not in BACKGROUNDS:
            raise LtcamError(
                f"segmenter.refine.options.background={background}: unknown"
                f"{nearest(background, BACKGROUNDS)}"
            )
        self.background = background
        self.margin = round(3 * scale)

    def of(self, pixels: np.ndarray, polarity: str) -> np.ndarray:
        """The response (H, W) of grey pixels (H, W), not negative."""
        if self.background == "median":
            eight_bit = np.rint(255 * np.clip(pixels, 0, 1)).astype(np.uint8)
            side = 2 * max(1, round(self.scale)) + 1
            background = filters.rank.median(eight_bit, np.ones((side, side), np.uint8)) / 255
        else:
            background = ndimage.gaussian_filter(pixels, self.scale, truncate=3)
        brighter = ndimage.gaussian_filter(pixels, self.smooth) if self.smooth else pixels
        brighter = brighter - background.astype(np.float32)
        if polarity == "both":
            return np.abs(brighter)
        return np.maximum(brighter if polarity == "bright" else -brighter, 0)


class Ridge(Polar):
    """A ridge filter of scikit-image, for thin lines.

    Args:
        draw: of the regions, for `polarity=auto`.
        filter: `sato`, `frangi` or `meijering`.
        sigmas: half widths of the lines in pixels; the strongest counts.
        polarity: `dark`, `bright`, `both` (the stronger) or `auto`, see `Polar`.
    """

    def __init__(
        self,
        draw: Draw,
        filter: str = "sato",
        sigmas: Sequence[float] = (1.0, 2.0, 3.0),
        polarity: str = AUTO,
    ) -> None:
        super().__init__(draw, polarity)
        if filter not in RIDGES:
            raise LtcamError(
                f"segmenter.refine.options.filter={filter}: unknown{nearest(filter, RIDGES)}"
            )
        self.filter = RIDGES[filter]
        self.sigmas = widths("sigmas", sigmas)
        self.margin = round(4 * max(self.sigmas))

    def of(self, pixels: np.ndarray, polarity: str) -> np.ndarray:
        """The response (H, W) of grey pixels (H, W), not negative."""
        wanted = {"dark": [True], "bright": [False]}.get(polarity, [True, False])
        found = [self.filter(pixels, sigmas=self.sigmas, black_ridges=black) for black in wanted]
        return np.maximum.reduce(found)


def widths(option: str, values: Any) -> list[float]:
    """A list of widths in pixels.

    Raises:
        LtcamError: naming the option, if it is something else.
    """
    key = f"refine.options.{option}"
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise LtcamError(f"segmenter.{key}={values}: must be a list of pixels such as [1,2,4]")
    return [float(checked(key, value, 0.1)) for value in values]
