"""Each file of a finished run, student, sweep and prediction, damaged: one line names it.

What is healthy beside it is shown. Commands that would take seconds are tested by their readers.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import SYNTHETIC, Cli, Run, working_in
from PIL import Image
from typer.testing import Result

from ltcam_cli.classifier.checkpoint import load_classifier
from ltcam_cli.classifier.progress import read_progress
from ltcam_cli.errors import DamagedFileError, LtcamError
from ltcam_cli.experiments.delta import kept_evidence
from ltcam_cli.runs.cells import Cell, find_cells, sweep_tables
from ltcam_cli.runs.folder import RunFolder
from ltcam_cli.runs.prediction_tables import PredictionTables, gather
from ltcam_cli.runs.shards import Shard
from ltcam_cli.student.checkpoint import load_student

METHOD = ("--method", "ltgradcam")
STUDENT = (
    "student.steps=2 student.every=2 student.batch_size=2 student.network.width=8 "
    "student.network.decoder=8 student.overlays=0 threads=1"
).split()
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "zeroed": lambda content: bytes(len(content)),
    "garbled": lambda content: bytes(
        byte ^ (0xA5 if number % 7 == 3 else 0) for number, byte in enumerate(content)
    ),
    "foreign": lambda content: b"nobody's file\n",
}


@pytest.fixture(scope="module")
def finished(tiny_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a run that has cells, a sweep, a student and predictions."""
    folder = tmp_path_factory.mktemp("finished")
    with working_in(folder):
        cli = Cli(folder)
        shutil.copytree(tiny_run.outputs, "outputs")
        run = ["--run", tiny_run.name, "threads=1"]
        cli.ok("sweep", *run, *METHOD, "--delta", "0,50,90")
        cli.ok("student", "train", "--run", tiny_run.name, *STUDENT)
        Path("photos").mkdir()
        for number in range(4):
            Image.linear_gradient("L").rotate(90 * number).save(f"photos/{number}.png")
        predict = [
            "predict",
            "photos",
            *run,
            *METHOD,
            "predict.overlays=false",
            "predict.gate=false",
        ]
        cli.ok(*predict, "--out", "found")
        cli.ok(*predict, "--out", "shards", "-m", "--shard", "1:2/2")
    return folder


@pytest.fixture
def run(finished: Path, cli: Cli) -> RunFolder:
    """Its run, in a copy that is the working folder."""
    shutil.copytree(finished, cli.folder, dirs_exist_ok=True)
    [path] = (cli.folder / "outputs").glob("synthetic-*")
    return RunFolder(path.relative_to(cli.folder))


def damaged(path: Path) -> Any:
    """Damages a file in each way, one after another."""
    whole = path.read_bytes()
    for how, damage in DAMAGES.items():
        path.write_bytes(damage(whole))
        yield how
    path.write_bytes(whole)


def said(result: Result, caplog: pytest.LogCaptureFixture) -> str:
    """All that a command said besides its table; pytest takes what is logged off its stderr."""
    text = result.stderr + caplog.text
    caplog.clear()
    return text


