"""δ chosen on the training part: by its masks, or by what the maps say of themselves."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import KSDD, SYNTHETIC, Cli, Run
from PIL import Image
from toys import fault, picture, square, tiny_classifier, toy, toys

from ltcam_cli.data.batches import Item
from ltcam_cli.data.sample import Sample
from ltcam_cli.experiments import delta as choice
from ltcam_cli.experiments.cells import ChosenPipeline
from ltcam_cli.experiments.config import EvaluationConfig
from ltcam_cli.experiments.delta import choose_deltas
from ltcam_cli.experiments.evidence import Evidence, mean_evidence
from ltcam_cli.experiments.session import Session
from ltcam_cli.experiments.settings import Pipeline, Settings
from ltcam_cli.maps.engine import CamEngine, Heatmaps
from ltcam_cli.maps.method import CamMethod
from ltcam_cli.maps.spec import MapSpec
from ltcam_cli.maps.tta_config import TtaConfig
from ltcam_cli.masks.segmenters import Segmenter, SegmenterConfig
from ltcam_cli.report.curves import draw_choice
from ltcam_cli.runs.folder import RunFolder
from ltcam_cli.runs.masking import ImageResult, Loading, MaskJob

JOBS = [MaskJob(number, Segmenter(SegmenterConfig())) for number in range(4)]
AUTO = CamMethod(delta="auto")


# --- by masks


def chosen_by(ious: dict[float, float | None], *methods: CamMethod) -> list[ChosenPipeline]:
    """What is chosen where each δ has this IoU on the training part."""
    seen = []

    def plan(session: Session, candidates: Sequence[ChosenPipeline]) -> list[ChosenPipeline]:
        seen.append(session.settings.evaluation)
        return [*candidates]

    def run(session: Session, jobs: Sequence[ChosenPipeline]) -> tuple[list[dict[str, Any]], float]:
        return [{"iou": ious[job.pipeline.method.delta]} for job in jobs], 0.0

    evaluation = EvaluationConfig(
        supervision="pixel", deltas=list(ious), images="predicted", overlays=7, save_maps=True
    )
    session = Session(Settings(evaluation=evaluation), RunFolder(Path("run")))
    session.training_images = []
    pipelines = [Pipeline(method, SegmenterConfig(), TtaConfig()) for method in methods]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choice, "plan", plan)
        patch.setattr(choice, "run", run)
        choices = choose_deltas(session, pipelines)
    for each in seen:
        assert (each.split, each.images, each.overlays, each.save_maps) == (
            "train", "defective", 0, False,
        )  # fmt: skip
    return choices


def test_the_best_delta_of_the_training_masks_is_chosen() -> None:
    fixed = CamMethod(delta=30.0)
    other = CamMethod(name="ltlayercam", weighting="layercam", delta="auto")
    ious = {0.0: 4.0, 50.0: None, 70.0: 9.0, 90.0: 8.0}
    choices = chosen_by(ious, AUTO, fixed, other)
    assert [c.pipeline.method for c in choices] == [
        replace(AUTO, delta=70.0), fixed, replace(other, delta=70.0),
    ]  # fmt: skip
    assert [c.supervision for c in choices] == ["pixel", "", "pixel"]
    curve = choices[0].curve
    assert curve is not None and choices[1].curve is None
    assert curve["delta"].tolist() == list(ious) and curve["chosen"].tolist() == [
        False, False, True, False,
    ]  # fmt: skip
    np.testing.assert_array_equal(curve["iou"], [4.0, np.nan, 9.0, 8.0])


def test_of_equals_the_smallest_delta() -> None:
    [best] = chosen_by({90.0: 5.0, 0.0: 1.0, 40.0: 5.0}, AUTO)
    assert best.pipeline.method.delta == 40.0


def test_nothing_to_choose_is_not_evaluated() -> None:
    methods = [CamMethod(), CamMethod(name="gradcam", delta=None, layers="last")]
    choices = chosen_by({0.0: 1.0}, *methods)
    assert [c.pipeline.method for c in choices if c.curve is None] == methods


def test_no_mask_at_all() -> None:
    message = fault(lambda: chosen_by({0.0: None, 50.0: None}, AUTO))
    assert message.startswith("method.delta=auto: ")


def test_a_method_without_gradients_has_no_delta() -> None:
    score = CamMethod(name="scorecam", weighting="scorecam", layers="last", delta="auto")
    assert "delta=null" in fault(lambda: chosen_by({0.0: 1.0}, score))


def test_auto_is_no_spec() -> None:
    assert "ltcam evaluate --delta auto" in fault(AUTO.spec)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"supervision": "pixel-val"}, "supervision=pixel-val: unknown; did you mean 'pixel'"),
        ({"deltas": []}, "deltas=[]: must be a list of at least 1, each a number"),
    ],
)
def test_wrong_configs(options: dict[str, Any], says: str) -> None:
    assert says in fault(lambda: EvaluationConfig(**options))


# --- by images alone


def result_of(heatmap: np.ndarray, mask: np.ndarray, image: torch.Tensor) -> ImageResult:
    return ImageResult(Item(toy(0, 1), image), heatmap, mask, 0.9, True)


class Brightest(torch.nn.Module):
    """Its logit is how far the brightest pixel stands above the picture's mean."""

    def __init__(self) -> None:
        super().__init__()
        self.one = torch.nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.amax(dim=(1, 2, 3)) - x.mean(dim=(1, 2, 3)))[:, None] * self.one


