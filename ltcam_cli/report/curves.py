"""Figures of sweeps, with matplotlib (the extra `report`)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ltcam_cli.errors import require
from ltcam_cli.files import atomic

DELTA = "δ (percentile of the positive gradients)"
MARKERS = "osD^vP*X"  # lines are told apart in grey as well
NAMES = {"iou": "pooled IoU / %", "evidence": "evidence in the mask × ln(1 / its area)"}


def draw_choice(curve: pd.DataFrame, path: Path) -> None:
    """What chose δ, over δ, with the choice ringed.

    Args:
        curve: the columns delta, the criterion, and chosen.
        path: of the PNG.

    Raises:
        LtcamError: if matplotlib is not installed.
    """
    require("matplotlib", "report").use("Agg")
    from matplotlib import pyplot

    [name] = [column for column in curve.columns if column not in {"delta", "chosen"}]
    figure, axis = pyplot.subplots(figsize=(5.2, 3.4), facecolor="white")
    axis.plot(curve["delta"], curve[name], marker="o", ms=4)
    best = curve[curve["chosen"]]
    axis.plot(best["delta"], best[name], "o", ms=11, mfc="none", mec="black")
    axis.set(xlabel=DELTA, ylabel=NAMES.get(name, name), title="on the training part")
    axis.grid(alpha=0.3)
    figure.tight_layout()
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=140)
    pyplot.close(figure)


def draw_delta_curve(
    table: pd.DataFrame, path: Path, title: str | None = None, band: str = "95 % interval"
) -> None:
    """IoU over δ: a line per method and layer set, with its bootstrap band; a panel per part.

    Args:
        table: rows of a sweep, with the columns method, layers, delta, iou, iou_low, iou_high,
            part, and chosen (the row that the training part chose, ringed).
        path: of the PNG.
        title: above the panels.
        band: what iou_low and iou_high are.

    Raises:
        LtcamError: if matplotlib is not installed.
    """
    require("matplotlib", "report").use("Agg")
    from matplotlib import pyplot

    parts = list(dict.fromkeys(table["part"]))
    figure, axes = pyplot.subplots(
        1, len(parts), figsize=(6.4 * len(parts), 4.4), sharey=True, squeeze=False,
        facecolor="white",
    )  # fmt: skip
    for axis, part in zip(axes[0], parts, strict=True):
        of_part = table[table["part"] == part]
        for number, ((method, layers), line) in enumerate(
            of_part.groupby(["method", "layers"], sort=False)
        ):
            swept = line.dropna(subset="delta").sort_values("delta")
            if swept.empty:
                axis.axhline(line["iou"].iloc[0], ls=":", lw=1, label=f"{method}, {layers}")
                continue
            drawn = axis.plot(
                swept["delta"], swept["iou"], marker=MARKERS[number % len(MARKERS)], ms=4,
                label=f"{method}, {layers}",
            )  # fmt: skip
            axis.fill_between(
                swept["delta"], swept["iou_low"], swept["iou_high"],
                color=drawn[0].get_color(), alpha=0.12, lw=0,
            )  # fmt: skip
        chosen = of_part[of_part["chosen"] & of_part["delta"].notna()]
        axis.plot(chosen["delta"], chosen["iou"], "o", ms=10, mfc="none", mec="black")
        axis.set(xlabel=DELTA, title=part if len(parts) > 1 or not title else title)
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel(f"{NAMES['iou']}, with {band}")
    axes[0][-1].legend(fontsize=7)
    if title and len(parts) > 1:
        figure.suptitle(title)
    figure.tight_layout()
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=140)
    pyplot.close(figure)
