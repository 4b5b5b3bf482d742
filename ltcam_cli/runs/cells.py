"""Evaluated cells of a run: what their folders hold, and how they are selected."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from ltcam_cli.errors import DamagedFileError, LtcamError, nearest
from ltcam_cli.files import write_table
from ltcam_cli.runs.folder import (
    CELL,
    EVALUATE_ANEW,
    MASK_FREE,
    OF_TRAINING,
    SCORES,
    RunFolder,
    find_run,
    read_config,
)
from ltcam_cli.runs.reading import TEXTS, read_mapping, read_table, reading
from ltcam_cli.scores.kinds import mask_kinds

log = logging.getLogger("ltcam_cli")

# Columns that may distinguish two cells of one method, in the order of a label.
DISTINCTIONS = ("layers", "segmenter", "images", "scope", "form", "fusion", "normalize", "weights",
                "backward", "tta", "ensemble", "dtype", "target", "supervision", "split",
                "run")  # fmt: skip
IOU_INTERVAL = ("iou_low", "iou_high")
CONFIG = (*OF_TRAINING, "method", "segmenter", "tta", "evaluation", "overwrite")
KINDS = "kinds.csv"
COUNTS = ("tp", "fp", "fn", "tn")
PICTURES = "pictures.json"


@dataclass(frozen=True)
class Cell:
    """One evaluated cell: `<run>/evaluate/<name>`.

    Its files raise an `LtcamError` where they are missing or damaged.
    """

    path: Path

    @property
    def name(self) -> str:
        """Name of the folder: a readable stem and six hex digits."""
        return self.path.name

    @property
    def run(self) -> RunFolder:
        """Run whose classifier was evaluated."""
        return RunFolder(self.path.parent.parent)

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Scores and their circumstances, with the columns of the table of results."""
        numbers = (*SCORES, *MASK_FREE)
        return read_mapping(self.path / "metrics.json", EVALUATE_ANEW, CELL, numbers)

    @property
    def mask_free(self) -> bool:
        """Whether there was no true mask: evidence stands in place of IoU."""
        return "evidence" in self.metrics

    @property
    def config(self) -> dict[str, Any]:
        """Config of the evaluation."""
        return read_config(self.path, EVALUATE_ANEW, CONFIG)

    def images(self) -> pd.DataFrame:
        """Scores of each image, indexed by name; see `Scores.table`."""
        path = self.path / "images.csv"
        free = self.mask_free
        counts = dict.fromkeys(COUNTS, "Int64" if free else "int64")
        exact: Any = {**dict.fromkeys(TEXTS, str), **counts}
        numbers = (*COUNTS, *(MASK_FREE if free else ()))
        table = read_table(path, EVALUATE_ANEW, ("name", "group"), numbers, dtype=exact)
        if table["name"].duplicated().any():
            raise DamagedFileError(f"{path}: is damaged; {EVALUATE_ANEW}")
        return table.set_index("name")

    def write_kinds(self, kinds: Mapping[str, Sequence[str]]) -> None:
        """Write `kinds.csv`, its scores by the kinds of the images, which are given by name."""
        write_table(self.path / KINDS, mask_kinds(self.images(), kinds))

    def curve(self) -> pd.DataFrame | None:
        """Precision-recall curve of the pixels in per cent; None if there is none."""
        path = self.path / "curve.csv"
        numbers = ("recall", "precision")
        return read_table(path, EVALUATE_ANEW, numbers=numbers) if path.is_file() else None

    def pictures(self) -> dict[str, dict[str, str]]:
        """Heatmap and mask of images by name, see `report.gallery`; empty where none are kept."""
        path = self.path / PICTURES
        return read_mapping(path, EVALUATE_ANEW) if path.is_file() else {}

    def check(self) -> None:
        """Refuse a cell that cannot be shown.

        Raises:
            DamagedFileError: If one of its files is damaged or missing.
        """
        _ = self.metrics, self.config, self.images(), self.curve()


def sweep_tables(run: RunFolder) -> list[pd.DataFrame]:
    """Tables of a run's sweeps, by name; damaged ones are logged."""
    tables = []
    for path in sorted(run.path.glob("sweep/*/sweep.csv")):
        texts, numbers = ("cell", "method", "layers", "part"), ("delta", "iou", *IOU_INTERVAL)
        try:
            with reading(path, "sweep again"):
                table = read_table(path, "sweep again", texts, (*numbers, "chosen"))
                tables.append(table.astype({"chosen": bool}))
        except DamagedFileError as error:
            log.warning("%s", error)
    return tables


