"""The synthetic surfaces: honest labels, hard for a threshold, the same from the same seed."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from skimage.filters import threshold_otsu

from ltcam_cli.data.folder import write_folder
from ltcam_cli.data.rendering import Scene, render_image, render_mask
from ltcam_cli.data.sample import Sample
from ltcam_cli.data.synthetic import Synthetic
from ltcam_cli.errors import LtcamError


def samples(**changes: Any) -> list[Sample]:
    return Synthetic(**{"items": 4, "parts": 3, "defective": 0.5, **changes}).samples()


def test_names_groups_and_labels() -> None:
    some = samples()
    assert [s.name for s in some[:4]] == [
        "item000/part0",
        "item000/part1",
        "item000/part2",
        "item001/part0",
    ]
    assert all(s.name.startswith(f"{s.group}/") for s in some)
    assert len({s.name for s in some}) == 12
    assert sum(s.label or 0 for s in some) == 6
    assert [s.label for s in some] == [s.label for s in samples()]
    assert [s.label for s in some] != [s.label for s in samples(seed=1)]


def test_pixels() -> None:
    for sample in samples():
        image, mask = sample.image, sample.mask
        assert image.dtype == np.uint8 and image.shape == (256, 128)
        assert mask is not None and mask.dtype == np.bool_ and mask.shape == (256, 128)
        assert mask.any() == bool(sample.label)


def test_deterministic_and_picklable() -> None:
    for sample in samples():
        again = pickle.loads(pickle.dumps(sample))
        assert np.array_equal(sample.image, again.image)
        assert np.array_equal(sample.mask, again.mask)
    images = [s.image for s in samples()] + [s.image for s in samples(seed=1)]
    assert len({image.tobytes() for image in images}) == len(images)


@settings(max_examples=30, deadline=None)
@given(
    items=st.integers(2, 12),
    parts=st.integers(1, 9),
    defective=st.floats(0, 1),
    seed=st.integers(0, 2**31 - 1),
)
def test_defective_ones_are_spread(items: int, parts: int, defective: float, seed: int) -> None:
    some = samples(items=items, parts=parts, defective=defective, seed=seed)
    labels = np.array([s.label for s in some]).reshape(items, parts)
    assert labels.sum() == max(round(defective * items * parts), int(defective > 0))
    assert np.ptp(labels.sum(axis=1)) <= 1


@settings(max_examples=40, deadline=None)
@given(height=st.integers(32, 300), width=st.integers(32, 300), seed=st.integers(0, 10**6))
def test_every_size_has_a_crack(height: int, width: int, seed: int) -> None:
    scene = Scene(seed, 0, 0, True, height, width)
    image, mask = render_image(scene), render_mask(scene)
    assert image.shape == mask.shape == (height, width)
    assert 0 < mask.mean() < 0.2


def test_only_the_crack_tells_the_label() -> None:
    """One picture drawn good and defective is the same outside the mask, and darker inside."""
    for part in range(20):
        good = render_image(Scene(3, 1, part, False, 256, 128)).astype(int)
        bad_scene = Scene(3, 1, part, True, 256, 128)
        bad, mask = render_image(bad_scene).astype(int), render_mask(bad_scene)
        near = ndimage.binary_dilation(mask, iterations=5)
        assert (good != bad)[~near].mean() < 1e-3  # the faintest tips are not in the mask
        assert (bad <= good).all()
        assert ((good - bad)[mask] > 5).mean() > 0.95


def test_cracks_are_thin() -> None:
    """Widths at 256 × 128, twice the distance to the background along the crack's middle."""
    for sample in samples(items=10, defective=1.0):
        mask = sample.mask
        assert mask is not None
        inner = ndimage.distance_transform_edt(np.pad(mask, 1))
        assert inner.max() <= 3.7  # where a branch leaves it is wider than the crack's 4 pixels
        assert 0.001 < mask.mean() < 0.03


def iou(found: np.ndarray, truth: np.ndarray) -> float:
    return (found & truth).sum() / (found | truth).sum()


@pytest.mark.parametrize("seed", [0, 1])
def test_thresholds_fail(seed: int) -> None:
    """Pooled IoU over 80 defective pictures, by raw grey values alone, measured on seeds 0 to 7.

    Otsu on the inverted picture: 0.013 to 0.014 (the cracks cover 0.006 of the pixels).
    The best single level over the whole set, chosen with the masks: 0.054 to 0.099.
    """
    bad = [s for s in samples(items=20, parts=8, seed=seed) if s.label]
    images = np.stack([s.image for s in bad])
    truth = np.stack([s.mask for s in bad])
    otsu = iou(np.stack([255 - i > threshold_otsu(255 - i) for i in images]), truth)
    inside, all_ = (np.bincount(p, minlength=256).cumsum() for p in (images[truth], images.ravel()))
    oracle = np.max(inside / (all_ + truth.sum() - inside))  # over every level
    print(f"seed {seed}: Otsu {otsu:.3f}, oracle {oracle:.3f}")
    assert otsu < 0.10
    assert oracle < 0.15


def test_items_have_a_style() -> None:
    """The grey values and grain of an item's parts are nearer to each other than to others'."""
    some = samples(items=12, parts=6, defective=0)
    looks = np.array(
        [
            (
                image.mean(),
                np.abs(np.diff(image, axis=0)).mean(),
                np.abs(np.diff(image, axis=1)).mean(),
            )
            for image in (s.image.astype(float) for s in some)
        ]
    ).reshape(12, 6, 3)
    within = looks.std(axis=1).mean(axis=0)
    between = looks.mean(axis=1).std(axis=0)
    assert (between > 1.5 * within).all()


def test_write_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    some = samples(height=64, width=48)
    root = tmp_path / "a" / "set"
    write_folder(some, root)
    assert {path.name for path in root.parent.iterdir()} == {"set"}
    assert {path.name for path in root.iterdir()} == {"good", "defect", "masks"}
    for sample in some:
        file = sample.name.replace("/", "_") + ".png"
        with Image.open(root / ("defect" if sample.label else "good") / file) as image:
            assert np.array_equal(np.asarray(image), sample.image)
        assert (root / "masks" / file).exists() == bool(sample.label)
        if sample.label:
            with Image.open(root / "masks" / file) as mask:
                assert set(np.unique(np.asarray(mask))) == {0, 255}
                assert np.array_equal(np.asarray(mask) > 0, sample.mask)
    assert len(list(root.rglob("*.png"))) == 12 + 6
    assert capsys.readouterr().err == ""  # quicker than what shows its progress
    with pytest.raises(LtcamError, match="not an empty folder"):
        write_folder(some, root)


def test_write_folder_is_all_or_nothing(tmp_path: Path) -> None:
    def broken() -> np.ndarray:
        raise LtcamError("broken")

    root = tmp_path / "set"
    root.mkdir()
    killed = tmp_path / ".set.unfinished" / "content" / "good"
    killed.mkdir(parents=True)
    (killed / "0.png").touch()
    some = [*samples(height=32, width=32), Sample("x/y", "x", 0, broken)]
    with pytest.raises(LtcamError, match="broken"):
        write_folder(some, root)
    assert list(tmp_path.iterdir()) == [root] and not list(root.iterdir())
    write_folder(some[:-1], root)
    assert len(list(tmp_path.rglob("*.png"))) == 18
    (tmp_path / "file").touch()
    with pytest.raises(LtcamError, match="cannot be written"):
        write_folder(some[:-1], tmp_path / "file" / "set")
