"""What DESIGN.md says of the real KolektorSDD, seen on it; and the way through on ten images."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ltcam_cli.classifier.checkpoint import load_classifier
from ltcam_cli.classifier.config import BackboneConfig, TrainerConfig
from ltcam_cli.classifier.train import train
from ltcam_cli.data.ksdd import Ksdd
from ltcam_cli.data.load import load_split
from ltcam_cli.data.sample import Sample
from ltcam_cli.data.split import Split, duplicates
from ltcam_cli.errors import LtcamError
from ltcam_cli.maps.engine import CamEngine
from ltcam_cli.maps.spec import MapSpec
from ltcam_cli.masks.segmenters import Segmenter, SegmenterConfig
from ltcam_cli.runs.masking import Loading, MaskJob
from ltcam_cli.runs.scoring import evaluate
from ltcam_cli.scores.pixels import PixelCounts

pytestmark = pytest.mark.real


def config(root: Path, **options: Any) -> Ksdd:
    return Ksdd(root=str(root), height=128, width=64, **options)


@pytest.fixture(scope="module")
def paper(real_ksdd: Path) -> Split:
    return load_split(config(real_ksdd))


def of_folder(samples: list[Sample], *numbers: int) -> list[Sample]:
    wanted = {f"kos{number:02d}" for number in numbers}
    return [sample for sample in samples if sample.name.split("/")[0] in wanted]


def by_name(samples: list[Sample]) -> dict[str, Sample]:
    return {sample.name: sample for sample in samples}


def test_what_there_is(paper: Split) -> None:
    samples = paper.part("all")
    assert len(samples) == 399 and len(by_name(samples)) == 399
    assert sum(s.label or 0 for s in samples) == 52
    assert len({s.name.split("/")[0] for s in samples}) == 50
    assert len({s.group for s in samples}) == 47
    assert len(of_folder(samples, 21)) == 7
    for part, good, defective in (("train", 277, 42), ("test", 70, 10)):
        labels = [s.label for s in paper.part(part)]
        assert (labels.count(0), labels.count(1)) == (good, defective)


def test_sizes(paper: Split) -> None:
    for sample in of_folder(paper.part("all"), 1, 20, 50):
        height, width = sample.image.shape
        assert width == 500 and 1235 <= height <= 1285
        assert sample.image.dtype == np.uint8
        assert sample.mask is not None and sample.mask.shape == (height, width)
        assert sample.mask.any() == bool(sample.label)


def test_the_palettes_second_defect_counts(paper: Split) -> None:
    sample = by_name(paper.train)["kos20/Part4"]
    assert sample.path is not None and sample.mask is not None
    with Image.open(sample.path.with_name("Part4_label.bmp")) as image:
        assert image.mode == "P"
        indices = np.asarray(image)
    assert set(np.unique(indices)) == {0, 1, 2} and (indices == 2).sum() > (indices == 1).sum()
    np.testing.assert_array_equal(sample.mask, indices > 0)


@pytest.mark.parametrize(("first", "second", "agreement"), [(1, 26, 0.63), (27, 34, 0.66)])
def test_twins_are_equal_byte_for_byte_and_their_masks_are_not(
    paper: Split, first: int, second: int, agreement: float
) -> None:
    ours, theirs = (of_folder(paper.train, number) for number in (first, second))
    pairs = duplicates(ours, theirs)
    assert pairs == {
        (f"kos{first:02d}/Part{part}", f"kos{second:02d}/Part{part}") for part in range(8)
    }
    names = by_name(paper.train)
    defective = [pair for pair in pairs if any(names[name].label for name in pair)]
    total = sum(
        (PixelCounts.from_masks(names[a].mask, names[b].mask) for a, b in defective), PixelCounts()
    )
    assert total.iou == pytest.approx(agreement, abs=0.01)


def test_one_item_seen_twice(paper: Split) -> None:
    """Part K of kos38 is most like Part (K+6) mod 8 of kos39; no two are equal."""
    assert duplicates(of_folder(paper.train, 38), of_folder(paper.train, 39)) == set()
    names = by_name(paper.train)

    def small(folder: int, part: int) -> np.ndarray:
        image = Image.fromarray(names[f"kos{folder}/Part{part}"].image).resize((50, 125))
        values = np.asarray(image, dtype=np.float64)
        return (values - values.mean()) / values.std()

    pictures = {(f, p): small(f, p) for f, p in product((38, 39), range(8))}
    for part in range(8):
        likeness = [(pictures[38, part] * pictures[39, other]).mean() for other in range(8)]
        assert int(np.argmax(likeness)) == (part + 6) % 8


def test_the_papers_split_does_not_leak(paper: Split) -> None:
    assert duplicates(paper.train, paper.test) == set()
    assert {s.group for s in paper.train}.isdisjoint(s.group for s in paper.test)
    assert paper.dropped == []


@pytest.mark.parametrize(
    ("fold", "tested", "leaking", "equal"),
    [
        (0, (27, 38), (34, 39), (27, 34)),
        (1, (1, 39), (26, 38), (1, 26)),
        (2, (26, 34), (1, 27), None),
    ],
)
def test_official_folds_leak(
    real_ksdd: Path,
    fold: int,
    tested: tuple[int, ...],
    leaking: tuple[int, ...],
    equal: tuple[int, int] | None,
) -> None:
    official = dict(split="official", fold=fold)
    with pytest.raises(LtcamError, match=r"train and test share the item\(s\)"):
        load_split(config(real_ksdd, **official, drop_leaks=False))
    split = load_split(config(real_ksdd, **official))
    assert of_folder(split.listed_test, *tested)
    dropped = split.dropped
    assert of_folder(dropped, *leaking) == dropped and len(dropped) == 16
    assert duplicates(split.listed_train, split.listed_test) == set()
    across = duplicates(dropped, split.listed_test)
    assert len(across) == (16 if equal is None else 8)


def test_training_reads_no_mask_where_labels_are_given(
    real_ksdd: Path, paper: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [f"{sample.name},{sample.label}" for sample in paper.train]
    (tmp_path / "labels.csv").write_text("\n".join(["name,label", *rows]))
    split = load_split(config(real_ksdd, labels=str(tmp_path / "labels.csv")))
    monkeypatch.setattr(Sample, "mask", property(lambda self: pytest.fail(f"{self.name} read")))
    assert [s.label for s in split.train] == [s.label for s in paper.train]


def test_the_way_through(paper: Split, real_ksdd: Path, tmp_path: Path) -> None:
    """One epoch of twelve images, then ltgradcam on the ten defective test images."""
    torch.set_num_threads(1)
    metrics = train(
        tmp_path,
        paper,
        config(real_ksdd),
        BackboneConfig("vgg16_slim", hidden=16, weights=None),
        TrainerConfig(epochs=1, images_per_epoch=12, batch_size=6, cache=False),
        seed=0,
        device=torch.device("cpu"),
    )
    assert (metrics["test_images"], metrics["train_images"]) == (80, 319)
    classifier = load_classifier(tmp_path / "checkpoint.pt")
    source = CamEngine(classifier.model, [MapSpec("gradcam", ("all",), 50.0)])
    jobs = [MaskJob(0, Segmenter(SegmenterConfig()))]
    [scores], _ = evaluate(classifier, source, jobs, paper.test, Loading())
    row = scores.summary()
    assert row["n_images"] == 10 and scores.table["label"].eq(1).all()
    masks = [sample.mask for sample in paper.test if sample.label]
    assert row["tp"] + row["fp"] + row["fn"] + row["tn"] == sum(m.size for m in masks)  # type: ignore[union-attr]
    assert row["tp"] + row["fn"] == sum(m.sum() for m in masks)  # type: ignore[union-attr]
    assert row["tp"] + row["fp"] > 0
