"""What a user may do wrong: status 2, one line that names culprit and remedy, nothing half-written.

Broken downloads and archives are in test_download.py.
"""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
import yaml
from conftest import KSDD, SYNTHETIC, Cli, KsddLike, Run
from PIL import Image

from ltcam_cli import errors
from ltcam_cli.classifier.checkpoint import load_classifier

FOLDER = ["dataset=folder", "dataset.root=plates", "dataset.channels=1", *SYNTHETIC[3:]]


@pytest.fixture
def plates(cli: Cli) -> Path:
    """Images in `plates/good`, `plates/defect`, with masks."""
    cli.ok("data", "synth", "plates", "dataset.items=4", "dataset.parts=4", *SYNTHETIC[3:5])
    return cli.folder / "plates"


def first(folder: Path) -> Path:
    return min(folder.iterdir())


# --- data


def test_missing_or_wrong_root(cli: Cli) -> None:
    remedy = "ltcam data download ksdd"
    for command in ("train", "evaluate"):
        cli.fault(command, says=["dataset.root=data/KolektorSDD", "no such folder", remedy])
    Path("data/KolektorSDD").mkdir(parents=True)
    cli.fault("train", says=["dataset.root=data/KolektorSDD", "no kosNN/PartM.jpg", remedy])
    cli.fault("data", "check", says=["kosNN/PartM.jpg"])
    cli.fault("train", "dataset=ksdd2", says=["KolektorSDD2", "ltcam data download ksdd2"])
    cli.fault("train", "dataset=folder", says=["dataset.root", "give the folder"])
    cli.fault("train", *FOLDER, says=["dataset.root=plates", "no such folder"])
    Path("plates").mkdir()
    cli.fault("train", *FOLDER, says=["dataset.root=plates", "good/", "train/good"])
    assert not list(Path("outputs").glob("*-*"))


def test_counts_that_do_not_match(cli: Cli, ksdd_like: KsddLike) -> None:
    ksdd_like()
    says = ["15 images instead of 399", "complete the data set", "dataset.count=null"]
    cli.fault("train", *KSDD[1:], says=says)
    cli.fault("data", "check", says=says)


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    half, foreign = content[: len(content) // 2], b"no image at all" * 50
    path.write_bytes({"empty": b"", "truncated": half, "foreign": foreign}[how])


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("empty", "the file is empty"),
        ("truncated", "cannot be read"),
        ("foreign", "is no image"),
    ],
)
def test_unreadable_image(cli: Cli, ksdd_like: KsddLike, how: str, says: str) -> None:
    damage(ksdd_like() / "kos02/Part0.jpg", how)
    named = ["kos02/Part0.jpg", says, "replace", "dataset.on_error=skip; ltcam data check"]
    cli.fault("train", *KSDD, says=named, logs=True)
    assert not list(Path("outputs").glob("*/train/*.pt"))


def test_unreadable_images_can_be_skipped(cli: Cli, ksdd_like: KsddLike) -> None:
    root, skip = ksdd_like(), [*KSDD, "dataset.on_error=skip"]
    damage(root / "kos02/Part0.jpg", "truncated")
    damage(root / "kos41/Part2.jpg", "empty")
    result = cli("train", *skip)
    assert result.exit_code == 0
    assert "skipped: " in result.stderr and "kos02/Part0.jpg" in result.stderr
    run = next(Path("outputs").glob("ksdd-*"))
    assert json.loads((run / "train/metrics.json").read_text())["test_skipped"] == 1
    cli.fault("evaluate", *KSDD, says=["kos41/Part2.jpg", "the file is empty", "on_error=skip"])
    assert not list(run.glob("evaluate/*/metrics.json"))
    cli.ok("evaluate", *skip)
    (row,) = pd.read_csv(run / "results.csv").to_dict("records")
    assert (row["n_images"], row["skipped"]) == (1, 1)
    damage(root / "kos42/Part2.jpg", "empty")
    anew = ["evaluate", "--run", run, "dataset.on_error=skip", "--overwrite"]
    cli.fault(*anew, says=["none of the 2 images could be read"], logs=True)
    assert len(pd.read_csv(run / "results.csv")) == 1


