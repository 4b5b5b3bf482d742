"""Several heatmap sources as one."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ltcam_cli.maps.engine import Heatmaps, HeatmapSource, wanted_size
from ltcam_cli.maps.normalize import min_max, ratio
from ltcam_cli.maps.tta import resized
from ltcam_cli.maps.tta_config import FULL, Size


class CombinedSource:
    """The maps of several sources in one order, with the logits of the first source.

    Attributes:
        size: Size of the images: the greatest that a source takes; the others see them resized.
    """

    def __init__(
        self, parts: Sequence[tuple[HeatmapSource, Sequence[int]]], size: tuple[int, int]
    ) -> None:
        """Combine sources, each with the numbers that its maps get.

        Args:
            parts: Sources and numbers.
            size: (height, width) of the network's input.
        """
        self.parts = [(source, numbers, wanted_size(source) or size) for source, numbers in parts]
        sizes: list[tuple[int, int]] = [
            chosen for _, _, chosen in self.parts if isinstance(chosen, tuple)
        ]
        full = len(sizes) < len(self.parts)
        largest = max(sizes, key=lambda pair: pair[0] * pair[1], default=size)
        self.size: Size = FULL if full else largest

    def __call__(self, images: Tensor) -> Heatmaps:
        """Heatmaps of normalised images (N, C, H, W) of the combined size."""
        maps: dict[int, Tensor] = {}
        logits, finite = None, dict[str, Tensor]()
        for source, numbers, size in self.parts:
            heatmaps = source(resized(images, size) if isinstance(size, tuple) else images)
            maps |= dict(zip(numbers, heatmaps.maps, strict=True))
            finite |= heatmaps.finite
            logits = heatmaps.logits if logits is None else logits
        assert logits is not None
        return Heatmaps([maps[number] for number in sorted(maps)], logits, finite)


class ProductSource:
    """Maps of a source times those of partners: high where both are, and 0 where either is.

    A map M is divided by its image's maximum, and counts as 0 where that is not positive; the
    partner's D is (D - min) / (max - min), since a distance is nowhere 0. The logits are the first
    source's.

    Attributes:
        size: Size of the images, the same for all sources.
    """

    def __init__(
        self, source: HeatmapSource, partners: Sequence[tuple[HeatmapSource, Sequence[int]]]
    ) -> None:
        """Multiply the maps of a source, each by that of the partner that lists its number."""
        self.source, self.partners, self.size = source, partners, wanted_size(source)

    def __call__(self, images: Tensor) -> Heatmaps:
        """Heatmaps of normalised images (N, C, H, W), in [0, 1]."""
        heatmaps = self.source(images)
        maps = [ratio(M.relu(), M.amax(dim=(1, 2))) for M in heatmaps.maps]
        for partner, numbers in self.partners:
            [D] = partner(images).maps
            scaled = min_max(D, dim=(1, 2))
            for number in numbers:
                maps[number] = maps[number] * scaled
        return Heatmaps(maps, heatmaps.logits, heatmaps.finite)
