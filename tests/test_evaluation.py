"""Masks against the truth, image by image; and the pictures of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.filters import threshold_otsu
from skimage.measure import label as regions_of
from sklearn.metrics import average_precision_score, confusion_matrix
from torch import Tensor
from torch.nn import functional
from toys import picture, square, tiny_classifier, toy, toys

from ltcam_cli.data.batches import Item
from ltcam_cli.data.dataset import Fit
from ltcam_cli.data.sample import Sample
from ltcam_cli.errors import LtcamError
from ltcam_cli.experiments.config import EvaluationConfig
from ltcam_cli.experiments.devices import use_threads
from ltcam_cli.experiments.settings import Settings
from ltcam_cli.maps.engine import CamEngine, Heatmaps
from ltcam_cli.maps.fusion import at_size
from ltcam_cli.maps.spec import MapSpec
from ltcam_cli.masks.inputs import SegInput
from ltcam_cli.masks.segmenters import Segmenter, SegmenterConfig
from ltcam_cli.report.overlay import GREEN, LONGEST, RED, blended, draw_strip, outlined
from ltcam_cli.runs import masking
from ltcam_cli.runs.masking import (
    ImageResult,
    Loading,
    MaskJob,
    in_background,
    mask_images,
    true_mask,
)
from ltcam_cli.runs.scoring import Scores, evaluate, scorable
from ltcam_cli.scores.pixels import PixelCounts

OTSU = [MaskJob(0, Segmenter(SegmenterConfig()))]
SIZES = [(40, 36), (70, 31), (32, 32), (25, 60)]


@dataclass
class RandomMaps:
    """A heatmap source without a network: a coarse map and a logit for each image in turn."""

    logits: Sequence[float]
    size: tuple[int, int] = (32, 32)
    given: list[Tensor] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)

    def __call__(self, images: Tensor) -> Heatmaps:
        self.batches.append(len(images))
        first = len(self.given)
        maps = [
            torch.from_numpy(np.random.default_rng(n).random(self.size, dtype=np.float32)) ** 3
            for n in range(first, first + len(images))
        ]
        self.given += maps
        logits = torch.tensor(self.logits[first : len(self.given)]).view(-1, 1)
        return Heatmaps([torch.stack(maps)], logits)


def many_sizes(count: int = 9) -> list[Sample]:
    """Every third one is defective; two pictures an item."""
    return [
        toy(n, int(n % 3 == 0), SIZES[n % len(SIZES)], group=f"item{n // 2}") for n in range(count)
    ]


LOGITS = [2.0, -1.0, 0.5, -0.5, 0.0, -3.0, 1.0, 4.0, -0.1]  # toy003 is missed, three false alarms


def expected_masks(source: RandomMaps, samples: list[Sample]) -> Iterator[tuple[Any, Any, Any]]:
    """Heatmap, mask and truth of each image, each by itself."""
    for map_, sample in zip(source.given, samples, strict=True):
        truth = sample.mask
        assert truth is not None
        resized = functional.interpolate(
            map_[None, None], truth.shape, mode="bilinear", align_corners=False
        )[0, 0].numpy()
        yield resized, resized > threshold_otsu(resized), truth


def evaluate_one(*given: Any, **options: Any) -> tuple[Scores, dict[str, Any]]:
    [scores], loop = evaluate(*given, **options)
    return scores, scores.summary() | loop


def run(
    samples: list[Sample],
    images: str = "defective",
    logits: Sequence[float] = LOGITS,
    on_error: str = "raise",
    visit: Callable[[ImageResult, PixelCounts], None] | None = None,
) -> tuple[RandomMaps, Scores, dict[str, Any]]:
    source = RandomMaps(logits)
    loading = Loading(4, on_error=on_error)
    scores, summary = evaluate_one(
        tiny_classifier(), source, OTSU, samples, loading, images=images, visit=visit
    )
    return source, scores, summary


# Counts


@pytest.mark.parametrize("images", ["defective", "predicted", "all"])
def test_counts_are_scikit_learns(images: str) -> None:
    samples = many_sizes()
    source, scores, summary = run(samples, images)
    counted = [s for s in samples if s.label or images != "defective"]
    heatmaps, masks, truths = zip(*expected_masks(source, counted), strict=True)
    called = [logit >= 0 for logit in LOGITS]
    if images == "predicted":
        masks = tuple(m & c for m, c in zip(masks, called, strict=True))
        heatmaps = tuple(h * c for h, c in zip(heatmaps, called, strict=True))
    truth, mask = (np.concatenate([x.ravel() for x in xs]) for xs in (truths, masks))
    tn, fp, fn, tp = confusion_matrix(truth, mask).ravel()
    assert [summary[k] for k in ("tn", "fp", "fn", "tp")] == [tn, fp, fn, tp]
    assert all(isinstance(summary[k], int) for k in ("tn", "fp", "fn", "tp"))
    assert summary["iou"] == pytest.approx(100 * tp / (tp + fp + fn))
    assert summary["precision"] == pytest.approx(100 * tp / (tp + fp))
    assert summary["recall"] == pytest.approx(100 * tp / (tp + fn))
    assert summary["f1"] == pytest.approx(200 * tp / (2 * tp + fp + fn))
    assert summary["iou_low"] <= summary["iou"] <= summary["iou_high"]
    assert summary["n_images"] == len(counted) == len(scores.table)
    assert summary["skipped"] == 0 and summary["seconds"] > 0

    scaled = np.concatenate([(h / max(h.max(), 1e-9)).ravel() for h in heatmaps])
    assert summary["pixel_ap"] == pytest.approx(
        100 * average_precision_score(truth, scaled), abs=0.3
    )
    assert 0 <= summary["aupro"] <= 100 and summary["iou"] <= 100
    assert summary["oracle_iou"] >= 0

    per_image = [
        (m & t).sum() / (m | t).sum()
        for m, t, s in zip(masks, truths, counted, strict=True)
        if s.label
    ]
    assert summary["mean_iou"] == pytest.approx(100 * np.mean(per_image))
    assert summary["undefined_iou"] == 0

    tied, hits, number = 0.0, 0, 0  # a mask counts where its image is called defective
    for m, t, s, p in zip(masks, truths, counted, scores.table["predicted"], strict=True):
        if s.label:
            number += 1
            tied += p * (m & t).sum() / (m | t).sum()
            hits += p and (m & t).any()
    assert summary["seg_miou"] == pytest.approx(100 * tied / number)
    assert summary["seg_recall"] == pytest.approx(100 * hits / number)
    assert 0 < summary["seg_recall"] < 100

    curve = scores.curve
    assert curve["recall"].iloc[-1] == 100 and curve["recall"].is_monotonic_increasing
    area = (curve["recall"].diff().fillna(curve["recall"][0]) * curve["precision"]).sum() / 100
    assert area == pytest.approx(summary["pixel_ap"], abs=1)

    defects = [regions_of(t, connectivity=2) for t in truths]
    touched = sum(np.unique(d[m & t]).size for d, m, t in zip(defects, masks, truths, strict=True))
    assert summary["regions_touched"] == pytest.approx(100 * touched / sum(map(np.max, defects)))
    false = [
        sum(not truth[found == k].any() for k in range(1, found.max() + 1))
        for found, truth in zip((regions_of(m, connectivity=2) for m in masks), truths, strict=True)
    ]
    assert summary["false_regions"] == pytest.approx(np.mean(false))


def test_a_row_an_image() -> None:
    samples = many_sizes()
    _, scores, summary = run(samples, "all")
    table = scores.table
    assert table["name"].tolist() == [s.name for s in samples]
    assert table["group"].tolist() == [s.group for s in samples]
    assert table["label"].tolist() == [s.label for s in samples]
    np.testing.assert_allclose(table["probability"], 1 / (1 + np.exp(-np.array(LOGITS))), rtol=1e-6)
    assert table["predicted"].tolist() == [int(logit >= 0) for logit in LOGITS]
    pixels = [np.prod(SIZES[n % len(SIZES)]) for n in range(len(samples))]
    assert table[["tp", "fp", "fn", "tn"]].sum(axis=1).tolist() == pixels
    for count in ("tp", "fp", "fn", "tn"):
        assert table[count].sum() == summary[count]


def test_the_threshold_and_the_prior_decide_what_is_predicted() -> None:
    classifier = replace(tiny_classifier(), threshold=0.2, prior_shift=-1.0)
    scores, _ = evaluate_one(
        classifier, RandomMaps(LOGITS), OTSU, many_sizes(), Loading(4), images="predicted"
    )
    probability = 1 / (1 + np.exp(1 - np.array(LOGITS)))
    np.testing.assert_allclose(scores.table["probability"], probability, rtol=1e-6)
    assert scores.table["predicted"].tolist() == (probability >= 0.2).astype(int).tolist()
    silent = scores.table["predicted"] == 0
    assert (scores.table[silent][["tp", "fp"]] == 0).all(axis=None)
    assert (scores.table[~silent]["tp"] + scores.table[~silent]["fp"] > 0).all()


def test_a_missed_image_counts_as_missed() -> None:
    samples = [toy(0, 1), toy(3, 1)]
    _, scores, summary = run(samples, "predicted", [-5.0, -5.0])
    assert summary["tp"] == summary["fp"] == 0 and summary["recall"] == 0 == summary["iou"]
    assert np.isnan(summary["precision"])
    assert summary["regions_touched"] == 0 == summary["false_regions"]
    assert summary["fn"] == square(0, True).sum() + square(3, True).sum()
    assert scores.table["false_regions"].tolist() == [0, 0]


def test_a_good_image_without_a_mask_is_background() -> None:
    samples = [toy(0, 1), replace(toy(1, 0), read_mask=None)]
    _, scores, _ = run(samples, "all")
    row = scores.table.iloc[1]
    assert row["tp"] == row["fn"] == row["regions"] == 0 and row["fp"] + row["tn"] == 40 * 36


def test_a_defective_image_needs_a_mask() -> None:
    with pytest.raises(LtcamError, match=r"toy003: is defective and has no mask .*ltcam predict"):
        run([toy(0, 1), replace(toy(3, 1), read_mask=None)])
    item = Item(toy(1, 0), torch.empty(0), picture(1, False), square(1, False))
    assert true_mask(item) is item.mask


@pytest.mark.parametrize("images", ["defective", "predicted", "all"])
def test_without_masks_evidence_stands_in_place_of_iou(images: str) -> None:
    samples = [replace(sample, read_mask=None) for sample in many_sizes()]
    source = RandomMaps(LOGITS)
    [scores], _ = evaluate(
        tiny_classifier(), source, OTSU, samples, Loading(4), images=images,
        evidence=lambda result: float(len(result.item.sample.name)) + result.mask.sum(),
    )  # fmt: skip
    counted = [s for s in many_sizes() if s.label or images != "defective"]
    masks = [mask for _, mask, _ in expected_masks(source, counted)]
    if images == "predicted":
        masks = [m & (logit >= 0) for m, logit in zip(masks, LOGITS, strict=False)]
    values = [len(s.name) + m.sum() for s, m in zip(counted, masks, strict=True) if s.label]
    summary, table = scores.summary(), scores.table
    assert summary["evidence"] == pytest.approx(np.mean(values))
    assert summary["area"] == pytest.approx(100 * np.mean([mask.mean() for mask in masks]))
    assert summary["n_images"] == len(counted)
    for column in ("iou", "precision", "tp", "fp", "pixel_ap", "seg_miou"):
        assert np.isnan(summary[column]) and (column not in table or table[column].isna().all())
    assert table["evidence"].notna().tolist() == [bool(sample.label) for sample in counted]


def test_defective_images_without_a_mask_are_left_out_where_others_have_one() -> None:
    known, unknown, good = toy(0, 1), replace(toy(3, 1), read_mask=None), toy(1, 0)
    assert scorable([known, unknown, good]) == [known, good]
    assert scorable([unknown, good]) == [unknown, good]
    assert scorable([good]) == [good]


def test_nothing_to_evaluate() -> None:
    with pytest.raises(LtcamError, match=r"no defective image .*evaluation\.split"):
        run([toy(1, 0), toy(2, 0)])


def test_unreadable_images(tmp_path: Path) -> None:
    (tmp_path / "x.png").touch()
    broken = Sample.from_files(tmp_path / "x.png", None, name="x", group="x", label=1)
    samples = [broken, toy(0, 1), broken, toy(3, 1)]
    with pytest.raises(LtcamError, match=r"x\.png: the file is empty"):
        run(samples)
    _, scores, summary = run(samples, on_error="skip")
    assert summary["skipped"] == 2 and summary["n_images"] == 2
    assert scores.table["name"].tolist() == ["toy000", "toy003"]
    with pytest.raises(LtcamError, match="none of the 2 images could be read"):
        run([broken, broken], on_error="skip")


def test_a_mask_of_another_size_is_named() -> None:
    odd = replace(toy(0, 1), read_mask=lambda: np.ones((3, 4), dtype=bool))
    with pytest.raises(LtcamError, match="toy000: mask of 3x4 pixels for an image of 40x36"):
        run([odd])


# The way of a batch


def test_the_map_is_scaled_to_the_mask_and_not_the_mask_down() -> None:
    """The segmenter sees float maps and pixels at the image's own size, which may be larger."""
    seen: list[SegInput] = []

    class Spy:
        calibrators = ()

        def __call__(self, given: SegInput) -> np.ndarray:
            seen.append(given)
            return np.ones(given.heatmap.shape, dtype=bool)

    samples = [toy(0, 1, (300, 200)), toy(3, 1, (20, 25))]
    source = RandomMaps(LOGITS)
    spy = [MaskJob(0, Spy())]
    _, summary = evaluate_one(tiny_classifier(), source, spy, samples, Loading())
    for given, sample, map_ in zip(seen, samples, source.given, strict=True):
        truth = sample.mask
        assert truth is not None
        assert given.heatmap.dtype == np.float32
        assert given.heatmap.shape == given.image.shape == truth.shape
        np.testing.assert_array_equal(given.image, sample.image)
        expected = functional.interpolate(
            map_[None, None], truth.shape, mode="bilinear", align_corners=False
        )
        np.testing.assert_array_equal(given.heatmap, expected[0, 0])
    assert summary["tp"] + summary["fp"] == 300 * 200 + 20 * 25
    assert summary["tp"] == sum(s.mask.sum() for s in samples if s.mask is not None)


