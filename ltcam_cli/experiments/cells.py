"""Cells: pipelines scored on a part of the data set. Plan, then run what is missing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from ltcam_cli.data.listing import stem_of
from ltcam_cli.data.sample import content_of
from ltcam_cli.errors import DamagedFileError, LtcamError
from ltcam_cli.experiments.calibration import calibrated_segmenters, calibration_digest
from ltcam_cli.experiments.cell_pictures import Pictures
from ltcam_cli.experiments.config import EvaluationConfig
from ltcam_cli.experiments.evidence import Evidence
from ltcam_cli.experiments.session import Session
from ltcam_cli.experiments.settings import Pipeline
from ltcam_cli.experiments.sources import distinct, heatmap_source, kind_of, passes, resolved
from ltcam_cli.experiments.tasks import Row
from ltcam_cli.files import write_json, write_table
from ltcam_cli.maps.method import AUTO
from ltcam_cli.runs.cells import PICTURES, Cell
from ltcam_cli.runs.folder import write_config
from ltcam_cli.runs.identity import Identity
from ltcam_cli.runs.masking import MaskJob
from ltcam_cli.runs.scoring import Scores, evaluate, scorable
from ltcam_cli.runs.tables import add_rows

log = logging.getLogger("ltcam_cli")


@dataclass(frozen=True)
class ChosenPipeline:
    """A pipeline whose δ is a number or None, and how it came by it.

    Attributes:
        pipeline: Method, segmenter, test-time augmentation.
        supervision: Labels that chose δ, `image` or `pixel`; empty where nothing was chosen.
        curve: δ, criterion and `chosen`; a row a candidate.
    """

    pipeline: Pipeline
    supervision: str = ""
    curve: pd.DataFrame | None = None


@dataclass(frozen=True)
class CellJob:
    """A cell that is to be scored.

    Attributes:
        chosen: Pipeline with its δ.
        identity: All that decides the scores.
        folder: Folder of the cell.
    """

    chosen: ChosenPipeline
    identity: Identity
    folder: Path

    @property
    def pipeline(self) -> Pipeline:
        """Method, segmenter, test-time augmentation."""
        return self.chosen.pipeline

    def finished(self, evaluation: EvaluationConfig) -> bool:
        """Whether the cell is there, with its maps where they are wanted."""
        if not (self.folder / "metrics.json").is_file():
            return False
        try:
            _ = Cell(self.folder).metrics
        except DamagedFileError as error:
            log.warning("%s; it is computed anew", error)
            return False
        return not evaluation.save_maps or (self.folder / "maps").is_dir()


def plan(session: Session, pipelines: Sequence[ChosenPipeline]) -> list[CellJob]:
    """A job for each pipeline. Nothing is computed.

    Raises:
        LtcamError: If a method, layer or student does not exist, or masks are there that fit no
            image: evidence must not stand in their place without a word.
    """
    evaluation = session.settings.evaluation
    part = session.split.part(evaluation.split)
    samples = scorable(part)
    if (folder := session.split.unread_masks) and not any(sample.read_mask for sample in samples):
        raise LtcamError(
            f"{folder}: none of its files is the mask of an image; give image files with the "
            "images' names, or move it away to evaluate without masks"
        )
    if left_out := len(part) - len(samples):
        log.warning("left out: %d defective images without a mask", left_out)
    images = content_of(samples, masks=True)
    jobs = []
    for chosen in pipelines:
        method = resolved(session, chosen.pipeline.method)
        method.check()
        pipeline = replace(chosen.pipeline, method=method)
        supervision = "pixel" if evaluation.masks_chose else chosen.supervision
        identity = Identity(
            "cell",
            {
                **session.source_parts,
                **session.decision_parts,
                "method": method,
                "segmenter": pipeline.segmenter,
                "calibration": calibration_digest(session, pipeline),
                "tta": pipeline.tta,
                "split": evaluation.split,
                "counted": evaluation.images,
                "images": images,
                "supervision": supervision,
            },
        )
        name = f"{_stem(session, pipeline, supervision)}-{identity.hash}"
        one = replace(chosen, pipeline=pipeline, supervision=supervision)
        jobs.append(CellJob(one, identity, session.run.path / "evaluate" / name))
    return jobs


def _stem(session: Session, pipeline: Pipeline, supervision: str) -> str:
    """Readable part of a cell's name."""
    settings, method = session.settings, pipeline.method
    delta = method.delta
    words = [
        method.name,
        *([] if delta is None else [f"{AUTO if supervision else 'd'}{delta:g}"]),
        str(method.layers),
        pipeline.segmenter.label,
        settings.evaluation.images,
        *([] if settings.evaluation.split == "test" else [settings.evaluation.split]),
        *(["tta"] if pipeline.tta.label else []),
        *(["ensemble"] if settings.ensemble else []),
    ]
    return stem_of("-".join(words))


