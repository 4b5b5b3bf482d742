"""Masks of images that nobody labelled."""

from __future__ import annotations

import errno
import os
import resource
import shutil
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
from ltcam_cli.experiments.config import PredictConfig
from ltcam_cli.experiments.predict import Prediction
from ltcam_cli.experiments.settings import Composed
from ltcam_cli.files import append, read_json
from ltcam_cli.maps.engine import CamEngine, Heatmaps, HeatmapSource
from ltcam_cli.maps.fusion import at_size
from ltcam_cli.maps.spec import MapSpec
from ltcam_cli.masks.segmenters import Segmenter, SegmenterConfig, segment
from ltcam_cli.report.overlay import draw_strip
from ltcam_cli.runs import prediction_tables
from ltcam_cli.runs.acceptance import RejectConfig
from ltcam_cli.runs.masking import ImageResult, Loading, MaskJob
from ltcam_cli.runs.prediction_tables import REGIONS, SCORES, gather
from ltcam_cli.runs.predictions import Writing, describe_regions, find_images, predict
from ltcam_cli.runs.shards import Shard

OTSU = MaskJob(0, Segmenter(SegmenterConfig()))
LIMITS = RejectConfig(area=0.4, length=2)


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
    drawn = draw if config.overlays else None
    writing = Writing(
        out, "", config.gate, config.save_maps, drawn, config.part(), config.acceptance
    )
    loading = Loading(config.batch_size, config.workers, config.on_error)
    return predict(tiny_classifier(), source or MeanMaps(), OTSU, samples, writing, loading)


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
        (["x/a.png", "y/a.png"], ["x", "y"], r"two images are called a: .*x/a\.png and .*y/a\.png"),
        (["a.png"], ["a.png", "a.png"], "two images are called a: .*; name it once"),
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


def test_no_image_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    write(tmp_path / "a.png", 1)
    (tmp_path / "b.png").write_bytes(b"this is no image")
    with pytest.raises(LtcamError, match=r"b\.png: is no image.* \(or predict\.on_error=skip\)"):
        Prediction([str(tmp_path)])(Composed({}))


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
    options: dict[str, Any] = dict(save_maps=True, gate=gate, mm_per_pixel=0.1, reject=LIMITS)
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
    changed = images / "toy001.png"
    time = changed.stat().st_mtime
    write(changed, 99)  # 99 is defective
    os.utime(changed, (time, time))  # the content counts
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


# Shards

# First 16 hex digits of `printf NAME | sha256sum`.
DIGESTS = {
    "toy000": 0xE9BDB0FE0BAEA9E4,
    "toy001": 0xCFC3F292B06ECBA6,
    "a/b": 0xC14CDDC033F64B9D,
    "Ä": 0x2FE5CA1C1A3D50BD,
}


def parts(count: int) -> list[Shard]:
    return [Shard(index, count) for index in range(1, count + 1)]


def joined(out: Path) -> list[pd.DataFrame]:
    """Both tables, in the order of names."""
    return [
        pd.read_csv(out / f"{kind}.csv", dtype={"name": str}, keep_default_na=False)
        .sort_values(["name", *(["region"] if kind == "regions" else [])])
        .reset_index(drop=True)
        for kind in ("scores", "regions")
    ]


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_each_image_belongs_to_one_shard(count: int) -> None:
    for name, digest in DIGESTS.items():
        assert [name in shard for shard in parts(count)] == [
            digest % count == index for index in range(count)
        ]
    samples = toys(3000)
    shared = [shard.of(samples) for shard in parts(count)]
    assert sorted(s.name for own in shared for s in own) == sorted(s.name for s in samples)
    spread = (3000 / count * (1 - 1 / count)) ** 0.5  # of a binomial distribution
    assert all(abs(len(own) - 3000 / count) <= 4 * spread for own in shared)


