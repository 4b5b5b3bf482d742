"""What a training image may look like as well, and in which order images come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Sampler
from torchvision.transforms import v2


@dataclass
class AugmentConfig:
    """Random changes of training images.

    Attributes:
        flip_horizontal, flip_vertical: mirror with probability 1/2.
        shift: greatest translation, as a share of height and width.
        brightness, contrast: greatest relative change.
        gamma: greatest change of the exponent, as in x^(1 ± gamma).
    """

    flip_horizontal: bool = True
    flip_vertical: bool = True
    shift: float = 0.05
    brightness: float = 0.15
    contrast: float = 0.15
    gamma: float = 0.1


class Gamma(nn.Module):
    """x -> x^e with e drawn from [1 - gamma, 1 + gamma]."""

    def __init__(self, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, image: Tensor) -> Tensor:
        """Change one image (C, H, W) in [0, 1]."""
        exponent = 1 + self.gamma * (2 * torch.rand(1).item() - 1)
        return image.clamp(0, 1) ** exponent


def augmentation(config: AugmentConfig) -> v2.Compose:
    """Maps an image (C, H, W) in [0, 1] to a changed one; draws from torch's global generator."""
    steps: list[nn.Module] = []
    if config.flip_horizontal:
        steps.append(v2.RandomHorizontalFlip())
    if config.flip_vertical:
        steps.append(v2.RandomVerticalFlip())
    if config.shift:
        steps.append(RandomShift(config.shift))
    if config.brightness or config.contrast:
        steps.append(v2.ColorJitter(brightness=config.brightness, contrast=config.contrast))
    if config.gamma:
        steps.append(Gamma(config.gamma))
    return v2.Compose(steps or [nn.Identity()])


class RandomShift(nn.Module):
    """Translate by whole pixels; what enters is the mirrored border, which looks like surface."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, image: Tensor) -> Tensor:
        """Shift one image (C, H, W)."""
        for axis in (1, 2):
            reach = int(self.share * image.shape[axis])
            step = int(torch.randint(-reach, reach + 1, (1,)).item()) if reach else 0
            if step:
                border = image.narrow(axis, 0 if step > 0 else image.shape[axis] + step, abs(step))
                kept = image.narrow(axis, 0 if step > 0 else -step, image.shape[axis] - abs(step))
                parts = [border.flip(axis), kept] if step > 0 else [kept, border.flip(axis)]
                image = torch.cat(parts, dim=axis)
        return image


class CutMix:
    """A box of each image is replaced by that of its neighbour in the batch (Yun et al. 2019).

    In a balanced batch the neighbour is of the other class. The label becomes the share of the
    area that is the defective image's. That is the authors' rule for objects that fill an image; of
    a small defect it is a noisy label, since the box may hold all of it, or nothing.
    """

    def __init__(self, probability: float) -> None:
        """Of a batch to be mixed."""
        self.probability = probability
        self.mix = v2.CutMix(num_classes=2)

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) and labels (N,), 0 or 1, which become floats where they are mixed.

        Draws from torch's global generator, if there is a probability at all.
        """
        if not self.probability or torch.rand(()) >= self.probability:
            return images, labels
        images, shares = self.mix(images, labels)
        return images, shares[:, 1]


class BalancedOrder(Sampler[tuple[int, int]]):
    """Indices of one epoch, alternating between defective and good images, each with a seed.

    The order and the seeds follow from (seed, epoch) alone: an epoch that is run again after a
    crash is the same epoch.
    """

    def __init__(self, labels: Sequence[int], count: int, seed: int) -> None:
        self.classes = [np.flatnonzero(np.equal(labels, label)) for label in (1, 0)]
        self.count = count
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        draws = []
        for indices in self.classes:
            rounds = -(-self.count // 2 // len(indices)) + 1
            draws.append(np.concatenate([rng.permutation(indices) for _ in range(rounds)]))
        for position in range(self.count):
            index = draws[position % 2][position // 2]
            yield int(index), int(rng.integers(2**31))
