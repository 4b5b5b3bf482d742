"""Several heatmap sources as one."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ltcam_cli.maps.averaged import resized
from ltcam_cli.maps.engine import FULL, Heatmaps, HeatmapSource, Size, wanted_size


class Joined:
    """The maps of several sources in an order of one's own, with the logits of the first source.

    Attributes:
        size: of the images: the greatest that a source wants; the others see them resized.
    """

    def __init__(
        self, parts: Sequence[tuple[HeatmapSource, Sequence[int]]], size: tuple[int, int]
    ) -> None:
        """Of sources, each with the places of its maps; `size` is (height, width) of the network's
        input.
        """  # fmt: skip
        self.parts = [(source, places, wanted_size(source) or size) for source, places in parts]
        wanted = [each for *_, each in self.parts if not isinstance(each, str)]
        full = len(wanted) < len(self.parts)
        self.size: Size = FULL if full else max(wanted, key=lambda each: each[0] * each[1])

    def __call__(self, images: Tensor) -> Heatmaps:
        """Heatmaps of normalised images (N, C, H, W) of the joined size."""
        maps: dict[int, Tensor] = {}
        logits, finite = None, dict[str, Tensor]()
        for source, places, size in self.parts:
            found = source(images if isinstance(size, str) else resized(images, size))
            maps |= dict(zip(places, found.maps, strict=True))
            finite |= found.finite
            logits = found.logits if logits is None else logits
        assert logits is not None
        return Heatmaps([maps[place] for place in sorted(maps)], logits, finite)
