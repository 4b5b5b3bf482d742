"""Columns of the page's table of results: what each is called, and what it means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Column:
    """A column of the table of results.

    Attributes:
        key: Name in results.csv.
        title: Heading in the page.
        meaning: One sentence.
        number: Whether it is aligned and sorted as a number.
        always: Whether it is shown even if all its values are equal.
        whole: Whether its numbers have no decimals of their own, such as counts.
    """

    key: str
    title: str
    meaning: str
    number: bool = True
    always: bool = True
    whole: bool = False

    def is_shown(self, table: pd.DataFrame) -> bool:
        """Whether the column holds a value, and distinguishes rows where it must."""
        if self.key not in table or table[self.key].isna().all():
            return False
        return self.always or table[self.key].nunique(dropna=False) > 1

    def cell(self, row: Mapping[Any, Any]) -> dict[str, Any]:
        """Text of a row's cell, and the value by which it is sorted."""
        value = row[self.key]
        if pd.isna(value):
            return {"text": "", "value": "", "number": self.number}
        if not self.number:
            return {"text": str(value), "value": str(value), "number": False}
        if self.key == "iou_low":
            text = f"{value:.1f} – {row['iou_high']:.1f}"
        else:
            text = f"{value:.10g}" if self.whole else f"{value:.2f}"
        return {"text": text, "value": repr(float(value)), "number": True}


def _text(key: str, title: str, meaning: str, *, always: bool = False) -> Column:
    return Column(key, title, meaning, number=False, always=always)


COLUMNS = (
    _text("run", "run", "The trained classifier."),
    _text("method", "method", "How the heatmap is computed; ltX is X with layer fusion and "
          "truncation.", always=True),
    Column("delta", "δ", "Percentile below which positive gradients are set to 0; empty: no "
           "truncation.", whole=True),
    _text("layers", "layers", "Stages whose maps are fused.", always=True),
    _text("segmenter", "segmenter", "How the heatmap becomes a mask."),
    _text("pipeline", "pipeline", "Preset of method, segmenter and test-time augmentation."),
    _text("images", "images", "Which images count: defective; predicted (an image predicted good "
          "has an empty mask); all."),
    _text("split", "part", "Split of the data set; the test part, or the part after the slash."),
    _text("scope", "scope", "Whether the percentile is of each channel or of the layer."),
    _text("form", "form", "What is truncated: the gradient, or the map (mask, mask_relu)."),
    _text("fusion", "fusion", "How the stages' maps become one, and the activation of that."),
    _text("normalize", "normalize", "Normalization of each stage's map before the fusion."),
    _text("weights", "weights", "Weights of the stages' maps; empty: all are 1."),
    _text("backward", "backward", "What ReLUs let through in the backward pass; empty: what their "
          "derivative does."),
    _text("tta", "TTA", "Test-time augmentation: transformations over which heatmaps are averaged; "
          "empty: none."),
    _text("dtype", "dtype", "Type that the network computed in."),
    _text("ensemble", "ensemble", "Runs whose maps and log-odds were averaged with the run's."),
    _text("target", "target", "The logit that is explained."),
    _text("supervision", "supervision", "Labels that chose δ and the pipeline: of images, or of "
          "pixels."),
    Column("evidence", "evidence", "Without masks: how much of what the classifier saw lies in the "
           "mask, times how far it narrows that down; mean over the defective images."),
    Column("area", "area", "Without masks: the masks' mean share of the image."),
    Column("iou", "IoU", "Intersection over union of mask and truth, pooled over the pixels of all "
           "images that count."),
    Column("iou_low", "95 %", "Bootstrap interval of the pooled IoU over physical items."),
    Column("precision", "precision", "Share of the masks' pixels that are defect (pooled)."),
    Column("recall", "recall", "Share of the defects' pixels that are in the masks (pooled)."),
    Column("f1", "F1", "Harmonic mean of precision and recall (Dice)."),
    Column("mean_iou", "mean IoU", "Mean of the IoU of each defective image."),
    Column("pixel_ap", "pixel AP", "Average precision of the heatmap's pixels, over all "
           "thresholds."),
    Column("aupro", "AUPRO", "Mean share of a defect region that is covered, over thresholds up to "
           "a false positive rate of 0.3."),
    Column("seg_miou", "Seg mIoU", "Mean IoU over defective images; one that is predicted good "
           "counts 0."),
    Column("seg_recall", "Seg recall", "Share of defective images that are predicted defective and "
           "whose mask touches the defect."),
    Column("regions_touched", "regions touched", "Share of defect regions that a mask touches."),
    Column("false_regions", "false regions", "Regions of the mask that touch no defect, per image; "
           "a count, no percentage."),
    Column("n_images", "n", "Number of images that count.", whole=True),
    Column("seconds", "seconds", "Time of mapping, segmenting and scoring; in a grid, its share."),
)  # fmt: skip

REGIONS = (
    _text("name", "image", "Name of the image.", always=True),
    _text("kind", "kind", "Kind of the defect.", always=True),
    Column("region", "region", "Number of the region in its image, the surest first.", whole=True),
    Column("score", "score", "The heatmap's highest value in the region."),
    Column("area", "area", "Pixels of the region.", whole=True),
    Column("length", "length", "Pixels: longer axis of the ellipse with the same moments."),
    Column("width", "width", "Mean width in pixels: area over length."),
    Column("area_mm2", "area, mm²", "Square millimetres of the region."),
    Column("length_mm", "length, mm", "The length in millimetres."),
    Column("width_mm", "width, mm", "The mean width in millimetres."),
    Column("top", "top", "First row.", whole=True),
    Column("left", "left", "First column.", whole=True),
    Column("bottom", "bottom", "Row below the last one.", whole=True),
    Column("right", "right", "Column right of the last one.", whole=True),
)