def test_visitors_see_each_result_once() -> None:
    seen: list[tuple[str, PixelCounts]] = []

    def visit(result: ImageResult, counts: PixelCounts) -> None:
        assert result.mask.shape == result.heatmap.shape == result.item.sample.image.shape
        seen.append((result.item.sample.name, counts))

    source, scores, _ = run(many_sizes(), "all", visit=visit)
    assert [name for name, _ in seen] == scores.table["name"].tolist()
    assert [counts for _, counts in seen] == scores.counts
    assert source.batches == [4, 4, 1]


def test_results_are_streamed() -> None:
    """No batch is loaded before the results of the one before were taken."""
    source = RandomMaps(LOGITS)
    results = mask_images(tiny_classifier(), source, OTSU, many_sizes(), Loading(2))
    for _ in range(3):
        result = next(results)
    assert source.batches == [2, 2] and result.item.mask is None


class TwoMaps(RandomMaps):
    """Each map, and it upside down."""

    def __call__(self, images: torch.Tensor) -> Heatmaps:
        found = super().__call__(images)
        return Heatmaps([found.maps[0], found.maps[0].flip(-2)], found.logits)


def test_jobs_of_one_map_share_its_upscaling(monkeypatch: pytest.MonkeyPatch) -> None:
    """And each job, in whatever order they are listed, has the scores it has alone."""
    scaled: list[tuple[int, int]] = []

    def counting(maps: torch.Tensor, size: tuple[int, int], fit: Fit) -> np.ndarray:
        scaled.append(size)
        return at_size(maps, size, fit)

    monkeypatch.setattr(masking, "at_size", counting)
    half = Segmenter(SegmenterConfig("half", "fraction"))
    jobs = [MaskJob(1, half), MaskJob(0, half), *OTSU, MaskJob(1, OTSU[0].segmenter)]
    classifier = tiny_classifier()

    def scores(jobs: Sequence[MaskJob]) -> list[Scores]:
        loading = Loading(4)
        return evaluate(classifier, TwoMaps(LOGITS), jobs, many_sizes(), loading, images="all")[0]

    together = scores(jobs)
    assert len(scaled) == 2 * len(many_sizes())
    for job, found in zip(jobs, together, strict=True):
        [alone] = scores([job])
        assert found.table.equals(alone.table) and found.summary() == alone.summary()
    assert len({found.summary()["iou"] for found in together}) == len(jobs)


