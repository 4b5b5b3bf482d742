"""Figures of scores by matplotlib (the extra `report`): as PNG, or as SVG inside a page."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ltcam_cli.errors import require
from ltcam_cli.files import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Distinct in hue, and of medium lightness: readable on light and on dark pages.
LINES = ("#3b82c4", "#d9822b", "#2f9e6e", "#b5559b", "#8570d4", "#a58a2c", "#c9554d", "#3899a8")
MARKERS = "osD^vP*X"  # distinguish the lines in grey as well
INK = "#010203"  # practically black; the text colour of the page replaces it in an SVG
DELTA = "δ (percentile of the positive gradients)"
AXES = {"iou": "pooled IoU / %", "evidence": "evidence in the mask × ln(1 / its area)"}


@contextmanager
def _plain() -> Iterator[None]:
    """Settings that ignore the user's: texts stay texts in an SVG, and ids stay the same."""
    require("matplotlib", "report")
    from matplotlib import rc_context, rcParamsDefault

    style: Any = {"backend": "agg", "svg.fonttype": "none", "svg.hashsalt": "ltcam"}
    style |= {"font.size": 9, "axes.linewidth": 0.7, "text.parse_math": False}
    style |= {f"{name}.color": INK for name in ("text", "xtick", "ytick")}
    style |= {f"axes.{name}": INK for name in ("labelcolor", "edgecolor", "titlecolor")}
    with rc_context({**rcParamsDefault, **style}):
        yield


def colour(number: int) -> str:
    """Colour of the n-th line; they repeat."""
    return LINES[number % len(LINES)]


@_plain()
def draw_choice(curve: pd.DataFrame, path: Path) -> None:
    """Draw the criterion that chose δ over δ, with a ring around the choice.

    Args:
        curve: Table with the columns delta, the criterion, and chosen.
        path: PNG file.

    Raises:
        LtcamError: if matplotlib is not installed.
    """
    [name] = [column for column in curve.columns if column not in {"delta", "chosen"}]
    figure, [axis] = _figure(5.2, 3.4)
    axis.plot(curve["delta"], curve[name], color=colour(0), marker="o", ms=4)
    best = curve[curve["chosen"]]
    axis.plot(best["delta"], best[name], "o", ms=11, mfc="none", mec=INK)
    axis.set(xlabel=DELTA, ylabel=AXES.get(name, name), title="on the training part")
    _write(figure, path)


def score_of(table: pd.DataFrame) -> str:
    """`evidence` where the rows of a sweep were scored without masks, else `iou`."""
    return "evidence" if "evidence" in table and table["iou"].isna().all() else "iou"


@_plain()
def delta_figure(
    table: pd.DataFrame, title: str | None = None, band: str = "95 % interval"
) -> Figure:
    """IoU over δ: one line per method and layers, with its interval; one panel per part.

    A part without masks has its evidence in place of the IoU, and no interval.

    Args:
        table: Rows of a sweep, with the columns method, layers, delta, iou, iou_low, iou_high,
            part, and chosen (whether the training images chose the row; it has a ring). Without
            masks, evidence.
        title: Title above the panels.
        band: Name of the interval from iou_low to iou_high.

    Raises:
        LtcamError: if matplotlib is not installed.
    """
    numbers = {"iou", "iou_low", "iou_high", "evidence"} & {*table.columns}
    table = table.astype(dict.fromkeys(numbers, float))  # None where none is defined
    parts = list(dict.fromkeys(table["part"]))
    scores = {part: score_of(table[table["part"] == part]) for part in parts}
    alike = len(set(scores.values())) == 1
    figure, axes = _figure(6.4 * len(parts), 4.4, len(parts), shared=alike)
    for place, (axis, part) in enumerate(zip(axes, parts, strict=True)):
        of_part, score = table[table["part"] == part], scores[part]
        if not place or not alike:
            axis.set_ylabel(AXES[score] + (f", with {band}" if score == "iou" else ""))
        lines = of_part.groupby(["method", "layers"], sort=False)
        for number, ((method, layers), line) in enumerate(lines):
            label, shade = f"{method}, {layers}", colour(number)
            swept = line.dropna(subset="delta").sort_values("delta")
            if swept.empty:
                axis.axhline(line[score].iloc[0], ls=":", lw=1, color=shade, label=label)
                continue
            axis.plot(
                swept["delta"], swept[score], color=shade, marker=MARKERS[number % len(MARKERS)],
                ms=4, label=label,
            )  # fmt: skip
            if score == "iou":
                axis.fill_between(
                    swept["delta"], swept["iou_low"], swept["iou_high"],
                    color=shade, alpha=0.12, lw=0,
                )  # fmt: skip
        chosen = of_part[of_part["chosen"] & of_part["delta"].notna()]
        axis.plot(chosen["delta"], chosen[score], "o", ms=10, mfc="none", mec=INK)
        axis.set(xlabel=DELTA, title=part if len(parts) > 1 or not title else title)
    axes[-1].legend(fontsize=8, frameon=False)
    if title and len(parts) > 1:
        figure.suptitle(title)
    return figure


