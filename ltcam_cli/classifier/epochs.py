"""How many images a training shows, and how often."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from ltcam_cli.classifier.config import TrainerConfig
from ltcam_cli.data.sample import Sample

ENOUGH = 4000  # images that a network with pre-trained weights is shown


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
