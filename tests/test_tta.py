"""Test-time options: averaged passes against a loop, tiles against the whole image."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from conftest import Cli, KsddLike, Run
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import unit
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as tv
from toys import fault, tiny_classifier, toy

from ltcam_cli.classifier.backbones import BackboneConfig
from ltcam_cli.data.geometry import starts
from ltcam_cli.maps.engine import CamEngine, Heatmaps, wanted_size
from ltcam_cli.maps.spec import MapSpec
from ltcam_cli.maps.tta import AugmentedSource, TiledSource, scaled_size, with_tta
from ltcam_cli.maps.tta_config import TtaConfig
from ltcam_cli.runs.masking import Loading, batch_maps

SPECS = [MapSpec("gradcam", ("all",), 50.0), MapSpec("layercam", ("last",))]


class Local:
    """A source whose maps are a convolution of the image, and twice it; the logit is a mean."""

    def __init__(self, reach: int = 1) -> None:
        generator = torch.Generator().manual_seed(0)
        side = 2 * reach + 1
        self.kernel = torch.randn(1, 3, side, side, generator=generator, dtype=torch.float64)

    def __call__(self, images: Tensor) -> Heatmaps:
        M = F.conv2d(images, self.kernel, padding="same")[:, 0]
        return Heatmaps([M, 2 * M], images.mean(dim=(2, 3))[:, :1], {"l": torch.tensor(True)})


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def engine() -> CamEngine:
    backbone = BackboneConfig("vgg16_slim", "fc", hidden=8, weights=None)
    return CamEngine(tiny_classifier(backbone, 3, (96, 64)).model, SPECS)


# Averages


def test_flips_change_nothing_of_an_equivariant_net() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 5, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(5, 1),
    ).double()  # fmt: skip
    with torch.no_grad():
        for layer in (net[0], net[3]):
            w = layer.weight
            layer.weight.copy_((w + w.flip(-1) + w.flip(-2) + w.flip(-1, -2)) / 4)
    plain = CamEngine(net, [MapSpec("layercam", ("1", "4"))])
    x = noise(2, 3, 16, 12)
    (expected,) = plain(x).maps
    assert expected.abs().max() > 0
    for flips in ("horizontal", "vertical", "both"):
        torch.testing.assert_close(AugmentedSource(plain, flips)(x).maps[0], expected)


@pytest.mark.parametrize("normalize", ["none", "minmax"])
@pytest.mark.parametrize("flips", ["none", "horizontal", "vertical", "both"])
@pytest.mark.parametrize("scales", [[1.0], [0.6, 1.0, 1.4], [2.0]])
def test_the_average_written_out(flips: str, scales: list[float], normalize: str) -> None:
    source, x = engine(), noise(2, 3, 96, 64).float()
    axes = {"none": [[]], "horizontal": [[], [2]], "vertical": [[], [1]],
            "both": [[], [1], [2], [1, 2]]}[flips]  # fmt: skip
    sizes = {1.0: [96, 64], 0.6: [64, 32], 1.4: [128, 96], 2.0: [192, 128]}
    sums, count = [np.zeros((2, 96, 64)) for _ in SPECS], 0
    for scale in scales:
        for turned in axes:
            given = tv.resize(x, sizes[scale], antialias=True) if scale != 1 else x
            for n, M in enumerate(source(given.flip([axis + 1 for axis in turned])).maps):
                maps = M.numpy()
                if normalize == "minmax":
                    maps = np.stack([unit(one) for one in maps])
                back = torch.from_numpy(np.flip(maps, turned).copy())
                sums[n] += tv.resize(back, [96, 64], antialias=True).double().numpy()
            count += 1
    found = AugmentedSource(source, flips, scales, normalize)(x)
    for M, total in zip(found.maps, sums, strict=True):
        assert M.dtype == torch.float32
        np.testing.assert_allclose(M, total / count, atol=1e-5 * abs(total).max())
    whole = x if 1.0 in scales else tv.resize(x, sizes[2.0], antialias=True)
    torch.testing.assert_close(found.logits, source(whole).logits)


def test_cells_of_one_spec_are_averaged_each() -> None:
    source = engine()
    twice = CamEngine(source.model, [SPECS[0], SPECS[0]])
    x = noise(1, 3, 96, 64).float()
    first, second = AugmentedSource(twice, "both")(x).maps
    assert torch.equal(first, second)
    assert torch.equal(first, AugmentedSource(source, "both")(x).maps[0])


def test_sizes_are_multiples_of_32() -> None:
    assert scaled_size((500, 190), 1) == (500, 190)
    assert scaled_size((512, 192), 0.75) == (384, 128)  # of 144: to the even one
    assert scaled_size((40, 40), 0.1) == (32, 32)


# Tiles


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 120), st.floats(0, 0.99))
def test_tiles_cover_an_axis(tile: int, more: int, overlap: float) -> None:
    length = tile + more - 1
    found = starts(length, tile, overlap)
    assert found[0] == 0 and found[-1] == length - tile
    steps = np.diff(found)
    assert (steps >= 1).all() and (steps <= math.ceil(max(1, tile * (1 - overlap)))).all()


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(0, 30), st.integers(0, 30)),
    st.floats(0, 0.9),
)
def test_blended_tiles_of_a_pointwise_source_are_the_image(
    tile: tuple[int, int], more: tuple[int, int], overlap: float
) -> None:
    x = noise(2, 3, tile[0] + more[0], tile[1] + more[1])
    source = Local(reach=0)
    found = TiledSource(source, tile, "full", overlap)(x)
    for M, expected in zip(found.maps, source(x).maps, strict=True):
        torch.testing.assert_close(M, expected)


def test_tiles_of_a_local_source_are_its_map_away_from_their_borders() -> None:
    reach, tile = 2, (16, 12)
    x, source = noise(2, 3, 50, 41), Local(reach)
    tiled = TiledSource(source, tile, (50, 41), 0.4)
    touched = np.zeros((50, 41), dtype=bool)  # within reach of a border inside the image
    pieces = list(tiled.tiles(50, 41))
    assert len(pieces) > 9
    for rows, columns in pieces:
        inner = np.ones(tile, dtype=bool)
        inner[
            reach * (rows.start > 0) : tile[0] - reach * (rows.stop < 50),
            reach * (columns.start > 0) : tile[1] - reach * (columns.stop < 41),
        ] = False
        touched[rows, columns] |= inner
    assert 0.1 < touched.mean() < 0.9
    for M, expected in zip(tiled(x).maps, source(x).maps, strict=True):
        wrong = ~torch.isclose(M, expected).all(dim=0).numpy()
        assert wrong.any() and not (wrong & ~touched).any()


def test_seams_are_smooth() -> None:
    """A source that knows only which tile it draws: nowhere a step as large as between tiles."""

    class Number(Local):
        def __call__(self, images: Tensor) -> Heatmaps:
            M = images[:, 0, :1, :1].expand(-1, *images.shape[2:]).contiguous()
            return Heatmaps([M], images.mean(dim=(2, 3))[:, :1])

    x = torch.arange(100.0).view(1, 1, 1, -1).expand(1, 3, 20, -1).contiguous()
    (M,) = TiledSource(Number(), (20, 40), "full", 0.5)(x).maps
    steps = M[0, 10].diff()
    assert steps.min() > -1e-4 and steps.max() < 3 and M.max().item() == pytest.approx(60)


def test_the_classifier_sees_the_whole_image_at_its_size() -> None:
    source, x = engine(), noise(2, 3, 200, 150).float()
    found = TiledSource(source, (96, 64), "full")(x)
    whole = tv.resize(x, [96, 64], antialias=True)
    torch.testing.assert_close(found.logits, source(whole).logits)
    assert found.maps[0].shape == (2, 200, 150)
    small = TiledSource(source, (96, 64), "full")(noise(1, 3, 50, 150).float())
    assert small.maps[0].shape == (1, 96, 150)  # as high as a tile


def test_options_are_nested() -> None:
    """Mirrored and scaled images are tiled, and the average keeps the wanted size."""
    config = TtaConfig("horizontal", [1.0, 0.5], size=[192, 128], overlap=0.5)
    source, x = with_tta(engine(), config, (96, 64)), noise(1, 3, 192, 128).float()
    assert wanted_size(source) == (192, 128)
    tiled = TiledSource(engine(), (96, 64), (192, 128), 0.5)
    half = tv.resize(x, [96, 64], antialias=True)
    truth = [tiled(x).maps[1], tiled(x.flip(-1)).maps[1].flip(-1)]
    for M in (tiled(half).maps[1], tiled(half.flip(-1)).maps[1].flip(-1)):
        truth.append(tv.resize(M, [192, 128], antialias=True))
    torch.testing.assert_close(source(x).maps[1], torch.stack(truth).mean(dim=0))
    plain = engine()
    assert with_tta(plain, TtaConfig(), (96, 64)) is plain


def test_images_are_loaded_at_the_size_that_a_source_wants() -> None:
    classifier = tiny_classifier()
    samples = [toy(0, 1, (70, 40)), toy(1, 0, (41, 90))]
    for size, shapes in [
        (None, [(2, 32, 32)]),
        ((48, 64), [(2, 48, 64)]),
        ("full", [(1, 70, 40), (1, 41, 90)]),
    ]:
        source = CamEngine(classifier.model, SPECS[1:])
        source.size = size  # type: ignore[attr-defined]
        found = list(batch_maps(classifier, source, samples, Loading(4), masks=False))
        assert [tuple(batch.heatmaps.maps[0].shape) for batch in found] == shapes


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flips": "diagonal"}, "tta.flips=diagonal: unknown (known: "),
        ({"flips": "horizontl"}, "tta.flips=horizontl: unknown; did you mean 'horizontal'"),
        ({"normalize": "max"}, "tta.normalize=max: unknown"),
        ({"scales": []}, "tta.scales=[]: must be 1 to 32 factors above 0 and at most 16"),
        ({"scales": [1.0, 0.0]}, "tta.scales=[1.0,0.0]: must be 1 to 32 factors"),
        ({"scales": [math.nan]}, "tta.scales=[nan]: must be"),
        ({"overlap": 1.0}, "tta.overlap=1.0: must be a number of at least 0 and at most 0.9"),
        ({"overlap": -0.1}, "tta.overlap=-0.1: must be"),
        (
            {"size": "whole"},
            "tta.size=whole: must be [height,width] in pixels of 32 to 16384, full or",
        ),
        ({"size": [512]}, "tta.size=[512]: must be"),
        ({"size": [512.5, 64]}, "tta.size=[512.5,64]: must be"),
    ],
)
def test_wrong_options(options: dict[str, object], message: str) -> None:
    assert fault(lambda: TtaConfig(**options)).startswith(message)  # type: ignore[arg-type]


def test_a_size_below_the_networks() -> None:
    said = fault(lambda: with_tta(engine(), TtaConfig(size=[96, 60]), (96, 64)))
    assert said == "tta.size=[96,60]: is smaller than the network's input, [96,64]"


# In commands


def rows(run: Run) -> pd.DataFrame:
    return pd.read_csv(run.path / "results.csv", dtype={"tta": str, "cell": str})


def test_cells_of_their_own(cli: Cli, own_run: Run) -> None:
    call = ["evaluate", "--run", own_run.name, "threads=1", "--method", "layercam"]
    cli.ok(*call)
    cli.ok(*call, "tta=flips")
    cli.ok(*call, "tta=tiles", "tta.scales=[0.5,1]")
    cli.ok(*call, "tta.size=[80,64]", "tta.overlap=0.5")
    table = rows(own_run)
    assert table["tta"].fillna("").tolist() == [
        "",
        "flips=both",
        "scales=0.5,1 size=full overlap=0.25",
        "size=80x64 overlap=0.5",
    ]
    assert [("-tta-" in cell) for cell in table["cell"]] == [False, True, True, True]
    assert table["pixel_ap"].nunique() == 4
    assert "is there already" in cli(*call, "tta=flips").stderr
    assert len(rows(own_run)) == 4
    cli.fault(*call, "tta=flip", says=["tta=flip", "did you mean 'flips'?"])
    cli.fault(*call, "tta.size=[10,10]", says=["tta.size=[10,10]: must be [height,width]"])
    cli.fault(*call, "tta.size=[40,40]", says=["tta.size=[40,40]", "[64,64]"], logs=True)


def test_every_command_averages(cli: Cli, own_run: Run, tmp_path: Path) -> None:
    given = ["--run", own_run.name, "threads=1", "tta=flips"]
    cli.ok("sweep", *given, "--method", "gradcam,layercam", "--delta", "0,50")
    cli.ok("evaluate", *given, "--method", "ltlayercam", "--delta", "auto",
           "evaluation.deltas=[0,50]", "tta.size=[96,64]")  # fmt: skip
    assert rows(own_run)["tta"].notna().all()
    cli.ok("data", "synth", "images", "dataset.items=2", "dataset.parts=2")
    cli.ok("predict", "images", *given, "--method", "layercam", "--save-maps", "predict.out=flip")
    cli.ok("predict", "images", *given, "--method", "layercam", "--save-maps", "predict.out=none",
           "tta=none")  # fmt: skip
    maps = [np.load(next(Path(out).glob("maps/**/*.npy"))) for out in ("flip", "none")]
    assert maps[0].shape == maps[1].shape and not np.allclose(*maps)
    scores = [pd.read_csv(Path(out) / "scores.csv") for out in ("flip", "none")]
    np.testing.assert_allclose(scores[0]["probability"], scores[1]["probability"])
    cli.fault("predict", "images", *given, "--method", "layercam", "predict.out=none",
              says=["none", "another method"], logs=True)  # fmt: skip


def test_reports_draw_them_again(cli: Cli, own_run: Run) -> None:
    call = ["--run", own_run.name, "threads=1", "--method", "layercam"]
    cli.ok("evaluate", *call)
    cli.ok("evaluate", *call, "tta=tiles", "tta.overlap=0.5", "+method.fusion.weights.s1=2")
    cli.ok("report", own_run.name, "threads=1")
    page = (own_run.path / "report.html").read_text()
    assert "tta.size=full tta.overlap=0.5" in page and "size=full overlap=0.5" in page
    cli.fault("report", own_run.name, "tta=flips", says=["tta=flips", "as they were evaluated"])


def test_images_of_many_sizes(cli: Cli, own_run: Run, ksdd_like: KsddLike) -> None:
    """In tiles of their own resolution, as on the real data set."""
    ksdd_like(folders=(1, 41), parts=2)
    ksdd_like(folders=(2, 42), parts=2, size=(90, 70))
    cli.ok("evaluate", "--run", own_run.name, "threads=1", "dataset=ksdd", "dataset.count=null",
           "tta=tiles", "dataset.channels=1", "--method", "gradcam")  # fmt: skip
    assert rows(own_run)["n_images"].tolist() == [2]
