"""Segmenters that must see training images first: images and labels, no mask.

What they learn is kept in the run folder, `segmenters/<segmenter>-<hash>.json`, so that `predict`
needs no data set.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from ltcam_cli.data.sample import Sample
from ltcam_cli.errors import LtcamError
from ltcam_cli.experiments.session import Session
from ltcam_cli.experiments.settings import Pipeline
from ltcam_cli.experiments.sources import distinct, heatmap_source, passes
from ltcam_cli.files import exclusive, read_json, short_hash, write_json
from ltcam_cli.masks.inputs import Calibrator, SegInput
from ltcam_cli.masks.segmenters import Segmenter
from ltcam_cli.progress import track
from ltcam_cli.runs.identity import Identity
from ltcam_cli.runs.masking import Loading, MaskJob, mask_images

log = logging.getLogger(__name__)
LABELS = ("good", "defective")


def calibrated_segmenters(session: Session, pipelines: Sequence[Pipeline]) -> list[Segmenter]:
    """Segmenter of each pipeline, calibrated if it must be; those that are not yet, together.

    Raises:
        LtcamError: If the data set is absent and a segmenter was never calibrated.
    """
    segmenters = [Segmenter(pipeline.segmenter) for pipeline in pipelines]
    places = [place_of(session, pipeline) for pipeline in pipelines]
    open_ones = {place: number for number, place in enumerate(places) if place is not None}
    folder = session.run.path / "segmenters"
    if open_ones and not _all_read(session, segmenters, places):
        with exclusive(folder / "calibration"):
            # Another process may have calibrated them meanwhile.
            if not _all_read(session, segmenters, places):
                numbers = list(open_ones.values())
                calibrate(
                    session, [pipelines[n] for n in numbers], [segmenters[n] for n in numbers]
                )
                for place, number in open_ones.items():
                    _write(session, place, pipelines[number], segmenters[number])
                _all_read(session, segmenters, places, overwrite=False)
    return segmenters


def calibration_identity(session: Session, pipeline: Pipeline) -> Identity | None:
    """What decides a calibration, besides the images; None where there is none."""
    calibrators = Segmenter(pipeline.segmenter).calibrators
    if not calibrators:
        return None
    segmenter = pipeline.segmenter
    reads_maps = any(calibrator.reads_maps for calibrator in calibrators)
    maps = {
        "method": pipeline.method,
        "tta": pipeline.tta,
        **session.source_parts,
    }
    return Identity(
        "segmenter",
        {
            "rule": segmenter.rule,
            "options": segmenter.options,
            "refine": segmenter.refine,
            "dataset": session.settings.dataset,
            "checkpoint": session.checkpoint,
            "maps": maps if reads_maps else {},
        },
    )


def training_digest(session: Session) -> str | None:
    """Hash of the training images that segmenters are calibrated on; None where they are absent."""
    try:
        return session.training_digest
    except LtcamError as error:
        log.debug("calibration without the data set: %s", error)
        return None


def calibration_digest(session: Session, pipeline: Pipeline) -> str:
    """Hash of what a segmenter's calibration is made of, for identities; empty without one."""
    place = place_of(session, pipeline)
    if place is None:
        return ""
    images = training_digest(session)
    if images is None:
        images = _kept(session, place)["images"]
    return f"{place.stem.rpartition('-')[2]}-{images}"


def place_of(session: Session, pipeline: Pipeline) -> Path | None:
    """File of what the pipeline's segmenter learnt; None where it learns nothing."""
    identity = calibration_identity(session, pipeline)
    if identity is None:
        return None
    return session.run.path / "segmenters" / f"{pipeline.segmenter.label}-{identity.hash}.json"


def _all_read(
    session: Session,
    segmenters: Sequence[Segmenter],
    places: Sequence[Path | None],
    overwrite: bool | None = None,
) -> bool:
    """Whether what all of them learnt could be read, of the training images that are there."""
    if session.settings.overwrite if overwrite is None else overwrite:
        return False
    images = training_digest(session)
    for segmenter, place in zip(segmenters, places, strict=True):
        if place is None:
            continue
        if not place.is_file():
            if images is None:
                _kept(session, place)  # says that there is neither
            return False
        kept = _kept(session, place)
        if images is not None and kept["images"] != images:
            return False
        for calibrator, state in zip(segmenter.calibrators, kept["states"], strict=True):
            calibrator.state = state
    return True


