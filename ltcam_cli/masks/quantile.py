"""A quantile of all pixels of many images, in one pass and constant memory."""

from __future__ import annotations

import numpy as np

KEPT = 20  # bits of a float32: sign, exponent and 11 of the mantissa's


class Quantiles:
    """Counts float32 values in bins that are 2^-11 wide, relative to the value.

    A float's bits, read as an integer, rise with it, so the uppermost ones number the bins; no
    range must be given beforehand.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(1 << KEPT, dtype=np.int64)

    def add(self, values: np.ndarray) -> None:
        """Count finite values of any shape."""
        bits = np.ascontiguousarray(values, dtype=np.float32).ravel().view(np.uint32)
        rising = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
        self.counts += np.bincount(rising >> (32 - KEPT), minlength=1 << KEPT)

    def quantile(self, share: float) -> float:
        """A value above which at most 1 - share of all lie, and less than 0.05 % too high."""
        below = np.cumsum(self.counts)
        number = int(np.searchsorted(below, share * below[-1]))
        rising = np.uint32(((number + 1) << (32 - KEPT)) - 1)  # the bin's highest value
        bits = rising & np.uint32(0x7FFFFFFF) if rising >> 31 else ~rising
        return float(np.array(bits, dtype=np.uint32).view(np.float32))