def test_scores_are_made_while_the_next_batch_is_mapped() -> None:
    made, used = [threading.Event() for _ in range(4)], []

    def items() -> Iterator[int]:
        for number, event in enumerate(made):
            event.set()
            yield number

    def use(number: int) -> None:
        if number + 1 < len(made):
            assert made[number + 1].wait(10)  # which never comes unless both run at once
        assert number + 2 >= len(made) or not made[number + 2].is_set()  # and one waits at most
        used.append((number, threading.current_thread() is not threading.main_thread()))

    in_background(items(), use)
    assert used == [(number, True) for number in range(4)]


def test_errors_come_through_from_both_sides() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise LtcamError("made")

    def refuse(number: int) -> None:
        raise LtcamError("used")

    used: list[int] = []
    with pytest.raises(LtcamError, match="made"):
        in_background(broken(), used.append)
    assert used == [1]
    for count in (1, 5):
        with pytest.raises(LtcamError, match="used"):
            in_background(range(count), refuse)


def test_what_travels_to_the_host_is_the_same_and_is_checked() -> None:
    maps = [torch.rand(3, 4, 5), torch.rand(3, 4, 5, dtype=torch.float64)]
    logits, good = torch.rand(3, 2), {"a": torch.tensor(True), "b": torch.tensor(True)}
    found = Heatmaps(maps, logits, good).copied()
    assert [M.dtype for M in found.maps] == [torch.float32] * 2
    assert all(torch.equal(M, like.float()) for M, like in zip(found.maps, maps, strict=True))
    assert torch.equal(found.logits, logits)
    with pytest.raises(LtcamError, match="layer b: its gradient has NaN or infinite"):
        Heatmaps(maps, logits, good | {"b": torch.tensor(False)}).copied()


