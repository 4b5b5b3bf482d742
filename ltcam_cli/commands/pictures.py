"""Some images of a run, from best to worst, with the maps of several methods: for pictures."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ltcam_cli.classifier.checkpoint import load_classifier
from ltcam_cli.commands.pipeline import drawings, heatmap_source
from ltcam_cli.commands.settings import Pipeline, Settings
from ltcam_cli.data.sample import Sample
from ltcam_cli.errors import LtcamError, require
from ltcam_cli.runs.evaluation import ImageResult, map_and_segment
from ltcam_cli.runs.folder import RunFolder

log = logging.getLogger("ltcam_cli")


def drawable() -> bool:
    """Whether matplotlib is there; a line says so if it is not."""
    try:
        require("matplotlib", "report")
    except LtcamError as error:
        log.info("no picture: %s", error)
        return False
    return True


def ranking(run: RunFolder, cell: str, count: int) -> list[tuple[str, str]]:
    """Names of images from best to worst IoU in a cell, evenly spaced, and what each is."""
    table = pd.read_csv(run.path / "evaluate" / cell / "images.csv", dtype={"name": str})
    table = table[table["label"] == 1].sort_values("iou", ascending=False, kind="stable")
    places = np.unique(np.linspace(0, len(table) - 1, min(count, len(table))).round().astype(int))
    words = {0: "best", len(table) - 1: "worst"}
    return [
        (table["name"].iloc[place], words.get(place, f"{place + 1} of {len(table)}"))
        for place in map(int, places)
    ]


def maps_of(
    settings: Settings, run: RunFolder, samples: Sequence[Sample], pipelines: Sequence[Pipeline]
) -> list[list[ImageResult]]:
    """Heatmaps and masks of some images: of each, one a pipeline."""
    classifier = load_classifier(run.checkpoint, settings.torch_device())
    columns = dict[int, list[ImageResult]]()
    for own, numbers in settings.grouped(pipelines):
        methods = [pipelines[number].method for number in numbers]
        results = map_and_segment(
            classifier,
            heatmap_source(own, run, classifier, methods),
            drawings(own, run, classifier, methods),
            samples,
            masks=True,
            gate=False,
            batch_size=1,
        )
        found = list(results)
        for place, number in enumerate(numbers):
            columns[number] = found[place :: len(numbers)]
    rows = zip(*(columns[number] for number in range(len(pipelines))), strict=True)
    return [list(row) for row in rows]
