import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats
from sklearn import metrics

from ltcam_cli.errors import LtcamError
from ltcam_cli.scores import images, intervals
from ltcam_cli.scores.curves import BINS, PixelCurves
from ltcam_cli.scores.pixels import PixelCounts, pooled
from ltcam_cli.scores.regions import touched_regions
from ltcam_cli.scores.samples import seg_miou, seg_recall
from ltcam_cli.scores.skill import fisher, mann_whitney, no_skill

few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**32 - 1)
counts = st.builds(PixelCounts, *[st.integers(0, 10**9)] * 4)
nan = pytest.approx(math.nan, nan_ok=True)


def close(value, abs=1e-12):
    return pytest.approx(value, abs=abs, nan_ok=True)


# Pixel counts


@few
@given(seeds, st.floats(0.1, 0.9), st.floats(0.1, 0.9))
def test_pixel_scores_are_scikit_learns(seed, share_of_mask, share_of_truth):
    rng = np.random.default_rng(seed)
    mask, truth = rng.random((20, 9)) < share_of_mask, rng.random((20, 9)) < share_of_truth
    found = PixelCounts.from_masks(mask, truth)
    for ours, theirs in [
        (found.iou, metrics.jaccard_score),
        (found.precision, metrics.precision_score),
        (found.recall, metrics.recall_score),
        (found.f1, metrics.f1_score),
    ]:
        assert ours == close(theirs(truth.ravel(), mask.ravel()))
    matrix = metrics.confusion_matrix(truth.ravel(), mask.ravel(), labels=[False, True])
    assert [[found.tn, found.fp], [found.fn, found.tp]] == matrix.tolist()
    assert all(type(value) is int for value in vars(found).values())


@given(counts)
def test_f1_and_iou_say_the_same(count):
    iou, f1 = count.iou, count.f1
    assert f1 == close(2 * iou / (1 + iou))
    assert iou == close(f1 / (2 - f1))


@few
@given(seeds)
def test_adding_counts_is_counting_all_pixels_at_once(seed):
    rng = np.random.default_rng(seed)
    masks, truths = rng.random((2, 5, 8, 6)) < 0.4
    each = [PixelCounts.from_masks(*pair) for pair in zip(masks, truths, strict=True)]
    together = PixelCounts.from_masks(np.concatenate(masks), np.concatenate(truths))
    assert pooled(each) == pooled(reversed(each)) == pooled(iter(each)) == together


def test_nothing_over_nothing_is_nan():
    empty, full = np.zeros((4, 5), bool), np.ones((4, 5), bool)
    nothing = PixelCounts.from_masks(empty, empty)
    assert nothing == PixelCounts(tn=20) and pooled([]) == PixelCounts()
    assert all(map(math.isnan, (nothing.iou, nothing.precision, nothing.recall, nothing.f1)))
    missed, alarm = PixelCounts.from_masks(empty, full), PixelCounts.from_masks(full, empty)
    assert (missed.iou, missed.f1, missed.recall) == (0, 0, 0) and math.isnan(missed.precision)
    assert (alarm.iou, alarm.f1, alarm.precision) == (0, 0, 0) and math.isnan(alarm.recall)
    assert PixelCounts.from_masks(full, full) == PixelCounts(tp=20)


@pytest.mark.parametrize(
    "score", [PixelCounts.from_masks, touched_regions, lambda *both: PixelCurves().update(*both)]
)
def test_masks_of_other_shape_are_refused(score):
    with pytest.raises(ValueError, match=r"\(4, 1\).*\(4, 5\)"):  # would broadcast
        score(np.ones((4, 1), bool), np.ones((4, 5), bool))


# Regions


def test_regions_touched_and_false():
    picture = """
        T . . . . M M
        . B . . . . .
        . . . . T . M
        M . . . T . .
    """
    cells = np.array([line.split() for line in picture.split("\n") if line.strip()])
    truth, mask = np.isin(cells, ("T", "B")), np.isin(cells, ("M", "B"))
    assert touched_regions(mask, truth) == (1, 2, 3)  # diagonals join
    assert touched_regions(truth, truth) == (2, 2, 0)
    assert touched_regions(~truth, truth) == (0, 2, 1)
    assert touched_regions(np.zeros_like(truth), truth) == (0, 2, 0)
    assert touched_regions(mask, np.zeros_like(truth)) == (0, 0, 4)


