"""Networks of timm: stages, maps against autograd by hand, weights, and a run of their own."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import SYNTHETIC, Cli
from torch import Tensor, nn
from toys import TOYS, fault, toy_split

from ltcam_cli import MapSpec, explain
from ltcam_cli.classifier.backbones import build_classifier
from ltcam_cli.classifier.config import BackboneConfig, TrainerConfig
from ltcam_cli.classifier.train import train
from ltcam_cli.classifier.weights import load_weights, normalization
from ltcam_cli.config import effective

timm = pytest.importorskip("timm")
SIZE = (64, 96)
# model, stages, stage that is compared, its module in timm
MODELS = [
    ("test_resnet", 5, "layer4"),
    ("test_convnext", 4, "stages.3"),
    ("test_vit", 6, "blocks.5"),
    ("test_mambaout", 4, "stages.3"),  # channels last, as Swin
]


def config(model: str, head: str = "avg", weights: str | None = None) -> BackboneConfig:
    return BackboneConfig("timm", head, hidden=8, weights=weights, model=model)


def network(model: str, head: str = "avg") -> nn.Module:
    torch.manual_seed(0)
    return build_classifier(config(model, head), 3, SIZE).eval()


@pytest.mark.parametrize(("model", "stages", "module"), MODELS)
def test_gradcam_is_that_of_autograd(model: str, stages: int, module: str) -> None:
    net, images = network(model), torch.randn(2, 3, *SIZE)
    assert len(net.stages) == stages
    [maps] = explain(copy.deepcopy(net), images, [MapSpec("gradcam", layers=("last",))])

    outputs: list[Tensor] = []
    net.body.get_submodule(module).register_forward_hook(lambda m, i, o: outputs.append(o))
    y = net(images).sum()
    [A] = outputs
    (g,) = torch.autograd.grad(y, A)
    if A.ndim == 3:  # tokens: the first is the class's
        h, w = (side // 16 for side in SIZE)
        A, g = (t[:, 1:].reshape(2, h, w, -1) for t in (A, g))
        assert len(A) == 2 and A.shape[1:3] == (4, 6)
    if model in {"test_vit", "test_mambaout"}:
        A, g = (t.permute(0, 3, 1, 2) for t in (A, g))
    expected = (g.mean(dim=(2, 3), keepdim=True) * A).sum(dim=1).relu()
    expected = F.interpolate(expected[:, None], SIZE, mode="bilinear", align_corners=False)[:, 0]
    high = expected.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)
    own = maps / maps.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)
    torch.testing.assert_close(own, expected / high, atol=1e-4, rtol=1e-3)


def test_last_layers_are_those_of_timm() -> None:
    """Without truncation of anything, our average head is timm's own of ConvNeXt."""
    net = network("test_convnext")
    whole = timm.create_model("test_convnext", num_classes=1).eval()
    state = {f"head.fc.{key}": value for key, value in net.classifier.state_dict().items()}
    whole.load_state_dict(state | net.body.state_dict())
    images = torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        torch.testing.assert_close(net(images), whole(images))


def test_all_stages_of_swin() -> None:
    net = build_classifier(config("swin_tiny_patch4_window7_224"), 1, (64, 64)).eval()
    spec = MapSpec("layercam", layers=("all",), delta=50.0)
    [maps] = explain(net, torch.randn(1, 1, 64, 64), [spec])
    assert len(net.stages) == 4 and maps.shape == (1, 64, 64) and maps.isfinite().all()


def test_stages_of_more_than_nine_are_in_order() -> None:
    from ltcam_cli.maps.stages import main_stages

    net = build_classifier(config("vit_tiny_patch16_224"), 1, (32, 32))
    assert main_stages(net) == tuple(f"maps.{number}" for number in range(12))


@pytest.mark.parametrize("head", ["fc", "max", "lse"])
def test_heads(head: str) -> None:
    assert network("test_vit", head)(torch.randn(2, 3, *SIZE)).shape == (2, 1)


@pytest.mark.parametrize("model", ["test_resnet", "test_vit"])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_of_a_file(tmp_path: Path, model: str, suffix: str) -> None:
    """Of the whole network at its own size: embeddings of positions are resampled."""
    torch.manual_seed(1)
    whole, path = timm.create_model(model), tmp_path / f"w.{suffix}"
    if suffix == "pth":
        torch.save({"state_dict": whole.state_dict()}, path)
    else:
        from safetensors.torch import save_file

        save_file(whole.state_dict(), path)
    net = network(model)
    load_weights(net, config(model, weights=str(path)))
    same = {"test_resnet": "layer4.0.conv1.weight", "test_vit": "blocks.2.mlp.fc1.weight"}[model]
    assert torch.equal(net.body.get_parameter(same), whole.get_parameter(same))
    if model == "test_vit":
        own = dict(file=str(path))
        expected = timm.create_model(
            model, pretrained=True, pretrained_cfg_overlay=own, img_size=SIZE
        )
        assert torch.equal(net.body.pos_embed, expected.pos_embed)


def test_normalization_is_timms() -> None:
    assert normalization(network("test_vit")) == ((0.5,) * 3, (0.5,) * 3)


def test_hashes_of_other_networks_stay() -> None:
    assert "model" not in effective(BackboneConfig())
    assert effective(config("test_vit"))["model"] == "test_vit"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: BackboneConfig("timm"), "backbone.model: is not set"),
        (lambda: BackboneConfig("vgg16", model="test_vit"), "is of backbone=timm"),
        (lambda: network("test_vitt"), "timm has no such model; there are test_vit"),
        (lambda: network("test_vit")(torch.zeros(1, 3, 64, 64)), "takes images of 64 x 96 alone"),
        (
            lambda: load_weights(network("test_vit"), config("test_vit", weights="IMAGENET1K_V1")),
            "timm names weights in the model",
        ),
    ],
)
def test_faults(make: Any, says: str) -> None:
    assert says in fault(make)


def test_weights_of_another_network(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "w.pth")
    net, given = network("test_resnet"), config("test_resnet", weights=str(tmp_path / "w.pth"))
    assert "not weights of backbone.model=test_resnet" in fault(lambda: load_weights(net, given))


def test_one_size_alone_cannot_grow(tmp_path: Path) -> None:
    trainer = TrainerConfig(epochs=2, images_per_epoch=4, progressive=0.5)
    settings: Any = (replace(TOYS, height=64, width=96), config("test_vit"), trainer)
    training = partial(train, tmp_path, toy_split(), *settings, seed=0, device=torch.device("cpu"))
    assert "trainer.progressive=0.5: test_vit takes images of one size alone" in fault(training)


@pytest.mark.parametrize("model", ["test_convnext", "test_vit"])
def test_a_run(cli: Cli, model: str) -> None:
    options = [o for o in SYNTHETIC if not o.startswith("backbone=")]
    options += ["backbone=timm", f"backbone.model={model}", "backbone.weights=null"]
    cli.ok("train", *options)
    table = cli.ok("evaluate", *options, "--method", "ltgradcam", "evaluation.overlays=0")
    assert "ltgradcam" in table
    [run] = (cli.folder / "outputs").glob(f"synthetic-{model}-*")
    assert (run / "train" / "checkpoint.pt").is_file()
