"""Two Gaussian mixtures of colours: one of the defect, one of what is around it."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Annotated

import numpy as np
import scipy
import skimage
from pydantic import Field

from ltcam_cli.config import Share
from ltcam_cli.masks.inputs import Calibrator, HeatmapThreshold, SegInput, scaled
from ltcam_cli.masks.responses import Sigma

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture

FITTED = 5_000  # pixels that a mixture is fitted to
FLOOR = 1e-5  # added to variances: of pixels in [0, 1], less than a grey level


class ColourMixtures:
    """Two mixtures of colours, of the defect and of what is around, as in GrabCut without its cut.

    A ring around the region is background; what of the region is least like it starts as the
    defect. Then mixtures are fitted to both, and a pixel of the region stays where the defect's
    explains it better, and so on (Rother et al. 2004). The ratio of the two is smoothed, not cut.

    Args:
        components: Number of Gaussians of each mixture.
        rounds: Number of times that mixtures are fitted and pixels assigned, at most.
        unlike: Share of the ring that is as unlike the ring's mixture as the defect starts.
        ring: Width of the ring in pixels.
        smooth: Standard deviation in pixels by which colours and ratio are smoothed.
        scale: Standard deviation in pixels of the local mean that is taken off the colours, so
            that shading does not count; 0 for the colours as they are.
    """

    calibrators: tuple[Calibrator, ...] = ()

    def __init__(
        self,
        _: HeatmapThreshold,
        *,
        components: Annotated[int, Field(ge=1, le=20)] = 2,
        rounds: Annotated[int, Field(ge=1, le=100)] = 3,
        unlike: Share = 0.01,
        ring: Annotated[int, Field(ge=1, le=1000)] = 15,
        smooth: Sigma = 1.0,
        scale: Annotated[float, Field(ge=0, le=500)] = 20.0,
    ) -> None:
        self.components, self.rounds, self.unlike = components, rounds, unlike
        self.ring, self.smooth, self.scale = ring, smooth, scale
        self.margin = ring + round(max(4 * smooth, 3 * scale))

    def __call__(self, given: SegInput, inside: np.ndarray) -> np.ndarray:
        """See `Refinement`."""
        smoothed = scipy.ndimage.gaussian_filter
        pixels = np.atleast_3d(scaled(given.image)).astype(np.float64)
        colours = smoothed(pixels, (self.smooth, self.smooth, 0))
        if self.scale:
            colours -= smoothed(pixels, (self.scale, self.scale, 0), truncate=3)
        ring = skimage.morphology.isotropic_dilation(inside, self.ring) & ~inside
        if min(ring.sum(), inside.sum()) < 2 * self.components or np.ptp(colours) == 0:
            return inside
        around = thinned(colours[ring])
        background = fit_mixture(around, self.components)
        usual = np.quantile(background.score_samples(around), self.unlike)
        defect = inside.copy()
        defect[inside] = background.score_samples(colours[inside]) < usual
        for _ in range(self.rounds):
            others = ring | (inside & ~defect)
            if defect.sum() < 2 * self.components:
                break
            ratio = np.zeros(inside.shape)
            for mask, sign in ((defect, 1), (others, -1)):
                mixture = fit_mixture(thinned(colours[mask]), self.components)
                ratio[inside] += sign * mixture.score_samples(colours[inside])
            likelier = inside & (smoothed(ratio, self.smooth) > 0)
            if (likelier == defect).all():
                break
            defect = likelier
        return defect


def fit_mixture(rows: np.ndarray, components: int) -> GaussianMixture:
    """A Gaussian mixture after some rounds of expectation and maximisation, the same each time.

    It starts from equal parts of the rows along the direction in which they vary most.

    Args:
        rows: (N, D), N at least `components` and 2.
        components: Number of Gaussians.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    centred = rows - rows.mean(axis=0)
    direction = np.linalg.eigh(centred.T @ centred)[1][:, -1]
    ranks = np.argsort(np.argsort(centred @ direction, kind="stable"), kind="stable")
    part_of = ranks * components // len(rows)
    parts = [rows[part_of == number] for number in range(components)]
    floor = FLOOR * np.eye(rows.shape[1])
    covariances = [np.atleast_2d(np.cov(part.T, ddof=0)) + floor for part in parts]
    mixture = GaussianMixture(
        components,
        tol=0,
        reg_covar=FLOOR,
        max_iter=10,
        weights_init=[len(part) / len(rows) for part in parts],
        means_init=[part.mean(axis=0) for part in parts],
        precisions_init=np.linalg.inv(covariances),
        init_params="random",  # of the responsibilities, which are not used
        random_state=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the rounds are meant to be few
        return mixture.fit(rows)


def thinned(rows: np.ndarray) -> np.ndarray:
    """At most `FITTED` rows, evenly spaced."""
    return rows[:: -(-len(rows) // FITTED)]
