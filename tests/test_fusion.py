"""Layers' maps become one: against the definitions, written out in float64 with loops."""

import math
from fractions import Fraction
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import bilinear, pictures, tiny, unit
from skimage.transform import resize

from ltcam_cli.errors import LtcamError
from ltcam_cli.maps.engine import CamEngine, explain
from ltcam_cli.maps.fusion import fuse, normalized, upscale
from ltcam_cli.maps.method import make_method
from ltcam_cli.maps.spec import Fusion, FusionRule, MapSpec, Normalization

FUSION_RULES, NORMALIZATIONS = get_args(FusionRule), get_args(Normalization)


def normal(M, fusion, place):
    """One image's map (h, w) of a layer."""
    if fusion.normalize == "minmax":
        return unit(M)
    if fusion.normalize == "quantile":
        values = sorted(M.ravel().tolist())
        x = values[math.ceil((len(values) - 1) * Fraction(str(fusion.quantile)))]
        x = x if x > 0 else values[-1]
        return np.array([[min(max(v / x, 0), 1) if x > 0 else 0 for v in row] for row in M])
    if fusion.normalize == "unit-energy":
        energy = math.sqrt(math.fsum(v * v for v in M.ravel()) / M.size)
        return M / energy if energy else M
    if fusion.normalize == "tanh":
        M = M / M.max() if M.max() > 0 else np.zeros_like(M)
        return np.tanh(fusion.gamma * M) if place < (fusion.tanh_layers or 99) else M
    return M


def fused(maps, size, fusion):
    """One image's layers (h, w) each."""
    w = [1.0] * len(maps) if fusion.weights is None else list(fusion.weights)
    layers = [bilinear(normal(M, fusion, place), size) for place, M in enumerate(maps)]
    return {
        "sum": lambda: sum(a * M for a, M in zip(w, layers, strict=True)),
        "mean": lambda: sum(a * M for a, M in zip(w, layers, strict=True)) / sum(w),
        "max": lambda: np.maximum.reduce([a * M for a, M in zip(w, layers, strict=True)]),
        "product": lambda: math.prod(
            np.clip(M, 0, None) ** (a / sum(w)) for a, M in zip(w, layers, strict=True)
        ),
    }[fusion.rule]()


@pytest.mark.parametrize("size", [(12, 8), (7, 15), (64, 3)])
def test_upscaling_is_bilinear_between_pixel_centres(size):
    M = np.random.default_rng(0).random((4, 3))
    found = upscale(torch.from_numpy(M)[None], size)[0].numpy()
    np.testing.assert_allclose(found, bilinear(M, size), atol=1e-12)
    if size[0] >= 4 and size[1] >= 3:
        other = resize(M, size, order=1, mode="edge", anti_aliasing=False)
        np.testing.assert_allclose(found, other, atol=1e-12)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(FUSION_RULES),
    st.sampled_from(NORMALIZATIONS),
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=5),
    st.sampled_from([None, "ones", "others"]),
    st.sampled_from([0.2, 0.9, 0.99, 1.0]),
    st.sampled_from([None, 1, 3]),
    st.sampled_from(["dense", "sparse", "constant", "zero", "signed", "tiny"]),
    st.integers(0, 999),
)
def test_rules_and_normalisations(
    rule, normalize, shapes, weights, quantile, scaled, kind, seed
) -> None:
    rng = np.random.default_rng(seed)
    maps = [rng.random((2, *shape)) * 10.0**n for n, shape in enumerate(shapes)]
    maps[0] = {
        "dense": lambda M: M,
        "sparse": lambda M: np.where(M > 0.9, M, 0),
        "constant": lambda M: np.full_like(M, 3),
        "zero": np.zeros_like,
        "signed": lambda M: M - 0.5,
        "tiny": lambda M: M * 1e-120,
    }[kind](maps[0])
    given = {
        None: None,
        "ones": (1.0,) * len(maps),
        "others": (0.5, *(float(n) for n in range(len(maps) - 1))),
    }[weights]
    fusion = Fusion(rule, normalize, given, quantile, 1.5, scaled)
    found = fuse([torch.from_numpy(M) for M in maps], (7, 5), fusion)
    assert torch.isfinite(found).all()
    for image in range(2):
        truth = fused([M[image] for M in maps], (7, 5), fusion)
        np.testing.assert_allclose(found[image], truth, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("rule", FUSION_RULES)
def test_single_precision_is_near(rule, normalize):
    """Also for maps whose squares float32 cannot hold."""
    rng = np.random.default_rng(0)
    maps = [(rng.random((2, *shape)) ** 4 * scale).astype(np.float32)
            for shape, scale in [((12, 8), 1e-25), ((6, 4), 1.0), ((3, 2), 1e25)]]  # fmt: skip
    fusion = Fusion(rule, normalize, (1.0, 2.0, 0.5), tanh_layers=2)
    found = fuse([torch.from_numpy(M) for M in maps], (12, 8), fusion)
    assert found.dtype == torch.float32
    exact = fuse([torch.from_numpy(M).double() for M in maps], (12, 8), fusion)
    np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-5 * float(exact.max()))