def _kept(session: Session, place: Path) -> dict[str, Any]:
    try:
        kept = dict(read_json(place))
        assert kept["digest"] == short_hash([kept["images"], kept["states"]], 12)
    except FileNotFoundError:
        label = place.stem.rpartition("-")[0]
        try:
            _ = session.training_images
        except LtcamError as error:
            raise LtcamError(
                f"segmenter {label}: learns from training images, and {error}; or evaluate the run "
                "once with this segmenter where they are"
            ) from error
        raise
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise LtcamError(f"{place}: is damaged; delete it") from error
    return kept


def _write(session: Session, place: Path, pipeline: Pipeline, segmenter: Segmenter) -> None:
    identity = calibration_identity(session, pipeline)
    assert identity is not None
    states = [calibrator.state for calibrator in segmenter.calibrators]
    images = training_digest(session)
    digest = short_hash([images, states], 12)
    learnt = {"images": images, "states": states, "digest": digest}
    write_json(place, {"identity": identity.mapping, **learnt})


@dataclass(frozen=True)
class _Recorder:
    """A calibrator in a segmenter's place: it sees each image, and its masks are empty."""

    calibrator: Calibrator
    calibrators: tuple[Calibrator, ...] = ()

    def __call__(self, given: SegInput) -> np.ndarray:
        """An empty mask."""
        self.calibrator.partial_fit(given)
        return np.zeros(given.heatmap.shape, dtype=bool)


def calibrate(
    session: Session, pipelines: Sequence[Pipeline], segmenters: Sequence[Segmenter]
) -> None:
    """Calibrate segmenters, each with the maps that it will read.

    The first calibrators of all take one pass over the training images of a label, then the second
    ones, and so on; a pass in which none reads heatmaps makes none.

    Raises:
        LtcamError: If there is no image with the label that a calibrator wants.
    """
    for round_ in zip_longest(*(segmenter.calibrators for segmenter in segmenters)):
        for label, word in enumerate(LABELS):
            chosen = [
                (number, calibrator)
                for number, calibrator in enumerate(round_)
                if calibrator is not None and calibrator.label == label
            ]
            if not chosen:
                continue
            samples = [s for s in session.training_images if s.label == label]
            if any(calibrator.reads_maps for _, calibrator in chosen):
                count = _fit_on_maps(session, pipelines, chosen, samples)
            else:
                count = _fit_on_images(session, [c for _, c in chosen], samples)
            if not count:
                raise LtcamError(
                    f"the segmenter learns from {word} training images, and none of them could be "
                    "read; choose another dataset.split or segmenter"
                )
            for _, calibrator in chosen:
                calibrator.finalize()


def _fit_on_maps(
    session: Session,
    pipelines: Sequence[Pipeline],
    chosen: Sequence[tuple[int, Calibrator]],
    samples: Sequence[Sample],
) -> int:
    """Show images and their heatmaps; how many images there were."""
    count = 0
    calibrated = [pipelines[number] for number, _ in chosen]
    for numbers in passes(calibrated):
        methods = [calibrated[number].method for number in numbers]
        drawn = distinct(methods)
        jobs = [
            MaskJob(drawn.index(method), _Recorder(chosen[number][1]))
            for number, method in zip(numbers, methods, strict=True)
        ]
        labels = dict.fromkeys(calibrated[number].segmenter.label for number in numbers)
        loading = session.loading(f"segmenter {' '.join(labels)}")
        source = heatmap_source(session, drawn, calibrated[numbers[0]].tta)
        results = mask_images(session.classifier, source, jobs, samples, loading)
        count += sum(1 for _ in results)
    return count


def _fit_on_images(
    session: Session, calibrators: Sequence[Calibrator], samples: Sequence[Sample]
) -> int:
    """Show images alone; how many there were."""
    count = 0
    for image in readable_images(samples, session.loading()):
        given = SegInput(np.zeros(image.shape[:2], np.float32), image)
        for calibrator in calibrators:
            calibrator.partial_fit(given)
        count += 1
    return count


def readable_images(samples: Sequence[Sample], loading: Loading) -> Iterator[np.ndarray]:
    """Pixels of the samples; those that cannot be read are an error, or left out."""
    for sample in track(samples, loading.progress or "reading images"):
        try:
            yield sample.image
        except LtcamError as error:
            if loading.on_error != "skip":
                raise
            log.warning("skipped: %s", error)
