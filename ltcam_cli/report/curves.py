"""Figures of sweeps, with matplotlib (the extra `report`)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ltcam_cli.errors import require
from ltcam_cli.files import atomic


def draw_delta_curve(table: pd.DataFrame, path: Path) -> None:
    """IoU over δ: a line per method and layer set, with its bootstrap band; a panel per part.

    Args:
        table: rows of a sweep, with the columns method, layers, delta, iou, iou_low, iou_high,
            part, and chosen (the row that the training part chose, ringed).
        path: of the PNG.

    Raises:
        LtcamError: if matplotlib is not installed.
    """
    require("matplotlib", "report").use("Agg")
    from matplotlib import pyplot

    parts = list(dict.fromkeys(table["part"]))
    figure, axes = pyplot.subplots(
        1, len(parts), figsize=(6.4 * len(parts), 4.4), sharey=True, squeeze=False
    )
    for axis, part in zip(axes[0], parts, strict=True):
        of_part = table[table["part"] == part]
        for (method, layers), line in of_part.groupby(["method", "layers"], sort=False):
            swept = line.dropna(subset="delta").sort_values("delta")
            if swept.empty:
                axis.axhline(line["iou"].iloc[0], ls=":", lw=1, label=f"{method}, {layers}")
                continue
            drawn = axis.plot(
                swept["delta"], swept["iou"], marker="o", ms=3, label=f"{method}, {layers}"
            )
            axis.fill_between(
                swept["delta"], swept["iou_low"], swept["iou_high"],
                color=drawn[0].get_color(), alpha=0.12, lw=0,
            )  # fmt: skip
        chosen = of_part[of_part["chosen"] & of_part["delta"].notna()]
        axis.plot(chosen["delta"], chosen["iou"], "o", ms=10, mfc="none", mec="black")
        axis.set(xlabel="δ (percentile of the positive gradients)", title=part)
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("pooled IoU / %, with 95 % interval")
    axes[0][-1].legend(fontsize=7)
    figure.tight_layout()
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=140)
    pyplot.close(figure)
