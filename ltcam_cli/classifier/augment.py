"""Random changes of training images, and the order in which images come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Sampler
from torchvision.transforms import v2

from ltcam_cli.classifier.config import AugmentConfig
from ltcam_cli.data.batches import Batch


class Gamma(nn.Module):
    """Map x to x^e, e drawn from [1 - gamma, 1 + gamma]."""

    def __init__(self, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, image: Tensor) -> Tensor:
        """Change one image (C, H, W) in [0, 1]."""
        exponent = 1 + self.gamma * (2 * torch.rand(1).item() - 1)
        return image.clamp(0, 1) ** exponent


def augmentation(config: AugmentConfig) -> v2.Compose:
    """Random change of an image (C, H, W) in [0, 1], drawn from torch's global generator."""
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
    """Translation by whole pixels; what enters is the mirrored border, which looks like surface."""

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
                rest = image.narrow(axis, 0 if step > 0 else -step, image.shape[axis] - abs(step))
                parts = [border.flip(axis), rest] if step > 0 else [rest, border.flip(axis)]
                image = torch.cat(parts, dim=axis)
        return image


def resized(batch: Batch, size: tuple[int, int]) -> Batch:
    """A batch with its images at a height and width, by antialiased bilinear interpolation."""
    if batch.images.shape[2:] == size:
        return batch
    return replace(batch, images=F.interpolate(batch.images, size, mode="bilinear", antialias=True))


class CutMix:
    """Replacement of a box of each image by its neighbour's in the batch (Yun et al. 2019).

    In a balanced batch the neighbour is of the other class. The label becomes the share of the
    area that is the defective image's. That is the authors' rule for objects that fill an image; of
    a small defect it is a noisy label, since the box may hold all of it, or nothing.
    """

    def __init__(self, probability: float) -> None:
        """Mix a batch with this probability."""
        self.probability = probability
        self.mix = v2.CutMix(num_classes=2)

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mix images (N, C, H, W) and labels (N,), 0 or 1; labels that are mixed become floats.

        Draws from torch's global generator unless the probability is 0.
        """
        if not self.probability or torch.rand(()) >= self.probability:
            return images, labels
        images, shares = self.mix(images, labels)
        return images, shares[:, 1]


class BalancedOrder(Sampler[tuple[int, int]]):
    """Indices of one epoch, alternating between defective and good images, each with a seed.

    Order and seeds follow from (seed, epoch) alone: an epoch that is repeated after a crash is the
    same epoch.
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
