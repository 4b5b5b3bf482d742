"""One self-contained HTML page of runs: tables, settings, curves and pictures (the extra `report`).

Jinja2 fills `page/index.html` and escapes all texts; style and script beside it become part of the
page. It loads nothing from anywhere.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd

import ltcam_cli
from ltcam_cli.errors import require
from ltcam_cli.report.columns import COLUMNS, Column
from ltcam_cli.report.curves import (
    as_svg,
    colour,
    delta_figure,
    iou_figure,
    precision_recall_figure,
)
from ltcam_cli.report.gallery import Gallery
from ltcam_cli.runs.cells import Cell, cell_labels, chosen_by_training, results_of, sweep_tables
from ltcam_cli.runs.dotted import flat
from ltcam_cli.runs.folder import RunFolder
from ltcam_cli.scores.skill import no_skill

TEMPLATES = Path(__file__).with_name("page")
CELL_PARTS = ("method", "tta", "segmenter", "evaluation")
IOU = ("iou", "iou_low", "iou_high")
LIBRARIES = ("torch", "torchvision", "numpy", "scikit-image")


@dataclass(frozen=True)
class PageContent:
    """What a page shows.

    Attributes:
        runs: Runs in order.
        cells: Cells with curves and pictures; the first one is selected at first.
        bars: Cells whose IoU is shown as a bar.
        commands: Command line of each run and cell, by its path.
        gallery: Pictures of the cells, in their order.
        left_out: Number of images that a limit left out.
    """

    runs: Sequence[RunFolder]
    cells: Sequence[Cell]
    bars: Sequence[Cell]
    commands: Mapping[Path, str]
    gallery: Gallery
    left_out: int


def render(content: PageContent) -> str:
    """The page as HTML.

    Raises:
        LtcamError: if jinja2 or matplotlib is not installed, or a cell is damaged.
    """
    jinja2 = require("jinja2", "report")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    labels = _labels(content.cells)
    cells = [
        {
            "label": label,
            "colour": colour(number),
            "run": cell.run.name,
            "name": cell.name,
            "command": content.commands[cell.path],
            "settings": flat({k: v for k, v in cell.config.items() if k in CELL_PARTS}),
        }
        for number, (label, cell) in enumerate(zip(labels, content.cells, strict=True))
    ]
    data = {
        "cells": [
            {"label": cell["label"], "colour": cell["colour"], "images": pictures}
            for cell, pictures in zip(cells, content.gallery.cells, strict=True)
        ],
        "images": content.gallery.images,
    }
    columns, rows = _table(content)
    page: str = environment.get_template("index.html").render(
        runs=[_run(run, content.commands[run.path]) for run in content.runs],
        cells=cells,
        columns=columns,
        rows=rows,
        figures=_figures(content, labels),
        data=data,
        left_out=content.left_out,
        versions=_versions(),
        style=(TEMPLATES / "style.css").read_text(encoding="utf-8"),
        script=(TEMPLATES / "script.js").read_text(encoding="utf-8"),
    )
    return page


def _labels(cells: Sequence[Cell]) -> list[str]:
    return cell_labels([cell.metrics | {"run": cell.run.name} for cell in cells])


def _run(run: RunFolder, command: str) -> dict[str, Any]:
    """Facts of a run for the head of the page, and its settings."""
    config, metrics = run.config, run.metrics
    dataset, backbone = config.get("dataset", {}), config.get("backbone", {})
    evaluated = results_of(run).iloc[0]  # an imported run does not know its training images
    fold = "" if pd.isna(evaluated["fold"]) else f", fold {evaluated['fold']:g}"
    return {
        "name": run.name,
        "dataset": evaluated["dataset"],
        "backbone": backbone.get("name"),
        "head": backbone.get("head"),
        "split": f"{evaluated['split'].partition('/')[0]}{fold}",
        "seed": config.get("seed"),
        "size": f"{dataset.get('height')} × {dataset.get('width')}",
        "metrics": metrics,
        "warning": no_skill(metrics),
        "settings": flat({k: v for k, v in config.items() if k != "hash"}),
        "command": command,
        "imported": config.get("imported"),
    }


def _table(content: PageContent) -> tuple[list[Column], list[dict[str, Any]]]:
    """Columns that hold something, and all cells of all runs, those of the test part first."""
    tables = [results_of(run).assign(run=run.name, path=str(run.path)) for run in content.runs]
    table = pd.concat(tables, ignore_index=True)
    tested = ~table["split"].str.contains("/")
    table = pd.concat([table[tested], table[~tested]])
    columns = [column for column in COLUMNS if column.is_shown(table)]
    numbers = {cell.path: number for number, cell in enumerate(content.cells)}
    chosen = {cell for run in content.runs for cell in chosen_by_training(run)}
    rows = []
    for row in table.to_dict("records"):
        number = numbers.get(Path(row["path"]) / "evaluate" / row["cell"])
        rows.append(
            {
                "cells": [column.cell(row) for column in columns],
                "cell": row["cell"],
                "colour": None if number is None else colour(number),
                "chosen": row["cell"] in chosen,
            }
        )
    return columns, rows


def _figures(content: PageContent, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Title, note and SVG of each figure, and whether it takes the page's whole width."""
    figures = [
        (
            "IoU by method",
            "Methods whose intervals overlap widely do not differ. "
            "A paired comparison on the same images is sharper: ltcam compare.",
            iou_figure(_labels(content.bars), [_scores(cell, *IOU) for cell in content.bars]),
        ),
        _precision_recall(dict(zip(labels, content.cells, strict=True))),
    ]
    for run in content.runs:
        of_run = f" of {run.name}" if len(content.runs) > 1 else ""
        for table in sweep_tables(run):
            if table["delta"].nunique() < 2:
                continue
            note = "Each line with its 95 % band."
            if table["chosen"].any():
                note += " The ring is the row that the training images chose."
            figures.append((f"IoU over δ{of_run}", note, delta_figure(table)))
    return [
        {
            "title": title,
            "note": note,
            "svg": as_svg(figure, title, f"figure{number}"),
            "wide": len(figure.axes) > 1,
        }
        for number, (title, note, figure) in enumerate(figures, 1)
    ]


def _precision_recall(cells: Mapping[str, Cell]) -> tuple[str, str, Any]:
    """Title, note and figure of the cells' precision-recall curves."""
    curves = {label: cell.curve() for label, cell in cells.items()}
    drawn = {label: curve for label, curve in curves.items() if curve is not None and len(curve)}
    note = "Curves of the heatmaps' pixels over all thresholds; the dots are the masks."
    if missing := [label for label in cells if label not in drawn]:
        note += f" No curve was kept of {', '.join(missing)}: evaluate with --overwrite."
    points = {label: _scores(cell, "recall", "precision") for label, cell in cells.items()}
    return "Precision and recall of pixels", note, precision_recall_figure(drawn, points)


def _scores(cell: Cell, *keys: str) -> list[float]:
    """Scores of a cell; NaN where one is undefined."""
    values = [cell.metrics.get(key) for key in keys]
    return [float("nan") if value is None else float(value) for value in values]


def _versions() -> dict[str, str]:
    """Versions of this program, of Python and of the numerical libraries."""
    versions = {"ltcam": ltcam_cli.__version__, "Python": platform.python_version()}
    for library in LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            continue
    return versions
