"""`ltcam search`: what is chosen, by what, and what is never looked at before."""

from __future__ import annotations

import shlex
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import Cli, Run
from toys import tiny_classifier, toy, toys

from ltcam_cli.data.sample import Sample
from ltcam_cli.data.split import Split
from ltcam_cli.errors import LtcamError
from ltcam_cli.experiments.config import SearchConfig
from ltcam_cli.experiments.search import fold_ious, folds_of, held_out
from ltcam_cli.experiments.session import Session
from ltcam_cli.experiments.settings import Settings
from ltcam_cli.maps.engine import CamEngine
from ltcam_cli.maps.spec import MapSpec
from ltcam_cli.masks.segmenters import Segmenter, SegmenterConfig
from ltcam_cli.runs.folder import RunFolder
from ltcam_cli.runs.masking import Loading, MaskJob
from ltcam_cli.runs.scoring import evaluate
from ltcam_cli.scores.pixels import pooled

SMALL = [
    "search.methods=[{method:ltgradcam},{method:ltlayercam,method.delta:auto,method.layers:s3+s4}]",
    "evaluation.deltas=[0,90]",
    "search.fusions=[{rule:sum},{rule:product,normalize:minmax}]",
    "search.segmenters=[{segmenter:otsu},"
    "{segmenter:fraction,segmenter.options.of_maximum:0.5},{segmenter:contrast}]",
    "search.folds=2",
]
OTSU = "search.segmenters=[{segmenter:otsu}]"


# --- folds


def test_items_stay_together_and_folds_are_even() -> None:
    groups = [f"item{number}" for number in range(7)] * 3
    fold = folds_of(groups, 3)
    assert set(fold) == set(groups)
    assert sorted(list(fold.values()).count(n) for n in range(3)) == [2, 2, 3]
    assert fold == folds_of(groups[::-1], 3)
    assert len(set(folds_of(["a", "b"], 5).values())) == 2


def session_of_folds(folds: int) -> Session:
    """Of a tiny classifier, without a run."""
    session = Session(replace(Settings(), search=SearchConfig(folds=folds)), RunFolder(Path("run")))
    session.classifier = tiny_classifier()
    return session


def test_fold_ious_are_pooled_over_their_items() -> None:
    session = session_of_folds(2)
    samples = [toy(n, 1, group=f"item{n % 3}") for n in range(7)]
    specs = [MapSpec("layercam", ("all",), delta) for delta in (0.0, 90.0)]
    source = CamEngine(session.classifier.model, specs)
    jobs = [MaskJob(number, Segmenter(SegmenterConfig())) for number in range(2)]
    found = fold_ious(session, source, jobs, samples)
    fold = folds_of([sample.group for sample in samples], 2)
    scores, _ = evaluate(session.classifier, source, jobs, samples, Loading())
    assert found.shape == (2, 2)
    for job, scored in enumerate(scores):
        for number in range(2):
            counts = [
                c for c, g in zip(scored.counts, scored.groups, strict=True) if fold[g] == number
            ]
            expected = 100 * pooled(counts).iou
            assert found.loc[job, f"iou_fold{number}"] == pytest.approx(expected)


def test_held_out_is_scored_where_it_was_not_chosen() -> None:
    # b is the best without fold 0, a without fold 1, c without fold 2
    ious = pd.DataFrame({"0": [9.0, 1.0, 8.0], "1": [0.0, 6.0, 5.0], "2": [7.0, 9.0, 2.0]},
                        index=["a", "b", "c"])  # fmt: skip
    assert held_out(ious) == pytest.approx((1.0 + 0.0 + 2.0) / 3)
    assert held_out(ious) < ious.mean(axis=1).max()
    assert np.isnan(held_out(ious * np.nan))


# --- the command


def watched(monkeypatch: pytest.MonkeyPatch, run: Run, *, masks: bool) -> list[str]:
    """The names of the training masks that are read; the test part is not to be had too early."""
    read: list[str] = []

    def spied(sample: Sample) -> Sample:
        def spy() -> np.ndarray | None:
            assert masks, f"the mask of {sample.name} was read"
            read.append(sample.name)
            return sample.mask

        return replace(sample, read_mask=spy)

    def train(self: Split) -> list[Sample]:
        return [spied(sample) for sample in self.listed_train]

    def test(self: Split) -> list[Sample]:
        assert list(run.path.glob("search/*/search.csv")), "the test part, before the choice"
        return self.listed_test

    for name, part in {"train": train, "test": test}.items():
        spying: Any = cached_property(part)
        spying.__set_name__(Split, name)
        monkeypatch.setattr(Split, name, spying)
    return read


