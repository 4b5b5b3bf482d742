"""What an annotation file says of one image: shapes, drawn into a mask when it is asked for."""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from ltcam_cli.annotations.pixels import filled, from_brush, from_run_lengths, uncompressed
from ltcam_cli.errors import LtcamError

NOT_DEFECT = frozenset({"background", "ignore"})  # LabelMe's, among underscores
CORNERS = 90  # of a circle's polygon
Size = tuple[int, int]
# What reading a document raises that is not as it should be.
FAULTS = (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError)


class Shape(Protocol):
    """Part of a mask."""

    def draw(self, mask: np.ndarray) -> None:
        """Mark it in a mask (H, W) bool."""


@dataclass(frozen=True)
class Polygon:
    """Points (x, y) in pixels; see `pixels`."""

    points: tuple[tuple[float, float], ...]
    shares: bool = False  # of width and height

    def draw(self, mask: np.ndarray) -> None:
        """Mark the pixels whose centres it holds."""
        points = np.array(self.points, float)
        mask |= filled(points * mask.shape[::-1] if self.shares else points, mask.shape)


@dataclass(frozen=True)
class Patch:
    """Pixels of a part of the image, decoded when asked for.

    Attributes:
        decode: Gives the pixels (h, w) bool.
        size: Their height and width, checked before; None: not known.
        left, top: Their place.
    """

    decode: Callable[[], np.ndarray]
    size: Size | None
    left: int = 0
    top: int = 0

    def draw(self, mask: np.ndarray) -> None:
        """Mark them.

        Raises:
            ValueError: If they are damaged, or not within the mask.
        """
        self._check(mask, self.size or (0, 0))
        pixels = self.decode()
        height, width = pixels.shape
        self._check(mask, (height, width))
        mask[self.top : self.top + height, self.left : self.left + width] |= pixels

    def _check(self, mask: np.ndarray, size: Size) -> None:
        ends = self.top + size[0], self.left + size[1]
        if min(self.top, self.left) < 0 or ends[0] > mask.shape[0] or ends[1] > mask.shape[1]:
            raise ValueError("it reaches beyond the image")


@dataclass(frozen=True)
class Annotation:
    """What a file says of one image.

    Attributes:
        source: Annotation file.
        image: Image as the file names it.
        size: Height and width that the file says of the image; None if it says none.
        shapes: Shapes of defects; empty: a person saw none.
    """

    source: Path
    image: str
    size: Size | None
    shapes: tuple[Shape, ...] = field(default=())

    def mask(self, size: Size) -> np.ndarray:
        """Mask (H, W) bool of an image of this size.

        Raises:
            LtcamError: If the file says another size, or is damaged.
        """
        if self.size not in {None, size}:
            raise LtcamError(
                f"{self.source}: {self.image} has {_by(self.size or size)} pixels there, and the "
                f"image {_by(size)}; annotate the image itself, not a resized one"
            )
        mask = np.zeros(size, bool)
        try:
            for shape in self.shapes:
                shape.draw(mask)
        except (*FAULTS, OSError, Image.DecompressionBombError) as error:
            raise LtcamError(
                f"{self.source}: a mask of {self.image} is damaged ({error}); export it anew"
            ) from error
        return mask


def _by(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def is_defect(label: Any) -> bool:
    """Whether a class of annotations is of defects, and not of what is none."""
    return str(label).strip("_ ").casefold() not in NOT_DEFECT


def polygon(coordinates: Any, *, shares: bool = False) -> Polygon:
    """Polygon of x, y, x, y, … or of pairs.

    Raises:
        ValueError: If they are not at least three points of finite numbers.
    """
    points = np.array(coordinates, float).reshape(-1, 2)
    if len(points) < 3 or not np.isfinite(points).all():
        raise ValueError("a polygon needs at least three points of numbers")
    return Polygon(tuple(map(tuple, points.tolist())), shares)


def box(left: float, top: float, right: float, bottom: float, *, shares: bool = False) -> Polygon:
    """Polygon of a box by its edges."""
    return polygon([left, top, right, top, right, bottom, left, bottom], shares=shares)


def ellipse(x: float, y: float, radius_x: float, radius_y: float) -> Polygon:
    """Polygon of an upright ellipse by its centre and radii."""
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    return polygon(np.stack([x + radius_x * np.cos(angles), y + radius_y * np.sin(angles)], axis=1))


def by_rows(text: str, left: int, top: int, size: Size) -> Patch:
    """Patch of CVAT's run lengths, which go by rows.

    Raises:
        ValueError: If they are no numbers.
    """
    lengths = [int(length) for length in text.split(",")]
    return Patch(partial(from_run_lengths, lengths, size), size, left, top)


def by_columns(rle: Mapping[str, Any]) -> Patch:
    """Patch of COCO's run lengths, which go by columns; compressed or not."""
    height, width = map(int, rle["size"])
    return Patch(partial(_by_columns, rle["counts"], (width, height)), (height, width))


def _by_columns(counts: str | Sequence[int], size: Size) -> np.ndarray:
    lengths = uncompressed(counts) if isinstance(counts, str) else counts
    return from_run_lengths(lengths, size).T


def of_png(text: str, left: float, top: float) -> Patch:
    """Patch of LabelMe's mask, a PNG in base64."""
    return Patch(partial(_of_png, text), None, int(left), int(top))


def _of_png(text: str) -> np.ndarray:
    try:
        content = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("L")) > 0


def of_brush(content: Sequence[int], size: Size) -> Patch:
    """Patch of Label Studio's brush."""
    return Patch(partial(from_brush, content, size), size)


def names_of(image: str) -> list[str]:
    """Names that an image may have, by a path of any machine: the longest end first.

    Label Studio puts eight digits before the names of files that are uploaded to it.
    """
    steps = [step for step in re.split(r"[/\\]", image) if step not in {"", ".", ".."}]
    names = ["/".join(steps[start:]) for start in range(len(steps))]
    if steps and (uploaded := re.fullmatch(r"[0-9a-f]{8}-(.+)", steps[-1])):
        names.append(uploaded[1])
    return names
