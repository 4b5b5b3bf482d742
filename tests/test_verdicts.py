"""Reliability of the verdict "good": its formula, its scores, `ltcam reliability`, `ask_below`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SYNTHETIC, Cli, Run
from nets import tiny
from sklearn import metrics
from test_cli import table_on
from torch import Tensor

from ltcam_cli.classifier.checkpoint import Classifier
from ltcam_cli.classifier.config import BackboneConfig
from ltcam_cli.runs.acceptance import ReliabilityConfig
from ltcam_cli.runs.reliability import Reliability, mask_iou
from ltcam_cli.scores.missed import Called, ranking, review_share

# --- the score


def classifier_of(logits: int) -> Classifier:
    backbone = BackboneConfig("vgg16_slim", head="avg", logits=logits, hidden=16, weights=None)
    model = tiny(3, logits)
    return Classifier(model, backbone, 3, 12, 8, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))


def images(count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.rand(count, 3, 12, 8, generator=generator, dtype=torch.float64)


def written_out(classifier: Classifier, x: Tensor, config: ReliabilityConfig) -> tuple[list, list]:
    """Both maps of an image (3, 12, 8) after the step, position by position, before up-scaling."""
    mean = torch.tensor(classifier.mean, dtype=torch.float64)[:, None, None]
    std = torch.tensor(classifier.std, dtype=torch.float64)[:, None, None]
    net = classifier.model

    def y_of(z: Tensor) -> Tensor:
        logits = net(z[None])[0]
        return logits[-1] if len(logits) == 1 else logits[1] - logits[0]

    x = x.clone().requires_grad_(True)
    y_of((x - mean) / std).backward()
    x = (x.detach() + config.step * x.grad.sign()).clamp(0, 1)
    A = net.features(((x - mean) / std)[None]).detach().requires_grad_(True)
    net.classifier(A.flatten(1))[0, -1].backward()
    A, g = A.detach()[0], A.grad[0]
    defect, agnostic = [], []
    for i in range(A.shape[1]):
        defect.append([max(0.0, float(g[:, i, j] @ A[:, i, j])) for j in range(A.shape[2])])
        agnostic.append(
            [
                sum(
                    float(a) ** 2 if config.agnostic == "energy" else abs(float(w * a))
                    for a, w in zip(A[:, i, j], g[:, i, j], strict=True)
                )
                for j in range(A.shape[2])
            ]
        )
    return defect, agnostic


@pytest.mark.parametrize("logits", [1, 2])
@pytest.mark.parametrize("agnostic", ["energy", "absolute"])
@pytest.mark.parametrize("step", [0.0, 0.05])
def test_maps_are_those_of_the_formula(
    logits: int, agnostic: str, step: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ltcam_cli.runs.reliability.SIZE", (6, 4))  # that of the layer itself
    config = ReliabilityConfig(agnostic=agnostic, step=step)
    classifier = classifier_of(logits)
    prepare = Classifier.prepare
    monkeypatch.setattr(Classifier, "prepare", lambda self, x: prepare(self, x).double())
    reliability = Reliability(classifier, config)
    monkeypatch.setattr(classifier.model, "float", lambda: classifier.model)
    found = reliability.maps(reliability.stepped(images()))
    for number, x in enumerate(images()):
        for mine, truth in zip(found, written_out(classifier, x, config), strict=True):
            # The gradient's sign comes of float32 logits; the maps are float64.
            np.testing.assert_allclose(mine[number], truth, rtol=1e-6, atol=1e-9)


def test_reliability_is_what_the_masks_do_not_share() -> None:
    masks = np.zeros((3, 4, 4), dtype=bool)
    others = masks.copy()
    masks[0, :2], others[0, 1:3] = True, True
    masks[1, 0] = True
    np.testing.assert_allclose(mask_iou(masks, others), [1 / 3, 0, 0])
    classifier = classifier_of(1)
    with torch.no_grad():
        classifier.model.classifier[2].weight.zero_()  # nothing speaks for a defect
    values = Reliability(classifier, ReliabilityConfig())(images())
    assert values.tolist() == [1, 1, 1]


def test_the_step_raises_the_log_odds_and_stays_an_image() -> None:
    classifier = classifier_of(2)
    reliability = Reliability(classifier, ReliabilityConfig(step=0.02))
    before, after = images(), reliability.stepped(images())
    assert after.min() >= 0 and after.max() <= 1 and (after - before).abs().max() <= 0.0200001
    odds = [
        classifier.log_odds(classifier.model(classifier.prepare(x))).detach()
        for x in (before, after)
    ]
    assert (odds[1] > odds[0]).all()


# --- its scores


def test_scores_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    missed = random.integers(0, 2, 60)
    doubt = np.round(random.random(60) + 0.3 * missed, 1)  # with ties
    groups = [f"item{n // 2}" for n in range(60)]
    found = ranking([Called(missed, doubt, groups)], draws=200)
    assert found.auroc == pytest.approx(metrics.roc_auc_score(missed, doubt), abs=1e-12)
    assert found.ap == pytest.approx(metrics.average_precision_score(missed, doubt), abs=1e-12)
    assert found.auroc_interval[0] < found.auroc < found.auroc_interval[1]
    fpr, tpr, _ = metrics.roc_curve(missed, doubt, drop_intermediate=False)
    assert found.review == pytest.approx(fpr[np.argmax(tpr == 1)])


def test_classifiers_are_ranked_each_by_itself() -> None:
    groups = ["a", "b", "c", "d"]
    one = Called([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4], groups)
    other = Called([0, 1, 0, 1], [10, 40, 20, 30], groups)
    nothing = Called([0, 0, 0, 0], [1, 2, 3, 4], groups)
    found = ranking([one, other, nothing], draws=50)
    assert found.auroc == pytest.approx((0.75 + 1) / 2)
    assert found.review == pytest.approx((0.5 + 0) / 2)
    assert np.isnan(ranking([nothing]).auroc)
    assert review_share([0, 0, 1], [2, 1, 1]) == 1


def test_resamples_are_of_items_and_weighted_scores_scikit_learns() -> None:
    from ltcam_cli.scores import missed as module

    random = np.random.default_rng(1)
    labels, doubt = random.integers(0, 2, 30), np.round(random.random(30), 1)
    weights = random.integers(0, 4, (5, 30))
    called = Called(labels, doubt, [])
    positives, negatives = module._levels(called, weights)
    for row, auroc, ap in zip(
        weights,
        module._auroc(positives, negatives),
        module._average_precision(positives, negatives),
        strict=True,
    ):
        repeated = np.repeat(labels, row), np.repeat(doubt, row)
        assert auroc == pytest.approx(metrics.roc_auc_score(*repeated), abs=1e-12)
        assert ap == pytest.approx(metrics.average_precision_score(*repeated), abs=1e-12)


# --- the commands


def test_reliability_of_a_run_is_kept_and_told(cli: Cli, own_run: Run) -> None:
    images = own_run.path / "train" / "images.csv"
    before = pd.read_csv(images)
    shown = cli.ok("reliability", own_run.name, "device=cpu", "threads=1")
    rows = table_on(shown)
    assert {row["images"] for row in rows} == {"training", "test"}
    assert [row["score"] for row in rows][:4] == [
        "reliability", "probability", "both, by ranks", "mean of mirrored",
    ]  # fmt: skip
    kept = pd.read_csv(images)
    pd.testing.assert_frame_equal(kept[before.columns], before)
    good = kept["predicted"] == 0
    assert kept["reliability"][good].between(0, 1).all()
    assert kept["reliability"][~good].isna().all()
    cli.fault(
        "reliability", own_run.name, "predict.reliability.layer=s9", "device=cpu", says=["s9"]
    )


def test_predict_marks_what_to_look_at_again(cli: Cli, own_run: Run) -> None:
    cli.ok("data", "synth", "plates", *[word for word in SYNTHETIC if word.startswith("dataset.")])
    run = ("predict", "plates", "--run", own_run.name, "--method", "gradcam", "device=cpu")
    cli.ok("threshold", own_run.name, "prior")
    path = own_run.path / "train" / "threshold.json"
    path.write_text('{"threshold": 1.0}')  # so that all are called good
    plain = cli.ok(*run, "--out", "plain")
    assert "looked at" not in plain
    shown = cli.ok(*run, "--out", "asked", "predict.ask_below=1")
    scores = pd.read_csv("asked/scores.csv")
    assert scores["reliability"].between(0, 1).all()
    assert (scores["look_again"] == (scores["reliability"] < 1)).all()
    assert f"{scores['look_again'].sum()} to be looked at again" in shown
    assert "reliability" not in pd.read_csv("plain/scores.csv")
    lines = cli.ok(*run, "--out", "asked", "predict.ask_below=1", "--json").splitlines()
    for row in map(json.loads, lines):
        of_table = scores[scores["name"] == row["name"]].iloc[0]
        assert row["look_again"] == bool(of_table["look_again"])
        assert row["reliability"] == pytest.approx(of_table["reliability"])
    says = ["another method, segmenter"]
    cli.fault(*run, "--out", "asked", "predict.ask_below=0.5", says=says, logs=True)
    cli.fault("predict", "plates", "--runtime", "onnx", "--model", "m.onnx", "predict.ask_below=1",
              says=["predict.ask_below=1", "needs gradients", "predict.runtime=torch"])  # fmt: skip
    path.write_text('{"threshold": 0.0}')  # all are called defective: nothing is asked
    cli.ok(*run, "--out", "called", "predict.ask_below=1")
    called = pd.read_csv("called/scores.csv")
    assert called["reliability"].isna().all() and not called["look_again"].any()
    page = cli.ok("report", "asked")
    assert page and "Look again" in Path("asked/report.html").read_text()
