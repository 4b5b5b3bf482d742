"""Heatmap -> mask: every rule against scikit-image."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from math import ceil
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage import filters
from skimage.measure import label
from torch.nn import functional

import ltcam_cli
from ltcam_cli import parts
from ltcam_cli.config import Share
from ltcam_cli.errors import LtcamError
from ltcam_cli.maps.fusion import at_size
from ltcam_cli.masks.inputs import SegInput
from ltcam_cli.masks.quantile import Quantiles
from ltcam_cli.masks.segmenters import Segmenter, SegmenterConfig, segment
from ltcam_cli.masks.thresholds import RULES

IMAGE = np.zeros((50, 40), dtype=np.uint8)


def heatmap(seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """A bright blob on noise, never negative."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:50, :40]
    blob = np.exp(-((y - 20) ** 2 + (x - 25) ** 2) / 60)
    return (scale * (blob + 0.1 * random.random((50, 40)))).astype(np.float32)


def mask_of(map_: np.ndarray, rule: str = "otsu", **options: Any) -> np.ndarray:
    return Segmenter(SegmenterConfig(rule, rule, options))(SegInput(map_, IMAGE))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("seed", range(5))
def test_otsu_is_scikit_images(seed: int, scale: float) -> None:
    map_ = heatmap(seed, scale)
    mask = mask_of(map_)
    assert mask.dtype == np.bool_ and mask.shape == map_.shape
    np.testing.assert_array_equal(mask, map_ > filters.threshold_otsu(map_))
    assert 0 < mask.mean() < 0.3


@pytest.mark.parametrize(
    ("rule", "threshold"),
    [
        ("li", filters.threshold_li),
        ("triangle", filters.threshold_triangle),
        ("yen", filters.threshold_yen),
    ],
)
def test_other_rules_are_scikit_images(rule: str, threshold: Any) -> None:
    map_ = heatmap(1)
    mask = mask_of(map_, rule)
    np.testing.assert_array_equal(mask, map_ > threshold(map_))
    assert mask[20, 25] and not mask.all()


