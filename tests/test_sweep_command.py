"""`ltcam sweep`: a grid in one pass is what single evaluations give."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Cli, Run

from ltcam_cli.experiments.sweep import mark_chosen

SCORES = ["iou", "precision", "recall", "f1", "pixel_ap", "aupro", "oracle_iou", "mean_iou"]
COUNTS = ["tp", "fp", "fn", "tn", "n_images"]
GRID = ["--method", "ltgradcam,ltlayercam,gradcam,ltfullgrad,gradcam", "--delta", "0:90:45,45"]


def swept(run: Run, part: str = "test") -> pd.DataFrame:
    paths = [p for p in (run.outputs / run.name / "sweep").iterdir() if (p / "sweep.csv").is_file()]
    tables = [pd.read_csv(path / "sweep.csv") for path in paths]
    return next(table for table in tables if part in set(table["part"]))


def test_a_grid_is_what_single_evaluations_give(cli: Cli, own_run: Run) -> None:
    shown = cli.ok("sweep", *GRID, "--layers", "all,s3+s5,all", *own_run.overrides)
    table = swept(own_run)
    # What is given twice is one cell.
    assert len(table) == 4 * 3 * 2 and "24 cells: loop" in shown
    results = pd.read_csv(own_run.outputs / own_run.name / "results.csv")
    assert set(table["cell"]) <= set(results["cell"])
    assert not table["chosen"].any()
    for delta in (0, 45):
        args = ["--method", "ltlayercam", "--delta", delta, "--layers", "s3+s5"]
        cli.ok("evaluate", *args, "--overwrite", *own_run.overrides)
    alone = pd.read_csv(own_run.outputs / own_run.name / "results.csv")
    alone = alone[(alone["method"] == "ltlayercam") & (alone["layers"] == "s3+s5")]
    both = table.merge(alone, on="cell", suffixes=("", "_alone"))
    assert len(both) == 3  # the same cells: 0 and 0.0 are one
    for column in COUNTS:
        assert (both[column] - both[f"{column}_alone"]).abs().max() <= 1, column
    for column in SCORES:
        pd.testing.assert_series_equal(
            both[column], both[f"{column}_alone"], check_names=False, rtol=1e-3
        )


def test_training_chooses_the_row(cli: Cli, own_run: Run) -> None:
    cli.ok("sweep", "--method", "ltgradcam,scorecam", "--delta", "null,50", "--split", "both",
           *own_run.overrides)  # fmt: skip
    table = swept(own_run, "train")
    train, test = (table[table["part"] == part] for part in ("train", "test"))
    assert len(train) == len(test) == 3  # scorecam has no delta to sweep
    best = train.loc[train["iou"].idxmax()]
    for part in (train, test):
        [chosen] = part[part["chosen"]].to_dict("records")
        assert (chosen["method"], chosen["layers"]) == (best["method"], best["layers"])
        assert chosen["supervision"] == "pixel"
    [folder] = {path.parent for path in Path("outputs").glob("*/sweep/*/delta_curve.png")}
    assert {path.name for path in folder.iterdir()} == {
        "sweep.csv", "sweep.md", "config.yaml", "identity.json", "delta_curve.png"
    }  # fmt: skip


def test_the_best_of_a_test_part_is_never_chosen() -> None:
    values = [("train", 0.0, 3.0), ("train", 50.0, 2.0), ("test", 0.0, 1.0), ("test", 50.0, 9.0)]
    same = {"method": "m", "layers": "all", "supervision": "image"}
    rows = [{**same, "part": part, "delta": delta, "iou": iou} for part, delta, iou in values]
    marked = mark_chosen(pd.DataFrame(rows))
    assert marked["chosen"].tolist() == [True, False, True, False]
    only_test = mark_chosen(pd.DataFrame(rows[2:]))
    assert not only_test["chosen"].any() and set(only_test["supervision"]) == {"image"}
    free = pd.DataFrame(rows).assign(iou=np.nan, evidence=[0.1, 0.4, 0.9, 0.2])
    by_evidence = mark_chosen(free)
    assert by_evidence["chosen"].tolist() == [False, True, False, True]
    assert set(by_evidence["supervision"]) == {"image"}


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--method", "ltgradcm"], ["ltgradcm", "ltgradcam"]),
        (["--delta", "0,120"], ["120", "0..100"]),
        (["--delta", "0,much"], ["much", "number"]),
        (["--split", "tset"], ["tset", "both"]),
    ],
)
def test_faults(cli: Cli, own_run: Run, args: list[str], says: list[str]) -> None:
    cli.fault("sweep", *args, *own_run.overrides, says=says)
    assert not (own_run.outputs / own_run.name / "sweep").exists()
