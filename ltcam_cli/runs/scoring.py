"""Masks against the true ones: counts, curves and intervals, image after image."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ltcam_cli.classifier.checkpoint import Classifier
from ltcam_cli.data.sample import Sample
from ltcam_cli.errors import LtcamError
from ltcam_cli.maps.engine import HeatmapSource
from ltcam_cli.runs.masking import (
    BatchMaps,
    ImageResult,
    Loading,
    MaskJob,
    batch_maps,
    in_background,
    true_mask,
)
from ltcam_cli.scores.curves import PixelCurves
from ltcam_cli.scores.intervals import bootstrap_iou, mean_iou
from ltcam_cli.scores.pixels import PixelCounts, pooled
from ltcam_cli.scores.regions import Truth, touched_regions
from ltcam_cli.scores.samples import seg_miou, seg_recall

NAN = float("nan")
COUNTS = ("tp", "fp", "fn", "tn", "regions", "touched", "false_regions")  # of an image
POOLED = (
    "iou precision recall f1 iou_low iou_high mean_iou pixel_ap aupro oracle_iou n_images "
    "undefined_iou regions_touched false_regions tp fp fn tn seg_miou seg_recall"
).split()


def mask_free(samples: Sequence[Sample]) -> bool:
    """Whether some samples are defective, and none of these has a true mask."""
    defective = [sample for sample in samples if sample.label]
    return bool(defective) and all(sample.read_mask is None for sample in defective)


def scorable(samples: Sequence[Sample]) -> list[Sample]:
    """Samples without the defective ones that lack a true mask; all where no mask is there."""
    if mask_free(samples):
        return list(samples)
    return [sample for sample in samples if sample.read_mask is not None or not sample.label]


@dataclass
class Scores:
    """Scores of one cell, image after image.

    Attributes:
        rows: Row of each image.
        counts: Pixel counts of each image; zeros of one whose true mask is unknown.
        groups: Physical item of each image.
        curves: Curves of the pixels.
        mask_free: Whether no true mask is there, and evidence stands in place of IoU.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    counts: list[PixelCounts] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    curves: PixelCurves = field(default_factory=PixelCurves)
    mask_free: bool = False

    def update(
        self, result: ImageResult, truth: Truth | None, *, gate: bool, evidence: float = NAN
    ) -> PixelCounts:
        """Count one image against its true mask; None: it is unknown, and its scores are NaN."""
        sample = result.item.sample
        counts, of_pixels = PixelCounts(), dict.fromkeys(COUNTS, NAN)
        if truth is not None:
            counts = PixelCounts.from_masks(result.mask, truth.mask)
            touched, regions, false_regions = touched_regions(result.mask, truth)
            silent = gate and not result.predicted
            self.curves.update(np.zeros_like(result.heatmap) if silent else result.heatmap, truth)
            values = (*astuple(counts), regions, touched, false_regions)
            of_pixels = dict(zip(COUNTS, values, strict=True))
        area = 100 * float(result.mask.mean())
        self.counts.append(counts)
        self.groups.append(sample.group)
        self.rows.append(
            {
                "name": sample.name,
                "group": sample.group,
                "label": sample.label,
                "probability": result.probability,
                "predicted": int(result.predicted),
                **({"kind": "+".join(sample.kinds)} if result.kinds.verdict.probabilities else {}),
                **result.kinds.verdict.columns(result.predicted),
                **counts.percent,
                **of_pixels,
                **({"evidence": evidence, "area": area} if self.mask_free else {}),
            }
        )
        return counts

    @property
    def table(self) -> pd.DataFrame:
        """A row an image; scores in per cent."""
        table = pd.DataFrame(self.rows)
        return table.astype(dict.fromkeys(COUNTS, "Int64")) if self.mask_free else table

    @property
    def curve(self) -> pd.DataFrame:
        """The pixels' precision-recall curve, in per cent; see `PixelCurves.precision_recall`."""
        return pd.DataFrame(100 * self.curves.precision_recall(), columns=["recall", "precision"])

    def summary(self) -> dict[str, Any]:
        """The cell's scores, in per cent, pooled over all images; NaN where undefined.

        Without masks all of pixels are NaN; instead there are the mean `evidence` of the defective
        images and the masks' mean `area` in per cent.
        """
        if self.mask_free:
            means = self.table[["evidence", "area"]].mean()
            return dict.fromkeys(POOLED, NAN) | {"n_images": len(self.rows), **means}
        total = pooled(self.counts)
        low, high = bootstrap_iou(self.counts, self.groups)
        defective = [c for c, row in zip(self.counts, self.rows, strict=True) if row["label"]]
        called = [bool(row["predicted"]) for row in self.rows if row["label"]]
        per_image, undefined = mean_iou(defective)
        regions = sum(row["regions"] for row in self.rows)
        touched = sum(row["touched"] for row in self.rows)
        false_regions = sum(row["false_regions"] for row in self.rows)
        return {
            **total.percent,
            "iou_low": 100 * low,
            "iou_high": 100 * high,
            "mean_iou": 100 * per_image,
            "pixel_ap": 100 * self.curves.pixel_ap,
            "aupro": 100 * self.curves.aupro,
            "oracle_iou": 100 * self.curves.oracle_iou,
            "n_images": len(self.rows),
            "undefined_iou": undefined,
            "regions_touched": 100 * touched / regions if regions else NAN,
            "false_regions": false_regions / len(self.rows) if self.rows else NAN,
            **asdict(total),
            "seg_miou": 100 * seg_miou(defective, called),
            "seg_recall": 100 * seg_recall(defective, called),
        }