def test_evidence_of_masks_that_are_known() -> None:
    classifier = replace(tiny_classifier(), model=Brightest().eval())
    image = torch.zeros(1, 32, 32)
    image[:, 10:12, 10:12] = 1
    spot = image[0].numpy() > 0
    square, nothing = np.zeros_like(spot), np.zeros_like(spot)
    square[6:16, 6:16] = True
    evidence = Evidence(classifier)

    def of(mask: np.ndarray) -> float:
        return evidence(result_of(mask.astype(np.float32), mask, image))

    assert of(nothing) == 0 and of(~nothing) == 0
    assert of(spot) == pytest.approx(np.log(1 / spot.mean()), rel=0.02)
    assert of(square) == pytest.approx(np.log(1 / square.mean()), rel=0.02)
    assert of(np.roll(spot, 15, axis=0)) == 0
    flat = result_of(spot.astype(np.float32), spot, torch.zeros(1, 32, 32))
    assert np.isnan(evidence(flat))


class Squares:
    """A source of four cells: nothing, the true square, the square and much around it, all."""

    def __init__(self, classifier: Any, samples: Sequence[Sample]) -> None:
        self.model, self.samples = classifier.model, iter(samples)

    def __call__(self, images: torch.Tensor) -> Heatmaps:
        true = np.stack([square(int(next(self.samples).name[3:]), True) for _ in images])
        masks = torch.from_numpy(true).float()[:, None]
        resized = torch.nn.functional.interpolate(masks, images.shape[-2:])[:, 0]
        wide = torch.nn.functional.max_pool2d(resized[:, None], 17, 1, 8)[:, 0]
        maps = [torch.zeros_like(resized), resized, wide, torch.zeros_like(resized)]
        return Heatmaps(maps, self.model(images))


def test_the_criterion_knows_the_true_square() -> None:
    classifier = replace(tiny_classifier(), model=Brightest().eval())
    samples = toys(9)
    defective = [sample for sample in samples if sample.label]
    source = Squares(classifier, defective)
    values = mean_evidence(classifier, source, JOBS, samples, Loading(2))
    assert len(values) == 4 and int(np.argmax(values)) == 1 and values[0] == 0


def test_no_mask_is_read() -> None:
    def never() -> np.ndarray:
        raise AssertionError("a mask was read")

    classifier = tiny_classifier()
    samples = [replace(sample, read_mask=never) for sample in toys(6)]
    source = CamEngine(classifier.model, [MapSpec("layercam", ("all",), d) for d in (0.0, 90.0)])
    values = mean_evidence(classifier, source, JOBS[:2], samples, Loading(3))
    assert len(values) == 2


# --- on the command line


def rows_of(run: Path) -> pd.DataFrame:
    return pd.read_csv(run / "results.csv")


