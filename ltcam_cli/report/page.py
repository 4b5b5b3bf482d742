"""One HTML page of runs: tables, settings, curves and pictures (the extra `report`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ltcam_cli.report.columns import COLUMNS, Column
from ltcam_cli.report.curves import (
    bar_figure,
    colour,
    delta_figure,
    precision_recall_figure,
    probability_figure,
    score_of,
)
from ltcam_cli.report.gallery import Gallery
from ltcam_cli.report.template import Drawn, filled, in_page
from ltcam_cli.runs.cells import Cell, cell_labels, chosen_by_training, results_of, sweep_tables
from ltcam_cli.runs.dotted import flat
from ltcam_cli.runs.folder import ANEW, RunFolder
from ltcam_cli.runs.reading import read_table
from ltcam_cli.runs.tables import rows_of
from ltcam_cli.scores.images import confusion, precision_recall
from ltcam_cli.scores.pixels import PixelCounts
from ltcam_cli.scores.skill import no_skill

CELL_PARTS = ("method", "tta", "segmenter", "evaluation")
IOU = ("iou", "iou_low", "iou_high")
NAN = float("nan")
LEAST = 20  # images of the list to look at again
CLASSES = {"good": 0, "defective": 1}
VIEWS = ["image", "heatmap", "mask", "truth"]
FILTERS = [
    ("all", "all"),
    ("defective", "defective"),
    ("missed", "missed"),
    ("false", "false alarms"),
]
BY_IOU = [("worst", "worst first"), ("best", "best first")]
ORDERS = [
    ("unsure", "unsure first"),
    ("probability", "highest probability first"),
    ("name", "by name"),
]


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
    labels = _labels(content.cells)
    masked = not all(cell.mask_free for cell in content.cells)
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
    views = VIEWS if masked else VIEWS[:-1]
    columns, rows = _table(content)
    runs = [_run(run, content.commands[run.path]) for run in content.runs]
    title = f"{len(runs)} runs compared"
    return filled(
        "run.html",
        title=f"{runs[0]['dataset']} · {runs[0]['backbone']}" if len(runs) == 1 else title,
        table="Results",
        runs=runs,
        cells=cells,
        columns=columns,
        rows=rows,
        figures=in_page(_figures(content, labels)),
        data=content.gallery.data(cells, views),
        views=views,
        filters=[*FILTERS, *content.gallery.filters],
        orders=[*BY_IOU, *ORDERS] if masked else ORDERS,
        left_out=content.left_out,
    )


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
        "again": _again(run),
    }


def _again(run: RunFolder) -> list[dict[str, Any]]:
    """The least reliable test images, where `ltcam reliability` was run since the training."""
    path = run.train / "images.csv"
    if not path.is_file():
        return []
    return least_reliable(read_table(path, ANEW, ("name",), ("probability", "predicted")))


def least_reliable(table: pd.DataFrame, most: int = LEAST) -> list[dict[str, Any]]:
    """Rows of the images that are called good, the least reliable first; none without the column.

    Those marked `look_again`, where a table of predictions says which.
    """
    if "reliability" not in table:
        return []
    listed = table[table["predicted"] == 0]  # the threshold may have been chosen again since
    listed = listed[listed["look_again"] == 1] if "look_again" in table else listed
    listed = listed.dropna(subset="reliability").sort_values("reliability", kind="stable")
    return rows_of(listed.head(most))


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
    for row in rows_of(table):
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


def _figures(content: PageContent, labels: Sequence[str]) -> list[Drawn]:
    """Title, note and figure of each."""
    bars = list(zip(_labels(content.bars), content.bars, strict=True))
    scored = [bar for bar in bars if not bar[1].mask_free]
    free = [bar for bar in bars if bar[1].mask_free]
    figures: list[Drawn] = []
    if scored:
        figures = [
            (
                "IoU by method",
                "Methods whose intervals overlap widely do not differ. "
                "A paired comparison on the same images is sharper: ltcam compare.",
                bar_figure([n for n, _ in scored], [_scores(cell, *IOU) for _, cell in scored]),
            ),
            _precision_recall(
                {n: c for n, c in zip(labels, content.cells, strict=True) if not c.mask_free}
            ),
        ]
    if free:
        for run in content.runs:
            figures += _of_classifier(run, f" of {run.name}" if len(content.runs) > 1 else "")
    if len(free) > 1:
        values = [[*_scores(cell, "evidence"), NAN, NAN] for _, cell in free]
        note = "Mean over the defective images; a higher one is a mask that hides more of them."
        figures.append(
            ("Evidence by method", note, bar_figure([n for n, _ in free], values, "evidence"))
        )
    for run in content.runs:
        of_run = f" of {run.name}" if len(content.runs) > 1 else ""
        for table in sweep_tables(run):
            if table["delta"].nunique() < 2:
                continue
            by_masks = score_of(table) == "iou"
            note = "Each line with its 95 % band." if by_masks else "No masks are there."
            if table["chosen"].any():
                note += " The ring is the row that the training images chose."
            title = f"{'IoU' if by_masks else 'Evidence'} over δ{of_run}"
            figures.append((title, note, delta_figure(table)))
    return figures


def _of_classifier(run: RunFolder, of_run: str) -> list[Drawn]:
    """Figures of the classifier on the test images; none of an imported one."""
    path = run.train / "images.csv"
    if not path.is_file():
        return []
    table = read_table(path, ANEW, ("name",), ("label", "probability", "predicted"))
    labels, probabilities = table["label"].to_numpy(), table["probability"].to_numpy()
    if not 0 < labels.sum() < len(labels):
        return []
    curve = pd.DataFrame(
        100 * precision_recall(labels, probabilities), columns=["recall", "precision"]
    )
    counts = PixelCounts(**confusion(labels, table["predicted"].to_numpy()))
    named = {"classifier": (100 * counts.recall, 100 * counts.precision)}
    sides = {name: probabilities[labels == label].tolist() for name, label in CLASSES.items()}
    return [
        (
            f"Precision and recall of images{of_run}",
            "The classifier over all thresholds; the dot is its own threshold.",
            precision_recall_figure({"classifier": curve}, named),
        ),
        (
            f"Probabilities of a defect{of_run}",
            "Of the test images; the line is the threshold.",
            probability_figure(sides, run.metrics.get("threshold")),
        ),
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