def evaluate(
    classifier: Classifier,
    source: HeatmapSource,
    jobs: Sequence[MaskJob],
    samples: Sequence[Sample],
    loading: Loading,
    *,
    images: str = "defective",
    evidence: Callable[[ImageResult], float] | None = None,
    visit: Callable[[ImageResult, PixelCounts], None] | None = None,
) -> tuple[list[Scores], dict[str, Any]]:
    """Map, segment and score the images that count, for all jobs in one pass.

    Masks of a batch are made and scored while the heatmaps of the next one are made.

    Args:
        classifier: Trained classifier.
        source: Heatmap source.
        jobs: Mask jobs.
        samples: Labelled samples.
        loading: How images are loaded.
        images: Images that count; see `evaluation.images`.
        evidence: Criterion of defective images where no mask is there. With it the scores of an
            image whose true mask is unknown are NaN; None: that is an error.
        visit: Function that is shown each result with its counts, e.g. to draw it.

    Returns:
        Scores of each job; and of the loop, its `seconds` and the `skipped` images.

    Raises:
        LtcamError: If no image counts, or a defective one has no mask.
    """
    counted = [sample for sample in samples if images != "defective" or sample.label]
    if not counted:
        raise LtcamError("no defective image in this part; choose another evaluation.split")
    gate = images == "predicted"
    free = evidence is not None and mask_free(counted)
    scores = [Scores(mask_free=free) for _ in jobs]
    skipped: list[str] = []

    def score(batch: BatchMaps) -> None:
        item = None
        for result in batch.results(jobs, gate=gate):
            sample = result.item.sample
            if result.item is not item:  # an image's results come one after another
                lacking = result.item.mask is None and bool(sample.label)
                unknown = free or (evidence is not None and lacking)
                item, truth = result.item, None if unknown else Truth(true_mask(result.item))
            value = evidence(result) if free and evidence is not None and sample.label else NAN
            counts = scores[result.job].update(result, truth, gate=gate, evidence=value)
            if visit is not None:
                visit(result, counts)

    started = time.perf_counter()
    batches = batch_maps(
        classifier, source, counted, loading, masks=True, jobs=len(jobs), skipped=skipped
    )
    if free:  # the criterion runs the very network that the next batch's maps are captured from
        for batch in batches:
            score(batch)
    else:
        in_background(batches, score)
    seconds = time.perf_counter() - started
    if not scores[0].rows:
        raise LtcamError(f"none of the {len(counted)} images could be read")
    return scores, {"seconds": seconds, "skipped": len(skipped)}
