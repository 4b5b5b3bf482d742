"""Many specs at once give what each gives alone, which is what the formulas give."""

import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ltcam_cli.maps.capture import capture, frozen
from ltcam_cli.maps.engine import explain, layer_map
from ltcam_cli.maps.layer import Capture, Layer
from ltcam_cli.maps.multi_delta import (
    PositiveGradients,
    multi_delta_maps,
    supports_multi_delta,
)
from ltcam_cli.maps.spec import Fusion, MapSpec
from ltcam_cli.maps.truncation import keep, thresholds

NAMES = ["gradcam", "gradcampp", "xgradcam", "layercam", "hirescam", "fullgrad"]
DELTAS = [0.0, 10.0, 33.3, 50.0, 90.0, 100.0]


def made(shape, seed, *, positive=False):
    """A layer of random activations, gradients with ties and zeros, and biases."""
    random = torch.Generator().manual_seed(seed)
    A = torch.rand(shape, generator=random, dtype=torch.float64)
    g = torch.randint(-3, 5, shape, generator=random).double() / 7
    g = g.abs() + 0.1 if positive else g
    b = torch.randn(shape[1], 1, 1, generator=random, dtype=torch.float64)
    x = torch.zeros(1, 3, 2, 2)
    return Layer("l", A, g, Capture(x, x[:, :2, 0, 0], x[:, 0, 0, 0], lambda *_: x), b)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scope", ["channel", "layer"])
@settings(max_examples=25, deadline=None)
@given(
    st.tuples(*(st.integers(1, 4) for _ in range(4))), st.integers(0, 999), st.booleans()
)  # fmt: skip
def test_many_deltas_are_the_single_ones(name, scope, shape, seed, positive):
    layer = made(shape, seed, positive=positive)
    if len(layer.g) > 1:
        layer.g[0] = layer.g[0].abs() + 0.1  # beside images whose gradients are partly cut
    bounds = thresholds(layer.g, DELTAS, scope)
    maps = multi_delta_maps(layer, DELTAS, scope, [name])[name]
    for number, delta in enumerate(DELTAS):
        spec = MapSpec(name, delta=delta, scope=scope)
        single = layer_map(layer, keep(layer.g, bounds[number]), spec)
        torch.testing.assert_close(maps[number], single, rtol=1e-9, atol=1e-12)


def test_sums_written_out():
    g = torch.tensor([[[[1.0, -1.0], [2.0, 3.0]], [[0.0, 5.0], [-2.0, 0.0]]]], dtype=torch.float64)
    positive = PositiveGradients(Layer("l", None, g), [0.0, 50.0, 100.0])
    assert positive.sum(positive.g).tolist() == [[[6, 5]], [[5, 5]], [[3, 5]]]
    assert positive.sum_channels(positive.g)[:, 0].tolist() == [
        [[1, 5], [2, 3]],
        [[0, 5], [2, 3]],
        [[0, 5], [0, 3]],
    ]
    assert positive.highest(positive.g).flatten().tolist() == [5, 5, 5]


def test_no_positive_entry():
    layer = made((2, 3, 2, 2), 0)
    layer.g = -layer.g.abs()
    maps = multi_delta_maps(layer, [0.0, 50.0], "channel", NAMES)
    assert all(M.shape == (2, 2, 2, 2) and not M.any() for M in maps.values())


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_a_grid_equals_single_calls(memory):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 48, 1),
    ).to(memory_format=memory)  # fmt: skip
    nn.init.normal_(net[1].bias)
    x = torch.randn(3, 3, 16, 12).contiguous(memory_format=memory)
    grid = [
        MapSpec(name, layers, delta, scope=scope, fusion=Fusion(normalize=normalize))
        for name in ("gradcam", "gradcampp", "xgradcam", "layercam")
        for layers in (("2",), ("5",), ("2", "5"))
        for delta in (None, 0.0, 50.0, 90.0)
        for scope in ("channel", "layer")
        for normalize in ("none", "minmax")
    ] + [MapSpec("fullgrad", ("all",), delta) for delta in (None, 0.0, 50.0, 90.0)]
    grid += [MapSpec("gradcam", ("2",), 50.0, form="mask"), MapSpec("gradcam", ("2",), 20.0)]
    for spec, one_of_many in zip(grid, explain(net, x, grid), strict=True):
        (alone,) = explain(net, x, [spec])
        assert (one_of_many - alone).abs().max() <= 1e-6 * alone.abs().max().clamp_min(1e-30), spec


def test_bias_terms_are_used_when_their_gradient_comes():
    """So that not all of them are held at once."""
    net, gradients = nn.Sequential(*[nn.Conv2d(3, 3, 3, padding=1) for _ in range(6)]), []

    def use(term):
        gradients.append(weakref.ref(term.g))
        return sum(reference() is not None for reference in gradients)

    net = nn.Sequential(net, nn.Flatten(), nn.Linear(3 * 64, 1))
    with frozen(net):
        seen = capture(net, torch.randn(1, 3, 8, 8), 0, gradients=False, biases=True, use_term=use)
    assert len(seen.terms) == 6 and max(seen.terms) <= 2


def test_options_and_forms_are_computed_singly():
    assert supports_multi_delta(MapSpec("fullgrad", delta=50.0))
    assert supports_multi_delta(
        MapSpec("fullgrad", delta=50.0, options=(("normalize_scope", "layer"),))
    )
    by_channel = MapSpec("fullgrad", delta=50.0, options=(("normalize_scope", "channel"),))
    assert not supports_multi_delta(by_channel)
    assert not supports_multi_delta(MapSpec("gradcam", delta=50.0, form="mask"))