@given(
    classes=st.integers(2, 4),
    nbins=st.sampled_from([16, 64, 128]),
    levels=st.integers(2, 300),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_multiotsu_is_scikit_images(classes: int, nbins: int, levels: int, seed: int) -> None:
    map_ = np.rint(levels * heatmap(seed)).astype(np.float32) / 7
    found = mask_of(map_, "multiotsu", classes=classes, nbins=nbins)
    held = np.flatnonzero(np.histogram(map_, nbins)[0])
    if len(held) < classes:  # which scikit-image refuses: the highest bin is the top class
        width = np.ptp(map_) / nbins
        np.testing.assert_array_equal(found, map_ > map_.max() - 1.5 * width)
    else:
        threshold = filters.threshold_multiotsu(map_, classes=classes, nbins=nbins)[-1]
        np.testing.assert_array_equal(found, map_ > threshold)


def test_iterative_otsu_is_otsu_of_what_is_above() -> None:
    map_ = heatmap(2)
    mask = np.ones(map_.shape, dtype=bool)
    for rounds in (1, 2, 3):
        mask &= map_ > filters.threshold_otsu(map_[mask])
        np.testing.assert_array_equal(mask_of(map_, "iterative_otsu", rounds=rounds), mask)
    steps = np.array([[0, 0, 1, 1]], dtype=np.float32)
    assert mask_of(steps, "iterative_otsu", rounds=9).tolist() == [[False, False, True, True]]


@pytest.mark.parametrize("high", [0.7, "otsu"])
def test_hysteresis_keeps_what_touches_a_summit(high: Any) -> None:
    map_ = heatmap(0) + 0.9 * np.roll(heatmap(1), 15, axis=0) * (np.arange(40) < 12)
    upper = filters.threshold_otsu(map_) if high == "otsu" else 0.7 * map_.max()
    found = mask_of(map_, "hysteresis", low=0.1, high=high)
    regions = label(map_ > np.float32(0.1 * map_.max()), connectivity=1)
    summits = np.unique(regions[map_ > upper])
    np.testing.assert_array_equal(found, np.isin(regions, summits) & (regions > 0))
    assert 0 < len(summits) < regions.max()


@given(
    values=hnp.arrays(np.float32, st.integers(50, 300), elements=st.floats(-1e3, 1e3, width=32)),
    share=st.floats(0.5, 1),
)
def test_quantiles_in_one_pass(values: np.ndarray, share: float) -> None:
    seen = Quantiles()
    for part in np.array_split(values, 3):
        seen.add(part)
    found, exact = seen.quantile(share), np.sort(values)[max(0, ceil(share * len(values)) - 1)]
    assert (values > found).sum() <= (1 - share) * len(values) + 1e-9
    assert exact <= found <= exact + 5e-4 * abs(exact) + 1e-37


def test_above_what_good_images_reach() -> None:
    segmenter = Segmenter(SegmenterConfig("good", "good_quantile", {"quantile": 0.99}))
    with pytest.raises(LtcamError, match=r"rule=good_quantile: must see training images first"):
        segmenter(SegInput(heatmap(), IMAGE))
    [calibrator] = segmenter.calibrators
    assert calibrator.label == 0 and calibrator.reads_maps
    maps = [heatmap(seed, scale=seed) for seed in range(1, 6)]
    for map_ in maps:
        calibrator.partial_fit(SegInput(map_, IMAGE))
    calibrator.finalize()
    assert calibrator.state == pytest.approx(np.quantile(maps, 0.99), rel=2e-3)
    shares = [segmenter(SegInput(map_, IMAGE)).mean() for map_ in maps]
    assert shares[0] == 0 and 0.008 < np.mean(shares) <= 0.01
    assert not segmenter(SegInput(np.full((50, 40), 99, dtype=np.float32), IMAGE)).any()


def test_tidied() -> None:
    """A line of two pixels' width, a disc with a hole, and specks."""
    y, x = np.mgrid[:50, :40]
    map_ = ((y - 30) ** 2 + (x - 20) ** 2 < 90).astype(np.float32)
    map_[30, 20] = map_[2, 2] = 0
    map_[5:7, 5:35] = map_[20, 38] = map_[45, 2] = map_[46, 3] = 1

    def tidied(**keys: int) -> np.ndarray:
        config = SegmenterConfig(options={}, **keys)
        return Segmenter(config)(SegInput(map_, IMAGE))

    assert tidied(closing=1)[30, 20] and not tidied()[30, 20]
    opened = tidied(opening=2)
    assert not opened[:15].any() and opened[25, 20] and not opened[20, 38]
    regions = label(map_, connectivity=2)
    sizes = np.bincount(regions.ravel())
    for least in (1, 2, 3, 60, 61):
        expected = (map_ > 0) & (sizes[regions] >= least)
        np.testing.assert_array_equal(tidied(min_area=least), expected)
    assert tidied(min_area=2)[46, 3] and not tidied(min_area=2)[20, 38]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"closing": 100_000}, r"closing=100000: must be a whole number of at least 0 and at most"),
        ({"min_area": -1}, r"segmenter\.min_area=-1: must be a whole number of at least 0"),
        ({"opening": True}, r"segmenter\.opening=true: must be a whole number"),
        ({"options": {"nbins": 10**9}}, r"options\.nbins=1000000000: must be a whole number of"),
        ({"rule": "otsy"}, r"segmenter\.rule=otsy: .* did you mean 'otsu'"),
        (
            {"rule": "multiotsu", "options": {"classes": 1}},
            r"options\.classes=1: .* of at least 2 and at most 5",
        ),
        (
            {"rule": "good_quantile", "options": {"quantile": 2}},
            r"options\.quantile=2: .* of at least 0 and at most 1",
        ),
        (
            {"rule": "good_quantile", "options": {"quantil": 1}},
            r"options\.quantil: good_quantile has no such option; did you mean 'quantile'",
        ),
        ({"rule": "fraction", "options": {"values": 0.4}}, r"options\.values: .* no such option"),
        ({"rule": "iterative_otsu", "options": {"rounds": 0}}, r"options\.rounds=0: must be a wh"),
        (
            {"rule": "hysteresis", "options": {"high": 0.1}},
            r"options\.high=0.1: .*\.low, 0\.3, and",
        ),
        (
            {"rule": "hysteresis", "options": {"high": "li"}},
            r"high=li: must be a number .* or otsu",
        ),
        ({"rule": "no_such.package:rule"}, r"rule=no_such\.package:rule: .* cannot be imported"),
        ({"rule": "test_masks:my_rul"}, r"rule=test_masks:my_rul: .* did you mean 'my_rule'"),
        ({"rule": "test_masks:my_rule"}, r"segmenter\.options\.share: is not set"),
        (
            {"rule": "test_masks:my_rule", "options": {"share": 2}},
            r"options\.share=2: must be a number of at least 0 and at most 1",
        ),
    ],
)
def test_a_wrong_config_is_refused_before_anything_is_computed(
    keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(LtcamError, match=message):
        SegmenterConfig(**keys)


def my_rule(values: np.ndarray, share: Share, plus: float = 0.0) -> float:
    """A rule as others write one."""
    return float(np.quantile(values, share) + plus)


def no_rule(values: np.ndarray) -> np.ndarray:
    """What is no rule, since it gives no number."""
    return values


def test_a_rule_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    map_ = heatmap()
    expected = map_ > np.quantile(map_, 0.9)
    np.testing.assert_array_equal(mask_of(map_, "test_masks:my_rule", share=0.9), expected)
    point = EntryPoint("ninth", "test_masks:my_rule", "ltcam.segmenters")
    monkeypatch.setattr(parts, "entry_points", lambda group: [point] * (group == point.group))
    np.testing.assert_array_equal(mask_of(map_, "ninth", share=0.9), expected)
    with pytest.raises(LtcamError, match=r"rule=nineth: .* did you mean 'ninth'"):
        SegmenterConfig(rule="nineth")
    with pytest.raises(LtcamError, match=r"no_rule: .* a rule must return one number"):
        mask_of(map_, "test_masks:no_rule")


@pytest.mark.parametrize("of_maximum", [0, 0.2, 0.5, 0.99])
def test_a_share_of_the_maximum(of_maximum: float) -> None:
    map_ = heatmap()
    expected = map_ > of_maximum * map_.max()
    np.testing.assert_array_equal(mask_of(map_, "fraction", of_maximum=of_maximum), expected)
    np.testing.assert_array_equal(mask_of(map_ * 7, "fraction", of_maximum=of_maximum), expected)


def test_what_equals_the_threshold_is_outside() -> None:
    steps = np.array([[0, 1, 2, 3, 4]], dtype=np.float32)
    assert mask_of(steps, "fraction", of_maximum=0.5).tolist() == [[False] * 3 + [True] * 2]
    assert mask_of(steps, "fraction", of_maximum=0).tolist() == [[False] + [True] * 4]


def test_half_of_the_maximum_by_default() -> None:
    map_ = heatmap()
    np.testing.assert_array_equal(mask_of(map_, "fraction"), map_ > map_.max() / 2)


@pytest.mark.parametrize("of_maximum", [-0.1, 1, 2.5, float("nan"), "half"])
def test_shares_out_of_range(of_maximum: Any) -> None:
    with pytest.raises(
        LtcamError, match=r"of_maximum=.*: must be a number of at least 0 and below 1"
    ):
        SegmenterConfig("x", "fraction", {"of_maximum": of_maximum})


@pytest.mark.parametrize("rule", [*RULES, "hysteresis"])
@pytest.mark.parametrize("value", [0, 0.7, -3])
def test_a_constant_map_has_no_mask(rule: str, value: float) -> None:
    mask = mask_of(np.full((50, 40), value, dtype=np.float32), rule)
    assert mask.dtype == np.bool_ and mask.shape == (50, 40) and not mask.any()


@pytest.mark.parametrize("rule", [*RULES, "hysteresis"])
def test_every_rule_leaves_the_map_alone(rule: str) -> None:
    map_ = heatmap()
    before = map_.copy()
    mask_of(map_, rule)
    np.testing.assert_array_equal(map_, before)


def test_options_reach_the_rule() -> None:
    map_ = heatmap()
    expected = map_ > filters.threshold_otsu(map_, nbins=8)
    np.testing.assert_array_equal(mask_of(map_, nbins=8), expected)
    assert (expected != mask_of(map_)).any()


@pytest.mark.parametrize("rule", ["otsu", "multiotsu", "iterative_otsu", "triangle", "yen"])
def test_two_bins_are_enough(rule: str) -> None:
    assert 0 < mask_of(heatmap(), rule, nbins=2).mean() < 0.5


def test_segment_in_one_call() -> None:
    map_ = heatmap()
    np.testing.assert_array_equal(segment(map_, IMAGE), mask_of(map_))
    np.testing.assert_array_equal(
        ltcam_cli.segment(map_, IMAGE, "fraction", of_maximum=0.3),
        map_ > np.float32(0.3) * map_.max(),
    )


@pytest.mark.parametrize("size", [(50, 40), (123, 31), (20, 90)])
def test_at_size_is_bilinear(size: tuple[int, int]) -> None:
    maps = torch.from_numpy(np.stack([heatmap(0), heatmap(1)]))
    resized = at_size(maps, size)
    assert resized.dtype == np.float32 and resized.shape == (2, *size)
    expected = functional.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)
    np.testing.assert_array_equal(resized, expected[:, 0])
    halves = at_size(maps.half(), size)
    assert halves.dtype == np.float32
    np.testing.assert_allclose(halves, resized, atol=2e-3)
