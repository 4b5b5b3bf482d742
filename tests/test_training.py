"""Training: what is learnt, resumed, refused and written."""

from __future__ import annotations

import json
import logging
import math
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import (
    average_precision_score,
    balanced_accuracy_score,
    f1_score,
    roc_auc_score,
)
from torch import Tensor, nn
from toys import SLIM, TOYS, fault, tiny_classifier, toy, toy_split, toys

from ltcam_cli.classifier import progress
from ltcam_cli.classifier import train as training
from ltcam_cli.classifier.augment import BalancedOrder, CutMix
from ltcam_cli.classifier.backbones import build_classifier, remaining_hint
from ltcam_cli.classifier.checkpoint import load_classifier
from ltcam_cli.classifier.config import BackboneConfig, TrainerConfig
from ltcam_cli.classifier.loop import TrainingLoop
from ltcam_cli.classifier.loss import Chance, classification_loss
from ltcam_cli.classifier.precision import autocast_dtype, dtype_name
from ltcam_cli.classifier.predictions import predict_images
from ltcam_cli.classifier.train import train
from ltcam_cli.classifier.weights import IMAGENET_MEAN
from ltcam_cli.data.batches import Images, batches
from ltcam_cli.data.dataset import Dataset
from ltcam_cli.data.sample import Sample
from ltcam_cli.data.split import Split
from ltcam_cli.errors import LtcamError
from ltcam_cli.experiments.session import training_identity
from ltcam_cli.experiments.settings import Settings
from ltcam_cli.progress import duration

CPU = torch.device("cpu")
SPEED = ["seconds", "images_per_second"]
SPLIT = toy_split()
DROPOUT = replace(SLIM, head="fc", hidden=16, dropout=0.5)


def fit(
    folder: Path,
    *,
    split: Split | None = None,
    dataset: Dataset = TOYS,
    backbone: BackboneConfig = SLIM,
    seed: int = 0,
    resume: bool = False,
    on_error: str = "raise",
    **options: Any,
) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    trainer = TrainerConfig(**{"epochs": 3, "images_per_epoch": 16, "batch_size": 8, **options})
    return train(
        folder,
        split or toy_split(),
        replace(dataset, on_error=on_error),
        backbone,
        trainer,
        seed=seed,
        device=CPU,
        resume=resume,
    )