SPECS = [
    MapSpec("gradcam", ("all",), 50.0),
    MapSpec("layercam", ("all",)),
    MapSpec("fullgrad", ("all",)),
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.weighting)
def test_the_batch_size_changes_nothing_but_rounding(spec: MapSpec) -> None:
    classifier = tiny_classifier(size=(64, 64))
    samples = many_sizes(7)

    def results(batch_size: int) -> list[ImageResult]:
        source = CamEngine(classifier.model, [spec])
        return list(mask_images(classifier, source, OTSU, samples, Loading(batch_size)))

    for alone, together in zip(results(1), results(5), strict=True):
        assert alone.item.sample == together.item.sample
        assert alone.probability == pytest.approx(together.probability, abs=1e-5)
        scale = max(alone.heatmap.max(), 1e-12)
        np.testing.assert_allclose(alone.heatmap / scale, together.heatmap / scale, atol=2e-3)
        assert (alone.mask != together.mask).mean() < 0.01


def test_workers_change_nothing() -> None:
    classifier = tiny_classifier()

    def summary(workers: int) -> dict[str, Any]:
        source = CamEngine(classifier.model, [MapSpec("layercam", ("all",))])
        _, summary = evaluate_one(
            classifier, source, OTSU, many_sizes(), Loading(4, workers), images="all"
        )
        return summary | {"seconds": 0}

    assert summary(0) == summary(2)


