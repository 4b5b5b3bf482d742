"""A classifier, a heatmap source and a segmenter -> scored masks, image by image.

Streamed: nothing grows with the data set but the rows of the per-image table.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from ltcam_cli.classifier.checkpoint import Classifier
from ltcam_cli.data.batches import Batch, Images, Item, batches
from ltcam_cli.data.sample import Sample
from ltcam_cli.errors import LtcamError, nearest
from ltcam_cli.maps.engine import Heatmaps, HeatmapSource, wanted_size
from ltcam_cli.masks.inputs import SegInput
from ltcam_cli.masks.segmenters import Segmenter, at_size
from ltcam_cli.scores.curves import PixelCurves
from ltcam_cli.scores.intervals import bootstrap_iou, mean_iou
from ltcam_cli.scores.pixels import PixelCounts, pooled
from ltcam_cli.scores.regions import Truth, touched_regions
from ltcam_cli.scores.samples import seg_miou, seg_recall

T = TypeVar("T")
IMAGES = ("defective", "predicted", "all")
LABELS = ("image", "pixel-val")


@dataclass
class EvaluationConfig:
    """What is evaluated (conf/evaluation/*.yaml).

    Attributes:
        images: which count: `defective`; `predicted`: all, and an image that the classifier calls
            clean gets an empty mask, as on a production line; `all`, whatever it is called.
        split: `test`, `train` or `all`.
        batch_size: images of one forward.
        workers: loading processes; None for 0 on CPUs, where a thread loads ahead, and up to 8 on
            GPUs.
        overlays: pictures that are written, defective images first; None for all.
        save_maps: write heatmaps as float32 (H, W) at the image's own size.
        labels: what `method.delta=auto` may read of the training part: `image` labels alone, or
            its true masks as well (`pixel-val`).
        deltas: what `method.delta=auto` chooses from.
        masks_chose: whether masks of training images chose the pipeline before, as `ltcam search`
            may; then the row's labels are `pixel-val`.
    """

    images: str = "defective"
    split: str = "test"
    batch_size: int = 8
    workers: int | None = None
    overlays: int | None = 20
    save_maps: bool = False
    labels: str = "image"
    deltas: list[float] = field(default_factory=lambda: [10.0 * step for step in range(10)])
    masks_chose: bool = False

    def __post_init__(self) -> None:
        if self.labels not in LABELS:
            raise LtcamError(
                f"evaluation.labels={self.labels}: unknown{nearest(self.labels, LABELS)}"
            )
        if not self.deltas:
            raise LtcamError("evaluation.deltas is empty; give percentiles, e.g. [0,50,90]")
        if self.images not in IMAGES:
            raise LtcamError(
                f"evaluation.images={self.images}: unknown{nearest(self.images, IMAGES)}"
            )
        if self.batch_size < 1:
            raise LtcamError(f"evaluation.batch_size={self.batch_size}: must be at least 1")


@dataclass(frozen=True)
class Drawing:
    """A cell: which of a source's maps, and who draws a mask from it.

    Attributes:
        map: number of the map, as the source lists them.
        segmenter: fitted, if it must be.
    """

    map: int
    segmenter: Segmenter


def drawn_by(segmenter: Segmenter, maps: int = 1) -> list[Drawing]:
    """The cells of one segmenter for all of a source's maps."""
    return [Drawing(number, segmenter) for number in range(maps)]


@dataclass(frozen=True)
class ImageResult:
    """One image and what was made of it.

    Attributes:
        item: sample with original pixels, and its true mask where there is one.
        heatmap: (H, W) float32.
        mask: (H, W) bool.
        probability: of a defect.
        predicted: whether the classifier calls it defective.
        cell: number of the drawing.
    """

    item: Item
    heatmap: np.ndarray
    mask: np.ndarray
    probability: float
    predicted: bool
    cell: int = 0


@dataclass(frozen=True)
class Mapped:
    """A batch and its heatmaps, still on the model's device and at the size of its images."""

    batch: Batch
    found: Heatmaps
    classifier: Classifier

    def results(self, drawings: Sequence[Drawing], *, gate: bool) -> Iterator[ImageResult]:
        """Heatmap and mask of each image, cell by cell; those of one map one after another.

        Args:
            drawings: the cells; of one map, they share its up-scaling.
            gate: empty masks for images that the classifier calls clean.
        """
        found = self.found.to_host()
        numbered = sorted(enumerate(drawings), key=lambda cell: cell[1].map)
        probabilities = self.classifier.probability(found.logits.float()).tolist()
        for index, (item, probability) in enumerate(
            zip(self.batch.items, probabilities, strict=True)
        ):
            assert item.original is not None
            size = (item.original.shape[0], item.original.shape[1])
            predicted = probability >= self.classifier.threshold
            for number, cells in groupby(numbered, key=lambda cell: cell[1].map):
                heatmap = at_size(found.maps[number][index : index + 1], size)[0]
                for cell, drawing in cells:
                    if gate and not predicted:
                        mask = np.zeros(size, dtype=bool)
                    else:
                        mask = drawing.segmenter(SegInput(heatmap, item.original))
                    yield ImageResult(item, heatmap, mask, probability, predicted, cell)


def mapped(
    classifier: Classifier,
    source: HeatmapSource,
    samples: Sequence[Sample],
    *,
    masks: bool,
    batch_size: int,
    workers: int | None = None,
    on_error: str = "raise",
    skipped: list[str] | None = None,
    progress: str | None = None,
) -> Iterator[Mapped]:
    """The heatmaps of each batch; images are decoded and resized ahead.

    Args:
        classifier: prepares the images and says which are defective.
        source: of one map, or of several.
        samples: in the order wanted.
        masks: read the true masks too.
        batch_size, workers, on_error: of loading.
        skipped: collects the names of images that cannot be read.
        progress: title of a progress bar.
    """
    size = wanted_size(source) or (classifier.height, classifier.width)
    height, width = (None, None) if isinstance(size, str) else size
    images = Images(
        samples,
        height,
        width,
        classifier.in_channels,
        originals=True,
        masks=masks,
        on_error=on_error,
    )
    pin = any(p.is_cuda for p in classifier.model.parameters())  # an ONNX file has none
    with tqdm(
        total=len(samples), desc=progress, unit="image", disable=None if progress else True
    ) as bar:
        at_once = batch_size if height else 1  # images of their own sizes make no batch
        for batch in batches(images, at_once, workers=workers, pin=pin):
            bar.update(len(batch.items) + len(batch.skipped))
            if skipped is not None:
                skipped += batch.skipped
            if batch.items:
                yield Mapped(batch, source(classifier.prepare(batch.images)), classifier)


def map_and_segment(
    classifier: Classifier,
    source: HeatmapSource,
    drawings: Sequence[Drawing],
    samples: Sequence[Sample],
    *,
    gate: bool,
    **options: Any,
) -> Iterator[ImageResult]:
    """Heatmap and mask of each sample, as they are ready: image by image, cell by cell.

    Args:
        drawings, gate: see `Mapped.results`.
        options: and all else: see `mapped`.
    """
    for batch in mapped(classifier, source, samples, **options):
        yield from batch.results(drawings, gate=gate)


def overlapped(items: Iterable[T], use: Callable[[T], None]) -> None:
    """Use each item, in order and in a thread of its own, while the next one is made.

    At most one item waits to be used. An error of either side ends both.
    """
    with ThreadPoolExecutor(1) as pool:
        using: Future[None] | None = None
        for item in items:
            if using is not None:
                using.result()
            using = pool.submit(use, item)
        if using is not None:
            using.result()


@dataclass
class Scores:
    """Scores of one cell, image after image."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    counts: list[PixelCounts] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    curves: PixelCurves = field(default_factory=PixelCurves)

    def update(self, result: ImageResult, truth: Truth, *, gate: bool) -> PixelCounts:
        """Count one image against its true mask."""
        sample = result.item.sample
        counts = PixelCounts.of(result.mask, truth.mask)
        touched, regions, false_regions = touched_regions(result.mask, truth)
        silent = gate and not result.predicted
        self.curves.update(np.zeros_like(result.heatmap) if silent else result.heatmap, truth)
        self.counts.append(counts)
        self.groups.append(sample.group)
        self.rows.append(
            {
                "name": sample.name,
                "group": sample.group,
                "label": sample.label,
                "probability": result.probability,
                "predicted": int(result.predicted),
                "iou": 100 * counts.iou,
                "precision": 100 * counts.precision,
                "recall": 100 * counts.recall,
                "f1": 100 * counts.f1,
                "tp": counts.tp,
                "fp": counts.fp,
                "fn": counts.fn,
                "tn": counts.tn,
                "regions": regions,
                "touched": touched,
                "false_regions": false_regions,
            }
        )
        return counts

    @property
    def table(self) -> pd.DataFrame:
        """A row an image; scores in per cent."""
        return pd.DataFrame(self.rows)

    @property
    def curve(self) -> pd.DataFrame:
        """The pixels' precision-recall curve, in per cent; see `PixelCurves.precision_recall`."""
        return pd.DataFrame(100 * self.curves.precision_recall(), columns=["recall", "precision"])

    def summary(self) -> dict[str, Any]:
        """The cell's scores, in per cent, pooled over all images; NaN where undefined."""
        total = pooled(self.counts)
        low, high = bootstrap_iou(self.counts, self.groups)
        defective = [c for c, row in zip(self.counts, self.rows, strict=True) if row["label"]]
        called = [bool(row["predicted"]) for row in self.rows if row["label"]]
        per_image, undefined = mean_iou(defective)
        regions = sum(row["regions"] for row in self.rows)
        touched = sum(row["touched"] for row in self.rows)
        return {
            "iou": 100 * total.iou,
            "precision": 100 * total.precision,
            "recall": 100 * total.recall,
            "f1": 100 * total.f1,
            "iou_low": 100 * low,
            "iou_high": 100 * high,
            "mean_iou": 100 * per_image,
            "pixel_ap": 100 * self.curves.pixel_ap,
            "aupro": 100 * self.curves.aupro,
            "oracle_iou": 100 * self.curves.oracle_iou,
            "n_images": len(self.rows),
            "undefined_iou": undefined,
            "regions_touched": 100 * touched / regions if regions else float("nan"),
            "false_regions": (
                sum(row["false_regions"] for row in self.rows) / len(self.rows)
                if self.rows
                else float("nan")
            ),
            "tp": total.tp,
            "fp": total.fp,
            "fn": total.fn,
            "tn": total.tn,
            "seg_miou": 100 * seg_miou(defective, called),
            "seg_recall": 100 * seg_recall(defective, called),
        }


def evaluate(
    classifier: Classifier,
    source: HeatmapSource,
    drawings: Sequence[Drawing],
    samples: Sequence[Sample],
    config: EvaluationConfig,
    *,
    on_error: str = "raise",
    visit: Callable[[ImageResult, PixelCounts], None] | None = None,
    progress: str | None = None,
) -> tuple[list[Scores], dict[str, Any]]:
    """Map, segment and score the images that count, for all cells in one pass.

    Masks of a batch are drawn and scored while the heatmaps of the next one are made.

    Args:
        visit: is shown each result with its counts, e.g. to draw it.

    Returns:
        The scores of each cell; and of the loop, its `seconds` and the `skipped` images.

    Raises:
        LtcamError: if no image counts, or a defective one has no mask.
    """
    counted = [s for s in samples if config.images != "defective" or s.label]
    if not counted:
        raise LtcamError("no defective image in this split; choose another evaluation.split")
    gate = config.images == "predicted"
    scores, skipped = [Scores() for _ in drawings], list[str]()

    def score(batch: Mapped) -> None:
        item = None
        for result in batch.results(drawings, gate=gate):
            if result.item is not item:  # an image's results come one after another
                item, truth = result.item, Truth(true_mask(result.item))
            counts = scores[result.cell].update(result, truth, gate=gate)
            if visit is not None:
                visit(result, counts)

    started = time.perf_counter()
    overlapped(
        mapped(
            classifier,
            source,
            counted,
            masks=True,
            batch_size=config.batch_size,
            workers=config.workers,
            on_error=on_error,
            skipped=skipped,
            progress=progress,
        ),
        score,
    )
    seconds = time.perf_counter() - started
    if not scores[0].rows:
        raise LtcamError(f"none of the {len(counted)} images could be read")
    return scores, {"seconds": seconds, "skipped": len(skipped)}


def true_mask(item: Item) -> np.ndarray:
    """(H, W) bool; all background for a good image without a mask.

    Raises:
        LtcamError: if a defective image has no mask.
    """
    if item.mask is not None:
        return item.mask
    if item.sample.label:
        raise LtcamError(
            f"{item.sample.name}: is defective and has no mask to be scored against; "
            "add it to masks/, or use: ltcam predict"
        )
    assert item.original is not None
    return np.zeros(item.original.shape[:2], dtype=bool)


def use_threads(count: int | None) -> None:
    """Let torch use `count` CPU threads; None leaves its own choice."""
    if count is not None:
        if count < 1:
            raise LtcamError(f"threads={count}: must be at least 1")
        torch.set_num_threads(count)