def test_defaults_keep_their_digits():
    maps = [torch.rand(2, 6, 4), torch.rand(2, 3, 2), torch.rand(2, 3, 2)]
    plain = upscale(maps[0], (9, 9)) + upscale(maps[1] + maps[2], (9, 9))
    assert torch.equal(fuse(maps, (9, 9), Fusion()), plain)
    assert torch.equal(fuse(maps, (9, 9), Fusion(weights=(1, 1, 1))), plain)


def test_what_normalisations_promise():
    M = torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(0)) ** 6
    assert normalized(M, Fusion(normalize="unit-energy")).square().mean().item() == pytest.approx(1)
    robust = normalized(M, Fusion(normalize="quantile", quantile=0.9))
    assert ((robust == 1).sum(dim=(1, 2)) == 40).all()  # of 400: from the 360th order on
    scaled = normalized(M, Fusion(normalize="tanh"))
    assert scaled.amax().item() == pytest.approx(math.tanh(2))
    assert (scaled >= M / M.amax(dim=(1, 2), keepdim=True) * math.tanh(2)).all()  # concave


@pytest.mark.parametrize("rule", FUSION_RULES)
def test_constant_maps_are_normalised_to_zeros(rule):
    maps = [torch.full((1, 4, 4), 7.0), torch.full((1, 2, 2), -1.0)]
    assert torch.equal(fuse(maps, (4, 4), Fusion(rule, "minmax")), torch.zeros(1, 4, 4))


def test_fusion_leaves_the_layers_maps_alone():
    maps = [torch.ones(1, 4, 4), torch.ones(1, 4, 4)]
    for rule in FUSION_RULES:
        fuse(maps, (4, 4), Fusion(rule)).add_(5)
        fuse(maps[:1], (4, 4), Fusion(rule)).add_(5)
    assert all(torch.equal(M, torch.ones(1, 4, 4)) for M in maps)


def test_product_ignores_negative_evidence():
    maps = [torch.tensor([[[-4.0, 4.0]]]), torch.tensor([[[9.0, 9.0]]])]
    assert fuse(maps, (1, 2), Fusion("product")).flatten().tolist() == [0, 6]


# Weights of a model's layers


def test_weights_follow_the_layers_as_they_are_listed():
    net, x = tiny(), pictures()
    (first,), (second,) = (explain(net, x, [MapSpec("gradcam", (s,))]) for s in ("s1", "s2"))
    other = MapSpec("gradcam", ("s2", "s1"))  # so that s2 is captured first
    for layers, weights in [
        (("s1", "s2"), (3, 0.5)),
        (("s2", "s1"), (0.5, 3)),
        (("all",), (3, 0.5)),
        (("all",), {"s1": 3, "s2": 0.5}),
        (("features.4", "features.1"), {"s1": 3, "features.4": 0.5}),
    ]:
        spec = MapSpec("gradcam", layers, fusion=Fusion(weights=weights))
        _, found = explain(net, x, [other, spec])
        torch.testing.assert_close(found, 3 * first + 0.5 * second)
    spec = MapSpec("gradcam", ("all",), fusion=Fusion(weights={"s1": 4}))
    torch.testing.assert_close(explain(net, x, [spec])[0], 4 * first + second)


