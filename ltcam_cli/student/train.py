"""Training of the student: labels from maps, a round of steps, labels from the student, …"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ltcam_cli.classifier.checkpoint import Classifier
from ltcam_cli.classifier.progress import read_progress, save_progress
from ltcam_cli.classifier.tensors import read_tensors
from ltcam_cli.classifier.train import duration
from ltcam_cli.data.batches import Images, Item, ahead
from ltcam_cli.data.sample import Sample
from ltcam_cli.data.split import check_classes
from ltcam_cli.errors import LtcamError
from ltcam_cli.files import atomic
from ltcam_cli.student.checkpoint import Student
from ltcam_cli.student.crops import CropConfig, Crops
from ltcam_cli.student.labels import (
    DEFECT,
    IGNORED,
    LabelConfig,
    draw_labels,
    first_labels,
    next_labels,
)
from ltcam_cli.student.loss import LossConfig, loss_of
from ltcam_cli.student.network import NetworkConfig, build_network

log = logging.getLogger(__name__)
Labels = dict[str, np.ndarray]
Drawn = Callable[[Sequence[Sample]], Iterable[tuple[str, np.ndarray, np.ndarray]]]


@dataclass
class StudentConfig:
    """How the student is trained (conf/student/*.yaml).

    Attributes:
        name: begins its folder's name.
        network: what is trained.
        height, width: of the images that it sees; None: the classifier's.
        rounds: of training; each but the first has the last one's predictions as labels.
        restart: a later round begins with new weights.
        steps: of each round.
        every: steps from one line of the history, and one state to resume from, to the next.
        batch_size: crops of one step.
        crops: which.
        lr: highest learning rate, of one cycle a round.
        weight_decay: of AdamW.
        loss: what is minimised.
        ema: decay of the running mean of the weights, which is kept; 0: the weights themselves.
        clip: greatest norm of the gradient; None for no limit.
        overlays: pictures of labels a round; None for all.
        labels: when a pixel has one.
    """

    name: str = "fpn_slim"
    network: NetworkConfig = field(default_factory=NetworkConfig)
    height: int | None = None
    width: int | None = None
    rounds: int = 1
    restart: bool = True
    steps: int = 300
    every: int = 50
    batch_size: int = 8
    crops: CropConfig = field(default_factory=CropConfig)
    lr: float = 3e-3
    weight_decay: float = 0.01
    loss: LossConfig = field(default_factory=LossConfig)
    ema: float = 0.98
    clip: float | None = 1.0
    overlays: int | None = 20
    labels: LabelConfig = field(default_factory=LabelConfig)

    def __post_init__(self) -> None:
        if Path(self.name).name != self.name:
            raise LtcamError(f"student.name={self.name}: begins a folder's name; leave out the /")
        for key in ("rounds", "steps", "every", "batch_size"):
            if getattr(self, key) < 1:
                raise LtcamError(f"student.{key}={getattr(self, key)}: must be at least 1")
        for key in ("height", "width"):
            if (value := getattr(self, key)) is not None and value < 16:
                raise LtcamError(f"student.{key}={value}: must be at least 16, or null")
        if not 0 <= self.ema < 1:
            raise LtcamError(f"student.ema={self.ema:g}: must lie in [0, 1)")
        if self.lr <= 0:
            raise LtcamError(f"student.lr={self.lr:g}: must be above 0")


def train_student(
    folder: Path,
    classifier: Classifier,
    digest: str,
    samples: Sequence[Sample],
    drawn: Drawn,
    config: StudentConfig,
    *,
    seed: int,
    device: torch.device,
    resume: bool = False,
    on_error: str = "raise",
) -> dict[str, float]:
    """Train a student on images and their image labels; no mask is read.

    Writes `checkpoint.pt`, `history.csv`, `labels/`, and every `config.every` steps `last.pt`, from
    which `resume` goes on to the same weights as if it had never stopped (on CPU).

    Args:
        folder: of the files, exists.
        classifier: gives the normalisation, and with `encoder=classifier` the encoder.
        digest: SHA-256 of the classifier's checkpoint.
        samples: training images with image labels.
        drawn: gives of defective images name, heatmap (H, W) and mask (H, W) bool, for the first
            labels; called once, and not when they are resumed from.

    Returns:
        The last line of the history, with all `seconds`.

    Raises:
        LtcamError: if a class is missing, no pixel is labelled as defect, or the loss is no number.
    """
    check_classes(list(samples), "training")
    loop = _Loop(folder, classifier, digest, samples, config, seed, device, on_error)
    if resume:
        loop.resume()
    loop.run(drawn)
    loop.student.save(folder / "checkpoint.pt")
    seconds = sum(row["seconds"] for row in loop.history)
    return loop.history[-1] | {"seconds": seconds}


class _Loop:
    """The rounds of one training, and what must be kept to go on with them."""

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
        self.samples, self.seed, self.device = samples, seed, device
        height, width = config.height or classifier.height, config.width or classifier.width
        self.images = Images(
            samples, height, width, classifier.in_channels, cache=True, on_error=on_error
        )
        self.size = (height, width)
        self.readable = [
            number
            for number in range(len(samples))
            if on_error != "skip" or isinstance(self.images[number], Item)
        ]
        self.student = Student(
            self._new_network(0),
            config.network,
            classifier.backbone,
            classifier.in_channels,
            height,
            width,
            digest,
        )
        self.history: list[dict[str, float]] = []
        self.round, self.step = 0, 0
        self._begin_round()

    def _new_network(self, round_: int) -> Any:
        torch.manual_seed(int(np.random.default_rng([self.seed, round_, 1]).integers(2**31)))
        network = build_network(
            self.config.network,
            self.classifier.in_channels,
            self.classifier.backbone,
            self.classifier.model.state_dict(),
        )
        return network.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _begin_round(self) -> None:
        """Weights, their mean, optimizer and schedule of the round's first step."""
        if self.round and not self.config.restart:
            self.model = copy.deepcopy(self.student.model)
        else:
            self.model = self._new_network(self.round)
        config = self.config
        self.mean = AveragedModel(
            self.model, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True
        )
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), config.lr, weight_decay=config.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, config.lr, total_steps=config.steps + 1
        )

    def run(self, drawn: Drawn) -> None:
        config = self.config
        total = config.rounds * config.steps
        done = self.round * config.steps + self.step
        with (
            logging_redirect_tqdm(),
            tqdm(total=total, initial=done, desc="student", unit="batch",
                 dynamic_ncols=True, disable=None) as bar,
        ):  # fmt: skip
            started, first = time.perf_counter(), done
            while self.round < config.rounds:
                labels = self._labels(self.round, drawn)
                told = self._statistics(labels)
                crops = Crops(
                    self.images, self.readable, labels, config.crops, config.batch_size,
                    [self.seed, self.round],
                )  # fmt: skip
                if not first and not self.step:
                    started = time.perf_counter()  # not the maps' time
                for loss in self._steps(crops, told):
                    bar.set_postfix(
                        round=f"{self.round + 1}/{config.rounds}", loss=f"{loss:.4f}", refresh=False
                    )
                    bar.update()
                    done += 1
                    if done - first == 10:
                        left = (time.perf_counter() - started) / 10 * (total - done)
                        log.info("about %s left on %s", duration(left), self.device.type)
                self._keep()
                self.round, self.step = self.round + 1, 0
                if self.round < config.rounds:
                    self._begin_round()

    def _keep(self) -> None:
        """Make the round's result the student."""
        source = self.mean.module if self.config.ema else self.model
        self.student.model.load_state_dict(source.state_dict())
        self.student.model.eval()

    def _steps(self, crops: Crops, told: dict[str, float]) -> Iterator[float]:
        """Train to the round's end; a line of history and a state every few steps."""
        self.model.train()
        losses: list[float] = []
        tic = time.perf_counter()
        for images, labels in ahead(crops.batches(self.step, self.config.steps)):
            loss = self._one(images, labels)
            losses.append(loss)
            self.step += 1
            if self.step % self.config.every == 0 or self.step == self.config.steps:
                seconds = time.perf_counter() - tic
                row: dict[str, float] = {
                    "round": self.round + 1,
                    "step": self.step,
                    "loss": float(np.mean(losses)),
                    "lr": float(self.schedule.get_last_lr()[0]),
                    **told,
                    "images_per_second": len(losses) * self.config.batch_size / seconds,
                    "seconds": seconds,
                }
                self.history.append(row)
                self._save()
                log.info("round %d, step %d: loss %.4f", row["round"], self.step, row["loss"])
                losses, tic = [], time.perf_counter()
            yield loss

    def _one(self, images: Tensor, labels: Tensor) -> float:
        logits = self.model(self.classifier.prepare(images))
        loss = loss_of(logits, labels.to(self.device), self.config.loss)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise LtcamError(
                f"the loss is {value} in round {self.round + 1}, step {self.step + 1}: "
                f"lower student.lr (now {self.config.lr:g})"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.config.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.optimizer.step()
        self.schedule.step()
        if self.config.ema:
            self.mean.update_parameters(self.model)
        return value

    # Labels

    def _place(self, round_: int) -> Path:
        return self.folder / "labels" / f"round{round_ + 1}"

    def _labels(self, round_: int, drawn: Drawn) -> Labels:
        """The labels of a round, by the names of defective images; made where they are not kept."""
        path = self._place(round_).with_suffix(".pt")
        if path.is_file():
            held = read_tensors(path, "delete the student's folder and train it anew")
            return {name: labels.numpy() for name, labels in held.items()}
        labels = self._first(drawn) if round_ == 0 else self._next(round_, drawn)
        if not any((each == DEFECT).any() for each in labels.values()):
            raise LtcamError(
                "no pixel of a training image is labelled as defect: their masks are empty, or "
                "thinner than half a pixel at the student's size; choose another --method or "
                "--segmenter, or a larger student.height and student.width"
            )
        self._draw(labels, self._place(round_))
        with atomic(path) as temporary:
            torch.save({name: torch.from_numpy(each) for name, each in labels.items()}, temporary)
        return labels

    def _first(self, drawn: Drawn) -> Labels:
        defective = [self.samples[number] for number in self.readable
                     if self.samples[number].label]  # fmt: skip
        return {
            name: first_labels(heatmap, mask, self.size, self.config.labels)
            for name, heatmap, mask in drawn(defective)
        }

    def _next(self, round_: int, drawn: Drawn) -> Labels:
        first, before = self._labels(0, drawn), self._labels(round_ - 1, drawn)
        labels = {}
        for number, name in self._defective():
            item = self.images[number]
            assert isinstance(item, Item)
            with torch.inference_mode():
                given = self.classifier.prepare(item.image[None])
                probability = self.student.probability(given)[0].float().cpu().numpy()
            labels[name] = next_labels(probability, before[name], first[name], self.config.labels)
        return labels

    def _defective(self) -> list[tuple[int, str]]:
        return [(n, self.samples[n].name) for n in self.readable if self.samples[n].label]

    def _statistics(self, labels: Labels) -> dict[str, float]:
        """Of the labels of defective images: shares of pixels, and of those changed last."""
        stack = np.stack(list(labels.values()))
        path = self._place(self.round - 1).with_suffix(".pt")
        change = float("nan")
        if self.round:
            before = read_tensors(path, "delete the student's folder and train it anew")
            change = float(
                np.mean([(each != before[n].numpy()).mean() for n, each in labels.items()])
            )
        return {
            "defect_share": float((stack == DEFECT).mean()),
            "ignored_share": float((stack == IGNORED).mean()),
            "without_defect": int((~(stack == DEFECT).any(axis=(1, 2))).sum()),
            "change": change,
        }

    def _draw(self, labels: Labels, folder: Path) -> None:
        for number, name in self._defective()[: self.config.overlays]:
            item = self.images[number]
            assert isinstance(item, Item)
            pixels = (item.image * 255).byte().permute(1, 2, 0).numpy()
            image = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
            draw_labels(image, labels[name], folder / f"{name.replace('/', '_')}.png")

    # Resuming

    def _save(self) -> None:
        state = {
            "round": self.round,
            "step": self.step,
            "model": self.model.state_dict(),
            "mean": self.mean.state_dict(),
            "student": self.student.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "history": self.history,
        }
        save_progress(self.folder, state)

    def resume(self) -> None:
        state = read_progress(self.folder, self.device)
        if state is None:
            return
        self.round, self.step = state["round"], state["step"]
        self.student.model.load_state_dict(state["student"])
        self._begin_round()
        self.model.load_state_dict(state["model"])
        self.mean.load_state_dict(state["mean"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.history = state["history"]
        log.info("resumed after round %d, step %d", self.round + 1, self.step)
