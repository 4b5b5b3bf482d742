"""Layers' maps -> one heatmap at input size (eq. 8 of the paper)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ltcam_cli.maps.spec import Fusion
from ltcam_cli.maps.weightings import min_max


def upscale(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """ψ: bilinear, half-pixel centres: (N, h, w) -> (N, *size)."""
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def fuse(maps: Sequence[Tensor], size: tuple[int, int], fusion: Fusion) -> Tensor:
    """M = Σ_l ψ(M_l), or another rule.

    Args:
        maps: of each layer (N, h_l, w_l).
        size: (H, W) of the result.
        fusion: rule and normalisation.

    Returns:
        (N, H, W).
    """
    if fusion.normalize == "minmax":
        maps = [min_max(M, dim=(1, 2)) for M in maps]
    if fusion.rule in {"sum", "mean"}:
        return _sum(maps, size) / (len(maps) if fusion.rule == "mean" else 1)
    stack = torch.stack([upscale(M, size) for M in maps])
    if fusion.rule == "max":
        return stack.amax(dim=0)
    return stack.clamp_min(0).pow(1 / len(maps)).prod(dim=0)


def _sum(maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Σ_l ψ(M_l); ψ is linear, so maps of one size are added before they are up-scaled."""
    by_size: dict[torch.Size, Tensor] = {}
    for M in maps:
        by_size[M.shape] = by_size[M.shape] + M if M.shape in by_size else M
    first, *rest = (upscale(M, size) for M in by_size.values())
    return sum(rest, start=first)