def test_only_the_first_layers_are_scaled_by_tanh():
    net, x = tiny(), pictures()
    (first,), (second,) = (
        explain(net, x, [MapSpec("layercam", (s,), fusion=Fusion(normalize="tanh", tanh_layers=n))])
        for s, n in (("s1", None), ("s2", 0))
    )
    fusion = Fusion("max", "tanh", tanh_layers=1)
    (found,) = explain(net, x, [MapSpec("layercam", ("all",), fusion=fusion)])
    torch.testing.assert_close(found, torch.maximum(first, second))


def test_terms_of_fullgrad_have_the_weight_of_their_stage():
    net, x = tiny(), pictures()
    one, two, whole = explain(net, x, [MapSpec("fullgrad", (s,)) for s in ("s1", "s2", "all")])
    rest = whole - one - two  # the input's term
    assert rest.abs().max() > 0
    for weights in ((2, 5), {"s2": 5, "s1": 2}):
        spec = MapSpec("fullgrad", ("all",), fusion=Fusion(weights=weights))
        torch.testing.assert_close(explain(net, x, [spec])[0], 2 * one + 5 * two + rest)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((1, 2, 3), "method.fusion.weights: 3 numbers for the 2 layers of all; give one a layer"),
        ({"s3": 1}, "method.fusion.weights: s3 is none of the layers of all (known: s1, s2)"),
        ({"p1": 1}, "method.fusion.weights: p1 is none of the layers of all (known: s1, s2)"),
        ({"s1": 0, "s2": 0}, "method.fusion.weights: all are 0"),
    ],
)
def test_weights_that_do_not_fit_the_layers(weights, message):
    with pytest.raises(LtcamError) as error:
        CamEngine(tiny(), [MapSpec("gradcam", ("all",), fusion=Fusion(weights=weights))])
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(
            ({"weights": weights}, "method.fusion.weights=")
            for weights in ([], [0, 0], [-1, 1], [math.nan, 1], ["a"], 3, {}, "s1", {"s1": -1})
        ),
        ({"quantile": 0}, "method.fusion.quantile=0: must be a number above 0 and at most 1"),
        ({"quantile": 1.1}, "method.fusion.quantile=1.1: must be"),
        ({"gamma": 0}, "method.fusion.gamma=0: must be a number above 0"),
        ({"tanh_layers": -1}, "method.fusion.tanh_layers=-1: must be a whole number"),
        ({"scale": 3}, "method.fusion.scale: no such key"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(LtcamError) as error:
        make_method({"fusion": options})
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_what_tables_say():
    assert (Fusion().normalization, Fusion().weighting) == ("none", None)
    assert Fusion(normalize="quantile", quantile=0.95).normalization == "quantile:0.95"
    assert Fusion(normalize="tanh", tanh_layers=3).normalization == "tanh:2:3"
    assert Fusion(weights=[1, 0.5]).weighting == "1,0.5"
    assert Fusion(weights={"s1": 0.5, "s4": 2}).weighting == "s1:0.5,s4:2"


def test_the_fused_map_is_activated():
    maps = [torch.rand(2, 6, 4, dtype=torch.float64), torch.zeros(2, 3, 2, dtype=torch.float64)]
    maps[0][1] = 0
    plain, lifted = (fuse(maps, (12, 8), Fusion(gamma=3.0, activation=a)) for a in ("none", "tanh"))
    truth = np.tanh(3 * plain[0].numpy() / plain[0].numpy().max())
    np.testing.assert_allclose(lifted[0].numpy(), truth, rtol=1e-12)
    assert not lifted[1].any()
