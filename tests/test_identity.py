"""Identity: what decides an artefact is hashed and kept beside it, and nothing else."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Cli, Run
from PIL import Image
from toys import SLIM, TOYS, toy_split

from ltcam_cli.classifier.config import TrainerConfig
from ltcam_cli.config import effective
from ltcam_cli.errors import LtcamError
from ltcam_cli.experiments.session import training_identity
from ltcam_cli.experiments.settings import Settings
from ltcam_cli.files import content_digest
from ltcam_cli.maps.method import StudentMethod
from ltcam_cli.runs.identity import FORMATS, Identity, differences, kept_identity
from ltcam_cli.student.config import StudentConfig

TRAINING = Settings(dataset=TOYS, backbone=SLIM)


def of_training(**changes: object) -> str:
    return training_identity(replace(TRAINING, **changes), toy_split()).hash  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"trainer": TrainerConfig(label_smoothing=0.1)},
        {"trainer": TrainerConfig(cutmix=0.5)},
        {"trainer": TrainerConfig(progressive=0.5)},
        {"backbone": replace(SLIM, hidden=17)},
        {"dataset": replace(TOYS, height=64)},
        {"threads": 3},
    ],
)
def test_another_training_has_another_identity(changes: dict[str, object]) -> None:
    assert of_training(**changes) != of_training()


@pytest.mark.parametrize(
    "changes",
    [
        {"trainer": TrainerConfig(workers=3)},
        {"outputs": "elsewhere"},
        {"device": "cpu"},
        {"overwrite": True},
        {"dataset": replace(TOYS, on_error="skip")},
    ],
)
def test_what_changes_no_result_is_no_part_of_it(changes: dict[str, object]) -> None:
    assert of_training(**changes) == of_training()


def checkpoint(run: Run) -> Path:
    return run.path / "train/checkpoint.pt"


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts torch's number of threads back to what it was."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_number_of_threads_that_is_used_counts(threads: None) -> None:
    torch.set_num_threads(2)
    assert of_training() == of_training(threads=2) != of_training(threads=1)
    torch.set_num_threads(1)
    assert of_training() == of_training(threads=1)


def test_runs_of_another_number_of_threads(own_run: Run, cli: Cli, threads: None) -> None:
    others = [word for word in own_run.overrides if word != "threads=1"]
    assert cli.ok("runs", "why", own_run.name, "threads=2") == "threads: 1 -> 2\n"
    result = cli("evaluate", *others, "threads=2", "--method", "gradcam")
    assert result.exit_code == 0, result.output
    assert own_run.name in result.stderr and "number of threads" in result.stderr
    assert (own_run.path / "results.csv").is_file()
    weights = content_digest(checkpoint(own_run))
    checkpoint(own_run).unlink()
    torch.set_num_threads(2)
    assert "with 1 threads, as it was begun" in cli("train", *others, "--resume").stderr
    assert content_digest(checkpoint(own_run)) == weights
    assert len(list(own_run.outputs.iterdir())) == 1


def test_no_class_lists_fields_elsewhere() -> None:
    sources = Path(__file__).parents[1].joinpath("ltcam_cli").rglob("*.py")
    assert not [path for path in sources if re.search("LATER|UNHASHED", path.read_text())]


def test_a_format_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Identity("cell", {"a": 1}).hash
    monkeypatch.setitem(FORMATS, "cell", FORMATS["cell"] + 1)
    assert Identity("cell", {"a": 1}).hash != before


def test_differences_name_the_key() -> None:
    first = Identity("cell", {"method": {"delta": 50.0, "options": {}}, "images": "a"})
    second = Identity("cell", {"method": {"delta": 40.0, "options": {"batch": 2}}, "images": "a"})
    assert differences(first.mapping, second.mapping) == [
        ("method.delta", 50.0, 40.0),
        ("method.options.batch", None, 2),
    ]


def test_a_damaged_identity_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "identity.json").write_text("{")
    with pytest.raises(LtcamError, match="is damaged"):
        kept_identity(tmp_path)


def test_a_digest_follows_the_content(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    os.utime(path, (1, 1))
    first = content_digest(path)
    path.write_bytes(b"two")
    os.utime(path, (2, 2))
    assert content_digest(path) != first
    path.write_bytes(b"one")
    assert content_digest(path) == first


def test_artefacts_keep_their_identity(own_run: Run, cli: Cli) -> None:
    cli.ok("evaluate", "--run", own_run.name, "threads=1", "--method", "gradcam")
    cli.ok("sweep", "--run", own_run.name, "threads=1", "--method", "ltgradcam", "--delta", "0,50")
    for pattern in ("train", "evaluate/*", "sweep/*"):
        [*folders] = own_run.path.glob(pattern)
        for folder in folders:
            kept = json.loads((folder / "identity.json").read_text())
            assert kept["hash"] == kept_identity(folder)["hash"]  # type: ignore[index]
            assert folder.name == "train" or folder.name.endswith(kept["hash"])


def test_why_names_what_differs(own_run: Run, cli: Cli) -> None:
    assert "nothing differs" in cli.ok("runs", "why", own_run.name)
    told = cli.ok("runs", "why", own_run.name, "trainer.epochs=3", "seed=4")
    assert told.splitlines() == ["trainer.epochs: 1 -> 3", "seed: 0 -> 4"]
    cli.ok("evaluate", "--run", own_run.name, "threads=1", "--method", "ltgradcam")
    [cell] = own_run.path.glob("evaluate/*")
    assert "nothing differs" in cli.ok("runs", "why", cell)
    assert cli.ok("runs", "why", cell, "method.delta=40").splitlines() == [
        "method.delta: 50.0 -> 40.0"
    ]


# --- other pixels under the same name


@pytest.fixture
def images(cli: Cli) -> Path:
    """A folder of ten images of equally many bytes."""
    random = np.random.default_rng(0)
    for number in range(10):
        kind = "defect" if number % 2 else "good"
        for folder, pixels in (
            (kind, random.integers(0, 255, (40, 40), dtype=np.uint8)),
            ("masks", np.uint8(255) * (random.random((40, 40)) > 0.9)),
        ):
            path = cli.folder / "images" / folder / f"{number}.bmp"
            path.parent.mkdir(parents=True, exist_ok=True)
            if folder != "masks" or kind == "defect":
                Image.fromarray(pixels).save(path)
    return cli.folder / "images"


FOLDER = (
    "dataset=folder dataset.root=images dataset.height=32 dataset.width=32 dataset.channels=1 "
    "backbone=vgg16_slim trainer.epochs=1 trainer.images_per_epoch=4 threads=1 device=cpu"
).split()


def change(path: Path) -> None:
    """Other pixels, an older time."""
    pixels = 255 - np.asarray(Image.open(path))
    Image.fromarray(pixels).save(path)
    os.utime(path, (10**9, 10**9))


def test_scores_and_trainings_of_other_pixels_are_not_shown(images: Path, cli: Cli) -> None:
    cli.ok("train", *FOLDER, "name=first")
    evaluate = ("evaluate", *FOLDER, "--run", "first", "--method", "gradcam", "overwrite=false")
    cli.ok(*evaluate)
    assert "is there already" in cli(*evaluate).stderr
    [cell] = (cli.folder / "outputs/first/evaluate").iterdir()
    tested = (cell / "images.csv").read_text().splitlines()[1].split(",")[0]
    change(images / "defect" / f"{tested}.bmp")
    assert "is there already" not in cli(*evaluate).stderr
    assert len([*(cli.folder / "outputs/first/evaluate").iterdir()]) == 2
    cli.fault("train", *FOLDER, "name=first", says=["holds another training", "runs why first"])
    assert "images:" in cli.ok("runs", "why", "first")


def test_a_sweep_of_other_pixels_or_masks_is_another(images: Path, cli: Cli) -> None:
    cli.ok("train", *FOLDER, "name=first")
    run = cli.folder / "outputs/first"
    sweep = ("sweep", *FOLDER, "--run", "first", "--method", "ltgradcam", "--delta", "0,50")

    def sweeps() -> int:
        cli.ok(*sweep, "evaluation.split=all")
        return len([*run.glob("sweep/*/sweep.csv")])

    assert [sweeps(), sweeps()] == [1, 1]  # again the same
    before = [*run.glob("evaluate/*")]
    tested = pd.read_csv(before[0] / "images.csv")["name"][0]
    for number, folder in enumerate(("defect", "masks"), 2):
        change(images / folder / f"{tested}.bmp")
        assert sweeps() == number
    assert len([*run.glob("evaluate/*")]) == 3 * len(before)


def test_scores_of_images_and_masks_that_are_read_otherwise(own_run: Run, cli: Cli) -> None:
    random = np.random.default_rng(0)
    for folder in ("good", "defect", "masks"):
        (cli.folder / "plates" / folder).mkdir(parents=True)
    for number in range(4):
        pixels = random.integers(1500, 2900, (64, 64), dtype=np.uint16)  # of a camera of 12 bits
        Image.fromarray(pixels).save(cli.folder / f"plates/good/g{number}.png")
        Image.fromarray(pixels // 2).save(cli.folder / f"plates/defect/d{number}.png")
        mask = np.pad(np.full((8, 8), 255, np.uint8), 28)
        Image.fromarray(mask).save(cli.folder / f"plates/masks/d{number}.png")
    folder = ("dataset=folder", "dataset.root=plates", "evaluation.split=all", "threads=1")
    evaluate = ("evaluate", "--run", own_run.name, "--method", "layercam", *folder)
    said = cli(*evaluate).stderr
    assert "warning: " in said and "has more than 8 bits, unlike the training images" in said
    assert "is there already" in cli(*evaluate).stderr
    for key in ("dataset.white=4095", "dataset.white=65535", "dataset.mask_values=[0]"):
        assert "is there already" not in cli(*evaluate, key).stderr, key
        assert "is there already" in cli(*evaluate, key).stderr, key


def test_a_prediction_follows_an_older_file(images: Path, cli: Cli) -> None:
    cli.ok("train", *FOLDER, "name=first")
    predict = (
        "predict", images / "good", "--run", "first", "--method", "layercam", "threads=1",
        "predict.out=p",
    )  # fmt: skip
    cli.ok(*predict, "predict.gate=false")
    mask = cli.folder / "p/masks/0.png"
    before = mask.stat().st_mtime_ns
    cli.ok(*predict, "predict.gate=false")
    assert mask.stat().st_mtime_ns == before
    change(images / "good/0.bmp")
    cli.ok(*predict, "predict.gate=false")
    assert mask.stat().st_mtime_ns != before


def test_effective_leaves_out_newer_keys_at_their_defaults() -> None:
    usual, multi = effective(StudentConfig()), effective(StudentConfig(task="multi"))
    assert "task" not in usual and "decision" not in usual["loss"] and "dice" in usual["loss"]
    assert multi == usual | {"task": "multi"}
    assert "verdict" not in effective(StudentMethod())
    assert effective(StudentMethod(verdict="student"))["verdict"] == "student"


def test_effective_leaves_out_what_has_no_effect() -> None:
    config = effective(replace(TOYS, on_error="skip"))
    assert "on_error" not in config and config["height"] == TOYS.height
