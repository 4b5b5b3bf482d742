"""What a mask says of itself without a true mask: a criterion to choose δ and pipelines by."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from ltcam_cli.classifier.checkpoint import Classifier
from ltcam_cli.data.batches import Item
from ltcam_cli.data.sample import Sample
from ltcam_cli.errors import LtcamError
from ltcam_cli.maps.engine import HeatmapSource
from ltcam_cli.runs.masking import ImageResult, Loading, MaskJob, mask_images

BLUR = 1 / 32  # standard deviation of the blur, as a share of the image's longer side


class Evidence:
    """How much of what the classifier saw lies in the mask, times how far the mask narrows it down.

    min(1, max(0, (y(x) − y(x, mask blurred)) / (y(x) − y(x, all blurred)))) · ln(1 / a): y the
    log-odds of a defect, a the mask's share of the image. 0 of no mask and of a mask of everything;
    the smaller the mask without which the classifier sees nothing, the more. NaN where blurring the
    image does not lower y. Ours; chosen among others in docs/delta.md.
    """

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier
        self._last: tuple[Item, Tensor, float, float] | None = None

    def __call__(self, result: ImageResult) -> float:
        """Criterion of one image and mask: a forward, and two more for each new image."""
        image, blurred, whole, nothing = self._whole(result.item)
        if whole <= nothing:
            return float("nan")
        mask = torch.from_numpy(result.mask[None].astype(np.float32))
        inside = tv.resize(mask, [image.shape[-2], image.shape[-1]]) > 0.5
        area = float(inside.float().mean())
        if area == 0:
            return 0.0
        [without] = self._log_odds(torch.where(inside, blurred, image)[None])
        return min(1.0, max(0.0, (whole - without) / (whole - nothing))) * -math.log(area)

    def _whole(self, item: Item) -> tuple[Tensor, Tensor, float, float]:
        """The image, it blurred, and y of both; kept for the masks of the same image."""
        size = [self.classifier.height, self.classifier.width]
        image = tv.resize(item.image, size, antialias=True)  # of another size for tiles
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


def mean_criterion(
    classifier: Classifier,
    source: HeatmapSource,
    jobs: Sequence[MaskJob],
    samples: Sequence[Sample],
    criterion: Callable[[ImageResult], float],
    loading: Loading,
) -> list[float]:
    """Mean of a criterion over the defective ones of the samples, for each mask job.

    Reads images and image labels; no mask.

    Raises:
        LtcamError: If no image can be read.
    """
    defective = [sample for sample in samples if sample.label]
    results = mask_images(classifier, source, jobs, defective, loading)
    values = [(result.job, criterion(result)) for result in results]
    if not values:
        raise LtcamError("none of the defective training images could be read")
    table = pd.DataFrame(values, columns=["job", "value"])
    return table.groupby("job")["value"].mean().tolist()
