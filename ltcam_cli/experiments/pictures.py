"""Some images of a run, from best to worst, with the maps of several pipelines."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ltcam_cli.data.sample import Sample
from ltcam_cli.errors import LtcamError, require
from ltcam_cli.experiments.cells import masks_of
from ltcam_cli.experiments.session import Session
from ltcam_cli.experiments.settings import Pipeline, Settings
from ltcam_cli.experiments.sources import passes
from ltcam_cli.report.grids import draw_grid, gallery_rows
from ltcam_cli.runs.cells import Cell
from ltcam_cli.runs.folder import RunFolder
from ltcam_cli.runs.masking import ImageResult, Loading, mask_images

log = logging.getLogger("ltcam_cli")


def can_draw() -> bool:
    """Whether matplotlib is there; a line says so if it is not."""
    try:
        require("matplotlib", "report")
    except LtcamError as error:
        log.info("no picture: %s", error)
        return False
    return True


def ranking(session: Session, cell: str, count: int) -> list[tuple[str, str]]:
    """Names of images from best to worst IoU in a cell, evenly spaced, and what each is."""
    table = Cell(session.run.path / "evaluate" / cell).images().reset_index()
    table = table[table["label"] == 1].sort_values("iou", ascending=False, kind="stable")
    places = np.unique(np.linspace(0, len(table) - 1, min(count, len(table))).round().astype(int))
    words = {0: "best", len(table) - 1: "worst"}
    return [
        (table["name"].iloc[place], words.get(place, f"{place + 1} of {len(table)}"))
        for place in map(int, places)
    ]


def masks_of_images(
    session: Session, samples: Sequence[Sample], pipelines: Sequence[Pipeline]
) -> list[list[ImageResult]]:
    """Heatmaps and masks of some images: of each, one a pipeline."""
    columns: dict[int, list[ImageResult]] = {}
    for numbers in passes(pipelines):
        source, jobs = masks_of(session, [pipelines[number] for number in numbers])
        loading = Loading(batch_size=1)
        results = mask_images(session.classifier, source, jobs, samples, loading, masks=True)
        by_job: dict[int, list[ImageResult]] = {}
        for result in results:
            by_job.setdefault(result.job, []).append(result)
        columns |= {number: by_job[job] for job, number in enumerate(numbers)}
    rows = zip(*(columns[number] for number in range(len(pipelines))), strict=True)
    return [list(row) for row in rows]


def draw_gallery(run: RunFolder, cell: str, settings: Sequence[Settings]) -> Path:
    """Draw the best, the median and the worst image of a cell with the maps of several methods.

    Args:
        run: Run.
        cell: Name of a cell of the last method.
        settings: Settings of each method, alike but for that.

    Returns:
        Path of the picture, `gallery.png` in the run folder.

    Raises:
        LtcamError: If matplotlib is not installed.
    """
    session = Session(settings[0], run)
    samples = {s.name: s for s in session.split.part(settings[0].evaluation.split)}
    ranked = ranking(session, cell, 3)
    pipelines = [one.pipeline for one in settings]
    results = masks_of_images(session, [samples[name] for name, _ in ranked], pipelines)
    names = [pipeline.method.name for pipeline in pipelines]
    path = run.path / "gallery.png"
    draw_grid(
        gallery_rows(results, [label for _, label in ranked]),
        ["image", "truth", *names, f"mask of\n{names[-1]}"],
        f"Test images from best to worst by {names[-1]}; below each heatmap its mask's IoU in %",
        path,
    )
    return path
