"""Curves and pictures of a training in TensorBoard, MLflow or Weights & Biases."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ltcam_cli.classifier.checkpoint import Classifier
from ltcam_cli.classifier.guidance import saliency
from ltcam_cli.data.batches import Images, Item
from ltcam_cli.errors import require

PICTURES = 4  # training images that are shown
PROJECT = "ltcam"


class Logger(ABC):
    """Where the rows of a training's history and its pictures go."""

    @abstractmethod
    def scalars(self, step: int, row: Mapping[str, float]) -> None:
        """Log a row of the history, whose number is the step."""

    @abstractmethod
    def picture(self, name: str, pixels: np.ndarray) -> None:
        """Log a picture (H, W, 3) uint8."""

    @abstractmethod
    def close(self, finished: bool) -> None:
        """End the run; `finished` is False after an error."""


class TensorBoard(Logger):
    """Event files in `tensorboard/` of the training's folder."""

    def __init__(self, folder: Path) -> None:
        require("tensorboard", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(str(folder / "tensorboard"))

    def scalars(self, step: int, row: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        for key, value in row.items():
            self.writer.add_scalar(key, value, step)
        self.writer.flush()

    def picture(self, name: str, pixels: np.ndarray) -> None:
        """Add the picture."""
        self.writer.add_image(name, pixels, dataformats="HWC")

    def close(self, finished: bool) -> None:
        """End what was begun."""
        self.writer.close()


class Mlflow(Logger):
    """A run of MLflow's experiment `ltcam`.

    Where `MLFLOW_TRACKING_URI` says, or else in `mlflow/` of the training's folder.
    """

    def __init__(self, folder: Path) -> None:
        mlflow = require("mlflow", "mlflow")
        own = None if os.environ.get("MLFLOW_TRACKING_URI") else (folder / "mlflow").resolve()
        if own:  # the store of files needs no database
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        self.client = mlflow.MlflowClient(own.as_uri() if own else None)
        experiment = self.client.get_experiment_by_name(PROJECT)
        number = experiment.experiment_id if experiment else self.client.create_experiment(PROJECT)
        self.run = self.client.create_run(number, run_name=_name(folder)).info.run_id

    def scalars(self, step: int, row: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        for key, value in row.items():
            self.client.log_metric(self.run, key, value, step=step)

    def picture(self, name: str, pixels: np.ndarray) -> None:
        """Add the picture."""
        self.client.log_image(self.run, pixels, artifact_file=f"{name}.png")

    def close(self, finished: bool) -> None:
        """End what was begun."""
        self.client.set_terminated(self.run, "FINISHED" if finished else "FAILED")


class WandB(Logger):
    """A run of the project `ltcam`; `WANDB_MODE=offline` keeps it in the training's folder."""

    def __init__(self, folder: Path) -> None:
        self.wandb: Any = require("wandb", "wandb")
        self.run = self.wandb.init(project=PROJECT, name=_name(folder), dir=str(folder))
        self.run.define_metric("*", step_metric="row")

    def scalars(self, step: int, row: Mapping[str, float]) -> None:
        """Add a point to each curve."""
        self.run.log({**row, "row": step})

    def picture(self, name: str, pixels: np.ndarray) -> None:
        """Add the picture."""
        self.run.log({name: self.wandb.Image(pixels)})

    def close(self, finished: bool) -> None:
        """End what was begun."""
        self.run.finish(exit_code=int(not finished))


LOGGERS: dict[str, Callable[[Path], Logger]] = {
    "tensorboard": TensorBoard,
    "mlflow": Mlflow,
    "wandb": WandB,
}


@contextmanager
def logger_of(kind: str | None, folder: Path) -> Iterator[Logger | None]:
    """Logger of a training in a folder, open while the block runs; None: no logger.

    Raises:
        LtcamError: If its package is missing.
    """
    logger = None if kind is None else LOGGERS[kind](folder)
    finished = False
    try:
        yield logger
        finished = True
    finally:
        if logger is not None:
            logger.close(finished)


def log_overlays(logger: Logger | None, classifier: Classifier, images: Images) -> None:
    """Show Grad-CAM of the last stage on the first defective images; the model is in eval mode."""
    if logger is None:
        return
    classifier.model.eval()
    for item in first_defective(images):
        pixels = item.image[None]
        _, maps = saliency(classifier, classifier.prepare(pixels))
        logger.picture(f"overlays/{item.sample.name}", overlay(item.image, maps[0]))


def overlay(image: Tensor, heatmap: Tensor) -> np.ndarray:
    """An image and beside it the same with its heatmap in red: (H, 2W, 3) uint8.

    Args:
        image: (C, H, W) in [0, 1], C = 1 or 3.
        heatmap: (h, w) in [0, 1].
    """
    shown = image.cpu().expand(3, -1, -1)
    heat = heatmap.detach().float().cpu()[None, None]
    heat = F.interpolate(heat, shown.shape[1:], mode="bilinear", align_corners=False)[0] / 2
    red = torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    both = torch.cat([shown, shown * (1 - heat) + red * heat], dim=2)
    return (both * 255).round().byte().permute(1, 2, 0).numpy()


def first_defective(images: Images) -> list[Item]:
    """The first defective images that can be read."""
    numbers = [n for n, sample in enumerate(images.samples) if sample.label == 1][:PICTURES]
    return images.readable(numbers)


def _name(folder: Path) -> str:
    """Name of a run: those of the training's folder and of the one above."""
    return "-".join(folder.resolve().parts[-2:])
