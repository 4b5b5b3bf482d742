"""Regions of a mask, and polygons around them; for coordinates see `pixels`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from skimage.measure import euler_number, find_contours, label, regionprops

# An outline lies this far inside the outer edges of its pixels. So a reader that asks for centres
# of pixels gets them all, and so does one that cuts off decimals and draws the outline as well.
INSET = 0.25


@dataclass(frozen=True)
class Region:
    """An 8-connected part of a mask.

    Attributes:
        top, left: Place of its box.
        pixels: Its box (h, w) bool.
        size: Height and width (H, W) of the mask.
    """

    top: int
    left: int
    pixels: np.ndarray
    size: tuple[int, int]

    @property
    def whole(self) -> np.ndarray:
        """Mask (H, W) bool of it alone."""
        mask = np.zeros(self.size, bool)
        height, width = self.pixels.shape
        mask[self.top : self.top + height, self.left : self.left + width] = self.pixels
        return mask

    @property
    def has_holes(self) -> bool:
        """Whether it surrounds pixels that are not its own; those that touch at a corner do."""
        return bool(euler_number(self.pixels, connectivity=2) < 1)

    @property
    def outline(self) -> np.ndarray:
        """Polygon (n, 2) around it; see `outline`."""
        return np.add(outline(self.pixels), (self.left, self.top))


def regions(mask: np.ndarray) -> Iterator[Region]:
    """The 8-connected regions of a mask (H, W) bool."""
    for found in regionprops(label(mask, connectivity=2)):
        yield Region(found.bbox[0], found.bbox[1], found.image, mask.shape)


def outline(region: np.ndarray) -> np.ndarray:
    """One polygon (n, 2) around a region (h, w); an upright slit leads to each of its holes.

    A slit runs from a hole's top over pixels of the region alone, there and back.
    """
    contours = find_contours(np.pad(region, 1).astype(float), 1 - INSET, fully_connected="high")
    # rows and columns of centres of padded pixels -> x and y of edges; without the closing point
    outlines = [contour[:-1, ::-1] - 0.5 for contour in contours]
    outlines.sort(key=lambda points: float(points[:, 1].min()))  # the outer one first, then by top
    polygon = outlines[0]
    for hole in outlines[1:]:
        top = hole[:, 1].argmin()
        same_column = np.flatnonzero(polygon[:, 0] == hole[top, 0])
        above = same_column[polygon[same_column, 1] < hole[top, 1]]
        end = above[polygon[above, 1].argmax()]
        there_and_back = np.roll(hole, -top, axis=0), hole[[top]], polygon[[end]]
        polygon = np.concatenate([polygon[: end + 1], *there_and_back, polygon[end + 1 :]])
    return _without_straight(polygon)


def _without_straight(polygon: np.ndarray) -> np.ndarray:
    """The polygon without points at which it goes straight on."""
    after = np.roll(polygon, -1, axis=0) - polygon
    before = np.roll(after, 1, axis=0)
    turn = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    return polygon[(turn != 0) | ((before * after).sum(axis=1) < 0)]