def weights(folder: Path, file: str = "checkpoint.pt") -> dict[str, Tensor]:
    content = torch.load(folder / file, weights_only=True)
    state: dict[str, Tensor] = content["state_dict" if file == "checkpoint.pt" else "model"]
    return state


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    assert first.keys() == second.keys()
    return all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training with a validation part."""
    folder = tmp_path_factory.mktemp("fitted") / "train"
    fit(folder, validation=0.4, threshold="f1")
    return folder


# What is learnt


@pytest.mark.parametrize("head", ["avg", "max"])
def test_it_learns(tmp_path: Path, head: str) -> None:
    backbone = replace(SLIM, head=head)
    metrics = fit(
        tmp_path, backbone=backbone, split=toy_split(18, 12), epochs=5, images_per_epoch=64
    )
    assert metrics["test_ap"] == 1.0 and metrics["test_auroc"] == 1.0
    history = pd.read_csv(tmp_path / "history.csv")
    assert history["loss"].iloc[-1] < 0.7 * history["loss"].iloc[0]


def test_the_seed_decides(tmp_path: Path) -> None:
    fit(tmp_path / "a", backbone=DROPOUT, epochs=1)
    fit(tmp_path / "b", backbone=DROPOUT, epochs=1)
    fit(tmp_path / "c", backbone=DROPOUT, epochs=1, seed=1)
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not equal(weights(tmp_path / "a"), weights(tmp_path / "c"))


@pytest.mark.parametrize("cache", [True, False])
def test_workers_and_cache_change_nothing(tmp_path: Path, cache: bool) -> None:
    fit(tmp_path / "alone", backbone=DROPOUT, workers=0)
    fit(tmp_path / "helped", backbone=DROPOUT, workers=2, cache=cache)
    assert equal(weights(tmp_path / "alone"), weights(tmp_path / "helped"))


def test_bfloat16_learns_what_float32_does(tmp_path: Path) -> None:
    options: dict[str, Any] = {"split": toy_split(18, 12), "epochs": 5, "images_per_epoch": 64}
    backbone = replace(SLIM, head="max")
    for amp in (False, True):
        metrics = fit(tmp_path / str(amp), backbone=backbone, amp=amp, **options)
        assert metrics["test_ap"] == 1.0
    exact, mixed = (pd.read_csv(tmp_path / f"{amp}/history.csv")["loss"] for amp in (False, True))
    assert mixed[0] != exact[0] and mixed[0] == pytest.approx(exact[0], rel=0.05)
    assert all(value.dtype != torch.bfloat16 for value in weights(tmp_path / "True").values())


@pytest.mark.parametrize(
    ("mixed", "flags", "dtype"),
    [
        (True, {}, torch.bfloat16),
        (False, {"avx512_bf16": True, "amx_bf16": True}, None),
        ("auto", {"avx512_bf16": True, "amx_bf16": False}, torch.bfloat16),
        ("auto", {"amx_bf16": True}, torch.bfloat16),
        ("auto", {"avx512_f": True, "avx512_bf16": False}, None),
        ("auto", {}, None),
    ],
)
def test_the_dtype_fits_the_processor(
    monkeypatch: pytest.MonkeyPatch, mixed: Any, flags: dict[str, bool], dtype: torch.dtype | None
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags, raising=False)
    assert autocast_dtype(mixed, CPU) == dtype
    identity = training_identity(Settings(dataset=TOYS, trainer=TrainerConfig(amp=mixed)), SPLIT)
    assert identity.mapping["dtype"] == dtype_name(dtype)
    assert "amp" not in identity.mapping["trainer"]


def test_two_logits(tmp_path: Path) -> None:
    metrics = fit(tmp_path, backbone=replace(SLIM, logits=2, head="max"), images_per_epoch=48)
    classifier = load_classifier(tmp_path / "checkpoint.pt")
    assert classifier.backbone.logits == 2 and metrics["test_images"] == 6


def test_more_logits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LtcamError, match=r"backbone\.logits=3: training takes 1 or 2"):
        fit(tmp_path, backbone=replace(SLIM, logits=3))


@pytest.mark.parametrize(
    "options",
    [{"optimizer": "sgd"}, {"schedule": "cosine"}, {"clip": None}, {"label_smoothing": 0.2},
     {"cutmix": 1.0}],
)  # fmt: skip
def test_other_optimizers_and_schedules(tmp_path: Path, options: dict[str, Any]) -> None:
    fit(tmp_path / "other", epochs=1, **options)
    fit(tmp_path / "usual", epochs=1)
    assert not equal(weights(tmp_path / "other"), weights(tmp_path / "usual"))


def test_pretrained_weights_bring_three_channels_and_their_normalisation(tmp_path: Path) -> None:
    start = build_classifier(SLIM, 3).state_dict()
    torch.save(start, tmp_path / "w.pth")
    frozen = replace(SLIM, weights=str(tmp_path / "w.pth"), freeze_bn=True)
    fit(tmp_path / "train", backbone=frozen)
    classifier = load_classifier(tmp_path / "train" / "checkpoint.pt")
    assert classifier.in_channels == 3 and classifier.mean == IMAGENET_MEAN
    norms = [n for n, m in classifier.model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    for key, value in classifier.model.state_dict().items():
        if key.startswith("features."):
            assert torch.equal(value, start[key]) == (key.rpartition(".")[0] in norms), key
    assert torch.load(tmp_path / "train" / "last.pt")["history"][0]["lr"] < 1e-3


# Progressive image size


def antialiased(length: int, size: int) -> np.ndarray:
    """Weights (size, length) of bilinear reduction: a triangle as wide as two new pixels."""
    rows = []
    for i in range(size):
        centre, reach = (i + 0.5) * length / size, length / size
        row = np.array([max(0.0, 1 - abs(j + 0.5 - centre) / reach) for j in range(length)])
        rows.append(row / row.sum())
    return np.stack(rows)


@pytest.mark.parametrize("epochs", [1, 5])
def test_the_first_half_of_the_epochs_is_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: int
) -> None:
    shown: dict[float, list[Tensor]] = {}
    loss = training._Training._loss
    for progressive in (0.6, 1.0):
        images = shown[progressive] = []

        def spied(self: Any, batch: Any, images: list[Tensor] = images) -> Tensor:
            images.append(batch.images)
            return loss(self, batch)

        monkeypatch.setattr(training._Training, "_loss", spied)
        dataset = replace(TOYS, height=80, width=48)
        fit(
            tmp_path / str(progressive),
            dataset=dataset,
            epochs=epochs,
            images_per_epoch=4,
            batch_size=4,
            progressive=progressive,
        )
    assert [image.shape[2:] for image in shown[1.0]] == [(80, 48)] * epochs
    small = epochs // 2
    for epoch, (image, whole) in enumerate(zip(shown[0.6], shown[1.0], strict=True)):
        if epoch >= small:
            assert torch.equal(image, whole)
            continue
        assert image.shape[2:] == (48, 32)  # 0.6 x 48 is below the least side
        rows, columns = antialiased(80, 48), antialiased(48, 32)
        expected = rows @ whole.double().numpy() @ columns.T
        np.testing.assert_allclose(image.numpy(), expected, atol=1e-6)


# Resuming


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Kill the training in the middle of its n-th step, counted from 1."""
    original, count = TrainingLoop._step, 0

    def interrupted(*batch_and_loss: Any) -> float:
        nonlocal count
        count += 1
        if count == step:
            raise KeyboardInterrupt
        return original(*batch_and_loss)

    monkeypatch.setattr(TrainingLoop, "_step", interrupted)


