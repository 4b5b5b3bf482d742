"""How many images a training shows, how often, and at which size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from ltcam_cli.classifier.config import TrainerConfig
from ltcam_cli.data.sample import Sample

ENOUGH = 4000  # images that a network with pre-trained weights is shown
LEAST = 32  # pixels of a side, which the networks halve five times


def count_defective(samples: Sequence[Sample]) -> int:
    """Number of defective images."""
    return sum(bool(sample.label) for sample in samples)


def images_per_epoch(trainer: TrainerConfig, samples: Sequence[Sample]) -> int:
    """Images of an epoch; where that is not set, four times those of the rarer class."""
    defective = count_defective(samples)
    return trainer.images_per_epoch or 4 * min(defective, len(samples) - defective)


def with_epochs(
    trainer: TrainerConfig, samples: Sequence[Sample], pretrained: bool
) -> TrainerConfig:
    """The trainer with a number of epochs; see `TrainerConfig`."""
    if trainer.epochs is not None:
        return trainer
    enough = math.ceil(ENOUGH / images_per_epoch(trainer, samples))
    return replace(trainer, epochs=min(20, max(4, enough)) if pretrained else 20)


def shown_sizes(trainer: TrainerConfig, size: tuple[int, int]) -> list[tuple[int, int]]:
    """Height and width at which each epoch shows images; see `TrainerConfig.progressive`.

    Progressive resizing: small images at first (Howard, fastai 2018; Tan and Le 2021).
    """
    assert trainer.epochs is not None
    height, width = (min(side, max(LEAST, round(trainer.progressive * side))) for side in size)
    small = trainer.epochs // 2
    return [(height, width)] * small + [size] * (trainer.epochs - small)
