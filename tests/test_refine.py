"""The image inside a heatmap's region: every refinement against what is written out here."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage import filters

from ltcam_cli.errors import LtcamError
from ltcam_cli.masks.appearance import features
from ltcam_cli.masks.colour_mixtures import fit_mixture
from ltcam_cli.masks.guided import guided_filter
from ltcam_cli.masks.inputs import SegInput, grey, window
from ltcam_cli.masks.refine import REFINEMENTS, RESPONSES, RefineConfig
from ltcam_cli.masks.segmenters import Segmenter, SegmenterConfig

SIZE = (90, 70)
ALL = [*RESPONSES, *REFINEMENTS]


def crack(seed: int) -> np.ndarray:
    """(H, W) bool: a wavy line, three pixels wide."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    middle = 20 + 5 * seed % 30 + 3 * np.sin(y / 7 + seed)
    return (np.abs(x - middle) < 1.5) & (y > 20) & (y < 70)


def surface(seed: int, step: float, kind: str = "uint8", defective: bool = True) -> np.ndarray:
    """Noise on a slope, with a crack that is brighter by `step` grey values of 255."""
    random = np.random.default_rng(seed)
    slope = np.linspace(90, 160, SIZE[0])[:, None]
    pixels = slope + random.normal(0, 5, SIZE) + step * crack(seed) * defective
    pixels = np.clip(pixels, 0, 255)
    if "colour" in kind:
        pixels = np.stack([pixels, pixels * 0.8, pixels * 0.6], axis=-1)
    return pixels.astype(np.uint8) if "uint8" in kind else (pixels / 255).astype(np.float32)


def heatmap(seed: int) -> np.ndarray:
    """A wide hill along the crack."""
    hill = ndimage.gaussian_filter(crack(seed).astype(np.float32), 5)
    return hill + np.random.default_rng(seed).random(SIZE, dtype=np.float32) * 0.01


def make(rule: str, threshold: str = "otsu", grow: int = 0, **options: Any) -> Segmenter:
    refine = RefineConfig(rule, threshold, grow=grow, options=options)
    return Segmenter(SegmenterConfig(refine=refine))


def calibrated(segmenter: Segmenter, step: float, kind: str = "uint8") -> Segmenter:
    """After a few images of each label."""
    for calibrator in segmenter.calibrators:
        for seed in range(10, 14):
            image = surface(seed, step, kind, defective=bool(calibrator.label))
            calibrator.partial_fit(SegInput(heatmap(seed), image))
        calibrator.finalize()
        json.dumps(calibrator.state)
    return segmenter


def iou(mask: np.ndarray, true: np.ndarray) -> float:
    return float((mask & true).sum() / (mask | true).sum())


@pytest.mark.parametrize("kind", ["uint8", "float", "uint8 colour", "float colour"])
@pytest.mark.parametrize("rule", [rule for rule in ALL if rule != "guided"])
def test_refined_masks_are_nearer_the_crack(rule: str, kind: str) -> None:
    for step in (-50, 50):
        segmenter = calibrated(make(rule), step, kind)
        given_ = SegInput(heatmap(0), surface(0, step, kind))
        images = given_.image.copy(), given_.heatmap.copy()
        region, mask = make("none")(given_), segmenter(given_)
        assert mask.dtype == np.bool_ and not (mask & ~region).any()
        assert iou(mask, crack(0)) > 1.5 * iou(region, crack(0)) > 0.1
        np.testing.assert_array_equal(segmenter(given_), mask)
        np.testing.assert_array_equal(given_.image, images[0])
        np.testing.assert_array_equal(given_.heatmap, images[1])


@pytest.mark.parametrize("rule", ALL)
def test_both_kinds_of_pixels_give_one_mask(rule: str) -> None:
    segmenter = calibrated(make(rule), -50)
    image = surface(0, -50)
    as_float = (image / 255).astype(np.float32)
    masks = [segmenter(SegInput(heatmap(0), pixels)) for pixels in (image, as_float)]
    assert (masks[0] != masks[1]).mean() < 1e-3


