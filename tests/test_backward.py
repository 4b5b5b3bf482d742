"""Backward rules of ReLUs, against a backward pass written out with loops in float64."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from nets import Tiny, pictures, read, tiny, truncated
from torch import Tensor, nn
from torchvision.models import mobilenet_v2, resnet18

from ltcam_cli.errors import LtcamError
from ltcam_cli.maps.backward import RelusWith
from ltcam_cli.maps.capture import capture, frozen
from ltcam_cli.maps.engine import explain
from ltcam_cli.maps.method import CamMethod, make_method
from ltcam_cli.maps.spec import BackwardRule, MapSpec
from ltcam_cli.maps.weightings import get_weighting

RULES = [
    BackwardRule("filtered", 0.0),
    BackwardRule("filtered", 37.5),
    BackwardRule("continuous", 2),
]
rules = pytest.mark.parametrize("rule", RULES, ids=str)


def passed(G: np.ndarray, z: np.ndarray, rule: BackwardRule) -> np.ndarray:
    """What a ReLU of input z lets through of G, one image, any shape; place by place."""
    g = np.zeros_like(G)
    for place in np.ndindex(G.shape):
        slope = float(z[place] > 0) if rule.name == "filtered" else 0.0
        if rule.name == "continuous":
            slope = 1 / (1 + math.exp(-rule.value * z[place]))
        g[place] = slope * G[place]
    if rule.name == "continuous":
        return g
    return truncated(g.reshape(1, 1, -1), rule.value, "layer").reshape(g.shape)


def by_hand(net: Tiny, x: Tensor, rule: BackwardRule) -> tuple[np.ndarray, np.ndarray]:
    """∂y/∂A of both ReLUs of one image's features (K, h, w), y the last logit."""
    parameters = {name: value.detach().numpy() for name, value in net.named_parameters()}
    z1, _ = read(net, x, 0)
    a1, _ = read(net, x, 1)
    z2, _ = read(net, x, 3)
    a2, _ = read(net, x, 4)
    z3 = parameters["classifier.0.weight"] @ a2[0].ravel() + parameters["classifier.0.bias"]
    g3 = passed(parameters["classifier.2.weight"][-1], z3, rule)
    g2 = (g3 @ parameters["classifier.0.weight"]).reshape(a2[0].shape)
    through = passed(g2, z2[0], rule)
    weight = parameters["features.3.weight"]  # (O, K, 3, 3)
    _, height, width = through.shape
    pooled = np.zeros((weight.shape[1], height, width))
    for o, i, j in np.ndindex(through.shape):
        for k, u, v in np.ndindex(weight.shape[1:]):
            row, column = i + u - 1, j + v - 1
            if 0 <= row < height and 0 <= column < width:
                pooled[k, row, column] += weight[o, k, u, v] * through[o, i, j]
    g1 = np.zeros_like(a1[0])
    for k, i, j in np.ndindex(pooled.shape):
        window = a1[0, k, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        u, v = np.unravel_index(window.argmax(), (2, 2))  # the first of equal ones, as in torch
        g1[k, 2 * i + u, 2 * j + v] = pooled[k, i, j]
    assert z1.shape == a1.shape
    return g1, g2


@rules
@pytest.mark.parametrize("inplace", [True, False])
def test_the_gradients_are_those_of_loops(rule: BackwardRule, inplace: bool) -> None:
    net, x = tiny(inplace=inplace), pictures(3)
    with frozen(net):
        found = capture(net, x, "defect", ("features.1", "features.4"), backward=rule)
    for image in range(3):
        truth = by_hand(net, x[image : image + 1], rule)
        for name, g in zip(("features.1", "features.4"), truth, strict=True):
            assert np.abs(g).max() > 0
            np.testing.assert_allclose(found.layers[name].g[image], g, rtol=1e-9, atol=1e-12)
    assert torch.equal(found.logits, net(x))  # the forward is as it was


class Functional(Tiny):
    """`Tiny` whose ReLUs are functions, each called in another way."""

    def forward(self, x: Tensor) -> Tensor:
        conv1, _, pool, conv2, _ = self.features
        first, _, last = self.classifier
        x = conv1(x)
        torch.relu_(x)
        x = F.relu(conv2(pool(x)), inplace=True)
        return last(first(x.flatten(1)).relu())


@rules
def test_functions_are_reached_as_modules_are(rule: BackwardRule) -> None:
    net, x = tiny(), pictures()
    functional = Functional().double()
    functional.load_state_dict(net.state_dict())
    spec = MapSpec("fullgrad", ("all",), delta=20.0)
    spec = replace(spec, backward=rule.name, backward_percentile=37.5, backward_beta=2.0)
    [truth], [found] = (explain(model, x, [spec], target=1) for model in (net, functional))
    torch.testing.assert_close(found, truth)


@rules
def test_a_relu6_ends_at_6(rule: BackwardRule) -> None:
    x = torch.linspace(-2, 9, 12, dtype=torch.float64).view(1, -1).requires_grad_()
    results = []
    for relu in (nn.ReLU6(), F.relu6, lambda x: F.hardtanh(x, 0.0, 6.0)):
        with RelusWith(rule):
            y = relu(x * 1)
        assert torch.equal(y, F.relu6(x))
        results.append(torch.autograd.grad(y.sum(), x)[0][0].tolist())
    values, beta = x[0].tolist(), rule.value
    if rule.name == "filtered":
        truth = [float(0 < value < 6) for value in values]
    else:
        truth = [
            1 / (1 + math.exp(-beta * v)) - 1 / (1 + math.exp(-beta * (v - 6))) for v in values
        ]
    for result in results:
        np.testing.assert_allclose(result, truth, rtol=1e-12)


def test_exact_is_what_it_was() -> None:
    """Beside other rules in one list, and without our ReLUs."""
    net, x = tiny().float(), pictures().float()
    plain = MapSpec("layercam", ("s1", "s2"), 50.0)
    others = [replace(plain, backward=name) for name in ("filtered", "continuous")]
    [alone] = explain(net, x, [plain])
    together = explain(net, x, [*others, plain, replace(plain, backward_beta=9.0)])
    assert torch.equal(alone, together[2]) and torch.equal(alone, together[3])
    assert not any(torch.equal(alone, other) for other in together[:2])
    for other, spec in zip(together, others, strict=False):
        assert torch.equal(other, explain(net, x, [spec])[0])


def test_limits_of_the_rules() -> None:
    """A steep smooth derivative is the step."""
    net, x = tiny(), pictures()
    exact = MapSpec("gradcam", ("s1", "s2"))
    steep = replace(exact, backward="continuous", backward_beta=1e6)
    torch.testing.assert_close(*explain(net, x, [steep, exact]))


@pytest.mark.parametrize("name", ["filtered", "continuous"])
def test_networks_of_torchvision(name: str) -> None:
    torch.manual_seed(0)
    for model, layer in ((resnet18(), "layer2"), (mobilenet_v2(), "features.6")):
        specs = [MapSpec("layercam", (layer,)), MapSpec("layercam", (layer,), backward=name)]
        exact, other = explain(model, torch.rand(1, 3, 64, 64), specs, target=0)
        assert exact.isfinite().all() and not torch.equal(exact, other)


def test_a_network_without_relus_is_refused() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(4 * 10 * 6, 2)
    ).double()
    spec = MapSpec("gradcam", ("0",), backward="filtered")
    with pytest.raises(LtcamError, match=r"filtered:20: no ReLU between layer 0 and the logit"):
        explain(net, pictures(), [spec])


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(LtcamError, match="scorecam reads no gradients"):
        MapSpec("scorecam", backward="filtered")
    with pytest.raises(LtcamError, match="backward=filterd: unknown"):
        MapSpec("gradcam", backward="filterd")
    with pytest.raises(LtcamError, match="a percentile lies in"):
        MapSpec("gradcam", backward="filtered", backward_percentile=101)
    with pytest.raises(LtcamError, match="must be above 0"):
        MapSpec("gradcam", backward="continuous", backward_beta=0.0)
    with pytest.raises(LtcamError, match="eigencam reads no gradients"):
        make_method({"weighting": "eigencam", "delta": None, "backward": "continuous"}).check()


def test_tables_name_the_rule() -> None:
    assert CamMethod().columns()["backward"] is None
    assert CamMethod(backward="filtered", delta="auto").columns()["backward"] == "filtered:20"


def test_weights_by_region_are_means_over_what_is_salient() -> None:
    net, x = tiny(), pictures()
    with frozen(net):
        layer = capture(net, x, "defect", ("features.1",)).layers["features.1"]
    found = get_weighting("regioncam")(layer, percentile=60.0)
    for image in range(len(x)):
        A, g = layer.A[image].numpy(), layer.g[image].numpy()
        salience = (np.maximum(g, 0) * A).sum(axis=0)
        region = truncated(salience[None], 60.0)[0] > 0
        assert 0 < region.sum() < region.size
        for k in range(len(A)):
            values = [g[k, i, j] for i, j in np.argwhere(region)]
            assert found[image, k].item() == pytest.approx(sum(values) / len(values), rel=1e-9)
    nothing = replace(layer, g=-layer.g.abs())
    assert not get_weighting("regioncam")(nothing).any()
