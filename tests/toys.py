"""Toy data: grey noise in which a bright square is the defect. And tiny classifiers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ltcam_cli.classifier.backbones import build_classifier
from ltcam_cli.classifier.checkpoint import Classifier
from ltcam_cli.classifier.config import BackboneConfig
from ltcam_cli.data.sample import Sample
from ltcam_cli.data.split import Split
from ltcam_cli.data.synthetic import Synthetic
from ltcam_cli.errors import LtcamError

torch.set_num_threads(1)

SLIM = BackboneConfig("vgg16_slim", head="avg", hidden=16, weights=None)
TOYS = Synthetic(height=32, width=32)


def square(number: int, defective: bool, size: tuple[int, int] = (40, 36)) -> np.ndarray:
    """(H, W) bool: where the square of this picture is."""
    mask = np.zeros(size, dtype=bool)
    if defective:
        side = min(size) // 3
        top, left = np.random.default_rng([1, number]).integers(0, np.subtract(size, side))
        mask[top : top + side, left : left + side] = True
    return mask


def picture(number: int, defective: bool, size: tuple[int, int] = (40, 36)) -> np.ndarray:
    """(H, W) uint8."""
    noise = np.random.default_rng([2, number]).integers(60, 100, size)
    return np.where(square(number, defective, size), noise + 120, noise).astype(np.uint8)


def toy(
    number: int, label: int, size: tuple[int, int] = (40, 36), *, group: str | None = None
) -> Sample:
    """One picture, made when read; can be sent to a loading process."""
    return Sample(
        name=f"toy{number:03d}",
        group=group or f"item{number:03d}",
        label=label,
        read_image=partial(picture, number, bool(label), size),
        read_mask=partial(square, number, bool(label), size),
    )


def toys(count: int, start: int = 0, size: tuple[int, int] = (40, 36)) -> list[Sample]:
    """Every third one is defective."""
    return [toy(n, int(n % 3 == 0), size) for n in range(start, start + count)]


def toy_split(train: int = 18, test: int = 6) -> Split:
    return Split(toys(train), toys(test, start=300))


def tiny_classifier(
    backbone: BackboneConfig = SLIM, channels: int = 1, size: tuple[int, int] = (32, 32)
) -> Classifier:
    """Random weights, always the same; batch norms have seen some noise."""
    torch.manual_seed(0)
    model = build_classifier(backbone, channels)
    with torch.no_grad():
        for _ in range(20):
            model(torch.randn(4, channels, *size))
    model.to(memory_format=torch.channels_last)
    return Classifier(
        model.eval(), backbone, channels, *size, mean=(0.5,) * channels, std=(0.25,) * channels
    )


def write_images(samples: Sequence[Sample], folder: Path) -> None:
    """One PNG a sample, called by its name."""
    folder.mkdir(parents=True, exist_ok=True)
    for sample in samples:
        Image.fromarray(sample.image).save(folder / f"{sample.name}.png")


def fault(call: Callable[[], Any]) -> str:
    """The one line that a call fails with.

    Unlike `pytest.raises` it lets go of the error, and so of any loading processes.
    """
    try:
        call()
    except LtcamError as error:
        message = str(error)
        assert "\n" not in message
        return message
    raise AssertionError("no LtcamError")
