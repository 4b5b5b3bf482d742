"""Anomaly maps: features, coreset and distances against plain truth, and the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy
import torch
import yaml
from conftest import Cli, Run
from sklearn.neighbors import NearestNeighbors
from test_cli import table_on
from test_student_command import SHORT, images
from torch import Tensor
from toys import tiny_classifier

from ltcam_cli.classifier.backbones import build_classifier
from ltcam_cli.classifier.config import BackboneConfig
from ltcam_cli.maps.combined import ProductSource
from ltcam_cli.maps.engine import Heatmaps
from ltcam_cli.maps.patchcore import (
    PROJECTED,
    coreset,
    feature_extractor,
    feature_layers,
    nearest_distance,
    patch_features,
    smoothed,
)


def test_distances_are_scikit_learns() -> None:
    random = np.random.default_rng(0)
    patches, memory = random.random((300, 20), np.float32), random.random((40, 20), np.float32)
    neighbours = NearestNeighbors(n_neighbors=1).fit(memory)
    expected, _ = neighbours.kneighbors(patches)
    found = nearest_distance(torch.from_numpy(patches), torch.from_numpy(memory))
    np.testing.assert_allclose(found, expected[:, 0], rtol=1e-4)


def test_the_coreset_is_that_of_a_plain_loop() -> None:
    patches = torch.rand(120, 30, generator=torch.Generator().manual_seed(1))
    found = coreset(patches, 15, torch.Generator().manual_seed(2)).tolist()

    generator = torch.Generator().manual_seed(2)
    projection = torch.randn(30, PROJECTED, generator=generator).double().numpy()
    rows = patches.double().numpy() @ projection
    chosen = [int(torch.randint(120, (1,), generator=generator))]
    while len(chosen) < 15:
        to_chosen = [min(np.linalg.norm(row - rows[n]) for n in chosen) for row in rows]
        chosen.append(int(np.argmax(to_chosen)))
    assert found == chosen
    same = torch.ones(5, 30)
    assert sorted(coreset(same, 9, torch.Generator()).tolist()) == [0, 1, 2, 3, 4]


def test_features_are_neighbourhoods_means_of_both_layers() -> None:
    model = tiny_classifier().model
    extractor = feature_extractor(model, "s2+s3")
    x = torch.rand(2, 1, 32, 32)
    features = patch_features(extractor, x)
    fine, coarse = (A.detach().numpy() for A in extractor(x).values())
    assert features.shape == (2, 32 + 64, 16, 16)
    padded = np.pad(fine, ((0, 0), (0, 0), (1, 1), (1, 1)))
    np.testing.assert_allclose(
        features[:, :32, 5, 0], padded[:, :, 5:8, 0:3].mean(axis=(2, 3)), rtol=1e-4, atol=1e-6
    )
    means = np.pad(coarse, ((0, 0), (0, 0), (1, 1), (1, 1)))
    a, b = (means[:, :, 2:5, c : c + 3].mean(axis=(2, 3)) for c in (3, 4))
    # Row 4 of 16 lies a quarter before row 2 of 8, column 7 a quarter after column 3.
    c, d = (means[:, :, 1:4, c : c + 3].mean(axis=(2, 3)) for c in (3, 4))
    expected = 0.75 * (0.75 * a + 0.25 * b) + 0.25 * (0.75 * c + 0.25 * d)
    np.testing.assert_allclose(features[:, 32:, 4, 7], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "middle"),
    [("squeezenet1_1", ["features.4", "features.7"]), ("resnet18", ["layer2", "layer3"])],
)
def test_the_middle_stages(name: str, middle: list[str]) -> None:
    with torch.device("meta"):
        model = build_classifier(BackboneConfig(name, head="avg"), 3)  # type: ignore[arg-type]
    assert feature_layers(model, "middle") == middle
    assert feature_layers(model, f"s1+{middle[0]}")[1] == middle[0]


def test_smoothing_is_scipys() -> None:
    maps = torch.rand(2, 40, 50)
    expected = scipy.ndimage.gaussian_filter(maps.numpy(), (0, 2, 2), mode="mirror", truncate=4)
    np.testing.assert_allclose(smoothed(maps, 2.0), expected, atol=1e-5)
    assert torch.equal(smoothed(maps, 0.0), maps)
    assert smoothed(maps, 500.0).shape == maps.shape


def test_a_product_is_high_where_both_are() -> None:
    def source(*maps: Tensor) -> Any:
        return lambda images: Heatmaps(list(maps), torch.ones(1, 1))

    cams = torch.tensor([[[0.0, 2.0, 4.0]]]), torch.tensor([[[-1.0, -2.0, 0.0]]])
    distance = torch.tensor([[[3.0, 5.0, 4.0]]])
    product = ProductSource(source(*cams), [(source(distance), [0, 1])])
    first, second = product(torch.zeros(1, 1, 1, 3)).maps
    assert first.tolist() == [[[0.0, 0.5, 0.5]]] and not second.any()


FEW = ["method.coreset=20", "method.patches=500", "method.images=8"]
FEW_PARTNER = [word.replace("method.", "method.partner.") for word in FEW]


def test_all_that_takes_a_method(own_run: Run, cli: Cli) -> None:
    named = ("--run", own_run.name)
    [row] = table_on(cli.ok("evaluate", *named, "--method", "patchcore", *FEW))
    assert row["method"] == "patchcore" and row["layers"] == "middle"
    [place] = (own_run.path / "memories").glob("*.pt")
    memory = torch.load(place, weights_only=True)
    assert memory["patches"].shape == (20, 64 + 128) and memory["state"] is None

    # The same memory, digit for digit; another seed, another one.
    place.unlink()
    cli.ok("evaluate", *named, "--method", "patchcore", *FEW, "--overwrite")
    assert torch.equal(torch.load(place)["patches"], memory["patches"])
    cli.ok("evaluate", *named, "--method", "patchcore", *FEW, "method.seed=1")
    assert len([*(own_run.path / "memories").glob("*.pt")]) == 2

    product = (*named, "--method", "ltlayercam_patchcore", *FEW_PARTNER)
    both = "patchcore,ltlayercam_patchcore"
    rows = table_on(cli.ok("sweep", *named, "--method", both, "--delta", "0,50"))
    assert [row["delta"] for row in rows] == ["", "0.00", "50.00"]
    assert len([*(own_run.path / "memories").glob("*.pt")]) == 3  # that of the defaults
    cli.ok("evaluate", *product, "--pipeline", "ltcam_plus", "--method", "ltlayercam_patchcore")
    cli.ok("evaluate", *product, "--delta", "auto", "evaluation.deltas=[10,90]")
    any_cam = ("method=gradcam", "method.source=product", "method.name=mine", *FEW_PARTNER)
    [row] = table_on(cli.ok("evaluate", *named, *any_cam))
    assert row["method"] == "mine"
    assert len([*(own_run.path / "memories").glob("*.pt")]) == 3  # all share the first

    cli.ok("student", "train", *product, *SHORT)
    [folder] = (own_run.path / "student").glob("fpn_slim-*/")
    kept = yaml.safe_load((folder / "config.yaml").read_text())["method"]
    assert kept["partner"]["memory"].startswith("sha256:")
    cli.ok("report", own_run.name)
    cli.fault("export", *named, "--method", "patchcore", *FEW, says=["ltcam student train"])
    cli.fault(
        "evaluate", *named, "--method", "patchcore", "--delta", "50", says=["method.delta=50"]
    )
    cli.fault(
        "evaluate", *named, "--method", "patchcore", "method.features=start",
        says=["method.features=start", "use features=classifier"], logs=True,
    )  # fmt: skip
    cli.fault(
        "evaluate", *named, "--method", "patchcore", *FEW, "method.memory=sha256:0", logs=True,
        says=["sha256:0", "method.memory=null"],
    )  # fmt: skip


def test_predict_needs_no_data_set(ksdd_like: Any, cli: Cli) -> None:
    from conftest import KSDD

    root: Path = ksdd_like()
    network = BackboneConfig("vgg16_slim", head="avg")
    torch.save(build_classifier(network, 3).state_dict(), "began.pt")
    cli.ok("train", *KSDD, "dataset.split=paper", "backbone.weights=began.pt")
    [run] = [path.name for path in Path("outputs").glob("ksdd-*")]
    words = ("--run", run, "--method", "patchcore", *FEW)
    new = images(cli.folder / "new", 2)
    moved = root.rename(root.with_name("elsewhere"))
    cli.fault(
        "predict", new, *words, logs=True, says=["remembers good training images", "evaluate"]
    )
    moved.rename(root)
    cli.ok("evaluate", *words)
    root.rename(moved)
    cli.ok("predict", new, *words, "predict.save_maps=true")
    [saved, _] = sorted(Path("outputs", run, "predict").glob("patchcore-otsu-*/maps/*.npy"))
    heatmap = np.load(saved)
    assert heatmap.shape == (80, 70) and heatmap.min() >= 0
    [place] = Path("outputs", run, "memories").glob("*.pt")
    place.write_bytes(place.read_bytes()[:100])
    cli.fault("predict", new, *words, logs=True, says=[place.name, "is damaged", "delete it"])

    moved.rename(root)
    started = (*words, "method.features=start")
    cli.ok("evaluate", *started)
    torch.save(build_classifier(network, 3).state_dict(), "began.pt")
    cli.ok("evaluate", *started, "method.smooth=2")  # of the same memory
    cli.fault("evaluate", *started, "--overwrite", says=["began.pt", "restore it"], logs=True)
