"""Segmenters that learn from training images: without a mask, once, and kept in the run folder."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import KSDD, SYNTHETIC, Cli, KsddLike, Run
from PIL import Image
from toys import picture, tiny_classifier, toys

from ltcam_cli.commands.compose import composer
from ltcam_cli.commands.options import Call
from ltcam_cli.data.sample import Sample
from ltcam_cli.errors import LtcamError
from ltcam_cli.experiments import calibration
from ltcam_cli.experiments.calibration import calibrate
from ltcam_cli.experiments.invocation import command_of_cell
from ltcam_cli.experiments.session import Session
from ltcam_cli.experiments.settings import Pipeline, Settings
from ltcam_cli.maps.engine import Heatmaps, HeatmapSource
from ltcam_cli.maps.fusion import at_size
from ltcam_cli.maps.method import CamMethod, Method
from ltcam_cli.maps.tta_config import TtaConfig
from ltcam_cli.masks.refine import RefineConfig
from ltcam_cli.masks.segmenters import Segmenter, SegmenterConfig
from ltcam_cli.runs.cells import Cell
from ltcam_cli.runs.folder import RunFolder

MAPS = {"image": 1, "square": 2}  # methods of `Brightness`, and the power of each
QUANTILE = SegmenterConfig("good_quantile", "good_quantile", {"quantile": 0.9})
CALIBRATED = replace(
    QUANTILE, refine=RefineConfig("contrast", "good_quantile", options={"scale": 3})
)
APPEARANCE = SegmenterConfig(refine=RefineConfig("appearance", options={"scales": [1]}))


class Brightness:
    """A source of maps: the image, or its square. Counts what it is shown."""

    def __init__(self) -> None:
        self.shown = 0
        self.model = tiny_classifier().model

    def of(self, session: Session, methods: Sequence[Method], tta: TtaConfig) -> HeatmapSource:
        """In place of `heatmap_source`."""

        def source(images: torch.Tensor) -> Heatmaps:
            self.shown += len(images)
            maps = images.mean(dim=1)
            return Heatmaps([maps ** MAPS[m.name] for m in methods], self.model(images))

        return source


def unmasked(samples: list[Sample]) -> list[Sample]:
    """The samples with masks that must not be read."""

    def never() -> np.ndarray:
        raise AssertionError("a mask was read")

    return [replace(sample, read_mask=never) for sample in samples]


def fitted(
    *cells: tuple[str, SegmenterConfig], samples: list[Sample] | None = None
) -> tuple[Brightness, list[list[Any]]]:
    """What the segmenters of some maps learn."""
    session, source = Session(Settings(), RunFolder(Path("run"))), Brightness()
    session.classifier = tiny_classifier()
    session.training_images = unmasked(toys(12)) if samples is None else samples
    pipelines = [Pipeline(CamMethod(name=name), config, TtaConfig()) for name, config in cells]
    segmenters = [Segmenter(config) for _, config in cells]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "heatmap_source", source.of)
        calibrate(session, pipelines, segmenters)
    return source, [[c.state for c in segmenter.calibrators] for segmenter in segmenters]


def test_a_threshold_is_calibrated_on_the_cells_own_maps_of_good_images() -> None:
    _, [[low], [high]] = fitted(("image", QUANTILE), ("square", QUANTILE))
    classifier = tiny_classifier()
    good = [sample for sample in toys(12) if not sample.label]
    maps = []
    for sample in good:
        image = torch.from_numpy(sample.image / np.float32(255))[None, None]
        small = torch.nn.functional.interpolate(
            image, (classifier.height, classifier.width), mode="bilinear", antialias=True
        )
        maps.append(at_size(classifier.prepare(small).mean(dim=1), sample.image.shape)[0])
    assert low == pytest.approx(np.quantile(maps, 0.9), abs=0.02)
    assert high == pytest.approx(np.quantile(np.square(maps), 0.9), rel=0.05)


def test_all_cells_share_a_pass_for_each_calibrator() -> None:
    good, defective = 8, 4
    assert fitted(("image", QUANTILE))[0].shown == good
    cells = [("image", QUANTILE), ("image", CALIBRATED), ("square", CALIBRATED),
             ("image", APPEARANCE)]  # fmt: skip
    source, together = fitted(*cells)
    assert source.shown == good + defective  # the polarity needs maps, the contrasts need none
    for cell, states in zip(cells, together, strict=True):
        assert fitted(cell)[1] == [states]
    assert [state["polarity"] for _, state, _ in together[1:3]] == ["bright"] * 2
    assert fitted(("image", APPEARANCE))[0].shown == 0


def test_a_class_without_images() -> None:
    good = [sample for sample in toys(6) if not sample.label]
    with pytest.raises(LtcamError, match="learns from defective training images, and none"):
        fitted(("image", CALIBRATED), samples=good)


# --- on the command line

REFINED = [
    "segmenter=good_quantile", "segmenter.options.quantile=0.8", "segmenter.refine.rule=contrast",
    "segmenter.refine.threshold=good_quantile", "segmenter.refine.quantile=0.9",
    "segmenter.refine.options.scale=4", "segmenter.min_area=2",
]  # fmt: skip


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many cells each calibration was of."""
    calls: list[int] = []

    def counting(session: Session, pipelines: Any, segmenters: Any) -> None:
        calls.append(len(pipelines))
        calibrate(session, pipelines, segmenters)

    with monkeypatch.context() as patched:
        patched.setattr(calibration, "calibrate", counting)
        yield calls


def rows_of(run: Run) -> pd.DataFrame:
    return pd.read_csv(run.path / "results.csv")


