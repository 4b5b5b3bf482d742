"""Test-time augmentation: heatmap sources that average another's maps of changed images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ltcam_cli.data.dataset import Fit
from ltcam_cli.data.geometry import check_aspect, cropped, fitted, starts
from ltcam_cli.errors import LtcamError
from ltcam_cli.maps.engine import Heatmaps, HeatmapSource, wanted_size, without_logits
from ltcam_cli.maps.normalize import min_max
from ltcam_cli.maps.tta_config import Size, TtaConfig

# Mirrored axes of each pass, of an image (N, C, H, W) or a map (N, H, W).
FLIPS: dict[str, tuple[tuple[int, ...], ...]] = {
    "none": ((),),
    "horizontal": ((), (-1,)),
    "vertical": ((), (-2,)),
    "both": ((), (-1,), (-2,), (-2, -1)),
}
MULTIPLE = 32  # to which scaled inputs are rounded: five halvings


def with_tta(
    source: HeatmapSource, config: TtaConfig, tile: tuple[int, int], fit: Fit = "stretch"
) -> HeatmapSource:
    """A source with a config's test-time augmentation; the source itself if there is none.

    Args:
        source: Source of the maps.
        config: Test-time augmentation.
        tile: (height, width) of the network's input.
        fit: How images of another aspect come into it.

    Raises:
        LtcamError: If `size` is smaller than that, or padded and of another aspect.
    """
    if config.size is not None:
        source = TiledSource(source, tile, config.image_size, config.overlap, fit)
    if config.flips == "none" and config.scales == [1]:
        return source
    return AugmentedSource(source, config.flips, config.scales, config.normalize)


class AugmentedSource:
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
        sums: list[Tensor] = []
        logits, finite = None, dict[str, Tensor]()
        for scale, axes in self.passes:
            scaled = resized(images, scaled_size(size, scale))
            source = self.source if logits is None else without_logits(self.source)
            heatmaps = source(scaled.flip(axes) if axes else scaled)
            maps = [self._restored(M, axes, size) for M in heatmaps.maps]
            sums = [total.add_(M) for total, M in zip(sums, maps, strict=True)] if sums else maps
            logits = heatmaps.logits if logits is None else logits
            finite = _all_finite(finite, heatmaps.finite)
        assert logits is not None
        return Heatmaps([total.div_(len(self.passes)) for total in sums], logits, finite)

    def _restored(self, M: Tensor, axes: tuple[int, ...], size: tuple[int, int]) -> Tensor:
        """A pass's map (N, h, w), mirrored and resized back."""
        M = min_max(M, dim=(1, 2)) if self.normalize == "minmax" else M
        M = M.flip(axes) if axes else M
        return resized(M[:, None], size)[:, 0].clone()  # a cell may share its map with another


class TiledSource:
    """A source's maps of overlapping tiles of a larger image, blended into one.

    Each tile is an image of its own to the source: what is normalised, is so within a tile. Where
    tiles overlap, the weight of each falls linearly to its border. The logits are those of the
    whole image at the network's size, which takes one more pass.
    """

    def __init__(
        self,
        source: HeatmapSource,
        tile: tuple[int, int],
        size: Size,
        overlap: float = 0.25,
        fit: Fit = "stretch",
    ) -> None:
        """Tiles of (height, width) of images of a `size`.

        Raises:
            LtcamError: If `size` is smaller than a tile, or padded and of another aspect.
        """
        self.source, self.tile, self.size, self.overlap = source, tile, size, overlap
        self.fit: Fit = fit
        if isinstance(size, tuple):
            key = f"tta.size=[{size[0]},{size[1]}]"
            check_aspect(key, size, tile, fit)
            if size[0] < tile[0] or size[1] < tile[1]:
                raise LtcamError(
                    f"{key}: is smaller than the network's input, [{tile[0]},{tile[1]}]"
                )

    def __call__(self, images: Tensor) -> Heatmaps:
        """Heatmaps of normalised images (N, C, H, W), enlarged where they are less than a tile."""
        own = (images.shape[-2], images.shape[-1])
        whole = self.source(fitted(images, self.tile, self.fit))
        height, width = (max(n, t) for n, t in zip(own, self.tile, strict=True))
        images = fitted(images, (height, width), self.fit)
        weight = self._weight().to(images.device)
        maps = [images.new_zeros(len(images), height, width) for _ in whole.maps]
        total, finite = images.new_zeros(height, width), whole.finite
        for rows, columns in self.tiles(height, width):
            heatmaps = without_logits(self.source)(images[:, :, rows, columns])
            for M, tile_map in zip(maps, heatmaps.maps, strict=True):
                M[:, rows, columns] += weight * resized(tile_map[:, None], self.tile)[:, 0]
            total[rows, columns] += weight
            finite = _all_finite(finite, heatmaps.finite)
        maps = [cropped(M.div_(total), own, self.fit) for M in maps]
        if self.fit == "pad":
            maps = [resized(M[:, None], own)[:, 0] for M in maps]
        return Heatmaps(maps, whole.logits, finite)

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


def _all_finite(finite: dict[str, Tensor], others: dict[str, Tensor]) -> dict[str, Tensor]:
    """By layer, whether the gradients of both are finite."""
    return {name: flag & finite.get(name, flag) for name, flag in others.items()}
