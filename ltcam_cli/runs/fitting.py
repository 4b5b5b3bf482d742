"""Segmenters that must see training images first, shown them: images and labels, no mask."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from ltcam_cli.classifier.checkpoint import Classifier
from ltcam_cli.data.sample import Sample
from ltcam_cli.errors import LtcamError
from ltcam_cli.maps.engine import HeatmapSource
from ltcam_cli.masks.inputs import Lesson, SegInput
from ltcam_cli.runs.evaluation import Drawing, map_and_segment

log = logging.getLogger(__name__)
WORDS = ("good", "defective")


@dataclass(frozen=True)
class Listener:
    """A lesson in a segmenter's place: it learns, and draws nothing."""

    lesson: Lesson
    lessons: tuple[Lesson, ...] = ()

    def __call__(self, given: SegInput) -> np.ndarray:
        """An empty mask."""
        self.lesson.learn(given)
        return np.zeros(given.heatmap.shape, dtype=bool)


def fit(
    classifier: Classifier,
    source: HeatmapSource,
    drawings: Sequence[Drawing],
    samples: Sequence[Sample],
    *,
    batch_size: int,
    on_error: str = "raise",
    progress: str | None = None,
) -> None:
    """Let the cells' segmenters learn their lessons, each with the maps it will draw from.

    The first lessons of all of them take one pass over the images, then the second ones, and so
    on; a pass in which none reads heatmaps makes none.

    Args:
        drawings: of segmenters of their own.
        samples: labelled; masks are not read.

    Raises:
        LtcamError: if there is no image with the label that a lesson wants.
    """
    for at_once in zip_longest(*(drawing.segmenter.lessons for drawing in drawings)):
        for label, word in enumerate(WORDS):
            listeners = [
                Drawing(drawing.map, Listener(lesson))
                for drawing, lesson in zip(drawings, at_once, strict=True)
                if lesson is not None and lesson.label == label
            ]
            if not listeners:
                continue
            shown = 0
            chosen = [sample for sample in samples if sample.label == label]
            lessons = [each.segmenter.lesson for each in listeners]  # type: ignore[attr-defined]
            if any(lesson.reads_maps for lesson in lessons):
                for _ in map_and_segment(
                    classifier,
                    source,
                    listeners,
                    chosen,
                    gate=False,
                    masks=False,
                    batch_size=batch_size,
                    on_error=on_error,
                    progress=progress,
                ):
                    shown += 1
            else:
                for image in images_of(chosen, on_error):
                    given = SegInput(np.zeros(image.shape[:2], np.float32), image)
                    for lesson in lessons:
                        lesson.learn(given)
                    shown += 1
            if not shown:
                raise LtcamError(
                    f"the segmenter learns from {word} training images, and none of them could be "
                    "read; choose another dataset.split or segmenter"
                )
            for lesson in lessons:
                lesson.conclude()


def images_of(samples: Sequence[Sample], on_error: str) -> Iterator[np.ndarray]:
    """Their pixels; those that cannot be read are an error, or left out."""
    for sample in samples:
        try:
            yield sample.image
        except LtcamError as error:
            if on_error != "skip":
                raise
            log.warning("skipped: %s", error)
