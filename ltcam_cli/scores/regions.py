"""Connected regions: which defects a mask touches, and what it marks besides."""

from __future__ import annotations

import numpy as np
from skimage.measure import label

from ltcam_cli.scores.pixels import same_shape


def labelled_regions(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Number the 8-connected regions of a mask (H, W) bool.

    Returns:
        (H, W) int, 0 outside and 1..n in the regions; and n.
    """
    labels, total = label(mask, connectivity=2, return_num=True)
    return labels, int(total)


def touched_regions(mask: np.ndarray, truth: np.ndarray) -> tuple[int, int, int]:
    """Count the defects found and the false alarms of a mask; both (H, W) bool.

    Returns:
        touched: regions of the truth that share at least one pixel with the mask.
        total: regions of the truth.
        false_regions: regions of the mask that share no pixel with the truth.

    Raises:
        ValueError: if the shapes differ.
    """
    mask, truth = same_shape(mask, truth)
    both = mask & truth
    defects, total = labelled_regions(truth)
    found, n_found = labelled_regions(mask)
    return np.unique(defects[both]).size, total, n_found - np.unique(found[both]).size
