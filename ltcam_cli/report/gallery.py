"""Pictures of a page: photograph, heatmap, and outlines of mask and truth, as small texts.

Photographs and heatmaps are WebP in data URIs. Outlines are vector paths, sharp at any size; the
page sets their colour and width.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from ltcam_cli.data.batches import Item
from ltcam_cli.data.sample import Sample
from ltcam_cli.report.overlay import as_rgb, coloured, shrunk_mask, shrunk_size
from ltcam_cli.runs.masking import ImageResult
from ltcam_cli.runs.scoring import Scores
from ltcam_cli.scores.pixels import PixelCounts

PHOTO, HEAT = 1280, 512  # pixels of the longer side; maps are smooth
KEPT = 200  # images of a cell whose pictures are kept: as many as a page shows by default
SCORES = ("label", "probability", "predicted", "iou", "precision", "recall", "regions", "touched",
          "false_regions", "tp", "evidence", "area", "predicted_kind")  # fmt: skip


@dataclass
class Gallery:
    """Pictures of many cells, of one run or of several; each photograph is kept once.

    Attributes:
        cells: Heatmap, outline and scores of each cell, by the number of the image.
        images: Name, size, photograph, and outline of the truth of each image, "" where it is
            unknown; and its kinds of defects where it has any.
        thresholds: Probability from which each cell's classifier calls an image defective.
    """

    cells: list[dict[int, dict[str, Any]]]
    images: list[dict[str, Any]] = field(default_factory=list)
    thresholds: dict[int, float] = field(default_factory=dict)
    _numbers: dict[str, int] = field(default_factory=dict)
    _last: tuple[Item, int] | None = None

    def number(self, result: ImageResult) -> int:
        """Number of the image, which is added if its name with these pixels is new."""
        if self._last is None or self._last[0] is not result.item:  # an image's results come
            item = result.item  # one after another
            assert item.original is not None
            self._last = item, self.number_of(item.sample, item.original, item.mask)
        return self._last[1]

    def number_of(self, sample: Sample, original: np.ndarray, mask: np.ndarray | None) -> int:
        """The same of a sample whose pixels and true mask were read."""
        if mask is None and not sample.label:
            mask = np.zeros(original.shape[:2], dtype=bool)
        return self.add(sample.name, original, mask, sample.kinds)

    def add(
        self, name: str, original: np.ndarray, truth: np.ndarray | None, kinds: Sequence[str] = ()
    ) -> int:
        """Number of an image (H, W, ...) with its true mask (H, W); None: it is unknown."""
        mask = np.zeros((1, 1), dtype=bool) if truth is None else truth
        pixels = hashlib.sha256(np.ascontiguousarray(original).tobytes() + mask.tobytes())
        key = f"{name} {pixels.hexdigest()}"
        if key not in self._numbers:
            self._numbers[key] = len(self.images)
            size = shrunk_size(original, PHOTO)
            photo = Image.fromarray(as_rgb(original))
            self.images.append(
                {
                    "name": name,
                    "width": size[0],
                    "height": size[1],
                    "photo": webp(photo.resize(size, Image.Resampling.LANCZOS)),
                    "truth": outline(shrunk_mask(mask, size)),
                    **({"kinds": list(kinds)} if kinds else {}),
                }
            )
        return self._numbers[key]

    @property
    def filters(self) -> list[tuple[str, str]]:
        """Filters of the page by kind of defect."""
        kinds = {kind for image in self.images for kind in image.get("kinds", ())}
        return [(f"kind:{kind}", kind) for kind in sorted(kinds)]

    def data(self, cells: Sequence[Mapping[str, Any]], views: Sequence[str]) -> dict[str, Any]:
        """What the page's script reads.

        Args:
            cells: Label and colour of each cell.
            views: Names of what the slider moves over.
        """
        shown = [
            {
                "label": cell["label"],
                "colour": cell["colour"],
                "threshold": self.thresholds.get(number),
                "images": pictures,
            }
            for number, (cell, pictures) in enumerate(zip(cells, self.cells, strict=True))
        ]
        return {"views": list(views), "cells": shown, "images": self.images}


@dataclass(frozen=True)
class Visitor:
    """Visitor of `runs.scoring.evaluate` that draws each result into a gallery.

    Attributes:
        gallery: Gallery to draw into.
        cells: Number in the gallery of each cell of the pass.
    """

    gallery: Gallery
    cells: Sequence[int]

    def __call__(self, result: ImageResult, counts: PixelCounts) -> None:
        """Draw heatmap and mask of one image and cell."""
        number = self.gallery.number(result)
        image = self.gallery.images[number]
        self.gallery.cells[self.cells[result.job]][number] = {
            "heat": heat_of(result.heatmap),
            "mask": mask_of(result.mask, image),
        }

    def add_scores(self, scores: Sequence[Scores]) -> None:
        """Add the scores of each image and cell to its pictures; NaN as None."""
        for cell, of_cell in zip(self.cells, scores, strict=True):
            for picture, row in zip(self.gallery.cells[cell].values(), of_cell.rows, strict=True):
                picture |= scores_of(row)

    def add_kept(self, number: int, pictures: Sequence[Mapping[str, Any]]) -> None:
        """Draw what evaluations kept of an image: a picture of each cell, with its scores."""
        for cell, picture in zip(self.cells, pictures, strict=True):
            with Image.open(io.BytesIO(base64.b64decode(picture["mask"]))) as mask:
                outlined = mask_of(np.asarray(mask), self.gallery.images[number])
            self.gallery.cells[cell][number] = {**picture, "mask": outlined}


def scores_of(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Scores of an image and cell that the page shows; NaN as None."""
    values = {key: row.get(key) for key in SCORES}
    return {key: None if value != value else value for key, value in values.items()}


