"""One self-contained HTML page of runs: tables, settings, curves and pictures (the extra `report`).

The page is `page/index.html`, filled by Jinja2 with everything escaped; style and script stand
beside it and go into the page. Nothing in it is fetched from anywhere.
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
from ltcam_cli.report.curves import (
    as_svg,
    colour,
    delta_figure,
    iou_figure,
    precision_recall_figure,
)
from ltcam_cli.report.gallery import Gallery
from ltcam_cli.runs.cells import Cell, chosen_by_training, labels, results_of
from ltcam_cli.runs.folder import RunFolder

TEMPLATES = Path(__file__).with_name("page")
CELL_PARTS = ("method", "tta", "segmenter", "evaluation")
LIBRARIES = ("torch", "torchvision", "numpy", "scikit-image")


@dataclass(frozen=True)
class Column:
    """A column of the table of results.

    Attributes:
        key: in results.csv.
        title: in the page.
        says: what it is, in a sentence.
        number: whether it is set and sorted as a number.
        always: shown even if all its values are equal or none is there.
    """

    key: str
    title: str
    says: str
    number: bool = True
    always: bool = True


COLUMNS = (
    Column("run", "run", "The trained classifier.", number=False, always=False),
    Column("method", "method", "How the heatmap is drawn; ltX is X with layer fusion and "
           "truncation.", number=False),
    Column("delta", "δ", "Percentile below which positive gradients are cut; empty: none are."),
    Column("layers", "layers", "Stages whose maps are summed.", number=False),
    Column("segmenter", "segmenter", "How the heatmap becomes a mask.", number=False, always=False),
    Column("images", "images", "Which images count: defective; predicted (an image called clean "
           "has an empty mask); all.", number=False, always=False),
    Column("split", "part", "Split of the data set; the test part, or the part after the slash.",
           number=False, always=False),
    Column("scope", "scope", "The percentile is of each channel or of the layer.",
           number=False, always=False),
    Column("form", "form", "What is truncated: the gradient, or the map (mask, mask_relu).",
           number=False, always=False),
    Column("fusion", "fusion", "How the stages' maps become one.", number=False, always=False),
    Column("normalize", "normalize", "What is done to each stage's map before.",
           number=False, always=False),
    Column("weights", "weights", "Of the stages' maps; empty: all are 1.",
           number=False, always=False),
    Column("tta", "averaged", "Over which changed images the heatmaps were averaged; empty: none.",
           number=False, always=False),
    Column("ensemble", "ensemble", "Runs whose maps and log-odds were averaged with the run's.",
           number=False, always=False),
    Column("target", "target", "The logit that is explained.", number=False, always=False),
    Column("iou", "IoU", "Intersection over union of mask and truth, pooled over the pixels of all "
           "images that count."),
    Column("iou_low", "95 %", "Bootstrap interval of the pooled IoU over physical items."),
    Column("precision", "precision", "Share of the masks' pixels that are defect (pooled)."),
    Column("recall", "recall", "Share of the defects' pixels that are in the masks (pooled)."),
    Column("f1", "F1", "Harmonic mean of precision and recall (Dice)."),
    Column("mean_iou", "mean IoU", "Mean of the IoU of each defective image."),
    Column("pixel_ap", "pixel AP", "Average precision of the heatmap's pixels, over all "
           "thresholds."),
    Column("aupro", "AUPRO", "Mean share of a defect region that is covered, over thresholds up to "
           "a false positive rate of 0.3."),
    Column("seg_miou", "Seg mIoU", "Mean IoU over defective images; one that the classifier calls "
           "clean counts 0."),
    Column("seg_recall", "Seg recall", "Share of defective images that are called defective and "
           "whose mask touches the defect."),
    Column("regions_touched", "regions touched", "Share of defect regions that a mask touches."),
    Column("false_regions", "false regions", "Regions of the mask that touch no defect, per image; "
           "a count, no percentage."),
    Column("n_images", "n", "Images that count."),
    Column("seconds", "seconds", "Of mapping, segmenting and scoring; of a grid, its share."),
)  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """What is asked of a page.

    Attributes:
        runs: in order.
        cells: whose curves and pictures are shown; the first one at first.
        bars: cells whose IoU is drawn as a bar.
        commands: of each run by its path, and of each cell by its path.
        gallery: with the cells' pictures, in their order.
        left_out: images that a limit left out.
    """

    runs: Sequence[RunFolder]
    cells: Sequence[Cell]
    bars: Sequence[Cell]
    commands: Mapping[Path, str]
    gallery: Gallery
    left_out: int


def render(shown: Shown) -> str:
    """The page.

    Raises:
        LtcamError: if jinja2 or matplotlib is not installed.
    """
    jinja2 = require("jinja2", "report")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    names = labels([cell.metrics | {"run": cell.run.name} for cell in shown.cells])
    cells = [
        {
            "label": label,
            "colour": colour(number),
            "run": cell.run.name,
            "name": cell.name,
            "command": shown.commands[cell.path],
            "settings": flat({k: v for k, v in cell.config.items() if k in CELL_PARTS}),
        }
        for number, (label, cell) in enumerate(zip(names, shown.cells, strict=True))
    ]
    runs = [_run(run, shown.commands[run.path]) for run in shown.runs]
    data = {
        "cells": [
            {"label": cell["label"], "colour": cell["colour"], "images": pictures}
            for cell, pictures in zip(cells, shown.gallery.cells, strict=True)
        ],
        "images": shown.gallery.images,
    }
    columns, rows = _table(shown)
    page: str = environment.get_template("index.html").render(
        runs=runs,
        cells=cells,
        columns=columns,
        rows=rows,
        figures=_figures(shown, names),
        data=data,
        left_out=shown.left_out,
        versions=_versions(),
        style=(TEMPLATES / "style.css").read_text(encoding="utf-8"),
        script=(TEMPLATES / "script.js").read_text(encoding="utf-8"),
    )
    return page


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested config as one of dotted keys."""
    leaves: dict[str, Any] = {}
    for key, value in config.items():
        inner = isinstance(value, Mapping)
        leaves |= flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return leaves


