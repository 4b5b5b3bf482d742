"""Kinds of an image's regions: where several are likely, that whose own map is highest there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage
from skimage.measure import label
from torch import Tensor

from ltcam_cli.classifier.checkpoint import Classifier
from ltcam_cli.classifier.kinds import KindVerdict
from ltcam_cli.data.dataset import Fit
from ltcam_cli.maps.engine import explain
from ltcam_cli.maps.fusion import at_size
from ltcam_cli.maps.spec import MapSpec

WEIGHTING = "hirescam"  # of the last layer: behind a linear head, a position's part of the logit


@dataclass(frozen=True)
class ImageKinds:
    """Kinds of one image and of the regions of its masks.

    Attributes:
        verdict: What the classifier says of the image.
        maps: Map (1, h, w) of each likely kind, where there are several.
        fit: How the image came into the maps' input.
    """

    verdict: KindVerdict = field(default_factory=KindVerdict)
    maps: Mapping[str, Tensor] = field(default_factory=dict)
    fit: Fit = "stretch"

    def of_mask(self, mask: np.ndarray, only: str | None = None) -> dict[str, np.ndarray]:
        """The regions (8-connected) of a mask (H, W) bool by their kind, as masks.

        Args:
            mask: Mask.
            only: Kind of all regions, as of a map of this kind; None: the classifier decides.
        """
        likely = (only,) if only else self.verdict.likely
        if len(likely) < 2 or not mask.any():
            return dict.fromkeys(likely, mask)
        regions, count = label(mask, connectivity=2, return_num=True)
        maps = [at_size(self.maps[kind], mask.shape, self.fit)[0] for kind in likely]
        means = [ndimage.mean(M, regions, np.arange(1, count + 1)) for M in maps]
        chosen = np.append(-1, np.argmax(means, axis=0))[regions]
        return {kind: chosen == number for number, kind in enumerate(likely)}


def image_kinds(classifier: Classifier, images: Tensor, logits: Tensor) -> list[ImageKinds]:
    """Kinds of images (N, C, H, W) in [0, 1] of which a source gave logits (N, L)."""
    verdicts = classifier.kind_verdicts(logits.float())
    return [
        ImageKinds(verdict, _maps(classifier, images[[number]], verdict.likely), classifier.fit)
        for number, verdict in enumerate(verdicts)
    ]


def _maps(classifier: Classifier, image: Tensor, kinds: Sequence[str]) -> dict[str, Tensor]:
    """Map (1, h, w) of each of several kinds; each in units of what speaks for it."""
    if len(kinds) < 2:
        return {}
    specs = [MapSpec(WEIGHTING, target=classifier.kinds.index(kind)) for kind in kinds]
    maps = explain(classifier.model, classifier.prepare(classifier.fitted(image)), specs)
    return dict(zip(kinds, maps, strict=True))