@pytest.mark.parametrize(
    ("backbone", "options"),
    [
        (SLIM, {}),
        (DROPOUT, {}),
        (DROPOUT, {"workers": 2}),
        (DROPOUT, {"validation": 0.4, "threshold": "recall:0.9"}),
        (DROPOUT, {"optimizer": "sgd", "schedule": "cosine", "clip": None}),
        (replace(SLIM, head="lse", logits=2), {"cache": False}),
        (replace(DROPOUT, logits=2), {"cutmix": 0.6, "label_smoothing": 0.1, "workers": 2}),
        (DROPOUT, {"progressive": 0.5, "epochs": 4, "dataset": replace(TOYS, height=64, width=64)}),
    ],
    ids=["plain", "dropout", "workers", "validation", "sgd", "two logits", "cutmix", "progressive"],
)
def test_a_killed_training_resumes_to_the_same_weights(
    tmp_path: Path, backbone: BackboneConfig, options: dict[str, Any]
) -> None:
    expected = fit(tmp_path / "unbroken", backbone=backbone, **options)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_at(patch, step=4)  # of two steps an epoch: the middle of the second
        fit(tmp_path / "broken", backbone=backbone, **options)
    assert not (tmp_path / "broken" / "checkpoint.pt").exists()
    assert len(pd.read_csv(tmp_path / "broken" / "history.csv")) == 1
    torch.manual_seed(99)  # what a new process would not know either
    resumed = fit(tmp_path / "broken", backbone=backbone, resume=True, **options)
    assert equal(weights(tmp_path / "unbroken"), weights(tmp_path / "broken"))
    assert expected | {"seconds": 0} == resumed | {"seconds": 0}
    for name in ("images.csv", "history.csv"):
        tables = [
            pd.read_csv(tmp_path / run / name).drop(columns=SPEED, errors="ignore")
            for run in ("unbroken", "broken")
        ]
        pd.testing.assert_frame_equal(*tables, check_exact=True)


def test_resuming_a_finished_training_only_scores_it(tmp_path: Path) -> None:
    fit(tmp_path, epochs=1)
    before = weights(tmp_path)
    (tmp_path / "checkpoint.pt").unlink()
    fit(tmp_path, epochs=1, resume=True)
    assert equal(before, weights(tmp_path))
    assert len(pd.read_csv(tmp_path / "history.csv")) == 1