def test_the_model_is_left_as_it_was() -> None:
    classifier = tiny_classifier()
    before = {key: value.clone() for key, value in classifier.model.state_dict().items()}
    source = CamEngine(classifier.model, [MapSpec("gradcam", ("all",), 50.0)])
    evaluate_one(classifier, source, OTSU, toys(4), Loading())
    state = classifier.model.state_dict()
    assert all(torch.equal(value, before[key]) for key, value in state.items())
    assert all(p.requires_grad and p.grad is None for p in classifier.model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": "defect"}, r"evaluation\.images=defect: unknown; did you mean 'defective'"),
        ({"batch_size": 0}, r"evaluation\.batch_size=0: must be .* of at least 1 "),
    ],
)
def test_wrong_configs(options: dict[str, Any], message: str) -> None:
    with pytest.raises(LtcamError, match=message):
        EvaluationConfig(**options)


def test_threads() -> None:
    before = torch.get_num_threads()
    try:
        use_threads(None)
        assert torch.get_num_threads() == before
        use_threads(2)
        assert torch.get_num_threads() == 2
        with pytest.raises(LtcamError, match=r"threads=0: must be .* of at least 1 "):
            Settings(threads=0)
    finally:
        torch.set_num_threads(before)


# Pictures


def result_of(
    pixels: np.ndarray, truth: np.ndarray | None, mask: np.ndarray | None = None
) -> ImageResult:
    height, width = pixels.shape[:2]
    if mask is None:
        mask = np.zeros((height, width), dtype=bool)
        mask[height // 4 : height // 2, width // 4 : width // 2] = True
    heatmap = np.random.default_rng(0).random((height, width), dtype=np.float32)
    sample = toy(0, int(truth is not None and truth.any()))
    return ImageResult(Item(sample, torch.empty(0), pixels, truth), heatmap, mask, 0.87, True)


def strip_of(result: ImageResult, folder: Path) -> np.ndarray:
    path = folder / "overlays" / "strip.png"
    draw_strip(result, path)
    assert [p.name for p in path.parent.iterdir()] == ["strip.png"]
    with Image.open(path) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


def has(strip: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((strip == colour).all(axis=-1).any())


GREY = np.full((100, 60), 90, dtype=np.uint8)


@pytest.mark.parametrize(
    "pixels",
    [
        GREY,
        np.repeat(GREY[..., None], 3, axis=-1),
        (GREY / 255).astype(np.float32),
        np.repeat((GREY / 255).astype(np.float32)[..., None], 3, axis=-1),
    ],
    ids=["grey", "colour", "16 bit", "16 bit colour"],
)
def test_four_panels_with_a_truth(tmp_path: Path, pixels: np.ndarray) -> None:
    truth = np.zeros((100, 60), dtype=bool)
    truth[60:80, 10:30] = True
    strip = strip_of(result_of(pixels, truth), tmp_path)
    assert strip.shape == (100 + 18, 4 * 60 + 3 * 6, 3)
    image, marked, heat, mask = (strip[18:, n * 66 : n * 66 + 60] for n in range(4))
    assert (np.abs(image.astype(int) - 90) <= 1).all()
    assert has(marked, GREEN) and not has(marked, RED)
    assert not has(heat, GREEN) and not has(heat, RED) and (heat != image).any()
    assert has(mask, GREEN) and has(mask, RED)
    assert all((strip[:18, n * 66 : n * 66 + 60] > 120).any() for n in range(4))  # the titles


def test_three_panels_without_a_truth(tmp_path: Path) -> None:
    strip = strip_of(result_of(GREY, None), tmp_path)
    assert strip.shape == (118, 3 * 60 + 2 * 6, 3)
    assert has(strip, RED) and not has(strip, GREEN)


def test_nothing_is_outlined_where_nothing_is(tmp_path: Path) -> None:
    nothing = np.zeros(GREY.shape, dtype=bool)
    strip = strip_of(result_of(GREY, nothing, nothing), tmp_path)
    assert strip.shape[1] == 4 * 60 + 18 and not has(strip, RED) and not has(strip, GREEN)


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (1, 3000), (3000, 1), (1280, 500), (500, 1280)])
def test_tiny_and_large_images(tmp_path: Path, shape: tuple[int, int]) -> None:
    pixels = np.full(shape, 120, dtype=np.uint8)
    truth = np.ones(shape, dtype=bool)
    strip = strip_of(result_of(pixels, truth), tmp_path)
    shrink = min(1, LONGEST / max(shape))
    height, width = (max(1, round(side * shrink)) for side in shape)
    assert strip.shape == (height + 18, 4 * width + 18, 3)


