"""Heatmaps at the size of their images; the one module of this station that needs torch."""

from __future__ import annotations

import numpy as np
import torch

from ltcam_cli.maps.fusion import upscale


def at_size(heatmaps: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """Bilinear (N, h, w) -> (N, *size), float32 on the host."""
    return upscale(heatmaps.float(), size).cpu().numpy()
