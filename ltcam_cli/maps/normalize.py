"""Maps on a common scale. Imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def min_max(values: Tensor, dim: tuple[int, ...]) -> Tensor:
    """(x - min) / (max - min) over `dim`; 0 where all values are equal."""
    low, high = values.amin(dim=dim, keepdim=True), values.amax(dim=dim, keepdim=True)
    return (values - low).div_((high - low).where(high > low, 1))


def ratio(M: Tensor, scale: Tensor) -> Tensor:
    """M (N, h, w) / scale (N,); 0 where the scale is not positive."""
    scale = scale[:, None, None]
    return (M / scale.where(scale > 0, 1)).where(scale > 0, 0)
