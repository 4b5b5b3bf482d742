"""Overlays: one strip per image with the panels image, truth, heatmap and mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from skimage.morphology import dilation, disk

from ltcam_cli.files import atomic
from ltcam_cli.runs.masking import ImageResult

GREEN, RED = (60, 220, 90), (255, 64, 64)
Colour = tuple[int, int, int]
# Of kinds of defects, told apart by most who do not see all colours (Okabe and Ito 2008).
KINDS: list[Colour] = [
    (230, 159, 0), (86, 180, 233), (213, 94, 0), (240, 228, 66), (204, 121, 167), (0, 114, 178),
]  # fmt: skip
LONGEST = 640  # pixels of a panel's longer side
# Dark to bright, readable in grey as well; value 0..1 at equal steps.
COLOURS = np.array(
    [(0, 0, 20), (60, 15, 110), (140, 40, 110), (215, 75, 65), (250, 150, 30), (250, 250, 160)],
    dtype=np.float32,
)
STEPS = np.linspace(0, 1, 1024)  # finer than 8 bits show
PALETTE = np.stack(
    [np.interp(STEPS, np.linspace(0, 1, len(COLOURS)), c) for c in COLOURS.T], axis=-1
).astype(np.uint8)


def draw_strip(result: ImageResult, path: Path) -> None:
    """Write the strip of one image as PNG.

    Panels from left to right: the image, the outline of the truth (green) if there is a true mask,
    the heatmap over the image, and the outline of the mask (red, or each kind of defect in a colour
    of its own) with that of the truth.
    """
    panels = panels_of(result)
    kinds = f" {' + '.join(result.masks)}" if result.mask.any() else ""
    panels[f"mask, p={result.probability:.2f}{kinds}".rstrip()] = panels.pop("mask")
    with atomic(path) as temporary:
        _side_by_side(list(panels.items())).save(temporary)


def panels_of(result: ImageResult, longest: int = LONGEST) -> dict[str, np.ndarray]:
    """Panels `image`, `truth` (if there is a true mask), `heatmap` and `mask`, (H, W, 3) uint8.

    Args:
        result: Result of one image.
        longest: Longer side of a panel in pixels, at most.
    """
    original = result.item.original
    assert original is not None
    size = shrunk_size(original, longest)
    image = np.asarray(Image.fromarray(as_rgb(original)).resize(size, Image.Resampling.BILINEAR))
    truth = result.item.mask
    panels, ground = {"image": image}, image
    if truth is not None:
        ground = panels["truth"] = outlined(image, shrunk_mask(truth, size), GREEN)
    panels["heatmap"] = blended(image, result.heatmap)
    panels["mask"] = ground
    for part, colour in coloured_parts(result):
        panels["mask"] = outlined(panels["mask"], shrunk_mask(part, size), colour)
    return panels


def coloured_parts(result: ImageResult) -> list[tuple[np.ndarray, Colour]]:
    """The mask (H, W) in red; of a classifier of kinds, its parts in their kinds' colours."""
    kinds = list(result.kinds.verdict.probabilities)
    parts = [
        (part, KINDS[kinds.index(kind) % len(KINDS)])
        for kind, part in result.masks.items()
        if kind in kinds
    ]
    return parts or [(result.mask, RED)]


def outlined(image: np.ndarray, mask: np.ndarray, colour: Colour) -> np.ndarray:
    """Image (H, W, 3) uint8 with the outer border of `mask` (H, W) in `colour`."""
    drawn = image.copy()
    drawn[dilation(mask, disk(2)) & ~dilation(mask, disk(1))] = colour
    return drawn


def blended(image: np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    """Equal mix of the image (H, W, 3) and the heatmap in colours, uint8."""
    colours = coloured(heatmap, (image.shape[1], image.shape[0]))
    return (0.5 * image + 0.5 * colours).astype(np.uint8)


def coloured(heatmap: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Heatmap, scaled to its own range, in colours at (width, height): (H, W, 3) uint8."""
    low, high = float(heatmap.min()), float(heatmap.max())
    values = (heatmap - low) / (high - low) if high > low else np.zeros_like(heatmap)
    resized = np.asarray(Image.fromarray(values.astype(np.float32)).resize(size))
    return PALETTE[(resized.clip(0, 1) * (len(PALETTE) - 1) + 0.5).astype(np.uint16)]


def shrunk_size(pixels: np.ndarray, longest: int) -> tuple[int, int]:
    """Size (width, height) of an image (H, W, ...) with a longer side of at most `longest`."""
    shrink = min(1.0, longest / max(pixels.shape[:2]))
    return max(1, round(pixels.shape[1] * shrink)), max(1, round(pixels.shape[0] * shrink))


def as_rgb(pixels: np.ndarray) -> np.ndarray:
    """Image (H, W) or (H, W, 3), uint8 or float in [0, 1], as (H, W, 3) uint8."""
    if pixels.dtype != np.uint8:
        pixels = (np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=-1)


def shrunk_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Mask at another size; a pixel is set where any part of it was, so thin cracks stay."""
    shrunk = np.asarray(Image.fromarray(mask.astype(np.float32)).resize(size, Image.Resampling.BOX))
    return shrunk > 0


def _side_by_side(
    panels: list[tuple[str, np.ndarray]], gap: int = 6, caption: int = 18
) -> Image.Image:
    height, width = panels[0][1].shape[:2]
    strip = Image.new("RGB", ((width + gap) * len(panels) - gap, height + caption), (24, 24, 24))
    pen = ImageDraw.Draw(strip)
    for number, (title, pixels) in enumerate(panels):
        left = number * (width + gap)
        strip.paste(Image.fromarray(pixels), (left, caption))
        pen.text((left + 4, 3), title, fill=(235, 235, 235))
    return strip
