"""Pictures in rows and columns, with matplotlib (the extra `report`).

White ground and black text, for print and for dark pages alike.
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
from ltcam_cli.runs.masking import ImageResult, true_mask
from ltcam_cli.scores.pixels import PixelCounts

PANEL = 1.45  # inches of a panel's longer side
LETTER, LINE = 0.06, 0.14  # inches of a column's title: a letter's width, a line's height
LONGEST = 320  # pixels of a panel's longer side


@dataclass(frozen=True)
class GridRow:
    """One row: label at its left, panels (H, W, 3) uint8, and a caption below each panel."""

    label: str
    panels: Sequence[np.ndarray]
    captions: Sequence[str]


def method_rows(
    results: Sequence[Sequence[ImageResult]], labels: Sequence[str], panel: str = "heatmap"
) -> list[GridRow]:
    """One row per image: the image, the truth, and each method's heatmap or mask with its IoU.

    Args:
        results: Results of each image, one per method.
        labels: Labels of the images.
        panel: Panel of each method, see `panels_of`.
    """
    rows = []
    for of_image, label in zip(results, labels, strict=True):
        first = panels_of(of_image[0], LONGEST)
        panels = [panels_of(result, LONGEST)[panel] for result in of_image]
        rows.append(
            GridRow(
                f"{of_image[0].item.sample.name}\n{label}",
                [first["image"], first.get("truth", first["image"]), *panels],
                ["", "", *(iou_text(result) for result in of_image)],
            )
        )
    return rows


def layer_rows(
    results: Sequence[Sequence[ImageResult]], methods: Sequence[str], stages: int
) -> list[GridRow]:
    """One row per image and method: the truth, each stage's heatmap, and that of all stages.

    Args:
        results: Results of each image; for each method one per stage, then that of all stages.
        methods: Names of the methods.
        stages: Number of stages.
    """
    rows = []
    for of_image in results:
        truth = panels_of(of_image[0], LONGEST)
        for number, method in enumerate(methods):
            name = f"{of_image[0].item.sample.name}\n" if number == 0 else ""
            of_method = of_image[number * (stages + 1) : (number + 1) * (stages + 1)]
            rows.append(
                GridRow(
                    name + method.replace(" ", "\n"),
                    [truth.get("truth", truth["image"])]
                    + [panels_of(result, LONGEST)["heatmap"] for result in of_method],
                    ["", *(iou_text(result) for result in of_method)],
                )
            )
    return rows


def gallery_rows(results: Sequence[Sequence[ImageResult]], labels: Sequence[str]) -> list[GridRow]:
    """Rows of `method_rows` with the last method's mask in red over the truth in green."""
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
    iou = 100 * PixelCounts.from_masks(result.mask, true_mask(result.item)).iou
    return f"IoU {iou:.1f}" if iou == iou else ""


def wrapped_title(name: str, width: int) -> str:
    """Title of a column in lines: `key=value` takes two if longer than `width` letters.

    Of dotted keys, the last part remains.
    """
    lines = []
    for word in name.splitlines():
        key, equals, value = word.rpartition("=")
        key = key.rpartition(".")[2]
        line = key + equals + value
        lines += [key, value] if equals and len(line) > width else [line]
    return "\n".join(lines)


def draw_grid(rows: Sequence[GridRow], columns: Sequence[str], title: str, path: Path) -> None:
    """Write rows of panels as PNG, each column under its title.

    Raises:
        LtcamError: if matplotlib is not installed.
    """
    require("matplotlib", "report").use("Agg")
    from matplotlib import pyplot

    height, width = rows[0].panels[0].shape[:2]
    across, down = PANEL * min(1, width / height), PANEL * min(1, height / width)
    across = max(across, 0.68)  # room for a caption below a narrow panel
    titles = [wrapped_title(name, int(across / LETTER)) for name in columns]
    tall = LINE * max(title.count("\n") + 1 for title in titles)
    left, top, below = 1.15, 0.45 + tall, 0.2  # inches: labels, title and names, captions
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
                axis.set_title(titles[number], fontsize=8)
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
