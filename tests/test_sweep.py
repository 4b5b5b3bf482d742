"""Many specs at once give what each gives alone, which is what the formulas give."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ltcam_cli.maps.capture import Capture, Layer
from ltcam_cli.maps.engine import explain, layer_map
from ltcam_cli.maps.spec import Fusion, MapSpec
from ltcam_cli.maps.sweep import SWEPT, Kept, Sweep
from ltcam_cli.maps.truncation import keep, thresholds

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


@pytest.mark.parametrize("name", sorted(SWEPT))
@pytest.mark.parametrize("scope", ["channel", "layer"])
@settings(max_examples=25, deadline=None)
@given(
    st.tuples(*(st.integers(1, 4) for _ in range(4))), st.integers(0, 999), st.booleans()
)  # fmt: skip
def test_sweep_is_the_formula(name, scope, shape, seed, positive):
    layer = made(shape, seed, positive=positive)
    bounds = thresholds(layer.g, DELTAS, scope)
    sweep = Sweep(layer, bounds)
    for number, delta in enumerate(DELTAS):
        spec = MapSpec(name, delta=delta, scope=scope)
        found = sweep.map(spec, number)
        if found is None:
            assert name == "fullgrad" and sweep.kept.everything
            continue
        formula = layer_map(layer, keep(layer.g, bounds[number]), spec)
        torch.testing.assert_close(found, formula, rtol=1e-9, atol=1e-12)


def test_kept_sums_written_out():
    g = torch.tensor([[[[1.0, -1.0], [2.0, 3.0]], [[0.0, 5.0], [-2.0, 0.0]]]], dtype=torch.float64)
    kept = Kept(g, thresholds(g, [0.0, 50.0, 100.0]))
    assert kept.by_channel(kept.g).tolist() == [[[6, 5]], [[5, 5]], [[3, 5]]]
    assert kept.by_position(kept.g)[:, 0].tolist() == [
        [[1, 5], [2, 3]],
        [[0, 5], [2, 3]],
        [[0, 5], [0, 3]],
    ]
    assert kept.highest(kept.g)[:, 0].tolist() == [5, 5, 5]
    assert not kept.everything


def test_no_positive_entry():
    layer = made((2, 3, 2, 2), 0)
    layer.g = -layer.g.abs()
    for name in SWEPT:
        found = Sweep(layer, thresholds(layer.g, [0.0, 50.0])).map(MapSpec(name, delta=0.0), 0)
        assert found is not None and not found.any()


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
    for spec, found in zip(grid, explain(net, x, grid), strict=True):
        (alone,) = explain(net, x, [spec])
        assert (found - alone).abs().max() <= 1e-6 * alone.abs().max().clamp_min(1e-30), spec


def test_a_weighting_of_ones_own_and_options_take_the_formula():
    layer = made((1, 2, 3, 3), 1)
    sweep = Sweep(layer, thresholds(layer.g, [0.0, 50.0]))
    by_channel = MapSpec("fullgrad", delta=50.0, options=(("normalize_scope", "channel"),))
    assert sweep.map(by_channel, 1) is None
    assert sweep.map(MapSpec("gradcam", delta=50.0, form="mask"), 1) is None
