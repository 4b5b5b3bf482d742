"""Heatmaps at the size of their images; the one module of this station that needs torch."""

from __future__ import annotations

import numpy as np
import torch

from ltcam_cli.data.dataset import Fit
from ltcam_cli.data.geometry import cropped
from ltcam_cli.maps.fusion import upscale


def at_size(heatmaps: torch.Tensor, size: tuple[int, int], fit: Fit = "stretch") -> np.ndarray:
    """Bilinear (N, h, w) -> (N, *size), float32 on the host; without padding by `fit`."""
    return upscale(cropped(heatmaps.float(), size, fit), size).cpu().numpy()
