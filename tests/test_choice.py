"""`pipeline=auto` and `backbone=auto`: what training images and the machine choose."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.ndimage
import torch
import yaml
from conftest import Cli, Run
from test_delta import Brightest, result_of, write_folder
from torchvision import models
from toys import fault, tiny_classifier, toys

from ltcam_cli.classifier import auto
from ltcam_cli.classifier.auto import network_of, resolved_backbone
from ltcam_cli.classifier.checkpoint import standardized
from ltcam_cli.classifier.config import BackboneConfig, TrainerConfig
from ltcam_cli.classifier.epochs import with_epochs
from ltcam_cli.commands.compose import settings_of
from ltcam_cli.commands.options import Call
from ltcam_cli.data.folder import Folder
from ltcam_cli.data.size import LARGE, derived_size, with_size
from ltcam_cli.errors import LtcamError
from ltcam_cli.experiments import choice, students
from ltcam_cli.experiments.choice import CORES, METHODS, SEGMENTERS, best_of, candidates
from ltcam_cli.experiments.evidence import BLUR, Counterfactuals, Shares, criteria, criterion
from ltcam_cli.experiments.session import Session

AUTO = BackboneConfig("auto", "avg")

# --- the candidates


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_methods_are_those_of_the_config_files(method: Any) -> None:
    assert settings_of("evaluate", Call([f"method={method.name}"])).method == method


@pytest.mark.parametrize("segmenter", SEGMENTERS, ids=lambda segmenter: segmenter.name)
def test_segmenters_are_those_of_the_config_files(segmenter: Any) -> None:
    overrides = [f"segmenter={segmenter.rule}"]
    if segmenter.rule == "fraction":
        overrides.append(f"segmenter.options.of_maximum={segmenter.options['of_maximum']}")
    if segmenter.refine.rule == "contrast":
        polarity = segmenter.refine.options["polarity"]
        overrides = ["segmenter=contrast", f"segmenter.refine.options.polarity={polarity}"]
    config = settings_of("evaluate", Call(overrides)).segmenter
    assert replace(config, name=segmenter.name) == segmenter


def test_what_the_user_names_stays() -> None:
    everything = settings_of("predict", Call(["pipeline=auto"])).pipeline
    assert len(candidates(everything)) == len(METHODS) * len(SEGMENTERS) - len(CORES)
    fixed = settings_of("predict", Call(["pipeline=auto", "segmenter=yen"])).pipeline
    assert {c.segmenter.name for c in candidates(fixed)} == {"yen"}
    assert {c.tta.label for c in candidates(fixed)} == {everything.tta.label} != {""}
    method = settings_of("evaluate", Call(["method=gradcam", "segmenter=auto"])).pipeline
    assert {c.method.name for c in candidates(method)} == {"gradcam"}


# --- the criterion


def written_out(image: np.ndarray, good: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """n h and s of `Brightest` in float64, with scipy's Gaussian."""

    def y(x: np.ndarray) -> float:
        x = (x - 0.5) / 0.25
        return float(x.max() - x.mean())

    sigma = BLUR * max(image.shape)
    width = 2 * round(3 * sigma) + 1
    blurred = scipy.ndimage.gaussian_filter(image, sigma, mode="mirror", radius=width // 2)
    medians = [np.quantile(x, 0.5, method="lower") for x in (image, good)]
    good = np.clip(good + medians[0] - medians[1], 0, 1)
    soft = scipy.ndimage.gaussian_filter(mask.astype(float), 1.5, mode="mirror", radius=4)
    soft = np.maximum(soft, mask)
    n = (y(image) - y(np.where(mask, blurred, image))) / (y(image) - y(blurred))
    h = (y(image) - y(soft * good + (1 - soft) * image)) / (y(image) - y(good))
    s = (y(soft * image + (1 - soft) * good) - y(good)) / (y(image) - y(good))
    n, h, s = np.clip([n, h, s], 0, 1)
    return n * h, s


def test_shares_are_their_formulas() -> None:
    rng = np.random.default_rng(0)
    image, good = rng.uniform(0.2, 0.5, (2, 32, 32))
    image[10:13, 10:14] += 0.4
    classifier = replace(tiny_classifier(), model=Brightest().eval())
    questions = Counterfactuals(classifier, torch.from_numpy(good[None, None]).float())
    given = torch.from_numpy(image[None]).float()
    values = []
    for box in [
        (10, 13, 10, 14),
        (4, 20, 4, 20),
        (10, 12, 10, 12),
        (20, 30, 2, 12),
        (0, 32, 0, 32),
    ]:
        mask = np.zeros((32, 32), dtype=bool)
        mask[box[0] : box[1], box[2] : box[3]] = True
        shares = questions.shares(result_of(mask.astype(np.float32), mask, given))
        expected = (*written_out(image, good, mask), mask.mean())
        assert shares == pytest.approx(expected, abs=2e-3)
        values.append(float(criterion(*shares)))
    assert int(np.argmax(values)) == 0 and values[3] < 0.05 and values[4] == 0
    nothing = np.zeros((32, 32), dtype=bool)
    assert questions.shares(result_of(nothing.astype(np.float32), nothing, given)) == (0, 0, 0)


def shares_table(shares: np.ndarray) -> pd.DataFrame:
    """Rows of `Shares` (jobs, images, 3), in any order; two images an item."""
    jobs, images = np.indices(shares.shape[:2]).reshape(2, -1)
    table = pd.DataFrame(shares.reshape(-1, 3), columns=list(Shares._fields))
    table["job"], table["image"] = jobs, [f"i{n}" for n in images]
    return table.assign(group=[f"g{n // 2}" for n in images]).sample(frac=1, random_state=0)


def test_images_count_by_the_mean_area_of_their_masks() -> None:
    rng = np.random.default_rng(0)
    shares = rng.random((3, 4, 3))  # of jobs and images
    shares[:, 2, :2] = math.nan  # an image that says nothing
    table = criteria(shares_table(shares))
    for job in range(3):
        total, weight = np.zeros(3), 0.0
        for n in (0, 1, 3):
            size = sum(shares[other, n, 2] for other in range(3)) / 3
            total, weight = total + size * shares[job, n], weight + size
        means = total / weight
        np.testing.assert_allclose(table.loc[job, [*Shares._fields]], means)
        assert table["criterion"][job] == pytest.approx(float(criterion(*means)))
    assert criteria(shares_table(shares[:, 2:3])).isna().all(axis=None)


def test_a_lead_is_judged_by_a_bootstrap_over_the_items() -> None:
    rng = np.random.default_rng(0)
    shares = np.stack([rng.uniform(0.3, 0.7, (30, 3)) for _ in range(3)])
    shares[1, :, 0] += 0.3  # surely ahead, where the third is as good as the first
    shares[:, :, 2] = 0.1  # so that all images count alike
    table = criteria(shares_table(shares))

    def lead(images: list[int]) -> np.ndarray:
        values = [float(criterion(*shares[job, images].mean(axis=0))) for job in range(3)]
        return np.array(values) - values[0]

    draws = rng.integers(0, 15, (4000, 15))
    leads = [lead([2 * item + n for item in draw for n in (0, 1)]) for draw in draws]
    expected = np.quantile(leads, 0.05, axis=0)
    np.testing.assert_allclose(table["lead_low"], expected, atol=0.01)
    assert (table["lead_low"] > 0).tolist() == [False, True, False] and best_of(table) == 1
    assert best_of(table.assign(removed=table["removed"] * 0.4)) == 0  # which heals too little


def test_the_criterion_is_a_product_of_means() -> None:
    removed, brought, area = [0.5, 1.0, 0.2, 0.3], [0.8, 0.1, 0.0, 0.3], [0.01, 1.0, 0.0, 1 + 1e-15]
    expected = [0.5 * 0.8 * math.sqrt(math.log(100)), 0, 0, 0]
    np.testing.assert_allclose(criterion(removed, brought, area), expected)


# --- on the command line


def test_no_mask_chooses(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_folder(Path("images"))  # whose training images have no masks
    cli.ok("train", *data)
    cli.ok("evaluate", *data, "--pipeline", "auto")
    [run] = Path("outputs").glob("images-*")
    [folder] = run.glob("auto/*")
    table = pd.read_csv(folder / "choice.csv")
    best = table.iloc[best_of(table)]
    [student] = run.glob("student/auto-*")  # of what was chosen
    teacher = yaml.safe_load((student / "config.yaml").read_text(encoding="utf-8"))
    assert teacher["method"]["name"] == best["method"]
    assert teacher["segmenter"]["name"] == best["segmenter"]
    cli.ok("evaluate", *data, "--pipeline", "auto", "method.with_student=false")
    rows = pd.read_csv(run / "results.csv").to_dict("records")
    assert rows[0]["method"] == "student" and rows[1]["method"] == best["method"]
    assert rows[1]["segmenter"].startswith(best["segmenter"])
    assert len(list(folder.glob("1-*/*.png"))) == 4 and (folder / "choice.md").is_file()

    def never(*_: Any) -> None:
        raise AssertionError("judged again")

    monkeypatch.setattr(choice, "judged", never)
    monkeypatch.setattr(students, "train_with_teacher", never)
    shown = cli.ok("predict", "images/good", "--run", run.name)
    assert shown.startswith("6 images")
    Path("images").rename("elsewhere")  # what was chosen and learnt is in the run folder
    cli.ok("predict", "elsewhere/defect", "--run", run.name, "threads=2")
    cli.ok("predict", "elsewhere/defect", "--run", run.name, "method.with_student=false")
    drawn = {path.name.rpartition("-")[0] for path in run.glob("predict/*")}
    (folder / "choice.csv").write_text("method")
    damaged = ("predict", "elsewhere/good", "--run", run.name, "threads=1")
    cli.fault(*damaged, says=[str(folder / "choice.csv"), "delete it to choose anew"], logs=True)
    refined = best["segmenter"].startswith("contrast")
    assert drawn == {
        f"student-{best['segmenter'] if refined else 'fixed'}",
        f"{best['method']}-{best['segmenter']}",
    }


def test_without_training_images_the_first_candidate(
    cli: Cli, own_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(_: Session) -> None:
        raise LtcamError("images: no such folder")

    monkeypatch.setattr(Session, "training_images", property(absent))
    Path("photos").mkdir()
    write_folder(Path("photos"))
    shown = cli("predict", "photos/good", "--run", own_run.name)
    assert "images: no such folder; ltlayercam with otsu, unchosen" in shown.stderr
    assert "no student is trained" in shown.stderr
    assert list(own_run.path.glob("predict/ltlayercam-otsu-*"))


def test_who_cannot_choose_says_so(cli: Cli, own_run: Run) -> None:
    run = ["--run", own_run.name]
    methods = "search.methods=[{method: auto}]"
    cli.fault("search", *run, methods, says=["method=auto", "name another"], logs=True)
    cli.fault("export", *run, "--method", "auto", says=["method=auto", "another --method"])


# --- backbone=auto


@pytest.fixture
def weights_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of weights, from which nothing can be downloaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(auto, "downloaded", lambda name: False)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path


def test_a_cached_network(weights_of: Path) -> None:
    auto.cached("resnet18").touch()
    network = resolved_backbone(AUTO, on_gpu=False)
    assert (network.name, network.weights, network.freeze_bn) == ("resnet18", "DEFAULT", True)
    auto.cached("squeezenet1_1").touch()
    assert resolved_backbone(AUTO, on_gpu=False).name == "squeezenet1_1"
    assert resolved_backbone(AUTO, on_gpu=True).name == "resnet18"


def test_a_file_in_the_folder_of_weights(weights_of: Path) -> None:
    Path("weights").mkdir()
    Path("weights/squeezenet1_1.pth").touch()
    network = resolved_backbone(AUTO, on_gpu=False)
    assert (network.name, network.weights) == ("squeezenet1_1", "weights/squeezenet1_1.pth")


def test_from_scratch_where_nothing_can_be_had(
    weights_of: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        network = resolved_backbone(replace(AUTO, logits=2), on_gpu=False)
    assert (network.name, network.weights, network.standardize) == ("vgg16_slim", None, True)
    assert network.logits == 2 and "backbone.weights=FILE" in caplog.text


@pytest.mark.parametrize("name", ["squeezenet1_1", "resnet18", "mobilenet_v2"])
def test_a_file_says_what_it_is_of(name: str, tmp_path: Path) -> None:
    torch.save(getattr(models, name)().state_dict(), tmp_path / "w.pth")
    assert network_of(tmp_path / "w.pth") == name
    network = resolved_backbone(replace(AUTO, weights=str(tmp_path / "w.pth")), on_gpu=False)
    assert (network.name, network.weights) == (name, str(tmp_path / "w.pth"))


def test_a_file_of_another_network(tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "w.pth")
    assert "w.pth: fits none of" in fault(lambda: network_of(tmp_path / "w.pth"))


def test_other_networks_stay() -> None:
    network = BackboneConfig("vgg16_slim", weights=None)
    assert resolved_backbone(network, on_gpu=False) is network


def test_a_training_and_its_evaluation_find_the_same_network(cli: Cli, weights_of: Path) -> None:
    data = [w for w in write_folder(Path("images")) if not w.startswith("backbone")]
    cli.ok("train", *data, "backbone=auto")
    assert list(Path("outputs").glob("images-vgg16_slim-*"))
    shown = cli.ok("evaluate", *data, "backbone=auto", "--method", "gradcam")
    assert "gradcam" in shown


# --- standardized images


def test_brightness_and_contrast_do_not_count() -> None:
    images = torch.rand(3, 1, 20, 30, generator=torch.Generator().manual_seed(0))
    plain = images.double().numpy()
    mean, deviation = plain.mean((1, 2, 3)), plain.std((1, 2, 3), ddof=1)
    expected = (plain - mean[:, None, None, None]) / (deviation[:, None, None, None] + 0.05)
    np.testing.assert_allclose(standardized(images), expected, rtol=1e-5, atol=1e-6)
    classifier = tiny_classifier()
    one = replace(classifier, backbone=replace(classifier.backbone, standardize=True))
    torch.testing.assert_close(one.prepare(images), one.prepare(images + 0.3), rtol=0, atol=1e-5)
    changed = one.prepare(images) - one.prepare(0.5 * images)
    assert float(changed.abs().max()) < 0.15 < float((images - 0.5 * images).abs().max())


# --- size of the input, and epochs


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(160, 160)] * 3, (224, 224)),  # no smaller than networks are used to
        ([(1408, 512)] * 3, (416, 160)),  # as large as a CPU bears
        ([(250, 300), (256, 320), (5000, 40)], (224, 288)),  # medians: one odd image does not count
        ([(40, 4000)], (64, 2560)),
    ],
)
def test_the_size_follows_from_the_images(
    sizes: list[tuple[int, int]], expected: tuple[int, int]
) -> None:
    assert derived_size(sizes) == expected


def test_windows_see_large_images() -> None:
    assert derived_size([(640, 700)] * 3, LARGE) == (640, 704)
    assert derived_size([(4000, 4000)] * 3, LARGE) == (1024, 1024)


def test_a_given_side_stays() -> None:
    samples = toys(4, size=(40, 80))
    dataset = Folder(root="images")
    both = with_size(dataset, samples)
    assert (both.height, both.width) == (160, 320)
    one = with_size(replace(dataset, height=64), samples)
    assert (one.height, one.width) == (64, 128)
    assert "dataset.height=224" in fault(lambda: dataset.input_size)


@pytest.mark.parametrize(
    ("images", "pretrained", "epochs"),
    [(None, False, 20), (100, True, 20), (500, True, 8), (5000, True, 4), (5000, False, 20)],
)
def test_epochs_that_are_not_set(images: int | None, pretrained: bool, epochs: int) -> None:
    trainer = TrainerConfig(images_per_epoch=images)
    assert with_epochs(trainer, toys(30), pretrained).epochs == epochs
    chosen = TrainerConfig(epochs=3)
    assert with_epochs(chosen, toys(30), pretrained) is chosen
