"""Refinement: of a heatmap's region, the pixels that the image says are the defect."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from scipy import ndimage
from skimage.filters import apply_hysteresis_threshold
from skimage.morphology import isotropic_dilation
from skimage.segmentation import random_walker

from ltcam_cli.errors import LtcamError, nearest
from ltcam_cli.masks.appearance import Appearance
from ltcam_cli.masks.inputs import Draw, Lesson, SegInput, checked, grey, learnt, scaled, window
from ltcam_cli.masks.mixture import fit_mixture
from ltcam_cli.masks.quantile import Quantiles
from ltcam_cli.masks.responses import Contrast, Response, Ridge
from ltcam_cli.masks.thresholds import RULES, check_options

SOME = 20_000  # pixels of a clean image that a threshold is calibrated on
FITTED = 5_000  # pixels that a mixture is fitted to
CLEAN, DEVIATION = "clean", "deviation"
ONE_SIGMA = 0.8413  # share of a normal distribution below its mean + one standard deviation


class Refinement(Protocol):
    """Chooses among the pixels of a region."""

    @property
    def margin(self) -> int | None:
        """How many pixels around the region it reads; None: the whole image."""
        ...

    @property
    def lessons(self) -> Sequence[Lesson]:
        """In the order in which they must be learnt."""
        ...

    def __call__(self, given: SegInput, inside: np.ndarray) -> np.ndarray:
        """The mask (H, W) bool, of which only what lies `inside` (H, W) bool counts."""
        ...


@dataclass
class RefineConfig:
    """How a region is refined by the image.

    Attributes:
        rule: one of `RESPONSES` or `REFINEMENTS`, or `none`.
        threshold: of a response within the region: one of `RULES` but `hysteresis`; `clean`: a
            quantile of the values of clean training images; or `deviation`, see `ByDeviation`.
        quantile: for `threshold=clean`.
        low, high: for `threshold=deviation`.
        grow: pixels by which the region is made wider before; the result may fill them.
        options: of the rule, by keyword.
    """

    rule: str = "none"
    threshold: str = "otsu"
    quantile: float = 0.999
    low: float = 1.2
    high: float = 2.5
    grow: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checked("refine.grow", self.grow, whole=True)
        checked("refine.quantile", self.quantile, 0, 1)
        checked("refine.low", self.low)
        checked("refine.high", self.high, self.low)


class ByResponse:
    """The pixels of the region whose response is above a threshold.

    Where all responses are equal, the image says nothing, and the region stays as it is.
    """

    label, reads_maps = 0, False

    def __init__(self, response: Response, threshold: str, quantile: float) -> None:
        known = [*(rule for rule in RULES if rule != "hysteresis"), CLEAN, DEVIATION]
        if threshold not in known:
            raise LtcamError(
                f"segmenter.refine.threshold={threshold}: unknown{nearest(threshold, known)}"
            )
        self.response, self.threshold, self.quantile = response, threshold, quantile
        self.margin = response.margin
        self.state: Any = None
        self.lessons: tuple[Lesson, ...] = (
            *response.lessons,
            *([self] if threshold == CLEAN else []),
        )
        self._seen, self._random = Quantiles(), np.random.default_rng(0)

    def learn(self, given: SegInput) -> None:
        """Count the responses of a clean image's pixels, or of as many as are enough."""
        size = given.image.shape[:2]
        chosen = np.ones(size, dtype=bool)
        if chosen.size > SOME:
            chosen[:] = False
            chosen.flat[self._random.choice(chosen.size, SOME, replace=False)] = True
        self._seen.add(self.response(given.image, chosen))

    def conclude(self) -> None:
        """Set the threshold."""
        self.state = self._seen.quantile(self.quantile)

    def __call__(self, given: SegInput, inside: np.ndarray) -> np.ndarray:
        """See `Refinement`."""
        values = self.response(given.image, inside)
        mask = inside.copy()
        if values.min() < values.max():
            if self.threshold == CLEAN:
                threshold = learnt(self, "segmenter.refine.threshold=clean")
            else:
                threshold = RULES[self.threshold](values)
            mask[inside] = values > threshold
        return mask