def test_evaluate_with_a_calibrated_segmenter(
    cli: Cli, own_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = [*SYNTHETIC, "--method", "layercam"]
    with counted(monkeypatch) as calls:
        cli.ok("evaluate", *args, *REFINED)
        cli.ok("evaluate", *args, *REFINED)  # is there
        cli.ok("evaluate", *args, *REFINED, "segmenter.min_area=30")  # learns nothing else
        assert calls == [1]
        [state] = (own_run.path / "segmenters").glob("*.json")
        before = state.read_bytes()
        cli.ok("evaluate", *args, *REFINED, "--overwrite")
        assert calls == [1, 1] and state.read_bytes() == before
        for damaged in (
            b"",
            before[: len(before) // 2],
            before.replace(b'"states": [', b'"states": [7, '),
        ):
            state.write_bytes(damaged)
            cli.fault(
                "evaluate", *args, *REFINED, "segmenter.min_area=31", says=[state.name, "delete"]
            )
        state.write_bytes(before)
        cli.ok("evaluate", *args, *REFINED, "segmenter.refine.options.scale=5")
        cli.ok("evaluate", *SYNTHETIC, "--method", "fullgrad", *REFINED)
        assert calls == [1] * 4 and len([*state.parent.glob("*.json")]) == 3
    rows = rows_of(own_run)
    assert rows["segmenter"].tolist() == ["good_quantile+contrast"] * 4
    assert rows["cell"].nunique() == 4 and (rows["tp"] + rows["fp"] > 0).all()
    large, all_ = (rows["tp"] + rows["fp"]).iloc[:2]  # what was computed anew has gone behind
    assert large < all_


def test_its_command_makes_the_cell_again(cli: Cli, own_run: Run) -> None:
    cli.ok("evaluate", *SYNTHETIC, "--method", "layercam", *REFINED)
    [cell] = (own_run.path / "evaluate").iterdir()
    words = shlex.split(command_of_cell(Cell(cell), composer(Call([]))))
    before = rows_of(own_run).drop(columns="seconds")
    shutil.rmtree(own_run.path / "segmenters")
    cli.ok(*words[1:], "threads=1", "device=cpu", "--overwrite")
    pd.testing.assert_frame_equal(rows_of(own_run).drop(columns="seconds"), before)


def test_all_commands_take_one(cli: Cli, own_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A grid is fitted in one pass; what it learnt serves δ's choice and a report."""
    given = ["evaluation.deltas=[0,90]", *REFINED]
    with counted(monkeypatch) as calls:
        cli.ok(
            "sweep", "--method", "ltlayercam,ablationcam", "--delta", "0,90", *SYNTHETIC, *REFINED
        )
        assert calls == [3]
        cli.ok("evaluate", "--method", "ltlayercam", "--delta", "auto", *SYNTHETIC, *given)
        cli.ok("report", own_run.name, "--method", "ltlayercam")
        assert calls == [3]
        cells = "reproduce.entries=[{method:layercam},{method:ltlayercam,method.delta:0}]"
        cli.ok("reproduce", "table1", "reproduce.pictures=1", cells, *SYNTHETIC, *REFINED)
        assert calls == [3, 1]
    assert "good_quantile+contrast" in (own_run.path / "report.html").read_text(encoding="utf-8")


def test_predict_where_the_data_set_is_not(
    cli: Cli, ksdd_like: KsddLike, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = ksdd_like()
    cli.ok("train", *KSDD)
    [path] = Path("outputs").glob("*-vgg16_slim-*")
    Path("new").mkdir()
    for number in range(5):
        Image.fromarray(picture(number, number % 2 == 0)).save(Path("new") / f"{number}.png")
    call = ["predict", "new", "--run", path.name, "method=layercam", "threads=1", "device=cpu",
            "predict.gate=false", *REFINED]  # fmt: skip
    moved = root.rename(root.with_name("elsewhere"))
    cli.fault(*call, says=["good_quantile+contrast: learns from training images", "no such folder",
                           "or evaluate the run once"], logs=True)  # fmt: skip
    cli.ok("evaluate", "--run", path.name, "--method", "layercam", *REFINED, "threads=1",
           "device=cpu", "dataset.root=data/elsewhere")  # fmt: skip
    cli.ok(*call, "-m", "--shard", "1:2/2", "predict.out=parts")
    with counted(monkeypatch) as calls:
        cli.ok(*call, "predict.out=out")
        scores = pd.read_csv("out/scores.csv", index_col=0)
        (Path("out/masks") / "3.png").unlink()
        cli.ok(*call, "predict.out=out")  # goes on
        assert not calls
    again = pd.read_csv("out/scores.csv", index_col=0)
    pd.testing.assert_frame_equal(again.loc[scores.index], scores)  # but for rounding: of a batch
    for number in range(5):
        masks = [np.asarray(Image.open(f"{out}/masks/{number}.png")) for out in ("out", "parts")]
        np.testing.assert_array_equal(*masks)
    moved.rename(root)  # and where it is back, nothing is another one's
    cli.ok(*call, "predict.out=out")
    cli.fault(*call, "predict.out=out", "segmenter.options.quantile=0.7",
              says=["holds the masks of another method, segmenter"], logs=True)  # fmt: skip


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("segmenter.refine.rule=contrst", ["refine.rule=contrst", "did you mean 'contrast'?"]),
        ("segmenter.refine.rul=ridge", ["segmenter.refine.rul", "did you mean"]),
        ("segmenter.options.nbin=9", ["segmenter.options.nbin", "did you mean 'nbins'?"]),
        ("segmenter.min_area=2.5", ["segmenter.min_area", "2.5"]),
    ],
)
def test_what_is_mistyped(cli: Cli, override: str, says: list[str]) -> None:
    cli.fault("evaluate", *SYNTHETIC, override, says=says)
