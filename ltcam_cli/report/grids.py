"""Pictures in rows and columns, with matplotlib (the extra `report`).

White ground and black text, so that they can be printed and stand on a dark page as a card.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ltcam_cli.errors import require
from ltcam_cli.files import atomic
from ltcam_cli.report.overlay import panels_of
from ltcam_cli.runs.evaluation import ImageResult, true_mask
from ltcam_cli.scores.pixels import PixelCounts

PANEL = 1.45  # inches of a panel's longer side
LETTER, LINE = 0.06, 0.14  # inches of a column's name: a letter's width, a line's height
LONGEST = 320  # pixels of a panel's longer side


@dataclass(frozen=True)
class GridRow:
    """One row: what stands at its left, its panels (H, W, 3) uint8, and a line below each."""

    label: str
    panels: Sequence[np.ndarray]
    captions: Sequence[str]


def method_rows(
    results: Sequence[Sequence[ImageResult]], labels: Sequence[str], panel: str = "heatmap"
) -> list[GridRow]:
    """A row an image: the image, the truth, and each method's heatmap or mask with its IoU.

    Args:
        results: of each image, one a method.
        labels: one an image.
        panel: of each method, see `panels_of`.
    """
    rows = []
    for of_image, label in zip(results, labels, strict=True):
        first = panels_of(of_image[0], LONGEST)
        each = [panels_of(result, LONGEST)[panel] for result in of_image]
        rows.append(
            GridRow(
                f"{of_image[0].item.sample.name}\n{label}",
                [first["image"], first.get("truth", first["image"]), *each],
                ["", "", *(iou_text(result) for result in of_image)],
            )
        )
    return rows


def layer_rows(
    results: Sequence[Sequence[ImageResult]], methods: Sequence[str], stages: int
) -> list[GridRow]:
    """A row per image and method: the truth, each stage's heatmap, and the method's own.

    Args:
        results: of each image, for each method one a stage and then the method's own.
        methods: their names.
        stages: how many.
    """
    rows = []
    for of_image in results:
        truth = panels_of(of_image[0], LONGEST)
        for number, method in enumerate(methods):
            name = f"{of_image[0].item.sample.name}\n" if number == 0 else ""
            mine = of_image[number * (stages + 1) : (number + 1) * (stages + 1)]
            rows.append(
                GridRow(
                    name + method.replace(" ", "\n"),
                    [truth.get("truth", truth["image"])]
                    + [panels_of(result, LONGEST)["heatmap"] for result in mine],
                    ["", *(iou_text(result) for result in mine)],
                )
            )
    return rows


def gallery_rows(results: Sequence[Sequence[ImageResult]], labels: Sequence[str]) -> list[GridRow]:
    """As `method_rows`, and the last method's mask in red over the truth in green."""
    rows = method_rows(results, labels)
    return [
        GridRow(
            row.label,
            [*row.panels, panels_of(of_image[-1], LONGEST)["mask"]],
            [*row.captions, iou_text(of_image[-1])],
        )
        for row, of_image in zip(rows, results, strict=True)
    ]


def iou_text(result: ImageResult) -> str:
    """`IoU 12.3` of one image; empty where neither mask nor truth has a pixel."""
    iou = 100 * PixelCounts.of(result.mask, true_mask(result.item)).iou
    return f"IoU {iou:.1f}" if iou == iou else ""


def in_lines(name: str, width: int) -> str:
    """A name's lines, `key=value` in two if longer than `width` letters; of keys the last part."""
    lines = []
    for word in name.splitlines():
        key, equals, value = word.rpartition("=")
        key = key.rpartition(".")[2]
        whole = key + equals + value
        lines += [key, value] if equals and len(whole) > width else [whole]
    return "\n".join(lines)


def draw_grid(rows: Sequence[GridRow], columns: Sequence[str], title: str, path: Path) -> None:
    """Write rows of panels as PNG, each column under its name.

    Raises:
        LtcamError: if matplotlib is not installed.
    """
    require("matplotlib", "report").use("Agg")
    from matplotlib import pyplot

    height, width = rows[0].panels[0].shape[:2]
    across, down = PANEL * min(1, width / height), PANEL * min(1, height / width)
    across = max(across, 0.68)  # room for a caption below a narrow panel
    names = [in_lines(name, int(across / LETTER)) for name in columns]
    tall = LINE * max(name.count("\n") + 1 for name in names)
    left, top, below = 1.15, 0.35 + tall, 0.2  # inches: labels, title and names, captions
    size = (left + (across + 0.05) * len(columns), top + (down + below) * len(rows))
    figure, axes = pyplot.subplots(
        len(rows), len(columns), figsize=size, squeeze=False, facecolor="white"
    )
    for row, line in zip(rows, axes, strict=True):
        for number, (panel, caption, axis) in enumerate(
            zip(row.panels, row.captions, line, strict=True)
        ):
            axis.imshow(panel)
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            axis.set_xlabel(caption, fontsize=7, labelpad=2)
            if row is rows[0]:
                axis.set_title(names[number], fontsize=8)
        line[0].set_ylabel(row.label, fontsize=7, rotation=0, ha="right", va="center")
    figure.suptitle(title, fontsize=8, x=0.5, y=1 - 0.05 / size[1], va="top", wrap=True)
    figure.subplots_adjust(
        left=left / size[0], right=1 - 0.05 / size[0], bottom=below / size[1],
        top=1 - top / size[1], wspace=0.05 / across, hspace=below / down,
    )  # fmt: skip
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=160)
    pyplot.close(figure)
    few = Image.open(drawn).convert("RGB").quantize(256, method=Image.Quantize.FASTOCTREE)
    with atomic(path) as temporary:
        few.save(temporary, optimize=True)  # a quarter of the bytes of all colours