def test_nothing_to_resume(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        fit(tmp_path, epochs=1, resume=True)
    assert "nothing to resume" in caplog.text
    assert (tmp_path / "checkpoint.pt").is_file()


def learns_from(monkeypatch: pytest.MonkeyPatch, attempt: int) -> None:
    """Let the loss be a guess's until the training's attempt of that number, from 0."""
    begin, attempts = training._Training._begin, []

    def counted(self: Any, restarts: int) -> None:
        attempts.append(restarts)
        begin(self, restarts)

    def warning(self: Chance) -> str | None:
        return None if attempts[-1] >= attempt else "nothing is learnt"

    monkeypatch.setattr(training._Training, "_begin", counted)
    monkeypatch.setattr(Chance, "warning", warning)


def test_a_training_that_learns_nothing_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    learns_from(monkeypatch, 1)
    options: dict[str, Any] = {"epochs": 5, "lr": 3e-3}
    with caplog.at_level(logging.WARNING):
        fit(tmp_path / "unbroken", **options)
    assert caplog.text.count("training anew") == 1
    history = pd.read_csv(tmp_path / "unbroken" / "history.csv")
    assert history["epoch"].tolist() == [1, 2, 3, 4, 5]
    assert history["lr"].max() < 1.1e-3
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_at(patch, step=12)  # of two steps an epoch: three of the first, two and a half
        fit(tmp_path / "broken", **options)
    fit(tmp_path / "broken", resume=True, **options)
    assert equal(weights(tmp_path / "unbroken"), weights(tmp_path / "broken"))


@pytest.mark.parametrize(("options", "count"), [({"epochs": 5}, 2), ({"epochs": 4}, 0)])
def test_restarts_end(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    options: dict[str, Any],
    count: int,
) -> None:
    learns_from(monkeypatch, 99)
    with caplog.at_level(logging.WARNING):
        fit(tmp_path, **options)
    assert caplog.text.count("training anew") == count
    assert caplog.text.count("if it stays so") == 1


# Balanced batches


def test_half_of_each_batch_is_defective() -> None:
    samples = toys(31)
    order = BalancedOrder([s.label or 0 for s in samples], 40, seed=0)
    images = Images(samples, 32, 32, 1)
    assert len(order) == 40
    for batch in batches(images, 10, order=order):
        assert batch.labels.tolist() == [1, 0] * 5


@pytest.mark.parametrize("count", [1, 7, 40, 200])
def test_the_order_follows_from_seed_and_epoch(count: int) -> None:
    labels = [1, 0, 0, 1, 0, 0, 0]

    def drawn(seed: int, epoch: int) -> list[tuple[int, int]]:
        order = BalancedOrder(labels, count, seed)
        order.epoch = epoch
        return list(order)

    assert drawn(3, 2) == drawn(3, 2) and len(drawn(3, 2)) == count
    assert drawn(3, 2) != drawn(3, 3) and drawn(3, 2) != drawn(4, 2)
    rows = [index for index, _ in drawn(0, 0)]
    assert [labels[index] for index in rows] == ([1, 0] * count)[:count]
    for kind in (rows[::2], rows[1::2]):  # all of a class once before any twice
        seen = np.bincount(kind, minlength=7)[np.unique(kind)] if kind else np.ones(1)
        assert seen.max() - seen.min() <= 1


def test_seeds_of_draws_differ() -> None:
    order = BalancedOrder([0, 1] * 5, 100, seed=0)
    assert len({seed for _, seed in order}) == 100


# Mixed and smoothed labels


def test_cutmix_labels_are_the_share_of_the_defective_images_pixels() -> None:
    images = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 1, 10, 8).contiguous()
    labels = torch.tensor([1, 0, 1, 0, 1, 0])
    torch.manual_seed(0)
    for _ in range(20):
        mixed, shares = CutMix(1.0)(images, labels)
        pasted = mixed != images
        for n in range(6):
            assert set(mixed[n].unique().tolist()) <= {float(n), float((n - 1) % 6)}
            rows, columns = pasted[n, 0].any(dim=1), pasted[n, 0].any(dim=0)
            assert torch.equal(pasted[n, 0], rows[:, None] & columns)  # a box
            defective = labels[mixed[n].long()].float().mean()
            assert shares[n].item() == pytest.approx(defective.item())


