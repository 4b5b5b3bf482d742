"""Scores by kind of defect: of the classifier on images, and of masks on pixels.

Texts such as `crack+hole` name the kinds of an image; an empty one means that it has none, or of a
defective image that its kind is not known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ltcam_cli.scores.images import average_precision, confusion
from ltcam_cli.scores.intervals import bootstrap_iou, mean_iou
from ltcam_cli.scores.pixels import PixelCounts, counts_of, pooled

TOGETHER = "together"


def image_kinds(table: pd.DataFrame, kinds: Sequence[str]) -> pd.DataFrame:
    """A row a kind: its images, AP, precision and recall among all images of known kind, in [0, 1].

    Args:
        table: Columns label, kind, predicted_kind, and probability_<kind> of each kind.
        kinds: Kinds.
    """
    known = table[_known(table)]
    rows = []
    for kind in kinds:
        truth, called = (_has(known[column], kind) for column in ("kind", "predicted_kind"))
        counts = PixelCounts(**confusion(truth, called))
        ap = average_precision(truth, known[f"probability_{kind}"].to_numpy())
        rows.append(
            {
                "kind": kind,
                "images": int(truth.sum()),
                "ap": ap,
                "precision": counts.precision,
                "recall": counts.recall,
            }
        )
    return pd.DataFrame(rows)


def kind_accuracy(table: pd.DataFrame) -> float:
    """Share of the defective images of known kind that are called by just their kinds, in [0, 1].

    One that is called good counts as wrong; NaN of none.
    """
    known = table[_known(table) & (table["label"] == 1)]
    return float((known["kind"] == known["predicted_kind"]).mean())


def mask_kinds(images: pd.DataFrame, kinds: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """A row a kind, and one of all images together: scores of their whole masks, in per cent.

    IoU, precision, recall and F1 are pooled over the images that have the kind, with the 95 %
    interval of the IoU over items. Without true masks there are evidence and area. `called` is the
    share of the images that a classifier of kinds calls by the kind.

    Args:
        images: Scores of each image of a cell, indexed by name; see `runs.scoring.Scores.table`.
        kinds: Kinds of images by name.
    """
    names = sorted({kind for name in images.index for kind in kinds.get(name, ())})
    chosen = {kind: [kind in kinds.get(name, ()) for name in images.index] for kind in names}
    chosen[TOGETHER] = [True] * len(images)
    rows = []
    for kind, rows_of_kind in chosen.items():
        part = images[rows_of_kind]
        row = {"kind": kind, "images": len(part), **_of_masks(part)}
        if "predicted_kind" in images and kind != TOGETHER:
            row["called"] = 100 * float(np.mean(_has(part["predicted_kind"].fillna(""), kind)))
        rows.append(row)
    return pd.DataFrame(rows)


def _of_masks(images: pd.DataFrame) -> dict[str, float]:
    if "evidence" in images:
        return {key: float(images[key].mean()) for key in ("evidence", "area")}
    counts = counts_of(images)
    total, (low, high) = pooled(counts), bootstrap_iou(counts, list(images["group"]))
    values = {
        "iou": total.iou,
        "iou_low": low,
        "iou_high": high,
        "precision": total.precision,
        "recall": total.recall,
        "f1": total.f1,
        "mean_iou": mean_iou(counts)[0],
    }
    return {key: 100 * value for key, value in values.items()}


def _known(table: pd.DataFrame) -> pd.Series:
    """Whether an image is good, or its kinds are known."""
    return (table["label"] == 0) | (table["kind"] != "")


def _has(texts: pd.Series, kind: str) -> np.ndarray:
    """(N,) int: whether each text names a kind."""
    return np.array([int(kind in text.split("+")) for text in texts])
