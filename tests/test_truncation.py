import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from nets import pictures, tiny, truncated

from ltcam_cli.errors import LtcamError
from ltcam_cli.maps import truncation
from ltcam_cli.maps.capture import capture, frozen
from ltcam_cli.maps.truncation import exact, keep, thresholds, truncate

shapes = st.tuples(*[st.integers(1, 3)] * 2, *[st.integers(1, 5)] * 2)
deltas = st.one_of(
    st.sampled_from([0.0, 100.0, 33.3, 50, 90.0, 99.99]),
    st.integers(0, 10**6).map(lambda n: n / 10**4),
)
scopes = st.sampled_from(["channel", "layer"])


def gradients(dtype, elements=None):
    width = np.dtype(dtype).itemsize * 8
    ties = st.sampled_from([-1.5, -0.0, 0.0, 0.25, 1.0, 1.0, 2.0])
    some = st.floats(allow_nan=False, allow_infinity=False, width=width)
    return arrays(dtype, shapes, elements=elements or st.one_of(ties, some), fill=st.nothing())


def truth(g, delta, scope):
    return np.stack([truncated(image, delta, scope) for image in g])


WAYS = {"host": truncation._at_ranks_on_host, "device": truncation._at_ranks_on_device}


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=150, deadline=None)
@given(st.one_of(gradients(np.float32), gradients(np.float64)), deltas, scopes)
def test_keeps_what_the_rank_keeps(way, g, delta, scope):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(truncation, "_at_ranks", WAYS[way])
        found = truncate(torch.from_numpy(g), delta, scope).numpy()
    assert found.dtype == g.dtype and found.shape == g.shape
    np.testing.assert_array_equal(found, truth(g, delta, scope))


@settings(max_examples=60, deadline=None)
@given(gradients(np.float32), st.lists(deltas, min_size=1, max_size=4), scopes)
def test_many_deltas_are_the_single_ones(g, several, scope):
    g = torch.from_numpy(g)
    for delta, threshold in zip(several, thresholds(g, several, scope), strict=True):
        assert threshold.shape == (
            (*g.shape[:2], 1, 1) if scope == "channel" else (len(g), 1, 1, 1)
        )
        assert torch.equal(keep(g, threshold), truncate(g, delta, scope))


@pytest.mark.parametrize("scope", ["channel", "layer"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees_with_numpys_percentile_of_well_separated_values(scope, dtype):
    rng = np.random.default_rng(0)
    g = rng.permutation(np.arange(-60, 2 * 3 * 7 * 9 - 60)).reshape(2, 3, 7, 9).astype(float)
    compared = 0
    for delta in [0, 0.7, 3, 12.5, 33.3, 47, 50, 66.6, 81, 90, 99, 99.9, 100]:
        found = truncate(torch.from_numpy(g).to(dtype), delta, scope).numpy()
        parts = [(n, k) for n in range(2) for k in (range(3) if scope == "channel" else [...])]
        for n, k in parts:
            values = g[n, k]
            positive = values[values > 0]
            rank = (len(positive) - 1) * delta / 100
            if delta not in (0, 100) and abs(rank - round(rank)) < 1e-3:
                continue  # on a value itself, rounding decides
            compared += 1
            expected = np.where(values >= np.percentile(positive, delta), values, 0)
            np.testing.assert_array_equal(found[n, k], expected * (values > 0))
    assert compared > 20


def test_decimals_are_taken_as_written():
    # 0.1·(n-1)/100 = 1 for n = 1001; the float of 0.1, a little more, would give rank 2.
    g = torch.arange(1.0, 1002).view(1, 1, 77, 13)
    assert truncate(g, 0.1).count_nonzero() == 1000
    assert truncate(g, 33.3).count_nonzero() == 1001 - 333
    assert truncate(g, 100 / 3).count_nonzero() == 1001 - 334
    assert [float(100 * exact(d)) for d in (0, 33.3, 100, 12.3456789)] == [0, 33.3, 100, 12.3456789]


def test_ties_are_kept_together():
    g = torch.tensor([1.0, 2, 2, 2, 2, 2, 3, -1]).view(1, 1, 2, 4)
    for delta in (1, 20, 50, 83):
        assert truncate(g, delta).flatten().tolist() == [0, 2, 2, 2, 2, 2, 3, 0]
    assert truncate(g, 84).flatten().tolist() == [0, 0, 0, 0, 0, 0, 3, 0]
    assert torch.equal(truncate(torch.ones(1, 2, 3, 3), 90), torch.ones(1, 2, 3, 3))


def test_ends_of_the_scale():
    g = torch.tensor([-3.0, -1, 0, 1, 2, 3]).view(1, 1, 2, 3)
    assert truncate(g, 0).flatten().tolist() == [0, 0, 0, 1, 2, 3]
    assert truncate(g, 100).flatten().tolist() == [0, 0, 0, 0, 0, 3]


@pytest.mark.parametrize("delta", [0, 33.3, 50, 100])
@pytest.mark.parametrize("scope", ["channel", "layer"])
def test_no_positive_or_a_single_one(delta, scope):
    g = torch.zeros(2, 2, 3, 3)
    g[0, 0], g[0, 1], g[1] = -1, 0, -2
    g[1, 1, 2, 0] = 1e-30
    expected = torch.zeros_like(g)
    expected[1, 1, 2, 0] = 1e-30
    assert torch.equal(truncate(g, delta, scope), expected)


def test_scopes_differ_where_channels_do():
    g = torch.stack([torch.arange(1.0, 5), torch.arange(101.0, 105)]).view(1, 2, 2, 2)
    assert truncate(g, 60).count_nonzero(dim=(2, 3)).tolist() == [[2, 2]]
    assert truncate(g, 60, "layer").count_nonzero(dim=(2, 3)).tolist() == [[0, 3]]


def test_images_do_not_see_each_other():
    g = torch.randn(3, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    g[1] *= 1000
    for scope in ("channel", "layer"):
        singly = torch.cat([truncate(image[None], 40, scope) for image in g])
        assert torch.equal(truncate(g, 40, scope), singly)


def test_leaves_the_gradient_itself_alone():
    g = torch.randn(1, 2, 4, 4).transpose(2, 3)
    before = g.clone()
    assert truncate(g, 50).count_nonzero() < g.count_nonzero()
    assert torch.equal(g, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("biases", [False, True])
def test_a_gradient_that_is_no_number_is_refused(value, biases):
    net = tiny()
    with torch.no_grad():
        net.features[3].weight[0, 0, 0, 0] = value
    with frozen(net), pytest.raises(LtcamError, match=r"^layer features\.1: [^\n]*NaN[^\n]*$"):
        capture(net, pictures(), "defect", ("features.1",), biases=biases)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_cuts_the_same():
    g = torch.randn(2, 3, 40, 40)
    for scope in ("channel", "layer"):
        assert torch.equal(truncate(g.cuda(), 33.3, scope).cpu(), truncate(g, 33.3, scope))
