"""Guided training: maps that are differentiable, and drawn to those of a first classifier."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Cli, Run
from test_training import DROPOUT, equal, fit, interrupt_at, weights
from toys import SLIM, TOYS, fault, tiny_classifier, toy_split, toys

from ltcam_cli.classifier.checkpoint import Classifier, load_classifier
from ltcam_cli.classifier.config import BackboneConfig, TrainerConfig
from ltcam_cli.classifier.guidance import Guide, consistency, saliency
from ltcam_cli.data.batches import Images, batches
from ltcam_cli.data.split import Split
from ltcam_cli.experiments.session import training_identity
from ltcam_cli.experiments.settings import Settings
from ltcam_cli.maps.engine import explain
from ltcam_cli.maps.spec import MapSpec

LARGE = Split(toys(18, size=(70, 64)), toys(24, 300, (70, 64)))  # whose maps are of 4 x 4


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint."""
    folder = tmp_path_factory.mktemp("first") / "train"
    fit(folder)
    return folder / "checkpoint.pt"


@pytest.mark.parametrize("logits", [1, 2])
@pytest.mark.parametrize("name", ["vgg16_slim", "resnet18", "mobilenet_v2", "squeezenet1_1"])
def test_saliency_is_gradcam_of_the_last_stage(name: str, logits: int) -> None:
    classifier = tiny_classifier(BackboneConfig(name, "avg", logits, weights=None), 3, (64, 64))
    x = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found, M = saliency(classifier, x, differentiable=True)
    torch.testing.assert_close(found, classifier.model(x))
    (expected,) = explain(classifier.model, x, [MapSpec("gradcam", target="margin")])
    large = torch.nn.functional.interpolate(M.detach()[:, None], (64, 64), mode="bilinear")[:, 0]
    for drawn, one in zip(large, expected, strict=True):
        truth = one / one.max() if one.max() > 0 else one
        # normalised before it is up-scaled, so the peak itself may lie between pixels
        scale = float((drawn * truth).sum() / truth.square().sum()) if truth.any() else 1.0
        torch.testing.assert_close(drawn, scale * truth, atol=2e-4, rtol=1e-3)


def test_the_gradient_of_the_difference() -> None:
    """Against finite differences in float64."""
    classifier = tiny_classifier(replace(SLIM, head="fc", hidden=8))
    classifier.model.double()
    x = torch.randn(2, 1, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    prior = torch.rand(2, 1, 1, generator=torch.Generator().manual_seed(2)).expand(2, 5, 5)
    labels = torch.tensor([1, 1])
    weight = classifier.model.features[-4].weight

    def loss() -> torch.Tensor:
        return consistency(saliency(classifier, x, differentiable=True)[1], prior, labels)

    (g,) = torch.autograd.grad(loss(), weight)
    place = divmod(int(g.abs().amax(dim=(2, 3)).argmax()), g.shape[1])
    index = (*place, 1, 1)
    with torch.no_grad():
        values = []
        for step in (1e-4, -2e-4):
            weight[index] += step
            with torch.enable_grad():
                values.append(float(loss().detach()))
    assert g[index].item() == pytest.approx((values[0] - values[1]) / 2e-4, rel=2e-2)


def test_consistency_written_out() -> None:
    maps, prior = torch.rand(4, 2, 3), torch.rand(4, 2, 3)
    prior[2] = 0  # the guide says nothing
    labels = torch.tensor([1.0, 0.0, 1.0, 0.4])
    truth = sum(float(((maps[n] - prior[n]) ** 2).sum() / 6) for n in (0, 3)) / 2
    assert consistency(maps, prior, labels).item() == pytest.approx(truth)
    assert consistency(maps, prior, torch.zeros(4)).item() == 0
    flat = consistency(torch.full((1, 2, 2), 0.5), torch.full((1, 4, 4), 0.3), torch.ones(1))
    assert flat.item() == pytest.approx(0.04)


def distance(classifier: Classifier, guide: Path) -> float:
    """Of the maps of a trained classifier from its guide's, on images that neither saw."""
    images = Images(LARGE.test, 64, 64, 1)
    [batch] = batches(images, len(images))
    classifier.model.eval()
    _, maps = saliency(classifier, classifier.prepare(batch.images))
    prior = Guide(guide, classifier).maps(batch.images)
    return float(consistency(maps.detach(), prior, batch.labels))


@pytest.mark.slow
def test_guided_maps_are_nearer(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "split": LARGE, "dataset": replace(TOYS, height=64, width=64), "backbone": DROPOUT,
        "epochs": 15, "images_per_epoch": 48,  # with 5, rounding alone could move the maps as far
    }  # fmt: skip
    fit(tmp_path / "first", **options)
    guide = tmp_path / "first" / "checkpoint.pt"
    fit(tmp_path / "alone", seed=3, **options)
    fit(tmp_path / "guided", seed=3, guide=str(guide), **options)
    found = {
        name: distance(load_classifier(tmp_path / name / "checkpoint.pt"), guide)
        for name in ("first", "alone", "guided")
    }
    assert found["first"] == 0 and found["guided"] < 0.5 * found["alone"]


def test_a_guided_training_resumes_to_the_same_weights(tmp_path: Path, first: Path) -> None:
    guided: dict[str, Any] = {"guide": str(first), "cutmix": 0.5}
    fit(tmp_path / "unbroken", backbone=DROPOUT, **guided)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_at(patch, step=4)
        fit(tmp_path / "broken", backbone=DROPOUT, **guided)
    fit(tmp_path / "broken", backbone=DROPOUT, resume=True, **guided)
    assert equal(weights(tmp_path / "unbroken"), weights(tmp_path / "broken"))


def test_guides_that_do_not_fit(tmp_path: Path) -> None:
    tiny_classifier(size=(64, 32)).save(tmp_path / "other.pt")
    said = fault(lambda: fit(tmp_path / "train", guide=str(tmp_path / "other.pt")))
    assert "trainer.guide=" in said and "64x32x1, this training of 32x32x1" in said
    assert "no such checkpoint" in fault(lambda: fit(tmp_path / "train", guide="nowhere.pt"))


def test_the_guides_weights_are_hashed_and_not_its_place(tmp_path: Path, first: Path) -> None:
    copy, other = tmp_path / "copy.pt", tmp_path / "other.pt"
    shutil.copy(first, copy)
    tiny_classifier().save(other)
    digests = [
        training_identity(
            Settings(dataset=TOYS, trainer=TrainerConfig(guide=guide and str(guide))), toy_split()
        ).hash
        for guide in (None, first, copy, other)
    ]
    assert digests[1] == digests[2] and len(set(digests)) == 3


def test_a_run_guides_another(cli: Cli, own_run: Run) -> None:
    guided = [*own_run.overrides, f"trainer.guide={own_run.name}", "trainer.guide_weight=2"]
    cli.ok("train", *guided)
    assert len(list(own_run.outputs.glob("*/train/checkpoint.pt"))) == 2
    cli.ok("evaluate", *guided, "--method", "gradcam")
    assert not (own_run.path / "evaluate").exists()
    cli.fault("train", *own_run.overrides, "trainer.guide=none", says=["trainer.guide=none: no"])
    cli.fault("train", *guided, "dataset.split_seed=5", says=["trainer.guide=", "another data set"])
