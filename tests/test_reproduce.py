"""`ltcam reproduce` from nothing to tables and figures, killed and gone on with, over folds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import KSDD, SYNTHETIC, Cli, KsddLike, Run, half_written
from PIL import Image
from torchvision.models.vgg import cfgs, make_layers

from ltcam_cli.experiments import cells
from ltcam_cli.experiments.reproduce import run as reproduction
from ltcam_cli.experiments.reproduce.entries import entry_text
from ltcam_cli.report.paper import SCORES, printed_numbers

MINE = """\
# @package _global_
# Two methods. ltcam reproduce mine
reproduce:
  paper: table1
  title: Mine, 100 %
  pictures: 2
  entries:
    - {method: gradcam}
    - {method: ltlayercam, method.delta: 50, method.layers: s3+s5}
    - {method: gradcam}  # once more, by mistake
"""
GIVEN = "reproduce.entries=[{method: "
COUNTS = ["tp", "fp", "fn", "tn", "n_images"]


@pytest.fixture
def mine(cli: Cli) -> str:
    """An experiment of one's own, in ./conf."""
    Path("conf/experiment").mkdir(parents=True)
    Path("conf/experiment/mine.yaml").write_text(MINE, encoding="utf-8")
    return "mine"


class Calls:
    """Counts trainings and cells that are computed; interrupts before one of the passes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kill_at: int | None = None) -> None:
        self.trained, self.passes, self.cells = 0, 0, 0
        train, evaluate = reproduction.train_classifier, cells.evaluate

        def trained(settings: Any) -> Any:
            self.trained += 1
            return train(settings)

        def evaluated(classifier: Any, source: Any, *args: Any, **options: Any) -> Any:
            self.passes += 1
            if self.passes == kill_at:
                raise KeyboardInterrupt
            self.cells += len(source.specs)
            return evaluate(classifier, source, *args, **options)

        monkeypatch.setattr(reproduction, "train_classifier", trained)
        monkeypatch.setattr(cells, "evaluate", evaluated)


def folder_of(what: str) -> Path:
    [folder] = Path("outputs/reproduce").glob(f"{what}-*")
    return folder


def results() -> pd.DataFrame:
    return pd.concat([pd.read_csv(path) for path in Path("outputs").glob("*/results.csv")])


def check_scores(runs: pd.DataFrame) -> None:
    """Each run's row is its cell's row in the results, and its scores are those of its pixels."""
    both = runs.merge(results(), on="cell", suffixes=("", "_cell"), validate="one_to_one")
    assert len(both) == len(runs)
    for column in (*SCORES, *COUNTS):
        pd.testing.assert_series_equal(
            both[column], both[f"{column}_cell"], check_names=False, check_dtype=False
        )
    iou = 100 * runs["tp"] / (runs["tp"] + runs["fp"] + runs["fn"])
    np.testing.assert_allclose(runs["iou"], iou)


def test_table1_from_nothing(
    cli: Cli, ksdd_like: KsddLike, monkeypatch: pytest.MonkeyPatch
) -> None:
    ksdd_like()
    calls = Calls(monkeypatch)
    output = cli.ok("reproduce", "table1", *KSDD)
    assert (calls.trained, calls.passes, calls.cells) == (1, 1, 8)
    folder = folder_of("table1")
    assert {path.name for path in folder.iterdir()} == {
        "config.yaml", "identity.json", "table1.csv", "table1.md", "table1.tex", "table1-runs.csv",
        "table1-maps.png",
    }  # fmt: skip
    table, runs = (pd.read_csv(folder / name) for name in ("table1.csv", "table1-runs.csv"))
    check_scores(runs)
    paper = printed_numbers()
    paper = paper[paper["table"] == "table1"].reset_index(drop=True)
    assert table["method"].tolist() == paper["method"].tolist()
    for score in SCORES:
        np.testing.assert_allclose(table[score], runs[score])
        np.testing.assert_allclose(table[f"paper_{score}"], paper[score])
        np.testing.assert_allclose(table[f"difference_{score}"], runs[score] - paper[score])
    page = (folder / "table1.md").read_text(encoding="utf-8")
    assert r"18.97\*" in page and "cannot be right" in page and "split paper" in page
    assert r"vgg16\_slim" in (folder / "table1.tex").read_text(encoding="utf-8")
    assert "ltcam report" in output and str(folder) in output
    assert not half_written(cli.folder)

    again = cli.ok("reproduce", "table1", *KSDD)
    assert (calls.trained, calls.passes) == (1, 1)
    assert again == output
    cli.ok("reproduce", "table1", *KSDD, "--overwrite")
    assert (calls.trained, calls.cells) == (1, 16)


def test_a_killed_reproduction_goes_on(
    cli: Cli, mine: str, ksdd_like: KsddLike, monkeypatch: pytest.MonkeyPatch
) -> None:
    ksdd_like((1, 2, 11, 12, 21, 26), parts=2)
    args = ["reproduce", mine, *KSDD, "--folds", "0,1,2,1", "--seeds", "0,1,0"]
    with monkeypatch.context() as patch:
        calls = Calls(patch, kill_at=3)
        assert cli(*args).exit_code == 130
    assert (calls.trained, calls.cells) == (3, 4)
    folder = folder_of(mine)
    assert len(pd.read_csv(folder / "mine-runs.csv")) == 4  # what it had
    calls = Calls(monkeypatch)
    cli.ok(*args)
    assert (calls.trained, calls.cells) == (3, 8)

    runs, table = (pd.read_csv(folder / name) for name in ("mine-runs.csv", "mine.csv"))
    check_scores(runs)
    assert runs.groupby(["seed", "fold"]).size().to_dict() == {
        (seed, fold): 2 for seed in (0, 1) for fold in (0, 1, 2)
    }
    for row in table.to_dict("records"):
        of_method = runs[runs["entry"] == row["entry"]]
        assert row["runs"] == 6
        assert row["iou"] == pytest.approx(of_method["iou"].mean())
        assert row["iou_std"] == pytest.approx(of_method["iou"].std())
        pooled = of_method[["tp", "fp", "fn"]].sum()
        assert row["pooled_iou"] == pytest.approx(100 * pooled["tp"] / pooled.sum())
        held_out = of_method[of_method["fold"] == 1]
        assert row["held_out_iou"] == pytest.approx(held_out["iou"].mean())
    assert table["layers"].tolist() == ["last", "s3+s5"]
    page = (folder / "mine.md").read_text(encoding="utf-8")
    assert "Fold 0: 2 training images of items that are tested were dropped (kos01)." in page
    assert "Fold 2" in page and "Fold 1:" not in page  # kos26 is tested in fold 2, kos01 trained
    assert "The paper's numbers are of its own split" in page and "Held out" in page
    assert (folder / "mine-maps.png").is_file()


def test_an_unfinished_training_goes_on(
    cli: Cli, mine: str, ksdd_like: KsddLike, monkeypatch: pytest.MonkeyPatch
) -> None:
    ksdd_like()
    options = [*(a for a in KSDD if "epochs" not in a), "trainer.epochs=2"]
    save = torch.save

    def killed(state: Any, path: Any) -> None:
        if isinstance(state, dict) and len(state.get("history", ())) == 2:
            raise KeyboardInterrupt
        save(state, path)

    with monkeypatch.context() as patch:
        patch.setattr("ltcam_cli.classifier.train.torch.save", killed)
        assert cli("reproduce", mine, *options).exit_code == 130
    [run] = Path("outputs").glob("ksdd-*")
    cli.ok("reproduce", mine, *options)
    assert "resumed after epoch" in (run / "train/train.log").read_text(encoding="utf-8")
    assert (folder_of(mine) / "mine.csv").is_file()


def test_runs_that_exist_are_reused(
    cli: Cli, mine: str, own_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(monkeypatch)
    cli.ok("reproduce", mine, *SYNTHETIC, "name=report")
    cli.ok("reproduce", mine, "--run", own_run.name, "threads=1", "reproduce.pictures=0")
    assert calls.trained == 0 and calls.cells == 2
    page = Path("outputs/reproduce/mine-report/mine.md").read_text(encoding="utf-8")
    assert "paper" not in page.split("\n\n")[1]  # no printed numbers for the synthetic set


def test_presets_bring_their_segmenters_and_teach_a_student(
    cli: Cli, ksdd_like: KsddLike, monkeypatch: pytest.MonkeyPatch
) -> None:
    ksdd_like()
    short = "student.steps=2 student.batch_size=4 student.network.width=8".split()
    args = ["reproduce", "presets", *KSDD, *short, "reproduce.pictures=2"]
    output = cli.ok(*args)
    folder = folder_of("presets")
    runs = pd.read_csv(folder / "presets-runs.csv")
    check_scores(runs)
    listed = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    assert runs["entry"].tolist() == [entry_text(keys) for keys in listed["reproduce"]["entries"]]
    each = list(zip(runs["method"], runs["segmenter"], runs["tta"].fillna(""), strict=True))
    assert each == [
        ("ltgradcam", "otsu", ""),
        ("ltgradcam_product", "fraction", "flips=both"),
        ("ltgradcam_product", "contrast", "flips=both"),
        ("ltgradcam_product", "contrast", "flips=both"),
        ("student", "fixed", "flips=both"),
        ("student", "contrast", "flips=both"),
    ]
    page = (folder / "presets.md").read_text(encoding="utf-8")
    assert "segmenter.refine.options.polarity=both" in page and "contrast" in page
    assert (folder / "presets-maps.png").is_file()

    monkeypatch.setattr(cells, "evaluate", None)  # nothing is computed again
    assert cli.ok(*args) == output
    [run] = runs["run"].unique()
    cli.ok("student", "train", "--run", run, *short, "--pipeline", "ltcam_plus")  # this one
    cli.ok("evaluate", "--run", run, "--pipeline", "best", "threads=1", "device=cpu")
    assert len(list(Path("outputs").glob("*/student/*/checkpoint.pt"))) == 1


def write_ksdd2(root: Path) -> None:
    """A small tree in the layout of KolektorSDD2, every third image defective."""
    random = np.random.default_rng(0)
    for part, count in (("train", 9), ("test", 6)):
        (root / part).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(90, 160, (70, 40, 3), dtype=np.uint8)
            mask = np.zeros((70, 40), dtype=np.uint8)
            if number % 3 == 0:
                mask[20:40, 10:14] = 255
                pixels[mask > 0] -= 60
            Image.fromarray(pixels).save(root / part / f"{10000 + number}.png")
            Image.fromarray(mask).save(root / part / f"{10000 + number}_GT.png")


def test_table2_and_table3_on_the_layout_of_ksdd2(cli: Cli) -> None:
    write_ksdd2(cli.folder / "data/KolektorSDD2")
    cli.ok("reproduce", "table2", *KSDD, "reproduce.pictures=1")
    table = pd.read_csv(folder_of("table2") / "table2.csv")
    paper = printed_numbers()
    np.testing.assert_allclose(table["paper_f1"], paper.loc[paper["table"] == "table2", "f1"])
    assert table.loc[table["method"] == "ltgradcam", "delta"].tolist() == [0.0]
    check_scores(pd.read_csv(folder_of("table2") / "table2-runs.csv"))

    cli.ok("reproduce", "table3", "dataset=ksdd2", *KSDD, "evaluation.deltas=[0,90]")
    table = pd.read_csv(folder_of("table3") / "table3.csv")
    assert table["paper_iou"].tolist() == [37.95, 39.38]
    assert table["supervision"].tolist() == ["image", "pixel"]
    text = (folder_of("table3") / "table3.md").read_text(encoding="utf-8")
    assert f"{table['delta'][1]:g} (auto)" in text and "cannot be right" not in text
    cells = results()
    on_train = cells[(cells["split"] == "given/train") & (cells["method"] == "ltfullgrad")]
    best = on_train.sort_values(["iou", "delta"], ascending=[False, True])["delta"].iloc[0]
    assert len(on_train) == 2 and table["delta"][1] == best


def test_curves_and_stages(cli: Cli, own_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    args = [
        "--run",
        own_run.name,
        "threads=1",
        "evaluation.deltas=[0,90,90]",
        "reproduce.pictures=2",
    ]
    calls = Calls(monkeypatch)
    for number, part in ((8, "train"), (9, "test")):
        what = f"figure{number}"
        cli.ok("reproduce", what, *args)
        folder = folder_of(what)
        assert (folder / f"{what}.png").is_file() and not list(folder.glob("*-maps.png"))
        table = pd.read_csv(folder / f"{what}.csv")
        assert table.groupby("method", sort=False)["delta"].apply(list).to_dict() == {
            name: [0.0, 90.0] for name in ("ltgradcam", "ltfullgrad", "ltlayercam")
        }
        runs = pd.read_csv(folder / f"{what}-runs.csv")
        assert set(runs["split"]) == {"fraction/train" if part == "train" else "fraction"}
        check_scores(runs)
    assert (calls.passes, calls.cells) == (2, 12)
    cli.ok("reproduce", "stages", *args)
    folder = folder_of("stages")
    assert {path.name for path in folder.glob("*.png")} == {
        "stages-gradcam.png", "stages-fullgrad.png",
    }  # fmt: skip
    table = pd.read_csv(folder / "stages.csv")
    assert len(table) == 4 * 6 and calls.passes == 3
    assert table["layers"].tolist()[:6] == ["s1", "s2", "s3", "s4", "s5", "last"]


# --- experiments


def test_paper_is_the_papers_setting(cli: Cli) -> None:
    config = yaml.safe_load(cli.ok("config", "evaluate", "experiment=paper"))
    train = yaml.safe_load(cli.ok("config", "train", "experiment=paper"))
    assert train["backbone"] == config["backbone"] and "segmenter" not in train
    assert config["backbone"] == {
        "name": "vgg16", "head": "fc", "logits": 2, "hidden": 4096, "dropout": 0.5,
        "weights": "DEFAULT", "standardize": False, "freeze_bn": False, "model": None,
        "window": 7,
    }  # fmt: skip
    assert config["dataset"]["split"] == "paper" and config["segmenter"]["rule"] == "otsu"
    assert (config["method"]["weighting"], config["method"]["delta"]) == ("gradcam", 50)
    both = yaml.safe_load(cli.ok("config", "reproduce", "experiment=[table1,paper]"))
    assert both["backbone"] == config["backbone"] and len(both["reproduce"]["entries"]) == 8
    other = yaml.safe_load(cli.ok("config", "reproduce", "experiment=[table2,paper]"))
    assert (other["dataset"]["kind"], other["backbone"]["logits"]) == ("ksdd2", 2)


@pytest.mark.slow
def test_paper_from_weights_in_a_file(cli: Cli, mine: str, ksdd_like: KsddLike) -> None:
    ksdd_like((1, 2, 41), parts=2)
    torch.manual_seed(0)
    features = make_layers(cfgs["D"])
    torch.save(features.state_dict(), "vgg16.pth")
    small = [a for a in KSDD if not a.startswith("backbone")]
    cli.ok(
        "reproduce", mine, "experiment=paper", "backbone.weights=vgg16.pth", "backbone.hidden=8",
        "trainer.lr=1e-9", "trainer.weight_decay=0", *small,
    )  # fmt: skip
    [run] = Path("outputs").glob("ksdd-vgg16-*")
    held = torch.load(run / "train/checkpoint.pt", weights_only=True)
    assert held["backbone"]["logits"] == 2 and held["in_channels"] == 3
    for key, value in features.state_dict().items():
        torch.testing.assert_close(held["state_dict"][f"features.{key}"], value, atol=1e-5, rtol=0)
    table = pd.read_csv(folder_of(mine) / "mine.csv")
    assert table["layers"].tolist() == ["last", "s3+s5"]  # each method's own, not the experiment's
    assert np.isnan(table["delta"][0]) and table["delta"][1] == 50


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["tabel1"], ["tabel1", "did you mean 'table1'?"]),
        (["demo"], ["experiment=demo", "reproduce.entries"]),
        (["table1", "--folds", "0"], ["--folds 0", "dataset=synthetic", "has no folds"]),
        (["table1", "--seeds", "0,x"], ["--seeds 0,x", "numbers"]),
        (["table1", "--run", "r", "--seeds", "0,1"], ["run=r", "--seeds"]),
        (["table1", f"{GIVEN}gradcm}}]"], ["gradcm", "did you mean 'gradcam'?"]),
        (
            ["table1", f"{GIVEN}gradcam, method.detla: 3}}]"],
            ["method.detla", "did you mean 'delta'"],
        ),
        (["table1", f"{GIVEN}scorecam, method.delta: 3}}]"], ["method.delta=3", "delta=null"]),
        (["table1", "reproduce.kind=tables"], ["reproduce.kind=tables", "'table'"]),
    ],
)
def test_faults(cli: Cli, args: list[str], says: list[str]) -> None:
    what, *others = args
    cli.fault("reproduce", what, *SYNTHETIC, *others, says=says)
    cli.fault("reproduce", "table1", "--folds", "one", says=["--folds one", "all", "numbers"])
    assert not Path("outputs/reproduce").exists()
