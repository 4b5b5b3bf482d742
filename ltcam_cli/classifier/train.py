"""Training of the image classifier, from image-level labels alone."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ltcam_cli.classifier.augment import BalancedOrder, CutMix, augmentation, resized
from ltcam_cli.classifier.backbones import freeze_batch_norm, remaining_hint
from ltcam_cli.classifier.checkpoint import Classifier
from ltcam_cli.classifier.config import BackboneConfig, TrainerConfig
from ltcam_cli.classifier.epochs import count_defective, images_per_epoch, shown_sizes, with_epochs
from ltcam_cli.classifier.guidance import Guide, consistency, saliency
from ltcam_cli.classifier.kinds import any_log_odds, kind_loss, kind_targets
from ltcam_cli.classifier.loggers import log_overlays
from ltcam_cli.classifier.loop import TrainingLoop, cosine, make_optimizer, one_cycle
from ltcam_cli.classifier.loss import Chance, classification_loss
from ltcam_cli.classifier.precision import autocast_dtype
from ltcam_cli.classifier.predictions import (
    choose_threshold,
    image_metrics,
    predict_images,
    validation_ap,
    write_kinds,
)
from ltcam_cli.classifier.progress import resuming
from ltcam_cli.classifier.untrained import new_classifier
from ltcam_cli.data.batches import Batch, Images, collate, default_workers, read_batches
from ltcam_cli.data.dataset import Dataset
from ltcam_cli.data.kinds import kind_names
from ltcam_cli.data.load import white_of
from ltcam_cli.data.sample import Sample
from ltcam_cli.data.split import Split, check_classes, split_fraction, warn_of_equals
from ltcam_cli.errors import LtcamError
from ltcam_cli.files import write_json, write_table
from ltcam_cli.progress import track

log = logging.getLogger(__name__)

SHORT = 5  # epochs; a shorter training never begins anew


def train(
    folder: Path,
    split: Split,
    dataset: Dataset,
    backbone: BackboneConfig,
    trainer: TrainerConfig,
    *,
    seed: int,
    device: torch.device,
    resume: bool = False,
) -> dict[str, Any]:
    """Train a classifier and test it at image level.

    Writes `checkpoint.pt`, `history.csv`, `images.csv`, `metrics.json`, of kinds `kinds.csv`, and
    after each epoch `last.pt`. A training resumed from it ends with the weights of an uninterrupted
    one (on CPU).

    Args:
        folder: Output directory; must exist.
        split: Training part, which is fitted, and test part, which is only scored.
        dataset: Data set, of which size, `fit`, `channels` and `on_error` are read.
        backbone: Architecture and first weights.
        trainer: How to train.
        seed: Seed of everything random.
        device: Device of the model.
        resume: Whether to go on from `last.pt`, if it exists.

    Returns:
        Metrics of the training and of the test part.

    Raises:
        LtcamError: if a class is missing, a test image cannot be read, weights do not fit, or the
            loss is no finite number.
    """
    white = white_of(dataset, split.listed_train)
    split = split.read_by(dataset.image_reader(white), dataset.mask_reader())
    samples = split.train
    kinds = kind_names(samples) if trainer.kinds else ()
    check_classes(samples, "training", split)
    check_classes(split.test, "test", split)
    warn_of_equals(split)
    validation: list[Sample] = []
    if trainer.validation:
        samples, validation = split_fraction(samples, trainer.validation, seed)
        check_classes(validation, "validation", "change trainer.validation, or add such images")

    if dataset.on_error == "raise":  # or else the training would end at its test
        tested = Images(split.test, None, None, dataset.channels)
        for number in track(range(len(tested)), "reading test images"):
            tested[number]

    trainer = with_epochs(trainer, samples, backbone.weights is not None)
    torch.manual_seed(seed)
    classifier = new_classifier(samples, dataset, backbone, device, kinds)
    classifier.white = white
    training = _Training(folder, classifier, samples, dataset, trainer, seed, device)
    training.run(validation, resume)

    on_error = dataset.on_error
    classifier.threshold = choose_threshold(classifier, validation, trainer, on_error)
    table = predict_images(classifier, split.test, on_error=on_error)
    write_table(folder / "images.csv", table)
    metrics = {
        **image_metrics(table),
        **write_kinds(folder, table, kinds),
        "test_skipped": len(split.test) - len(table),
        "threshold": classifier.threshold,
        "threshold_rule": trainer.threshold,
        "prior_shift": classifier.prior_shift,
        "epochs": trainer.epochs,
        "train_images": len(samples),
        "train_defective": count_defective(samples),
        "parameters": sum(p.numel() for p in classifier.model.parameters()),
    }
    classifier.metrics = {k: v for k, v in metrics.items() if isinstance(v, (int, float, str))}
    classifier.save(folder / "checkpoint.pt")
    # Not in the checkpoint: equal trainings give equal files.
    metrics["seconds"] = training.loop.seconds
    write_json(folder / "metrics.json", metrics)
    return metrics


class _Training:
    """Batches, loss and epochs of one training."""

    def __init__(
        self,
        folder: Path,
        classifier: Classifier,
        samples: Sequence[Sample],
        dataset: Dataset,
        trainer: TrainerConfig,
        seed: int,
        device: torch.device,
    ) -> None:
        self.classifier, self.trainer, self.on_error = classifier, trainer, dataset.on_error
        self.seed, self.device = seed, device
        self._new = partial(
            new_classifier, samples, dataset, classifier.backbone, device, classifier.kinds
        )
        assert trainer.epochs is not None
        self.epochs, count = trainer.epochs, images_per_epoch(trainer, samples)
        self.sizes = shown_sizes(trainer, classifier.size)
        if len(set(self.sizes)) > 1 and getattr(classifier.model, "fixed", False):
            raise LtcamError(
                f"trainer.progressive={trainer.progressive:g}: {classifier.backbone.display_name} "
                "takes images of one size alone; leave it out"
            )
        self.order = BalancedOrder([s.label or 0 for s in samples], count, seed)
        self.images = classifier.images(
            samples,
            augment=augmentation(trainer.augment),
            cache=trainer.cache,
            on_error=dataset.on_error,
        )
        self.loader = self._loader(self.images)
        self.cutmix, self.chance = CutMix(trainer.cutmix), Chance(trainer.label_smoothing)
        self.guide = None if trainer.guide is None else Guide(Path(trainer.guide), classifier)
        self.loop = TrainingLoop(
            folder,
            "trainer",
            device,
            total_steps=self.epochs * len(self.loader),
            batch_size=trainer.batch_size,
            clip=trainer.clip,
            pixels=[math.prod(size) for size in self.sizes for _ in range(len(self.loader))],
            autocast_dtype=autocast_dtype(trainer.amp, device),
            hint=remaining_hint(classifier.backbone, device),
            logger=trainer.logger,
        )
        self._begin(0)

    def _begin(self, restarts: int) -> None:
        """Begin with new optimizer and schedule; after the first time with other weights, too."""
        trainer, steps = self.trainer, self.loop.total_steps
        self.restarts = restarts
        if restarts:
            torch.manual_seed(int(np.random.default_rng([self.seed, restarts, 2]).integers(2**31)))
            self.classifier.model.load_state_dict(self._new().model.state_dict())
        default_lr = 3e-3 if self.classifier.backbone.weights is None else 1e-4
        lr = (default_lr if trainer.lr is None else trainer.lr) / 3**restarts
        optimizer = make_optimizer(self.classifier.model, trainer, lr)
        make_schedule = one_cycle if trainer.schedule == "onecycle" else cosine
        schedule = make_schedule(optimizer, lr, steps)
        self.loop.begin(self.classifier.model, optimizer, schedule)
        self.loop.history = []

    def _loader(self, images: Images) -> DataLoader[Any]:
        on_gpu = self.device.type == "cuda"
        workers = self.trainer.workers
        if workers is None:
            workers = default_workers(on_gpu)
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

    def run(self, validation: Sequence[Sample], resume: bool) -> None:
        """Train all epochs, or those that are left; anew where nothing is learnt at first."""
        if resume and (state := self.loop.read_state()) is not None:
            with resuming(self.loop.folder):
                self._begin(int(state["restarts"]))
            self.loop.load_state(state)
            log.info("resumed after epoch %d", len(self.loop.history))
        while not self._run(validation):
            self._begin(self.restarts + 1)

    def _run(self, validation: Sequence[Sample]) -> bool:
        """Train the epochs that are left; False if that must begin anew."""
        epochs = self.epochs
        judged = math.ceil(epochs / 3) if epochs < SHORT else max(3, math.ceil(epochs / 5))
        first = len(self.loop.history)
        with self.loop.progress(first * len(self.loader)):
            for epoch in range(first, epochs):
                where = f"epoch {epoch + 1}"
                result = self.loop.fit(self._epoch(epoch), self._loss, where)
                row = {"epoch": epoch + 1, **result._asdict()}
                if validation:
                    row["validation_ap"] = validation_ap(self.classifier, validation, self.on_error)
                warning = self.chance.warning() if epoch + 1 == judged else None
                if warning and epochs >= SHORT and self.restarts < self.trainer.restarts:
                    anew = "training anew with other weights and a third of the learning rate"
                    log.warning("%s: %s; %s", where, warning, anew)
                    return False
                self.loop.record(row, restarts=self.restarts)
                log.info("%s: loss %.4f, %.1f s", where, result.loss, result.seconds)
                if warning:
                    log.warning("%s: %s; %s", where, warning, self._remedies())
            log_overlays(self.loop.logger, self.classifier, self.images)
        return True

    def _epoch(self, epoch: int) -> Iterator[Batch]:
        """Batches of an epoch; they and all that is random follow from seed and epoch alone."""
        self.order.epoch = epoch
        self.chance.start()
        seed = np.random.default_rng([self.seed + self.restarts, epoch, 1]).integers(2**31)
        torch.manual_seed(int(seed))
        self.classifier.model.train()
        if self.classifier.backbone.freeze_bn:
            freeze_batch_norm(self.classifier.model)
        loaded = (batch for batch in read_batches(self.loader) if batch.items)
        return (resized(batch, self.sizes[epoch]) for batch in loaded)

    def _loss(self, batch: Batch) -> Tensor:
        pixels, labels = self.cutmix(batch.images, batch.labels)
        images, labels = self.classifier.prepare(pixels), labels.to(self.device)
        if self.guide is None:
            logits, guided = self.classifier.model(images), None
        else:
            prior = self.guide.maps(pixels)
            logits, maps = saliency(self.classifier, images, differentiable=True)
            guided = self.trainer.guide_weight * consistency(maps, prior, labels)
        loss = self._image_loss(logits, labels, batch)
        return loss if guided is None else loss + guided

    def _image_loss(self, logits: Tensor, labels: Tensor, batch: Batch) -> Tensor:
        """Loss of the image labels, which tells of chance, and that of the kinds."""
        kinds, smoothing = self.classifier.kinds, self.trainer.label_smoothing
        of_labels = any_log_odds(logits)[:, None] if kinds else logits
        loss = classification_loss(of_labels, labels, smoothing)
        self.chance.update(loss, labels)
        if not kinds:
            return loss
        targets = kind_targets([item.sample for item in batch.items], kinds)
        return loss + kind_loss(logits, targets.to(logits.device), smoothing)

    def _remedies(self) -> str:
        rate = f"a lower trainer.lr (now {self.loop.highest_lr:g})"
        weights = "" if self.classifier.backbone.weights else "pre-trained backbone.weights, "
        return (
            f"if it stays so, try {rate}, {weights}more trainer.epochs or a larger dataset.height "
            "and dataset.width"
        )
