"""Synthetic defects on good images, of which every pixel is known.

A shape (spot, scratch or ragged region) is filled with what does not belong there: another
brightness, another image's texture, or the image's own from elsewhere. In the spirit of CutPaste
(Li et al. 2021) and DRAEM (Zavrtanik et al. 2021).
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from skimage.draw import disk, line
from skimage.morphology import isotropic_dilation
from torch import Tensor

Random = np.random.Generator


def with_defect(image: Tensor, other: Tensor, rng: Random) -> tuple[Tensor, np.ndarray]:
    """An image with a synthetic defect, and where that is.

    Args:
        image: Good image (C, h, w) in [0, 1].
        other: Image of the same size whose texture may be taken.
        rng: Source of all that is random.

    Returns:
        The image (C, h, w) in [0, 1], and the defect (h, w) bool, never empty.
    """
    height, width = image.shape[-2:]
    shape = SHAPES[rng.integers(len(SHAPES))](height, width, rng)
    edge = gaussian_filter(shape.astype(np.float32), rng.uniform(0.3, 2.0))
    alpha = torch.from_numpy(np.maximum(edge, 0.8 * shape) * rng.uniform(0.35, 1.0)).float()
    filled = FILLINGS[rng.integers(len(FILLINGS))](image, other, rng)
    return torch.lerp(image, filled.clamp(0, 1), alpha), shape


def spot(height: int, width: int, rng: Random) -> np.ndarray:
    """Ellipse (h, w) bool of some pixels to a tenth of the image."""
    shape = np.zeros((height, width), dtype=bool)
    radius = np.exp(rng.uniform(np.log(2), np.log(max(3, min(height, width) / 10))))
    shape[disk((rng.integers(height), rng.integers(width)), radius + 0.5, shape=shape.shape)] = True
    return shape


def scratch(height: int, width: int, rng: Random) -> np.ndarray:
    """Crooked line (h, w) bool, one to nine pixels wide."""
    shape = np.zeros((height, width), dtype=bool)
    at = np.array([rng.uniform(0, height), rng.uniform(0, width)])
    angle = rng.uniform(0, 2 * np.pi)
    step = rng.uniform(0.02, 0.1) * max(height, width)
    for _ in range(rng.integers(2, 9)):
        angle += rng.normal(0, 0.5)
        to = at + step * np.array([np.sin(angle), np.cos(angle)])
        rows, columns = line(*np.round([*at, *to]).astype(int))
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        shape[rows[inside], columns[inside]] = True
        at = to
    if not shape.any():
        return spot(height, width, rng)
    return np.asarray(isotropic_dilation(shape, rng.integers(0, 5)))


def region(height: int, width: int, rng: Random) -> np.ndarray:
    """Ragged region (h, w) bool of up to a third of the image."""
    scale = np.exp(rng.uniform(np.log(1 / 32), np.log(1 / 5))) * min(height, width)
    field = gaussian_filter(rng.standard_normal((height, width)), scale)
    field /= field.std() + 1e-12
    rows = (np.arange(height) - rng.uniform(0, height))[:, None] / (rng.uniform(0.1, 0.6) * height)
    columns = (np.arange(width) - rng.uniform(0, width))[None] / (rng.uniform(0.1, 0.6) * width)
    field -= rng.uniform(1, 3) * (rows**2 + columns**2)  # in one place
    return np.asarray(
        field >= np.quantile(field, 1 - np.exp(rng.uniform(np.log(0.01), np.log(0.35))))
    )


def brightness(image: Tensor, other: Tensor, rng: Random) -> Tensor:
    """Darker or brighter, by 0.08 to 0.5, with the image's texture as strong, weaker or gone."""
    shift = rng.choice([-1, 1]) * rng.uniform(0.08, 0.5)
    mean = image.mean(dim=(-2, -1), keepdim=True)
    return mean + rng.choice([0.0, 0.5, 1.0]) * (image - mean) + shift


def foreign(image: Tensor, other: Tensor, rng: Random) -> Tensor:
    """The other image's texture, as bright as this image on the whole or as it is."""
    return other + (image.mean() - other.mean() if rng.random() < 0.5 else 0)


def own(image: Tensor, other: Tensor, rng: Random) -> Tensor:
    """The image's own texture from elsewhere: mirrored, moved, of another contrast."""
    moved = image.flip(int(rng.choice([-1, -2])))
    shifts = [int(rng.integers(1, side)) for side in image.shape[-2:]]
    moved = torch.roll(moved, shifts, dims=(-2, -1))
    mean = moved.mean(dim=(-2, -1), keepdim=True)
    return mean + (moved - mean) * float(rng.uniform(-1, 3))


def grain(image: Tensor, other: Tensor, rng: Random) -> Tensor:
    """The image with noise of a random grain."""
    noise = gaussian_filter(rng.standard_normal(image.shape[-2:]), rng.uniform(0.3, 4.0))
    noise *= rng.uniform(0.05, 0.25) / (noise.std() + 1e-12)
    return image + torch.from_numpy(noise.astype(np.float32))


SHAPES = (spot, scratch, region, region)
FILLINGS = (brightness, brightness, foreign, own, grain)