@given(rule=st.sampled_from(ALL), seed=st.integers(0, 9), grow=st.sampled_from([0, 3]))
@settings(max_examples=30, deadline=None)
def test_what_is_refined_is_a_part(rule: str, seed: int, grow: int) -> None:
    """Of the region, or of all pixels that are no farther from it than `grow`; and not of less."""
    segmenter = calibrated(make(rule, grow=grow), 50)
    random = np.random.default_rng(seed)
    image = random.integers(0, 255, SIZE, dtype=np.uint8)
    given_ = SegInput(ndimage.gaussian_filter(random.random(SIZE, dtype=np.float32), 4), image)
    region = make("none")(given_)
    allowed = ndimage.distance_transform_edt(~region) <= grow
    assert not (segmenter(given_) & ~allowed).any()


def test_a_region_may_grow() -> None:
    narrow = ndimage.gaussian_filter(crack(0).astype(np.float32), 1)
    narrow *= crack(0) & (np.arange(SIZE[0]) < 45)[:, None]
    given_ = SegInput(narrow, surface(0, -50))
    few, more = (make("contrast", grow=grow, polarity="dark")(given_) for grow in (0, 8))
    assert (more & crack(0)).sum() > (few & crack(0)).sum() + 10


@pytest.mark.parametrize("rule", ALL)
def test_what_is_constant(rule: str) -> None:
    segmenter = calibrated(make(rule), -50)
    nothing = np.full(SIZE, 0.3, dtype=np.float32)
    assert not segmenter(SegInput(nothing, surface(0, -50))).any()
    region = make("none")(SegInput(heatmap(0), surface(0, -50)))
    for flat in (np.full(SIZE, 77, dtype=np.uint8), np.full((*SIZE, 3), 0.4, dtype=np.float32)):
        mask = segmenter(SegInput(heatmap(0), flat))
        assert mask.shape == SIZE and not (mask & ~region).any()
        if rule != "appearance":  # which such an image is far from everywhere
            assert (mask == region).mean() > 0.99
    everywhere = np.arange(SIZE[0] * SIZE[1], dtype=np.float32).reshape(SIZE)
    full = Segmenter(SegmenterConfig("all", "fraction", {"of_maximum": 0.0}))
    assert full(SegInput(everywhere, surface(0, 50))).sum() == everywhere.size - 1


@pytest.mark.parametrize("rule", ["contrast", "ridge"])
@pytest.mark.parametrize("step", [-40, 40])
def test_the_set_says_whether_defects_are_dark_or_bright(rule: str, step: int) -> None:
    segmenter = make(rule)
    [calibrator] = segmenter.calibrators
    assert calibrator.label == 1 and calibrator.reads_maps
    with pytest.raises(LtcamError, match="polarity=auto: must see training images first"):
        segmenter(SegInput(heatmap(0), surface(0, step)))
    calibrated(segmenter, step)
    word = "bright" if step > 0 else "dark"
    assert calibrator.state["polarity"] == word
    explicit = make(rule, polarity=word)
    assert not explicit.calibrators
    for shown in (step, -step):  # one polarity, whatever a single image shows
        given_ = SegInput(heatmap(3), surface(3, shown))
        np.testing.assert_array_equal(segmenter(given_), explicit(given_))


def test_no_region_has_no_polarity() -> None:
    segmenter = make("contrast")
    [calibrator] = segmenter.calibrators
    calibrator.partial_fit(SegInput(np.zeros(SIZE, dtype=np.float32), surface(0, 50)))
    calibrator.finalize()
    given_ = SegInput(heatmap(0), surface(0, -50))
    np.testing.assert_array_equal(segmenter(given_), make("contrast", polarity="both")(given_))


