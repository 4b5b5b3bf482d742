"""Cells: what an evaluation left in a run folder, and which of them are meant."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from ltcam_cli.errors import LtcamError, nearest
from ltcam_cli.files import read_json
from ltcam_cli.runs.folder import RunFolder

# What may tell two cells of one method apart, in the order of a label.
TELLING = ("layers", "segmenter", "images", "scope", "form", "fusion", "normalize", "weights",
           "tta", "ensemble", "target", "split", "run")  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One evaluated cell: `<run>/evaluate/<name>`."""

    path: Path

    @property
    def name(self) -> str:
        """The folder's name: a readable stem and six hex digits."""
        return self.path.name

    @property
    def run(self) -> RunFolder:
        """The run that it is of."""
        return RunFolder(self.path.parent.parent)

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Scores and what they are of, with the columns of the table of results.

        Raises:
            LtcamError: if the folder is no finished cell.
        """
        path = self.path / "metrics.json"
        if not path.is_file():
            raise LtcamError(f"{self.path}: holds no metrics.json; evaluate the cell anew")
        return dict(read_json(path))

    @property
    def config(self) -> dict[str, Any]:
        """The config that it was evaluated with, with the key `hash`."""
        text = (self.path / "config.yaml").read_text(encoding="utf-8")
        return dict(yaml.safe_load(text))

    def images(self) -> pd.DataFrame:
        """A row an image, by name; see `Scores.table`."""
        exact = {"name": str, "group": str}  # NA is a name, too
        scores = {column: [""] for column in ("iou", "precision", "recall", "f1")}
        path = self.path / "images.csv"
        table = pd.read_csv(path, dtype=exact, keep_default_na=False, na_values=scores)
        return table.set_index("name")

    def curve(self) -> pd.DataFrame | None:
        """The pixels' precision-recall curve in per cent; None for cells of before it was kept."""
        path = self.path / "curve.csv"
        return pd.read_csv(path) if path.is_file() else None


def results_of(run: RunFolder) -> pd.DataFrame:
    """The table of a run's cells.

    Raises:
        LtcamError: if none was evaluated.
    """
    table = run.results()
    if table.empty:
        raise LtcamError(f"{run.path}: nothing evaluated yet; ltcam evaluate --run {run.name}")
    return table


def find_cells(
    run: RunFolder,
    names: Sequence[str] = (),
    methods: Sequence[str] = (),
    deltas: Sequence[float | None] = (),
) -> list[Cell]:
    """The cells that are meant: as names or methods are listed, else as the table of results is.

    Args:
        names: cells' names, or the six hex digits that they end with.
        methods, deltas: that they must have; any if empty. A δ of None is no truncation.

    Without names, cells that count defective images of the test split are meant; others only if
    there are none of these.

    Raises:
        LtcamError: if there is no such cell.
    """
    table = results_of(run)
    if names:
        known = {cell.rpartition("-")[2]: cell for cell in table["cell"]}
        wanted = [known.get(name, name) for name in names]
        table = _in_order(table, "cell", wanted, f"--cell {{}}: {run.name} has no such cell")
    if methods:
        table = _in_order(table, "method", methods, f"--method {{}}: not evaluated in {run.name}")
    if deltas:
        numbers = [delta for delta in deltas if delta is not None]
        none = table["delta"].isna() & (None in deltas)
        table = table[table["delta"].isin(numbers) | none]
    usual = (table["images"] == "defective") & ~table["split"].str.contains("/")
    if not names and usual.any():
        table = table[usual]
    cells = [Cell(run.path / "evaluate" / cell) for cell in table["cell"]]
    cells = [cell for cell in cells if (cell.path / "metrics.json").is_file()]
    if not cells:
        raise LtcamError(f"{run.path}: no such cell; see: ltcam runs {run.name}")
    return cells


def _in_order(table: pd.DataFrame, column: str, wanted: Sequence[str], fault: str) -> pd.DataFrame:
    """The rows that hold what is wanted, in that order."""
    for value in wanted:
        if value not in set(table[column]):
            raise LtcamError(fault.format(value) + nearest(value, set(table[column])))
    return pd.concat([table[table[column] == value] for value in dict.fromkeys(wanted)])


def chosen_by_training(run: RunFolder) -> set[str]:
    """Names of the cells that the training part chose in a sweep of both parts."""
    tables = [pd.read_csv(path) for path in sorted(run.path.glob("sweep/*/sweep.csv"))]
    return {cell for table in tables for cell in table["cell"][table["chosen"].astype(bool)]}


def newest(cells: Sequence[Cell], count: int, first: Set[str] = frozenset()) -> list[Cell]:
    """At most `count` cells: the newest of each method first, then older ones.

    A rule without a score in it, since cells are of a test split. The order stays.

    Args:
        cells: oldest first.
        count: of the cells wanted.
        first: names of cells that are taken for newer than all others.
    """
    seen: dict[str, int] = {}
    ranked = []
    ages = sorted(range(len(cells)), key=lambda n: (cells[n].name not in first, -n))
    for age, cell in enumerate(cells[n] for n in ages):
        rank = seen[cell.metrics["method"]] = seen.get(cell.metrics["method"], -1) + 1
        ranked.append((rank, age, cell))
    kept = {cell.path for *_, cell in sorted(ranked, key=lambda each: each[:2])[:count]}
    return [cell for cell in cells if cell.path in kept]


def labels(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Short and distinct names of cells, from their metrics: method, δ, what tells them apart."""
    table = pd.DataFrame(rows)
    telling = [c for c in TELLING if c in table and table[c].nunique(dropna=False) > 1]
    named = []
    for row in rows:
        delta = [] if pd.isna(row.get("delta")) else [f"δ {row['delta']:g}"]
        named.append(" · ".join([str(row["method"]), *delta, *(str(row[c]) for c in telling)]))
    return [
        f"{name} · {row['cell'][-6:]}" if named.count(name) > 1 else name
        for name, row in zip(named, rows, strict=True)
    ]
