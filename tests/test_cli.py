"""Commands, options, multiruns, tables and predictions, as a user types and reads them."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import typer
import yaml
from conftest import KSDD, REPOSITORY, SYNTHETIC, Cli, KsddLike, Run, half_written
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image
from torchvision import models
from typer.testing import CliRunner

import ltcam_cli
from ltcam_cli.classifier.checkpoint import load_classifier
from ltcam_cli.cli import app
from ltcam_cli.commands import options
from ltcam_cli.commands.compose import GROUPS
from ltcam_cli.commands.options import Option, as_overrides, complete_override, split_paths
from ltcam_cli.config import leaves
from ltcam_cli.data.ksdd import Ksdd
from ltcam_cli.errors import LtcamError
from ltcam_cli.experiments.config_files import conf_dir
from ltcam_cli.experiments.overrides import quoted
from ltcam_cli.experiments.ranges import expand_range
from ltcam_cli.experiments.settings import Settings
from ltcam_cli.files import exclusive, write_json
from ltcam_cli.maps.method import CamMethod
from ltcam_cli.report import overlay
from ltcam_cli.runs.folder import RunFolder
from ltcam_cli.runs.prediction_tables import REGIONS, SCORES, PredictionTables
from ltcam_cli.runs.tables import add_rows, as_markdown, once

# DESIGN.md 4, word for word.
RESULTS = (
    "method, delta, layers, segmenter, images, iou, precision, recall, f1, iou_low, iou_high, "
    "mean_iou, pixel_ap, aupro, oracle_iou, n_images, seconds, dataset, split, fold, seed, "
    "supervision, target, scope, form, fusion, normalize, regions_touched, false_regions, "
    "tp, fp, fn, tn, checkpoint, cell"
).split(", ")
COUNTS = ["tp", "fp", "fn", "tn"]
KEYS: dict[type, str] = {Settings: "", Ksdd: "dataset", CamMethod: "method"}


def commands() -> dict[str, typer.main.TyperCommand]:
    """All commands by what one types, e.g. `data check`."""
    found = {}
    for name, command in typer.main.get_command(app).commands.items():
        inner = getattr(command, "commands", None)
        found |= {f"{name} {n}": c for n, c in inner.items()} if inner else {name: command}
    return found


def table_on(text: str) -> list[dict[str, str]]:
    """The rows of the first Markdown table in a text."""
    lines = [line.strip()[1:-1].split("|") for line in text.splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in line] for line in lines]
    return [dict(zip(head, row, strict=True)) for row in rows]


def only(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


# --- help, options, config


@pytest.mark.parametrize("name", commands())
def test_help_names_each_option(cli: Cli, name: str) -> None:
    shown = cli.ok(*name.split(), "--help")
    assert cli.ok(*name.split(), "-h") == shown
    for parameter in commands()[name].params:
        if parameter.param_type_name == "option":
            assert all(option in shown for option in parameter.opts) and parameter.help


def test_options_set_keys_that_exist() -> None:
    declared = [value for value in vars(options).values() if isinstance(value, Option)]
    keys = {key for cls in (Settings, Ksdd, CamMethod) for key, _, _ in leaves(cls, KEYS[cls])}
    assert declared and {option.key for option in declared} <= {*keys, *GROUPS}


def test_help_needs_no_torch(cli: Cli) -> None:
    code = (
        "import sys; from ltcam_cli.cli import app; app(['--help'], standalone_mode=False); "
        "print({'torch', 'hydra', 'pandas', 'numpy'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "evaluate" in result.stdout
    assert result.stdout.splitlines()[-1] == "set()", result.stderr


def test_version(cli: Cli) -> None:
    assert cli.ok("--version") == f"ltcam {ltcam_cli.__version__}\n"


def test_config_prints_what_a_command_would_run_with(cli: Cli) -> None:
    config = yaml.safe_load(cli.ok("config", "evaluate", "--method", "ltlayercam", "--delta", 40))
    assert config["method"]["weighting"] == "layercam"
    assert config["method"]["delta"] == 40
    assert config["dataset"]["root"] == "data/KolektorSDD"
    assert config["backbone"] == {
        "name": "vgg16", "head": "fc", "logits": 1, "hidden": 4096, "dropout": 0.5,
        "weights": "DEFAULT", "standardize": False, "freeze_bn": False, "model": None,
        "window": 7,
    }  # fmt: skip
    demo = yaml.safe_load(cli.ok("config", "demo"))
    assert demo["dataset"]["kind"] == "synthetic"
    cli.fault("config", "evalute", says=["evalute", "did you mean 'evaluate'?"])


@pytest.mark.parametrize("override", ["dataset.height=[1", "trainer.lr==3", "name='a"])
@pytest.mark.parametrize("multirun", [[], ["-m"]])
def test_what_is_no_override_is_named(cli: Cli, override: str, multirun: list[str]) -> None:
    cli.fault("train", *multirun, override, says=[f"{override}: is no override", "quotes"])


def test_each_command_that_takes_overrides_has_a_root_config() -> None:
    commands = typer.main.get_group(app).commands.values()
    takes = {c.name for c in commands if any(p.name == "overrides" for p in c.params)}
    assert takes - {"config"} <= {path.stem for path in conf_dir().glob("*.yaml")}
    assert "search" in takes


@pytest.mark.parametrize(
    "args",
    [
        ["--delta", "30", "method=gradcampp", "--method", "ltxgradcam", "seed=4"],
        ["seed=4", "method=gradcampp", "--method=ltxgradcam", "--delta=30"],
        ["--method", "ltxgradcam", "seed=4", "--delta", "30", "method=gradcampp"],
    ],
)
def test_options_stand_anywhere_and_overrides_win(cli: Cli, args: list[str]) -> None:
    config = yaml.safe_load(cli.ok("config", "evaluate", *args))
    assert (config["method"]["name"], config["method"]["delta"]) == ("gradcampp", 30)
    assert config["seed"] == 4


def test_additions_and_deletions_pass(cli: Cli) -> None:
    args = ["segmenter=fraction", "segmenter.options.of_maximum=0.3", "method=fullgrad"]
    added = "+method.options.normalize_scope=channel"
    config = yaml.safe_load(cli.ok("config", "evaluate", *args, added))
    assert config["segmenter"]["options"] == {"of_maximum": 0.3}
    assert config["method"]["options"] == {"normalize_scope": "channel"}
    deleted = yaml.safe_load(cli.ok("config", "evaluate", "method=scorecam", "~method.options"))
    assert deleted["method"]["options"] == {}
    cli.fault("config", "evaluate", "~dataset.url", says=["~dataset.url", "dataset.url=VALUE"])
    twice = ["method=scorecam", "+method.options.batch=1"]
    cli.fault("config", "evaluate", *twice, says=["+method.options.batch", "without the +"])


@pytest.mark.parametrize(
    "text",
    ["run", "ksdd-s0-3e9f72", "/a/b.pth", "_x", "5e8961", "1e5", "12", "-1", ".5", "0x1f", "1_000",
     "null", "True", "NaN", "inf", "-inf", "none", "", "a b", "a,b", "a=b", "[a]", "{a}", "${a}",
     "it's", 'a"b', "é", "a#b", "../x", "~x", "a:b", "(a)"],
)  # fmt: skip
def test_quoted_texts_are_read_as_they_were(text: str) -> None:
    [override] = OverridesParser.create().parse_overrides([f"x={quoted(text)}"])
    assert override.value() == text
    assert isinstance(override.value(), str)


def test_options_become_overrides() -> None:
    given = {
        options.DELTA: "0:90:45",
        options.METHOD: "gradcam",
        options.RESUME: True,
        options.OVERWRITE: False,
    }
    assert as_overrides(given, ["seed=1"]) == [
        "method=gradcam", "resume=true", "method.delta=0,45,90", "seed=1",
    ]  # fmt: skip
    assert as_overrides({options.OUT: "a=b, (c)"}, None) == ["predict.out='a=b, (c)'"]
    assert as_overrides({options.RUN: "one,two"}, None) == ["run=one,two"]
    assert quoted("it's") == r"'it\'s'"
    with pytest.raises(LtcamError, match="key=value"):
        as_overrides({}, ["train"])


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0:90:45", "0,45,90"),
        ("0:100:33", "0,33,66,99"),
        ("0:1:0.1", "0.0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1.0"),
        ("50", "50"),
        ("a:b:c", "a:b:c"),
        ("range(0,91,45)", "range(0,91,45)"),
        ("1:3/8", "1/8,2/8,3/8"),
        ("3/8", "3/8"),
    ],
)
def test_ranges(text: str, values: str) -> None:
    expanded = expand_range(text)
    if "." in values:
        assert [float(v) for v in expanded.split(",")] == [float(v) for v in values.split(",")]
    else:
        assert expanded == values


@pytest.mark.parametrize("text", ["90:0:10", "0:90:0", "0:90:-1"])
def test_impossible_ranges(text: str) -> None:
    with pytest.raises(LtcamError, match="start:stop:step"):
        expand_range(text)


@pytest.mark.parametrize("text", ["0:3/8", "3:2/8", "1:9/8"])
def test_impossible_ranges_of_shards(text: str) -> None:
    with pytest.raises(LtcamError, match="first:last/n"):
        expand_range(text)


def test_paths_with_an_equals_sign_are_paths_if_they_exist(cli: Cli) -> None:
    Path("a=b").mkdir()
    files, overrides = split_paths(["a=b", "c=d", "e", "~f"])
    assert (files, overrides) == (["a=b", "e"], ["c=d", "~f"])


# --- shell completion


def completed(cli: Cli, words: str) -> list[str]:
    env: dict[str, str | None] = {
        "_LTCAM_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    result = cli(env=env)
    assert result.exit_code == 0 and not result.stderr
    return result.stdout.split()


def test_completion(cli: Cli) -> None:
    assert completed(cli, "ltcam ev") == ["evaluate"]
    assert completed(cli, "ltcam evaluate --met") == ["--method"]
    assert completed(cli, "ltcam predict x --save") == ["--save-maps"]
    assert completed(cli, "ltcam evaluate trainer.ep") == ["trainer.epochs="]
    assert "method=ltgradcam" in completed(cli, "ltcam evaluate method=lt")
    assert "hydra/launcher=joblib" in completed(cli, "ltcam evaluate -m hydra/launcher=")


@pytest.mark.parametrize("before", ["", "seed=1 ", "seed = 1 "])
def test_completion_of_values_in_bash_which_splits_at_the_equals_sign(
    cli: Cli, before: str
) -> None:
    cams = (
        "fullgrad gradcam gradcam_product gradcam_product_patchcore gradcampp layercam "
        "layercam_patchcore xgradcam"
    )
    names = [f"lt{cam}" for cam in cams.split()]
    assert completed(cli, f"ltcam evaluate {before}method = lt") == names
    assert set(names) < set(completed(cli, f"ltcam evaluate {before}method ="))
    assert "method=" in completed(cli, f"ltcam evaluate {before}met")
    assert "seed=" in completed(cli, f"ltcam evaluate {before}")


def test_completion_of_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = (REPOSITORY / "conf" / "segmenter").glob("[!_]*.yaml")
    found = set(complete_override("segmenter="))
    assert found == {f"segmenter={path.stem}" for path in listed}
    assert "segmenter=otsu" in found
    assert complete_override("no such thing") == []
    monkeypatch.setattr("ltcam_cli.commands.compose.conf_dir", lambda: Path("/nowhere"))
    assert complete_override("segmenter=") == []


@pytest.mark.parametrize(
    "words",
    ["predict photos --run {}", "evaluate --run other,{}", "threshold {}", "runs {}",
     "runs rm x {}", "runs why {}", "report {}", "compare {}", "student train --run {}"],
)  # fmt: skip
def test_completion_of_runs(cli: Cli, words: str) -> None:
    for folder, name in (("outputs", "plates-1"), ("outputs", "other"), ("more", "plates-2")):
        Path(folder, name, "train").mkdir(parents=True)
        Path(folder, name, "train/config.yaml").touch()
    comma = "other," if "," in words else ""
    assert completed(cli, f"ltcam {words.format('pl')}") == [f"{comma}plates-1"]
    assert not completed(cli, f"ltcam {words.format('nothing')}")


def test_completion_of_names_behind_their_options(cli: Cli) -> None:
    write_own_configs(Path("elsewhere"))
    assert completed(cli, "ltcam evaluate --config-dir elsewhere --method mi") == ["mine"]
    assert completed(cli, "ltcam evaluate --method mi") == []
    assert completed(cli, "ltcam sweep --method gradcam,eig") == ["gradcam,eigencam"]
    of_report = completed(cli, "ltcam report --method ltgradcam")
    products = ["ltgradcam_product", "ltgradcam_product_patchcore"]
    assert of_report == ["ltgradcam", *products, "ltgradcampp"]
    listed = (REPOSITORY / "conf").glob("segmenter/[!_]*.yaml")
    assert completed(cli, "ltcam predict --segmenter ") == sorted(path.stem for path in listed)
    assert completed(cli, "ltcam train --backbone resnet1") == ["resnet18"]
    assert completed(cli, "ltcam export --pipeline ltc") == ["ltcam_plus"]
    Path("more/plates/train").mkdir(parents=True)
    Path("more/plates/train/config.yaml").touch()
    assert completed(cli, "ltcam runs list --outputs more pl") == ["plates"]
    assert completed(cli, "ltcam runs list pl") == []


# --- the user's own configs


def write_own_configs(folder: Path) -> None:
    for name, text in {
        "method/mine.yaml": "# Mine: from 70 on\ndefaults: [ltgradcam]\nname: mine\ndelta: 70\n",
        "dataset/plates.yaml": "defaults: [synthetic]\nname: plates\nitems: 4\nparts: 3\n",
        "experiment/quick.yaml": "# @package _global_\ndefaults:\n  - override /dataset: plates\n"
        "  - override /method: mine\ntrainer: {epochs: 2}\nthreads: 1\nseed: 5\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.mark.parametrize("place", ["conf", "my (own), x=1 configs"])
def test_own_configs_are_found(cli: Cli, place: str) -> None:
    write_own_configs(cli.folder / place)
    where = [] if place == "conf" else ["--config-dir", place]
    config = yaml.safe_load(cli.ok("config", "evaluate", "experiment=quick", *where))
    assert config["dataset"]["name"] == "plates"
    assert config["dataset"]["kind"] == "synthetic"
    assert config["method"]["name"] == "mine"
    assert (config["trainer"]["epochs"], config["threads"], config["seed"]) == (2, 1, 5)
    row = next(row for row in table_on(cli.ok("methods", *where)) if row["method"] == "mine")
    assert (row["weighting"], row["delta"], row["what"]) == ("gradcam", "70", "Mine: from 70 on")


def test_config_dir_and_conf_are_both_searched(cli: Cli) -> None:
    write_own_configs(Path("elsewhere"))
    Path("conf/segmenter").mkdir(parents=True)
    Path("conf/segmenter/low.yaml").write_text(
        "name: low\nrule: fraction\noptions: {of_maximum: 0.1}"
    )
    shown = cli.ok("config", "evaluate", "method=mine", "segmenter=low", "--config-dir=elsewhere")
    assert yaml.safe_load(shown)["segmenter"]["options"] == {"of_maximum": 0.1}
    cli.fault("config", "evaluate", "--config-dir", "none", says=["--config-dir none", "folder"])


def test_methods_lists_all_and_their_needs(cli: Cli) -> None:
    shown = cli.ok("methods")
    rows = {row["method"]: row for row in table_on(shown)}
    plain = "gradcam gradcampp xgradcam layercam fullgrad".split()
    others = {
        "hirescam",
        "eigencam",
        "scorecam",
        "ablationcam",
        "layercam_tanh",
        "ltgradcam_product",
        "regioncam",
        "cgfusion",
        "ltgradcam_product_patchcore",
        "ltlayercam_patchcore",
        "patchcore",
        "student",
        "auto",
    }
    assert set(rows) == {*plain, *(f"lt{name}" for name in plain), *others}
    assert (rows["gradcam"]["layers"], rows["gradcam"]["delta"]) == ("last", "")
    assert (rows["ltgradcam"]["layers"], rows["ltgradcam"]["delta"]) == ("all", "50")
    assert rows["scorecam"]["needs"] == "A forwards"
    assert "backbone.head" in shown


# --- the user's three calls


def test_three_calls(cli: Cli, ksdd_like: KsddLike) -> None:
    ksdd_like()
    (trained,) = table_on(cli.ok("train", *KSDD))
    assert trained["run"].startswith("ksdd-vgg16_slim-paper-s0-")
    shown = cli.ok("evaluate", "--method", "ltgradcam", "--delta", 50, *KSDD)
    (row,) = table_on(shown)
    assert (row["method"], row["delta"], row["images"]) == ("ltgradcam", "50.00", "defective")
    assert "All columns: outputs/" in shown
    deltas = "0,10,20,30,40,50,60,70,80,90"
    shown = cli.ok("evaluate", "-m", "--method", "ltgradcam", "--delta", deltas, *KSDD)
    rows = table_on(shown)
    assert [float(row["delta"]) for row in rows] == list(range(0, 100, 10))
    assert rows[5] | {"seconds": ""} == row | {"seconds": ""}
    run = cli.folder / "outputs" / trained["run"]
    held = {path.name for path in (run / "train").iterdir()}
    assert held == {
        "config.yaml", "checkpoint.pt", "last.pt", "history.csv", "images.csv", "metrics.json",
        "train.log", "identity.json", "environment.json",
    }  # fmt: skip
    cell = only(run / "evaluate", "ltgradcam-d50-*")
    assert {path.name for path in cell.iterdir()} == {
        "config.yaml", "identity.json", "metrics.json", "images.csv", "curve.csv", "overlays",
        "pictures.json",
    }  # fmt: skip
    assert len(list((cell / "overlays").glob("*.png"))) == 2
    assert len(pd.read_csv(run / "results.csv")) == 10
    assert not half_written(cli.folder)


# --- tables, cells and multiruns


def test_results_table(cli: Cli, own_run: Run) -> None:
    cli.ok("evaluate", "--method", "gradcam", *SYNTHETIC)
    cli.ok("evaluate", "--method", "ltgradcam", "--delta", 33, *SYNTHETIC)
    table = pd.read_csv(own_run.path / "results.csv")
    assert list(table.columns[: len(RESULTS)]) == RESULTS
    assert table["method"].tolist() == ["gradcam", "ltgradcam"]
    assert np.isnan(table["delta"][0]) and table["delta"][1] == 33
    for _, row in table.iterrows():
        counts = row[COUNTS]
        assert counts.sum() == 3 * 64 * 64
        union = counts["tp"] + counts["fp"] + counts["fn"]
        assert row["iou"] == pytest.approx(100 * counts["tp"] / union, abs=1e-12)
        metrics = json.loads((own_run.path / "evaluate" / row["cell"] / "metrics.json").read_text())
        assert metrics["iou"] == row["iou"]  # to the last digit
        assert metrics["seconds"] == row["seconds"]
    markdown = table_on((own_run.path / "results.md").read_text())
    for shown, iou in zip(markdown, table["iou"], strict=True):
        assert shown["iou"] == f"{iou:.2f}"
        assert shown["tp"].isdigit()


def test_texts_that_look_like_numbers_or_like_nothing_stay_as_they_are(tmp_path: Path) -> None:
    texts = ["NA", "null", "nan", "None", "007", "1e5", "", "012345678901", "True", "-inf"]
    run, keys = RunFolder(tmp_path), ("dataset", "checkpoint", "segmenter", "ensemble", "weights")
    for cell, text in enumerate(texts):  # each is read and written again by those that follow
        of_cell = dict.fromkeys(keys, text) | {"iou": None if cell else 0.1 + 0.2, "tp": cell}
        add_rows(run, [{"method": text or "m", "cell": f"{cell}", **of_cell}])
    table = run.results()
    with (tmp_path / "results.csv").open(encoding="utf-8", newline="") as stream:
        written = list(csv.DictReader(stream))
    for key in keys:
        assert [row[key] for row in written] == table[key].fillna("").tolist() == texts
    assert table["cell"].tolist() == [f"{cell}" for cell in range(len(texts))]
    assert table["iou"][0] == 0.1 + 0.2 and table["iou"][1:].isna().all()
    assert table["tp"].tolist() == list(range(len(texts)))
    shown = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert all(f"| {text} " in shown for text in texts)


def test_what_a_multirun_makes_twice_is_one_row() -> None:
    rows = [
        {"run": run, "cell": cell, "loop": n} for n, (run, cell) in enumerate(["ax", "bx", "ax"])
    ]
    assert [row["loop"] for row in once(rows)] == [0, 1]
    assert [row["run"] for row in once([{"run": "b"}, {"run": "a"}, {"run": "b"}])] == ["b", "a"]


def test_predictions_of_images_with_such_names(tmp_path: Path) -> None:
    names = ["NA", "null", "007", "1e5", "nan"]
    tables = PredictionTables(tmp_path)
    row = dict.fromkeys(SCORES, 1) | {"probability": 0.1 + 0.2, "regions": 0}
    tables.write(pd.DataFrame(columns=SCORES), pd.DataFrame(columns=REGIONS))
    tables.append([row | {"name": name, "path": name, "content": name} for name in names], [])
    table, _ = tables.read()
    for key in ("name", "path", "content"):
        assert table[key].tolist() == names
    assert table["probability"].tolist() == [0.1 + 0.2] * 5 and table["area"].sum() == 5


def test_markdown() -> None:
    table = pd.DataFrame({"a": [1, 20], "b": [1.005, np.nan], "c": ["x", None]})
    assert as_markdown(table) == (
        "| a   | b    | c   |\n|-----|------|-----|\n| 1   | 1.00 | x   |\n| 20  |      |     |\n"
    )


def test_a_cell_that_exists_is_not_computed_again(cli: Cli, own_run: Run) -> None:
    args = ["evaluate", "--method", "gradcam", *SYNTHETIC]
    said = cli.ok(*args)
    first = table_on(said)
    path = only(own_run.path, "evaluate/gradcam-*/metrics.json")
    spent = re.search(r"loop (\d+\.\d) s, all else (\d+\.\d) s", said)
    assert spent and abs(float(spent[1]) - json.loads(path.read_text())["seconds"]) <= 0.051
    written = path.stat().st_mtime_ns
    again = cli(*args)
    assert table_on(again.stdout) == first
    assert "overwrite=true" in again.stderr and "loop 0.0 s" in again.stdout
    assert path.stat().st_mtime_ns == written
    cli.ok(*args, "--overwrite")
    assert path.stat().st_mtime_ns > written
    cli.ok(*args, "evaluation.images=all")
    cli.ok(*args, "segmenter=li")
    assert len(pd.read_csv(own_run.path / "results.csv")) == 3


def test_training_that_is_finished_is_not_done_again(cli: Cli, own_run: Run) -> None:
    written = (own_run.path / "train/checkpoint.pt").stat().st_mtime_ns
    assert "overwrite=true" in cli("train", *SYNTHETIC).stderr
    assert (own_run.path / "train/checkpoint.pt").stat().st_mtime_ns == written
    before = torch.load(own_run.path / "train/checkpoint.pt", weights_only=True)
    cli.ok("train", *SYNTHETIC, "--overwrite")
    after = torch.load(own_run.path / "train/checkpoint.pt", weights_only=True)
    assert (own_run.path / "train/checkpoint.pt").stat().st_mtime_ns > written
    for key, value in before["state_dict"].items():
        assert torch.equal(value, after["state_dict"][key])


def test_multirun_gives_one_table_and_joblib_the_same_counts(cli: Cli, own_run: Run) -> None:
    args = ["evaluate", "-m", "--method", "ltgradcam,ltlayercam", "--delta", "0,50,90", *SYNTHETIC]
    shown = cli.ok(*args)
    rows = table_on(shown)
    assert [(row["method"], float(row["delta"])) for row in rows] == [
        (method, delta) for method in ("ltgradcam", "ltlayercam") for delta in (0, 50, 90)
    ]
    path = only(cli.folder, "outputs/multirun/*/*/results.csv")
    assert str(path.relative_to(cli.folder)) in shown
    table = pd.read_csv(path)
    assert len(table) == 6
    assert len(table_on(path.with_suffix(".md").read_text())) == 6
    path.unlink()

    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "overwrite=true"]
    cli.ok(*args, *launcher)
    parallel = pd.read_csv(only(cli.folder, "outputs/multirun/*/*/results.csv"))
    assert parallel["cell"].tolist() == table["cell"].tolist()
    assert parallel[COUNTS].equals(table[COUNTS])
    assert len(pd.read_csv(own_run.path / "results.csv")) == 6


@pytest.mark.parametrize("delta", ["0:90:45", "range(0,91,45)", "0,45:90:45"])
def test_ranges_sweep(cli: Cli, own_run: Run, delta: str) -> None:
    rows = table_on(cli.ok("evaluate", "-m", "--delta", delta, *SYNTHETIC))
    assert [float(row["delta"]) for row in rows] == [0, 45, 90]


def test_two_heads_land_in_two_runs(cli: Cli) -> None:
    rows = table_on(cli.ok("train", "-m", "backbone.head=fc,max", *SYNTHETIC))
    assert [row["head"] for row in rows] == ["fc", "max"]
    names = {path.name for path in (cli.folder / "outputs").glob("synthetic-*")}
    assert names == {row["run"] for row in rows} and len(names) == 2
    listed = table_on(cli.ok("runs"))
    assert {row["run"] for row in listed} == names
    assert all(row["trained"] == "yes" for row in listed)


def test_failed_cell_does_not_lose_the_others(cli: Cli, own_run: Run) -> None:
    result = cli("evaluate", "-m", "--delta", "0,200,nonsense", *SYNTHETIC)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("ltcam: 2 of 3 runs failed: method.delta=200")
    assert "Traceback" not in result.stderr
    assert [float(row["delta"]) for row in table_on(result.stdout)] == [0]
    assert len(pd.read_csv(only(cli.folder, "outputs/multirun/*/*/results.csv"))) == 1
    assert len(pd.read_csv(own_run.path / "results.csv")) == 1


def add_many(folder: Path, first: int) -> None:
    for number in range(first, first + 15):
        add_rows(RunFolder(folder), [{"method": "gradcam", "cell": f"c{number}", "tp": number}])


def test_processes_that_write_one_run_folder_lose_no_rows(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=add_many, args=(tmp_path, 15 * number)) for number in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    table = RunFolder(tmp_path).results()
    assert sorted(table["tp"]) == list(range(45))
    assert len(table_on((tmp_path / "results.md").read_text())) == 45


def test_fresh_folders_give_equal_tables(cli: Cli) -> None:
    tables = []
    for outputs in ("first", "second"):
        where = [f"outputs={outputs}", *SYNTHETIC, "trainer.epochs=2"]
        cli.ok("train", *where)
        cli.ok("evaluate", *where)
        cli.ok("evaluate", "--method", "layercam", "--images", "all", *where)
        with only(Path(outputs), "*/results.csv").open() as stream:
            tables.append([row | {"seconds": ""} for row in csv.DictReader(stream)])
    assert tables[0] == tables[1] and len(tables[0]) == 2


# --- finding runs


def test_a_run_by_name_and_by_path(cli: Cli, tiny_run: Run, own_run: Run) -> None:
    by_name = table_on(cli.ok("evaluate", "--run", own_run.name, "--method", "gradcam"))
    moved = cli.folder / "elsewhere (é), a=b"
    own_run.path.rename(moved)
    by_path = table_on(cli.ok("evaluate", "--run", moved, "--method", "gradcam"))
    assert [r | {"seconds": ""} for r in by_path] == [r | {"seconds": ""} for r in by_name]
    message = cli.fault("evaluate", "--run", tiny_run.name[:-1], says=["run=", "no such run"])
    assert "there is none yet: ltcam train" in message  # it was moved away
    Path("outputs/empty").mkdir()
    cli.fault("runs", "empty", says=["run=empty"])


def test_a_runs_data_set_can_be_replaced(cli: Cli, own_run: Run) -> None:
    run = ["evaluate", "--run", own_run.name, "--method", "gradcam"]
    cli.ok(*run)
    cli.ok(*run, "dataset.seed=3")
    cli.fault(*run, "count=3", says=["count", "did you mean dataset.count?"])
    cli.fault(*run, "dataset.seeds=3", says=["dataset.seeds", "did you mean 'seed'?"])
    cli.ok("data", "synth", "plates", *SYNTHETIC[1:5])
    cli.ok(*run, "dataset=folder", "dataset.root=plates")
    table = pd.read_csv(own_run.path / "results.csv")
    assert table["dataset"].tolist() == ["synthetic", "synthetic", "plates"]
    assert table["cell"].is_unique


def test_the_run_of_that_name_goes_before_one_of_equal_training(cli: Cli, own_run: Run) -> None:
    own_run.path.rename(own_run.outputs / "a")
    (own_run.outputs / "b").mkdir()
    cli.ok("train", *SYNTHETIC, "name=b")
    cli.ok("evaluate", *SYNTHETIC, "name=b")
    cli.ok("evaluate", *SYNTHETIC)
    assert len(pd.read_csv(own_run.outputs / "b/results.csv")) == 1
    assert len(pd.read_csv(own_run.outputs / "a/results.csv")) == 1


def test_runs(cli: Cli, own_run: Run) -> None:
    (row,) = table_on(cli.ok("runs"))
    assert (row["run"], row["trained"], row["cells"]) == (own_run.name, "yes", "0")
    metrics = json.loads((own_run.path / "train/metrics.json").read_text())
    counts = [metrics[f"test_{name}"] for name in ("tp", "fp", "fn", "tn")]
    assert row["tp/fp/fn/tn"] == "/".join(map(str, counts))
    assert row["ap"] == f"{metrics['test_ap']:.2f}" and row["size"] == "64x64"
    assert "dataset" not in row and "backbone" not in row  # the name begins with both
    environment = json.loads((own_run.path / "train/environment.json").read_text())
    date = datetime.fromisoformat(environment.pop("date"))
    assert row["date"] == f"{date.astimezone():%Y-%m-%d}"
    assert abs(datetime.now(timezone.utc) - date).total_seconds() < 86400
    assert environment == {
        "command": f"ltcam train {shlex.join(own_run.overrides)}",
        "ltcam": ltcam_cli.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    cli.fault("runs", own_run.name, says=["nothing evaluated yet", "ltcam evaluate --run"])
    cli.ok("evaluate", "--run", own_run.name)
    (row,) = table_on(cli.ok("runs", own_run.name))
    assert row["method"] == "ltgradcam"
    assert table_on(cli.ok("runs", "--outputs", own_run.outputs))[0]["cells"] == "1"
    cli.fault("runs", "--outputs", "none", says=["none", "ltcam train"])


def test_runs_of_chosen_names_show_data_set_and_backbone(cli: Cli, own_run: Run) -> None:
    own_run.path.rename(own_run.outputs / "plates")
    Path("outputs/plates/train/environment.json").unlink()  # an older run
    (row,) = table_on(cli.ok("runs"))
    assert (row["dataset"], row["backbone"], row["ap"]) == ("synthetic", "vgg16_slim", row["ap"])
    changed = Path("outputs/plates/train/config.yaml").stat().st_mtime
    assert row["date"] == f"{datetime.fromtimestamp(changed):%Y-%m-%d}"
    assert row["balanced"] and row["tp/fp/fn/tn"] and row["cells"] == "0"


def test_runs_are_removed_after_asking(cli: Cli, own_run: Run) -> None:
    elsewhere = cli.folder / "elsewhere" / own_run.name
    shutil.copytree(own_run.path, elsewhere)
    (own_run.outputs / "link").symlink_to(elsewhere)
    for name in (elsewhere, "link", f"../elsewhere/{own_run.name}"):
        cli.fault("runs", "rm", name, "--yes", says=["is not in outputs; name its folder"])
    cli.fault("runs", "rm", own_run.name, "plates", "--yes", says=["run=plates: no such run"])
    (own_run.outputs / "link").unlink()

    for place in (own_run.path / "train", own_run.path / "predict/x/scores.csv"):
        place.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(place):
            cli.fault("runs", "rm", own_run.name, "--yes", says=["a process is at work there"])
    refused = CliRunner().invoke(app, ["runs", "rm", own_run.name], input="n\n")
    assert refused.exit_code == 1 and own_run.path.is_dir()
    agreed = CliRunner().invoke(app, ["runs", "rm", own_run.name, own_run.name], input="y\n")
    assert agreed.exit_code == 0 and f"deleted: {own_run.name}\n" in agreed.output
    assert not list(own_run.outputs.glob("*")) and elsewhere.is_dir()
    cli.ok("runs", "rm", elsewhere, "--outputs", "elsewhere", "-y")
    assert not elsewhere.exists()


def test_a_run_that_learnt_nothing_is_named_wherever_it_is_used(cli: Cli, own_run: Run) -> None:
    path = own_run.path / "train/metrics.json"
    none = {"tp": 126, "fp": 30, "fn": 0, "tn": 0, "auroc": 0.51, "accuracy": 0.81}
    none |= {"balanced_accuracy": 0.5, "images": 156}
    write_json(path, json.loads(path.read_text()) | {f"test_{k}": v for k, v in none.items()})
    said = f"{own_run.name}: no better than always saying defective"
    used = ["--run", own_run.name, "threads=1"]
    Image.new("L", (40, 40), 90).save(cli.folder / "photo.png")
    alone = ["predict", "photo.png", *used, "--method", "gradcam", "--out", "found"]
    for call in (["runs"], ["evaluate", *used], ["report", own_run.name, "threads=1"],
                 ["train", *own_run.overrides], alone):  # fmt: skip
        result = cli(*call)
        assert result.exit_code == 0 and result.stderr.count(said) == 1, result.output
    page = (own_run.path / "report.html").read_text(encoding="utf-8")
    assert "The classifier is no better than always saying defective" in page
    assert "balanced accuracy" in page
    assert "balanced_accuracy" in cli.ok("train", *own_run.overrides)


def test_runs_can_be_listed_by_the_full_word(cli: Cli, own_run: Run) -> None:
    assert cli.ok("runs", "list") == cli.ok("runs")
    cli.ok("evaluate", "--run", own_run.name)
    assert cli.ok("runs", "list", own_run.name) == cli.ok("runs", own_run.name)
    shown = cli.ok("runs", "--help")
    assert "the word `list` can be omitted" in shown and "gather" in shown


def test_gathering_runs(cli: Cli, own_run: Run) -> None:
    cli.ok("train", *SYNTHETIC, "seed=1")
    (other,) = {p.name for p in own_run.outputs.glob("synthetic-*")} - {own_run.name}
    cli.ok("evaluate", "-m", "--run", f"{own_run.name},{other}", "--method", "gradcam,layercam")
    rows = table_on(cli.ok("runs", "gather", "outputs"))
    assert [(row["run"], row["method"]) for row in rows] == [
        (run, method) for run in sorted([own_run.name, other]) for method in ("gradcam", "layercam")
    ]
    table = pd.read_csv("outputs/results.csv")
    assert list(table)[: len(RESULTS)] == RESULTS
    parts = [pd.read_csv(own_run.outputs / run / "results.csv") for run in (own_run.name, other)]
    key = ["checkpoint", "cell", "tp", "fp", "iou"]
    expected = pd.concat(parts)[key].sort_values(key, ignore_index=True)
    pd.testing.assert_frame_equal(table[key].sort_values(key, ignore_index=True), expected)
    (own_run.path / "train/checkpoint.pt").unlink()
    result = cli("runs", "gather", "outputs")
    assert result.exit_code == 1 and len(table_on(result.stdout)) == 4
    assert result.stderr == (
        f"missing: the training of {own_run.name} is not finished; ltcam train --resume\n"
    )


def test_saved_maps_are_the_heatmaps(cli: Cli, ksdd_like: KsddLike) -> None:
    ksdd_like(size=(90, 70))
    cli.ok("train", *KSDD)
    maps = ["evaluate", "--method", "gradcam", "evaluation.save_maps=true", *KSDD]
    cli.ok("evaluate", "--method", "gradcam", *KSDD)
    cli.ok(*maps)  # the cell is there, and its maps are not
    cell = only(cli.folder, "outputs/ksdd-*/evaluate/gradcam-*")
    assert {path.stem for path in (cell / "maps").glob("*.npy")} == {"kos41_Part2", "kos42_Part2"}
    heatmap = np.load(cell / "maps" / "kos41_Part2.npy")
    assert (heatmap.dtype, heatmap.shape) == (np.float32, (90, 70))
    written = (cell / "metrics.json").stat().st_mtime_ns
    cli.ok(*maps)
    assert (cell / "metrics.json").stat().st_mtime_ns == written


# --- predict


@pytest.fixture
def unseen(cli: Cli) -> dict[str, tuple[int, int]]:
    """Images of all kinds in `photos`; their names and sizes."""
    random = np.random.default_rng(1)
    pixels = {
        "grey.png": random.integers(0, 256, (50, 70), dtype=np.uint8),
        "colour.jpg": random.integers(0, 256, (90, 40, 3), dtype=np.uint8),
        "deep.png": random.integers(0, 65536, (61, 60), dtype=np.uint16),
        "shift 1/a=b.bmp": random.integers(0, 256, (33, 120), dtype=np.uint8),
        "shift 1/NA.tif": random.integers(0, 65536, (40, 41), dtype=np.uint16),
    }
    for name, values in pixels.items():
        path = cli.folder / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(path)
    (cli.folder / "photos/notes.txt").write_text("no image")
    return {name.rsplit(".", 1)[0]: values.shape[:2] for name, values in pixels.items()}


def predicted(folder: Path) -> pd.DataFrame:
    table = pd.read_csv(folder / "scores.csv", keep_default_na=False)
    return table.sort_values("name", ignore_index=True)


def test_predict(cli: Cli, tiny_run: Run, unseen: dict[str, tuple[int, int]]) -> None:
    run = ["--run", tiny_run.path, "predict.gate=false", "--method", "ltlayercam"]
    shown = cli.ok("predict", "photos", *run, "--save-maps", "--out", "found")
    assert shown.startswith("5 images, ")
    out = cli.folder / "found"
    scores = predicted(out)
    assert list(scores["name"]) == sorted(unseen)
    assert list(scores) == [
        "name",
        "path",
        "probability",
        "predicted",
        "regions",
        "area",
        "content",
    ]
    regions = pd.read_csv(out / "regions.csv", keep_default_na=False)
    assert list(regions) == [
        "name", "region", "top", "left", "bottom", "right", "area", "length", "width", "score",
    ]  # fmt: skip
    for name, size in unseen.items():
        (score,) = scores[scores["name"] == name].to_dict("records")
        mask = np.asarray(Image.open(out / "masks" / f"{name}.png"))
        heatmap = np.load(out / "maps" / f"{name}.npy")
        assert mask.shape == heatmap.shape == size
        assert (mask.dtype, heatmap.dtype) == (np.uint8, np.float32)
        assert set(np.unique(mask)) <= {0, 255}
        assert (out / "overlays" / f"{name}.png").is_file()
        assert Path(score["path"]).is_file()
        own = regions[regions["name"] == name]
        assert score["area"] == (mask > 0).sum() == own["area"].sum()
        assert score["regions"] == len(own) > 0
        assert own["score"].is_monotonic_decreasing
        for region in own.to_dict("records"):
            box = np.s_[region["top"] : region["bottom"], region["left"] : region["right"]]
            assert mask[box].any()
            assert region["score"] <= heatmap[box].max()
            assert region["length"] * region["width"] == pytest.approx(region["area"])
    assert not half_written(cli.folder)


def test_predict_takes_images_and_paths_with_equals_signs(
    cli: Cli, tiny_run: Run, unseen: dict[str, tuple[int, int]]
) -> None:
    run = ["--run", tiny_run.path, "predict.overlays=false"]
    shown = cli.ok("predict", "photos/shift 1/a=b.bmp", "photos/deep.png", *run, "--out", "o=1 (é)")
    assert shown.startswith("2 images, ")
    assert set(predicted(cli.folder / "o=1 (é)")["name"]) == {"a=b", "deep"}
    assert not (cli.folder / "o=1 (é)/overlays").exists()


def test_predict_empties_masks_of_good_images(
    cli: Cli, own_run: Run, unseen: dict[str, tuple[int, int]]
) -> None:
    path = own_run.path / "train/checkpoint.pt"
    content = torch.load(path, weights_only=True)
    torch.save(content | {"threshold": 1.0}, path)
    shown = cli.ok("predict", "photos", "--run", own_run.name)
    assert shown.startswith("5 images, 0 called defective, 0 regions")
    out = only(own_run.path, "predict/*")
    assert not np.asarray(Image.open(out / "masks/grey.png")).any()
    assert predicted(out)["area"].sum() == 0


def test_predict_goes_on_where_it_stopped(
    cli: Cli,
    own_run: Run,
    unseen: dict[str, tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    args = ["predict", "photos", "--run", own_run.name, "predict.gate=false"]
    draw = overlay.draw_strip
    drawn: list[str] = []

    def interrupted(result: object, path: Path) -> None:
        if len(drawn) == 2:
            raise KeyboardInterrupt
        drawn.append(path.name)
        draw(result, path)

    monkeypatch.setattr("ltcam_cli.experiments.predict.draw_strip", interrupted)
    result = cli(*args, "--out", "broken")
    assert result.exit_code == 130
    assert len(predicted(Path("broken"))) == 2
    assert not half_written(cli.folder)

    def counted(result: object, path: Path) -> None:
        drawn.append(path.name)
        draw(result, path)

    monkeypatch.setattr("ltcam_cli.experiments.predict.draw_strip", counted)
    cli.ok(*args, "--out", "broken")
    assert sorted(drawn) == sorted(Path(f"{name}.png").name for name in unseen)
    cli.ok(*args, "--out", "whole")
    for table in ("scores.csv", "regions.csv"):
        broken, whole = (pd.read_csv(Path(out) / table) for out in ("broken", "whole"))
        pd.testing.assert_frame_equal(broken, whole, rtol=1e-4)  # other batches round otherwise

    drawn.clear()
    cli.ok(*args, "--out", "whole")
    assert drawn == []
    Image.new("L", (30, 30)).save("photos/new.png")
    Image.new("L", (35, 35)).save("photos/grey.png")  # another image of that name
    cli.ok(*args, "--out", "whole")
    assert sorted(drawn) == ["grey.png", "new.png"]
    assert Image.open("whole/masks/grey.png").size == (35, 35)
    assert len(predicted(Path("whole"))) == 6
    cli.ok(*args, "--out", "whole", "--save-maps")
    assert len(list(Path("whole/maps").rglob("*.npy"))) == 6


def test_predictions_never_mix(cli: Cli, own_run: Run, unseen: dict[str, tuple[int, int]]) -> None:
    Path("more").mkdir()
    Image.new("L", (40, 40), 100).save("more/grey.png")
    run = ["--run", own_run.name, "predict.overlays=false"]
    cli.ok("predict", "photos", *run)
    cli.ok("predict", "more", *run)
    assert len(list((own_run.path / "predict").iterdir())) == 2
    cli.ok("predict", "photos", *run, "--out", "found")
    cli.fault(
        "predict", "more", *run, "--out", "found", says=["another grey", "predict.out"], logs=True
    )
    cli.fault(
        "predict", "photos", *run, "--out", "found", "--method", "gradcam",
        says=["found", "another method", "predict.out"], logs=True,
    )  # fmt: skip
    cli.ok("predict", "photos", *run, "--out", "photos/found")
    assert cli.ok("predict", "photos", *run, "--out", "photos/found").startswith("5 images")


def test_predict_in_shards(cli: Cli, tiny_run: Run, unseen: dict[str, tuple[int, int]]) -> None:
    args = ["predict", "photos", "--run", tiny_run.path, "predict.gate=false"]
    cli.ok(*args, "--out", "whole")
    shown = cli.ok(*args, "--out", "found", "-m", "--shard", "1:3/3")
    rows = table_on(shown)
    assert [row["shard"] for row in rows] == ["1/3", "2/3", "3/3"]
    assert sum(int(row["images"]) for row in rows) == len(unseen)
    assert shown.endswith("join the shards with: ltcam runs gather found\n")
    shown = cli.ok("runs", "gather", "found")
    assert shown == "3 of 3 shards, 5 of their 5 images\nfound: scores.csv regions.csv\n"
    pd.testing.assert_frame_equal(
        predicted(Path("found")), predicted(Path("whole")), rtol=1e-4
    )  # other batches round otherwise
    masks = [sorted(p.relative_to(o) for p in Path(o).rglob("*.png")) for o in ("found", "whole")]
    assert masks[0] == masks[1] and len(masks[0]) == 10
    for name in ("scores.2of3.csv", "shard.2of3.json"):
        (cli.folder / "found" / name).unlink()
    Image.new("L", (30, 30)).save("photos/new.png")
    cli.ok(*args, "--out", "found", "predict.shard=1/3")
    result = cli("runs", "gather", "found")
    assert result.exit_code == 1
    assert result.stdout.startswith("2 of 3 shards, ")
    assert result.stderr == "missing: shard 2/3 has not begun; predict.shard=2/3\n"
    assert len(predicted(Path("found"))) < 5
    cli.ok(*args, "--out", "found", "-m", "predict.shard=2/3,3/3")
    assert cli.ok("runs", "gather", "found").startswith("3 of 3 shards, 6 of their 6 images")
    assert "new" in set(predicted(Path("found"))["name"])
    config = yaml.safe_load(Path("found/config.yaml").read_text())
    assert config["predict"]["shard"] is None


def test_a_shard_that_lacks_images(
    cli: Cli, tiny_run: Run, unseen: dict[str, tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(result: object, path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ltcam_cli.experiments.predict.draw_strip", draw)
    args = ["predict", "photos", "--run", tiny_run.path, "--out", "found", "--shard", "1/1"]
    assert cli(*args).exit_code == 130
    result = cli("runs", "gather", "found")
    assert result.exit_code == 1
    assert result.stdout.startswith("1 of 1 shards, 0 of their 5 images\n")
    names = ", ".join(sorted(unseen, key=lambda name: Path(f"{name}.x")))
    assert result.stderr == f"missing: shard 1/1 lacks 5 images ({names}); predict.shard=1/1\n"
    assert predicted(Path("found")).empty


def test_predict_counts_what_it_skips(
    cli: Cli, tiny_run: Run, unseen: dict[str, tuple[int, int]]
) -> None:
    Path("photos/bad.png").write_bytes(b"")
    run = ["predict", "photos", "--run", tiny_run.path, "--out", "found"]
    cli.fault(*run, says=["bad.png", "empty", "on_error=skip"], logs=True)
    result = cli(*run, "predict.on_error=skip")
    assert result.exit_code == 0
    assert "5 images" in result.stdout and "1 unreadable ones skipped" in result.stdout
    assert "skipped: " in result.stderr


# --- import


@pytest.mark.parametrize(("classes", "defect"), [(2, -1), (5, 0)])
def test_import(cli: Cli, unseen: dict[str, tuple[int, int]], classes: int, defect: int) -> None:
    torch.manual_seed(0)
    model = models.resnet18(num_classes=classes).eval()
    torch.save(model.state_dict(), "mine.pth")
    size = ["dataset.height=64", "dataset.width=64"]
    option = ["--target", defect] if defect >= 0 else []
    shown = cli.ok("import", "mine.pth", "--backbone", "resnet18", *option, *size, "--name", "mine")
    assert shown.startswith("outputs/mine\ntakes 64 x 64 pixels, 3 channels, mean 0.485, 0.456, ")
    assert f"; logit {defect % classes} of {classes} is the defect\n" in shown
    classifier = load_classifier("outputs/mine")
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(classifier.model(images), model(images), atol=1e-5)
    logits = torch.tensor([[0.0] * classes])
    assert classifier.probability(logits).item() == pytest.approx(1 / classes)

    cli.ok("evaluate", "--run", "mine", *SYNTHETIC[:5], "--method", "gradcam")
    assert pd.read_csv("outputs/mine/results.csv")["n_images"].tolist() == [3]
    predict = ["predict", "photos", "--run", "mine", "--method", "gradcam", "--save-maps",
               "predict.overlays=false"]  # fmt: skip
    cli.ok(*predict, "--out", "default")
    for index in (0, 1):
        cli.ok(*predict, f"method.target={index}", "--out", f"logit{index}")
    maps = {out: np.load(f"{out}/maps/grey.npy") for out in ("default", "logit0", "logit1")}
    aimed = defect % classes
    assert np.array_equal(maps["default"], maps[f"logit{aimed}"])
    assert not np.array_equal(maps["default"], maps[f"logit{1 - aimed}"])


def test_import_of_a_grey_model_takes_what_flags_say_and_asks_for_the_rest(cli: Cli) -> None:
    torch.manual_seed(0)
    model = models.resnet18(num_classes=2)
    model.conv1 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    torch.save(model.eval().state_dict(), "grey.pth")
    call = ["import", "grey.pth", "--backbone", "resnet18", "--name", "grey"]
    cli.fault(*call, says=["do not tell the size", "give --height PIXELS --width PIXELS"])
    cli.fault(*call, "--width", 64, says=["give --height PIXELS, as in its training"])
    size = ["--height", 96, "--width", 64]
    cli.fault(*call, *size, says=["takes 1 channel; give both --mean and --std"])
    cli.fault(*call, *size, "--channels", 3, says=["--channels 3: the weights of grey.pth take 1"])
    norm = ["--mean", 0.4, "--std"]
    cli.fault(*call, *size, *norm, "0", says=["--std 0: must be 1 number above 0"])
    cli.fault(*call, *size, *norm, "1,1", says=["--std 1,1: must be 1 number above 0"])
    cli.fault(*call, *size, "--mean", "nan", "--std", 1, says=["--mean nan: must be 1 number"])
    assert not Path("outputs/grey").exists()
    shown = cli.ok(*call, *size, *norm, 0.2, "--channels", 1, "--target", 0)
    assert "takes 96 x 64 pixels, 1 channel, mean 0.4, deviation 0.2; logit 0 of 2" in shown
    classifier = load_classifier("outputs/grey")
    images = torch.rand(2, 1, 96, 64)
    with torch.inference_mode():
        found = classifier.probability(classifier.model(classifier.prepare(images)))
        expected = model((images - 0.4) / 0.2).softmax(dim=1)[:, 0]
    assert torch.allclose(found, expected, atol=1e-5)


# --- data


def test_data_check(cli: Cli, ksdd_like: KsddLike) -> None:
    root = ksdd_like(folders=(1, 2, 26, 41))
    check = ["data", "check", "dataset.count=null"]
    shown = cli.ok(*check)
    assert "kos26 = kos01" in shown and "nothing contradicts itself" in shown
    assert table_on(shown) == [
        {"part": "train", "images": "9", "good": "6", "defective": "3", "items": "2"},
        {"part": "test", "images": "3", "good": "2", "defective": "1", "items": "1"},
    ]
    shown = cli.ok(*check, "dataset.split=tens", "dataset.fold=0")
    assert "dropped from training, since their item is tested: 3 (kos01)" in shown
    (root / "kos41/Part0.jpg").write_bytes((root / "kos02/Part1.jpg").read_bytes())
    result = cli(*check)
    assert result.exit_code == 1
    assert "equal images across train and test: kos02/Part1 = kos41/Part0" in result.stdout


@pytest.mark.real
def test_data_check_of_the_real_set(cli: Cli, real_ksdd: Path) -> None:
    shown = cli.ok("data", "check", f"dataset.root={real_ksdd}")
    rows = table_on(shown)
    assert [(row["good"], row["defective"]) for row in rows] == [("277", "42"), ("70", "10")]
    assert "47 physical items" in shown
    for pair in ("kos26 = kos01", "kos34 = kos27", "kos39 = kos38"):
        assert pair in shown
    assert "equal images within a part: kos01/Part0 = kos26/Part0" in shown


def test_data_synth_makes_a_folder_that_trains(cli: Cli) -> None:
    shown = cli.ok("data", "synth", "plates", *SYNTHETIC[1:5])
    assert "24 images" in shown and "dataset=folder dataset.root=plates" in shown
    folder = ["dataset=folder", "dataset.root=plates", "dataset.channels=1", *SYNTHETIC[3:]]
    shown = cli.ok("data", "check", *folder[:5])
    assert sum(int(row["images"]) for row in table_on(shown)) == 24
    (row,) = table_on(cli.ok("train", *folder))
    assert row["run"].startswith("plates-vgg16_slim-auto-s0-")
    cli.fault("data", "synth", "plates", says=["plates", "not an empty folder"])


def test_demo(cli: Cli) -> None:
    tiny = [arg for arg in SYNTHETIC[1:] if not arg.startswith("backbone")]
    shown = cli.ok("demo", *tiny, "--outputs", "my results")
    assert (cli.folder / "my results").is_dir() and not Path("outputs").exists()
    last = [line.strip() for line in shown.splitlines() if line.startswith("  ")]
    assert last and all(Path(line).is_file() for line in last)
    wide = Image.open(last[0]).size
    assert wide[0] > 4 * 64  # image, truth, heatmap, mask
    assert last[-1].endswith("gallery.png") and len(last) >= 3
    with Image.open(last[-1]) as gallery:
        assert gallery.size[0] > 800  # image, truth, five heatmaps, mask
    paper, chosen = shown[shown.index("| method") :].split("A student of")
    assert [row["method"] for row in table_on(paper)] == [
        "gradcam", "layercam", "ltgradcam", "ltlayercam",
    ]  # fmt: skip
    assert len(table_on(chosen)) == 1


# --- Ctrl-C


def test_ctrl_c(cli: Cli, own_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ltcam_cli.experiments.cell_pictures.draw_strip", interrupted)
    for multirun in ([], ["-m"]):
        result = cli("evaluate", *multirun, *SYNTHETIC)
        assert result.exit_code == 130
        assert result.stderr.splitlines()[-1] == "ltcam: interrupted; what was complete stays"
        assert "Traceback" not in result.stderr
    assert not (own_run.path / "results.csv").exists()
    assert not half_written(cli.folder)


def test_a_killed_training_goes_on_to_the_same_weights(cli: Cli) -> None:
    train = ["train", *SYNTHETIC, "trainer.epochs=40"]
    process = cli.start(*train, "outputs=killed", env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while not list(Path("killed").glob("*/train/last.pt")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)  # SIGINT and SIGHUP: test_reliability.py
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, stderr
    assert "Traceback" not in stdout + stderr
    assert stderr.endswith("ltcam: interrupted; what was complete stays; go on with --resume\n")
    run = only(Path("killed"), "*/train")
    assert not (run / "checkpoint.pt").exists()
    assert not half_written(cli.folder)
    assert table_on(cli.ok("runs", "--outputs", "killed"))[0]["trained"] == "unfinished"
    cli.fault(*train, "outputs=killed", says=["unfinished", "--resume", "--overwrite"])
    assert len(pd.read_csv(run / "history.csv")) < 40

    cli.ok(*train, "outputs=killed", "--resume")
    cli.ok(*train, "outputs=whole")
    killed, whole = (
        only(Path(outputs), "*/train/checkpoint.pt").read_bytes() for outputs in ("killed", "whole")
    )
    assert killed == whole  # to the last bit
    assert len(pd.read_csv(run / "history.csv")) == 40


def test_real_processes(cli: Cli, tiny_run: Run) -> None:
    process = cli.start("evaluate", "--run", tiny_run.path, "--method", "nope")
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (2, "")
    assert stderr.startswith("ltcam: method=nope: no such config") and stderr.count("\n") == 1
    Image.new("L", (40, 30), 120).save("one.png")
    process = cli.start("predict", "one.png", "--run", tiny_run.path, "--out", "found")
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert stdout.startswith("1 images")
    assert Image.open("found/masks/one.png").size == (40, 30)
