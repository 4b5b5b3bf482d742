"""How many pixels a mask gets right and wrong, as integers, and the scores that follow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class PixelCounts:
    """Pixels of one image, or summed (pooled) over many. `PixelCounts()` is the empty sum.

    Scores are fractions in [0, 1]; 0/0 is NaN.

    Attributes:
        tp: Defect pixels in the mask.
        fp: Background pixels in the mask.
        fn: Defect pixels outside the mask.
        tn: Background pixels outside the mask.
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0

    @classmethod
    def from_masks(cls, mask: np.ndarray, truth: np.ndarray) -> PixelCounts:
        """Count a mask (H, W) bool against the truth (H, W) bool.

        Raises:
            ValueError: if the shapes differ.
        """
        mask, truth = same_shape(mask, truth)
        tp = int(np.count_nonzero(mask & truth))
        marked, defect = int(np.count_nonzero(mask)), int(np.count_nonzero(truth))
        return cls(tp, marked - tp, defect - tp, mask.size - marked - defect + tp)

    def __add__(self, other: PixelCounts) -> PixelCounts:
        return PixelCounts(
            self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.tn + other.tn
        )

    @property
    def iou(self) -> float:
        """Intersection over union of mask and truth (Jaccard)."""
        return _ratio(self.tp, self.tp + self.fp + self.fn)

    @property
    def precision(self) -> float:
        """Share of the mask that is defect."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """Share of the defect that is in the mask."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall (micro-F1, Dice)."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def percent(self) -> dict[str, float]:
        """All four scores, in per cent."""
        return {name: 100 * getattr(self, name) for name in ("iou", "precision", "recall", "f1")}


def pooled(counts: Iterable[PixelCounts]) -> PixelCounts:
    """The sum over images; of none, all zeros."""
    return sum(counts, PixelCounts())


def counts_of(table: pd.DataFrame) -> list[PixelCounts]:
    """Counts of the rows of a table, which has their columns."""
    return [PixelCounts(*map(int, row)) for row in table[["tp", "fp", "fn", "tn"]].to_numpy()]


def same_shape(mask: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as bool arrays.

    Raises:
        ValueError: if the shapes differ.
    """
    mask, truth = np.asarray(mask, dtype=bool), np.asarray(truth, dtype=bool)
    if mask.shape != truth.shape:
        raise ValueError(f"mask {mask.shape} and truth {truth.shape} differ in shape")
    return mask, truth


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")
