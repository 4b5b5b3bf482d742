"""A classifier, a heatmap source and segmenters -> masks, image by image.

Streamed: nothing grows with the data set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from typing import TypeVar

import numpy as np

from ltcam_cli.classifier.checkpoint import Classifier
from ltcam_cli.data.batches import Batch, Images, Item, batches
from ltcam_cli.data.sample import Sample
from ltcam_cli.errors import LtcamError
from ltcam_cli.maps.engine import Heatmaps, HeatmapSource, wanted_size
from ltcam_cli.maps.fusion import at_size
from ltcam_cli.masks.inputs import SegInput
from ltcam_cli.progress import Progress
from ltcam_cli.runs.kinds import ImageKinds, image_kinds

T = TypeVar("T")


@dataclass(frozen=True)
class MaskJob:
    """One of a source's maps, and the segmenter that makes a mask of it.

    Attributes:
        map: Number of the map, as the source lists them.
        segmenter: Mask (H, W) bool of a heatmap and its image: a calibrated `Segmenter`.
        kind: Kind of defect that the map is of; None: of any.
    """

    map: int
    segmenter: Callable[[SegInput], np.ndarray]
    kind: str | None = None


@dataclass(frozen=True)
class Loading:
    """How images are loaded.

    Attributes:
        batch_size: Images of one forward.
        workers: Loading processes; None: the device's usual number.
        on_error: `raise`, or `skip` images that cannot be read.
        progress: Title of a progress bar; None: no bar.
        skip_key: Key that sets `on_error`, for errors.
    """

    batch_size: int = 8
    workers: int | None = None
    on_error: str = "raise"
    progress: str | None = None
    skip_key: str = "dataset.on_error"


@dataclass(frozen=True)
class ImageResult:
    """One image and what was made of it.

    Attributes:
        item: Sample with original pixels, and its true mask where there is one.
        heatmap: (H, W) float32.
        mask: (H, W) bool.
        probability: Probability of a defect.
        predicted: Whether the classifier calls it defective.
        job: Number of the mask job.
        kinds: Kinds of the image; they say nothing if the classifier tells none apart.
        kind: Kind of defect that the heatmap is of; None: of any.
    """

    item: Item
    heatmap: np.ndarray
    mask: np.ndarray
    probability: float
    predicted: bool
    job: int = 0
    kinds: ImageKinds = field(default_factory=ImageKinds)
    kind: str | None = None

    @property
    def masks(self) -> dict[str, np.ndarray]:
        """The parts (H, W) bool of the mask by their kind; empty if there are no kinds."""
        return self.kinds.of_mask(self.mask, self.kind)


@dataclass(frozen=True)
class BatchMaps:
    """A batch and its heatmaps, still on the model's device and at the size of its images.

    Kinds are told beforehand, since the model must not run beside the next batch's capture.
    """

    batch: Batch
    heatmaps: Heatmaps
    classifier: Classifier
    progress: Progress
    kinds: Sequence[ImageKinds]

    def results(self, jobs: Sequence[MaskJob], *, gate: bool) -> Iterator[ImageResult]:
        """Heatmap and mask of each image, job by job; those of one map one after another.

        Args:
            jobs: Mask jobs; those of one map share its up-scaling.
            gate: Whether an image that the classifier calls good gets an empty mask; of a map of
                one kind, also an image that it does not call so.
        """
        heatmaps = self.heatmaps.to_host()
        numbered = sorted(enumerate(jobs), key=lambda pair: pair[1].map)
        probabilities = self.classifier.probability(heatmaps.logits.float()).tolist()
        for index, (item, probability, kinds) in enumerate(
            zip(self.batch.items, probabilities, self.kinds, strict=True)
        ):
            assert item.original is not None
            size = (item.original.shape[0], item.original.shape[1])
            predicted = probability >= self.classifier.threshold
            for number, of_map in groupby(numbered, key=lambda pair: pair[1].map):
                maps = heatmaps.maps[number][index : index + 1]
                heatmap = at_size(maps, size, self.classifier.fit)[0]
                for job_number, job in of_map:
                    called = predicted and job.kind in {None, *kinds.verdict.likely}
                    if gate and not called:
                        mask = np.zeros(size, dtype=bool)
                    else:
                        mask = job.segmenter(SegInput(heatmap, item.original))
                    yield ImageResult(
                        item, heatmap, mask, probability, predicted, job_number, kinds, job.kind
                    )
                    self.progress.update()


def batch_maps(
    classifier: Classifier,
    source: HeatmapSource,
    samples: Sequence[Sample],
    loading: Loading,
    *,
    masks: bool,
    jobs: int = 1,
    skipped: list[str] | None = None,
) -> Iterator[BatchMaps]:
    """Heatmaps of each batch; images are decoded and resized ahead.

    Args:
        classifier: Classifier that prepares the images.
        source: Source of one map, or of several.
        samples: Samples in the order wanted.
        loading: How they are loaded.
        masks: Whether the true masks are read, too.
        jobs: Masks that are made of each image.
        skipped: List that collects the names of images that cannot be read.
    """
    size = wanted_size(source) or classifier.size
    height, width = (None, None) if isinstance(size, str) else size
    images = Images(
        samples,
        height,
        width,
        classifier.in_channels,
        fit=classifier.fit,
        originals=True,
        masks=masks,
        on_error=loading.on_error,
        skip_key=loading.skip_key,
    )
    pin = any(p.is_cuda for p in classifier.model.parameters())  # an ONNX file has none
    shown, unit = bool(loading.progress), "mask" if jobs > 1 else "image"
    with Progress(loading.progress or "", jobs * len(samples), unit, shown=shown) as progress:
        batch_size = loading.batch_size if height else 1  # images of their own sizes: no batch
        for batch in batches(images, batch_size, workers=loading.workers, pin=pin):
            progress.update(jobs * len(batch.skipped))
            if skipped is not None:
                skipped += batch.skipped
            if batch.items:
                heatmaps = source(classifier.prepare(batch.images))
                kinds = image_kinds(classifier, batch.images, heatmaps.logits)
                yield BatchMaps(batch, heatmaps, classifier, progress, kinds)


def mask_images(
    classifier: Classifier,
    source: HeatmapSource,
    jobs: Sequence[MaskJob],
    samples: Sequence[Sample],
    loading: Loading,
    *,
    masks: bool = False,
    gate: bool = False,
) -> Iterator[ImageResult]:
    """Heatmap and mask of each sample, as they are ready: image by image, job by job.

    Arguments as of `batch_maps` and `BatchMaps.results`.
    """
    for batch in batch_maps(classifier, source, samples, loading, masks=masks, jobs=len(jobs)):
        yield from batch.results(jobs, gate=gate)


def in_background(items: Iterable[T], use: Callable[[T], None]) -> None:
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
