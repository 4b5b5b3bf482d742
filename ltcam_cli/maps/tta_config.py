"""Test-time augmentation as a config. Imports no torch."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from ltcam_cli.config import Says, Side, config

FULL: Literal["full"] = "full"
Size = tuple[int, int] | Literal["full"] | None


@config("tta")
class TtaConfig:
    """Changed images whose maps are averaged.

    Attributes:
        flips: Mirrored images: none | horizontal | vertical | both; maps are mirrored back.
        scales: Factors of the input's size, rounded to multiples of 32; maps are resized back.
        normalize: Scale of each pass's map: none, so that a pass in which the classifier sees more
            counts more | minmax.
        size: Size of the image that is cut into tiles of the network's input: [height,width], or
            full, the image's own; null: no tiles.
        overlap: Least overlap of neighbouring tiles, as a share of a tile.
    """

    flips: Literal["none", "horizontal", "vertical", "both"] = "none"
    scales: Annotated[
        list[Annotated[float, Field(gt=0, le=16)]],
        Field(min_length=1, max_length=32),
        Says("1 to 32 factors above 0 and at most 16, such as [0.75,1,1.25]"),
    ] = field(default_factory=lambda: [1.0])
    normalize: Literal["none", "minmax"] = "none"
    size: Annotated[
        Annotated[list[Side], Field(min_length=2, max_length=2)] | Literal["full"] | None,
        Says("[height,width] in pixels of 32 to 16384, full or null"),
    ] = None
    overlap: Annotated[float, Field(ge=0, le=0.9)] = 0.25

    @property
    def image_size(self) -> Size:
        """Size of the image that is cut into tiles; None: no tiles."""
        if self.size is None or self.size == FULL:
            return self.size
        return self.size[0], self.size[1]

    @property
    def label(self) -> str | None:
        """Settings for tables: `flips=both size=full overlap=0.25`; None if all are off."""
        words = [f"flips={self.flips}"] if self.flips != "none" else []
        if self.scales != [1]:
            words.append(f"scales={','.join(f'{scale:g}' for scale in self.scales)}")
        if words and self.normalize != "none":
            words.append(f"normalize={self.normalize}")
        if self.size is not None:
            size = FULL if self.size == FULL else "x".join(map(str, self.size))
            words += [f"size={size}", f"overlap={self.overlap:g}"]
        return " ".join(words) or None
