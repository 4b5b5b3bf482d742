"""Labels of pixels: defect, background, or ignored where map and mask are not confident.

A good image is background everywhere, as its image label says. Of a defective one the classifier's
map decides, and in later rounds the student itself; a mask that a person drew only if asked for.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage.morphology import isotropic_dilation

from ltcam_cli.data.dataset import Fit
from ltcam_cli.data.geometry import fitted
from ltcam_cli.files import atomic
from ltcam_cli.student.config import LabelConfig

BACKGROUND, DEFECT, IGNORED = 0, 1, 255


def first_labels(
    heatmap: np.ndarray,
    mask: np.ndarray,
    size: tuple[int, int],
    config: LabelConfig,
    fit: Fit = "stretch",
) -> np.ndarray:
    """Labels from the map of a defective image and a segmenter's mask of it.

    Defect where at least half of a pixel's area lies in the mask. Background where the map is at
    most `config.low` of its maximum and no defect pixel is nearer than `config.ignore_radius` (an
    ignored border lets the student draw everything too wide). All else is ignored. Everything is
    ignored where no pixel is defect: the mask is empty, or too thin for this size.

    Args:
        heatmap: Map (H, W); not negative where it counts.
        mask: Mask (H, W) bool.
        size: Height and width (h, w) of the labels.
        config: Rules of the first round.
        fit: How the image comes into that size; padding is as if the map was 0 there.

    Returns:
        Labels (h, w) uint8: `BACKGROUND`, `DEFECT` or `IGNORED`.
    """
    labels = np.full(size, IGNORED, dtype=np.uint8)
    share = _resized(mask, size, fit)
    highest = float(heatmap.max())
    defect = share >= 0.5
    if not defect.any() or not highest > 0:
        return labels
    near = isotropic_dilation(defect, config.ignore_radius)
    labels[(_resized(heatmap, size, fit) <= config.low * highest) & ~near] = BACKGROUND
    labels[defect] = DEFECT
    return labels


def true_labels(mask: np.ndarray, size: tuple[int, int], fit: Fit = "stretch") -> np.ndarray:
    """Labels (h, w) uint8 from a true mask (H, W) bool; ignored where it is too thin or empty."""
    return first_labels(mask.astype(np.float32), mask, size, LabelConfig(), fit)


def next_labels(
    probability: np.ndarray, previous: np.ndarray, first: np.ndarray, config: LabelConfig
) -> np.ndarray:
    """Labels from the student's predictions inside the region that is not background at first.

    What was background in the first round stays so: the student may draw the outline anew, but not
    go where the classifier saw nothing. An image without a confident defect keeps its labels.

    Args:
        probability: Probability (h, w) of a defect.
        previous: Labels (h, w) of the round before.
        first: Labels (h, w) of the first round.
        config: Rules of later rounds.

    Returns:
        Labels (h, w) uint8.
    """
    labels = np.full(first.shape, IGNORED, dtype=np.uint8)
    labels[(probability < config.background) | (first == BACKGROUND)] = BACKGROUND
    labels[(probability >= config.defect) & (first != BACKGROUND)] = DEFECT
    return labels if (labels == DEFECT).any() else previous


def draw_labels(image: np.ndarray, labels: np.ndarray, path: Path) -> None:
    """Write the image, and beside it with its labels: defect red, ignored yellow.

    Args:
        image: Image (h, w) or (h, w, 3) uint8.
        labels: Labels (h, w).
        path: Image file to write.
    """
    plain = np.stack([image] * 3, axis=-1) if image.ndim == 2 else image
    overlay = plain.astype(np.float32)
    for value, colour in ((DEFECT, (255, 40, 40)), (IGNORED, (240, 220, 60))):
        overlay[labels == value] = 0.6 * overlay[labels == value] + 0.4 * np.array(colour)
    with atomic(path) as temporary:
        Image.fromarray(np.hstack([plain, overlay.astype(np.uint8)])).save(temporary)


def _resized(values: np.ndarray, size: tuple[int, int], fit: Fit) -> np.ndarray:
    """Values (H, W) at size (h, w), float32: means over areas where that is smaller."""
    tensor = torch.from_numpy(values.astype(np.float32))[None]
    return fitted(tensor, size, fit, fill=0)[0].numpy()
