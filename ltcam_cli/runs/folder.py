"""Run folders: what they are called, how one is found again, and what it holds.

outputs/<name>/train/…, outputs/<name>/evaluate/<cell>/…, outputs/<name>/results.csv
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import yaml

from ltcam_cli.errors import LtcamError, nearest
from ltcam_cli.files import atomic, read_json, write_text
from ltcam_cli.runs.dotted import with_lists
from ltcam_cli.runs.identity import Identity, same_but_rounding

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("ltcam_cli")
# Columns of tables that are texts even where they look like a number, or like none: 007, 1e5, NA.
TEXTS = (
    "run name group path content method layers segmenter images dataset split supervision target "
    "scope form fusion normalize weights tta ensemble pipeline checkpoint cell part refine"
).split()


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
        return read_config(self.train, "train the run anew")

    @property
    def metrics(self) -> dict[str, Any]:
        """Metrics of its training; empty while that is not finished.

        Raises:
            LtcamError: If the file is damaged.
        """
        path = self.train / "metrics.json"
        try:
            return dict(read_json(path)) if path.is_file() else {}
        except (ValueError, TypeError) as error:
            raise LtcamError(f"{path}: is damaged; train the run anew") from error

    def results(self) -> pd.DataFrame:
        """All cells ever evaluated; may be empty.

        Raises:
            LtcamError: If the table is damaged.
        """
        import pandas as pd

        path = self.path / "results.csv"
        if not path.is_file():
            return pd.DataFrame()
        try:
            return read_table(path)
        except (ValueError, OSError) as error:
            raise LtcamError(f"{path}: is damaged; delete it and evaluate anew") from error


def read_config(folder: Path, remedy: str) -> dict[str, Any]:
    """`config.yaml` of a folder.

    Args:
        folder: Folder of a training, cell or student.
        remedy: What to do about a damaged file; ends the error's line.

    Raises:
        LtcamError: If there is none, or it is damaged.
    """
    path = folder / "config.yaml"
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LtcamError(f"{path}: no such file; {remedy}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise LtcamError(f"{path}: is damaged; {remedy}") from error
    if not isinstance(loaded, dict):
        raise LtcamError(f"{path}: is damaged; {remedy}")
    return loaded


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
    hint = nearest(name, known) if known else "; there is none yet: ltcam train"
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


def read_table(source: Path | IO[bytes], dtype: Any = None, converters: Any = None) -> pd.DataFrame:
    """A table of ours: its texts stay as they are, and only an empty field is missing.

    Args:
        source: CSV file.
        dtype: Types of columns, as of `pandas.read_csv`; None: the `TEXTS` are str.
        converters: Functions that read columns, as of `pandas.read_csv`.
    """
    import pandas as pd

    dtype = dict.fromkeys(TEXTS, str) if dtype is None else dtype
    return pd.read_csv(
        source, dtype=dtype, converters=converters, keep_default_na=False, na_values=[""]
    )


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV, atomically and in full precision."""
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False)
