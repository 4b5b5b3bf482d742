"""The second stage: its labels, crops, loss, training, and the heatmaps it draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import resize
from toys import fault, square, tiny_classifier, toy, toys

from ltcam_cli.classifier.backbones import BACKBONES, build_classifier
from ltcam_cli.classifier.checkpoint import Classifier
from ltcam_cli.classifier.config import BackboneConfig
from ltcam_cli.classifier.loop import TrainingLoop
from ltcam_cli.classifier.tensors import read_tensors
from ltcam_cli.data.batches import Images
from ltcam_cli.data.sample import Sample
from ltcam_cli.errors import LtcamError
from ltcam_cli.student.checkpoint import Student, StudentSource, load_student
from ltcam_cli.student.config import (
    CropAugmentConfig,
    CropConfig,
    LabelConfig,
    LossConfig,
    NetworkConfig,
    StudentConfig,
)
from ltcam_cli.student.crops import Crops
from ltcam_cli.student.labels import draw_labels, first_labels, next_labels
from ltcam_cli.student.loss import decision_loss, segmentation_loss
from ltcam_cli.student.network import build_network
from ltcam_cli.student.train import train_student

CPU = torch.device("cpu")
STILL = CropAugmentConfig(False, False, 0.0, 0.0, 0.0, 0.0)
LIGHT = NetworkConfig("light", width=8, decoder=8)
SIZE = (40, 36)


# Labels


def grid(text: str) -> np.ndarray:
    """1, 0 and ? (ignored) as labels."""
    rows = [[255 if c == "?" else int(c) for c in row] for row in text.split()]
    return np.array(rows, dtype=np.uint8)


def test_first_labels_by_hand() -> None:
    heatmap = np.array([[0, 1, 2, 3, 4, 10, 4, 3]] * 3, dtype=np.float32)
    mask = np.zeros((3, 8), dtype=bool)
    mask[1, 5:7] = True
    # low = 0.25 of 10: background up to 2.5; within one pixel of the mask nothing is background.
    labels = first_labels(heatmap, mask, (3, 8), LabelConfig(low=0.25, ignore_radius=1))
    assert np.array_equal(labels, grid("000????? 000??11? 000?????"))
    # With low = 1 only the neighbours (4-connected) are unknown; the default leaves nothing open.
    labels = first_labels(heatmap, mask, (3, 8), LabelConfig(low=1, ignore_radius=1))
    assert np.array_equal(labels, grid("00000??0 0000?11? 00000??0"))
    labels = first_labels(heatmap, mask, (3, 8), LabelConfig())
    assert np.array_equal(labels, grid("00000000 00000110 00000000"))


def test_first_labels_at_a_smaller_size() -> None:
    mask = np.zeros((32, 32), dtype=bool)
    mask[8:16, 8:20] = True
    heatmap = mask.astype(np.float32)
    labels = first_labels(heatmap, mask, (8, 8), LabelConfig(low=0.1, ignore_radius=0))
    assert (labels[2:4, 2:5] == 1).all() and (labels == 1).sum() == 6
    assert (labels[[0, -1]] == 0).all() and (labels[:, [0, -1]] == 0).all()
    thin = np.zeros((32, 32), dtype=bool)
    thin[10] = True  # a quarter of a pixel: no label says where
    labels = first_labels(thin.astype(np.float32), thin, (8, 8), LabelConfig())
    assert (labels == 255).all()


def test_an_empty_mask_or_map_labels_nothing() -> None:
    heatmap, mask = np.ones((4, 4), dtype=np.float32), np.zeros((4, 4), dtype=bool)
    assert (first_labels(heatmap, mask, (4, 4), LabelConfig()) == 255).all()
    assert (first_labels(0 * heatmap, ~mask, (4, 4), LabelConfig()) == 255).all()


def test_next_labels_stay_in_the_first_ones_region() -> None:
    first = grid("00??11 00??11")
    before = grid("00??11 00??11")
    probability = np.array([[0.9, 0.1, 0.9, 0.5, 0.1, 0.7], [0.5, 0.5, 0.29, 0.3, 0.69, 0.71]])
    labels = next_labels(probability, before, first, LabelConfig(defect=0.7, background=0.3))
    assert np.array_equal(labels, grid("001?01 000??1"))
    unsure = np.minimum(probability, 0.69)
    assert np.array_equal(next_labels(unsure, before, first, LabelConfig()), before)


def test_labels_as_a_picture(tmp_path: Path) -> None:
    image = np.full((2, 3), 100, dtype=np.uint8)
    draw_labels(image, grid("01? 000"), tmp_path / "a.png")
    drawn = np.asarray(Image.open(tmp_path / "a.png")).astype(int)
    assert drawn.shape == (2, 6, 3) and (drawn[:, :3] == 100).all()
    assert (drawn[1, 3:] == 100).all() and (drawn[0, 3] == 100).all()
    assert drawn[0, 4, 0] > 150 > drawn[0, 4, 1] and drawn[0, 5].tolist()[:2] > [150, 140]


# Crops


def crops_of(config: CropConfig, labels: dict[str, np.ndarray], batch: int = 8) -> Crops:
    samples = toys(9)
    return Crops(Images(samples, *SIZE, 1), range(9), labels, config, batch, [0, 0])


def true_labels(count: int = 9) -> dict[str, np.ndarray]:
    return {s.name: s.mask.astype(np.uint8) for s in toys(count) if s.label}  # type: ignore[union-attr]


def test_a_crop_and_its_labels_fit() -> None:
    """The square of a toy is what is brighter than 150, whatever flips and windows do."""
    config = CropConfig(
        size=[16, 20], augment=replace(STILL, flip_horizontal=True, flip_vertical=True)
    )
    for images, labels in crops_of(config, true_labels()).batches(0, 10):
        assert images.shape == (8, 1, 16, 20) and labels.shape == (8, 16, 20)
        assert torch.equal(images[:, 0] > 150 / 255, labels == 1)
        assert (labels[:4] == 1).flatten(1).any(dim=1).all()  # the half with a defect
        assert not (labels[4:6] == 1).any()  # the good quarter


def test_scaled_crops_keep_their_size_and_fit_nearly() -> None:
    config = CropConfig(size=[16, 16], augment=replace(STILL, scale=0.3))
    agree = [
        ((images[:, 0] > 150 / 255) == (labels == 1)).float().mean()
        for images, labels in crops_of(config, true_labels()).batches(0, 10)
    ]
    assert images_equal_size(config) and min(agree) > 0.93 and min(agree) < 1


def images_equal_size(config: CropConfig) -> bool:
    [(images, labels)] = crops_of(config, true_labels()).batches(0, 1)
    assert config.size is not None
    return [*images.shape[2:]] == [*labels.shape[1:]] == config.size


def test_crops_follow_from_seed_and_step() -> None:
    config = CropConfig(size=[16, 16])
    whole = [*crops_of(config, true_labels()).batches(0, 4)]
    part = [*crops_of(config, true_labels()).batches(2, 4)]
    for (images, labels), (again, labels_again) in zip(whole[2:], part, strict=True):
        assert torch.equal(images, again) and torch.equal(labels, labels_again)
    assert not torch.equal(whole[0][0], whole[1][0])


def test_images_without_any_label_are_left_out() -> None:
    labels = true_labels()
    silent = min(labels)
    labels[silent] = np.full(SIZE, 255, dtype=np.uint8)
    for _, drawn in crops_of(CropConfig(), labels).batches(0, 20):
        assert not (drawn == 255).any()


# Loss


def test_loss_by_hand() -> None:
    logits = torch.tensor([[[0.0, 2.0, -1.0, 50.0]]])
    labels = torch.from_numpy(grid("100?"))[None]
    at = np.logaddexp(0, [0.0, 2.0, -1.0])  # of defect, background, background
    even = LossConfig(pos_weight=1, dice=0)
    auto_weight = LossConfig(pos_weight="auto", dice=0)
    assert float(segmentation_loss(logits, labels, even)) == pytest.approx(at.mean())
    three = (3 * at[0] + at[1] + at[2]) / 5
    assert float(segmentation_loss(logits, labels, replace(even, pos_weight=3))) == pytest.approx(
        three
    )
    auto = (2 * at[0] + at[1] + at[2]) / 4
    assert float(
        segmentation_loss(logits, labels, replace(auto_weight, pos_weight_cap=9))
    ) == pytest.approx(auto)
    capped = (1.5 * at[0] + at[1] + at[2]) / 3.5
    assert float(
        segmentation_loss(logits, labels, replace(auto_weight, pos_weight_cap=1.5))
    ) == pytest.approx(capped)
    hard = (at[0] + at[1]) / 2
    assert float(segmentation_loss(logits, labels, replace(even, hard_share=0.5))) == pytest.approx(
        hard
    )
    focal = (at * (1 - np.exp(-at)) ** 2).mean()
    assert float(segmentation_loss(logits, labels, replace(even, focal_gamma=2))) == pytest.approx(
        focal
    )
    p = 1 / (1 + np.exp([-0.0, -2.0, 1.0]))
    dice = at.mean() + 0.5 * (1 - (2 * p[0] + 1) / (p.sum() + 2))
    assert float(segmentation_loss(logits, labels, replace(even, dice=0.5))) == pytest.approx(dice)


def test_nothing_known_costs_nothing() -> None:
    logits = torch.zeros(1, 2, 2, requires_grad=True)
    loss = segmentation_loss(
        logits, torch.full((1, 2, 2), 255, dtype=torch.uint8), LossConfig(dice=1)
    )
    loss.backward()
    assert loss.item() == 0 and logits.grad is not None and not logits.grad.any()


def test_a_crops_decision_is_judged_by_its_own_labels() -> None:
    """Good where all is background, defective by one pixel; what is in part unknown is left out."""
    labels = torch.from_numpy(
        np.stack([grid("00 00"), grid("0? 01"), grid("0? 00"), grid("?? ??")])
    )
    logits = torch.tensor([1.5, -0.5, 9.0, -9.0], dtype=torch.float64, requires_grad=True)
    loss = decision_loss(logits, labels)
    p = 1 / (1 + np.exp([-1.5, 0.5]))
    assert loss.item() == pytest.approx(-(np.log(1 - p[0]) + np.log(p[1])) / 2, rel=1e-12)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == pytest.approx([p[0] / 2, (p[1] - 1) / 2, 0, 0], rel=1e-12)
    assert decision_loss(logits[2:], labels[2:]).item() == 0


# Networks


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("size", [(32, 32), (17, 45)])
def test_the_light_network_takes_any_size(norm: str, size: tuple[int, int]) -> None:
    network = build_network(replace(LIGHT, norm=norm), 3)
    assert network(torch.rand(2, 3, *size)).shape == (2, *size)


def test_the_light_network_is_light() -> None:
    network = build_network(NetworkConfig("light"), 1)
    assert 1e5 < sum(p.numel() for p in network.parameters()) < 5e5


@pytest.mark.parametrize("name", sorted(set(BACKBONES) - {"vgg16", "vgg16_bn", "resnet50"}))
def test_the_classifier_as_encoder(name: str) -> None:
    backbone = BackboneConfig(name, head="avg", weights=None)
    model = build_classifier(backbone, 1)
    config = replace(LIGHT, encoder="classifier")
    network = build_network(config, 1, backbone, model.state_dict())
    assert network(torch.rand(2, 1, 37, 50)).shape == (2, 37, 50)
    held, own = model.state_dict(), network.encoder.state_dict()
    weights = [key for key in own if key.endswith("weight")]
    assert weights and all(torch.equal(held[key], own[key]) for key in weights)


def test_the_decision_scales_the_laterals() -> None:
    """An image's mask is that of a network without a decision whose laterals are p times ours."""
    torch.manual_seed(0)
    network = build_network(LIGHT, 1, task="multi").double().eval()
    torch.manual_seed(0)
    plain = build_network(LIGHT, 1).double().eval()
    state = network.state_dict()
    weight, bias = (state.pop(f"decision.{name}").numpy() for name in ("weight", "bias"))
    assert all(torch.equal(value, state[key]) for key, value in plain.state_dict().items())
    assert state.keys() == plain.state_dict().keys()
    images = 3 * torch.rand(3, 1, 33, 40, dtype=torch.float64)
    with torch.no_grad():
        judged, deepest = network.judge(images), network.encoder(images)[-1].numpy()
        assert torch.equal(network(images), judged.pixels) and plain.judge(images).images is None
        for number in range(3):
            pooled = [f(channel) for f in (np.mean, np.max) for channel in deepest[number]]
            logit = sum(w * x for w, x in zip(weight[0], pooled, strict=True)) + bias[0]
            assert judged.images is not None
            assert float(judged.images[number]) == pytest.approx(logit, abs=1e-12)
            p = 1 / (1 + np.exp(-logit))
            scaled = {k: v * p if k.startswith("laterals") else v for k, v in state.items()}
            plain.load_state_dict(scaled)
            expected = plain(images[number : number + 1])[0]
            assert torch.allclose(judged.pixels[number], expected, atol=1e-12)