def test_mask_of_another_size(cli: Cli, plates: Path) -> None:
    cli.ok("train", *FOLDER)
    for mask in (plates / "masks").iterdir():
        Image.open(mask).resize((40, 50)).save(mask)
    says = ["mask of 50x40 pixels for an image of 64x64", "give the mask that belongs to it"]
    cli.fault("evaluate", *FOLDER, says=says)
    assert not list(Path("outputs").glob("*/results.csv"))


def test_class_without_samples(cli: Cli) -> None:
    cli.fault(
        "train", *SYNTHETIC, "dataset.defective=0",
        says=["the training part has no defective image", "whole data set has no"], logs=True,
    )  # fmt: skip
    all_bad = [*SYNTHETIC, "dataset.defective=1"]
    cli.fault("train", *all_bad, says=["the training part has no good image"], logs=True)
    assert not list(Path("outputs").glob("*/train/*.pt"))


def test_train_and_test_that_share_an_item(cli: Cli, ksdd_like: KsddLike, plates: Path) -> None:
    ksdd_like(folders=(1, 2, 11, 26))
    keep = "dataset.drop_leaks=false"
    says = ["share the item(s) kos01", "3 training images", "dataset.drop_leaks=true"]
    cli.fault("train", *KSDD, "dataset.split=tens", "dataset.fold=0", keep, says=says)
    names = [path.stem for kind in ("good", "defect") for path in (plates / kind).iterdir()]
    rows = [
        {"name": name, "split": "test" if number % 2 else "train", "group": f"g{number // 2}"}
        for number, name in enumerate(names)
    ]
    pd.DataFrame(rows).to_csv(plates / "split.csv", index=False)
    cli.fault("train", *FOLDER, keep, says=["share the item(s) g0", "dataset.drop_leaks=true"])


def test_defective_images_without_a_mask(cli: Cli, plates: Path) -> None:
    cli.ok("train", *FOLDER)
    table = cli.ok("evaluate", *FOLDER, "evaluation.split=all", "--method", "gradcam")
    number = len(list((plates / "defect").iterdir()))
    assert f" {number} " in table.splitlines()[2] and "evidence" not in table
    first(plates / "masks").unlink()
    some = cli("evaluate", *FOLDER, "evaluation.split=all", "--method", "gradcam")
    assert some.exit_code == 0 and "left out: 1 defective images without a mask" in some.stderr
    assert f" {number - 1} " in some.stdout.splitlines()[2]
    shutil.rmtree(plates / "masks")
    none = cli("sweep", *FOLDER, "--method", "ltgradcam", "--delta", "0,50")
    assert none.exit_code == 0 and "evidence and area stand in place of IoU" in none.stderr
    assert "area" in none.stdout and "iou" not in none.stdout
    [run] = Path("outputs").glob("plates-*")
    assert "area" in cli.ok("compare", run.name)
    pixel = ["--delta", "auto", "evaluation.supervision=pixel"]
    cli.fault("evaluate", *FOLDER, *pixel, says=["has no mask", "masks/"])


def test_files_of_labels_and_splits(cli: Cli, ksdd_like: KsddLike, plates: Path) -> None:
    ksdd_like()
    labelled = [*KSDD, "dataset.labels=labels.csv"]
    cli.fault("train", *labelled, says=["dataset.labels=labels.csv", "no such file"])
    for text, *says in (
        ("name,label\nkos01/Part0,2\n", "line 2: label of kos01/Part0 is '2'", "must be 0 (good)"),
        ("name,label\nkos01/Part0,0\n", "no label for the training image kos01/Part1"),
        ("image,label\nkos01/Part0,0\n", "column name is missing"),
    ):
        Path("labels.csv").write_text(text)
        cli.fault("train", *labelled, says=says, logs=True)
    Path("split.csv").write_text("name,split\nnobody,train\n")
    cli.fault("train", *FOLDER, "dataset.split_file=split.csv", says=["split.csv", "nobody"])
    cli.fault("train", *KSDD, "dataset.split=halves", says=["split=halves", "paper", "official"])
    cli.fault("train", *KSDD, "dataset.split=tens", says=["dataset.fold=null", "0..4"])