def test_contrast_is_the_image_minus_its_background() -> None:
    image = surface(1, -50)
    pixels = image / 255
    region = make("none")(SegInput(heatmap(1), image))
    for background in ("gaussian", "median"):
        options = {"scale": 4, "smooth": 0, "background": background}
        if background == "median":
            around = ndimage.median_filter(pixels, 9)
        else:
            around = ndimage.gaussian_filter(pixels, 4, truncate=3)
        for polarity, response in (
            ("dark", np.maximum(around - pixels, 0)),
            ("bright", np.maximum(pixels - around, 0)),
            ("both", np.abs(pixels - around)),
        ):
            expected = region & (response > filters.threshold_otsu(response[region]))
            mask = make("contrast", polarity=polarity, **options)(SegInput(heatmap(1), image))
            assert (mask != expected).mean() < 5e-3, (background, polarity)


@pytest.mark.parametrize("name", ["sato", "frangi", "meijering"])
def test_ridges_are_scikit_images(name: str) -> None:
    image = surface(1, -50)
    region = make("none")(SegInput(heatmap(1), image))
    black, white = (
        getattr(filters, name)(grey(image), sigmas=[1, 2], black_ridges=dark)
        for dark in (True, False)
    )
    for polarity, response in (
        ("dark", black), ("bright", white), ("both", np.maximum(black, white))
    ):  # fmt: skip
        expected = region & (response > filters.threshold_otsu(response[region]))
        segmenter = make("ridge", filter=name, sigmas=[1, 2], polarity=polarity)
        mask = segmenter(SegInput(heatmap(1), image))
        assert iou(mask, expected) > 0.95, polarity  # frangi is scaled by the strongest ridge seen


@pytest.mark.parametrize("kind", ["uint8", "float colour"])
def test_appearance_is_the_mahalanobis_distance(kind: str) -> None:
    segmenter = calibrated(make("appearance", scales=[1, 2]), 50, kind)
    good = [surface(seed, 50, kind, defective=False) for seed in range(10, 14)]
    rows = np.concatenate([features(image, [1, 2]) for image in good]).reshape(-1, 8)
    rows = rows.astype(np.float64)
    used = rows.std(axis=0) > 0  # grey images have no colour
    assert used.sum() == (8 if "colour" in kind else 6)
    mean, inverse = rows[:, used].mean(axis=0), np.linalg.inv(np.cov(rows[:, used].T, ddof=0))
    image = surface(0, 50, kind)
    region = make("none")(SegInput(heatmap(0), image))
    each = features(image, [1, 2])[region][:, used] - mean
    expected = np.sqrt(np.sum((each @ inverse) * each, axis=1))
    response = segmenter.refinement.response  # type: ignore[attr-defined]
    np.testing.assert_allclose(response(image, region), expected, rtol=1e-2)
    mask = segmenter(SegInput(heatmap(0), image))
    np.testing.assert_array_equal(
        mask[region].mean(), (expected > filters.threshold_otsu(expected)).mean()
    )


def test_the_nearest_of_a_memory() -> None:
    segmenter = calibrated(make("appearance", model="nearest", memory=50, scales=[1]), 50)
    response = segmenter.refinement.response  # type: ignore[attr-defined]
    state = response.state
    memory = np.array(state["memory"])
    assert memory.shape == (50, 5)
    image, inside = surface(0, 50), crack(0)
    rows = (features(image, [1])[inside] - state["mean"]) @ np.array(state["whitening"])
    expected = np.linalg.norm(rows[:, None] - memory, axis=-1).min(axis=1)
    np.testing.assert_allclose(response(image, inside), expected, rtol=2e-2, atol=1e-2)


@pytest.mark.parametrize("rule", RESPONSES)
def test_a_response_above_what_good_images_have(rule: str) -> None:
    segmenter = calibrated(make(rule, "good_quantile"), -50)
    assert [calibrator.label for calibrator in segmenter.calibrators][-1] == 0
    good = [surface(seed, 0) for seed in range(10, 14)]
    everywhere = np.ones(SIZE, dtype=bool)
    response = segmenter.refinement.response  # type: ignore[attr-defined]
    values = np.concatenate([response(image, everywhere) for image in good])
    assert segmenter.calibrators[-1].state == pytest.approx(np.quantile(values, 0.999), rel=0.02)
    assert segmenter(SegInput(heatmap(5), surface(5, 0))).sum() < 15
    assert segmenter(SegInput(heatmap(5), surface(5, -50))).sum() > 50