def kept_picture(result: ImageResult) -> dict[str, str]:
    """What an evaluation keeps of an image and cell: the heatmap as drawn, the mask as PNG."""
    stream = io.BytesIO()
    Image.fromarray(result.mask).save(stream, "PNG")
    mask = base64.b64encode(stream.getvalue()).decode()
    return {"heat": heat_of(result.heatmap), "mask": mask}


def heat_of(heatmap: np.ndarray) -> str:
    """A heatmap (H, W) in colours, as a data URI."""
    return webp(Image.fromarray(coloured(heatmap, shrunk_size(heatmap, HEAT))))


def mask_of(mask: np.ndarray, image: Mapping[str, Any]) -> str:
    """Outline of a mask (H, W) bool at the size of an image of the gallery."""
    return outline(shrunk_mask(mask, (image["width"], image["height"])))


def webp(image: Image.Image) -> str:
    """An image as a data URI."""
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=80, method=1)  # a third of the time, a sixth more bytes
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"


def outline(mask: np.ndarray) -> str:
    """Borders of a mask (H, W) bool, with holes, as an SVG path in pixels; "" of an empty mask.

    Corners are rounded to whole pixels, and deviations below 0.7 pixels are drawn straight: half
    the size of the exact border, and no visible difference.
    """
    from contourpy import contour_generator  # of the extra, which an evaluation does not need

    rings = contour_generator(z=np.pad(mask.astype(np.float32), 1)).lines(0.5)
    parts = []
    for ring in simplified([np.asarray(ring) for ring in rings], 0.7):
        corners = np.rint(ring - 0.5).astype(int)
        steps = np.diff(corners, axis=0)
        moves = " ".join(f"{x} {y}" for x, y in steps[:-1].tolist() if x or y)
        parts.append(f"M{corners[0, 0]} {corners[0, 1]}l{moves or '0 0'}z")
    return "".join(parts).replace(" -", "-")


def simplified(lines: Sequence[np.ndarray], tolerance: float) -> list[np.ndarray]:
    """Lines (N, 2) without the points that lie within a tolerance of what stays.

    Douglas and Peucker 1973, all parts of all lines at once: each round keeps, of every part, the
    point that is farthest from the straight line between its ends.
    """
    if not lines:
        return []
    points = np.concatenate(lines)
    ends = np.cumsum([len(line) for line in lines])
    kept = np.zeros(len(points), dtype=bool)
    kept[ends - 1] = kept[ends[:-1]] = kept[0] = True
    step = np.diff(points, axis=0)
    turns = np.append(True, np.append((step[1:] != step[:-1]).any(axis=1), True))
    left = np.flatnonzero(turns | kept)  # points of parts that may need another one
    while left.size:
        anchors = np.flatnonzero(kept[left])
        part = np.cumsum(kept[left]) - 1
        start, stop = (points[left[np.append(anchors, anchors[-1])[part + n]]] for n in (0, 1))
        distances = _distances(points[left], start, stop)
        farthest = np.maximum.reduceat(distances, anchors)[part]
        found = np.flatnonzero((farthest > tolerance) & (distances == farthest))
        kept[left[found[np.unique(part[found], return_index=True)[1]]]] = True
        rest = farthest > tolerance
        rest[1:] |= rest[:-1] & kept[left[1:]]  # the end of an open part
        left = left[rest]
    return [line[stay] for line, stay in zip(lines, np.split(kept, ends[:-1]), strict=True)]


def _distances(points: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Distances (N,) of points (N, 2) from the straight lines between `start` and `stop` (N, 2)."""
    along, to = stop - start, points - start
    square = (along**2).sum(axis=1)
    share = (to * along).sum(axis=1) / np.where(square > 0, square, 1)
    return np.hypot(*(to - np.clip(share, 0, 1)[:, None] * along).T)
