"""Training of the image classifier, from image-level labels alone."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ltcam_cli.classifier.augment import AugmentConfig, BalancedOrder, CutMix, augmentation
from ltcam_cli.classifier.backbones import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    BackboneConfig,
    build_classifier,
    freeze_batch_norm,
    load_weights,
)
from ltcam_cli.classifier.checkpoint import Classifier, prior_shift
from ltcam_cli.classifier.guidance import Guide, consistency, saliency
from ltcam_cli.classifier.progress import read_progress, save_progress
from ltcam_cli.data.batches import (
    Batch,
    Images,
    batches,
    collate,
    loading_processes,
    read,
)
from ltcam_cli.data.config import DatasetConfig
from ltcam_cli.data.sample import Sample
from ltcam_cli.data.split import Split, check_classes, split_fraction
from ltcam_cli.errors import LtcamError, nearest
from ltcam_cli.files import LATER, atomic, write_json
from ltcam_cli.scores import images as image_scores

log = logging.getLogger(__name__)

CONSTANT = 1e-3  # spread of the logits of all test images below which nothing was learnt


@dataclass
class TrainerConfig:
    """How the classifier is trained (conf/trainer/*.yaml).

    Attributes:
        epochs: passes of `images_per_epoch` images.
        images_per_epoch: None takes four times the images of the rarer class.
        batch_size: half of each batch is defective.
        optimizer: `adamw` or `sgd` (momentum 0.9).
        lr: highest learning rate; None takes 3e-3 from scratch, 1e-4 with pre-trained weights.
        weight_decay: of the optimizer.
        schedule: `onecycle` or `cosine`.
        validation: share of the training *items* held out to choose the threshold; 0 for none.
        threshold: `prior` (0.5 after correction for balanced sampling), or on the validation part
            `f1` (the highest F1) or `recall:R` (the highest threshold whose recall is R).
        clip: greatest norm of the gradient; None for no limit.
        amp: mixed precision on GPU.
        cache: keep resized images in memory (up to 2 GB).
        workers: loading processes; None is 0 on CPU, and up to 8 on GPU.
        augment: random changes of the images.
        label_smoothing: ε in [0, 1); the target of a defect is 1 - ε/2, of a good image ε/2.
        cutmix: share of the batches that are mixed; see `CutMix`.
        guide: checkpoint, or in a config also a run, of a first classifier whose maps those of
            this one shall resemble; None for none. See `guidance`.
        guide_weight: of the difference of the maps in the loss.
    """

    epochs: int = 20
    images_per_epoch: int | None = None
    batch_size: int = 12
    optimizer: str = "adamw"
    lr: float | None = None
    weight_decay: float = 0.01
    schedule: str = "onecycle"
    validation: float = 0.0
    threshold: str = "prior"
    clip: float | None = 1.0
    amp: bool = True
    cache: bool = True
    workers: int | None = None
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    label_smoothing: float = field(default=0.0, metadata=LATER)
    cutmix: float = field(default=0.0, metadata=LATER)
    guide: str | None = field(default=None, metadata=LATER)
    guide_weight: float = field(default=1.0, metadata=LATER)

    def __post_init__(self) -> None:
        for name, known in {
            "optimizer": ("adamw", "sgd"),
            "schedule": ("onecycle", "cosine"),
        }.items():
            value = getattr(self, name)
            if value not in known:
                raise LtcamError(f"trainer.{name}={value}: unknown{nearest(value, known)}")
        if self.epochs < 1 or self.batch_size < 2:
            raise LtcamError("trainer.epochs must be at least 1, and trainer.batch_size at least 2")
        if not 0 <= self.label_smoothing < 1:
            raise LtcamError(
                f"trainer.label_smoothing={self.label_smoothing:g}: must lie in [0, 1), e.g. 0.1"
            )
        if not 0 <= self.cutmix <= 1:
            raise LtcamError(f"trainer.cutmix={self.cutmix:g}: a share of batches lies in 0..1")
        if not 0 <= self.guide_weight < math.inf:
            raise LtcamError(f"trainer.guide_weight={self.guide_weight:g}: must be at least 0")
        self.wanted_recall()
        if self.threshold != "prior" and not self.validation:
            raise LtcamError(
                f"trainer.threshold={self.threshold} is chosen on validation items; "
                "set trainer.validation, e.g. 0.2"
            )

    def wanted_recall(self) -> float | None:
        """R of the threshold rule `recall:R`, None for the other rules.

        Raises:
            LtcamError: if there is no such rule.
        """
        rule, _, number = self.threshold.partition(":")
        try:
            recall = float(number) if rule == "recall" else None
        except ValueError:
            recall = -1
        if self.threshold in {"prior", "f1"} or (recall is not None and 0 < recall <= 1):
            return recall
        raise LtcamError(
            f"trainer.threshold={self.threshold}: must be prior, f1 or recall:R with 0 < R <= 1"
        )


def train(
    folder: Path,
    split: Split,
    dataset: DatasetConfig,
    backbone: BackboneConfig,
    trainer: TrainerConfig,
    *,
    seed: int,
    device: torch.device,
    resume: bool = False,
) -> dict[str, Any]:
    """Train a classifier and test it at image level.

    Writes `checkpoint.pt`, `history.csv`, `images.csv`, `metrics.json` and, after each epoch,
    `last.pt`, from which `resume` goes on to the same weights as if it had never stopped (on CPU).

    Args:
        folder: of the files, exists.
        split: its training part is fitted, its test part only scored.

    Returns:
        The metrics.

    Raises:
        LtcamError: if a class is missing, weights do not fit, or the loss is no number any more.
    """
    samples = split.train
    check_classes(samples, "training")
    check_classes(split.test, "test")
    validation: list[Sample] = []
    if trainer.validation:
        samples, validation = split_fraction(
            samples, trainer.validation, seed, key="trainer.validation"
        )
        check_classes(validation, "validation")

    torch.manual_seed(seed)
    classifier = _new_classifier(samples, dataset, backbone, device)
    loop = _Loop(folder, classifier, samples, dataset, trainer, seed, device)
    if resume:
        loop.resume()
    loop.run(validation)

    metrics = _finish(classifier, split.test, validation, dataset, trainer, folder)
    metrics["epochs"] = trainer.epochs
    metrics["train_images"], metrics["train_defective"] = len(samples), _defective(samples)
    metrics["parameters"] = sum(p.numel() for p in classifier.model.parameters())
    classifier.metrics = {k: v for k, v in metrics.items() if isinstance(v, (int, float, str))}
    classifier.save(folder / "checkpoint.pt")
    metrics["seconds"] = loop.seconds  # not in the checkpoint: equal trainings give equal files
    write_json(folder / "metrics.json", metrics)
    return metrics


def predict_images(
    classifier: Classifier,
    samples: Sequence[Sample],
    *,
    batch_size: int = 16,
    workers: int | None = None,
    on_error: str = "raise",
) -> pd.DataFrame:
    """Image-level table: name, group, label, logit (as trained), probability, predicted.

    Raises:
        LtcamError: if no image, or with `on_error="raise"` one image, cannot be read.
    """
    images = Images(
        samples, classifier.height, classifier.width, classifier.in_channels, on_error=on_error
    )
    classifier.model.eval()
    rows = []
    with torch.inference_mode():
        for batch in batches(images, batch_size, workers=workers):
            if not batch.items:
                continue
            logits = classifier.model(classifier.prepare(batch.images)).float()
            log_odds = classifier.log_odds(logits).cpu()
            probability = classifier.probability(logits).cpu()
            for item, odds, p in zip(batch.items, log_odds, probability, strict=True):
                rows.append(
                    {
                        "name": item.sample.name,
                        "group": item.sample.group,
                        "label": item.sample.label,
                        "logit": float(odds),
                        "probability": float(p),
                        "predicted": int(p >= classifier.threshold),
                    }
                )
    if not rows:
        raise LtcamError(f"none of the {len(samples)} images could be read")
    return pd.DataFrame(rows)


def _defective(samples: Sequence[Sample]) -> int:
    return sum(bool(sample.label) for sample in samples)


def _new_classifier(
    samples: Sequence[Sample],
    dataset: DatasetConfig,
    backbone: BackboneConfig,
    device: torch.device,
) -> Classifier:
    if backbone.logits > 2:
        raise LtcamError(f"backbone.logits={backbone.logits}: training takes 1 or 2")
    channels = dataset.channels if backbone.weights is None else 3
    model = build_classifier(backbone, channels)
    load_weights(model, backbone)
    model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    pretrained = backbone.weights is not None
    return Classifier(
        model,
        backbone,
        channels,
        dataset.height,
        dataset.width,
        mean=IMAGENET_MEAN if pretrained else (0.5,) * channels,
        std=IMAGENET_STD if pretrained else (0.25,) * channels,
        prior_shift=prior_shift(_defective(samples), len(samples)),
    )


def loss_of(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Binary cross-entropy of one logit, cross-entropy of two.

    Args:
        logits: (N, 1) or (N, 2).
        labels: (N,) 0 or 1, or as floats the share of a defect.
        smoothing: ε; the share is drawn to 1/2 by it (Szegedy et al. 2016).
    """
    if logits.shape[1] == 1:
        share = labels.float() * (1 - smoothing) + smoothing / 2
        return F.binary_cross_entropy_with_logits(logits[:, 0], share)
    target = torch.stack([1 - labels, labels], dim=1) if labels.is_floating_point() else labels
    return F.cross_entropy(logits, target, label_smoothing=smoothing)


class _Loop:
    """The epochs of one training, and what must be kept to go on with them."""

    def __init__(
        self,
        folder: Path,
        classifier: Classifier,
        samples: Sequence[Sample],
        dataset: DatasetConfig,
        trainer: TrainerConfig,
        seed: int,
        device: torch.device,
    ) -> None:
        self.folder, self.classifier, self.trainer = folder, classifier, trainer
        self.model, self.seed, self.device = classifier.model, seed, device
        self.on_error = dataset.on_error
        rarer = min(_defective(samples), len(samples) - _defective(samples))
        count = trainer.images_per_epoch or 4 * rarer
        self.order = BalancedOrder([s.label or 0 for s in samples], count, seed)
        images = Images(
            samples,
            dataset.height,
            dataset.width,
            classifier.in_channels,
            augment=augmentation(trainer.augment),
            cache=trainer.cache,
            on_error=dataset.on_error,
        )
        self.loader = self._loader(images)
        self.cutmix = CutMix(trainer.cutmix)
        self.guide = Guide(Path(trainer.guide), classifier) if trainer.guide else None
        self.lr = trainer.lr or (3e-3 if classifier.backbone.weights is None else 1e-4)
        self.optimizer = _optimizer(self.model, trainer, self.lr)
        self.steps = trainer.epochs * len(self.loader)
        self.schedule = _schedule(self.optimizer, trainer, self.lr, self.steps)
        self.half = _half_precision(device) if trainer.amp else None
        self.scaler = torch.amp.GradScaler(enabled=self.half == torch.float16)
        self.history: list[dict[str, float]] = []

    @property
    def seconds(self) -> float:
        return sum(row["seconds"] for row in self.history)

    def _loader(self, images: Images) -> DataLoader[Any]:
        on_gpu = self.device.type == "cuda"
        workers = self.trainer.workers
        if workers is None:
            workers = loading_processes(on_gpu)
        return DataLoader(
            images,
            batch_size=self.trainer.batch_size,
            sampler=self.order,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=on_gpu,
            persistent_workers=workers > 0,
            generator=torch.Generator(),  # so that the loader draws nothing from dropout's
        )

    def run(self, validation: list[Sample]) -> None:
        first = len(self.history)
        started = time.perf_counter()
        done = 0
        with (
            logging_redirect_tqdm(),
            tqdm(
                total=self.steps,
                initial=first * len(self.loader),
                desc="train",
                unit="batch",
                dynamic_ncols=True,
                disable=None,
            ) as bar,
        ):
            for epoch in range(first, self.trainer.epochs):
                tic = time.perf_counter()
                losses = []
                for loss in self._epoch(epoch):
                    losses.append(loss)
                    bar.set_postfix(
                        epoch=f"{epoch + 1}/{self.trainer.epochs}",
                        loss=f"{np.mean(losses[-10:]):.4f}",
                        lr=f"{self.schedule.get_last_lr()[0]:.2g}",
                        refresh=False,
                    )
                    bar.update()
                    done += 1
                    if done == 10:
                        left = self.steps - first * len(self.loader) - done
                        self._say_remaining((time.perf_counter() - started) / 10 * left)
                if not losses:
                    raise LtcamError("none of the training images could be read")
                seconds = time.perf_counter() - tic
                row: dict[str, float] = {
                    "epoch": epoch + 1,
                    "loss": float(np.mean(losses)),
                    "lr": float(self.schedule.get_last_lr()[0]),
                    "images_per_second": len(losses) * self.trainer.batch_size / seconds,
                    "seconds": seconds,
                }
                if validation:
                    table = predict_images(self.classifier, validation, on_error=self.on_error)
                    row["validation_ap"] = image_scores.average_precision(
                        table["label"].to_numpy(), table["logit"].to_numpy()
                    )
                self.history.append(row)
                self._save()
                log.info("epoch %d: loss %.4f, %.1f s", epoch + 1, row["loss"], seconds)

    def _epoch(self, epoch: int) -> Iterator[float]:
        self.order.epoch = epoch
        torch.manual_seed(int(np.random.default_rng([self.seed, epoch, 1]).integers(2**31)))
        self.model.train()
        if self.classifier.backbone.freeze_bn:
            freeze_batch_norm(self.model)
        for batch in read(self.loader):
            if not batch.items:
                continue
            loss = self._step(batch)
            if not math.isfinite(loss):
                raise self._diverged(f"the loss is {loss}", epoch)
            yield loss
        if not all(bool(value.isfinite().all()) for value in self.model.state_dict().values()):
            raise self._diverged("a weight is no finite number", epoch)

    def _diverged(self, what: str, epoch: int) -> LtcamError:
        kept = f"; the weights after epoch {epoch} are in last.pt" if epoch else ""
        return LtcamError(f"{what} in epoch {epoch + 1}: lower trainer.lr (now {self.lr:g}){kept}")

    def _step(self, batch: Batch) -> float:
        pixels, labels = self.cutmix(batch.images, batch.labels)
        images, labels = self.classifier.prepare(pixels), labels.to(self.device)
        with self._autocast():
            loss = self._loss(pixels, images, labels)
        value = float(loss.detach())
        if not math.isfinite(value):
            return value
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if self.trainer.clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.trainer.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        return value

    def _loss(self, pixels: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """Of images in [0, 1], which are prepared as well."""
        if self.guide is None:
            return loss_of(self.model(images), labels, self.trainer.label_smoothing)
        prior = self.guide.maps(pixels)
        logits, maps = saliency(self.classifier, images, differentiable=True)
        loss = loss_of(logits, labels, self.trainer.label_smoothing)
        return loss + self.trainer.guide_weight * consistency(maps, prior, labels)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.half is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.half)

    def _say_remaining(self, seconds: float) -> None:
        message = f"about {duration(seconds)} left on {self.device.type}"
        heavy = self.classifier.backbone.name in {"vgg16", "vgg16_bn", "resnet50"}
        if heavy and self.device.type == "cpu":
            message += "; backbone=vgg16_slim is made for CPUs and takes minutes"
        log.info(message)

    def _save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "history": self.history,
        }
        save_progress(self.folder, state)

    def resume(self) -> None:
        state = read_progress(self.folder, self.device)
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self.history = state["history"]
        log.info("resumed after epoch %d", len(self.history))


def _finish(
    classifier: Classifier,
    test: list[Sample],
    validation: list[Sample],
    dataset: DatasetConfig,
    trainer: TrainerConfig,
    folder: Path,
) -> dict[str, Any]:
    """Choose the threshold (never on the test part), then score the test part."""
    if validation:
        table = predict_images(classifier, validation, on_error=dataset.on_error)
        labels, scores = table["label"].to_numpy(), table["probability"].to_numpy()
        if trainer.threshold == "f1":
            classifier.threshold = image_scores.max_f1_threshold(labels, scores)
        elif (wanted := trainer.wanted_recall()) is not None:
            classifier.threshold = image_scores.recall_threshold(labels, scores, wanted)
    table = predict_images(classifier, test, on_error=dataset.on_error)
    with atomic(folder / "images.csv") as temporary:
        table.to_csv(temporary, index=False)
    labels, logits = table["label"].to_numpy(), table["logit"].to_numpy()
    predicted = table["predicted"].to_numpy()
    if len(table) > 1 and np.ptp(logits) < CONSTANT:
        log.warning(
            "the classifier says the same of all %d test images: its training collapsed, and its "
            "maps will be empty; try another seed, a lower trainer.lr or backbone.head=max",
            len(table),
        )
    return {
        "test_ap": image_scores.average_precision(labels, logits),
        "test_auroc": image_scores.auroc(labels, logits),
        "test_accuracy": image_scores.accuracy(labels, predicted),
        **{f"test_{k}": v for k, v in image_scores.confusion(labels, predicted).items()},
        "test_images": len(table),
        "test_skipped": len(test) - len(table),
        "threshold": classifier.threshold,
        "threshold_rule": trainer.threshold,
        "prior_shift": classifier.prior_shift,
    }


def _optimizer(model: nn.Module, trainer: TrainerConfig, lr: float) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    if trainer.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr, momentum=0.9, weight_decay=trainer.weight_decay)
    return torch.optim.AdamW(parameters, lr, weight_decay=trainer.weight_decay)


def _schedule(
    optimizer: torch.optim.Optimizer, trainer: TrainerConfig, lr: float, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    if trainer.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps + 1)


def _half_precision(device: torch.device) -> torch.dtype | None:
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def duration(seconds: float) -> str:
    """In the unit that a person would say it in."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
