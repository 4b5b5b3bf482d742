"""Pseudo-labels: what a map and its mask say with confidence of each pixel, and what they don't.

No mask that a person drew is read: a clean image is background everywhere because its image label
says so, and of a defective one the classifier's map, later the student itself, decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage.morphology import isotropic_dilation
from torchvision.transforms.v2 import functional as tv

from ltcam_cli.errors import LtcamError
from ltcam_cli.files import atomic

BACKGROUND, DEFECT, IGNORED = 0, 1, 255


@dataclass
class LabelConfig:
    """When a pixel of a defective image has a label.

    Attributes:
        low: of the first round: up to this share of the map's maximum, and outside the mask, a
            pixel is background.
        ignore_radius: pixels this near to the mask's are not background.
        defect: of later rounds: from this probability on, a pixel is defect.
        background: and below this one it is background.
    """

    low: float = 1.0
    ignore_radius: int = 0
    defect: float = 0.7
    background: float = 0.3

    def __post_init__(self) -> None:
        if not 0 <= self.low <= 1:
            raise LtcamError(f"student.labels.low={self.low:g}: must lie in 0..1")
        if self.ignore_radius < 0:
            raise LtcamError(
                f"student.labels.ignore_radius={self.ignore_radius}: must be 0 or more pixels"
            )
        if not 0 <= self.background <= self.defect <= 1:
            raise LtcamError(
                f"student.labels.background={self.background:g}, defect={self.defect:g}: "
                "must be 0 <= background <= defect <= 1"
            )


def first_labels(
    heatmap: np.ndarray, mask: np.ndarray, size: tuple[int, int], config: LabelConfig
) -> np.ndarray:
    """Labels from the map of a defective image and the mask that a segmenter drew from it.

    Defect where at least half of a pixel's area lies in the mask. Background where the map is at
    most `config.low` of its maximum and no such pixel is nearer than `config.ignore_radius`:
    ignored borders let the student draw everything too wide. All else is ignored, and everything is
    where the mask is empty.

    Args:
        heatmap: (H, W), not negative where it counts.
        mask: (H, W) bool.
        size: (h, w) of the labels.

    Returns:
        (h, w) uint8 of `BACKGROUND`, `DEFECT` and `IGNORED`.
    """
    labels = np.full(size, IGNORED, dtype=np.uint8)
    share = _resized(mask, size)
    highest = float(heatmap.max())
    if not mask.any() or not highest > 0:
        return labels
    near = isotropic_dilation(share >= 0.5, config.ignore_radius)
    labels[(_resized(heatmap, size) <= config.low * highest) & ~near] = BACKGROUND
    labels[share >= 0.5] = DEFECT
    return labels


def next_labels(
    probability: np.ndarray, before: np.ndarray, first: np.ndarray, config: LabelConfig
) -> np.ndarray:
    """Labels from what the student says inside the region that the first labels left open.

    What was background at first stays so: the student may draw the outline anew, and not go where
    the classifier saw nothing. An image in which it is nowhere sure of a defect keeps its labels.

    Args:
        probability: (h, w) of a defect.
        before, first: (h, w), labels of the round before and of the first one.

    Returns:
        (h, w) uint8.
    """
    labels = np.full(first.shape, IGNORED, dtype=np.uint8)
    labels[(probability < config.background) | (first == BACKGROUND)] = BACKGROUND
    labels[(probability >= config.defect) & (first != BACKGROUND)] = DEFECT
    return labels if (labels == DEFECT).any() else before


def draw_labels(image: np.ndarray, labels: np.ndarray, path: Path) -> None:
    """Write the image, and beside it with its labels: defect red, ignored yellow.

    Args:
        image: (h, w) or (h, w, 3) uint8.
        labels: (h, w).
    """
    plain = np.stack([image] * 3, axis=-1) if image.ndim == 2 else image
    drawn = plain.astype(np.float32)
    for value, colour in ((DEFECT, (255, 40, 40)), (IGNORED, (240, 220, 60))):
        drawn[labels == value] = 0.6 * drawn[labels == value] + 0.4 * np.array(colour)
    with atomic(path) as temporary:
        Image.fromarray(np.hstack([plain, drawn.astype(np.uint8)])).save(temporary)


def _resized(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) -> (h, w) float32: means over areas where that is smaller."""
    tensor = torch.from_numpy(values.astype(np.float32))[None]
    return tv.resize(tensor, list(size), antialias=True)[0].numpy()