def plain_guided(guide: np.ndarray, values: np.ndarray, radius: int, eps: float) -> np.ndarray:
    """He et al. 2013, algorithm 1, pixel by pixel in float64."""
    height, width = guide.shape
    guide, values = guide.astype(np.float64), values.astype(np.float64)

    def at(y: int, x: int) -> tuple[slice, slice]:
        return (
            slice(max(0, y - radius), y + radius + 1),
            slice(max(0, x - radius), x + radius + 1),
        )

    slope, offset = np.zeros_like(guide), np.zeros_like(guide)
    for y in range(height):
        for x in range(width):
            i, p = guide[at(y, x)], values[at(y, x)]
            slope[y, x] = ((i * p).mean() - i.mean() * p.mean()) / (i.var() + eps)
            offset[y, x] = p.mean() - slope[y, x] * i.mean()
    return np.array(
        [
            [slope[at(y, x)].mean() * guide[y, x] + offset[at(y, x)].mean() for x in range(width)]
            for y in range(height)
        ]
    )


@pytest.mark.parametrize(("radius", "eps"), [(1, 1e-3), (4, 1e-2), (40, 1e-4)])
def test_guided_filter_is_he_and_others(radius: int, eps: float) -> None:
    guide, values = grey(surface(2, 50))[:30, 10:44], heatmap(2)[:30, 10:44]
    found = guided_filter(guide, values, radius, eps)
    expected = plain_guided(guide, values, radius, eps)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.ptp(values))
    image = surface(2, 50)
    again = filters.threshold_otsu(filtered := guided_filter(grey(image), heatmap(2), 3, 1e-3))
    region = make("none")(SegInput(heatmap(2), image))
    mask = make("guided", radius=3)(SegInput(heatmap(2), image))
    np.testing.assert_array_equal(mask, region & (filtered > again))


def test_a_mixture_finds_its_parts() -> None:
    random = np.random.default_rng(0)
    parts = [random.normal([0.2, 0.3], 0.02, (300, 2)), random.normal([0.6, 0.1], 0.05, (100, 2))]
    mixture = fit_mixture(np.concatenate(parts), 2)
    order = np.argsort(mixture.means_[:, 0])
    np.testing.assert_allclose(mixture.means_[order], [[0.2, 0.3], [0.6, 0.1]], atol=0.02)
    np.testing.assert_allclose(mixture.weights_[order], [0.75, 0.25], atol=0.01)
    grid = np.stack(np.meshgrid(*[np.linspace(-0.5, 1.5, 400)] * 2), axis=-1).reshape(-1, 2)
    assert np.exp(mixture.score_samples(grid)).sum() * (2 / 399) ** 2 == pytest.approx(1, abs=0.01)


def hysteresis(e: np.ndarray, low: float, high: float) -> np.ndarray:
    """What is above `low` and 4-connected to something above `high`, region by region."""
    regions, count = ndimage.label(e > low)
    mask = np.zeros(e.shape, dtype=bool)
    for number in range(1, count + 1):
        if (e[regions == number] > high).any():
            mask |= regions == number
    return mask


@given(st.integers(0, 30), st.sampled_from([5.0, 20.0, 60.0]))
@settings(max_examples=20, deadline=None)
def test_deviation_is_hysteresis_of_the_evidence(seed: int, step: float) -> None:
    image, M = surface(seed, -step), heatmap(seed)
    refine = RefineConfig("contrast", "deviation", options={"scale": 9.0, "polarity": "dark"})
    config = SegmenterConfig("x", "fraction", {"of_maximum": 0.2}, refine)
    mask = Segmenter(config)(SegInput(M, image))

    pixels = image.astype(np.float64) / 255
    background = ndimage.gaussian_filter(pixels, 9.0, truncate=3)
    r = np.maximum(background - ndimage.gaussian_filter(pixels, 1.0), 0)
    e = np.sqrt(M / M.max()) * r / np.quantile(r, 0.8413)
    e[0.2 * M.max() >= M] = 0
    sink = min(1.0, 0.8 * e.max() / 2.5)
    assert mask.any()
    assert (mask != hysteresis(e, 1.2 * sink, 2.5 * sink)).sum() <= 2  # float32 at a threshold


