"""Truncation of positive gradients at a percentile (eq. 9 of the paper)."""

from __future__ import annotations

from collections.abc import Sequence
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
    x, first, n = _ranked(values, shares)
    result = []
    for share in shares:
        x_k = x[torch.where(n > 0, first + _rank(n, share), 0)]
        result.append(x_k.masked_fill(n == 0, torch.inf)[..., None, None])
    return result


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


Ranked = tuple[Tensor, Tensor, Tensor]


def _ranked(values: Tensor, shares: Sequence[Fraction]) -> Ranked:
    """The positive entries of each row of (N, R, P), sorted, or those of `shares` in place.

    Returns:
        (X,) them, row after row, and others perhaps; where each row's begin (N, R); and how many
        each row has (N, R).
    """
    on_host = values.device.type == "cpu" and type(values) is Tensor  # and not only recorded
    return _ranked_on_host(values, shares) if on_host else _ranked_on_device(values)


def _ranked_on_host(values: Tensor, shares: Sequence[Fraction]) -> Ranked:
    """Sorts the positive entries alone: before a max pooling one in eight, behind a ReLU half.

    One rank is selected, which takes a fifth of the time of sorting a million.
    """
    rows = values.contiguous().numpy()
    positive = rows > 0
    n = np.count_nonzero(positive, axis=-1)
    ends = n.cumsum().reshape(n.shape)
    x = np.compress(positive.ravel(), rows.ravel())
    for start, end in zip((ends - n).flat, ends.flat, strict=True):
        if len(shares) > 1:
            x[start:end].sort()
        elif end > start:
            x[start:end].partition(_rank(int(end - start), shares[0]))
    x = np.append(x, x.dtype.type(0))  # never empty
    return torch.from_numpy(x), torch.from_numpy(ends - n), torch.from_numpy(n)


def _ranked_on_device(values: Tensor) -> Ranked:
    """Sorts all, since a count of the positive ones would have the host wait for the device."""
    n = (values > 0).sum(dim=-1)
    ends = torch.arange(1, n.numel() + 1, device=n.device).view(n.shape) * values.shape[-1]
    return values.sort(dim=-1).values.flatten(), ends - n, n
