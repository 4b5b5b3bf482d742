"""δ chosen on training images without a mask: what each δ's maps say of themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from torchvision.transforms.v2 import functional as tv

from ltcam_cli.classifier.checkpoint import Classifier
from ltcam_cli.data.sample import Sample
from ltcam_cli.maps.engine import HeatmapSource
from ltcam_cli.masks.segmenters import Segmenter
from ltcam_cli.runs.evaluation import ImageResult, map_and_segment

BLUR = 1 / 32  # standard deviation of the blur, as a share of the image's longer side


def separability(result: ImageResult) -> float:
    """How far mask and rest stand apart in the heatmap: Otsu's η = σ²_between / σ²_total, 0..1.

    N. Otsu, IEEE Trans. SMC 9 (1979). NaN of an empty or full mask, or a constant map.
    """
    heatmap, mask = result.heatmap, result.mask
    share, total = float(mask.mean()), float(heatmap.var())
    if share in {0.0, 1.0} or total == 0:
        return float("nan")
    apart = float(heatmap[mask].mean()) - float(heatmap[~mask].mean())
    return share * (1 - share) * apart**2 / total


class Evidence:
    """How much of what the classifier saw lies in the mask, less the mask's share of the image.

    (y(x) − y(x with the mask blurred)) / (y(x) − y(all blurred)) − area, y the log-odds of a
    defect: 0 of no mask and of a mask of everything, near 1 of a small one without which the
    classifier sees nothing. NaN where blurring the image does not lower y.
    """

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier

    def __call__(self, result: ImageResult) -> float:
        """Of one image and mask; three forwards."""
        image = result.item.image
        size = [image.shape[-2], image.shape[-1]]
        mask = tv.resize(torch.from_numpy(result.mask[None].astype(np.float32)), size) > 0.5
        sigma = BLUR * max(size)
        width = 2 * min(round(3 * sigma), min(size) // 2 - 1) + 1
        blurred = tv.gaussian_blur(image, [width, width], [sigma, sigma])
        images = torch.stack([image, torch.where(mask, blurred, image), blurred])
        with torch.inference_mode():
            logits = self.classifier.model(self.classifier.prepare(images)).float()
        whole, without, nothing = self.classifier.log_odds(logits).tolist()
        if whole <= nothing:
            return float("nan")
        return (whole - without) / (whole - nothing) - float(mask.float().mean())


def judge(
    classifier: Classifier,
    source: HeatmapSource,
    segmenter: Segmenter,
    samples: Sequence[Sample],
    criterion: Callable[[ImageResult], float],
    *,
    batch_size: int,
    on_error: str = "raise",
    progress: str | None = None,
) -> list[float]:
    """The mean of a criterion over the defective ones of the samples, for each cell of a source.

    Reads images and image labels; no mask.
    """
    results = map_and_segment(
        classifier,
        source,
        segmenter,
        [sample for sample in samples if sample.label],
        masks=False,
        gate=False,
        batch_size=batch_size,
        on_error=on_error,
        progress=progress,
    )
    values = [(result.cell, criterion(result)) for result in results]
    table = pd.DataFrame(values, columns=["cell", "value"])
    return table.groupby("cell")["value"].mean().tolist()