def test_thin_cracks_stay_visible_in_a_small_picture(tmp_path: Path) -> None:
    pixels = np.full((3000, 2000), 100, dtype=np.uint8)
    crack = np.zeros((3000, 2000), dtype=bool)
    crack[1500, 200:1800] = True
    strip = strip_of(result_of(pixels, crack, ~crack & False), tmp_path)
    green = (strip == GREEN).all(axis=-1)
    assert green.any(axis=0).sum() > 2 * 0.75 * LONGEST * 2 / 3  # in two panels, along the crack


def test_an_outline_lies_outside_its_mask() -> None:
    image = np.zeros((30, 30, 3), dtype=np.uint8)
    mask = np.zeros((30, 30), dtype=bool)
    mask[10:20, 12:18] = True
    drawn = outlined(image, mask, RED)
    line = (drawn == RED).all(axis=-1)
    assert line.any() and not (line & mask).any() and not image.any()
    rows, columns = np.nonzero(line)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 21, 10, 19)


def test_heat_is_dark_to_bright() -> None:
    image = np.full((4, 50, 3), 100, dtype=np.uint8)
    ramp = np.repeat(np.linspace(3, 9, 50, dtype=np.float32)[None], 4, axis=0)
    luminance = blended(image, ramp).astype(float) @ [0.299, 0.587, 0.114]
    assert (np.diff(luminance[0]) > -1).all() and luminance[0, -1] - luminance[0, 0] > 80
    flat = blended(image, np.full((4, 50), 7, dtype=np.float32))
    assert (flat == flat[0, 0]).all()
