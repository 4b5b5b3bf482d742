"""`student train`, `--method student` and `export`, as a user types and reads them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import Cli, Run
from PIL import Image
from test_cli import table_on

from ltcam_cli.classifier.checkpoint import load_classifier
from ltcam_cli.classifier.loop import TrainingLoop
from ltcam_cli.data.folder import Folder
from ltcam_cli.data.load import load_split, make_dataset
from ltcam_cli.student.checkpoint import load_student

SHORT = (
    "student.rounds=2 student.steps=4 student.every=2 student.batch_size=4 student.network.width=8 "
    "student.network.decoder=8 student.overlays=1 device=cpu threads=1"
).split()


@pytest.fixture
def taught(own_run: Run, cli: Cli) -> Run:
    """A run with a student."""
    cli.ok("student", "train", "--run", own_run.name, *SHORT)
    return own_run


def students(run: Run) -> list[Path]:
    folders = (run.path / "student").glob("*/")
    return sorted(folder for folder in folders if not folder.name.startswith("auto-"))


def images(folder: Path, count: int = 4) -> Path:
    """Files for `predict`."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        pixels = rng.integers(0, 255, (80, 70), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def test_train_then_all_that_takes_a_method(own_run: Run, cli: Cli) -> None:
    out = cli.ok("student", "train", "--run", own_run.name, "--method", "layercam", *SHORT)
    [row] = table_on(out)
    [folder] = students(own_run)
    assert row["student"] == folder.name and folder.name.startswith("fpn_slim-")
    assert f"ltcam evaluate --run {own_run.name} --pipeline student" in out
    held = {path.name for path in folder.iterdir()}
    files = "config.yaml identity.json checkpoint.pt last.pt history.csv train.log labels"
    assert held == {*files.split()}
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["method"]["name"] == "layercam" and config["segmenter"]["name"] == "otsu"

    evaluate = ("evaluate", "--run", own_run.name, "--pipeline", "student", "device=cpu")
    [row] = table_on(cli.ok(*evaluate))
    assert (row["method"], row["segmenter"]) == ("student", "fixed")
    [cell] = (own_run.path / "evaluate").glob("student-*")
    metrics = json.loads((cell / "metrics.json").read_text())
    assert metrics["scope"] is None and metrics["supervision"] == "image"
    config = yaml.safe_load((cell / "config.yaml").read_text())
    assert config["method"]["student"] == folder.name

    cli.ok("predict", images(cli.folder / "new"), "--run", own_run.name, "--pipeline", "student")
    assert len([*(own_run.path / "predict").glob("student-fixed-*/masks/*.png")]) == 4
    cli.ok("evaluate", "--run", own_run.name, "--method", "gradcam")
    cli.ok("compare", own_run.name, "--method", "gradcam", "--method", "student")
    cli.ok("report", own_run.name)
    page = (own_run.path / "report.html").read_text()
    assert f"method.student={folder.name}" in page
    sweep = ("sweep", "--run", own_run.name, "--method", "ltgradcam,student")
    rows = table_on(cli.ok(*sweep, "--delta", "50,60"))
    assert [(r["method"], r["segmenter"]) for r in rows] == [
        ("ltgradcam", "otsu"), ("ltgradcam", "otsu"), ("student", "otsu")
    ]  # fmt: skip


def test_the_heatmap_is_the_students_probability(taught: Run, cli: Cli) -> None:
    cli.ok("evaluate", "--run", taught.name, "--pipeline", "student", "evaluation.save_maps=true")
    [cell] = (taught.path / "evaluate").glob("student-*")
    student = load_student(students(taught)[0] / "checkpoint.pt")
    classifier = load_classifier(taught.path)
    config = yaml.safe_load((taught.path / "train" / "config.yaml").read_text())["dataset"]
    names = pd.read_csv(cell / "images.csv")["name"]
    by_name = {s.name: s for s in load_split(make_dataset(config)).listed_test}
    for name in names:
        image = torch.from_numpy(np.array(by_name[name].image))[None, None] / 255
        with torch.inference_mode():
            expected = student.probability(classifier.prepare(image))[0].numpy()
        heatmap = np.load(cell / "maps" / f"{name.replace('/', '_')}.npy")
        assert np.allclose(heatmap, expected, atol=1e-5)