def test_nothing_to_predict(cli: Cli, own_run: Run) -> None:
    run = ["--run", own_run.path]
    Path("empty").mkdir()
    Path("notes.txt").write_text("no image")
    cli.fault("predict", "empty", *run, says=["empty: no image there"])
    cli.fault("predict", "nowhere", *run, says=["nowhere: no such image or folder"])
    cli.fault("predict", "notes.txt", *run, says=["notes.txt: is no image"], logs=True)
    cli.fault("predict", "method=gradcam", *run, says=["name an image or a folder"])
    for name in ("a/x.png", "b/x.png"):
        Path(name).parent.mkdir()
        Image.new("L", (32, 32)).save(name)
    cli.fault("predict", "a", "b", *run, says=["two images are called x", "two folders"])
    assert cli("predict").exit_code == 2


def test_shards_that_do_not_exist(cli: Cli, tiny_run: Run) -> None:
    Path("photos").mkdir()
    Image.new("L", (40, 40)).save("photos/one.png")
    args = ["predict", "photos", "--run", tiny_run.path, "--out", "found"]
    cli.fault(*args, "--shard", "9/8", says=["predict.shard=9/8", "i/n", "3/8"])
    cli.fault(*args, "--shard", "1:9/8", says=["1:9/8", "first:last/n"])
    cli.fault(*args, "--shard", "1:2/2", says=["add -m"])
    assert not Path("found").exists()
    cli.ok(*args, "--shard", "1/2")
    says = ["found: was begun with predict.shard=i/2", "predict.out"]
    cli.fault(*args, says=says, logs=True)
    cli.fault(*args, "--shard", "1/3", says=says, logs=True)
    cli.fault("runs", "gather", "nowhere", says=["nowhere: no such folder"])
    cli.fault("runs", "gather", "photos", says=["photos: no shard", "predict.shard=i/n"])


