"""Localisation that counts only where the image itself is called defective.

Our reading of Seg_mIoU and Seg_Recall (Sample-Centric Multi-Task Learning, 2025), which leave out
empty and true-negative samples and tie a mask to its sample's decision. An inspection line that
sorts images by the classifier never looks at the mask of an image that is called good.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ltcam_cli.scores.pixels import PixelCounts


def seg_miou(counts: Sequence[PixelCounts], predicted: Sequence[bool]) -> float:
    """Mean IoU over defective images; one that the classifier calls good counts 0.

    Args:
        counts: Counts of each defective image's mask, before any gate or after it.
        predicted: Whether the classifier calls that image defective.

    Returns:
        A fraction in [0, 1]. An image without an IoU (neither defect nor mask pixels) is left out
        if it is called defective; NaN if none is left.
    """
    ious = [c.iou if called else 0.0 for c, called in zip(counts, predicted, strict=True)]
    defined = [iou for iou in ious if iou == iou]
    return float(np.mean(defined)) if defined else float("nan")


def seg_recall(counts: Sequence[PixelCounts], predicted: Sequence[bool]) -> float:
    """Share of defective images that are called defective and whose mask touches the defect.

    Arguments as of `seg_miou`; a fraction in [0, 1], NaN without an image.
    """
    hits = [called and c.tp > 0 for c, called in zip(counts, predicted, strict=True)]
    return float(np.mean(hits)) if hits else float("nan")
