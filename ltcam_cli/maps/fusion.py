"""Layers' maps -> one heatmap at input size (eq. 8 of the paper)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import reduce
from math import ceil

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ltcam_cli.data.dataset import Fit
from ltcam_cli.data.geometry import cropped
from ltcam_cli.maps.normalize import min_max, ratio
from ltcam_cli.maps.spec import Fusion

Upscale = Callable[[Tensor, tuple[int, int]], Tensor]


def upscale(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """ψ: bilinear, half-pixel centres: (N, h, w) -> (N, *size)."""
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def at_size(heatmaps: Tensor, size: tuple[int, int], fit: Fit = "stretch") -> np.ndarray:
    """Bilinear (N, h, w) -> (N, *size), float32 on the host; without padding by `fit`."""
    return upscale(cropped(heatmaps.float(), size, fit), size).cpu().numpy()


def fuse(
    maps: Sequence[Tensor],
    size: tuple[int, int],
    fusion: Fusion,
    layers: Sequence[int | None] | None = None,
    psi: Upscale = upscale,
) -> Tensor:
    """M = Σ_l ψ(M_l), or another rule.

    Args:
        maps: Map of each layer (N, h_l, w_l).
        size: (H, W) of the result.
        fusion: Rule, normalisation and weights, which are a number a layer here.
        layers: Number of each map's layer; None for a map of none, whose weight is 1. Without it,
            the maps are of the layers in their order.
        psi: `upscale`, or a cache of it where maps are fused in several ways.

    Returns:
        (N, H, W).
    """
    layers = range(len(maps)) if layers is None else layers
    M = _by_rule(maps, lambda M: psi(M, size), fusion, layers)
    if fusion.activation == "none":
        return M
    return torch.tanh(fusion.gamma * ratio(M, M.amax(dim=(1, 2))))


def _by_rule(
    maps: Sequence[Tensor],
    psi: Callable[[Tensor], Tensor],
    fusion: Fusion,
    layers: Sequence[int | None],
) -> Tensor:
    """The fused map (N, H, W) before its activation."""
    maps = [normalized(M, fusion, layer) for M, layer in zip(maps, layers, strict=True)]
    w = fusion.weights
    weights = [1.0 if w is None or layer is None else w[layer] for layer in layers]
    total = sum(weights) or 1.0
    if fusion.rule == "product":
        shares = [weight / total for weight in weights]
        large = (psi(M).clamp_min(0) for M in maps)
        return reduce(torch.mul, (M**share for M, share in zip(large, shares, strict=True)))
    maps = [M if weight == 1 else weight * M for M, weight in zip(maps, weights, strict=True)]
    if fusion.rule == "max":
        first, *others = (psi(M) for M in maps)
        return reduce(torch.maximum, others, first.clone())
    return _sum(maps, psi) / (total if fusion.rule == "mean" else 1)


def normalized(M: Tensor, fusion: Fusion, layer: int | None = 0) -> Tensor:
    """A layer's map (N, h, w) on a scale that other layers have, too; 0 stays where all is 0.

    - `minmax`: (M - min) / (max - min), 0 where M is constant;
    - `quantile`: M / x clipped to [0, 1], a scale that outliers do not stretch; x is the quantile
      x_(k), k = ⌈(n-1)·q⌉ in exact arithmetic, and the maximum where that is not positive;
    - `unit-energy`: M / √(mean of M²);
    - `tanh`: tanh(γ M / max M), which lifts what is weak (Jiang et al. 2021, who so scale the maps
      of the shallow stages, γ = 2), of the first `tanh_layers` layers; M / max M of the others.

    Args:
        M: Map before it is up-scaled.
        fusion: Normalisation and its options.
        layer: Number of its layer; None for none.
    """
    if fusion.normalize == "none":
        return M
    if fusion.normalize == "minmax":
        return min_max(M, dim=(1, 2))
    if fusion.normalize == "quantile":
        flat = M.flatten(1)
        k = ceil((flat.shape[1] - 1) * Fraction(str(fusion.quantile)))
        x = flat.kthvalue(k + 1, dim=1).values
        return ratio(M, torch.where(x > 0, x, flat.amax(dim=1))).clamp_(0, 1)
    if fusion.normalize == "unit-energy":
        M = ratio(M, M.abs().amax(dim=(1, 2)))  # whose squares do not underflow
        return ratio(M, M.square().mean(dim=(1, 2)).sqrt())
    M = ratio(M, M.amax(dim=(1, 2)))
    shallow = layer is not None and (fusion.tanh_layers is None or layer < fusion.tanh_layers)
    return torch.tanh(fusion.gamma * M) if shallow else M


def _sum(maps: Sequence[Tensor], psi: Callable[[Tensor], Tensor]) -> Tensor:
    """Σ_l ψ(M_l); ψ is linear, so maps of one size are added before they are up-scaled."""
    by_size: dict[torch.Size, Tensor] = {}
    for M in maps:
        by_size[M.shape] = by_size[M.shape] + M if M.shape in by_size else M
    first, *rest = (psi(M) for M in by_size.values())
    return sum(rest, start=first)
