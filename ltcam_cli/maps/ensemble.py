"""Several classifiers as one heatmap source: trainings of several seeds, say."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ltcam_cli.classifier.checkpoint import Classifier
from ltcam_cli.maps.engine import Heatmaps, HeatmapSource, wanted_size
from ltcam_cli.maps.normalize import ratio


class Ensemble:
    """The mean of several sources' maps, each divided by its image's maximum, and of log-odds.

    A map whose maximum is not positive counts as 0. The log-odds are corrected for each training's
    sampling prior; what comes out are logits of the first classifier, whose threshold counts. Of
    classifiers of kinds, the logits of each kind are averaged.
    """

    def __init__(self, members: Sequence[tuple[Classifier, HeatmapSource]]) -> None:
        """Average classifiers of one input size, each with a source of the same cells."""
        self.members, self.size = list(members), wanted_size(members[0][1])

    def __call__(self, images: Tensor) -> Heatmaps:
        """Heatmaps of images (N, C, H, W) as the first classifier prepares them."""
        first = self.members[0][0]
        sums: list[Tensor] = []
        odds, finite = [], dict[str, Tensor]()
        for number, (classifier, source) in enumerate(self.members):
            heatmaps = source(_prepared(images, first, classifier))
            maps = [ratio(M, M.amax(dim=(1, 2))) for M in heatmaps.maps]
            sums = [total.add_(M) for total, M in zip(sums, maps, strict=True)] if sums else maps
            logits = heatmaps.logits.float()
            odds.append(
                logits if first.kinds else classifier.log_odds(logits) + classifier.prior_shift
            )
            finite |= {f"{layer} of classifier {number + 1}": flag
                       for layer, flag in heatmaps.finite.items()}  # fmt: skip
        mean = torch.stack(odds).mean(dim=0)
        logits = mean if first.kinds else _logits(mean - first.prior_shift, first)
        return Heatmaps([M.div_(len(self.members)) for M in sums], logits, finite)


def _prepared(images: Tensor, first: Classifier, other: Classifier) -> Tensor:
    """Images that the first classifier prepared, as the other one prepares them."""
    if (first.mean, first.std) == (other.mean, other.std):
        return images
    mean, std = (images.new_tensor(v).view(1, -1, 1, 1) for v in (first.mean, first.std))
    return other.prepare(images * std + mean)


def _logits(log_odds: Tensor, classifier: Classifier) -> Tensor:
    """(N, L) logits of which a classifier reads these log-odds (N,)."""
    count = classifier.backbone.logits
    if count == 1:
        return log_odds[:, None]
    logits = log_odds.new_zeros(len(log_odds), count)
    logits[:, int(classifier.defect)] = log_odds + math.log(count - 1)
    return logits