def run(session: Session, jobs: Sequence[CellJob]) -> tuple[list[Row], float]:
    """Score the cells that are missing, in as few passes over the images as they take.

    Returns:
        Rows of all jobs, and the seconds of the loops.
    """
    settings = session.settings
    folders = {job.folder: job for job in jobs}
    missing = []
    for job in folders.values():
        if settings.overwrite or not job.finished(settings.evaluation):
            missing.append(job)
        else:
            log.info("%s: is there already; overwrite=true computes it anew", job.folder)
    seconds = 0.0
    for numbers in passes([job.pipeline for job in missing]):
        seconds += _run_pass(session, [missing[number] for number in numbers])
    rows = {folder: Cell(folder).metrics for folder in folders}
    add_rows(session.run, list(rows.values()))
    part = session.split.part(settings.evaluation.split)
    kinds = {sample.name: sample.kinds for sample in part if sample.kinds}  # those of now
    for folder in folders if kinds else ():
        Cell(folder).write_kinds(kinds)
    return [rows[job.folder] for job in jobs], seconds


def _run_pass(session: Session, jobs: Sequence[CellJob]) -> float:
    """Score cells in one pass over the images, and write them; the seconds of the loop."""
    evaluation = session.settings.evaluation
    samples = scorable(session.split.part(evaluation.split))
    pipelines = [job.pipeline for job in jobs]
    source, mask_jobs = masks_of(session, pipelines)
    title = " ".join(dict.fromkeys(pipeline.method.name for pipeline in pipelines))
    pictures = Pictures([job.folder for job in jobs], samples, evaluation)
    scores, loop = evaluate(
        session.classifier,
        source,
        mask_jobs,
        samples,
        session.loading(title, workers=True),
        images=evaluation.images,
        evidence=Evidence(session.classifier),
        visit=pictures,
    )
    share = loop | {"seconds": loop["seconds"] / len(jobs)}
    for job, scored, kept in zip(jobs, scores, pictures.kept, strict=True):
        write_json(job.folder / PICTURES, kept)
        _write(session, job, scored, share)
    return float(loop["seconds"])


def masks_of(session: Session, pipelines: Sequence[Pipeline]) -> tuple[Any, list[MaskJob]]:
    """Heatmap source and mask jobs of pipelines that share a pass (`passes`)."""
    methods = distinct([pipeline.method for pipeline in pipelines])
    segmenters = calibrated_segmenters(session, pipelines)
    jobs = [
        MaskJob(methods.index(pipeline.method), segmenter, kind_of(pipeline.method, session))
        for pipeline, segmenter in zip(pipelines, segmenters, strict=True)
    ]
    return heatmap_source(session, methods, pipelines[0].tta), jobs


def _write(session: Session, job: CellJob, scored: Scores, loop: Row) -> None:
    """Write a cell; `metrics.json` last, since it says that the cell is finished."""
    settings, folder = session.settings, job.folder
    of_cell = replace(
        settings,
        method=job.pipeline.method,
        segmenter=job.pipeline.segmenter,
        tta=job.pipeline.tta,
        bf16=session.autocast_dtype is not None,
    )
    if job.chosen.curve is not None:
        write_choice(job.chosen.curve, folder)
    write_config(folder, {"hash": job.identity.hash, **asdict(of_cell)})
    job.identity.write(folder)
    write_table(folder / "images.csv", scored.table)
    write_table(folder / "curve.csv", scored.curve)
    write_json(folder / "metrics.json", scored.summary() | loop | _row(session, job))


def write_choice(curve: pd.DataFrame, folder: Path) -> None:
    """Write `delta.csv` and `delta.png`: what chose δ."""
    from ltcam_cli.report.curves import draw_choice

    write_table(folder / "delta.csv", curve)
    try:
        draw_choice(curve, folder / "delta.png")
    except LtcamError as error:
        log.info("no delta.png: %s", error)


def _row(session: Session, job: CellJob) -> Row:
    """What a row of results says of how its scores were made."""
    from ltcam_cli.classifier.precision import dtype_name

    settings, pipeline = session.settings, job.pipeline
    part = settings.evaluation.split
    return {
        "method": pipeline.method.name,
        "delta": pipeline.method.delta,
        "layers": pipeline.method.layers,
        "segmenter": pipeline.segmenter.label,
        "images": settings.evaluation.images,
        "dataset": settings.dataset.display_name,
        "split": settings.dataset.split + ("" if part == "test" else f"/{part}"),
        "fold": settings.dataset.fold,
        "seed": settings.seed,
        "supervision": job.chosen.supervision or "image",
        **pipeline.method.columns(),
        "tta": pipeline.tta.label,
        "ensemble": " ".join(settings.ensemble) or None,
        "dtype": dtype_name(session.autocast_dtype),
        "checkpoint": session.checkpoint[:12],
        "cell": job.folder.name,
        "run": session.run.name,
    }