class ByDeviation:
    """What stands out of the image where the heatmap is high, by hysteresis.

    The evidence of a pixel is e = √(M / max M) · r / σ: M the heatmap, r the response, σ its
    84.13 % quantile over the whole image, which is the standard deviation of normal noise and
    hardly feels a defect. What is above `low` stays where it is connected to a pixel above `high`.
    If even the highest e is small, both sink, so that `high` is at most 0.8 of it: a defective
    image has a mask. Ours.
    """

    margin = None

    def __init__(self, response: Response, low: float, high: float) -> None:
        self.response, self.low, self.high = response, low, high
        self.lessons = response.lessons

    def __call__(self, given: SegInput, inside: np.ndarray) -> np.ndarray:
        """See `Refinement`."""
        r = self.response(given.image, np.ones_like(inside)).reshape(inside.shape)
        M, sigma = given.heatmap, float(np.quantile(r, ONE_SIGMA))
        if sigma <= 0 or M.max() <= 0:
            return inside
        e = np.where(inside, np.sqrt(np.maximum(M, 0) / M.max()) * r / sigma, 0)
        sink = min(1.0, 0.8 * float(e.max()) / self.high)
        if sink <= 0:
            return inside
        return apply_hysteresis_threshold(e, sink * self.low, sink * self.high)


class Guided:
    """The segmenter's own threshold again, of the heatmap after a guided filter.

    Guided filter: He, Sun, Tang, Guided image filtering, PAMI 2013, eq. 5, 6 and 8.

    Args:
        draw: the threshold.
        radius: of its square windows, in pixels.
        eps: ε; the variance of grey values in [0, 1] below which a window counts as flat.
    """

    margin = None
    lessons: tuple[Lesson, ...] = ()

    def __init__(self, draw: Draw, radius: int = 8, eps: float = 1e-3) -> None:
        self.draw = draw
        self.radius = checked("refine.options.radius", radius, 1, whole=True)
        self.eps = checked("refine.options.eps", eps, 1e-9)

    def __call__(self, given: SegInput, inside: np.ndarray) -> np.ndarray:
        """See `Refinement`."""
        return self.draw(guided_filter(grey(given.image), given.heatmap, self.radius, self.eps))


def guided_filter(guide: np.ndarray, values: np.ndarray, radius: int, eps: float) -> np.ndarray:
    """Values (H, W) smoothed along the edges of a guide (H, W); windows end at the border."""
    side = 2 * radius + 1
    counts = ndimage.uniform_filter(np.ones_like(guide), side, mode="constant")

    def mean(of: np.ndarray) -> np.ndarray:
        return ndimage.uniform_filter(of, side, mode="constant") / counts

    guide = guide - guide.mean()  # changes nothing, and float32 keeps more digits of the variance
    level = mean(values)
    slope = (mean(guide * values) - mean(guide) * level) / (
        np.maximum(mean(guide * guide) - mean(guide) ** 2, 0) + eps
    )
    offset = level - slope * mean(guide)
    return mean(slope) * guide + mean(offset)


class RandomWalker:
    """Scikit-image's random walker (Grady 2006) from seeds that the heatmap plants.

    Args:
        draw: not used.
        high: quantile of the map's values in the region; what is above is a seed of the defect.
        low: quantile; what is below, and all around the region, is a seed of the background.
        beta: how much an edge of the image holds the walker back.
    """

    margin = 2
    lessons: tuple[Lesson, ...] = ()

    def __init__(
        self, draw: Draw, high: float = 0.9, low: float = 0.1, beta: float = 130.0
    ) -> None:
        self.low = checked("refine.options.low", low, 0, 1)
        self.high = checked("refine.options.high", high, low, 1)
        self.beta = checked("refine.options.beta", beta, 1e-9)

    def __call__(self, given: SegInput, inside: np.ndarray) -> np.ndarray:
        """See `Refinement`."""
        values = given.heatmap[inside]
        low, high = np.quantile(values, [self.low, self.high])
        labels = np.where(ndimage.binary_dilation(inside) & ~inside, 2, -1)  # -1: not walked on
        labels[inside] = np.select([values >= high, values <= low], [1, 2], 0)
        image = scaled(given.image).astype(np.float64)
        if low >= high or not (labels == 2).any() or image.min() == image.max():
            return inside
        if (labels == 0).any():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of islands without a seed: they are no defect
                labels = random_walker(
                    image,
                    labels,
                    beta=self.beta,
                    mode="cg_j",
                    channel_axis=-1 if image.ndim == 3 else None,
                )
        return labels == 1


