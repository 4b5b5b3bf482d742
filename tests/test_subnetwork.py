"""What follows a layer gives what the whole model gives."""

import pytest
import torch
from torch import nn
from torchvision import models

from ltcam_cli.classifier.backbones import BACKBONES, BackboneConfig, build_classifier
from ltcam_cli.maps import forwards, subnetwork
from ltcam_cli.maps.engine import explain
from ltcam_cli.maps.spec import MapSpec
from ltcam_cli.maps.subnetwork import subnetwork_after


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
        after = subnetwork_after(model, layer)
        assert after is not None, layer
        with torch.no_grad():
            torch.testing.assert_close(after.network(output), y)


@pytest.mark.parametrize("name", sorted(set(BACKBONES) - {"vgg16", "vgg16_bn", "resnet50"}))
@pytest.mark.parametrize("head", ["fc", "avg", "max", "lse"])
def test_ablation_by_linearity(name, head):
    """Behind the last stage of every backbone only what follows a linear layer runs for each."""
    torch.manual_seed(0)
    model = build_classifier(BackboneConfig(name, head, hidden=8, logits=2, weights=None), 3)
    model.double().eval()
    last = max(stage for stage in model.stages if stage.startswith("s"))
    after = subnetwork_after(model, model.stages[last])
    assert after.mix is not None
    output, _ = output_of(model, model.stages[last], torch.randn(1, 3, 64, 64).double())
    compare_ablations(after, output)


def compare_ablations(after, A):
    with torch.no_grad():
        found = after.ablated(A.clone(), 3)
        for k, logits in enumerate(found):
            without = A.clone()
            without[:, k] = 0
            torch.testing.assert_close(logits, after.network(without)[0])
    assert (found - found[0]).abs().max() > 0


BODIES = {
    "convolution": lambda: [nn.Conv2d(6, 4, 3, padding=1, stride=2), nn.ReLU(inplace=True)],
    "pooled, normalised": lambda: [
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        norm(6),
        nn.Conv2d(6, 4, 3),
    ],
    "dilated": lambda: [nn.Conv2d(6, 5, 3, dilation=2, padding=(1, 2)), norm(5)],
    "flat": lambda: [nn.AvgPool2d(2), nn.Flatten(), nn.Linear(150, 7), nn.ReLU(), nn.Linear(7, 4)],
    "grouped": lambda: [nn.Conv2d(6, 4, 3, groups=2)],
    "circular": lambda: [nn.Conv2d(6, 4, 3, padding=1, padding_mode="circular")],
    "softmax of channels": lambda: [nn.Softmax2d(), nn.Conv2d(6, 4, 1)],
    "no flat input": lambda: [nn.Linear(10, 3), nn.Conv2d(6, 4, 1)],
    "nothing linear": lambda: [nn.ReLU(), nn.MaxPool2d(2)],
}
PARTED = {"convolution", "pooled, normalised", "dilated", "flat"}


def norm(channels):
    module = nn.BatchNorm2d(channels)
    for values in (module.running_mean, module.running_var, module.weight.data, module.bias.data):
        values.uniform_(0.5, 2)
    return module


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("at_once", [1, 150, 2**24])
def test_ablation_of_any_continuation(body, at_once, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(subnetwork, "MAX_OUTPUTS", at_once)
    end = [] if body == "flat" else [nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    model = nn.Sequential(nn.Conv2d(3, 6, 3), *BODIES[body](), *end).double().eval()
    output, _ = output_of(model, "0", torch.randn(1, 3, 12, 12).double())
    after = subnetwork_after(model, "0")
    assert (after.mix is not None) == (body in PARTED)
    compare_ablations(after, output)


@pytest.mark.parametrize("layer", ["layer4", "layer4.1.bn2", "layer4.1"])
def test_what_is_beside_the_layer_is_seen(layer):
    """Within a residual block the sum reads the shortcut too: there the whole model must run."""
    model = models.resnet18().eval()
    after = subnetwork_after(model, layer)
    assert (after is None) == (layer == "layer4.1.bn2")


def test_modules_are_shared_and_left_alone():
    model = models.resnet18().eval()
    after = subnetwork_after(model, "layer4")
    assert after.network.fc is after.mix is model.fc and not model._forward_hooks


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
    model, x = model.double(), torch.randn(2, 3, 64, 64).double()
    (fast,) = explain(model, x, spec)
    monkeypatch.setattr(forwards, "subnetwork_after", lambda *_: None)
    (whole,) = explain(model, x, spec)
    torch.testing.assert_close(fast, whole, rtol=0, atol=1e-9 * float(whole.max()))
    assert fast.max() > 0


def test_a_model_that_cannot_be_traced():
    torch.manual_seed(0)
    model = Branching()
    assert subnetwork_after(model, "a") is None
    (found,) = explain(model, torch.randn(2, 3, 8, 8), [MapSpec("ablationcam", ("a",))])
    assert found.isfinite().all()
