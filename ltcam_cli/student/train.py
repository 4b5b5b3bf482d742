"""Training of the student: labels from maps, a round of steps, labels from the student, …"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.optim import AdamW

from ltcam_cli.classifier.checkpoint import Classifier
from ltcam_cli.classifier.loggers import first_defective, overlay
from ltcam_cli.classifier.loop import TrainingLoop, one_cycle
from ltcam_cli.classifier.precision import autocast_dtype
from ltcam_cli.classifier.progress import resuming
from ltcam_cli.data.batches import Images, Item, prefetched
from ltcam_cli.data.geometry import check_aspect
from ltcam_cli.data.sample import Sample
from ltcam_cli.data.split import check_classes
from ltcam_cli.progress import track
from ltcam_cli.student.checkpoint import Student
from ltcam_cli.student.config import StudentConfig
from ltcam_cli.student.crops import Crops
from ltcam_cli.student.loss import decision_loss, segmentation_loss
from ltcam_cli.student.network import MaskNet, build_network
from ltcam_cli.student.pseudo_labels import PseudoLabels, Teacher

log = logging.getLogger(__name__)


def train_student(
    folder: Path,
    classifier: Classifier,
    digest: str,
    samples: Sequence[Sample],
    teacher: Teacher,
    config: StudentConfig,
    *,
    seed: int,
    device: torch.device,
    resume: bool = False,
    on_error: str = "raise",
) -> dict[str, float]:
    """Train a student on images and their image labels; masks only as `config.labels` asks.

    Writes `checkpoint.pt`, `history.csv`, `labels/`, and every `config.every` steps `last.pt`. A
    training resumed from it ends with the weights of an uninterrupted one (on CPU).

    Args:
        folder: Output directory; must exist.
        classifier: Classifier, whose normalisation, and with `encoder=classifier` stages, are used.
        digest: SHA-256 of the classifier's checkpoint.
        samples: Training images with image labels.
        teacher: Function from defective samples to their names, heatmaps (H, W) and masks (H, W)
            bool, for the first labels; called once, and not when they are resumed from.
        config: Network and training.
        seed: Seed of everything random.
        device: Device of the model.
        resume: Whether to go on from `last.pt`, if it exists.
        on_error: `raise`, or `skip` images that cannot be read.

    Returns:
        Last row of the history, with the seconds of all steps.

    Raises:
        LtcamError: if a class is missing, no pixel is labelled as defect, or the loss is no finite
            number.
    """
    check_classes(list(samples), "training", "train the run on images of both classes")
    training = _Training(folder, classifier, digest, samples, config, seed, device, on_error)
    training.run(teacher, resume)
    training.student.save(folder / "checkpoint.pt")
    return training.loop.history[-1] | {"seconds": training.loop.seconds}


class _Training:
    """Rounds of one training: labels, crops and loss."""

    def __init__(
        self,
        folder: Path,
        classifier: Classifier,
        digest: str,
        samples: Sequence[Sample],
        config: StudentConfig,
        seed: int,
        device: torch.device,
        on_error: str,
    ) -> None:
        self.folder, self.classifier, self.config = folder, classifier, config
        self.seed, self.device = seed, device
        height = classifier.height if config.height is None else config.height
        width = classifier.width if config.width is None else config.width
        channels = classifier.in_channels
        size, fit = (height, width), classifier.fit
        check_aspect("student.height, student.width", size, classifier.size, fit)
        self.images = Images(samples, *size, channels, fit=fit, cache=True, on_error=on_error)
        self.readable = [
            number
            for number in track(range(len(samples)), "reading images")
            if on_error != "skip" or isinstance(self.images[number], Item)
        ]
        network = self._new_network(0)
        self.student = Student(
            network,
            config.network,
            classifier.backbone,
            channels,
            height,
            width,
            digest,
            config.task,
        )
        self.loop = TrainingLoop(
            folder,
            "student",
            device,
            total_steps=config.rounds * config.steps,
            batch_size=config.batch_size,
            clip=config.clip,
            autocast_dtype=autocast_dtype(config.amp, device),
            logger=config.logger,
        )
        self.round, self.step = 0, 0

    def run(self, teacher: Teacher, resume: bool) -> None:
        """Train all rounds, or what is left of them."""
        config = self.config
        if not (resume and self._resume()):
            self._begin_round()
        pseudo_labels = PseudoLabels(
            self.folder / "labels", self.images, self.readable, teacher, config
        )
        with self.loop.progress(self.round * config.steps + self.step):
            while True:
                labels = pseudo_labels.of_round(self.round, self._predict)
                crops = Crops(
                    self.images,
                    self.readable,
                    labels,
                    config.crops,
                    config.batch_size,
                    [self.seed, self.round],
                )
                self._train_round(crops, pseudo_labels.statistics(self.round, labels))
                self.student.model.load_state_dict(self.loop.averaged_model.state_dict())
                self.student.model.eval()
                if self.round + 1 == config.rounds:
                    self._log_overlays()
                    return
                self.round, self.step = self.round + 1, 0
                self._begin_round()

    def _train_round(self, crops: Crops, statistics: dict[str, float]) -> None:
        """Train to the round's end; a row of history and a state every few steps."""
        config, where = self.config, f"round {self.round + 1}"
        self.loop.model.train()
        batches = prefetched(crops.batches(self.step, config.steps))
        while self.step < config.steps:
            steps = min(config.every - self.step % config.every, config.steps - self.step)
            result = self.loop.fit(islice(batches, steps), self._loss, where, self.step)
            self.step += steps
            row: dict[str, float] = {
                "round": self.round + 1,
                "step": self.step,
                "loss": result.loss,
                "lr": result.lr,
                **statistics,
                "images_per_second": result.images_per_second,
                "seconds": result.seconds,
            }
            student = self.student.model.state_dict()
            self.loop.record(row, round=self.round, step=self.step, student=student)
            log.info("%s, step %d: loss %.4f", where, self.step, result.loss)

    def _loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch[0], batch[1].to(self.device)
        assert isinstance(self.loop.model, MaskNet)
        judged = self.loop.model.judge(self.classifier.prepare(images))
        loss = segmentation_loss(judged.pixels, labels, self.config.loss)
        if judged.images is not None:
            loss = loss + self.config.loss.decision * decision_loss(judged.images, labels)
        return loss

    def _predict(self, image: Tensor) -> np.ndarray:
        """Probability (h, w) of a defect at each pixel of an image (C, h, w) in [0, 1]."""
        with torch.inference_mode():
            images = self.classifier.prepare(image[None])
            return self.student.probability(images)[0].float().cpu().numpy()

    def _log_overlays(self) -> None:
        if self.loop.logger is None:
            return
        for item in first_defective(self.images):
            heatmap = torch.from_numpy(self._predict(item.image))
            self.loop.logger.picture(f"overlays/{item.sample.name}", overlay(item.image, heatmap))

    def _new_network(self, number: int) -> MaskNet:
        torch.manual_seed(int(np.random.default_rng([self.seed, number, 1]).integers(2**31)))
        network = build_network(
            self.config.network,
            self.classifier.in_channels,
            self.classifier.backbone,
            self.classifier.model.state_dict(),
            self.config.task,
        )
        return network.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _begin_round(self) -> None:
        """Set weights, optimizer and schedule of the round's first step."""
        config = self.config
        if self.round and not config.restart:
            model = copy.deepcopy(self.student.model)
        else:
            model = self._new_network(self.round)
        default_lr = 3e-4 if config.network.encoder == "classifier" else 3e-3
        lr = default_lr if config.lr is None else config.lr
        optimizer = AdamW(model.parameters(), lr, weight_decay=config.weight_decay)
        schedule = one_cycle(optimizer, lr, config.steps)
        self.loop.begin(model, optimizer, schedule, config.ema)

    def _resume(self) -> bool:
        """Go on from the state that was saved last; whether there is one."""
        state = self.loop.read_state()
        if state is None:
            return False
        with resuming(self.folder):
            self.round, self.step = int(state["round"]), int(state["step"])
            self.student.model.load_state_dict(state["student"])
        self._begin_round()
        self.loop.load_state(state)
        log.info("resumed after round %d, step %d", self.round + 1, self.step)
        return True