def test_a_students_cell_knows_its_student(taught: Run, cli: Cli) -> None:
    evaluate = ("evaluate", "--run", taught.name, "--pipeline", "student")
    cli.ok(*evaluate)
    first = students(taught)[0]
    changed = ("student.name=other", "student.lr=0.01")
    cli.ok("student", "train", "--run", taught.name, *SHORT, *changed)
    [other] = [folder for folder in students(taught) if folder != first]
    newer = (other / "checkpoint.pt").stat().st_mtime + 10
    os.utime(other / "checkpoint.pt", (newer, newer))
    cli.ok(*evaluate)  # the newest
    cli.ok(*evaluate, "method.student=other")  # the same cell
    cells = {
        yaml.safe_load((path / "config.yaml").read_text())["method"]["student"]: path
        for path in (taught.path / "evaluate").glob("student-*")
    }
    assert set(cells) == {first.name, other.name}
    cli.ok(*evaluate, f"method.student={first.name}")
    assert len([*(taught.path / "evaluate").glob("student-*")]) == 2
    mistyped = f"method.student={other.name[:-1]}x"
    cli.fault(*evaluate, mistyped, says=["no such student", f"did you mean '{other.name}'?"])
    (first / "checkpoint.pt").write_bytes((other / "checkpoint.pt").read_bytes())
    cli.fault("report", taught.name, says=[first.name, "evaluate it anew"], logs=True)


def test_a_larger_student(own_run: Run, cli: Cli) -> None:
    large = ("student.height=96", "student.width=80", "student.crops.size=[48,48]")
    cli.ok("student", "train", "--run", own_run.name, *SHORT, *large)
    cli.ok("evaluate", "--run", own_run.name, "--method", "gradcam")
    cli.ok("sweep", "--run", own_run.name, "--method", "gradcam,student", "--delta", "null")
    rows = (own_run.path / "results.csv").read_text().splitlines()
    assert len(rows) == 3  # the cell of gradcam is the one that there was
    labels = torch.load(next(own_run.path.glob("student/*/labels/round1.pt")))
    assert {tuple(each.shape) for each in labels.values()} == {(96, 80)}


# Training


def test_a_finished_student_is_not_trained_again(taught: Run, cli: Cli) -> None:
    [folder] = students(taught)
    before = (folder / "checkpoint.pt").stat().st_mtime_ns
    result = cli("student", "train", "--run", taught.name, *SHORT, "student.overlays=3")
    assert "is trained already" in result.stderr and len(table_on(result.stdout)) == 1
    assert (folder / "checkpoint.pt").stat().st_mtime_ns == before
    held = (folder / "checkpoint.pt").read_bytes()
    cli.ok("student", "train", "--run", taught.name, *SHORT, "--overwrite")
    assert (folder / "checkpoint.pt").stat().st_mtime_ns > before
    assert (folder / "checkpoint.pt").read_bytes() == held  # equal trainings give equal files


def test_a_killed_one_resumes(taught: Run, cli: Cli) -> None:
    [folder] = students(taught)
    unbroken = (folder / "checkpoint.pt").read_bytes()
    train = ("student", "train", "--run", taught.name, *SHORT)
    with pytest.MonkeyPatch.context() as patch:
        original, count = TrainingLoop._step, 0

        def interrupted(self: Any, *batch: Any) -> float:
            nonlocal count
            count += 1
            if count == 6:
                raise KeyboardInterrupt
            return original(self, *batch)

        patch.setattr(TrainingLoop, "_step", interrupted)
        assert cli(*train, "--overwrite").exit_code == 130
    assert not (folder / "checkpoint.pt").exists()
    says = ["no student is trained", f"ltcam student train --run {taught.name}"]
    cli.fault("evaluate", "--run", taught.name, "--pipeline", "student", says=says)
    cli.fault(*train, says=["unfinished training", "--resume", "--overwrite"], logs=True)
    cli.ok(*train, "--resume")
    assert (folder / "checkpoint.pt").read_bytes() == unbroken


