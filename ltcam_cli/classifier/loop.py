"""Training loop of classifier and student: steps, progress, history, and a state to resume from."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.contrib.logging import logging_redirect_tqdm

from ltcam_cli.classifier.config import TrainerConfig
from ltcam_cli.classifier.loggers import Logger, logger_of
from ltcam_cli.classifier.progress import read_progress, resuming, save_progress
from ltcam_cli.errors import LtcamError
from ltcam_cli.progress import Progress, duration

log = logging.getLogger(__name__)
T = TypeVar("T")

ETA_STEPS = 10  # steps after which the remaining time is estimated


class FitResult(NamedTuple):
    """Figures of some steps: mean loss, last learning rate, speed and duration."""

    loss: float
    lr: float
    images_per_second: float
    seconds: float


class TrainingLoop:
    """Optimisation of one network after another, each from batches and a loss.

    Attributes:
        model, optimizer, schedule: What is trained, set by `begin`.
        ema: Exponential moving average of the model (Polyak and Juditsky 1992), or None.
        history: Rows of `history.csv`.
        logger: Open logger during `progress`, if one is asked for.
    """

    model: nn.Module
    optimizer: Optimizer
    schedule: LRScheduler
    ema: AveragedModel | None
    logger: Logger | None

    def __init__(
        self,
        folder: Path,
        name: str,
        device: torch.device,
        *,
        total_steps: int,
        batch_size: int,
        clip: float | None,
        pixels: Sequence[int] = (),
        autocast_dtype: torch.dtype | None = None,
        hint: str = "",
        logger: str | None = None,
    ) -> None:
        """Prepare a training that is kept in a folder.

        Args:
            folder: Directory of `last.pt` and `history.csv`; must exist.
            name: Config key of the training, `trainer` or `student`.
            device: Device of the model.
            total_steps: Steps of the whole training.
            batch_size: Images of a step.
            clip: Greatest norm of the gradient; None: no limit.
            pixels: Pixels of an image in each step, which the remaining time is estimated from;
                none: all steps are alike.
            autocast_dtype: Type of 16 bits of mixed precision; None: float32.
            hint: Advice that follows the remaining time.
            logger: Kind of logger that the history goes to, too; None: none.
        """
        self.folder, self.name, self.device = folder, name, device
        self.total_steps, self.batch_size, self.clip, self.hint = (
            total_steps,
            batch_size,
            clip,
            hint,
        )
        self.autocast_dtype, self._pixels = autocast_dtype, pixels or [1] * total_steps
        self.logger_kind, self.logger = logger, None
        self.scaler = torch.amp.GradScaler(enabled=autocast_dtype == torch.float16)
        self.history: list[dict[str, float]] = []
        self._progress = Progress("training", total_steps, shown=False)
        self._first = self._done = 0  # steps before this process, and in it
        self._started: float | None = None

    def begin(
        self, model: nn.Module, optimizer: Optimizer, schedule: LRScheduler, ema: float = 0.0
    ) -> None:
        """Set what is trained from now on; `ema` is the decay of the average, 0: no average."""
        self.model, self.optimizer, self.schedule = model, optimizer, schedule
        average = get_ema_multi_avg_fn(ema)
        self.ema = AveragedModel(model, multi_avg_fn=average, use_buffers=True) if ema else None

    @property
    def averaged_model(self) -> nn.Module:
        """Exponential moving average of the model; the model itself without one."""
        return self.model if self.ema is None else self.ema.module

    @property
    def seconds(self) -> float:
        """Duration of all steps, those before a resumption included."""
        return sum(row["seconds"] for row in self.history)

    @property
    def highest_lr(self) -> float:
        """Highest learning rate of the schedule."""
        [group] = self.optimizer.param_groups
        return float(group.get("max_lr", group["initial_lr"]))  # of one cycle, or of another

    @contextmanager
    def progress(self, done: int) -> Iterator[None]:
        """Show a progress bar, beginning at `done` steps, while the block runs."""
        self._first, self._done, self._started = done, 0, None
        with (
            logging_redirect_tqdm(),
            Progress("training", self.total_steps, "step", done=done) as self._progress,
            logger_of(self.logger_kind, self.folder) as self.logger,
        ):
            yield

    def fit(
        self, batches: Iterable[T], loss: Callable[[T], Tensor], where: str, first_step: int = 0
    ) -> FitResult:
        """Take one step for each batch.

        Args:
            batches: Batches, e.g. of an epoch.
            loss: Function from a batch to the loss; runs under autocast.
            where: Place in the training, e.g. `epoch 3`, for messages.
            first_step: Number of steps before, at this place.

        Raises:
            LtcamError: if there is no batch, or if the loss or a weight is no finite number.
        """
        start = time.perf_counter()
        self._started = start if self._started is None else self._started
        losses: list[float] = []
        for batch in batches:
            value = self._step(batch, loss)
            if not math.isfinite(value):
                step = first_step + len(losses) + 1
                raise self._divergence(f"the loss is {value} in {where}, step {step}")
            losses.append(value)
            self._report(where, losses)
        if not losses:
            raise LtcamError("none of the training images could be read")
        if not all(bool(value.isfinite().all()) for value in self.model.state_dict().values()):
            raise self._divergence(f"a weight is no finite number in {where}")
        seconds = time.perf_counter() - start
        speed = len(losses) * self.batch_size / seconds
        return FitResult(float(np.mean(losses)), self._lr(), speed, seconds)

    def record(self, row: dict[str, float], **state: Any) -> None:
        """Append a row to the history, and save the state, with more of the caller's, to resume."""
        self.history.append(row)
        states = {name: part.state_dict() for name, part in self._parts().items()}
        save_progress(self.folder, states | {"history": self.history} | state)
        if self.logger is not None:
            self.logger.scalars(len(self.history), row)

    def read_state(self) -> dict[str, Any] | None:
        """State that `record` saved last; None if there is none."""
        return read_progress(self.folder, self.device)

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a state of `record`; `begin` must have set the same kind of model."""
        with resuming(self.folder):
            for name, part in self._parts().items():
                part.load_state_dict(state[name])
            self.history = [dict(row) for row in state["history"]]

    def _parts(self) -> dict[str, Any]:
        names = ("model", "optimizer", "schedule", "scaler", "ema")
        return {name: part for name in names if (part := getattr(self, name)) is not None}

    def _step(self, batch: T, loss: Callable[[T], Tensor]) -> float:
        with torch.autocast(
            self.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None
        ):
            tensor = loss(batch)
        value = float(tensor.detach())
        if not math.isfinite(value):
            return value
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(tensor).backward()
        if self.clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        if self.ema is not None:
            self.ema.update_parameters(self.model)
        return value

    def _report(self, where: str, losses: list[float]) -> None:
        """Advance the bar; after ten steps log the remaining time."""
        text = f"{where}, loss={np.mean(losses[-10:]):.4f}, lr={self._lr():.2g}"
        self._progress.update(text=text)
        self._done += 1
        if self._done == ETA_STEPS and self._started is not None:
            ahead = self._first + ETA_STEPS
            left = sum(self._pixels[ahead:]) / sum(self._pixels[self._first : ahead])
            self._log_remaining((time.perf_counter() - self._started) * left)

    def _log_remaining(self, seconds: float) -> None:
        log.info("about %s left on %s%s", duration(seconds), self.device.type, self.hint)

    def _lr(self) -> float:
        return float(self.schedule.get_last_lr()[0])

    def _divergence(self, fault: str) -> LtcamError:
        saved = "; the last finite weights are in last.pt" if self.history else ""
        return LtcamError(f"{fault}: lower {self.name}.lr (now {self.highest_lr:g}){saved}")


def one_cycle(optimizer: Optimizer, lr: float, steps: int) -> OneCycleLR:
    """Learning rates of one cycle up to `lr` (Smith and Topin 2019)."""
    return OneCycleLR(optimizer, lr, total_steps=steps + 1)


def cosine(optimizer: Optimizer, lr: float, steps: int) -> CosineAnnealingLR:
    """Learning rates that fall from `lr`, the optimizer's own, to 0 (Loshchilov, Hutter 2017)."""
    return CosineAnnealingLR(optimizer, steps)


def make_optimizer(model: nn.Module, trainer: TrainerConfig, lr: float) -> Optimizer:
    """Optimizer of the parameters that are trained."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if trainer.optimizer == "sgd":
        return SGD(parameters, lr, momentum=0.9, weight_decay=trainer.weight_decay)
    return AdamW(parameters, lr, weight_decay=trainer.weight_decay)
