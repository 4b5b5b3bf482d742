"""What follows a layer gives what the whole model gives."""

import pytest
import torch
from torch import nn
from torchvision import models

from ltcam_cli.classifier.backbones import BACKBONES, BackboneConfig, build_classifier
from ltcam_cli.maps import capture as capturing
from ltcam_cli.maps.engine import explain
from ltcam_cli.maps.spec import MapSpec
from ltcam_cli.maps.tail import tail


def output_of(model, layer, x):
    seen = []
    handle = model.get_submodule(layer).register_forward_hook(
        lambda m, i, o: seen.append(o.clone())
    )
    with torch.no_grad():
        y = model(x)
    handle.remove()
    return seen[0], y


@pytest.mark.parametrize("name", sorted(set(BACKBONES) - {"vgg16", "vgg16_bn", "resnet50"}))
@pytest.mark.parametrize("head", ["fc", "avg", "max", "lse"])
def test_every_stage_of_the_backbones(name, head):
    torch.manual_seed(0)
    config = BackboneConfig(name, head, hidden=8, weights=None)
    model = build_classifier(config, 3).eval()
    x = torch.randn(2, 3, 64, 64)
    for layer in model.stages.values():
        output, y = output_of(model, layer, x)
        after = tail(model, layer)
        assert after is not None, layer
        with torch.no_grad():
            torch.testing.assert_close(after(output), y)


@pytest.mark.parametrize("layer", ["layer4", "layer4.1.bn2", "layer4.1"])
def test_what_is_beside_the_layer_is_seen(layer):
    """Within a residual block the sum reads the shortcut too: there the whole model must run."""
    model = models.resnet18().eval()
    after = tail(model, layer)
    assert (after is None) == (layer == "layer4.1.bn2")


def test_modules_are_shared_and_left_alone():
    model = models.resnet18().eval()
    after = tail(model, "layer4")
    assert after.fc is model.fc and not model._forward_hooks


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Linear(4, 1)

    def forward(self, x):
        y = self.b(self.a(x).mean((2, 3)))
        return y if y.sum() > 0 else 2 * y  # cannot be traced


def test_ablation_is_the_same_either_way(monkeypatch):
    torch.manual_seed(0)
    spec = [MapSpec("ablationcam", ("features.22",))]
    model = build_classifier(BackboneConfig("vgg16_slim", "fc", hidden=8, weights=None), 3)
    x = torch.randn(2, 3, 64, 64)
    (fast,) = explain(model, x, spec)
    monkeypatch.setattr(capturing, "tail", lambda *_: None)
    (whole,) = explain(model, x, spec)
    torch.testing.assert_close(fast, whole, rtol=1e-4, atol=1e-5 * float(whole.max()))
    assert fast.max() > 0


def test_a_model_that_cannot_be_traced():
    torch.manual_seed(0)
    model = Branching()
    assert tail(model, "a") is None
    (found,) = explain(model, torch.randn(2, 3, 8, 8), [MapSpec("ablationcam", ("a",))])
    assert found.isfinite().all()