def test_evaluate_by_the_masks_of_training_images(cli: Cli, own_run: Run) -> None:
    auto = ["--method", "ltlayercam", "--delta", "auto", "evaluation.deltas=[0,90]"]
    shown = cli.ok("evaluate", *SYNTHETIC, *auto, "evaluation.supervision=pixel")
    rows = rows_of(own_run.path)
    on_train, [row] = (
        rows[rows["split"] == "fraction/train"],
        rows[rows["supervision"] == "pixel"].to_dict("records"),
    )
    best = on_train.loc[on_train["iou"].idxmax(), "delta"]
    assert len(on_train) == 2 and row["delta"] == best and row["split"] == "fraction"
    folder = own_run.path / "evaluate" / row["cell"]
    assert f"auto{best:g}" in folder.name and f"{best:.2f}" in shown
    curve = pd.read_csv(folder / "delta.csv")
    np.testing.assert_allclose(curve["iou"], on_train.sort_values("delta")["iou"])
    assert curve.loc[curve["chosen"], "delta"].tolist() == [best]
    with Image.open(folder / "delta.png") as image:
        assert image.size[0] > 300
    assert yaml.safe_load((folder / "config.yaml").read_text())["method"]["delta"] == best
    cli.ok("evaluate", *SYNTHETIC, "--method", "ltlayercam", "--delta", f"{best:g}")
    same = rows_of(own_run.path).iloc[-1]
    assert same["cell"] != row["cell"] and same["supervision"] == "image"
    assert [same[c] for c in ("tp", "fp", "fn")] == [row[c] for c in ("tp", "fp", "fn")]


def write_folder(root: Path) -> list[str]:
    """A data set whose training images have no masks; its overrides."""
    lines = ["name,split"]
    for number in range(12):
        label, part = number % 2, "test" if number >= 8 else "train"
        path = root / ("defect" if label else "good") / f"n{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(number, bool(label), (60, 50))).save(path)
        lines.append(f"{path.stem},{part}")
        if label and part == "test":
            mask = root / "masks" / path.name
            mask.parent.mkdir(exist_ok=True)
            Image.fromarray(square(number, True, (60, 50)).astype(np.uint8) * 255).save(mask)
    (root / "split.csv").write_text("\n".join(lines) + "\n")
    return ["dataset=folder", f"dataset.root={root}", *KSDD]


def test_evaluate_by_images_alone(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_folder(Path("images"))
    cli.ok("train", *data)
    auto = [*data, "--delta", "auto", "evaluation.deltas=[0,50,90]"]
    cli.ok("evaluate", *auto)
    [run] = Path("outputs").glob("images-*")
    [row] = rows_of(run).to_dict("records")
    assert row["supervision"] == "image" and row["n_images"] == 2
    curve = pd.read_csv(run / "evaluate" / row["cell"] / "delta.csv")
    [name] = set(curve.columns) - {"delta", "chosen"}
    best = curve.loc[curve[name].idxmax(), "delta"]
    assert row["delta"] == best == curve.loc[curve["chosen"], "delta"].item()

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("judged again")

    with monkeypatch.context() as patch:
        patch.setattr("ltcam_cli.experiments.delta.mean_evidence", never)
        cli.ok("evaluate", *auto)
        cli.ok("evaluate", *data, "--delta", "auto", "evaluation.deltas=[50,90]")
    says = ["is defective and has no mask", "masks/"]
    cli.fault("evaluate", *auto, "evaluation.supervision=pixel", says=says, logs=True)
    shutil.rmtree("images/masks")  # nor is one needed to choose for images that are not scored
    cli.ok("evaluate", *auto)
    free = rows_of(run).iloc[-1]
    assert np.isnan(free["iou"]) and free["delta"] == row["delta"] and free["evidence"] >= 0


def test_a_curve_of_a_choice(tmp_path: Path) -> None:
    curve = pd.DataFrame({"delta": [0.0, 50.0], "evidence": [0.1, 0.4], "chosen": [False, True]})
    draw_choice(curve, tmp_path / "delta.png")
    with Image.open(tmp_path / "delta.png") as image:
        assert image.size[0] > image.size[1] > 200