def test_cutmix_mixes_a_share_of_the_batches() -> None:
    images, labels = torch.rand(4, 1, 8, 8), torch.tensor([1, 0, 1, 0])
    torch.manual_seed(0)
    mixed = [CutMix(0.3)(images, labels)[1].is_floating_point() for _ in range(400)]
    assert 0.2 < np.mean(mixed) < 0.4
    state = torch.get_rng_state()
    assert CutMix(0.0)(images, labels)[0] is images
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("shares", [[1, 0, 1], [0.25, 1.0, 0.6]])
@pytest.mark.parametrize("count", [1, 2])
def test_the_loss_is_the_cross_entropy(smoothing: float, shares: list[float], count: int) -> None:
    logits = torch.randn(3, count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    truth = 0.0
    for row, share in zip(logits.tolist(), shares, strict=True):
        odds = row[-1] - (row[0] if count == 2 else 0)
        target = share * (1 - smoothing) + smoothing / 2
        truth -= target * -math.log1p(math.exp(-odds)) - (1 - target) * math.log1p(math.exp(odds))
    kind = torch.long if isinstance(shares[0], int) else torch.float64
    loss = classification_loss(logits, torch.tensor(shares, dtype=kind), smoothing)
    assert loss.item() == pytest.approx(truth / 3)


# Divergence


def diverge(monkeypatch: pytest.MonkeyPatch, step: int, value: float = float("nan")) -> None:
    count = 0

    def loss(*args: Any) -> Tensor:
        nonlocal count
        count += 1
        return classification_loss(*args) * (value if count == step else 1)

    monkeypatch.setattr(training, "classification_loss", loss)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_loss_keeps_the_last_good_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    diverge(monkeypatch, step=6, value=value)
    message = (
        r"the loss is (nan|inf) in epoch 3, step 2: lower trainer\.lr .*weights are in last\.pt"
    )
    with pytest.raises(LtcamError, match=message):
        fit(tmp_path)
    assert not (tmp_path / "checkpoint.pt").exists() and not (tmp_path / "metrics.json").exists()
    assert len(torch.load(tmp_path / "last.pt")["history"]) == 2
    assert all(value.isfinite().all() for value in weights(tmp_path, "last.pt").values())


def test_nan_loss_in_the_first_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    diverge(monkeypatch, step=1)
    with pytest.raises(LtcamError, match="in epoch 1, step 1: lower") as raised:
        fit(tmp_path)
    assert "last.pt" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_diverge_in_an_epochs_last_step_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, count = TrainingLoop._step, 0

    def step(self: Any, *batch_and_loss: Any) -> float:
        nonlocal count
        count += 1
        loss = original(self, *batch_and_loss)
        if count == 4:
            next(self.model.parameters()).data[0] = float("inf")
        return loss

    monkeypatch.setattr(TrainingLoop, "_step", step)
    with pytest.raises(LtcamError, match=r"a weight is no finite number in epoch 2: lower"):
        fit(tmp_path)
    assert len(torch.load(tmp_path / "last.pt")["history"]) == 1
    assert all(value.isfinite().all() for value in weights(tmp_path, "last.pt").values())


def test_a_wild_rate_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(LtcamError, match=r"lower trainer\.lr \(now 1e\+09\)") as raised:
        fit(tmp_path, lr=1e9, clip=None, optimizer="sgd")
    assert "\n" not in str(raised.value)


def test_a_collapsed_training_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = toy(300, 1)
    alike = [replace(one, name=str(label), group=str(label), label=label) for label in (0, 1)]
    fit(tmp_path / "a", split=Split(toys(18), alike), epochs=1)
    assert "the same of all 2 test images: its training collapsed" in caplog.text
    caplog.clear()
    fit(tmp_path / "b", epochs=1)
    assert "collapsed" not in caplog.text


@pytest.mark.parametrize("logits", [1, 2])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("shares", [[0.0, 1.0], [0.0, 0.0, 0.0, 1.0], [0.0, 0.3, 1.0, 1.0]])
def test_a_guess_has_the_lowest_loss_of_one_answer(
    shares: list[float], smoothing: float, logits: int
) -> None:
    """Found by trying answers: the loss of no constant lies below the guess's."""
    labels = torch.tensor(shares)
    losses = {}
    for answer in np.linspace(-3, 3, 601):
        values = torch.full((len(labels), 1), answer)
        values = values if logits == 1 else torch.cat([torch.zeros_like(values), values], dim=1)
        losses[answer] = classification_loss(values, labels, smoothing)
    chance = Chance(smoothing)
    chance.update(min(losses.values()), labels)
    warning = chance.warning()
    assert warning is not None
    loss, guess = map(float, re.findall(r"\d\.\d{4}", warning))
    assert loss == pytest.approx(guess, abs=2e-4)
    chance.start()
    chance.update(0.9 * min(losses.values()), labels)
    assert chance.warning() is None


def test_a_training_that_learns_nothing_is_said_in_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    fit(tmp_path / "a", epochs=4, lr=1e-9)
    told = [record.message for record in caplog.records if "that of a guess" in record.message]
    assert len(told) == 1 and told[0].startswith("epoch 2: the loss 0.")
    assert "(0.6931)" in told[0] and "a lower trainer.lr (now 1e-09)" in told[0]
    assert "backbone.weights" in told[0]
    messages = [record.message for record in caplog.records]
    assert messages.index(told[0]) < next(n for n, m in enumerate(messages) if "epoch 3" in m)
    caplog.clear()
    fit(tmp_path / "b", epochs=4, images_per_epoch=64)
    assert "a guess" not in caplog.text


# Validation and threshold


def grouped(count: int, start: int = 0) -> list[Sample]:
    """Three pictures an item; every second item has a defective one."""
    return [toy(n, int(n % 6 == 0), group=f"item{n // 3:03d}") for n in range(start, start + count)]


def parts_seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Sample]]:
    """The samples that are fitted, and those of validation."""
    seen: dict[str, list[Sample]] = {}
    init, run = training._Training.__init__, training._Training.run

    def spy_init(self: Any, folder: Path, classifier: Any, samples: Any, *rest: Any) -> None:
        seen["fitted"] = list(samples)
        init(self, folder, classifier, samples, *rest)

    def spy_run(self: Any, validation: list[Sample], resume: bool) -> None:
        seen["validation"] = list(validation)
        run(self, validation, resume)

    monkeypatch.setattr(training._Training, "__init__", spy_init)
    monkeypatch.setattr(training._Training, "run", spy_run)
    return seen


