"""A pipeline chosen among candidates on training images: which ones, and folds over items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ltcam_cli.classifier.checkpoint import Classifier
from ltcam_cli.data.sample import Sample
from ltcam_cli.errors import LtcamError
from ltcam_cli.maps.engine import HeatmapSource
from ltcam_cli.runs.evaluation import Drawing, map_and_segment, true_mask
from ltcam_cli.scores.pixels import PixelCounts

FOLD = "iou_fold{}"  # column of a fold's IoU


@dataclass
class SearchConfig:
    """What `ltcam search` tries, all with all (conf/search/default.yaml).

    Attributes:
        methods: a line each: a method's name, and keys of it as `key=value`; `delta=auto` stands
            for each of `evaluation.deltas`.
        fusions: a line each: keys of `method.fusion`, for every method; none: the methods' own.
        segmenters: a line each: a segmenter's name, and keys of it as `key=value`.
        folds: into which the items of defective training images are parted, at least 2; read with
            `evaluation.labels=pixel-val` alone.
    """

    methods: list[str] = field(default_factory=lambda: ["ltgradcam delta=auto"])
    fusions: list[str] = field(default_factory=list)
    segmenters: list[str] = field(default_factory=lambda: ["otsu"])
    folds: int = 5

    def __post_init__(self) -> None:
        for key in ("methods", "segmenters"):
            if not getattr(self, key):
                raise LtcamError(f"search.{key} is empty; see conf/search/default.yaml")
        if self.folds < 2:
            raise LtcamError(f"search.folds={self.folds}: must be at least 2")


def folds_of(groups: Sequence[str], folds: int) -> dict[str, int]:
    """The fold of each item, by a fixed shuffle; of fewer items than folds, each is one.

    Raises:
        LtcamError: if there are fewer than two items.
    """
    items = sorted(set(groups))
    if len(items) < 2:
        raise LtcamError(
            f"evaluation.labels=pixel-val: {len(items)} item has defective training images, and "
            "folds need two; use evaluation.labels=image"
        )
    order = np.random.default_rng(0).permutation(len(items))
    return {items[item]: int(place % folds) for place, item in enumerate(order)}


def fold_ious(
    classifier: Classifier,
    source: HeatmapSource,
    drawings: Sequence[Drawing],
    samples: Sequence[Sample],
    folds: int,
    **options: Any,
) -> pd.DataFrame:
    """The IoU of each cell (row) on each fold's images (column), pooled over pixels, in per cent.

    Args:
        samples: defective, with true masks.
        folds: see `folds_of`.
        options: see `mapped`.

    Raises:
        LtcamError: if one has no mask, or none can be read.
    """
    fold = folds_of([sample.group for sample in samples], folds)
    results = map_and_segment(
        classifier, source, drawings, samples, masks=True, gate=False, **options
    )
    counts = [
        (result.cell, fold[result.item.sample.group], count.tp, count.tp + count.fp + count.fn)
        for result in results
        for count in [PixelCounts.of(result.mask, true_mask(result.item))]
    ]
    if not counts:
        raise LtcamError("none of the defective training images could be read")
    pooled = pd.DataFrame(counts, columns=["cell", "fold", "both", "either"])
    pooled = pooled.groupby(["cell", "fold"]).sum()
    ious = (100 * pooled["both"] / pooled["either"]).unstack("fold")
    return ious.rename(columns=FOLD.format)


def held_out(ious: pd.DataFrame) -> float:
    """What choosing gives on images that it has not seen: the mean over folds.

    The candidate with the highest mean over all other folds is scored on the one that was left
    out. The highest mean over all folds, in contrast, flatters: it is the best of many.

    Args:
        ious: of each candidate (row) on each fold (column).
    """
    scores = []
    for fold in ious.columns:
        others = ious.drop(columns=fold).mean(axis=1)
        if others.notna().any():
            scores.append(ious.loc[others.idxmax(), fold])
    return float(pd.Series(scores, dtype=float).mean())
