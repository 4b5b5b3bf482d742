"""Masks of images that nobody labelled."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor
from toys import fault, picture, tiny_classifier, toy, toys, write_images

from ltcam_cli.data.batches import Images, Item
from ltcam_cli.errors import LtcamError
from ltcam_cli.maps.engine import CamEngine, Heatmaps, HeatmapSource
from ltcam_cli.maps.spec import MapSpec
from ltcam_cli.masks.segmenters import SegmenterConfig, at_size, make_segmenter, segment
from ltcam_cli.report.overlay import draw_strip
from ltcam_cli.runs.evaluation import ImageResult
from ltcam_cli.runs.prediction import PredictConfig, describe_regions, find_images, predict
from ltcam_cli.runs.shards import REGIONS, SCORES

OTSU = make_segmenter(SegmenterConfig())


@dataclass
class MeanMaps:
    """A heatmap source that knows an image by its pixels: itself, blurred, and its mean.

    Attributes:
        fails_at: number of the call that is interrupted.
        seen: images of each call.
    """

    fails_at: int | None = None
    seen: list[int] = field(default_factory=list)

    def __call__(self, images: Tensor) -> Heatmaps:
        if len(self.seen) == self.fails_at:
            raise KeyboardInterrupt
        self.seen.append(len(images))
        maps = torch.nn.functional.avg_pool2d(images[:, :1], 4)[:, 0]
        low = maps.amin(dim=(1, 2), keepdim=True)
        return Heatmaps([maps - low], 9 * (images.mean(dim=(1, 2, 3)) + 0.65).view(-1, 1))


def write(path: Path, number: int, size: tuple[int, int] = (40, 36)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(number, number % 3 == 0, size)).save(path)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_images(toys(10), tmp_path / "images")
    return tmp_path / "images"


def run(
    paths: Path | Sequence[Path],
    out: Path,
    source: HeatmapSource | None = None,
    draw: Callable[[ImageResult, Path], None] | None = draw_strip,
    **options: Any,
) -> tuple[pd.DataFrame, list[str]]:
    samples = find_images([paths] if isinstance(paths, Path) else paths)
    config = PredictConfig(**{"batch_size": 3, **options})
    return predict(tiny_classifier(), source or MeanMaps(), OTSU, samples, config, out, draw=draw)


# Which images


def test_folders_are_searched_through(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "deep/er/c.tif", "deep/a.bmp", "d.e.png"):
        write(tmp_path / name, 1)
    (tmp_path / "notes.txt").touch()
    samples = find_images([tmp_path])
    assert sorted(s.name for s in samples) == ["a", "b", "d.e", "deep/a", "deep/er/c"]
    assert all(s.label is None and s.mask is None for s in samples)
    assert {s.name: s.path for s in samples}["deep/a"] == tmp_path / "deep" / "a.bmp"


def test_files_and_folders_together(tmp_path: Path) -> None:
    one, other = write(tmp_path / "one.png", 1), write(tmp_path / "folder" / "two.png", 2)
    assert [s.name for s in find_images([one, other.parent])] == ["one", "two"]
    assert [s.name for s in find_images([other, one])] == ["two", "one"]


def test_earlier_results_are_no_images(tmp_path: Path) -> None:
    write(tmp_path / "one.png", 1)
    write(tmp_path / "out" / "masks" / "one.png", 1)
    assert [s.name for s in find_images([tmp_path], besides=tmp_path / "out")] == ["one"]


@pytest.mark.parametrize(
    ("names", "asked", "message"),
    [
        (["x/a.png", "y/a.png"], ["x", "y"], "a: two images are called so"),
        (["a.png", "a.jpg"], ["."], "a: two images are called so"),
        (["a.png"], ["a.png", "a.png"], "a: two images are called so"),
        (["a.png"], ["b.png"], r"b\.png: no such image or folder"),
        (["a.txt"], ["."], "no image there"),
    ],
)
def test_wrong_paths(tmp_path: Path, names: list[str], asked: list[str], message: str) -> None:
    for name in names:
        if name.endswith("txt"):
            (tmp_path / name).touch()
        else:
            write(tmp_path / name, 1)
    with pytest.raises(LtcamError, match=message) as raised:
        find_images([tmp_path / name for name in asked])
    assert "\n" not in str(raised.value)


# Regions


def regions_of(mask: np.ndarray, heatmap: np.ndarray) -> list[dict[str, Any]]:
    item = Item(toy(0, 1), torch.empty(0), mask.astype(np.uint8), None)
    return describe_regions(ImageResult(item, heatmap.astype(np.float32), mask, 0.5, True))


def test_regions_by_hand() -> None:
    mask = np.zeros((12, 20), dtype=bool)
    heatmap = np.zeros((12, 20))
    mask[2:6, 3:5] = True  # 4 x 2 pixels
    heatmap[3, 4], heatmap[5, 3], heatmap[9, 9] = 0.5, 0.25, 9  # the last one lies outside
    mask[10, 1:10] = True  # a line of 9, but 9 at (9, 9) touches nothing of it
    heatmap[10, 5] = 2
    for k in range(3):  # a diagonal: one region, since corners connect
        mask[1 + k, 15 + k] = True
    heatmap[1, 15] = 0.75
    mask[8, 19] = True  # one pixel
    first, second, third, fourth = regions_of(mask, heatmap)

    # The ellipse with the second moments of n pixels in a row is 4 √((n² − 1)/12) long.
    def length(n: int) -> float:
        return 4 * ((n**2 - 1) / 12) ** 0.5

    assert first == pytest.approx(
        dict(region=1, top=10, left=1, bottom=11, right=10, area=9, score=2)
        | dict(length=length(9), width=9 / length(9))
    )
    assert second == pytest.approx(
        dict(region=2, top=1, left=15, bottom=4, right=18, area=3, score=0.75)
        | dict(length=2**0.5 * length(3), width=3 / (2**0.5 * length(3)))
    )
    assert third == pytest.approx(
        dict(region=3, top=2, left=3, bottom=6, right=5, area=8, score=0.5)
        | dict(length=length(4), width=8 / length(4))
    )
    assert fourth == pytest.approx(
        dict(region=4, top=8, left=19, bottom=9, right=20, area=1, score=0, length=1, width=1)
    )
    assert ["name", *first] == REGIONS


def test_no_regions() -> None:
    assert regions_of(np.zeros((4, 4), dtype=bool), np.ones((4, 4))) == []


# What is written


def test_results(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    source = MeanMaps()
    table, skipped = run(images, out, source, save_maps=True)
    assert skipped == [] and source.seen == [3, 3, 3, 1]
    names = [f"toy{n:03d}" for n in range(10)]
    assert list(table.columns) == SCORES and table["name"].tolist() == names
    pd.testing.assert_frame_equal(table, pd.read_csv(out / "scores.csv"), rtol=1e-12)
    assert 0 < table["predicted"].sum() < 10
    assert table["predicted"].tolist() == (table["probability"] >= 0.5).astype(int).tolist()
    assert [Path(p) for p in table["path"]] == [images / f"{name}.png" for name in names]

    regions = pd.read_csv(out / "regions.csv")
    assert list(regions.columns) == REGIONS
    counts = regions["name"].value_counts()
    for row, name in zip(table.itertuples(), names, strict=True):
        mask = np.asarray(Image.open(out / "masks" / f"{name}.png"))
        assert mask.dtype == np.uint8 and mask.shape == (40, 36)
        assert set(np.unique(mask)) <= {0, 255}
        assert (mask > 0).sum() == row.area == regions[regions["name"] == name]["area"].sum()
        assert counts.get(name, 0) == row.regions
        assert (row.area > 0) == bool(row.predicted)  # the gate
        heatmap = np.load(out / "maps" / f"{name}.npy")
        assert heatmap.dtype == np.float32 and heatmap.shape == (40, 36)
        assert heatmap.max() > 0
        assert (out / "overlays" / f"{name}.png").is_file()
    assert sorted(p.name for p in out.iterdir()) == [
        "maps",
        "masks",
        "overlays",
        "regions.csv",
        "scores.csv",
    ]
    assert not list(out.rglob(".*"))


def test_without_a_gate_every_image_has_a_mask(images: Path, tmp_path: Path) -> None:
    table, _ = run(images, tmp_path / "out", gate=False, overlays=False)
    assert (table["area"] > 0).all() and 0 < table["predicted"].sum() < 10
    assert not (tmp_path / "out" / "overlays").exists()
    assert not (tmp_path / "out" / "maps").exists()


def test_images_of_all_kinds(tmp_path: Path) -> None:
    """Colour, 16 bits and other sizes; with a real engine."""
    folder = tmp_path / "images"
    write(folder / "a" / "grey.jpg", 3, (90, 61))
    colour = np.repeat(picture(0, True)[..., None], 3, axis=-1)
    Image.fromarray(colour).save(folder / "colour.bmp")
    Image.fromarray(picture(0, True).astype(np.uint16) * 257).save(folder / "deep.png")
    classifier = tiny_classifier()
    source = CamEngine(classifier.model, [MapSpec("layercam", ("all",))])
    table, _ = run(folder, tmp_path / "out", source, save_maps=True, gate=False)
    assert table["name"].tolist() == ["a/grey", "colour", "deep"]
    for name, size in (("a/grey", (90, 61)), ("colour", (40, 36)), ("deep", (40, 36))):
        heatmap = np.load(tmp_path / "out" / "maps" / f"{name}.npy")
        assert heatmap.shape == size
        mask = np.asarray(Image.open(tmp_path / "out" / "masks" / f"{name}.png"))
        np.testing.assert_array_equal(mask > 0, segment(heatmap, heatmap))
    same = table.set_index("name")["probability"]
    assert same["colour"] == pytest.approx(same["deep"], abs=0.02)


def test_maps_are_the_sources_at_the_images_own_size(images: Path, tmp_path: Path) -> None:
    classifier = tiny_classifier()
    engine = CamEngine(classifier.model, [MapSpec("gradcam", ("all",), 50.0)])
    run(images / "toy003.png", tmp_path / "out", engine, save_maps=True)
    item = Images(find_images([images / "toy003.png"]), 32, 32, 1)[0]
    assert isinstance(item, Item)
    expected = at_size(engine(classifier.prepare(item.image[None])).maps[0], (40, 36))[0]
    np.testing.assert_allclose(np.load(tmp_path / "out" / "maps" / "toy003.npy"), expected)


# Going on


def content_of(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("gate", [True, False])
def test_an_interrupted_prediction_goes_on(images: Path, tmp_path: Path, gate: bool) -> None:
    options: dict[str, Any] = dict(save_maps=True, gate=gate)
    run(images, tmp_path / "whole", **options)
    out = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        run(images, out, MeanMaps(fails_at=2), **options)
    assert len(pd.read_csv(out / "scores.csv")) == 6
    assert len(list((out / "masks").iterdir())) == 6
    source = MeanMaps()
    table, _ = run(images, out, source, **options)
    assert source.seen == [3, 1] and len(table) == 10
    assert content_of(out) == content_of(tmp_path / "whole")
    again = MeanMaps()
    run(images, out, again, **options)
    assert again.seen == []
    assert content_of(out) == content_of(tmp_path / "whole")


def test_an_interruption_while_drawing_leaves_no_half_image(images: Path, tmp_path: Path) -> None:
    def draw(result: ImageResult, path: Path) -> None:
        if result.item.sample.name == "toy004":
            raise KeyboardInterrupt
        draw_strip(result, path)

    out = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        run(images, out, draw=draw, gate=False)
    assert pd.read_csv(out / "scores.csv")["name"].tolist() == [f"toy{n:03d}" for n in range(4)]
    assert set(pd.read_csv(out / "regions.csv")["name"]) <= {f"toy{n:03d}" for n in range(4)}
    run(images, out, gate=False)
    run(images, tmp_path / "whole", gate=False)
    assert content_of(out) == content_of(tmp_path / "whole")


def test_new_images_join_the_table(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(images, out)
    write(images / "later.png", 21)
    source = MeanMaps()
    table, _ = run(images, out, source)
    assert source.seen == [1] and len(table) == 11 and "later" in set(table["name"])


def test_without_a_drawer_nothing_is_computed_twice(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(images, out, draw=None)
    again = MeanMaps()
    run(images, out, again, draw=None)
    assert again.seen == []


def test_changed_images_are_computed_again(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    before, _ = run(images, out)
    changed = write(images / "toy001.png", 99)  # 99 is defective
    later = (out / "scores.csv").stat().st_mtime + 10
    os.utime(changed, (later, later))
    source = MeanMaps()
    after, _ = run(images, out, source)
    assert source.seen == [1] and len(after) == 10 and after["name"].is_unique
    one = [table.set_index("name").loc["toy001"] for table in (before, after)]
    assert (one[0]["predicted"], one[1]["predicted"]) == (0, 1)
    assert set(pd.read_csv(out / "regions.csv")["name"]) >= {"toy001"}


def test_another_image_of_the_same_name_is_refused(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(images, out)
    write(tmp_path / "elsewhere" / "toy001.png", 5)
    with pytest.raises(LtcamError, match=r"another toy001 .*predict\.out"):
        run(tmp_path / "elsewhere", out)


@pytest.mark.parametrize("name", ["001", "NA", "null", "1e5", "a,b", "ä ö"])
def test_names_that_look_like_something_else(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "images" / f"{name}.png", 3)
    out = tmp_path / "out"
    run(path.parent, out)
    source = MeanMaps()
    table, _ = run(path.parent, out, source)
    assert source.seen == [] and table["name"].tolist() == [name]


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images(images: Path, tmp_path: Path, workers: int) -> None:
    (images / "toy004.png").write_bytes(b"")
    message = fault(lambda: run(images, tmp_path / "raised", workers=workers))
    assert message.startswith(f"{images}/toy004.png: the file is empty")
    assert len(pd.read_csv(tmp_path / "raised" / "scores.csv")) == 3  # the first batch stays
    table, skipped = run(images, tmp_path / "skipped", on_error="skip", workers=workers)
    assert skipped == ["toy004"] and len(table) == 9
    write(images / "toy004.png", 4)
    source = MeanMaps()
    table, skipped = run(images, tmp_path / "skipped", source)
    assert skipped == [] and len(table) == 10 and source.seen == [1]


def test_workers_change_nothing(images: Path, tmp_path: Path) -> None:
    run(images, tmp_path / "alone")
    run(images, tmp_path / "helped", workers=2)
    assert content_of(tmp_path / "alone") == content_of(tmp_path / "helped")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, r"predict\.batch_size=0: must be at least 1"),
        ({"on_error": "stop"}, r"predict\.on_error=stop: must be raise or skip"),
    ],
)
def test_wrong_configs(options: dict[str, Any], message: str) -> None:
    with pytest.raises(LtcamError, match=message):
        PredictConfig(**options)