def test_validation_is_split_off_the_training_items(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = parts_seen(monkeypatch)
    split = Split(grouped(36), grouped(12, start=600))
    metrics = fit(tmp_path, split=split, epochs=1, validation=0.34)
    groups = [{s.group for s in seen[part]} for part in ("fitted", "validation")]
    assert groups[0].isdisjoint(groups[1])
    assert len(groups[1]) == 4  # a third of the 6 items with and of the 6 without defects
    names = {s.name for part in seen.values() for s in part}
    assert names == {s.name for s in split.train}
    assert metrics["train_images"] == 24 and metrics["train_defective"] == 4
    assert metrics["prior_shift"] == pytest.approx(np.log(4 / 20))
    assert "validation_ap" in pd.read_csv(tmp_path / "history.csv")


def flipped(samples: list[Sample]) -> list[Sample]:
    return [replace(sample, label=1 - (sample.label or 0)) for sample in samples]


@pytest.mark.parametrize("rule", ["prior", "f1", "recall:0.6", "recall:1"])
def test_the_threshold_is_chosen_on_the_validation_part_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: str
) -> None:
    seen = parts_seen(monkeypatch)
    options: dict[str, Any] = dict(epochs=1, validation=0.5, threshold=rule, seed=3)
    split = Split(toys(36), toys(9, start=300))
    metrics = fit(tmp_path / "a", split=split, **options)
    other = Split(split.listed_train, flipped(toys(12, start=500)))
    assert fit(tmp_path / "b", split=other, **options)["threshold"] == metrics["threshold"]
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "b"))

    classifier = load_classifier(tmp_path / "a" / "checkpoint.pt")
    assert classifier.threshold == metrics["threshold"]
    assert metrics["threshold_rule"] == rule
    table = predict_images(classifier, seen["validation"])
    truth, p = table["label"], table["probability"]
    if rule == "prior":
        assert classifier.threshold == 0.5
        return
    assert np.isclose(p, classifier.threshold, atol=1e-6).any()
    predicted = p >= classifier.threshold - 1e-6
    recalls = {t: (p[truth == 1] >= t).mean() for t in p}
    if rule == "f1":
        assert f1_score(truth, predicted) == max(f1_score(truth, p >= t) for t in p)
    else:
        wanted = float(rule.partition(":")[2])
        assert predicted[truth == 1].mean() >= wanted
        best = max(t for t, recall in recalls.items() if recall >= wanted)
        assert classifier.threshold == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize(
    "rule", ["best", "recall", "recall:", "recall:high", "recall:0", "recall:2", "recall:nan"]
)
def test_unknown_threshold_rules_are_refused_before_training(rule: str) -> None:
    with pytest.raises(
        LtcamError, match=rf"trainer\.threshold={rule}: must be prior, f1 or recall"
    ):
        TrainerConfig(threshold=rule, validation=0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": "f1"}, r"chosen on validation items; set trainer\.validation"),
        ({"optimizer": "adam"}, r"trainer\.optimizer=adam: unknown; did you mean 'adamw'"),
        ({"schedule": "linear"}, r"trainer\.schedule=linear: unknown"),
        ({"epochs": 0}, r"trainer\.epochs=0: must be a whole number of at least 1"),
        ({"batch_size": 1}, r"trainer\.batch_size=1: must be a whole number of at least 2"),
        ({"images_per_epoch": 0}, r"trainer\.images_per_epoch=0: must .*, or null"),
        ({"lr": 0}, r"trainer\.lr=0: must be a number above 0 .*, or null"),
        ({"clip": -1.0}, r"trainer\.clip=-1\.0: must be a number above 0 .*, or null"),
        ({"workers": -1}, r"trainer\.workers=-1: must be a whole number of at least 0"),
        ({"label_smoothing": 1.0}, r"trainer\.label_smoothing=1\.0: must .* below 1"),
        ({"guide_weight": -1.0}, r"trainer\.guide_weight=-1\.0: must be a number of at least 0"),
        ({"cutmix": 1.5}, r"trainer\.cutmix=1\.5: must be a number of at least 0 and at most 1"),
        ({"augment": {"gamma": -1}}, r"trainer\.augment\.gamma=-1: must be a number of at least"),
    ],
)
def test_wrong_trainers(options: dict[str, Any], message: str) -> None:
    with pytest.raises(LtcamError, match=message):
        TrainerConfig(**options)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (Split([toy(1, 0)] * 4, toys(4)), "the training part has no defective image"),
        (Split([toy(1, 1)] * 4, toys(4)), "the training part has no good image"),
        (Split(toys(4), [toy(9, 0)]), "the test part has no defective image"),
    ],
)
def test_parts_without_a_class(tmp_path: Path, split: Split, message: str) -> None:
    with pytest.raises(LtcamError, match=message):
        fit(tmp_path, split=split)
    assert list(tmp_path.iterdir()) == []