def test_a_defective_image_has_a_mask_however_faint() -> None:
    """Both thresholds sink with the highest evidence."""
    refine = RefineConfig("contrast", "deviation", low=500, high=1000, options={"polarity": "dark"})
    segmenter = Segmenter(SegmenterConfig("x", "fraction", {"of_maximum": 0.2}, refine))
    mask = segmenter(SegInput(heatmap(3), surface(3, -40)))
    assert mask.any() and iou(mask, crack(3)) > 0.3


def test_windows() -> None:
    mask = np.zeros(SIZE, dtype=bool)
    mask[5, 9] = mask[60, 68] = True
    assert window(mask, 0) == (slice(5, 61), slice(9, 69))
    assert mask[window(mask, 10)].shape == (71, 70)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"rule": "contrst"}, r"refine\.rule=contrst: unknown; did you mean 'contrast'"),
        ({"threshold": "otsy"}, r"refine\.threshold=otsy: .* 'otsu'"),
        ({"rule": "ridge", "threshold": "hysteresis"}, r"refine\.threshold=hysteresis: unknown"),
        ({"rule": "guided", "threshold": "good_quantile"}, r"good_quantile: guided takes none"),
        ({"options": {"scale": 3}}, r"refine\.options\.scale: refine\.rule=none has no options"),
        ({"rule": "ridge", "options": {"scale": 3}}, r"refine\.options\.scale: ridge has no such"),
        ({"rule": "gmm", "options": {"_": 3}}, r"refine\.options\._: gmm has no such"),
        (
            {"rule": "ridge", "options": {"sigmas": 3}},
            r"refine\.options\.sigmas=3: must be a list of",
        ),
        ({"rule": "ridge", "options": {"sigmas": []}}, r"options\.sigmas=\[\]: must be a list of"),
        ({"rule": "ridge", "options": {"filter": "stao"}}, r"options\.filter=stao: .* 'sato'"),
        ({"rule": "contrast", "options": {"polarity": "drak"}}, r"polarity=drak: .* 'dark'"),
        ({"rule": "contrast", "options": {"scale": "x"}}, r"options\.scale=x: must be a number"),
        ({"rule": "contrast", "options": {"background": "mean"}}, r"background=mean: unknown"),
        ({"rule": "appearance", "options": {"model": "x"}}, r"options\.model=x: unknown"),
        (
            {"rule": "gmm", "options": {"ring": 10**6}},
            r"ring=1000000: must be a whole number .* mo",
        ),
        ({"rule": "random_walker", "options": {"high": 0.05}}, r"high=0.05: .*\.low, 0\.1, and"),
        ({"grow": -1}, r"segmenter\.refine\.grow=-1: must be a whole number"),
        ({"low": 3.0, "high": 2.0}, r"refine\.high=2: must be a number of at least .*\.low, 3"),
        ({"low": 0.0, "high": 0.0}, r"segmenter\.refine\.high=0\.0: must be a number above 0"),
        ({"quantile": 2.0}, r"segmenter\.refine\.quantile=2\.0: .* at least 0 and at most 1"),
    ],
)
def test_wrong_configs(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(LtcamError, match=message):
        SegmenterConfig(refine=RefineConfig(**keys))


def test_the_name_in_tables() -> None:
    assert SegmenterConfig().label == "otsu"
    assert SegmenterConfig("mine", "li", refine=RefineConfig("ridge")).label == "mine+ridge"
