"""Tables of a reproduction: CSV, Markdown and LaTeX, with notes of what the numbers can say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ltcam_cli.experiments.pictures import can_draw
from ltcam_cli.experiments.settings import Settings
from ltcam_cli.experiments.tasks import Row
from ltcam_cli.files import remove_leftovers, write_table, write_text
from ltcam_cli.report.curves import draw_delta_curve
from ltcam_cli.report.documents import latex_table, markdown_page
from ltcam_cli.report.paper import (
    HELD_OUT,
    as_texts,
    mean_over_runs,
    misprint_notes,
    with_printed_numbers,
)
from ltcam_cli.runs.tables import in_order


def write(folder: Path, name: str, settings: Settings, rows: Sequence[Row]) -> pd.DataFrame:
    """Write the rows of all runs so far, their table as CSV, Markdown and LaTeX, and curves.

    Returns:
        The table as texts.
    """
    runs = pd.DataFrame(rows)
    reproduce = settings.reproduce
    summed = with_printed_numbers(mean_over_runs(runs), reproduce.paper, settings.dataset.kind)
    texts, title = as_texts(summed), reproduce.title or name
    notes = [*misprint_notes(summed), *setting_notes(settings, runs)]
    remove_leftovers(folder)
    write_table(folder / f"{name}-runs.csv", in_order(runs.drop(columns="run_path")))
    write_table(folder / f"{name}.csv", summed)
    write_text(folder / f"{name}.md", markdown_page(title, texts, notes))
    write_text(folder / f"{name}.tex", latex_table(title, texts, notes))
    if reproduce.kind == "curves" and can_draw():
        band = "95 % interval" if (summed["runs"] == 1).all() else "standard deviation over runs"
        draw_delta_curve(curve_of(summed, settings), folder / f"{name}.png", title, band)
    return texts


def setting_notes(settings: Settings, runs: pd.DataFrame) -> list[str]:
    """What the numbers were made with, and what they can and cannot say."""
    first, backbone = runs.iloc[0], settings.backbone
    count = runs["run_path"].nunique()
    folds = sorted(int(fold) for fold in runs["fold"].dropna().unique())
    seeds = sorted(int(seed) for seed in runs["seed"].unique())
    weights = Path(backbone.weights).name if backbone.weights else "none, from scratch"
    notes = [
        f"{settings.dataset.display_name}, split {first['split']}"
        + (f", folds {', '.join(map(str, folds))}" if folds else "")
        + f"; seeds {', '.join(map(str, seeds))}; backbone {backbone.display_name}, "
        f"head {backbone.head}, "
        f"pre-trained weights {weights}; {', '.join(runs['segmenter'].unique())}; "
        f"{first['images']} images, "
        f"{int(first['n_images'])} in the first run; pixels pooled, in per cent."
    ]
    if count > 1:
        notes.append(
            f"Mean and sample standard deviation over {count} runs; pooled: of the summed pixels "
            "of all runs."
        )
        held_out = [str(fold) for fold in folds if fold in HELD_OUT[2]]
        if (runs["split"] == HELD_OUT[1]).any() and held_out:
            notes.append(
                f"Held out: mean over fold {' and '.join(held_out)}; no trial before looked at "
                "folds 1 and 3 (items 11 to 20 and 31 to 40)."
            )
    elif first["n_images"] < 50:
        notes.append(
            f"On {int(first['n_images'])} images differences within the interval (95 %, bootstrap "
            "over physical items) are noise."
        )
    for fold, part in runs[runs["dropped"] > 0].drop_duplicates("fold").groupby("fold"):
        notes.append(
            f"Fold {int(fold)}: {int(part['dropped'].iloc[0])} training images of items that are "
            f"tested were dropped ({part['dropped_items'].iloc[0]})."
        )
    if settings.reproduce.paper and first["split"] != "paper" and settings.dataset.kind == "ksdd":
        notes.append("The paper's numbers are of its own split, which tests items 41 to 50.")
    return notes


def curve_of(summed: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """The table as `draw_delta_curve` reads it; over several runs the band is the deviation."""
    many = summed["runs"] > 1
    spread = summed["iou_std"].fillna(0)
    return summed.assign(
        delta=pd.to_numeric(summed["delta"]),
        part={"train": "training part", "test": "test part"}.get(
            settings.evaluation.split, settings.evaluation.split
        ),
        chosen=False,
        iou_low=np.where(many, summed["iou"] - spread, summed.get("iou_low", np.nan)),
        iou_high=np.where(many, summed["iou"] + spread, summed.get("iou_high", np.nan)),
    )