def test_several(own_run: Run, cli: Cli) -> None:
    out = cli.ok("student", "train", "-m", "--run", own_run.name, *SHORT, "student.lr=0.001,0.01")
    assert len({row["student"] for row in table_on(out)}) == 2 == len(students(own_run))


def test_what_makes_no_labels(taught: Run, cli: Cli) -> None:
    train = ("student", "train", "--run", taught.name, *SHORT)
    cli.fault(*train, "--pipeline", "student", says=["classifier's maps", "another --method"])
    level = ("--segmenter", "fixed", "segmenter.options.at=1e9")
    cli.fault(*train, *level, says=["no pixel of a training image is labelled"], logs=True)
    cli.fault(*train, "student.stepz=3", says=["student.stepz", "did you mean 'steps'?"])


def test_a_student_of_another_classifier(taught: Run, cli: Cli) -> None:
    classifier = load_classifier(taught.path)
    classifier.threshold = 0.4
    classifier.save(taught.path / "train" / "checkpoint.pt")
    cli.fault("evaluate", "--run", taught.name, "--pipeline", "student",
              says=["students are of another checkpoint", "ltcam student train"])  # fmt: skip


def test_a_student_takes_no_delta(taught: Run, cli: Cli) -> None:
    for delta in ("50", "auto"):
        cli.fault("evaluate", "--run", taught.name, "--pipeline", "student", "--delta", delta,
                  says=["method.delta", "delta=null"])  # fmt: skip


# Export


def need_runtime() -> None:
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module, reason="the extra deploy is not installed")


@pytest.mark.parametrize(
    ("size", "task"),
    [((64, 64), "mask"), ((96, 80), "multi")],
    ids=["classifier's size", "larger"],
)
def test_an_exported_file_draws_the_same_masks(
    own_run: Run, cli: Cli, size: tuple[int, int], task: str
) -> None:
    need_runtime()
    own = [f"student.height={size[0]}", f"student.width={size[1]}", f"student.task={task}"]
    cli.ok("student", "train", "--run", own_run.name, *SHORT, *own)
    verdict = ["method.verdict=student"] if task == "multi" else []
    pipeline = ("--pipeline", "student", *verdict)
    out = cli.ok("export", "--run", own_run.name, "--out", "model.onnx", *verdict)
    assert "greatest differences from the original: probability" in out
    card = json.loads((cli.folder / "model.json").read_text())
    assert [card["height"], card["width"], card["channels"]] == [*size, 1]
    assert max(card["differences"].values()) <= 1e-4
    folder = images(cli.folder / "new", 5)
    names = [str(n) for n in range(5)]
    common = ("predict.gate=false", "--save-maps", "predict.batch_size=2", "threads=1")
    cli.ok("predict", folder, "--run", own_run.name, *pipeline, "--out", "a", *common)
    level = float(np.median(np.load("a/maps/0.npy")))  # so that masks are neither empty nor full
    common = (*common, f"segmenter.options.at={level}")
    cli.ok("predict", folder, "--run", own_run.name, *pipeline, "--out", "b", *common)
    cli.ok("predict", folder, "--runtime", "onnx", "--model", "model.onnx", "--out", "c", *common)
    for name in names:
        mine, theirs = (np.load(f"{out}/maps/{name}.npy") for out in "bc")
        assert np.allclose(mine, theirs, atol=1e-5)
        mine, theirs = (np.asarray(Image.open(f"{out}/masks/{name}.png")) for out in "bc")
        assert (mine != theirs).mean() < 1e-3 and 0 < (mine > 0).mean() < 1
    tables = [pd.read_csv(f"{out}/scores.csv") for out in "bc"]
    assert np.allclose(*(table["probability"] for table in tables), atol=1e-5)
    assert tables[0]["predicted"].tolist() == tables[1]["predicted"].tolist()


