"""Head `noisy_or`: windows of the last feature map, and the bag's label."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import Cli
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from toys import fault, picture

from ltcam_cli.classifier.backbones import build_classifier
from ltcam_cli.classifier.config import BackboneConfig
from ltcam_cli.classifier.heads import NoisyOr, Windows
from ltcam_cli.classifier.untrained import new_classifier
from ltcam_cli.data.synthetic import Synthetic
from ltcam_cli.maps.engine import explain
from ltcam_cli.maps.spec import MapSpec

SLIM = BackboneConfig("vgg16_slim", "noisy_or", weights=None, window=2)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 5))
def test_windows_cover_the_map(height: int, width: int, side: int) -> None:
    x = torch.eye(height * width).view(height * width, 1, height, width)
    found = Windows(side)(x)[:, 0, :, 0]  # each cell's share of each window
    assert (found.sum(dim=1) > 0).all()
    sides = (min(side, height), min(side, width))
    torch.testing.assert_close(found.sum(dim=0), torch.ones(found.shape[1]))
    assert {round(1 / float(share)) for share in found[found > 0]} == {sides[0] * sides[1]}


def test_noisy_or_written_out() -> None:
    """In float64, of three windows and two kinds."""
    generator = torch.Generator().manual_seed(0)
    head = NoisyOr(4, 2).double()
    x = torch.randn(5, 4, 3, 1, generator=generator, dtype=torch.float64)
    weight, bias = (p.detach().numpy() for p in head.window.parameters())
    c = math.log(2 ** (1 / 3) - 1)
    for logits, windows in zip(head(x.flatten(1)).tolist(), x[..., 0].numpy(), strict=True):
        for logit, w, b in zip(logits, weight, bias, strict=True):
            p = [1 / (1 + math.exp(-(float(w @ windows[:, k]) + b + c))) for k in range(3)]
            P = 1 - math.prod(1 - each for each in p)
            assert logit == pytest.approx(math.log(P / (1 - P)), abs=1e-5)


@pytest.mark.parametrize("count", [1, 2, 40])
def test_undecided_windows_leave_the_image_undecided(count: int) -> None:
    head = NoisyOr(3, 1)
    torch.nn.init.zeros_(head.window.bias)
    torch.testing.assert_close(head(torch.zeros(1, 3 * count)), torch.zeros(1, 1))


def test_the_map_is_of_the_window_that_decides() -> None:
    """Behind a mean of all windows, gradients would be equal everywhere."""
    torch.manual_seed(0)
    model = build_classifier(SLIM, 3).eval()
    images = torch.zeros(1, 3, 256, 256)
    images[..., 200:232, 200:232] = torch.rand(3, 32, 32) * 8
    [M] = explain(model, images, [MapSpec("layercam", ("last",))])
    share = np.asarray(M[0])[128:, 128:].sum() / np.asarray(M[0]).sum()
    assert share > 0.5
    assert model(torch.rand(2, 3, 64, 320)).shape == (2, 1)


def test_it_takes_one_logit() -> None:
    dataset = Synthetic(height=64, width=64)
    said = fault(lambda: new_classifier([], dataset, replace(SLIM, logits=2), torch.device("cpu")))
    assert said == "backbone.logits=2: head noisy_or is of defects alone; set 1"


def test_from_training_to_an_exported_file(cli: Cli) -> None:
    """With images of several aspects, padded: all that follows reads the checkpoint's geometry."""
    for number, size in enumerate([(40, 90), (90, 40), (64, 64), (50, 70)] * 4):
        label = number % 2
        folder = cli.folder / "own" / ("good", "defect")[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(number, bool(label), size)).save(folder / f"{number:02d}.png")
    data = "dataset=folder dataset.root=own dataset.height=64 dataset.width=64 dataset.fit=pad"
    options = "trainer.epochs=1 trainer.images_per_epoch=8 trainer.amp=false threads=1 device=cpu"
    network = "backbone=vgg16_slim backbone.head=noisy_or backbone.window=1 name=own"
    cli.ok("train", *data.split(), *network.split(), *options.split())
    config = yaml.safe_load(Path("outputs/own/train/config.yaml").read_text())
    assert config["dataset"]["fit"] == "pad" and config["backbone"]["window"] == 1
    student = "student.steps=2 student.every=2 student.batch_size=2 student.crops.size=[32,32]"
    cli.ok("student", "train", "--run", "own", *student.split())
    wrong = ("student.height=64", "student.width=96")
    cli.fault(
        *("student", "train", "--run", "own", *wrong),
        says=["student.height", "another aspect", "dataset.fit"], logs=True,
    )  # fmt: skip
    cli.ok("evaluate", "--run", "own", "--method", "ltlayercam")
    cli.fault(
        *("evaluate", "--run", "own", "--method", "ltlayercam", "tta.size=[64,128]"),
        says=["tta.size=[64,128]", "another aspect"],
    )
    common = ("predict.gate=false", "--save-maps", "threads=1")
    method = ("--method", "ltlayercam")
    cli.ok("export", "--run", "own", "--out", "model.onnx", *method)
    assert json.loads(Path("model.json").read_text())["fit"] == "pad"
    cli.ok("predict", "own/defect", "--run", "own", *method, "--out", "a", *common)
    cli.ok("predict", "own/defect", "--runtime", "onnx", "--model", "model.onnx", "--out", "b",
           *method, *common)  # fmt: skip
    for number in (1, 3):
        mine, theirs = (np.load(f"{out}/maps/{number:02d}.npy") for out in "ab")
        assert mine.shape == [(40, 90), (90, 40), (64, 64), (50, 70)][number]
        assert np.abs(mine - theirs).mean() < 1e-4 * mine.max() + 1e-9
    cli.ok("predict", "own/defect", "--run", "own", *method, "tta=tiles", "--out", "c", *common)
    assert np.load("c/maps/01.npy").shape == (90, 40)