def test_shards_make_what_one_prediction_makes(images: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = dict(save_maps=True, gate=False, mm_per_pixel=0.1, reject=LIMITS)
    run(images, tmp_path / "whole", **options)
    out = tmp_path / "out"
    for shard in parts(3):
        table, _ = run(images, out, **options, shard=str(shard))
        own = [s.name for s in shard.of(find_images([images]))]
        assert table["name"].tolist() == own and 0 < len(own) < 10
        held = pd.read_csv(out / f"scores.{shard.index}of3.csv")
        assert held["name"].tolist() == own
        assert read_json(out / f"shard.{shard.index}of3.json")["images"] == own
        assert not (out / "scores.csv").exists()
    gathered = gather(out)
    assert (gathered.count, gathered.given, gathered.skipped, gathered.absent) == (3, 10, 0, {})
    for one, other in zip(joined(out), joined(tmp_path / "whole"), strict=True):
        pd.testing.assert_frame_equal(one, other)
    first, whole = content_of(out), content_of(tmp_path / "whole")
    pictures = {name for name in whole if "/" in name}
    assert len(pictures) == 30
    assert {name: first[name] for name in pictures} == {name: whole[name] for name in pictures}
    gather(out)
    assert content_of(out) == first
    for shard in parts(3):
        again = MeanMaps()
        run(images, out, again, **options, shard=str(shard))
        assert again.seen == []
    assert content_of(out) == first


def test_gathering_says_what_is_missing(images: Path, tmp_path: Path) -> None:
    first, second, third = parts(3)
    names = [s.name for s in second.of(find_images([images]))]
    out = tmp_path / "out"
    run(images, out, shard="1/3")
    with pytest.raises(KeyboardInterrupt):
        run(images, out, MeanMaps(fails_at=1), shard="2/3", batch_size=1)
    gathered = gather(out)
    assert gathered.absent == {second: names[1:], third: None}
    assert gathered.given == len(first.of(find_images([images]))) + len(names)
    assert len(joined(out)[0]) == len(gathered.scores) == gathered.given - len(names) + 1
    source = MeanMaps()
    run(images, out, source, shard="2/3", batch_size=1)
    assert len(source.seen) == len(names) - 1
    assert gather(out).absent == {third: None}
    run(images, out, shard="3/3")
    assert gather(out).absent == {}
    run(images, tmp_path / "whole")
    pd.testing.assert_frame_equal(joined(out)[0], joined(tmp_path / "whole")[0])


def test_unreadable_images_of_a_shard_are_not_missing(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    broken = next(s for s in find_images([images]) if s.name in Shard(2, 2))
    assert broken.path is not None
    content = broken.path.read_bytes()
    broken.path.write_bytes(b"")
    for shard in parts(2):
        run(images, out, shard=str(shard), on_error="skip")
    gathered = gather(out)
    assert (gathered.skipped, gathered.absent, len(gathered.scores)) == (1, {}, 9)
    broken.path.write_bytes(content)
    run(images, out, shard="2/2", on_error="skip")
    assert (gather(out).skipped, len(joined(out)[0])) == (0, 10)


def test_more_shards_than_images(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    tables = [run(images / "toy003.png", out, shard=str(shard))[0] for shard in parts(3)]
    assert sorted(map(len, tables)) == [0, 0, 1]
    assert gather(out).absent == {} and joined(out)[0]["name"].tolist() == ["toy003"]


def test_a_folder_is_divided_in_one_way(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(images, out, shard="1/3")
    before = content_of(out)
    for other in ("1/2", None):
        message = fault(lambda other=other: run(images, out, shard=other))
        assert message.startswith(f"{out}: was begun with predict.shard=i/3; ")
    assert content_of(out) == before
    run(images, tmp_path / "whole")
    message = fault(lambda: run(images, tmp_path / "whole", shard="1/2"))
    assert "was begun with no predict.shard" in message and "predict.out" in message


def test_only_shards_that_belong_together_are_joined(images: Path, tmp_path: Path) -> None:
    assert "no shard was predicted there" in fault(lambda: gather(tmp_path))
    out, other = tmp_path / "out", tmp_path / "other"
    predicted = [tiny_classifier(), MeanMaps(), OTSU, find_images([images])]
    predict(*predicted, Writing(out, "abc", shard=Shard(1, 2)), Loading())
    predict(*predicted, Writing(other, "def", shard=Shard(2, 2)), Loading())
    predict(*predicted, Writing(tmp_path / "third", "abc", shard=Shard(2, 4)), Loading())
    for path in other.glob("*.2of2.*"):
        shutil.copy(path, out)
    assert "shards 1/2 and 2/2 are of different methods" in fault(lambda: gather(out))
    for path in (tmp_path / "third").glob("*.2of4.*"):
        shutil.copy(path, out)
    assert "holds shard 1/2 and shard 2/4" in fault(lambda: gather(out))
    assert not (out / "scores.csv").exists()


def test_a_table_grows_without_being_written_again(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    write_table = prediction_tables.write_table

    def counted(path: Path, table: pd.DataFrame) -> None:
        written.append(len(table))
        write_table(path, table)

    monkeypatch.setattr(prediction_tables, "write_table", counted)
    write_images(toys(110, start=10), images)
    table, _ = run(images, tmp_path / "out", overlays=False, gate=False)
    assert len(table) == 120 and written == [0, 0]  # the two heads
    assert table["name"].is_unique and set(joined(tmp_path / "out")[1]["name"]) == {*table["name"]}


def test_a_full_disk_leaves_whole_rows(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(toys(110, start=10), images)
    run(images, tmp_path / "whole", overlays=False, gate=False)
    out, append, calls = tmp_path / "broken", prediction_tables.append, []

    def full(path: Path, text: str) -> None:
        calls.append(path.name)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        append(path, text)

    monkeypatch.setattr(prediction_tables, "append", full)
    with pytest.raises(OSError, match="No space left"):
        run(images, out, overlays=False, gate=False)
    assert calls[:4] == ["regions.csv", "scores.csv"] * 2
    assert len(pd.read_csv(out / "scores.csv")) == 50
    assert len(pd.read_csv(out / "regions.csv")["name"].unique()) == 100
    monkeypatch.setattr(prediction_tables, "append", append)
    source = MeanMaps()
    run(images, out, source, overlays=False, gate=False, batch_size=10)
    assert sum(source.seen) == 70
    assert content_of(out) == content_of(tmp_path / "whole")


def test_half_a_line_is_no_row(images: Path, tmp_path: Path) -> None:
    run(images, tmp_path / "whole")
    out = tmp_path / "broken"
    run(images, out)
    for kind in ("scores", "regions"):
        path = out / f"{kind}.csv"
        path.write_bytes(path.read_bytes()[:-5])
    source = MeanMaps()
    run(images, out, source)
    assert source.seen == [1]
    (out / "scores.csv").write_bytes(b"name,pa")
    run(images, out, source)
    assert sum(source.seen) == 11
    assert content_of(out) == content_of(tmp_path / "whole")


def test_appending_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("a\n")
    append(path, "ä\nb\n")
    assert path.read_text(encoding="utf-8") == "a\nä\nb\n"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))  # room for three more bytes
    try:
        with pytest.raises(OSError, match="No space left"):
            append(path, "cccc\ndddd\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text(encoding="utf-8") == "a\nä\nb\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, r"predict\.batch_size=0: must be a whole number of at least 1"),
        ({"on_error": "stop"}, r"predict\.on_error=stop: unknown \(known: raise, skip\)"),
        *(
            ({"shard": text}, rf"predict\.shard={text}: must be i/n with 1 <= i <= n, e\.g\. 3/8")
            for text in ("0/4", "5/4", "0/0", "3", "1/", "-1/4", "1/4/2", "a/b")
        ),
    ],
)
def test_wrong_configs(options: dict[str, Any], message: str) -> None:
    with pytest.raises(LtcamError, match=message):
        PredictConfig(**options)
