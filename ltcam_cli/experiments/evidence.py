"""What a mask says of itself without a true mask: a criterion to choose δ and pipelines by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from ltcam_cli.classifier.checkpoint import Classifier
from ltcam_cli.data.batches import Item
from ltcam_cli.data.dataset import Fit
from ltcam_cli.data.geometry import fitted
from ltcam_cli.data.sample import Sample
from ltcam_cli.errors import LtcamError
from ltcam_cli.maps.engine import HeatmapSource
from ltcam_cli.runs.masking import ImageResult, Loading, MaskJob, mask_images
from ltcam_cli.scores.intervals import resample_groups

BLUR = 1 / 32  # standard deviation of the blur, as a share of the image's longer side


class _Answers:
    """Log-odds y of a defect that a classifier gives an image, and changes of it."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier
        self._last: tuple[Item, Tensor, float, float] | None = None

    def _whole(self, item: Item) -> tuple[Tensor, Tensor, float, float]:
        """The image, it blurred, and y of both; kept for the masks of the same image."""
        image = self.classifier.fitted(item.image)  # of another size for tiles
        if self._last is None or self._last[0] is not item:
            sigma = BLUR * max(image.shape[-2:])
            width = 2 * min(round(3 * sigma), min(image.shape[-2:]) // 2 - 1) + 1
            blurred = tv.gaussian_blur(image, [width, width], [sigma, sigma])
            whole, nothing = self._log_odds(torch.stack([image, blurred]))
            self._last = item, blurred, whole, nothing
        _, blurred, whole, nothing = self._last
        return image, blurred, whole, nothing

    def _log_odds(self, images: Tensor) -> list[float]:
        with torch.inference_mode():
            logits = self.classifier.model(self.classifier.prepare(images)).float()
        return self.classifier.log_odds(logits).tolist()


class Evidence(_Answers):
    """How much of what the classifier saw lies in the mask, times how far the mask narrows it down.

    min(1, max(0, (y(x) − y(x, mask blurred)) / (y(x) − y(x, all blurred)))) · ln(1 / a): y the
    log-odds of a defect, a the mask's share of the image. 0 of no mask and of a mask of everything;
    the smaller the mask without which the classifier sees nothing, the more. NaN where blurring the
    image does not lower y. Ours; chosen among others in docs/delta.md.
    """

    def __call__(self, result: ImageResult) -> float:
        """Criterion of one image and mask: a forward, and two more for each new image."""
        image, blurred, whole, nothing = self._whole(result.item)
        if whole <= nothing:
            return float("nan")
        inside = at_input_size(result.mask, image, self.classifier.fit) > 0.5
        area = float(inside.float().mean())
        if area == 0:
            return 0.0
        [without] = self._log_odds(torch.where(inside, blurred, image)[None])
        return share(whole - without, whole - nothing) * -math.log(area)


class Shares(NamedTuple):
    """Answers of a classifier about a mask; NaN where blurring the image does not lower y.

    Attributes:
        removed: n · h, in [0, 1]. n, deletion: the share of y that blurring the mask's pixels takes
            away, as in `Evidence`. h, healing: the share that a good image's pixels g in the mask
            take away, (y(x) − y(x with g in the mask)) / (y(x) − y(g)).
        brought: s, insertion, in [0, 1]: the share that the mask's pixels bring with them on the
            good image, (y(g with x in the mask) − y(g)) / (y(x) − y(g)).
        area: a, the mask's share of the image.
    """

    removed: float
    brought: float
    area: float


def criteria(shares: pd.DataFrame) -> pd.DataFrame:
    """Criterion of each job, and whether it is ahead of the first job beyond chance.

    Means over images are weighted by the mean area of an image's masks. IoU is pooled over pixels,
    so that an image counts by the size of its defect, which nobody knows; the masks of all jobs
    together come nearest to it.

    Args:
        shares: A row a job and image: `job`, `image`, its physical item `group`, and the fields of
            `Shares`. Images with NaN do not count.

    Returns:
        A row a job: the means `removed`, `brought` and `area`, the `criterion` of them, and
        `lead_low`, the low end of the one-sided 95 % interval of its lead over the first job, by a
        paired bootstrap over the items. NaN where nothing counts.
    """
    fields = list(Shares._fields)
    jobs = sorted(shares["job"].unique())
    known = shares.pivot(index=["group", "image"], columns="job", values=fields).dropna()
    if known.empty:
        return pd.DataFrame(np.nan, jobs, [*fields, "criterion", "lead_low"])
    weights = known["area"].mean(axis=1)
    sums = known.mul(weights, axis=0).groupby("group").sum()
    groups, drawn = resample_groups(sums.index)
    times = np.concatenate([np.ones((1, len(groups)), dtype=drawn.dtype), drawn])
    total = times @ weights.groupby("group").sum().to_numpy()
    means = times @ sums.to_numpy() / np.maximum(total, np.finfo(float).tiny)[:, None]
    means = means.reshape(-1, len(fields), len(jobs))
    values = criterion(*means.transpose(1, 0, 2))
    lead_low = np.quantile(values[1:] - values[1:, :1], 0.05, axis=0)
    table = pd.DataFrame(means[0].T, jobs, fields)
    return table.assign(criterion=values[0], lead_low=lead_low)


def criterion(removed: ArrayLike, brought: ArrayLike, area: ArrayLike) -> np.ndarray:
    """n h · s · √ln(1 / a) of means over images: is the mask the defect, and all of it?

    A mask of a part of the defect has a small h and s, one of far more than the defect a small
    ln(1 / a). Deletion and insertion are those of RISE (Petsiuk et al. 2018), each once. The
    product is ours; compared with others in docs/surfaces.md.
    """
    area = np.asarray(area, dtype=float)
    narrow = -np.log(np.where(area > 0, area, 1.0).clip(max=1))  # a mean of ones may be above 1
    return np.asarray(removed) * np.asarray(brought) * np.sqrt(narrow)


class Counterfactuals(_Answers):
    """What a classifier says of an image without a mask's pixels, and of these pixels alone.

    Args:
        classifier: Classifier.
        good: Good training images (N, C, height, width) in [0, 1]; each image meets one of them.
    """

    def __init__(self, classifier: Classifier, good: Tensor) -> None:
        super().__init__(classifier)
        self.good = good
        self._next = -1
        self._reference: tuple[Item, Tensor, float] | None = None

    def shares(self, result: ImageResult) -> Shares:
        """Of one image and mask: three forwards, and three more for each new image."""
        image, blurred, whole, nothing = self._whole(result.item)
        inside = at_input_size(result.mask, image, self.classifier.fit)
        area = float(inside.mean())
        if whole <= nothing:
            return Shares(math.nan, math.nan, area)
        reference, normal = self._good(result.item, image)
        # A soft edge, so that the seam is not what the classifier sees.
        soft = torch.maximum(tv.gaussian_blur(inside, [9, 9], [1.5, 1.5]), inside)
        deleted = torch.where(inside > 0.5, blurred, image)
        healed = soft * reference + (1 - soft) * image
        inserted = soft * image + (1 - soft) * reference
        y_deleted, y_healed, y_inserted = self._log_odds(torch.stack([deleted, healed, inserted]))
        n = share(whole - y_deleted, whole - nothing)
        h = share(whole - y_healed, whole - normal)
        return Shares(n * h, share(y_inserted - normal, whole - normal), area)

    def _good(self, item: Item, image: Tensor) -> tuple[Tensor, float]:
        """A good image, as bright as this one, and its y; kept for the masks of the same image."""
        if self._reference is None or self._reference[0] is not item:
            self._next = (self._next + 1) % len(self.good)
            good = self.good[self._next]
            shift = image.flatten(1).median(dim=1).values - good.flatten(1).median(dim=1).values
            reference = (good + shift[:, None, None]).clamp(0, 1)
            [normal] = self._log_odds(reference[None])
            self._reference = item, reference, normal
        _, reference, normal = self._reference
        return reference, normal


def share(part: float, whole: float) -> float:
    """A part's share of the whole, in [0, 1]; 0 of a whole that is not above 0."""
    return min(1.0, max(0.0, part / whole)) if whole > 0 else 0.0


def at_input_size(mask: np.ndarray, image: Tensor, fit: Fit) -> Tensor:
    """A mask (H, W) as the share (1, h, w) of each of the input's pixels (C, h, w)."""
    values = torch.from_numpy(mask[None].astype(np.float32))
    return fitted(values, (image.shape[-2], image.shape[-1]), fit, fill=0)


def mean_evidence(
    classifier: Classifier,
    source: HeatmapSource,
    jobs: Sequence[MaskJob],
    samples: Sequence[Sample],
    loading: Loading,
) -> list[float]:
    """Mean evidence over the defective ones of the samples, for each mask job.

    Reads images and image labels; no mask.

    Raises:
        LtcamError: If no image can be read.
    """
    evidence = Evidence(classifier)
    defective = [sample for sample in samples if sample.label]
    results = mask_images(classifier, source, jobs, defective, loading)
    values = [(result.job, evidence(result)) for result in results]
    if not values:
        raise LtcamError("none of the defective training images could be read")
    table = pd.DataFrame(values, columns=["job", "value"])
    return table.groupby("job")["value"].mean().tolist()
