"""Truncation of positive gradients at a percentile (eq. 9 of the paper)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor


def thresholds(g: Tensor, deltas: Sequence[float], scope: str = "channel") -> list[Tensor]:
    """For each δ the smallest gradient that is kept.

    Per image and scope let x_(0) <= … <= x_(n-1) be the strictly positive entries of g and
    k = ⌈(n-1)·δ/100⌉, in exact arithmetic: the threshold is x_(k), and infinite where n = 0. That
    is "at least the δ-th percentile of the positive values" without the percentile's rounding.

    Args:
        g: (N, K, h, w) finite.
        deltas: percentiles in [0, 100].
        scope: `channel` ("each feature map") or `layer`.

    Returns:
        For each δ a tensor (N, K, 1, 1), or (N, 1, 1, 1) where the scope is the layer.
    """
    values = g.flatten(2) if scope == "channel" else g.flatten(1)[:, None]
    shares = [exact(delta) for delta in deltas]
    return list(_at_ranks(values, shares)[..., None, None])


def exact(delta: float) -> Fraction:
    """δ/100 as the decimal number that was written, to seven places; so ranks have no rounding."""
    return Fraction(str(delta)).limit_denominator(10**7) / 100


def _rank(n: Any, share: Fraction) -> Any:
    """⌈(n-1)·share⌉ of a number, or of each of a tensor's."""
    return ((n - 1) * share.numerator + share.denominator - 1) // share.denominator


def keep(g: Tensor, threshold: Tensor) -> Tensor:
    """T(g >= threshold) ⊗ g: what is below is 0."""
    return torch.where(g >= threshold, g, 0)


def truncate(g: Tensor, delta: float, scope: str = "channel") -> Tensor:
    """g (N, K, h, w) without what is below the δ-th percentile of its positive values."""
    return keep(g, thresholds(g, [delta], scope)[0])


@dataclass(frozen=True)
class PositiveEntries:
    """The strictly positive entries of rows of numbers, row after row.

    Before a max pooling one entry in eight is positive, behind a ReLU half of them.

    Attributes:
        values: (X,) them.
        index: (X,) where each is in the flattened rows.
        counts: (R,) how many each row has.
    """

    values: np.ndarray
    index: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, rows: Tensor) -> PositiveEntries:
        """Those of rows (R, P) in the host's memory."""
        flat = rows.contiguous().numpy().ravel()
        index = np.flatnonzero(flat > 0)
        bounds = np.searchsorted(index, np.arange(len(rows) + 1) * rows.shape[1])
        return cls(flat.take(index), index, np.diff(bounds))

    def as_one_row(self) -> PositiveEntries:
        """The same entries, of a single row."""
        return replace(self, counts=self.counts.sum(keepdims=True))

    def at_ranks(self, shares: Sequence[Fraction]) -> np.ndarray:
        """For each share the entry x_(k) of each row (D, R), see `thresholds`.

        One rank is selected, which takes a fifth of the time of sorting a million.
        """
        n, x = self.counts, self.values.copy()
        ends, full = n.cumsum(), n > 0
        ranks = np.stack([_rank(n, share) for share in shares])
        for start, end, k in zip((ends - n)[full], ends[full], ranks[0, full], strict=True):
            if len(shares) > 1:
                x[start:end].sort()
            else:
                x[start:end].partition(k)
        x_k = np.full(ranks.shape, np.inf, x.dtype)
        x_k[:, full] = x[(ends - n + ranks)[:, full]]
        return x_k


def _at_ranks(values: Tensor, shares: Sequence[Fraction]) -> Tensor:
    """For each share x_(k) of each row of (N, R, P): (D, N, R)."""
    on_host = values.device.type == "cpu" and type(values) is Tensor  # and not only recorded
    return _at_ranks_on_host(values, shares) if on_host else _at_ranks_on_device(values, shares)


def _at_ranks_on_host(values: Tensor, shares: Sequence[Fraction]) -> Tensor:
    x_k = PositiveEntries.of(values.flatten(0, 1)).at_ranks(shares)
    return torch.from_numpy(x_k).view(len(shares), *values.shape[:2])


def _at_ranks_on_device(values: Tensor, shares: Sequence[Fraction]) -> Tensor:
    """Sorts all, since a count of the positive ones would have the host wait for the device."""
    n = (values > 0).sum(dim=-1, keepdim=True)
    x = values.sort(dim=-1).values
    ranks = [torch.where(n > 0, values.shape[-1] - n + _rank(n, share), 0) for share in shares]
    return torch.stack([x.gather(-1, k).masked_fill(n == 0, torch.inf)[..., 0] for k in ranks])
