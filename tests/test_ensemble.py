"""Several classifiers as one: maps and log-odds averaged."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import Cli, Run
from toys import SLIM, tiny_classifier

from ltcam_cli.classifier.checkpoint import Classifier, load_classifier
from ltcam_cli.maps.engine import CamEngine, Heatmaps
from ltcam_cli.maps.ensemble import Ensemble
from ltcam_cli.maps.spec import MapSpec

SPECS = [MapSpec("layercam", ("all",)), MapSpec("gradcam")]


def classifiers(logits: int) -> list[Classifier]:
    """Three of other weights; the last with a normalisation of its own, the second with a prior."""
    made = [tiny_classifier(replace(SLIM, logits=count)) for count in (logits, 1, 2)]
    for number, classifier in enumerate(made):
        torch.manual_seed(number)
        for p in classifier.model.parameters():
            p.data += 0.01 * torch.randn_like(p) * p.abs().mean()
    made[1].prior_shift = -2.0
    made[0].prior_shift = 0.5
    made[2].mean, made[2].std = (0.4,), (0.3,)
    return made


@pytest.mark.parametrize("logits", [1, 2, 3])
def test_the_mean_written_out(logits: int) -> None:
    made = classifiers(logits)
    images = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(5))
    members = [(each, CamEngine(each.model, SPECS)) for each in made]
    found = Ensemble(members)(made[0].prepare(images))
    odds = np.zeros(3)
    maps = [np.zeros((3, 32, 32)) for _ in SPECS]
    for classifier, source in members:
        alone = source(classifier.prepare(images))
        p = classifier.probability(alone.logits.double()).numpy()
        odds += np.log(p / (1 - p)) / 3
        for total, M in zip(maps, alone.maps, strict=True):
            for image in range(3):
                peak = float(M[image].max())
                total[image] += M[image].double().numpy() / peak / 3 if peak > 0 else 0
    for M, total in zip(found.maps, maps, strict=True):
        np.testing.assert_allclose(M, total, atol=1e-4)
    p = made[0].probability(found.logits.double()).numpy()
    np.testing.assert_allclose(p, 1 / (1 + np.exp(-odds)), rtol=1e-4)


def test_maps_that_say_nothing_count_as_zeros() -> None:
    classifier = tiny_classifier()
    x = torch.rand(1, 1, 4, 4)

    def of(M: torch.Tensor) -> object:
        return lambda images: Heatmaps([M.clone()], torch.zeros(1, 1))

    sources = [of(torch.zeros(1, 4, 4)), of(torch.full((1, 4, 4), -1.0)), of(4 * x[:, 0])]
    found = Ensemble([(classifier, source) for source in sources])(x)  # type: ignore[misc]
    torch.testing.assert_close(found.maps[0], x[:, 0] / x.max() / 3)


def test_in_commands(cli: Cli, own_run: Run) -> None:
    cli.ok("train", *own_run.overrides, "seed=1", "name=other")
    call = ["--run", own_run.name, "threads=1", "--method", "layercam"]
    cli.ok("evaluate", *call)
    cli.fault(
        "evaluate", *call, "ensemble=[other,other]", says=["ensemble=other", "once"], logs=True
    )
    cli.ok("evaluate", *call, "ensemble=[other]", "tta=flips")
    table = pd.read_csv(own_run.path / "results.csv")
    assert table["ensemble"].fillna("").tolist() == ["", "other"]
    assert table["pixel_ap"].nunique() == 2
    first, second = (
        pd.read_csv(own_run.path / "evaluate" / cell / "images.csv")["probability"]
        for cell in table["cell"]
    )
    others = [load_classifier(own_run.outputs / name) for name in (own_run.name, "other")]
    alone = pd.read_csv(own_run.outputs / "other/train/images.csv").set_index("name")
    name = pd.read_csv(own_run.path / "evaluate" / table["cell"][0] / "images.csv")["name"][0]
    odds = [np.log(first[0] / (1 - first[0])), alone.loc[name, "logit"] + others[1].prior_shift]
    assert second[0] == pytest.approx(1 / (1 + np.exp(-np.mean(odds))), rel=1e-3)
    cli.ok("evaluate", "--run", own_run.name, "threads=1", "--pipeline", "auto", "ensemble=[other]")
    last = pd.read_csv(own_run.path / "results.csv").iloc[-1]  # no student draws for several runs
    assert last["ensemble"] == "other" and last["method"] != "student"
    cli.ok("report", own_run.name, "threads=1")
    page = (own_run.path / "report.html").read_text()
    assert "tta.flips=both" in page and "ensemble=[other]" in page


def test_runs_that_do_not_fit(cli: Cli, own_run: Run) -> None:
    call = ["evaluate", "--run", own_run.name, "threads=1", "--method", "layercam"]
    cli.fault(*call, "ensemble=[othr]", says=["ensemble=othr: no such run"], logs=True)
    other = own_run.outputs / "other"
    (other / "train").mkdir(parents=True)
    config = yaml.safe_load((own_run.path / "train/config.yaml").read_text())
    says = [f"ensemble={own_run.name}", "once"]
    cli.fault(*call, f"ensemble=[{own_run.name}]", says=says, logs=True)
    changed = copy.deepcopy(config)
    changed["dataset"]["split_seed"] = 7
    (other / "train/config.yaml").write_text(yaml.safe_dump(changed))
    cli.fault(*call, "ensemble=[other]", says=["ensemble=other", "not finished"], logs=True)
    classifier = load_classifier(own_run.path)
    classifier.save(other / "train/checkpoint.pt")
    cli.fault(*call, "ensemble=[other]", says=["ensemble=other", "another data set"], logs=True)
    (other / "train/config.yaml").write_text(yaml.safe_dump(config))
    classifier.height = 32
    classifier.save(other / "train/checkpoint.pt")
    cli.fault(*call, "ensemble=[other]", says=["32x64x1", "64x64x1"], logs=True)
