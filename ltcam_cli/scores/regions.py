"""Connected regions: which defects a mask touches, and what it marks besides."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

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


@dataclass(frozen=True)
class Truth:
    """A true mask (H, W) bool, with its pixels and regions, computed once for all masks."""

    mask: np.ndarray

    @cached_property
    def pixels(self) -> np.ndarray:
        """(P,) where the defect pixels are, in the flattened mask."""
        return np.flatnonzero(self.mask)

    @cached_property
    def regions(self) -> tuple[np.ndarray, int]:
        """(P,) int in 1..n, the 8-connected region of each defect pixel; and n."""
        labels, total = labelled_regions(self.mask)
        return labels.ravel()[self.pixels], total


def as_truth(mask: np.ndarray | Truth) -> Truth:
    """The truth of a mask (H, W) bool; a truth is returned as it is."""
    return mask if isinstance(mask, Truth) else Truth(np.asarray(mask, dtype=bool))


def touched_regions(mask: np.ndarray, truth: np.ndarray | Truth) -> tuple[int, int, int]:
    """Count the defects found and the false alarms of a mask; both (H, W) bool.

    Returns:
        touched: regions of the truth that share at least one pixel with the mask.
        total: regions of the truth.
        false_regions: regions of the mask that share no pixel with the truth.

    Raises:
        ValueError: if the shapes differ.
    """
    truth = as_truth(truth)
    mask, _ = same_shape(mask, truth.mask)
    region, total = truth.regions
    marked, n_marked = labelled_regions(mask)
    at_defects = marked.ravel()[truth.pixels]
    touching = at_defects > 0
    false_regions = n_marked - np.unique(at_defects[touching]).size
    return np.unique(region[touching]).size, total, false_regions
