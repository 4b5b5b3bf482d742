"""Run folders: what they are called, how one is found again, and what it holds.

outputs/<name>/train/…, outputs/<name>/evaluate/<cell>/…, outputs/<name>/results.csv
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ltcam_cli.errors import DamagedFileError, LtcamError, nearest
from ltcam_cli.files import write_text
from ltcam_cli.runs.dotted import with_lists
from ltcam_cli.runs.identity import Identity, kept_identity, same_but_rounding
from ltcam_cli.runs.reading import parsed_table, read_mapping, read_table

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("ltcam_cli")
ANEW = "train the run anew"
CORRECTIONS = "corrections"  # folder of what a person corrected, below what was reviewed
EVALUATE_ANEW = "evaluate the cell anew with --overwrite"
OF_TRAINING = ("hash", "dataset", "backbone", "trainer", "seed")  # keys of a run's config
SCORES = ("iou", "precision", "recall", "f1", "iou_low", "iou_high", "mean_iou", "delta")
MASK_FREE = ("evidence", "area")  # scores of a cell where no mask is there
CELL = ("method", "cell", "layers", "segmenter", "images", "split")  # texts of a row of results


@dataclass(frozen=True)
class RunFolder:
    """One trained classifier and all that was made of it."""

    path: Path

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.name

    @property
    def train(self) -> Path:
        """Folder of checkpoint, history and metrics."""
        return self.path / "train"

    @property
    def checkpoint(self) -> Path:
        """Checkpoint of the trained classifier."""
        return self.train / "checkpoint.pt"

    @property
    def config(self) -> dict[str, Any]:
        """Composed config of its training, with the key `hash`.

        Raises:
            LtcamError: If there is none, or it is damaged.
        """
        return read_config(self.train, ANEW, OF_TRAINING)

    @property
    def config_path(self) -> Path:
        """File of the config."""
        return self.train / "config.yaml"

    @property
    def metrics(self) -> dict[str, Any]:
        """Metrics of its training; empty while that is not finished.

        Raises:
            DamagedFileError: If the file is damaged.
        """
        path = self.train / "metrics.json"
        if not path.is_file():
            return {}
        return read_mapping(path, ANEW, numbers=("threshold", "seconds"), prefix="test_")

    def check(self) -> None:
        """Refuse a run that cannot be shown.

        Raises:
            DamagedFileError: If its config, identity or metrics are damaged.
        """
        _ = self.config, kept_identity(self.train), self.metrics

    def results(self, dtype: Any = None) -> pd.DataFrame:
        """All cells ever evaluated; may be empty.

        A damaged table is put together anew, of the cells' `metrics.json`.

        Args:
            dtype: Types of columns, as of `parsed_table`.
        """
        import pandas as pd

        path = self.path / "results.csv"
        if not path.is_file():
            return pd.DataFrame()
        try:
            table = read_table(path, "its rows are read from the cells", CELL, SCORES)
            if table["cell"].isna().any():
                raise DamagedFileError(f"{path}: is damaged; its rows are read from the cells")
            return table if dtype is None else read_table(path, "", dtype=dtype)
        except DamagedFileError as error:
            log.warning("%s", error)
        rows = pd.DataFrame(self.cell_metrics())
        return parsed_table(rows.to_csv(index=False).encode(), dtype=dtype) if len(rows) else rows

    def cell_metrics(self) -> list[dict[str, Any]]:
        """Metrics of the cells that are there, the oldest first; damaged ones are logged."""
        paths = [*self.path.glob("evaluate/*/metrics.json")]
        rows = []
        for path in sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path)):
            try:
                rows.append(read_mapping(path, EVALUATE_ANEW, CELL, (*SCORES, *MASK_FREE)))
            except DamagedFileError as error:
                log.warning("%s", error)
        return rows


def read_config(folder: Path, remedy: str, required: Sequence[str] = ()) -> dict[str, Any]:
    """`config.yaml` of a folder.

    Args:
        folder: Folder of a training, cell or student.
        remedy: What to do about a damaged file; ends the error's line.
        required: Keys that it must have.

    Raises:
        DamagedFileError: If there is none, or it is damaged.
    """
    return read_mapping(folder / "config.yaml", remedy, required)


def write_config(folder: Path, values: Mapping[str, Any]) -> None:
    """Write `config.yaml` into a folder."""
    write_text(folder / "config.yaml", yaml.safe_dump(with_lists(dict(values)), sort_keys=False))


def open_run(outputs: Path, name: str, digest: str) -> RunFolder:
    """The folder that a training with this hash writes to.

    Raises:
        LtcamError: If a folder of that name holds another training.
    """
    run = RunFolder(outputs / name)
    trained = run.checkpoint.is_file() or (run.train / "last.pt").is_file()
    if trained and (kept := run.config.get("hash")) != digest:
        raise LtcamError(
            f"{run.path}: holds another training (hash {kept}, now {digest}); see: ltcam runs why "
            f"{run.name}; choose another name=… or delete it"
        )
    return run


def list_runs(outputs: Path) -> list[RunFolder]:
    """All run folders below `outputs`, by name."""
    return [RunFolder(path.parent.parent) for path in sorted(outputs.glob("*/train/config.yaml"))]


def find_run(outputs: Path, name: str, key: str = "run") -> RunFolder:
    """The run called `name`, or the run at that path, which a config's `key` asks for.

    Raises:
        LtcamError: With the nearest names if there is none.
    """
    for path in (Path(name), outputs / name):
        if (path / "train" / "config.yaml").is_file():
            return RunFolder(path)
    known = [run.name for run in list_runs(outputs)]
    none = "; there is none yet: ltcam train (elsewhere: outputs=FOLDER)"
    hint = nearest(name, known) if known else none
    raise LtcamError(f"{key}={name}: no such run in {outputs}{hint}")


def finished_run(outputs: Path, name: str, key: str) -> RunFolder:
    """As `find_run`, and its training is finished.

    Raises:
        LtcamError: If there is no such run, or its training is not finished.
    """
    run = find_run(outputs, name, key)
    if not run.checkpoint.is_file():
        raise LtcamError(f"{key}={name}: its training is not finished; run: ltcam train --resume")
    return run


def fitting_run(outputs: Path, identity: Identity, name: str = "") -> RunFolder | None:
    """The finished run of a training; the one called `name` first if several are.

    Of runs that differ in rounding alone, such as by the number of threads, one is taken if there
    is no other.
    """
    finished = [run for run in list_runs(outputs) if run.checkpoint.is_file()]
    finished.sort(key=lambda run: run.name != name)
    for run in finished:
        try:
            kept = run.config.get("hash")
        except LtcamError:
            continue  # a damaged run must not stop a healthy one
        if kept == identity.hash:
            return run
    for run in finished:
        if same_but_rounding(run.train, identity):
            log.info("%s: fits, but for its number of threads or device: ltcam runs why %s",
                     run.path, run.name)  # fmt: skip
            return run
    return None


def find_trained(outputs: Path, identity: Identity, name: str, command: str) -> RunFolder:
    """The finished run of a training.

    Args:
        outputs: Folder of the runs.
        identity: Identity of the training.
        name: Name of the run that goes first if several have it.
        command: Command that would train it; named if there is none.

    Raises:
        LtcamError: Listing the runs there are.
    """
    if run := fitting_run(outputs, identity, name):
        return run
    runs = [run.name for run in list_runs(outputs) if run.checkpoint.is_file()]
    raise LtcamError(
        f"no trained classifier fits this config (hash {identity.hash}); train it with: {command} "
        f"— or choose one with --run (trained: {', '.join(runs) or 'none'})"
    )