# --- names and values


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("method=ltgradcan", ["method=ltgradcan", "did you mean 'ltgradcam'?"]),
        ("method=zzz", ["method=zzz", "known: ablationcam, auto, cgfusion, eigencam"]),
        ("method.weighting=gradcamm", ["gradcamm", "did you mean 'gradcam'?"]),
        ("method.layers=s7", ["layer s7", "known: ", "s5"]),
        ("method.layers=features.2b", ["layer features.2b", "did you mean 'features.2"]),
        ("method.scope=chanel", ["method.scope=chanel", "did you mean 'channel'?"]),
        ("method.form=masks", ["method.form=masks", "did you mean 'mask'?"]),
        ("method.fusion.rule=summ", ["method.fusion.rule=summ", "did you mean 'sum'?"]),
        ("method.fusion.normalize=minmx", ["normalize=minmx", "did you mean 'minmax'?"]),
        ("method.target=defekt", ["method.target=defekt", "did you mean 'defect'?"]),
        ("method.target=3", ["method.target=3", "0..0"]),
        ("+method.options.bach=3", ["method.options.bach"]),
        ("backbone=vgg16slim", ["backbone=vgg16slim", "did you mean 'vgg16_slim'?"]),
        ("backbone.name=vgg61", ["backbone.name=vgg61", "did you mean 'vgg16'?"]),
        ("segmenter=otso", ["segmenter=otso", "did you mean 'otsu'?"]),
        ("segmenter.rule=otso", ["segmenter.rule=otso", "did you mean 'otsu'?"]),
        ("+segmenter.options.nbin=9", ["segmenter.options.nbin", "did you mean 'nbins'?"]),
        ("dataset=ksd", ["dataset=ksd", "did you mean 'ksdd'?"]),
        ("dataset.kind=folders", ["dataset.kind=folders", "did you mean 'folder'?"]),
        ("experiment=dem", ["experiment=dem", "did you mean 'demo'?"]),
        ("trainer.epoch=3", ["trainer.epoch", "did you mean 'epochs'?"]),
        ("sead=3", ["sead", "did you mean 'seed'?"]),
        ("+sead=3", ["sead", "did you mean 'seed'?"]),
        ("+trainer.epoch=3", ["trainer.epoch", "did you mean 'epochs'?"]),
        ("evaluation.images=defectiv", ["defectiv", "did you mean 'defective'?"]),
        ("evaluation.split=tests", ["evaluation.split=tests", "known: all, test, train"]),
        ("evaluation.batch_size=0", ["evaluation.batch_size=0", "at least 1"]),
        ("trainer.epochs=many", ["trainer.epochs=many", "a whole number"]),
        ("trainer.optimizer=adam", ["trainer.optimizer=adam", "did you mean 'adamw'?"]),
        ("dataset.height=8", ["dataset.height=8", "at least 32"]),
        ("dataset.on_error=ignore", ["dataset.on_error=ignore", "known: raise, skip"]),
        ("threads=0", ["threads=0", "at least 1"]),
        ("threads=few", ["threads=few", "a whole number"]),
        ("device=gpu", ["device=gpu", "auto | cpu"]),
        ("device=cuda:99", ["device=cuda:99", "auto or cpu"]),
        ("hydra/launcher=jblib", ["launcher=jblib", "did you mean 'joblib'?", "ltcam[cluster]"]),
        ("method.delta=100.5", ["method.delta=100.5", "at least 0 and at most 100"]),
        ("method.delta=-1", ["method.delta=-1", "at least 0 and at most 100"]),
        ("method.delta=half", ["method.delta=half", "a number of", "or null"]),
        ("method.delta=true", ["method.delta=true", "a number of", "or null"]),
        ("method.delta=.nan", ["method.delta="]),
        ("method.delta=1,2", ["add -m"]),
        ("method=gradcam,layercam", ["add -m"]),
        ("method.delta='", ["method.delta='"]),
        ("name=a/b", ["name=a/b", "one folder's name"]),
        ("nonsense", ["nonsense", "key=value"]),
    ],
)
def test_unknown_names_and_impossible_values(
    cli: Cli, tiny_run: Run, override: str, says: list[str]
) -> None:
    given = [*SYNTHETIC, f"outputs={tiny_run.outputs}", override]
    cli.fault("evaluate", *given, says=says)
    assert not list(tiny_run.path.glob("results*"))


@pytest.mark.parametrize("method", ["scorecam", "ablationcam"])
def test_delta_of_a_method_without_gradients(cli: Cli, tiny_run: Run, method: str) -> None:
    run = ["evaluate", "--run", tiny_run.path, "--method", method, "--delta"]
    cli.fault(*run, 50, says=["method.delta=50", method, "delta=null"])


def test_delta_as_a_range_needs_multirun(cli: Cli) -> None:
    cli.fault("evaluate", "--delta", "0:90:10", says=["add -m"])
    cli.fault("evaluate", "-m", "--delta", "90:0:10", says=["90:0:10", "start:stop:step"])


def test_unknown_option(cli: Cli) -> None:
    result = cli("evaluate", "--metod", "gradcam")
    assert result.exit_code == 2
    assert "--metod" in result.stderr and "--method" in result.stderr


# --- runs and checkpoints


def test_no_checkpoint(cli: Cli, own_run: Run) -> None:
    message = cli.fault(
        "evaluate", *SYNTHETIC, "seed=7", "--method", "gradcam",
        says=["no trained classifier", own_run.name, "--run"],
    )  # fmt: skip
    named = message.split("train it with: ")[1].split(" — ")[0].split()
    assert named[:2] == ["ltcam", "train"]
    assert set(named[2:]) == {a for a in SYNTHETIC if "threads" not in a and "device" not in a} | {
        "seed=7"
    }
    cli.ok(*named[1:])
    cli.ok("evaluate", *SYNTHETIC, "seed=7")
    says = ["ltcam train experiment=demo 'outputs=some where'", "trained: none"]
    cli.fault("evaluate", "experiment=demo", "outputs=some where", says=says)
    Path("photos").mkdir()
    Image.new("L", (40, 40)).save("photos/one.png")
    cli.fault("predict", "photos", *SYNTHETIC, "seed=8", says=["ltcam train", "seed=8"])
    cli.fault("evaluate", "--run", "none", says=["run=none: no such run", own_run.name])
    (own_run.path / "train/checkpoint.pt").unlink()
    cli.fault("evaluate", "--run", own_run.name, says=["not finished", "ltcam train --resume"])
    cli.fault("predict", "photos", "--run", own_run.name, says=["train"], logs=True)  # no skill


