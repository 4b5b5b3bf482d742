"""Pictures of a page: photograph, heatmap, and outlines of mask and truth, as small texts.

Photographs and heatmaps are WebP in data URIs. Outlines are vector paths, sharp at any size; the
page sets their colour and width.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image
from skimage.measure import approximate_polygon, find_contours

from ltcam_cli.report.overlay import as_rgb, coloured, shrunk_mask, shrunk_size
from ltcam_cli.runs.masking import ImageResult, true_mask
from ltcam_cli.runs.scoring import Scores
from ltcam_cli.scores.pixels import PixelCounts

PHOTO, HEAT = 1280, 512  # pixels of the longer side; maps are smooth
SCORES = ("label", "probability", "predicted", "iou", "precision", "recall", "regions", "touched",
          "false_regions", "tp")  # fmt: skip


@dataclass
class Gallery:
    """Pictures of many cells, of one run or of several; each photograph is kept once.

    Attributes:
        cells: Heatmap, outline and scores of each cell, by the number of the image.
        images: Name, size, photograph, and outline of the truth of each image.
    """

    cells: list[dict[int, dict[str, Any]]]
    images: list[dict[str, Any]] = field(default_factory=list)
    _numbers: dict[str, int] = field(default_factory=dict)

    def number(self, result: ImageResult) -> int:
        """Number of the image, which is added if its name with these pixels is new."""
        original, truth = result.item.original, true_mask(result.item)
        assert original is not None
        name = result.item.sample.name
        pixels = hashlib.sha256(np.ascontiguousarray(original).tobytes() + truth.tobytes())
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
                    "photo": webp(photo.resize(size, Image.Resampling.LANCZOS), 80),
                    "truth": outline(shrunk_mask(truth, size)),
                }
            )
        return self._numbers[key]


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
        heat = coloured(result.heatmap, shrunk_size(result.heatmap, HEAT))
        self.gallery.cells[self.cells[result.job]][number] = {
            "heat": webp(Image.fromarray(heat.astype(np.uint8)), 80),
            "mask": outline(shrunk_mask(result.mask, (image["width"], image["height"]))),
        }

    def add_scores(self, scores: Sequence[Scores]) -> None:
        """Add the scores of each image and cell to its pictures; NaN as None."""
        for cell, of_cell in zip(self.cells, scores, strict=True):
            for picture, row in zip(self.gallery.cells[cell].values(), of_cell.rows, strict=True):
                picture |= {key: None if row[key] != row[key] else row[key] for key in SCORES}


def webp(image: Image.Image, quality: int) -> str:
    """An image as a data URI."""
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=quality, method=4)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"


def outline(mask: np.ndarray) -> str:
    """Borders of a mask (H, W) bool, with holes, as an SVG path in pixels; "" of an empty mask.

    Corners are rounded to whole pixels, and deviations below 0.7 pixels are drawn straight: half
    the size of the exact border, and no visible difference.
    """
    parts = []
    for contour in find_contours(np.pad(mask.astype(np.float32), 1), 0.5):
        corners = np.rint(approximate_polygon(contour, 0.7) - 0.5).astype(int)[:, ::-1]
        steps = np.diff(corners, axis=0)
        moves = " ".join(f"{x} {y}" for x, y in steps[:-1] if x or y)
        parts.append(f"M{corners[0, 0]} {corners[0, 1]}l{moves or '0 0'}z")
    return "".join(parts).replace(" -", "-")