def _run(run: RunFolder, command: str) -> dict[str, Any]:
    """What stands of a run at the head of the page, and its settings."""
    config, metrics = run.config, run.metrics
    dataset, backbone = config.get("dataset", {}), config.get("backbone", {})
    evaluated = results_of(run).iloc[0]  # an imported run was trained on who knows what
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
        "settings": flat({k: v for k, v in config.items() if k != "hash"}),
        "command": command,
        "imported": config.get("imported"),
    }


def _table(shown: Shown) -> tuple[list[Column], list[dict[str, Any]]]:
    """All cells of all runs, as they were evaluated; columns that say nothing are left out."""
    tables = [results_of(run).assign(run=run.name, path=str(run.path)) for run in shown.runs]
    table = pd.concat(tables, ignore_index=True)
    tested = ~table["split"].str.contains("/")
    table = pd.concat([table[tested], table[~tested]])
    columns = [
        column
        for column in COLUMNS
        if column.key in table
        and (table[column.key].nunique(dropna=False) > 1 or column.always)
        and table[column.key].notna().any()
    ]
    places = {cell.path: number for number, cell in enumerate(shown.cells)}
    chosen = {cell for run in shown.runs for cell in chosen_by_training(run)}
    rows = []
    for row in table.to_dict("records"):
        number = places.get(Path(row["path"]) / "evaluate" / row["cell"])
        cells = [_cell(column, row) for column in columns]
        rows.append(
            {
                "cells": cells,
                "cell": row["cell"],
                "colour": None if number is None else colour(number),
                "number": number,
                "chosen": row["cell"] in chosen,
            }
        )
    return columns, rows


def _cell(column: Column, row: Mapping[Any, Any]) -> dict[str, Any]:
    """Text of a table's cell, and what it is sorted by."""
    value = row[column.key]
    if pd.isna(value):
        return {"text": "", "value": "", "number": column.number}
    if not column.number:
        return {"text": str(value), "value": str(value), "number": False}
    if column.key == "iou_low":
        text = f"{value:.1f} – {row['iou_high']:.1f}"
    else:
        text = f"{value:g}" if column.key in {"delta", "n_images"} else f"{value:.2f}"
    return {"text": text, "value": repr(float(value)), "number": True}


def _figures(shown: Shown, names: Sequence[str]) -> list[dict[str, Any]]:
    """Title, note and SVG of each figure, and whether it wants the page's whole width."""
    figures: list[dict[str, Any]] = []

    def add(title: str, note: str, figure: Any) -> None:
        svg = as_svg(figure, title, f"figure{len(figures) + 1}")
        wide = len(figure.axes) > 1
        figures.append({"title": title, "note": note, "svg": svg, "wide": wide})

    bars = labels([cell.metrics | {"run": cell.run.name} for cell in shown.bars])
    add(
        "IoU by method",
        "Bars whose intervals overlap widely do not differ; for the same images a paired "
        "comparison is sharper: ltcam compare.",
        iou_figure(
            bars,
            [
                [_number(cell.metrics.get(key)) for key in ("iou", "iou_low", "iou_high")]
                for cell in shown.bars
            ],
        ),
    )
    curves = {name: cell.curve() for name, cell in zip(names, shown.cells, strict=True)}
    kept = {name: curve for name, curve in curves.items() if curve is not None and len(curve)}
    missing = [name for name in names if name not in kept]
    note = (
        "Of the heatmaps' pixels, over all thresholds. The dots are the masks as they were drawn."
    )
    if missing:
        note += f" No curve was kept of {', '.join(missing)}: evaluate with --overwrite."
    points = {
        name: (_number(cell.metrics.get("recall")), _number(cell.metrics.get("precision")))
        for name, cell in zip(names, shown.cells, strict=True)
    }
    add("Precision and recall of pixels", note, precision_recall_figure(kept, points))
    for run in shown.runs:
        for path in sorted(run.path.glob("sweep/*/sweep.csv")):
            table = pd.read_csv(path)
            if table["delta"].nunique() < 2:
                continue
            of_run = f" of {run.name}" if len(shown.runs) > 1 else ""
            note = "Each line with its 95 % band."
            if table["chosen"].any():
                note += " The ring is the row that the training part chose."
            add(f"IoU over δ{of_run}", note, delta_figure(table))
    return figures


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _versions() -> dict[str, str]:
    """Of this program, of Python and of what computes."""
    found = {"ltcam": ltcam_cli.__version__, "Python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found