class Gmm:
    """Two mixtures of colours, of the defect and of what is around, as in GrabCut without its cut.

    A ring around the region is background; what of the region is least like it starts as the
    defect. Then mixtures are fitted to both, and a pixel of the region stays where the defect's
    explains it better, and so on (Rother et al. 2004). The ratio of the two is smoothed, not cut.

    Args:
        draw: not used.
        components: of each mixture.
        rounds: of fitting and parting, at most.
        unlike: share of the ring that is as unlike the ring's mixture as the defect starts.
        ring: width of the ring in pixels.
        smooth: standard deviation in pixels by which colours and ratio are smoothed.
        scale: standard deviation in pixels of the local mean that is taken off the colours, so
            that shading does not count; 0 for the colours as they are.
    """

    lessons: tuple[Lesson, ...] = ()

    def __init__(
        self,
        draw: Draw,
        components: int = 2,
        rounds: int = 3,
        unlike: float = 0.01,
        ring: int = 15,
        smooth: float = 1.0,
        scale: float = 20.0,
    ) -> None:
        self.components = checked("refine.options.components", components, 1, whole=True)
        self.rounds = checked("refine.options.rounds", rounds, 1, whole=True)
        self.unlike = checked("refine.options.unlike", unlike, 0, 1)
        self.ring = checked("refine.options.ring", ring, 1, whole=True)
        self.smooth = checked("refine.options.smooth", smooth)
        self.scale = checked("refine.options.scale", scale)
        self.margin = self.ring + round(max(4 * self.smooth, 3 * self.scale))

    def __call__(self, given: SegInput, inside: np.ndarray) -> np.ndarray:
        """See `Refinement`."""
        pixels = np.atleast_3d(scaled(given.image)).astype(np.float64)
        smooth = ndimage.gaussian_filter(pixels, (self.smooth, self.smooth, 0))
        if self.scale:
            smooth -= ndimage.gaussian_filter(pixels, (self.scale, self.scale, 0), truncate=3)
        around = isotropic_dilation(inside, self.ring) & ~inside
        if min(around.sum(), inside.sum()) < 2 * self.components or np.ptp(smooth) == 0:
            return inside
        background = fit_mixture(thinned(smooth[around]), self.components)
        usual = np.quantile(background.log_density(thinned(smooth[around])), self.unlike)
        defect = inside.copy()
        defect[inside] = background.log_density(smooth[inside]) < usual
        for _ in range(self.rounds):
            others = around | (inside & ~defect)
            if defect.sum() < 2 * self.components:
                break
            ratio = np.zeros(inside.shape)
            for mask, sign in ((defect, 1), (others, -1)):
                mixture = fit_mixture(thinned(smooth[mask]), self.components)
                ratio[inside] += sign * mixture.log_density(smooth[inside])
            parted = inside & (ndimage.gaussian_filter(ratio, self.smooth) > 0)
            if (parted == defect).all():
                break
            defect = parted
        return defect


def thinned(rows: np.ndarray) -> np.ndarray:
    """At most `FITTED` rows, evenly spaced."""
    return rows[:: -(-len(rows) // FITTED)]


RESPONSES: dict[str, Callable[..., Response]] = {
    "contrast": Contrast,
    "ridge": Ridge,
    "appearance": Appearance,
}
REFINEMENTS: dict[str, Callable[..., Refinement]] = {
    "random_walker": RandomWalker,
    "guided": Guided,
    "gmm": Gmm,
}


def refinement(config: RefineConfig, draw: Draw) -> Refinement | None:
    """The refinement that a config describes, of regions that `draw` draws.

    Raises:
        LtcamError: naming the key that is wrong.
    """
    if config.rule == "none":
        return None
    makers = {**RESPONSES, **REFINEMENTS}
    if config.rule not in makers:
        raise LtcamError(
            f"segmenter.refine.rule={config.rule}: no such rule"
            f"{nearest(config.rule, ['none', *makers])}"
        )
    known = [*inspect.signature(makers[config.rule]).parameters][1:]
    check_options("segmenter.refine.options", config.rule, known, config.options)
    if config.rule in RESPONSES:
        response = RESPONSES[config.rule](draw, **config.options)
        if config.threshold == DEVIATION:
            return ByDeviation(response, config.low, config.high)
        return ByResponse(response, config.threshold, config.quantile)
    if config.threshold != "otsu":
        raise LtcamError(
            f"segmenter.refine.threshold={config.threshold}: {config.rule} takes none; "
            f"those that do: {', '.join(RESPONSES)}"
        )
    return REFINEMENTS[config.rule](draw, **config.options)


def refined(refine: Refinement, given: SegInput, region: np.ndarray, grow: int = 0) -> np.ndarray:
    """The mask (H, W) bool that a refinement makes of a region: a part of it, or of it grown.

    Only the window around the region is looked at, as far as the refinement reads.
    """
    if not region.any():
        return region
    inside = isotropic_dilation(region, grow) if grow else region
    if refine.margin is None:
        return refine(given, inside) & inside
    part = window(inside, refine.margin)
    seen = SegInput(given.heatmap[part], given.image[part], given.features)
    mask = np.zeros_like(region)
    mask[part] = refine(seen, inside[part]) & inside[part]
    return mask
