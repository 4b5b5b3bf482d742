"""Heatmap -> mask: every rule against scikit-image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from skimage import filters
from torch.nn import functional

import ltcam_cli
from ltcam_cli.errors import LtcamError
from ltcam_cli.masks.inputs import SegInput
from ltcam_cli.masks.segmenters import (
    SegmenterConfig,
    at_size,
    make_segmenter,
    segment,
)
from ltcam_cli.masks.thresholds import RULES

IMAGE = np.zeros((50, 40), dtype=np.uint8)


def heatmap(seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """A bright blob on noise, never negative."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:50, :40]
    blob = np.exp(-((y - 20) ** 2 + (x - 25) ** 2) / 60)
    return (scale * (blob + 0.1 * random.random((50, 40)))).astype(np.float32)


def mask_of(map_: np.ndarray, rule: str = "otsu", **options: Any) -> np.ndarray:
    return make_segmenter(SegmenterConfig(rule, rule, options))(SegInput(map_, IMAGE))


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


def test_half_of_the_maximum_unless_told() -> None:
    map_ = heatmap()
    np.testing.assert_array_equal(mask_of(map_, "fraction"), map_ > map_.max() / 2)


@pytest.mark.parametrize("of_maximum", [-0.1, 1, 2.5, float("nan"), "half"])
def test_shares_out_of_range(of_maximum: Any) -> None:
    with pytest.raises(LtcamError, match=r"of_maximum=.*: must lie in \[0, 1\)"):
        mask_of(heatmap(), "fraction", of_maximum=of_maximum)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("value", [0, 0.7, -3])
def test_a_constant_map_has_no_mask(rule: str, value: float) -> None:
    mask = mask_of(np.full((50, 40), value, dtype=np.float32), rule)
    assert mask.dtype == np.bool_ and mask.shape == (50, 40) and not mask.any()


@pytest.mark.parametrize("rule", RULES)
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


def test_unknown_rule() -> None:
    with pytest.raises(LtcamError, match=r"segmenter\.rule=otsy: .* did you mean 'otsu'"):
        SegmenterConfig(rule="otsy")


def test_unknown_option() -> None:
    message = r"segmenter\.options\.of_maximun: fraction has no such option; did you mean 'of_max"
    with pytest.raises(LtcamError, match=message):
        SegmenterConfig("mine", "fraction", {"of_maximun": 0.4})
    with pytest.raises(LtcamError, match=r"segmenter\.options\.heatmap"):
        SegmenterConfig("mine", "fraction", {"heatmap": 0.4})


def test_most_have_nothing_to_learn() -> None:
    segmenter = make_segmenter(SegmenterConfig())
    assert not segmenter.lessons


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
