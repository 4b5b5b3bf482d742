"""Truncation of positive gradients at a percentile (eq. 9 of the paper)."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

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
    ascending = _sort(values)  # (N, K or 1, P); the positive entries come last
    size = ascending.shape[-1]
    n = (ascending > 0).sum(dim=-1, keepdim=True)
    result = []
    for delta in deltas:
        share = exact(delta)
        k = ((n - 1) * share.numerator + share.denominator - 1) // share.denominator
        x_k = ascending.gather(-1, (size - n + k).clamp(0, size - 1))
        result.append(x_k.masked_fill(n == 0, torch.inf)[..., None])
    return result


def exact(delta: float) -> Fraction:
    """δ/100 as the decimal number that was written, to seven places; so ranks have no rounding."""
    return Fraction(str(delta)).limit_denominator(10**7) / 100


def keep(g: Tensor, threshold: Tensor) -> Tensor:
    """T(g >= threshold) ⊗ g: what is below is 0."""
    return torch.where(g >= threshold, g, 0)


def truncate(g: Tensor, delta: float, scope: str = "channel") -> Tensor:
    """g (N, K, h, w) without what is below the δ-th percentile of its positive values."""
    return keep(g, thresholds(g, [delta], scope)[0])


def _sort(values: Tensor) -> Tensor:
    if values.device.type == "cpu":  # numpy's vectorised sort needs no indices and is faster
        return torch.from_numpy(np.sort(values.contiguous().numpy(), axis=-1))
    return values.sort(dim=-1).values
