"""Test-time options: heatmap sources that wrap another and average its maps of changed images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ltcam_cli.errors import LtcamError, nearest
from ltcam_cli.maps.engine import FULL, Heatmaps, HeatmapSource, Size, wanted_size
from ltcam_cli.maps.weightings import min_max

# Of an image (N, C, H, W) or a map (N, H, W): which axes are mirrored in which pass.
FLIPS: dict[str, tuple[tuple[int, ...], ...]] = {
    "none": ((),),
    "horizontal": ((), (-1,)),
    "vertical": ((), (-2,)),
    "both": ((), (-1,), (-2,), (-2, -1)),
}
NORMALIZATIONS = ("none", "minmax")
MULTIPLE = 32  # to which scaled inputs are rounded: five halvings


@dataclass
class TtaConfig:
    """What is averaged when heatmaps are drawn (conf/tta/*.yaml).

    Attributes:
        flips: `none`, `horizontal`, `vertical` or `both`; maps are mirrored back.
        scales: factors of the input's size, rounded to multiples of 32; maps are resized back.
        normalize: what is done to each pass's map first: `none`, so that a pass in which the
            classifier sees more counts more, or `minmax`.
        size: of the image that is cut into tiles of the network's input: [height, width], or
            `full`, the image's own; None for no tiles.
        overlap: of neighbouring tiles at least, as a share of a tile, in [0, 1).
    """

    flips: str = "none"
    scales: list[float] = field(default_factory=lambda: [1.0])
    normalize: str = "none"
    size: Any = None
    overlap: float = 0.25

    def __post_init__(self) -> None:
        for key, known in {"flips": tuple(FLIPS), "normalize": NORMALIZATIONS}.items():
            if (value := getattr(self, key)) not in known:
                raise LtcamError(f"tta.{key}={value}: unknown{nearest(value, known)}")
        if not self.scales or not all(0 < scale <= 16 for scale in self.scales):
            raise LtcamError(f"tta.scales={self.scales}: factors in (0, 16], e.g. [0.75,1,1.25]")
        if not 0 <= self.overlap < 1:
            raise LtcamError(f"tta.overlap={self.overlap:g}: a share of a tile, in [0, 1)")
        pair = isinstance(self.size, (list, tuple)) and len(self.size) == 2
        if not (self.size in (None, FULL) or (pair and all(type(n) is int for n in self.size))):
            raise LtcamError(f"tta.size={self.size}: must be [height,width], full or null")

    @property
    def label(self) -> str | None:
        """What is done, for tables: `flips=both size=full overlap=0.25`; None if nothing is."""
        words = [f"flips={self.flips}"] if self.flips != "none" else []
        if self.scales != [1]:
            words.append(f"scales={','.join(f'{scale:g}' for scale in self.scales)}")
        if words and self.normalize != "none":
            words.append(f"normalize={self.normalize}")
        if self.size is not None:
            size = FULL if self.size == FULL else "x".join(map(str, self.size))
            words += [f"size={size}", f"overlap={self.overlap:g}"]
        return " ".join(words) or None


def averaged(source: HeatmapSource, config: TtaConfig, tile: tuple[int, int]) -> HeatmapSource:
    """A source with a config's test-time options around it; the source itself if there is none.

    Args:
        tile: (height, width) of the network's input.

    Raises:
        LtcamError: if `size` is smaller than that.
    """
    if config.size is not None:
        size: Size = FULL if config.size == FULL else (config.size[0], config.size[1])
        source = Tiled(source, tile, size, config.overlap)
    if config.flips == "none" and config.scales == [1]:
        return source
    return Averaged(source, config.flips, config.scales, config.normalize)


class Averaged:
    """The mean of a source's maps of mirrored and resized images.

    The logits are those of the image itself, or if it is in no pass, of the scale nearest to it:
    the classifier decides as it does without.
    """

    def __init__(
        self,
        source: HeatmapSource,
        flips: str = "none",
        scales: Sequence[float] = (1.0,),
        normalize: str = "none",
    ) -> None:
        """See `TtaConfig`; maps are resized back to the size of the source's own."""
        self.source, self.size, self.normalize = source, wanted_size(source), normalize
        nearest_first = sorted(dict.fromkeys(scales), key=lambda scale: abs(math.log(scale)))
        self.passes = [(scale, axes) for scale in nearest_first for axes in FLIPS[flips]]

    def __call__(self, images: Tensor) -> Heatmaps:
        """Heatmaps of normalised images (N, C, H, W), at their size."""
        size = (images.shape[-2], images.shape[-1])
        maps: list[Tensor] = []
        logits, finite = None, dict[str, Tensor]()
        for scale, axes in self.passes:
            scaled = resized(images, scaled_size(size, scale))
            found = self.source(scaled.flip(axes) if axes else scaled)
            back = [self._back(M, axes, size) for M in found.maps]
            maps = [M.add_(one) for M, one in zip(maps, back, strict=True)] if maps else back
            logits = found.logits if logits is None else logits
            finite = _both(finite, found.finite)
        assert logits is not None
        return Heatmaps([M.div_(len(self.passes)) for M in maps], logits, finite)

    def _back(self, M: Tensor, axes: tuple[int, ...], size: tuple[int, int]) -> Tensor:
        M = min_max(M, dim=(1, 2)) if self.normalize == "minmax" else M
        M = M.flip(axes) if axes else M
        return resized(M[:, None], size)[:, 0].clone()  # a cell may share its map with another


class Tiled:
    """A source's maps of overlapping tiles of a larger image, blended into one.

    Each tile is an image of its own to the source: what is normalised, is so within a tile. Where
    tiles overlap, the weight of each falls linearly to its border. The logits are those of the
    whole image at the network's size, which takes one more pass.
    """

    def __init__(
        self, source: HeatmapSource, tile: tuple[int, int], size: Size, overlap: float = 0.25
    ) -> None:
        """Tiles of (height, width) of images of a `size`.

        Raises:
            LtcamError: if `size` is smaller than a tile.
        """
        self.source, self.tile, self.size, self.overlap = source, tile, size, overlap
        if isinstance(size, tuple) and (size[0] < tile[0] or size[1] < tile[1]):
            raise LtcamError(
                f"tta.size=[{size[0]},{size[1]}]: is smaller than the network's input, "
                f"[{tile[0]},{tile[1]}]"
            )

    def __call__(self, images: Tensor) -> Heatmaps:
        """Heatmaps of normalised images (N, C, H, W), enlarged where they are less than a tile."""
        whole = self.source(resized(images, self.tile))
        height, width = (max(n, t) for n, t in zip(images.shape[-2:], self.tile, strict=True))
        images = resized(images, (height, width))
        weight = self._weight().to(images.device)
        maps = [images.new_zeros(len(images), height, width) for _ in whole.maps]
        total, finite = images.new_zeros(height, width), whole.finite
        for rows, columns in self.tiles(height, width):
            found = self.source(images[:, :, rows, columns])
            for M, one in zip(maps, found.maps, strict=True):
                M[:, rows, columns] += weight * resized(one[:, None], self.tile)[:, 0]
            total[rows, columns] += weight
            finite = _both(finite, found.finite)
        return Heatmaps([M.div_(total) for M in maps], whole.logits, finite)

    def tiles(self, height: int, width: int) -> Iterator[tuple[slice, slice]]:
        """Rows and columns of each tile: as few, evenly spaced, as overlap so much at least."""
        for top in starts(height, self.tile[0], self.overlap):
            for left in starts(width, self.tile[1], self.overlap):
                yield slice(top, top + self.tile[0]), slice(left, left + self.tile[1])

    def _weight(self) -> Tensor:
        """(h, w) in (0, 1]: 1 inside, falling linearly over the overlap to each border."""
        falls = []
        for length in self.tile:
            border = torch.arange(length) + 0.5
            border = torch.minimum(border, border.flip(0))
            falls.append((border / max(1.0, self.overlap * length)).clamp_max(1))
        return falls[0][:, None] * falls[1]


def starts(length: int, tile: int, overlap: float) -> list[int]:
    """Where tiles begin along an axis; the first at 0, the last ends at `length`."""
    step = max(1, int(tile * (1 - overlap)))
    count = -(-(length - tile) // step) + 1
    return [round(n * (length - tile) / max(1, count - 1)) for n in range(count)]


def scaled_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """(H, W) times `scale`, in multiples of 32, at least one; unchanged by a scale of 1."""
    if scale == 1:
        return size
    height, width = (max(1, round(n * scale / MULTIPLE)) * MULTIPLE for n in size)
    return height, width


def resized(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear (N, C, h, w) -> (N, C, *size), averaging where it gets smaller."""
    if values.shape[-2:] == size:
        return values
    return F.interpolate(values, size, mode="bilinear", align_corners=False, antialias=True)


def _both(finite: dict[str, Tensor], others: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: flag & finite.get(name, flag) for name, flag in others.items()}