def results_of(run: RunFolder) -> pd.DataFrame:
    """Table of a run's cells.

    Raises:
        LtcamError: if nothing was evaluated.
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
    """The selected cells, in the order of names or methods, else of the table of results.

    Args:
        run: Run folder with at least one cell.
        names: Names of cells, or the six hex digits at their ends.
        methods: Names of methods to select; empty: all.
        deltas: Percentiles to select, None for no truncation; empty: all.

    Without names, the cells that count defective images of the test split are selected; others
    only if there are none of these.

    Raises:
        LtcamError: if there is no such cell.
    """
    table = results_of(run)
    if names:
        by_digits = {cell.rpartition("-")[2]: cell for cell in table["cell"]}
        cells = [by_digits.get(name, name) for name in names]
        table = _select(table, "cell", cells, f"--cell {{}}: {run.name} has no such cell")
    if methods:
        table = _select(table, "method", methods, f"--method {{}}: not evaluated in {run.name}")
    if deltas:
        numbers = [delta for delta in deltas if delta is not None]
        none = table["delta"].isna() & (None in deltas)
        table = table[table["delta"].isin(numbers) | none]
    usual = (table["images"] == "defective") & ~table["split"].str.contains("/")
    if not names and usual.any():
        table = table[usual]
    paths = [run.path / "evaluate" / cell for cell in table["cell"]]
    selected = [Cell(path) for path in paths if (path / "metrics.json").is_file()]
    if not selected:
        raise LtcamError(f"{run.path}: no such cell; see: ltcam runs {run.name}")
    return selected


def cells_at(
    outputs: Path,
    places: Sequence[str],
    names: Sequence[str],
    methods: Sequence[str],
    deltas: Sequence[float | None],
) -> list[Cell]:
    """Cells of runs and at paths, each once, in the order of the places.

    Args:
        outputs: Folder of the runs.
        places: Runs by name or path, and paths of cells.
        names, methods, deltas: What selects the cells of runs; see `find_cells`.

    Raises:
        LtcamError: If there is no such run or cell.
    """
    cells: dict[Path, Cell] = {}
    for place in places:
        path = Path(place)
        if (path / "metrics.json").is_file() and path.parent.name == "evaluate":
            found = [Cell(path)]
        else:
            found = find_cells(find_run(outputs, place), names, methods, deltas)
        cells |= {cell.path.resolve(): cell for cell in found}
    return list(cells.values())


def _select(table: pd.DataFrame, column: str, values: Sequence[str], fault: str) -> pd.DataFrame:
    """The rows with one of some values, in the order of these."""
    for value in values:
        if value not in set(table[column]):
            raise LtcamError(fault.format(value) + nearest(value, set(table[column])))
    return pd.concat([table[table[column] == value] for value in dict.fromkeys(values)])


def chosen_by_training(run: RunFolder) -> set[str]:
    """Names of the cells that training images chose in a sweep of both parts."""
    tables = sweep_tables(run)
    return {cell for table in tables for cell in table["cell"][table["chosen"].astype(bool)]}


def newest(cells: Sequence[Cell], count: int, first: Set[str] = frozenset()) -> list[Cell]:
    """At most `count` cells, in their order: the newest of each method first, then older ones.

    The rule reads no score, since cells are of a test split.

    Args:
        cells: Cells, oldest first.
        count: Number of cells.
        first: Names of cells that count as newer than all others.
    """
    ranks: dict[str, int] = {}
    ranked = []
    ages = sorted(range(len(cells)), key=lambda n: (cells[n].name not in first, -n))
    for age, cell in enumerate(cells[n] for n in ages):
        method = cell.metrics["method"]
        ranks[method] = ranks.get(method, -1) + 1
        ranked.append((ranks[method], age, cell.path))
    selected = {path for *_, path in sorted(ranked)[:count]}
    return [cell for cell in cells if cell.path in selected]


def cell_labels(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Short and distinct labels of cells by their metrics: method, δ, and what differs."""
    table = pd.DataFrame(rows)
    differing = [c for c in DISTINCTIONS if c in table and table[c].nunique(dropna=False) > 1]
    names = []
    for row in rows:
        delta = [] if pd.isna(row.get("delta")) else [f"δ {row['delta']:g}"]
        names.append(" · ".join([str(row["method"]), *delta, *(str(row[c]) for c in differing)]))
    return [
        f"{name} · {row['cell'][-6:]}" if names.count(name) > 1 else name
        for name, row in zip(names, rows, strict=True)
    ]