def draw_delta_curve(
    table: pd.DataFrame, path: Path, title: str | None = None, band: str = "95 % interval"
) -> None:
    """Write `delta_figure` as PNG."""
    _write(delta_figure(table, title, band), path)


def _write(figure: Figure, path: Path) -> None:
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=140)


@_plain()
def precision_recall_figure(
    curves: Mapping[str, pd.DataFrame], points: Mapping[str, Sequence[float]]
) -> Figure:
    """Pixel precision over recall: one line per cell, and a dot for its masks.

    Args:
        curves: Tables by label, with the columns recall and precision in per cent.
        points: Recall and precision of the masks by label, in per cent, in the order of the
            colours.

    Raises:
        LtcamError: if matplotlib is not installed.
    """
    figure, [axis] = _figure(6.4, 4.4)
    for number, (label, (recall, precision)) in enumerate(points.items()):
        if label in curves:
            curve = curves[label]
            axis.plot(
                curve["recall"], curve["precision"], color=colour(number), lw=1.6, label=label
            )
        axis.plot(
            [recall], [precision], "o", ms=7, color=colour(number),
            label=None if label in curves else label,
        )  # fmt: skip
    axis.set(xlabel="recall / %", ylabel="precision / %", xlim=(0, 102))
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=8, frameon=False)
    return figure


@_plain()
def bar_figure(
    labels: Sequence[str], rows: Sequence[Sequence[float]], score: str = "iou"
) -> Figure:
    """Bars of pooled IoU with their intervals, or of evidence, from the top down.

    Args:
        labels: Labels of the cells.
        rows: Score of each cell and both ends of its interval, of IoU in per cent; NaN where
            undefined.
        score: `iou` or `evidence`.

    Raises:
        LtcamError: if matplotlib is not installed.
    """
    digits = 1 if score == "iou" else 2
    figure, [axis] = _figure(6.4, 1.0 + 0.36 * len(rows))
    for place, (iou, low, high) in enumerate(rows):
        axis.barh(place, iou, height=0.62, color=LINES[0], alpha=0.75)
        axis.plot([low, high], [place, place], color=INK, lw=1.2)
        axis.plot([low, high], [place, place], "|", color=INK, ms=7)
        axis.annotate(
            f"{iou:.{digits}f}", (max(iou, high) if high == high else iou, place),
            xytext=(6, 0), textcoords="offset points", va="center", fontsize=8,
        )  # fmt: skip
    axis.set_yticks(range(len(rows)), labels)
    axis.tick_params(axis="y", length=0)
    axis.set(xlabel=AXES[score] + (", with 95 % interval" if score == "iou" else ""))
    axis.set_xlim(0, 1.08 * max([1.0, *(v for row in rows for v in row if v == v)]))
    axis.grid(visible=False, axis="y")
    axis.invert_yaxis()
    return figure


@_plain()
def probability_figure(
    probabilities: Mapping[str, Sequence[float]], threshold: float | None
) -> Figure:
    """Histogram of images over the classifier's probability of a defect, one on top of the other.

    Args:
        probabilities: Probabilities of the images of each class, in [0, 1].
        threshold: Probability from which an image is called defective; None: no line.

    Raises:
        LtcamError: if matplotlib is not installed.
    """
    figure, [axis] = _figure(6.4, 4.4)
    axis.hist(
        list(probabilities.values()), bins=25, range=(0, 1), stacked=True,
        color=[colour(number) for number in range(len(probabilities))],
        label=list(probabilities),
    )  # fmt: skip
    if threshold is not None:
        axis.axvline(threshold, color=INK, ls=":", lw=1.2, label="threshold")
    axis.set(xlabel="probability of a defect", ylabel="images", xlim=(0, 1))
    axis.legend(fontsize=8, frameon=False)
    return figure


def as_svg(figure: Figure, title: str, name: str) -> str:
    """A figure as an `<svg>` inside a page, transparent and in the page's text colour.

    Args:
        figure: Figure.
        title: Description of the figure for screen readers.
        name: Prefix of the ids; unique in the page.
    """
    stream = io.StringIO()
    for axis in figure.axes:
        axis.set_facecolor("none")
    with _plain():
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    svg = re.sub(r"^.*?(?=<svg)", "", stream.getvalue(), flags=re.S)
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.S)  # styles apply to the page
    svg = re.sub(r" font-family: [^;\"]*;", "", svg)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = svg.replace(INK, "currentColor")
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)


def _figure(
    width: float, height: float, panels: int = 1, *, shared: bool = True
) -> tuple[Figure, list[Any]]:
    """Figure of a size in inches, with panels side by side that may share the y axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, panels, sharey=shared, squeeze=False)[0]
    for axis in axes:
        axis.grid(alpha=0.25, lw=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)
