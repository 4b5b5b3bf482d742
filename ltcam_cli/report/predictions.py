"""One HTML page of predictions: counts, regions and pictures (the extra `report`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ltcam_cli.report.columns import REGIONS
from ltcam_cli.report.curves import colour, probability_figure
from ltcam_cli.report.gallery import Gallery
from ltcam_cli.report.page import ORDERS, VIEWS, least_reliable
from ltcam_cli.report.template import filled, in_page
from ltcam_cli.runs.dotted import flat
from ltcam_cli.runs.prediction_tables import rejected_parts

FILTERS = [("all", "all"), ("called", "called defective"), ("passed", "called good")]
PARTS = ("run", "method", "tta", "segmenter", "ensemble", "predict")  # of the config
MOST_REGIONS = 1000  # of the page's table


@dataclass(frozen=True)
class Predicted:
    """What a page of predictions shows.

    Attributes:
        folder: Folder that `ltcam predict` wrote.
        config: Its config.
        scores: Row of each image.
        regions: Row of each region of the masks.
        gallery: Pictures; its first and only cell is the prediction.
        left_out: Number of images that a limit left out.
    """

    folder: Path
    config: Mapping[str, Any]
    scores: pd.DataFrame
    regions: pd.DataFrame
    gallery: Gallery
    left_out: int


def render_predictions(content: Predicted) -> str:
    """The page as HTML.

    Raises:
        LtcamError: if jinja2 or matplotlib is not installed.
    """
    config, scores = content.config, content.scores
    surest = content.regions.sort_values("score", ascending=False, kind="stable")
    columns = [column for column in REGIONS if column.is_shown(surest)]
    rows = [
        {
            "cells": [column.cell(row) for column in columns],
            "cell": "",
            "colour": None,
            "chosen": False,
        }
        for row in surest.head(MOST_REGIONS).to_dict("records")
    ]
    has_heat = any("heat" in picture for picture in content.gallery.cells[0].values())
    views = [view for view in VIEWS[:-1] if has_heat or view != "heatmap"]
    threshold = content.gallery.thresholds[0]
    method, segmenter = config["method"]["name"], config["segmenter"]["name"]
    called = scores["predicted"] == 1
    rejected = rejected_parts(scores)
    filters = FILTERS if rejected is None else [*FILTERS, ("rejected", "rejected")]
    cell = {"label": f"{method} · {segmenter}", "colour": colour(0)}
    figure = probability_figure({"images": scores["probability"].tolist()}, threshold)
    note = "The line is the threshold from which an image is called defective."
    return filled(
        "prediction.html",
        title=f"{len(scores)} predicted images",
        table="Regions",
        folder=str(content.folder),
        facts=[
            ("Run", config.get("run") or "–"),
            ("Method", method),
            ("Segmenter", segmenter),
            ("Threshold", f"{threshold:.3g}"),
        ],
        counts=[
            ("images", len(scores)),
            ("called defective", int(called.sum())),
            ("called good", int((~called).sum())),
            ("regions", len(content.regions)),
            *([] if rejected is None else [("rejected", rejected)]),
        ],
        again=least_reliable(scores, len(scores)),
        columns=columns,
        rows=rows,
        more_regions=max(0, len(content.regions) - MOST_REGIONS),
        figures=in_page([("Probabilities of a defect", note, figure)]),
        cells=[cell],
        data=content.gallery.data([cell], views),
        views=views,
        filters=[*filters, *content.gallery.filters],
        orders=ORDERS,
        left_out=content.left_out,
        settings=flat({key: value for key, value in config.items() if key in PARTS}),
    )