def test_an_export_in_the_run_folder(taught: Run, cli: Cli) -> None:
    need_runtime()
    cli.ok("export", "--run", taught.name)
    folder = images(cli.folder / "new", 1)
    cli.ok("predict", folder, "--runtime", "onnx", "--run", taught.name)
    assert len([*taught.path.glob("predict/student-fixed-*/masks/0.png")]) == 1
    runtime = ("predict", folder, "--runtime", "onnx", "--run", taught.name)
    cli.fault(*runtime, "--method", "gradcam", says=["method=student", "predict.runtime=torch"])
    (taught.path / "model.onnx").write_bytes(b"something else")
    cli.fault(*runtime, says=["model.onnx", "no ONNX file"])
    (taught.path / "model.json").write_text("{}")
    cli.fault(*runtime, says=["model.json", "export it anew"])
    (taught.path / "model.json").unlink()
    cli.fault(*runtime, says=["model.json: no such file", "ltcam export"])


def test_a_segmenter_that_has_learnt_is_exported_with_what_it_knows(taught: Run, cli: Cli) -> None:
    need_runtime()
    segmenter = ("--segmenter", "good_quantile", "segmenter.options.quantile=0.5")
    cli.ok("export", "--run", taught.name, *segmenter, "--out", "model.onnx")
    [threshold] = json.loads((cli.folder / "model.json").read_text())["calibration"]
    folder = images(cli.folder / "new", 2)
    common = ("predict.gate=false", "--save-maps")
    cli.ok("predict", folder, "--runtime", "onnx", "--model", "model.onnx", "--out", "a", *common)
    for name in "01":
        heatmap = np.load(f"a/maps/{name}.npy")
        mask = np.asarray(Image.open(f"a/masks/{name}.png")) > 0
        assert np.array_equal(mask, heatmap > threshold)
    runtime = ("predict", folder, "--runtime", "onnx", "--model", "model.onnx")
    cli.fault(*runtime, "segmenter=good_quantile", "segmenter.options.quantile=0.9",
              says=["ltcam export --segmenter"])  # fmt: skip


@pytest.mark.parametrize("method", ["ltlayercam", "gradcampp", "fullgrad"])
def test_maps_are_exported_with_their_backward(own_run: Run, cli: Cli, method: str) -> None:
    need_runtime()
    maps = ("--run", own_run.name, "--method", method)
    cli.ok("export", *maps, "--segmenter", "otsu", "--out", "model.onnx")
    card = json.loads((cli.folder / "model.json").read_text())
    assert max(card["differences"].values()) <= 1e-4
    folder = images(cli.folder / "new", 3)
    common = ("predict.gate=false", "--save-maps", "threads=1", "segmenter=triangle")
    cli.ok("predict", folder, *maps, "--out", "a", *common)
    cli.ok("predict", folder, "--runtime", "onnx", "--model", "model.onnx", "--out", "b", *common)
    for name in "012":
        mine, theirs = (np.load(f"{out}/maps/{name}.npy") for out in "ab")
        assert mine.max() > 0 and np.allclose(mine, theirs, atol=1e-4 * mine.max())
        mine, theirs = (np.asarray(Image.open(f"{out}/masks/{name}.png")) for out in "ab")
        assert (mine != theirs).mean() < 1e-2 and 0 < (mine > 0).mean() < 1
    tables = [pd.read_csv(f"{out}/scores.csv") for out in "ab"]
    assert np.allclose(*(table["probability"] for table in tables), atol=1e-5)
    cli.fault("export", *maps, "tta=flips", says=["do not set tta and ensemble"])


def test_students_are_not_averaged(taught: Run, cli: Cli) -> None:
    evaluate = ("evaluate", "--run", taught.name, "--pipeline", "student")
    cli.ok("train", *taught.overrides, "seed=1", "name=other")
    cli.fault(*evaluate, "ensemble=[other]", says=["ensemble", "do not set it"])