def test_validation_without_a_class(tmp_path: Path) -> None:
    one_defect = [toy(0, 1), *(toy(n, 0) for n in range(1, 9))]
    with pytest.raises(LtcamError, match="the validation part has no defective image"):
        fit(tmp_path, split=Split(one_defect, toys(4)), validation=0.3)


# What is written


def test_files(fitted: Path) -> None:
    assert sorted(path.name for path in fitted.iterdir()) == [
        "checkpoint.pt",
        "history.csv",
        "images.csv",
        "last.pt",
        "metrics.json",
    ]


def test_history(fitted: Path) -> None:
    history = pd.read_csv(fitted / "history.csv")
    assert list(history.columns) == [
        "epoch",
        "loss",
        "lr",
        "images_per_second",
        "seconds",
        "validation_ap",
    ]
    assert history["epoch"].tolist() == [1, 2, 3]
    assert (history[["loss", "lr", "images_per_second", "seconds"]] > 0).all(axis=None)
    assert history["validation_ap"].between(0, 1).all()


def test_images_and_metrics_agree(fitted: Path) -> None:
    metrics = json.loads((fitted / "metrics.json").read_text())
    table = pd.read_csv(fitted / "images.csv")
    assert list(table.columns) == ["name", "group", "label", "logit", "probability", "predicted"]
    assert table["name"].tolist() == [s.name for s in toy_split().test]
    label, predicted = table["label"], table["predicted"]
    np.testing.assert_allclose(
        table["probability"],
        1 / (1 + np.exp(-table["logit"] - metrics["prior_shift"])),
        rtol=1e-5,
    )
    assert ((table["probability"] >= metrics["threshold"]) == predicted).all()
    assert metrics["test_ap"] == pytest.approx(average_precision_score(label, table["logit"]))
    assert metrics["test_auroc"] == pytest.approx(roc_auc_score(label, table["logit"]))
    assert metrics["test_accuracy"] == pytest.approx((label == predicted).mean())
    balanced = balanced_accuracy_score(label, predicted)
    assert metrics["test_balanced_accuracy"] == pytest.approx(balanced)
    counts = pd.crosstab(label, predicted).reindex(index=[0, 1], columns=[0, 1], fill_value=0)
    assert [
        metrics[f"test_{k}"] for k in ("tn", "fp", "fn", "tp")
    ] == counts.to_numpy().ravel().tolist()
    assert metrics["test_images"] == 6 and metrics["test_skipped"] == 0
    assert metrics["threshold_rule"] == "f1" and metrics["epochs"] == 3
    history = pd.read_csv(fitted / "history.csv")
    assert metrics["seconds"] == pytest.approx(history["seconds"].sum())


def test_the_checkpoint_says_all_that_is_needed(fitted: Path) -> None:
    metrics = json.loads((fitted / "metrics.json").read_text())
    classifier = load_classifier(fitted / "checkpoint.pt")
    assert (classifier.height, classifier.width, classifier.in_channels) == (32, 32, 1)
    assert classifier.backbone == SLIM
    assert classifier.threshold == metrics["threshold"]
    assert classifier.prior_shift == metrics["prior_shift"]
    assert classifier.metrics["test_ap"] == metrics["test_ap"]
    assert metrics["parameters"] == sum(p.numel() for p in classifier.model.parameters())
    table = predict_images(classifier, toy_split().test)
    pd.testing.assert_frame_equal(table, pd.read_csv(fitted / "images.csv"), atol=1e-6, rtol=1e-5)


