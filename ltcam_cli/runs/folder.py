"""Run folders: what they are called, how one is found again, and what it holds.

outputs/<name>/train/…, outputs/<name>/evaluate/<cell>/…, outputs/<name>/results.csv
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from ltcam_cli.classifier.backbones import BackboneConfig
from ltcam_cli.classifier.train import TrainerConfig
from ltcam_cli.data.config import DatasetConfig
from ltcam_cli.data.load import dataset_name
from ltcam_cli.data.split import Split
from ltcam_cli.errors import LtcamError, nearest
from ltcam_cli.files import atomic, hashed, read_json, sha256, short_hash, write_text

# Neither paths, nor what changes speed alone, nor what is said of the download.
UNHASHED_DATASET = {
    "root",
    "labels",
    "split_file",
    "name",
    "on_error",
    "count",
    "url",
    "size",
    "sha256",
}
UNHASHED_TRAINER = {"workers", "cache"}
# Columns of results.csv that are no numbers even where they look like one.
TEXT_COLUMNS = dict.fromkeys(("method", "layers", "dataset", "split", "target", "checkpoint",
                              "cell", "run"), str)  # fmt: skip


@dataclass(frozen=True)
class RunFolder:
    """One trained classifier and all that was made of it."""

    path: Path

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def train(self) -> Path:
        """Folder of checkpoint, history and metrics."""
        return self.path / "train"

    @property
    def checkpoint(self) -> Path:
        """The trained classifier."""
        return self.train / "checkpoint.pt"

    @property
    def config(self) -> dict[str, Any]:
        """The composed config of its training, with the key `hash`."""
        try:
            loaded = yaml.safe_load((self.train / "config.yaml").read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise LtcamError(
                f"{self.path}: has no train/config.yaml; it is no run folder"
            ) from error
        except yaml.YAMLError as error:
            raise LtcamError(
                f"{self.train / 'config.yaml'}: is damaged; train the run anew"
            ) from error
        return loaded if isinstance(loaded, dict) else {}

    @property
    def metrics(self) -> dict[str, Any]:
        """Of its training; empty while that is not finished."""
        path = self.train / "metrics.json"
        return read_json(path) if path.is_file() else {}

    def results(self) -> pd.DataFrame:
        """All cells ever evaluated; may be empty."""
        path = self.path / "results.csv"
        if not path.is_file():
            return pd.DataFrame()
        return pd.read_csv(path, dtype=TEXT_COLUMNS)


def training_hash(
    dataset: DatasetConfig,
    split: Split,
    backbone: BackboneConfig,
    trainer: TrainerConfig,
    seed: int,
) -> str:
    """Six hex digits of all that decides what is learnt: data, split, network, training, seed."""
    data = {k: v for k, v in hashed(dataset).items() if k not in UNHASHED_DATASET}
    network = hashed(backbone)
    if backbone.weights and Path(backbone.weights).is_file():
        network["weights"] = sha256(Path(backbone.weights))
    training = {k: v for k, v in hashed(trainer).items() if k not in UNHASHED_TRAINER}
    if trainer.guide and Path(trainer.guide).is_file():
        training["guide"] = sha256(Path(trainer.guide))
    return short_hash([data, split.fingerprint(), network, training, seed])


def same_data(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two data sets' configs part the same images in the same way; paths do not count."""
    parts = [{**hashed(DatasetConfig()), **held} for held in (first, second)]
    return parts[0].keys() == parts[1].keys() and all(
        parts[0][key] == parts[1][key] for key in parts[0].keys() - UNHASHED_DATASET
    )


def run_name(dataset: DatasetConfig, backbone: BackboneConfig, seed: int, digest: str) -> str:
    """`<dataset>-<backbone>-<split><fold>-s<seed>-<hash>`."""
    fold = "" if dataset.fold is None else str(dataset.fold)
    return f"{dataset_name(dataset)}-{backbone.name}-{dataset.split}{fold}-s{seed}-{digest}"


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write `config.yaml` into a folder."""
    write_text(folder / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False))


def open_run(outputs: Path, name: str, digest: str) -> RunFolder:
    """The folder that a training with this hash writes to.

    Raises:
        LtcamError: if a folder of that name holds another training, or cannot have that name.
    """
    if Path(name).name != name:
        raise LtcamError(f"name={name}: must be one folder's name; give its place with outputs=DIR")
    run = RunFolder(outputs / name)
    trained = run.checkpoint.is_file() or (run.train / "last.pt").is_file()
    if trained and (held := run.config.get("hash")) != digest:
        raise LtcamError(
            f"{run.path}: holds another training (hash {held}, now {digest}); "
            "choose another name=… or delete it"
        )
    return run


def list_runs(outputs: Path) -> list[RunFolder]:
    """All run folders below `outputs`, by name."""
    return [RunFolder(path.parent.parent) for path in sorted(outputs.glob("*/train/config.yaml"))]


def find_run(outputs: Path, name: str, key: str = "run") -> RunFolder:
    """The run called `name`, or the run at that path, which a config's `key` asks for.

    Raises:
        LtcamError: with the nearest names if there is none.
    """
    for path in (Path(name), outputs / name):
        if (path / "train" / "config.yaml").is_file():
            return RunFolder(path)
    known = [run.name for run in list_runs(outputs)]
    raise LtcamError(f"{key}={name}: no such run in {outputs}{nearest(name, known)}")


def find_trained(outputs: Path, digest: str, name: str, command: str) -> RunFolder:
    """The finished run with this training hash.

    Args:
        name: goes first if several have it.
        command: that would train it; named if there is none.

    Raises:
        LtcamError: listing the runs there are.
    """
    if run := fitting_run(outputs, digest, name):
        return run
    runs = list_runs(outputs)
    there = ", ".join(run.name for run in runs if run.checkpoint.is_file()) or "none"
    raise LtcamError(
        f"no trained classifier fits this config (hash {digest}); train it with: {command} — "
        f"or choose one with --run (trained: {there})"
    )


def fitting_run(outputs: Path, digest: str, name: str = "") -> RunFolder | None:
    """The finished run with this training hash; the one called `name` first if several have it."""
    for run in sorted(list_runs(outputs), key=lambda run: run.name != name):
        if run.config.get("hash") == digest and run.checkpoint.is_file():
            return run
    return None


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV, atomically and in full precision."""
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False)
