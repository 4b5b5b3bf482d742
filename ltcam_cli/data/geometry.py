"""Where an image lies in an input of another aspect, and windows in an image."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from ltcam_cli.data.dataset import Fit
from ltcam_cli.errors import LtcamError

Size = tuple[int, int]


class Box(NamedTuple):
    """Rows and columns of an input that an image fills."""

    rows: slice
    columns: slice


def box_of(image: Size, canvas: Size, fit: Fit) -> Box:
    """Where an image of (H, W) pixels lies in an input of (h, w).

    Stretched it fills all. Padded (a letterbox) it keeps its aspect, fills one side and lies in the
    middle of the other.
    """
    if fit == "stretch":
        return Box(slice(0, canvas[0]), slice(0, canvas[1]))
    scale = min(to / of for to, of in zip(canvas, image, strict=True))
    spans = []
    for to, of in zip(canvas, image, strict=True):
        side = min(to, max(1, round(of * scale)))
        spans.append(slice((to - side) // 2, (to - side) // 2 + side))
    return Box(*spans)


def fitted(images: Tensor, canvas: Size, fit: Fit, fill: float | None = None) -> Tensor:
    """Images (..., C, H, W) in an input: (..., C, h, w), bilinear, averaging where it gets smaller.

    Args:
        images: Images or masks, uint8 or floating.
        canvas: Height and width (h, w).
        fit: See `Dataset`.
        fill: Value of the padding; None: each image's mean, by channel. It has no edge of its own
            but the image's border, and no texture that a network could take for a defect.
    """
    rows, columns = box_of((images.shape[-2], images.shape[-1]), canvas, fit)
    side = [rows.stop - rows.start, columns.stop - columns.start]
    inner = tv.resize(images, side, antialias=True)
    if tuple(side) == canvas:
        return inner
    if fill is None:
        mean = inner.mean(dim=(-2, -1), keepdim=True, dtype=torch.float64)
        value = (mean if inner.is_floating_point() else mean.round()).to(inner.dtype)
    else:
        value = inner.new_tensor(fill)
    outer = value.expand(*inner.shape[:-2], *canvas).clone()
    outer[..., rows, columns] = inner
    return outer


def cropped(maps: Tensor, image: Size, fit: Fit) -> Tensor:
    """The part of an input's maps (..., h, w) that an image of (H, W) pixels fills."""
    rows, columns = box_of(image, (maps.shape[-2], maps.shape[-1]), fit)
    return maps[..., rows, columns]


def check_aspect(key: str, size: Size, tile: Size, fit: Fit) -> None:
    """Refuse a second input of another aspect than the network's, which would squeeze a padded one.

    Raises:
        LtcamError: Naming the key that sets the size.
    """
    if fit == "pad" and size[0] * tile[1] != size[1] * tile[0]:
        raise LtcamError(
            f"{key}: {size[0]} x {size[1]} has another aspect than the network's input, "
            f"{tile[0]} x {tile[1]}; dataset.fit=pad needs the same"
        )


def starts(length: int, window: int, overlap: float) -> list[int]:
    """Where windows begin along an axis; the first at 0, the last ends at `length`.

    As few, evenly spaced, as overlap by so large a share of a window at least.
    """
    step = max(1, int(window * (1 - overlap)))
    count = -(-(length - window) // step) + 1
    return [round(n * (length - window) / max(1, count - 1)) for n in range(count)]