@pytest.mark.parametrize("supervision", ["image", "pixel"])
def test_the_best_of_training_is_scored_once(
    cli: Cli, own_run: Run, monkeypatch: pytest.MonkeyPatch, supervision: str
) -> None:
    by = [
        *SMALL,
        f"evaluation.supervision={supervision}",
        "tta.flips=horizontal",
        *own_run.overrides,
    ]
    with monkeypatch.context() as patch:
        read = watched(patch, own_run, masks=supervision == "pixel")
        shown = cli.ok("search", *by)
    assert bool(read) == (supervision == "pixel")
    [folder] = own_run.path.glob("search/*")
    assert folder.name.startswith(f"{supervision}-")
    assert {path.name for path in folder.iterdir()} == {
        "search.csv", "search.md", "config.yaml", "identity.json"
    }  # fmt: skip
    table = pd.read_csv(folder / "search.csv")
    assert len(table) == (1 + 2) * 2 * 3 and set(table["supervision"]) == {supervision}
    assert not table.duplicated(["method", "delta", "layers", "fusion", "segmenter"]).any()
    assert set(table.loc[table["method"] == "ltlayercam", "layers"]) == {"s3+s4"}
    assert table["criterion"].nunique() > 3
    assert table["chosen"].tolist() == (table.index == table["criterion"].idxmax()).tolist()
    folds = table.filter(regex="^iou_fold")
    if supervision == "pixel":
        np.testing.assert_allclose(folds.mean(axis=1), table["criterion"])
        assert f"{held_out(folds):.2f}" in shown
    else:
        assert folds.empty and "no mask was read" in shown
    best = table[table["chosen"]].iloc[0]

    results = pd.read_csv(own_run.path / "results.csv")
    [row] = results.to_dict("records")  # nothing but the chosen one was ever evaluated
    same = ["method", "delta", "layers", "fusion", "normalize", "supervision"]
    assert [row[key] for key in same] == [best[key] for key in same]
    assert row["split"] == "fraction" and row["tta"] == "flips=horizontal"
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["segmenter"]["name"] == best["segmenter"].split()[0]
    assert config["segmenter"]["refine"]["rule"] == best["refine"]

    command = shlex.split(config["command"])
    assert shlex.join(command) in shown and command[:2] == ["ltcam", "evaluate"]
    cli.ok(*command[1:])
    pd.testing.assert_frame_equal(pd.read_csv(own_run.path / "results.csv"), results)

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("searched again")

    monkeypatch.setattr("ltcam_cli.experiments.search.criteria", never)
    assert cli.ok("search", *by) == shown


def test_a_grid_of_the_command_line(cli: Cli, own_run: Run) -> None:
    grid = [
        "--method",
        "ltgradcam,gradcam,ltgradcam_product",
        "--delta",
        "null,50",
        "--layers",
        "all,s5",
    ]
    cli.ok("search", *grid, "search.fusions=[]", OTSU, *own_run.overrides)
    [path] = own_run.path.glob("search/*/search.csv")
    table = pd.read_csv(path)
    assert len(table) == 3 * 2 * 2
    assert set(table.loc[table["method"] == "ltgradcam_product", "fusion"]) == {"product"}
    results = pd.read_csv(own_run.path / "results.csv")
    assert results["tta"].isna().all() and set(results["segmenter"]) == {"otsu"}
    command = yaml.safe_load(path.with_name("config.yaml").read_text())["command"]
    cli.ok(*shlex.split(command)[1:])
    pd.testing.assert_frame_equal(pd.read_csv(own_run.path / "results.csv"), results)


def test_the_two_modes_share_no_table(cli: Cli, own_run: Run) -> None:
    one = ["search.methods=[{method:gradcam}]", "search.fusions=[]",
           "search.segmenters=[{segmenter:otsu},{segmenter:li}]"]  # fmt: skip
    for supervision in ("image", "pixel"):
        cli.ok("search", *one, f"evaluation.supervision={supervision}", *own_run.overrides)
    tables = [pd.read_csv(path) for path in own_run.path.glob("search/*/search.csv")]
    assert sorted(set(table["supervision"]).pop() for table in tables) == ["image", "pixel"]
    assert all(table["supervision"].nunique() == 1 for table in tables)
    results = pd.read_csv(own_run.path / "results.csv")
    assert results["cell"].is_unique and set(results["supervision"]) == {"image", "pixel"}


def test_folds_need_two_items() -> None:
    with pytest.raises(LtcamError, match="folds need two"):
        folds_of(["one"] * 3, 2)
    assert len(folds_of([sample.group for sample in toys(6)], 5)) == 6


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--method", "ltgradcm"], ["ltgradcm", "ltgradcam"]),
        (["--delta", "0,120"], ["120", "0..100"]),
        (["--layers", "s9"], ["s9"]),
        (["search.segmenters=[{segmenter:otzu}]"], ["otzu", "otsu"]),
        (["search.segmenters=[{segmenter:fraction,segmenter.options.of_max:1}]"], ["of_max"]),
        (["search.segmenters=[]"], ["search.segmenters=[]", "at least 1"]),
        (["search.methods=[gradcam]"], ["search.methods", "mapping"]),
        (["search.methods=[{delta:auto}]"], ["search.methods", "delta"]),
        (["search.fusions=[{rule:prodct}]"], ["prodct", "product"]),
        (["search.folds=1"], ["search.folds=1", "at least 2"]),
        (["segmenter=li"], ["segmenter: ", "search.segmenters"]),
        (["evaluation.split=train"], ["evaluation.split=train", "test"]),
        (["evaluation.supervision=pixels"], ["evaluation.supervision=pixels", "'pixel'"]),
    ],
)
def test_faults(cli: Cli, own_run: Run, args: list[str], says: list[str]) -> None:
    cli.fault("search", *args, *own_run.overrides, says=says)
    assert not Path(own_run.path / "search").exists()