# Training


def shifted(samples: Sequence[Sample]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Maps that lie beside the defect, each in another direction: by up to 5 of its 12 pixels."""
    for sample in samples:
        number = int(sample.name[3:])
        truth = square(number, True, SIZE)
        rng = np.random.default_rng([3, number])
        mask = np.roll(truth, rng.integers(-5, 6, 2), axis=(0, 1))
        yield sample.name, mask.astype(np.float32), mask


CONFIG = StudentConfig(
    network=LIGHT, rounds=2, steps=6, every=2, batch_size=4, height=40, width=36, overlays=1
)


def blind(samples: Sequence[Sample]) -> list[Sample]:
    """The same, but who reads a mask fails."""

    def refuse() -> np.ndarray:
        raise AssertionError("a mask was read")

    return [replace(sample, read_mask=refuse) for sample in samples]


def fit(
    folder: Path, *, samples: Sequence[Sample] | None = None, teacher: Any = shifted, seed: int = 0,
    resume: bool = False, config: StudentConfig = CONFIG, on_error: str = "raise",
    classifier: Classifier | None = None,
) -> dict[str, float]:  # fmt: skip
    folder.mkdir(exist_ok=True)
    return train_student(
        folder, classifier or tiny_classifier(), "digest", samples or blind(toys(12)), teacher,
        config, seed=seed, device=CPU, resume=resume, on_error=on_error,
    )  # fmt: skip


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = load_student(folder / "checkpoint.pt").model.state_dict()
    return state


def equal(first: Path, second: Path) -> bool:
    one, other = weights(first), weights(second)
    return all(torch.equal(value, other[key]) for key, value in one.items())


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    return float((mask & truth).sum() / (mask | truth).sum())


def test_it_draws_better_than_its_labels(tmp_path: Path) -> None:
    config = replace(CONFIG, rounds=1, steps=200, every=200, batch_size=8, lr=0.01)
    fit(tmp_path, samples=blind(toys(36)), config=config)
    labels = [iou(mask, square(int(name[3:]), True, SIZE)) for name, _, mask in
              shifted([s for s in toys(36) if s.label])]  # fmt: skip
    student = load_student(tmp_path / "checkpoint.pt")
    fresh = [toy(n, 1) for n in range(500, 510)]
    images = Images(fresh, *SIZE, 1)
    given = torch.stack([images[n].image for n in range(10)])  # type: ignore[union-attr]
    with torch.inference_mode():
        maps = student.probability(tiny_classifier().prepare(given)).numpy()
    found = [
        iou(each > 0.5, square(n, True, SIZE))
        for each, n in zip(maps, range(500, 510), strict=True)
    ]
    assert np.mean(labels) < 0.55 and np.mean(found) > 0.7
    good = Images([toy(n, 0) for n in range(600, 605)], *SIZE, 1)
    given = torch.stack([good[n].image for n in range(5)])  # type: ignore[union-attr]
    with torch.inference_mode():
        assert student.probability(tiny_classifier().prepare(given)).max() < 0.5


def test_a_multi_student_judges_images(tmp_path: Path) -> None:
    """Its loss is the mask's plus the weighted decision's, and its decision tells toys apart."""
    config = replace(CONFIG, rounds=1, steps=150, every=150, batch_size=8, lr=0.01, task="multi")
    fit(tmp_path, samples=toys(36), config=replace(config, labels=LabelConfig("all")))
    student = load_student(tmp_path / "checkpoint.pt")
    assert student.task == "multi"
    fresh = Images([toy(n, int(n % 2)) for n in range(500, 510)], *SIZE, 1)
    given = torch.stack([fresh[n].image for n in range(10)])  # type: ignore[union-attr]
    with torch.inference_mode():
        judged = student.model.judge(tiny_classifier().prepare(given))
    assert judged.images is not None
    assert (judged.images > 0).tolist() == [bool(n % 2) for n in range(500, 510)]
    assert (judged.pixels > 0).flatten(1).any(dim=1).tolist() == (judged.images > 0).tolist()


def test_true_masks_are_the_labels_of_as_many_images_as_are_asked_for(tmp_path: Path) -> None:
    """Those of fewer are among those of more; maps label the others, in all rounds."""
    samples = toys(12)
    known: list[set[str]] = []
    for count in (1, 3, "all"):
        asked: list[str] = []

        def teacher(others: Sequence[Sample]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
            asked.extend(sample.name for sample in others)  # noqa: B023
            return shifted(others)

        config = replace(CONFIG, labels=LabelConfig(masks=count))
        fit(tmp_path / str(count), samples=samples, teacher=teacher, config=config)
        labels = [read_tensors(tmp_path / str(count) / f"labels/round{n}.pt", "") for n in (1, 2)]
        true = {s.name for s in samples if s.label} - set(asked)
        for name in true:
            for of_round in labels:
                assert np.array_equal(of_round[name], square(int(name[3:]), True, SIZE))
        known.append(true)
    assert [len(names) for names in known] == [1, 3, 4]
    assert known[0] < known[1] < known[2]

    config = replace(CONFIG, labels=LabelConfig(masks=1, maps=False))
    fit(tmp_path / "alone", samples=samples, teacher=lambda others: pytest.fail(), config=config)
    labels = read_tensors(tmp_path / "alone/labels/round1.pt", "")
    ignored = {name for name, label in labels.items() if (label == 255).all()}
    assert ignored == {s.name for s in samples if s.label} - known[0]
    with pytest.raises(LtcamError, match=r"student\.labels\.maps=false: needs"):
        LabelConfig(maps=False)


def test_history_and_pictures(tmp_path: Path) -> None:
    row = fit(tmp_path)
    history = pd.read_csv(tmp_path / "history.csv")
    assert history[["round", "step"]].values.tolist() == [[r, s] for r in (1, 2) for s in (2, 4, 6)]
    assert history["change"].isna().tolist() == [True] * 3 + [False] * 3
    [first] = {*history["defect_share"][:3]}
    truth = [square(n, True, SIZE).mean() for n in (0, 3, 6, 9)]
    assert first == pytest.approx(np.mean(truth))
    assert row["round"] == 2 and row["loss"] == pytest.approx(history["loss"].iloc[-1])
    pictures = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    assert pictures == ["labels/round1/toy000.png", "labels/round2/toy000.png"]
    labels = torch.load(tmp_path / "labels" / "round1.pt")
    assert set(labels) == {"toy000", "toy003", "toy006", "toy009"}


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        replace(CONFIG, restart=False, ema=0.0, loss=LossConfig(dice=1, hard_share=0.5)),
        replace(CONFIG, network=replace(LIGHT, encoder="classifier", norm="group"), task="multi"),
    ],
    ids=["usual", "no restart", "classifier"],
)
@pytest.mark.parametrize("kill", [4, 9])  # steps, of 6 a round
def test_a_killed_training_resumes_to_the_same_weights(
    tmp_path: Path, config: StudentConfig, kill: int
) -> None:
    fit(tmp_path / "unbroken", config=config)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        original, count = TrainingLoop._step, 0

        def interrupted(*batch_and_loss: Any) -> float:
            nonlocal count
            count += 1
            if count == kill:
                raise KeyboardInterrupt
            return original(*batch_and_loss)

        patch.setattr(TrainingLoop, "_step", interrupted)
        fit(tmp_path / "broken", config=config)
    assert not (tmp_path / "broken" / "checkpoint.pt").exists()

    def never(samples: Sequence[Sample]) -> Any:
        raise AssertionError("the first labels are kept")

    torch.manual_seed(99)  # what a new process would not know either
    fit(tmp_path / "broken", config=config, resume=True, teacher=never)
    assert equal(tmp_path / "unbroken", tmp_path / "broken")
    histories = [
        pd.read_csv(tmp_path / name / "history.csv").drop(columns=["seconds", "images_per_second"])
        for name in ("unbroken", "broken")
    ]
    pd.testing.assert_frame_equal(*histories, check_exact=True)


def test_the_seed_decides(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        fit(tmp_path / name, seed=seed)
    assert equal(tmp_path / "a", tmp_path / "b") and not equal(tmp_path / "a", tmp_path / "c")


def test_unreadable_images_are_skipped(tmp_path: Path) -> None:
    def broken() -> np.ndarray:
        raise LtcamError("toy: cannot be read")

    samples = [
        replace(s, read_image=broken) if n in {1, 3} else s for n, s in enumerate(blind(toys(12)))
    ]
    fit(tmp_path, samples=samples, on_error="skip")
    assert set(torch.load(tmp_path / "labels" / "round1.pt")) == {"toy000", "toy006", "toy009"}
    assert "cannot be read" in fault(lambda: fit(tmp_path / "strict", samples=samples))


def test_masks_that_are_all_empty(tmp_path: Path) -> None:
    def empty(samples: Sequence[Sample]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        for sample in samples:
            yield sample.name, np.ones(SIZE, dtype=np.float32), np.zeros(SIZE, dtype=bool)

    said = fault(lambda: fit(tmp_path, teacher=empty))
    assert "no pixel of a training image is labelled as defect" in said and "--segmenter" in said
    assert not [*tmp_path.rglob("*.pt")]


def test_a_loss_that_is_no_number(tmp_path: Path) -> None:
    said = fault(lambda: fit(tmp_path, config=replace(CONFIG, lr=1e9, clip=None, steps=20)))
    assert "lower student.lr" in said


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: StudentConfig(rounds=0), "student.rounds=0"),
        (lambda: StudentConfig(name="a/b"), "student.name=a/b"),
        (lambda: StudentConfig(height=3), "student.height=3"),
        (lambda: StudentConfig(ema=1), "student.ema=1"),
        (lambda: StudentConfig(lr=0), "student.lr=0"),
        (lambda: NetworkConfig(encoder="ligth"), "did you mean 'light'?"),
        (lambda: NetworkConfig(width=12), "student.network.width=12"),
        (lambda: CropConfig(size=[64]), "student.crops.size=[64]"),
        (lambda: CropConfig(defect_share=0.9), "defect_share=0.9"),
        (lambda: CropAugmentConfig(scale=2), "scale=2"),
        (lambda: LabelConfig(low=2), "student.labels.low=2"),
        (lambda: LabelConfig(defect=0.1), "background <= defect"),
        (lambda: LabelConfig(ignore_radius=-1), "ignore_radius=-1"),
        (lambda: LossConfig(pos_weight="much"), "pos_weight=much"),
        (lambda: LossConfig(hard_share=0), "hard_share=0"),
        (lambda: LossConfig(dice=-1), "dice=-1"),
        (lambda: LossConfig(decision=-1), "student.loss.decision=-1"),
        (lambda: StudentConfig(task="masks"), "student.task=masks"),
    ],
)
def test_wrong_values(make: Any, says: str) -> None:
    assert says in fault(make)


# As a heatmap source


def student_of(classifier: Classifier, size: tuple[int, int]) -> Student:
    torch.manual_seed(1)
    network = build_network(LIGHT, classifier.in_channels).eval()
    return Student(network, LIGHT, classifier.backbone, classifier.in_channels, *size, "digest")


def test_source_at_the_classifiers_size() -> None:
    classifier = tiny_classifier()
    source = StudentSource(classifier, student_of(classifier, (32, 32)))
    images = torch.rand(3, 1, 32, 32)
    found = source(images)
    assert source.size is None
    [maps] = found.maps
    assert maps.shape == (3, 32, 32) and maps.min() >= 0 and maps.max() <= 1
    with torch.inference_mode():
        assert torch.equal(found.logits, classifier.model(images))
        assert torch.equal(maps, torch.sigmoid(source.student.model(images)))


def test_source_at_a_size_of_its_own() -> None:
    classifier = tiny_classifier()
    source = StudentSource(classifier, student_of(classifier, (64, 48)))
    assert source.size == (64, 48)
    images = torch.rand(2, 1, 64, 48)
    found = source(images)
    assert found.maps[0].shape == (2, 64, 48)
    with torch.inference_mode():
        # 64 x 48 -> 32 x 32 in pixels of 2 x 1.5: what the classifier's loader would have done
        small = resize(images, [32, 32], antialias=True)
        assert torch.allclose(found.logits, classifier.model(small), atol=1e-5)


def test_a_student_that_decides_gives_its_own_verdict() -> None:
    classifier = replace(tiny_classifier(), prior_shift=-1.25)
    torch.manual_seed(1)
    network = build_network(LIGHT, 1, task="multi").eval()
    student = Student(network, LIGHT, classifier.backbone, 1, 32, 32, "digest", "multi")
    images = torch.rand(3, 1, 32, 32)
    usual, own = (StudentSource(classifier, student, None, d)(images) for d in (False, True))
    with torch.inference_mode():
        decision = network.judge(images).images
        assert decision is not None and torch.equal(usual.logits, classifier.model(images))
    assert torch.allclose(classifier.probability(own.logits), torch.sigmoid(decision))
    assert torch.equal(usual.maps[0], own.maps[0])
    pixels_alone = student_of(classifier, (32, 32))
    said = fault(lambda: StudentSource(classifier, pixels_alone, None, True))
    assert "method.verdict=student" in said and "student.task=multi" in said


def test_a_checkpoint_of_something_else(tmp_path: Path) -> None:
    tiny_classifier().save(tmp_path / "checkpoint.pt")
    torch.save({"format": 7}, tmp_path / "other.pt")
    assert "does not fit" in fault(lambda: load_student(tmp_path / "checkpoint.pt"))
    assert "no student of this version" in fault(lambda: load_student(tmp_path / "other.pt"))