@pytest.mark.parametrize("name", ["config.yaml", "metrics.json", "identity.json"])
def test_a_damaged_run_is_named_and_the_others_are_shown(
    run: RunFolder, cli: Cli, name: str
) -> None:
    shutil.copytree(run.path, run.path.with_name("other"))
    for how in damaged(run.train / name):
        result = cli("runs")
        assert result.exit_code == 0, how
        lines = [line for line in result.stderr.splitlines() if line.startswith("ltcam: ")]
        assert len(lines) == 1 and lines[0].startswith(f"ltcam: {run.train / name}: is damaged")
        assert "| other" in result.stdout
        assert cli("runs", "gather", "outputs").exit_code == 1
        cli.fault("report", run.path, says=[f"{run.train / name}: is damaged"])


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_table_of_results_is_made_anew(
    run: RunFolder, cli: Cli, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    path = run.path / "results.csv"
    whole = path.read_bytes()
    shown = cli.ok("runs", run.name)
    path.write_bytes(DAMAGES[how](whole))
    result = cli("runs", run.name)
    assert (result.exit_code, result.stdout) == (0, shown)
    assert f"{path}: is damaged" in said(result, caplog)
    evaluate = ["evaluate", "--run", run.name, "threads=1", *METHOD, "--delta", "50"]
    assert cli(*evaluate).exit_code == 0
    assert sorted(path.read_bytes().splitlines()) == sorted(whole.splitlines())


@pytest.mark.parametrize("name", ["config.yaml", "metrics.json", "images.csv", "curve.csv"])
def test_a_damaged_cell_is_named_and_the_others_are_shown(
    run: RunFolder, cli: Cli, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    reference, cell, *_ = find_cells(run)
    compare = ["compare", run.name, *METHOD]
    for _ in damaged(cell.path / name):
        result = cli(*compare)
        assert result.exit_code == 0
        assert f"{cell.path / name}: is damaged" in said(result, caplog)
        assert len(pd.read_csv("outputs/compare.csv")) == 2
    for _ in damaged(reference.path / name):
        cli.fault(*compare, says=[f"{reference.path / name}: is damaged; evaluate the cell anew"])
    (cell.path / "identity.json").write_bytes(b"{")
    cli.fault("runs", "why", cell.path, says=["identity.json: is damaged"])


def test_a_damaged_cell_is_computed_anew(
    run: RunFolder, cli: Cli, caplog: pytest.LogCaptureFixture
) -> None:
    cell = find_cells(run)[1]
    path = cell.path / "metrics.json"
    before = Cell(cell.path).metrics
    path.write_bytes(path.read_bytes()[:-10])
    delta = ["--delta", f"{before['delta']:g}"]
    result = cli("evaluate", "--run", run.name, "threads=1", *METHOD, *delta)
    assert result.exit_code == 0 and f"{path}: is damaged" in said(result, caplog)
    after = Cell(cell.path).metrics
    assert after["iou"] == before["iou"]


Read = Callable[[RunFolder], Any]
READERS: dict[str, tuple[str, Read, bool]] = {  # pattern, reader, whether it goes on without
    "classifier": ("{run}/train/checkpoint.pt", lambda run: load_classifier(run.path), False),
    "state": (
        "{run}/train/last.pt",
        lambda run: read_progress(run.train, torch.device("cpu")),
        False,
    ),
    "sweep": ("{run}/sweep/*/sweep.csv", sweep_tables, True),
    "student": (
        "{run}/student/fpn_slim*/checkpoint.pt",
        lambda run: load_student(next(run.path.glob("student/fpn_slim*/checkpoint.pt"))),
        False,
    ),
    "regions": ("found/regions.csv", lambda run: PredictionTables(Path("found")).read(), False),
    "scores": ("found/scores.csv", lambda run: PredictionTables(Path("found")).read(), False),
    "shard": ("shards/shard.1of2.json", lambda run: gather(Path("shards")), False),
    "rows": (
        "shards/scores.2of2.csv",
        lambda run: PredictionTables(Path("shards"), Shard(2, 2)).read(),
        False,
    ),
}


@pytest.mark.parametrize("kind", READERS)
def test_a_damaged_file_is_one_line_that_names_it(
    run: RunFolder, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    pattern, read, goes_on = READERS[kind]
    [path] = Path().glob(pattern.format(run=run.path))
    read(run)
    for how in damaged(path):
        caplog.clear()
        if path.suffix == ".csv" and how in {"empty", "truncated", "zeroed"} and not goes_on:
            scores, regions = read(run)  # images of rows that a crash took are predicted again
            assert len(scores) < 4 and len(regions) == scores["regions"].sum()
            continue
        if goes_on:
            with caplog.at_level(logging.WARNING):
                read(run)
            message = caplog.messages[0]
        else:
            with pytest.raises(LtcamError) as caught:
                read(run)
            message = str(caught.value)
        assert path.name in message and "; " in message and "\n" not in message, how
    read(run)


def test_commands_say_it_too(run: RunFolder, cli: Cli) -> None:
    [history] = run.path.glob("student/fpn_slim*/history.csv")
    history.write_bytes(history.read_bytes()[:-7])
    says = [f"{history}: is damaged", "--overwrite"]
    cli.fault("student", "train", "--run", run.name, *STUDENT, says=says, logs=True)
    Path("found/config.yaml").write_bytes(b"hash: [")
    predict = ["predict", "photos", "--run", run.name, *METHOD, "threads=1", "--out", "found"]
    cli.fault(*predict, says=["found/config.yaml: is damaged", "predict.out"], logs=True)
    path = run.path / "delta.json"
    path.write_bytes(b"{")
    assert kept_evidence(path) == {}


def test_a_config_that_lost_its_end_is_never_completed_by_defaults(run: RunFolder) -> None:
    path = run.train / "config.yaml"
    lines = path.read_bytes().splitlines(keepends=True)
    for count in range(len(lines)):
        path.write_bytes(b"".join(lines[:count]))
        with pytest.raises(DamagedFileError, match=r"config\.yaml: is damaged; train the run anew"):
            _ = run.config


CRAFTED: dict[str, Any] = {
    "threshold": ["x", 1.5, float("nan"), None],
    "std": [[0.0], [0.25, 0.25], [float("inf")], "x"],
    "mean": [[float("nan")], [], {}],
    "height": [10_000_000, 0, -64, 64.5, "64"],
    "in_channels": [2, 10**9],
    "defect": [1, -2, "x"],
    "white": [0, "x", -1.0],
    "prior_shift": [float("inf"), "x"],
    "classes": [3],
    "backbone": [{"name": "vgg16"}, {}, 3],
    "state_dict": [{}, 3, {"a": 1}],
    "more": [1],
}


@pytest.mark.parametrize("field", CRAFTED)
def test_crafted_checkpoints(run: RunFolder, field: str) -> None:
    content = torch.load(run.checkpoint, weights_only=True)
    for value in CRAFTED[field]:
        torch.save(content | {field: value}, run.checkpoint)
        with pytest.raises(LtcamError, match=r"does not fit its own description \(.*\); train"):
            load_classifier(run.path)


@pytest.mark.parametrize("kind", ["classifier", "student"])
def test_crafted_weights(run: RunFolder, kind: str) -> None:
    pattern, read, _ = READERS[kind]
    [path] = Path().glob(pattern.format(run=run.path))
    content = torch.load(path, weights_only=True)
    name, weight = next(
        (key, value) for key, value in content["state_dict"].items() if value.ndim == 4
    )
    for change in (weight * float("nan"), weight[:1], weight.double(), weight.tolist()):
        torch.save(content | {"state_dict": content["state_dict"] | {name: change}}, path)
        with pytest.raises(LtcamError) as caught:
            read(run)
        assert str(caught.value).startswith(f"{path}: does not fit its own description")
        assert name in str(caught.value)


@pytest.mark.parametrize(
    "state",
    [{}, [1], {"model": {}}, "x", {"history": []}],
    ids=["empty", "list", "no weights", "text", "history"],
)
def test_states_of_another_training(run: RunFolder, cli: Cli, state: Any) -> None:
    run.checkpoint.unlink()
    torch.save(state, run.train / "last.pt")
    says = ["last.pt: ", "delete it to start anew"]
    cli.fault("train", *SYNTHETIC, "--resume", says=says, logs=True)