def test_writing_fails_without_half_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(state: Any, target: Any) -> None:
        with target.open("wb") if isinstance(target, Path) else target as stream:
            stream.write(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(OSError, match="No space left"):
        fit(tmp_path)
    assert list(tmp_path.iterdir()) == []


# Unreadable images


def with_broken(samples: list[Sample], path: Path, count: int = 2) -> list[Sample]:
    path.touch()
    broken = [
        Sample.from_files(path, None, name=f"broken{n}", group=f"broken{n}", label=n % 2)
        for n in range(count)
    ]
    return samples + broken


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_stop_a_training_in_one_line(tmp_path: Path, workers: int) -> None:
    split = Split(with_broken(toys(6), tmp_path / "broken.png"), toys(6, start=300))
    message = fault(lambda: fit(tmp_path / "train", split=split, workers=workers))
    assert message.startswith(f"{tmp_path}/broken.png: the file is empty")


def test_an_unreadable_test_image_is_found_before_the_training(tmp_path: Path) -> None:
    split = Split(toys(6), with_broken(toys(6, start=300), tmp_path / "broken.png"))
    message = fault(lambda: fit(tmp_path / "train", split=split))
    assert "broken.png: the file is empty" in message and "dataset.on_error=skip" in message
    assert not [*(tmp_path / "train").glob("*")]


def test_unreadable_images_may_be_skipped(tmp_path: Path) -> None:
    """In all three parts; of validation both classes stay."""
    path = tmp_path / "broken.png"
    split = Split(with_broken(toys(24), path, 8), with_broken(toys(6, start=300), path, 3))
    metrics = fit(tmp_path / "train", split=split, on_error="skip", validation=0.4, threshold="f1")
    assert metrics["test_images"] == 6 and metrics["test_skipped"] == 3


@pytest.mark.parametrize("part", ["training", "test"])
def test_no_image_can_be_read(tmp_path: Path, part: str) -> None:
    path = tmp_path / "broken.png"
    parts = {"training": toys(6), "test": toys(6, start=300), part: with_broken([], path)}
    with pytest.raises(LtcamError, match=r"none of the .*images could be read"):
        fit(tmp_path / "t", split=Split(parts["training"], parts["test"]), on_error="skip")


# The remaining time


@pytest.mark.parametrize(
    ("resumed", "progressive", "left"),
    [
        (False, 1.0, (24 - 10) / 10),
        (True, 1.0, (18 - 10) / 10),
        (False, 0.5, (2 / 4 + 12) / (10 / 4)),  # a step at half the sides has a quarter's work
        (True, 0.5, (12 - 4) / (6 / 4 + 4)),
    ],
)
def test_remaining_time_is_said_after_ten_steps(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    resumed: bool,
    progressive: float,
    left: float,
) -> None:
    """Of 24 steps, or of the 18 that are left after the first epoch; `left`: in ten steps' time."""
    options: dict[str, Any] = dict(epochs=4, images_per_epoch=24, batch_size=4)
    options |= {"progressive": progressive, "dataset": replace(TOYS, height=64, width=64)}
    if resumed:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            interrupt_at(patch, step=7)
            fit(tmp_path, **options)
    steps: list[float] = []
    said: list[tuple[int, float]] = []
    step = TrainingLoop._step

    def timed(*batch_and_loss: Any) -> float:
        start = time.perf_counter()
        loss = step(*batch_and_loss)
        steps.append(time.perf_counter() - start)
        return loss

    monkeypatch.setattr(TrainingLoop, "_step", timed)
    monkeypatch.setattr(
        TrainingLoop, "_log_remaining", lambda _, seconds: said.append((len(steps), seconds))
    )
    fit(tmp_path, resume=resumed, **options)
    ((after, seconds),) = said
    assert after == 10
    assert seconds >= left * sum(steps[:10])


@pytest.mark.parametrize(
    ("name", "device", "hint"),
    [
        ("vgg16", "cpu", True),
        ("vgg16_bn", "cpu", True),
        ("vgg16", "cuda", False),
        ("vgg16_slim", "cpu", False),
        ("resnet18", "cpu", False),
    ],
)
def test_heavy_networks_on_a_cpu_name_the_light_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, device: str, hint: bool
) -> None:
    place = torch.device(device)
    advice = remaining_hint(BackboneConfig(name, weights=None), place)
    options: dict[str, Any] = dict(total_steps=1, batch_size=1, clip=None, hint=advice)
    with caplog.at_level(logging.INFO):
        TrainingLoop(tmp_path, "trainer", place, **options)._log_remaining(5 * 3600)
    assert f"about 5.0 h left on {device}" in caplog.text
    assert ("backbone=vgg16_slim" in caplog.text) == hint


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.4, "3 s"), (89, "89 s"), (90, "2 min"), (600, "10 min"), (7200, "2.0 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# Image-level tables


def test_predict_images() -> None:
    classifier = replace(tiny_classifier(), prior_shift=0.4)
    samples = [*toys(5), replace(toy(9, 0, (64, 20)), label=None)]
    table = predict_images(classifier, samples, batch_size=2)
    assert table["name"].tolist() == [s.name for s in samples]
    assert pd.isna(table["label"].iloc[-1]) and table["label"].iloc[0] == 1
    alone = pd.concat([predict_images(classifier, [s]) for s in samples], ignore_index=True)
    np.testing.assert_allclose(table["logit"], alone["logit"], atol=1e-5)
    assert not classifier.model.training


@pytest.mark.parametrize("writes", [0, 1])
def test_where_a_state_is_its_history_is(
    writes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, replace_ = iter(range(writes)), Path.replace

    def interrupted(self: Path, target: Path) -> Path:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return replace_(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        progress.save_progress(tmp_path, {"history": [{"epoch": 1}]})
    assert not (tmp_path / "last.pt").exists() or (tmp_path / "history.csv").exists()