@few
@given(seeds)
def test_regions_one_by_one(seed):
    truth, mask = np.random.default_rng(seed).random((2, 14, 11)) < 0.15
    defects, total = ndimage.label(truth, np.ones((3, 3)))
    found, n_found = ndimage.label(mask, np.ones((3, 3)))
    touched = sum(bool(mask[defects == i].any()) for i in range(1, total + 1))
    false = sum(not truth[found == i].any() for i in range(1, n_found + 1))
    assert touched_regions(mask, truth) == (touched, total, false)


# Curves


def scene(rng, shape=(200, 150), ties=0, skew=1):
    """A heatmap that tells a few defect regions half right; `ties` levels, or continuous."""
    truth = ndimage.gaussian_filter(rng.random(shape), 4) > 0.54
    heatmap = (rng.random(shape) + 0.6 * rng.random() * truth) ** skew
    if ties:
        heatmap = np.maximum(np.round(heatmap * ties) - ties // 3, 0)
    return heatmap.astype(np.float32), truth


def curves_of(scenes):
    curves = PixelCurves()
    for heatmap, truth in scenes:
        curves.update(heatmap, truth)
    return curves


def exact_scores(scenes):
    """Pixel AP, AUPRO and the best IoU, threshold by threshold; slow and obvious."""
    scenes = [(heatmap / heatmap.max(), truth) for heatmap, truth in scenes]
    scores = np.concatenate([heatmap.ravel() for heatmap, _ in scenes])
    truths = np.concatenate([truth.ravel() for _, truth in scenes])
    levels = np.unique(scores)[::-1]

    def share_above(values):
        values = np.sort(values)
        return 1 - np.searchsorted(values, levels) / values.size

    rate = [0, *share_above(scores[~truths])]
    overlaps = []
    for heatmap, truth in scenes:
        labels, n = ndimage.label(truth, np.ones((3, 3)))
        overlaps += [share_above(heatmap[labels == i]) for i in range(1, n + 1)]
    overlap = [0, *np.mean(overlaps, axis=0)]
    area = 0.0
    for (x0, x1), (y0, y1) in zip(pairwise(rate), pairwise(overlap), strict=True):
        if x1 > 0.3:
            area += (0.3 - x0) * (y0 + y0 + (y1 - y0) * (0.3 - x0) / (x1 - x0)) / 2
            break
        area += (x1 - x0) * (y0 + y1) / 2
    tp, found = share_above(scores[truths]) * truths.sum(), share_above(scores) * truths.size
    best = (tp / (truths.sum() + found - tp)).max()
    return metrics.average_precision_score(truths, scores), area / 0.3, best


@pytest.mark.parametrize(
    "ties, skew, abs",
    [(0, 1, 1e-3), (0, 0.5, 1e-3), (0, 3, 1e-3), (0, 9, 1e-3), (37, 2, 1e-3), (4, 1, 1e-6)],
)
def test_curves_are_the_exact_ones(ties, skew, abs):
    rng = np.random.default_rng(7)
    scenes = [scene(rng, ties=ties, skew=skew) for _ in range(4)]
    scenes = [(heatmap * 10.0**i, truth) for i, (heatmap, truth) in enumerate(scenes)]
    scenes.append((scenes[0][0], np.zeros_like(scenes[0][1])))
    curves, (ap, aupro, oracle) = curves_of(scenes), exact_scores(scenes)
    assert 0.05 < ap < 0.95 and 0.05 < aupro < 0.95
    assert curves.pixel_ap == close(ap, abs)
    assert curves.aupro == close(aupro, abs)
    assert curves.oracle_iou == close(oracle, abs)


@pytest.mark.parametrize("ties, skew", [(0, 1), (0, 5), (37, 2), (4, 1)])
def test_the_thinned_curve_lies_on_the_exact_one(ties, skew):
    rng = np.random.default_rng(3)
    scenes = [scene(rng, ties=ties, skew=skew) for _ in range(3)]
    curve = curves_of(scenes).precision_recall(200)
    scaled = np.concatenate([(heatmap / heatmap.max()).ravel() for heatmap, _ in scenes])
    truths = np.concatenate([truth.ravel() for _, truth in scenes])
    precision, recall, _ = metrics.precision_recall_curve(truths, scaled)
    recall, last = np.unique(recall[::-1], return_index=True)  # the highest threshold of each
    assert len(curve) <= 200 and curve[-1, 0] == 1
    assert (np.diff(curve[:, 0]) > 0).all()
    np.testing.assert_allclose(
        curve[:, 1], np.interp(curve[:, 0], recall, precision[::-1][last]), atol=2e-2
    )
    area = np.sum(np.diff(curve[:, 0], prepend=0) * curve[:, 1])
    assert area == close(metrics.average_precision_score(truths, scaled), 1e-2)
    if ties == 4:  # coarser than the thinning: every threshold is there
        assert len(curve) == np.unique(scaled[truths]).size


def test_no_curve_without_both_kinds_of_pixels():
    heatmap = np.random.default_rng(0).random((6, 5))
    for truth in (np.zeros((6, 5), bool), np.ones((6, 5), bool)):
        assert curves_of([(heatmap, truth)]).precision_recall().shape == (0, 2)


def test_aupro_by_hand():
    heatmap = np.array([[4, 0, 3, 1, 0, 2, 1, 1, 0, 0, 0, 0]], float)
    truth = np.array([[1, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]], bool)
    # Thresholds 4, 3, 2, 1 down: overlap 1/2, 3/4, 3/4, 1; rate 0, 0, 1/9, 3/9.
    at_limit = 0.75 + 0.25 * (0.3 - 1 / 9) / (2 / 9)
    area = 0.75 / 9 + (0.3 - 1 / 9) * (0.75 + at_limit) / 2
    assert curves_of([(heatmap, truth)]).aupro == close(area / 0.3)
    assert curves_of([(heatmap, truth)]).oracle_iou == close(2 / 3)


@few
@given(seeds)
def test_neither_order_nor_scale_of_images_matters(seed):
    rng = np.random.default_rng(seed)
    scenes = [scene(rng, (24, 20), ties=9) for _ in range(4)]
    one = curves_of(scenes)
    other = curves_of([(heatmap * 8, truth) for heatmap, truth in reversed(scenes)])
    assert one.pixel_ap == close(other.pixel_ap)
    assert one.oracle_iou == close(other.oracle_iou)
    assert one.aupro == close(other.aupro)
    assert np.array_equal(one.negatives, other.negatives)


def test_a_perfect_map_scores_one_and_a_blank_one_chance():
    truth = np.zeros((10, 20), bool)
    truth[2:4, 5:10] = True
    perfect = curves_of([(truth.astype(np.float32), truth)])
    assert (perfect.pixel_ap, perfect.aupro, perfect.oracle_iou) == close((1, 1, 1))
    for blank in (0.0, -3.0, 0.7):  # 0.7 is its own maximum everywhere
        curves = curves_of([(np.full(truth.shape, blank, np.float32), truth)])
        assert (curves.pixel_ap, curves.oracle_iou) == close((0.05, 0.05))
        assert curves.aupro == close(0.15)  # the diagonal
    below = curves_of([(np.where(truth, 1.0, -5.0), truth)])
    assert below.negatives[0] == 190 and below.positives[-1] == 10 and below.aupro == close(1)


def test_curves_without_one_kind_of_pixel_are_nan():
    heatmap = np.random.default_rng(0).random((6, 5))
    clean = curves_of([(heatmap, np.zeros((6, 5), bool))])
    all_defect = curves_of([(heatmap, np.ones((6, 5), bool))])
    for curves in (PixelCurves(), clean):
        assert all(map(math.isnan, (curves.pixel_ap, curves.aupro, curves.oracle_iou)))
    assert math.isnan(all_defect.pixel_ap) and math.isnan(all_defect.aupro)
    assert all_defect.oracle_iou == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_broken_heatmap_is_refused(bad):
    curves, heatmap = PixelCurves(), np.ones((3, 3))
    heatmap[1, 1] = bad
    with pytest.raises(ValueError, match="NaN or"):
        curves.update(heatmap, np.ones((3, 3), bool))
    assert not curves.positives.any() and not curves.negatives.any()


def test_the_curves_memory_is_constant():
    curves, truth = PixelCurves(), np.zeros((126, 50), bool)
    truth[60:62, 8:42] = True
    for seed in range(5):
        curves.update(np.random.default_rng(seed).random((126, 50), dtype=np.float32), truth)
    sizes = {part.shape for part in vars(curves).values() if isinstance(part, np.ndarray)}
    assert sizes == {(BINS,)}


# Images


@few
@given(seeds, st.sampled_from([3, 10, 10**9]))
def test_image_scores_are_scikit_learns(seed, levels):
    rng = np.random.default_rng(seed)
    labels = np.append(rng.integers(0, 2, 30), [0, 1])
    logits = rng.integers(-levels, levels, labels.size) / 7 + labels
    ap, area = images.average_precision(labels, logits), images.auroc(labels, logits)
    assert ap == close(metrics.average_precision_score(labels, logits))
    assert area == close(metrics.roc_auc_score(labels, logits))
    predicted = logits > 0
    matrix = metrics.confusion_matrix(labels, predicted).ravel().tolist()
    found = images.confusion(labels, predicted)
    assert [found[key] for key in ("tn", "fp", "fn", "tp")] == matrix
    assert list(found) == ["tp", "fp", "fn", "tn"]
    assert images.accuracy(labels, predicted) == close(metrics.accuracy_score(labels, predicted))


@few
@given(seeds, st.floats(0.01, 1))
def test_thresholds_by_trying_all(seed, recall):
    rng = np.random.default_rng(seed)
    labels = np.append(rng.integers(0, 2, 25), 1)
    scores = rng.integers(0, 12, labels.size) / 11
    precisions, recalls, levels = metrics.precision_recall_curve(labels, scores)
    precisions, recalls = precisions[:-1], recalls[:-1]
    f1 = (2 * precisions * recalls / np.maximum(precisions + recalls, 1e-9)).round(12)
    assert images.max_f1_threshold(labels, scores) == levels[f1 == f1.max()].max()
    assert images.recall_threshold(labels, scores, recall) == levels[recalls >= recall].max()


def test_a_recall_that_can_be_met_exactly_is():
    scores = np.arange(100.0)
    for found in range(1, 101):
        assert images.recall_threshold(np.ones(100, int), scores, found / 100) == 100 - found


def test_image_scores_without_a_class():
    for labels in ([0, 0, 0], [1, 1, 1], []):
        scores = [0.1, 0.5, 0.5][: len(labels)]
        assert math.isnan(images.average_precision(labels, scores))
        assert math.isnan(images.auroc(labels, scores))
    assert math.isnan(images.accuracy([], []))
    assert images.confusion([], []) == {"tp": 0, "fp": 0, "fn": 0, "tn": 0}


def test_threshold_mistakes_are_named():
    for recall in (0, -0.5, 1.01, 99, math.nan):
        with pytest.raises(LtcamError, match="out of range"):
            images.recall_threshold([0, 1], [0.2, 0.8], recall)
    for choose in (images.max_f1_threshold, lambda *both: images.recall_threshold(*both, 0.9)):
        with pytest.raises(LtcamError, match="no validation item is defective"):
            choose([0, 0], [0.2, 0.8])
        with pytest.raises(LtcamError, match="no validation item is defective"):
            choose([], [])
    for labels, scores in [([0, 2], [0, 1]), ([0, 1, 1], [0, 1]), ([0, 1], [0, math.nan])]:
        with pytest.raises(ValueError):
            images.auroc(labels, scores)


# Samples


@few
@given(seeds)
def test_localisation_counts_where_the_image_is_called_defective(seed):
    rng = np.random.default_rng(seed)
    found = [PixelCounts(*map(int, rng.integers(0, 3, 4))) for _ in range(12)]
    called = (rng.random(12) < 0.7).tolist()
    ious, hits = [], 0
    for c, call in zip(found, called, strict=True):
        if not call:
            ious.append(0)
        elif c.tp + c.fp + c.fn:
            ious.append(c.tp / (c.tp + c.fp + c.fn))
        hits += 1 if call and c.tp >= 1 else 0
    assert seg_miou(found, called) == close(sum(ious) / len(ious))
    assert seg_recall(found, called) == close(hits / 12)


def test_localisation_without_an_image():
    assert math.isnan(seg_miou([], [])) and math.isnan(seg_recall([], []))
    assert math.isnan(seg_miou([PixelCounts(tn=3)], [True]))
    assert seg_miou([PixelCounts(tn=3)], [False]) == 0 == seg_recall([PixelCounts(tn=3)], [True])


# Intervals


@few
@given(seeds)
def test_bootstrap_by_drawing_images(seed):
    rng = np.random.default_rng(seed)
    found = [PixelCounts(*map(int, rng.integers(0, 90, 4))) for _ in range(12)]
    groups = [f"kos{rng.integers(5)}" for _ in found]
    names, drawn = intervals.resample_groups(groups, 30, seed=3)
    assert names == sorted(set(groups)) and (drawn.sum(axis=1) == len(names)).all()
    values = []
    for row in drawn:
        times = dict(zip(names, row, strict=True))
        chosen = [c for c, group in zip(found, groups, strict=True) for _ in range(times[group])]
        values.append(pooled(chosen).iou)
    assert intervals.resampled_iou(found, groups, 30, seed=3) == close(values)
    ends = np.quantile(values, [0.05, 0.95])
    assert intervals.bootstrap_iou(found, groups, 30, seed=3, level=0.9) == close(tuple(ends))
    shuffled = rng.permutation(len(found))
    again = [found[i] for i in shuffled], [groups[i] for i in shuffled]
    assert intervals.bootstrap_iou(*again) == intervals.bootstrap_iou(found, groups)


@given(counts, st.integers(1, 6))
def test_equal_groups_leave_no_doubt(count, n):
    found, groups = [count] * n, [f"item{i}" for i in range(n)]
    low, high = intervals.bootstrap_iou(found, groups, draws=20)
    assert (low, high) == close((pooled(found).iou,) * 2)


def test_bootstrap_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = 0
    for seed in range(200):
        hits = rng.binomial(1000, rng.beta(4, 4, 40))
        found = [PixelCounts(tp=int(hit), fn=1000 - int(hit)) for hit in hits]
        low, high = intervals.bootstrap_iou(found, [str(i) for i in range(40)], 200, seed)
        inside += low <= 0.5 <= high
    assert 0.88 <= inside / 200 <= 0.99


def test_draws_depend_on_names_number_and_seed_only():
    names, drawn = intervals.resample_groups(["b", "a", "b", "c"], 50, seed=1)
    again = intervals.resample_groups(["c", "a", "b"], 50, seed=1)
    assert names == again[0] == ["a", "b", "c"] and np.array_equal(drawn, again[1])
    assert not np.array_equal(drawn, intervals.resample_groups(names, 50, seed=2)[1])
    assert intervals.resample_groups([])[1].shape == (2000, 0)


def test_intervals_and_means_leave_nan_out():
    clean, half = PixelCounts(tn=9), PixelCounts(tp=1, fn=1)
    assert all(map(math.isnan, intervals.bootstrap_iou([], [])))
    assert all(map(math.isnan, intervals.bootstrap_iou([clean], ["a"])))
    assert np.isnan(intervals.resampled_iou([clean, half], ["a", "b"])).any()
    assert intervals.bootstrap_iou([clean, half], ["a", "b"]) == (0.5, 0.5)
    assert intervals.mean_iou([clean, half, PixelCounts(tp=3), clean]) == (0.75, 2)
    assert intervals.mean_iou([clean]) == (nan, 1) and intervals.mean_iou([]) == (nan, 0)
    with pytest.raises(ValueError, match="1 counts but 2 groups"):
        intervals.bootstrap_iou([half], ["a", "b"])
    with pytest.raises(ValueError, match="level"):
        intervals.bootstrap_iou([half], ["a"], level=95)


# Whether anything was learnt


@few
@given(seeds, st.integers(0, 40), st.integers(0, 40))
def test_tests_of_skill_are_scipys(seed, positive, negative):
    rng = np.random.default_rng(seed)
    labels = np.repeat([1, 0], [positive, negative])
    predicted = (rng.random(labels.size) < rng.random()).astype(int)
    if positive and negative:
        table = metrics.confusion_matrix(labels, predicted, labels=[1, 0])
        expected = stats.fisher_exact(table, alternative="greater").pvalue
        assert fisher(table[0, 0], table[1, 0], table[0, 1], table[1, 1]) == close(expected, 1e-9)
        scores = rng.normal(size=labels.size) + labels
        expected = stats.mannwhitneyu(
            scores[labels == 1], scores[labels == 0], alternative="greater",
            use_continuity=False, method="asymptotic",
        ).pvalue  # fmt: skip
        auroc = metrics.roc_auc_score(labels, scores)
        assert mann_whitney(auroc, positive, negative) == close(expected, 1e-9)
        balanced = metrics.balanced_accuracy_score(labels, predicted)
        assert images.balanced_accuracy(labels, predicted) == close(balanced)
    else:
        assert images.balanced_accuracy(labels, predicted) == nan


def scores_of(labels, predicted, scores):
    return {
        "test_auroc": metrics.roc_auc_score(labels, scores),
        "test_accuracy": metrics.accuracy_score(labels, predicted),
        "test_balanced_accuracy": metrics.balanced_accuracy_score(labels, predicted),
        **{f"test_{k}": v for k, v in images.confusion(labels, predicted).items()},
    }


def of(labels, scores, threshold):
    scores = np.asarray(scores)
    return no_skill(scores_of(labels, scores >= threshold, scores))


def test_always_saying_the_same_is_no_skill():
    labels = np.repeat([1, 0], [126, 30])
    noise = np.random.default_rng(0).random(156)
    said = of(labels, noise, 0.0)
    assert said.startswith("no better than always saying defective: it calls 156 of 156")
    assert "accuracy 0.81, balanced accuracy 0.50, tp 126, fp 30, fn 0, tn 0" in said
    assert "nothing was learnt" in said and "trainer.lr" in said
    said = of(1 - labels, noise, 2.0)
    assert "always saying good: it calls 0 of 156" in said
    assert "nothing was learnt" in of(labels, noise, 0.5)
    said = of(np.repeat([1, 0], [6, 6]), [0.9, 0.8, *[0.4] * 4, *[0.1] * 6], 0.5)
    assert said.startswith("not clearly better than always saying defective: it calls 2 of 12")
    # The order is right, and the threshold is not.
    said = of(labels, noise + labels, 0.0)
    assert "always saying defective" in said and "trainer.threshold=f1" in said


def test_skill_is_not_doubted():
    labels = np.repeat([1, 0], [10, 70])
    noise = np.random.default_rng(0).random(80)
    assert of(labels, noise + labels, 1.0) is None
    # Finds nearly all and calls a third of the good ones defective: below "always good" (88 %).
    assert of(labels, noise + 0.6 * labels, 0.65) is None
    assert of([1, 1, 0, 0], [0.9, 0.8, 0.2, 0.1], 0.5) is None  # too few to be sure, and all right
    assert of([1, 1, 0, 0], [0.9, 0.1, 0.8, 0.2], 0.5)
    assert no_skill({}) is None and no_skill({"test_tp": 1, "test_auroc": None}) is None