def test_what_is_not_exported(taught: Run, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for method in ("scorecam", "eigencam"):
        cli.fault("export", "--run", taught.name, "--method", method,
                  says=[f"{method}: is no one forward", "ltcam student train"])  # fmt: skip
    folder = images(cli.folder / "new", 1)
    cli.fault("predict", folder, "--runtime", "onnx", says=["predict.model=FILE", "--run"])
    cli.fault("predict", folder, "--runtime", "onxx", "--run", taught.name, says=["'onnx'"])
    for module in ("onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, module, None)  # importing it fails
    cli.fault("export", "--run", taught.name, says=["pip install 'ltcam[deploy]'"])
    assert not (taught.path / "model.onnx").exists()


def test_the_best_pipeline(own_run: Run, cli: Cli) -> None:
    """Its labels come from a teacher's, its masks from the student, both over mirrored images."""
    cli.ok("student", "train", "--run", own_run.name, "--pipeline", "ltcam_plus", *SHORT)
    [folder] = students(own_run)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["method"]["name"] == "ltgradcam_product"
    assert config["segmenter"]["name"] == "contrast"
    assert config["tta"]["flips"] == "both"
    [row] = table_on(cli.ok("evaluate", "--pipeline", "best", "--run", own_run.name, *SHORT[-2:]))
    assert (row["method"], row["segmenter"]) == ("student", "fixed")


def test_presets_yield_to_options(cli: Cli) -> None:
    given = ("--pipeline", "ltcam_plus", "--segmenter", "li", "tta=none")
    shown = cli.ok("config", "evaluate", *given)
    config = yaml.safe_load(shown)
    assert (config["segmenter"]["name"], config["tta"]["flips"]) == ("li", "none")
    assert yaml.safe_load(cli.ok("config", "student"))["method"]["name"] == "auto"
    chosen = cli.ok("config", "student", "--method", "layercam")
    assert yaml.safe_load(chosen)["segmenter"]["name"] == "otsu"


def test_no_mask_is_read_anywhere(own_run: Run, cli: Cli, tmp_path: Path) -> None:
    """Image labels from a CSV and every training mask deleted: the same masks, digit for digit."""
    own = tmp_path / "set"
    cli.ok("data", "synth", str(own), "dataset.items=8", "dataset.height=64", "dataset.width=64")
    given = ["dataset=folder", f"dataset.root={own}", "dataset.height=64", "dataset.width=64",
             "backbone=squeezenet1_1", "backbone.weights=null", "trainer.epochs=1",
             "dataset.test_fraction=0.5", *SHORT[-2:]]  # fmt: skip
    split = load_split(Folder(root=str(own), height=64, width=64, test_fraction=0.5))
    listed = tmp_path / "labels.csv"
    rows = [(sample.name, sample.label) for sample in split.train + split.test]
    pd.DataFrame(rows, columns=["name", "label"]).to_csv(listed, index=False)

    def scores(outputs: str, *more: str) -> list[dict[str, Any]]:
        every = [*given, *more, f"outputs={tmp_path / outputs}"]
        cli.ok("train", *every)
        cli.ok("student", "train", *every, *SHORT[:-2])
        cli.ok("evaluate", "--pipeline", "ltcam_plus", *every)
        cli.ok("evaluate", "--pipeline", "best", *every)
        tables = sorted((tmp_path / outputs).glob("*/evaluate/*/images.csv"))
        assert len(tables) == 2
        return [pd.read_csv(table).to_dict("list") for table in tables]

    masks = {sample.name: own / "masks" / f"{Path(sample.name).name}.png" for sample in split.train}
    with_masks = scores("with")
    removed = [path.unlink() for path in masks.values() if path.is_file()]
    assert len(removed) >= 2
    assert json.dumps(scores("without", f"dataset.labels={listed}")) == json.dumps(with_masks)


def test_a_sweep_draws_a_pipeline_as_evaluate_does(own_run: Run, cli: Cli) -> None:
    """With the segmenter and the test-time options that the pipeline brings: the same cells."""
    run = ("--run", own_run.name, "--pipeline", "ltcam_plus", *SHORT[-2:])
    cli.ok("evaluate", *run)
    cli.ok("evaluate", *run, "--method", "ltgradcam")
    cells = {path.name for path in (own_run.path / "evaluate").glob("*")}
    assert len(cells) == 2
    cli.ok("sweep", *run, "--method", "ltgradcam,ltgradcam_product", "--delta", "50")
    assert {path.name for path in (own_run.path / "evaluate").glob("*")} == cells
