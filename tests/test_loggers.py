"""Loggers of a training, each read back by its own package."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Cli, Run
from toys import TOYS, toy_split

from ltcam_cli.classifier.config import BackboneConfig, TrainerConfig
from ltcam_cli.classifier.loggers import logger_of, overlay
from ltcam_cli.classifier.train import train
from ltcam_cli.config import effective
from ltcam_cli.errors import LtcamError

SLIM = BackboneConfig("vgg16_slim", "avg", weights=None)


def trained(folder: Path, logger: str) -> pd.DataFrame:
    """History of a training of two epochs."""
    trainer = TrainerConfig(
        epochs=2,
        images_per_epoch=8,
        batch_size=4,
        amp=False,
        validation=0.4,
        logger=logger,  # type: ignore[arg-type]
    )
    train(folder, toy_split(), TOYS, SLIM, trainer, seed=0, device=torch.device("cpu"))
    return pd.read_csv(folder / "history.csv")


def check(values: Callable[[str], list[float]], history: pd.DataFrame) -> None:
    for key in ("loss", "lr", "validation_ap"):
        np.testing.assert_allclose(values(key), history[key], rtol=1e-5)


def test_tensorboard(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    history = trained(tmp_path, "tensorboard")
    read = events.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    check(lambda key: [event.value for event in read.Scalars(key)], history)
    assert [event.step for event in read.Scalars("loss")] == [1, 2]
    tags = read.Tags()["images"]
    assert len(tags) == 4 and all(tag.startswith("overlays/toy") for tag in tags)
    [image] = read.Images(tags[0])
    assert (image.height, image.width) == (32, 64)


def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="needs the extra mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    history = trained(tmp_path, "mlflow")
    client = mlflow.MlflowClient((tmp_path / "mlflow").as_uri())
    experiment = client.get_experiment_by_name("ltcam")
    [run] = client.search_runs([experiment.experiment_id])
    check(lambda k: [m.value for m in client.get_metric_history(run.info.run_id, k)], history)
    assert run.info.status == "FINISHED"
    pictures = client.list_artifacts(run.info.run_id, "overlays")
    assert len(pictures) == 4


def records(data: bytes) -> Iterator[bytes]:
    """Records of LevelDB's log format, behind a header of seven bytes, in blocks of 32 KB."""
    place, parts = 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:  # no room for a chunk's header: the next block
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def test_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="needs the extra wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    history = trained(tmp_path, "wandb")
    [path] = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    rows = []
    for data in records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            rows.append({i.key or i.nested_key[0]: i.value_json for i in record.history.item})
    check(lambda key: [float(row[key]) for row in rows if key in row], history)
    pictures = list((tmp_path / "wandb").glob("offline-run-*/files/media/images/overlays/*.png"))
    assert len(pictures) == 4


def test_student(own_run: Run, cli: Cli) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    student = "student.steps=2 student.every=1 student.batch_size=2 student.network.width=8 "
    student += "student.network.decoder=8 student.overlays=0 student.logger=tensorboard threads=1"
    cli.ok("student", "train", "--run", own_run.name, "--method", "layercam", *student.split())
    [folder] = own_run.path.rglob("tensorboard")
    read = events.EventAccumulator(str(folder)).Reload()
    history = pd.read_csv(folder.parent / "history.csv")
    np.testing.assert_allclose([e.value for e in read.Scalars("loss")], history["loss"], rtol=1e-5)
    assert read.Tags()["images"]


def test_identity_does_not_know_it() -> None:
    assert effective(TrainerConfig(logger="wandb")) == effective(TrainerConfig())


def test_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    says = r"wandb is not installed; .*ltcam\[wandb\]"
    with pytest.raises(LtcamError, match=says), logger_of("wandb", tmp_path):
        pass


def test_overlay_is_red_where_the_map_is_high() -> None:
    heatmap = torch.tensor([[1.0, 0.0]])
    pixels = overlay(torch.full((1, 1, 2), 0.4), heatmap)
    np.testing.assert_array_equal(pixels[0, :2], np.full((2, 3), 102))
    np.testing.assert_array_equal(pixels[0, 2], [178, 51, 51])  # 0.2 + 0.5, 0.2
    np.testing.assert_array_equal(pixels[0, 3], [102, 102, 102])