class Bomb:
    """Pickled, it writes a file when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("executed"),)


def test_checkpoints_that_cannot_be_used(cli: Cli, own_run: Run) -> None:
    path = own_run.path / "train/checkpoint.pt"
    whole = path.read_bytes()
    content = torch.load(path, weights_only=True)
    wider = content | {"backbone": content["backbone"] | {"hidden": 32}}
    cases: list[tuple[Any, list[str]]] = [
        (content | {"format": 99}, ["another version of ltcam", "train it anew"]),
        (content["state_dict"], ["no ltcam checkpoint", "ltcam import"]),
        (wider, ["does not fit its own description"]),
        (content | {"backbone": {"name": "vgg16"}}, ["does not fit its own description"]),
        ({"format": 1}, ["does not fit its own description"]),
        ([1, 2], ["no ltcam checkpoint"]),
    ]
    evaluate = ["evaluate", "--run", own_run.name]
    for value, says in cases:
        torch.save(value, path)
        cli.fault(*evaluate, says=["checkpoint.pt", *says])
    for bad in (b"", b"nonsense", whole[: len(whole) // 2]):
        path.write_bytes(bad)
        cli.fault(*evaluate, says=["checkpoint.pt", "train it anew"])
    for save in (torch.save, lambda value, to: to.write_bytes(pickle.dumps(value, protocol=2))):
        save(content | {"more": Bomb()}, path)
        cli.fault(*evaluate, says=["checkpoint.pt", "not loaded for safety", "train it anew"])
    assert not Path("executed").exists()
    pickle.loads(pickle.dumps(Bomb()))
    assert Path("executed").exists()  # the bomb was a real one
    assert not (own_run.path / "results.csv").exists()


def test_damaged_files_of_a_run(cli: Cli, own_run: Run) -> None:
    (own_run.path / "train/config.yaml").write_text("hash: [")
    cli.fault("evaluate", "--run", own_run.name, says=["config.yaml", "damaged", "train"])
    Path("photos").mkdir()
    cli.fault("evaluate", "--run", "photos", says=["run=photos: no such run"])
    with pytest.raises(errors.LtcamError, match="no such checkpoint"):
        load_classifier("photos")


def test_weights_that_cannot_be_used(cli: Cli, tiny_run: Run) -> None:
    train = ["train", *SYNTHETIC[:5], *SYNTHETIC[6:], "backbone=resnet18"]

    def refused(weights: str, *says: str) -> None:
        named = Path(weights).name
        cli.fault(*train, f"backbone.weights={weights}", says=[named, *says], logs=True)
        assert not list(Path("outputs").glob("*/train/*.pt"))

    refused("none.pth", "no such weights", "null")
    refused(str(tiny_run.path / "train/checkpoint.pt"), "not weights of backbone=resnet18")
    Path("bad.pth").write_bytes(b"")
    refused("bad.pth", "damaged")
    torch.save({"fc.weight": Bomb()}, "unsafe.pth")
    refused("unsafe.pth", "not loaded for safety", "state_dict()")
    assert not Path("executed").exists()
    torch.save(torchvision.models.resnet18(num_classes=2).state_dict(), "resnet18.pth")
    state = torch.load("resnet18.pth", weights_only=True)
    torch.save({k: v for k, v in state.items() if k != "conv1.weight"}, "part.pth")
    refused("part.pth", "has no conv1.weight", "backbone=resnet18")
    torch.save(state | {"conv1.weight": torch.zeros(64, 1, 7, 7)}, "other.pth")
    refused("other.pth", "conv1.weight has shape (64, 1, 7, 7)", "(64, 3, 7, 7)")
    refused("IMAGENET1K_V9", "no such weights", "IMAGENET1K_V1")
    slim = [*SYNTHETIC, "backbone.weights=DEFAULT"]
    cli.fault("train", *slim, says=["vgg16_slim has no published weights", "null"], logs=True)
    cli.ok(*train, "backbone.weights=resnet18.pth")


def test_weights_that_cannot_be_downloaded(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    monkeypatch.setattr("urllib.request.urlopen", offline)
    train = ["train", *SYNTHETIC[:5], *SYNTHETIC[6:], "backbone=resnet18"]
    says = ["backbone.weights=DEFAULT", "cannot be downloaded", "backbone.weights=FILE", "null"]
    cli.fault(*train, says=says, logs=True)
    cli.ok(*train, "backbone.weights=null", "name=mine")


def test_import_of_what_does_not_fit(cli: Cli) -> None:
    torch.save(torchvision.models.resnet18(num_classes=2).state_dict(), "mine.pth")
    cli.fault("import", "none.pth", "--backbone", "resnet18", says=["none.pth", "no such"])
    cli.fault("import", "mine.pth", says=["mine.pth", "backbone=NAME", "vgg16"])
    says = ["mine.pth", "has shape", "no state dict of resnet50"]
    cli.fault("import", "mine.pth", "--backbone", "resnet50", says=says)
    resnet = ["import", "mine.pth", "--backbone", "resnet18"]
    cli.fault(*resnet, "--target", 2, says=["--target 2", "0..1"])
    cli.fault(*resnet, "backbone.head=max", says=["backbone.head=max", "its own head"])
    torch.save(torchvision.models.resnet18().state_dict(), "imagenet.pth")
    says = ["imagenet.pth", "1000 classes", "--target 0..999"]
    cli.fault("import", "imagenet.pth", "--backbone", "resnet18", says=says)
    cli.fault("import", "mine.pth", "backbone=vgg16_slim", says=["vgg16_slim", "resnet18"])
    torch.save({"model": Bomb()}, "unsafe.pth")
    cli.fault("import", "unsafe.pth", "backbone=resnet18", says=["unsafe.pth", "for safety"])
    assert not Path("executed").exists() and not Path("outputs").exists()


def test_named_run_that_holds_another_training(cli: Cli, own_run: Run) -> None:
    own_run.path.rename(own_run.outputs / "mine")
    says = ["outputs/mine", "holds another training", "name="]
    cli.fault("train", *SYNTHETIC, "name=mine", "seed=1", says=says)
    cli.fault("evaluate", *SYNTHETIC, "name=mine", "seed=1", says=says)
    held = yaml.safe_load((own_run.outputs / "mine/train/config.yaml").read_text())
    assert held["seed"] == 0
    failed = ["dataset.defective=0", "name=failed"]  # trains nothing, so the name stays free
    cli.fault("train", *SYNTHETIC, *failed, says=["no defective image"], logs=True)
    cli.ok("train", *SYNTHETIC, "name=failed")


def test_loss_that_is_no_number(cli: Cli) -> None:
    train = ["train", *SYNTHETIC, "trainer.epochs=4", "trainer.lr=1e9"]
    says = ["the loss is nan in epoch", "lower trainer.lr", "1e+09", "in last.pt"]
    cli.fault(*train, says=says, logs=True)
    (run,) = Path("outputs").glob("*-*")
    last = torch.load(run / "train/last.pt", weights_only=True)
    assert all(bool(value.isfinite().all()) for value in last["model"].values())
    assert 1 <= len(pd.read_csv(run / "train/history.csv")) < 4
    assert not (run / "train/checkpoint.pt").exists()


# --- the machine


def test_missing_extra() -> None:
    with pytest.raises(errors.LtcamError, match=r"pip install 'ltcam\[report\]'"):
        errors.require("no_such_module", "report")
    assert errors.require("json", "report").loads("1") == 1


def test_output_folder_that_cannot_be_written(cli: Cli, tiny_run: Run) -> None:
    Path("file").write_text("a file")
    for outputs in ("file", "file/below"):
        says = [outputs, "outputs=DIR"]
        cli.fault("train", *SYNTHETIC, f"outputs={outputs}", says=says)
    Path("photos").mkdir()
    Image.new("L", (40, 40)).save("photos/one.png")
    predict = ["predict", "photos", "--run", tiny_run.path, "--out", "file/below"]
    cli.fault(*predict, says=["file/below"], logs=True)
    assert Path("file").read_text() == "a file"


def test_full_disk(cli: Cli, own_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = Path.replace
    full = {"metrics.json"}

    def replaced(self: Path, target: Path) -> Path:
        if Path(target).name in full:
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", replaced)
    says = ["metrics.json", "No space left on device", "outputs=DIR"]
    cli.fault("evaluate", *SYNTHETIC, says=says)
    assert not list(own_run.outputs.rglob("evaluate/*/metrics.json"))
    assert not (own_run.path / "results.csv").exists()
    result = cli("evaluate", "-m", "--delta", "0,50", *SYNTHETIC)
    assert result.exit_code == 2 and "Traceback" not in result.stderr
    assert "2 of 2 runs failed" in result.stderr.splitlines()[-1]

    full.clear()
    cli.ok("evaluate", *SYNTHETIC)
    before = (own_run.path / "results.csv").read_text()
    full.add("results.csv")
    cli.fault("evaluate", *SYNTHETIC, "--delta", 20, says=["results.csv", "No space left"])
    assert (own_run.path / "results.csv").read_text() == before
    full.clear()
    cli.ok("evaluate", *SYNTHETIC, "--delta", 20)
    assert len(pd.read_csv(own_run.path / "results.csv")) == 2

    full.add("last.pt")
    cli.fault("train", *SYNTHETIC, "seed=3", says=["last.pt", "No space left"], logs=True)
    assert not list(own_run.outputs.glob("*-s3-*/train/*.pt"))


def test_torch_and_torchvision_that_do_not_belong_together(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("ltcam_cli.experiments.train.train_task", broken)
    cli.fault("train", says=["torch and torchvision", "pip install --force-reinstall"])


def test_torchvision_that_breaks_at_import(cli: Cli) -> None:
    fake = cli.folder / "fake/torchvision"
    fake.mkdir(parents=True)
    (fake / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    path = os.pathsep.join([str(fake.parent), os.environ.get("PYTHONPATH", "")])
    process = cli.start("train", *SYNTHETIC, env={**os.environ, "PYTHONPATH": path})
    stdout, stderr = process.communicate(timeout=120)
    assert (process.returncode, stdout) == (2, "")
    assert stderr.startswith("ltcam: torch and torchvision") and stderr.count("\n") == 1


def test_gpu_memory(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    monkeypatch.setattr("ltcam_cli.experiments.evaluate.evaluate_task", full)
    cli.fault("evaluate", says=["GPU's memory is full", "evaluation.batch_size"])


def test_faults_of_ours_are_not_hidden(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("ltcam_cli.experiments.evaluate.evaluate_task", wrong)
    result = cli("evaluate")
    assert result.exit_code == 1 and isinstance(result.exception, ZeroDivisionError)


def test_messages_are_one_line() -> None:
    assert errors.user_message(errors.LtcamError("two\n  lines")) == "two lines"
    assert errors.user_message(ValueError("ours")) is None
    assert errors.user_message(None) is None
    message = errors.user_message(PermissionError(errno.EACCES, "Permission denied", "/x"))
    assert message == "/x: Permission denied; give another folder with outputs=DIR"


def test_nearest() -> None:
    assert errors.nearest("otso", ["otsu", "li"]) == "; did you mean 'otsu'? (known: li, otsu)"
    assert errors.nearest("zzz", ["otsu", "li"]) == " (known: li, otsu)"


def test_pixels_of_the_fake_tree(ksdd_like: KsddLike) -> None:
    root = ksdd_like()
    mask = Image.open(root / "kos01/Part2_label.bmp")
    assert mask.mode == "P" and set(np.unique(np.asarray(mask))) == {0, 1, 2}
    assert Image.open(root / "kos01/Part0_label.bmp").mode == "L"
