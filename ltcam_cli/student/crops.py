"""Training images and their labels -> batches of crops."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from ltcam_cli.classifier.augment import AugmentConfig, augmentation
from ltcam_cli.data.batches import Images, Item
from ltcam_cli.errors import LtcamError
from ltcam_cli.student.labels import BACKGROUND, DEFECT, IGNORED


@dataclass
class ChangeConfig:
    """Random changes of crops.

    Attributes:
        flip_horizontal, flip_vertical: mirror with probability 1/2.
        scale: greatest relative change of the window that becomes a crop; it stays in the image.
        brightness, contrast, gamma: see `AugmentConfig`.
    """

    flip_horizontal: bool = True
    flip_vertical: bool = True
    scale: float = 0.1
    brightness: float = 0.15
    contrast: float = 0.15
    gamma: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.scale < 1:
            raise LtcamError(f"student.crops.augment.scale={self.scale:g}: must lie in [0, 1)")


@dataclass
class CropConfig:
    """Which parts of which images make a batch.

    Attributes:
        size: [height, width] of a crop, at most the image's; None: whole images.
        defect_share: of a batch, crops that hold a pixel labelled as defect.
        clean_share: of a batch, crops of clean images; the others are from anywhere.
        augment: random changes.
    """

    size: list[int] | None = field(default_factory=lambda: [256, 256])
    defect_share: float = 0.5
    clean_share: float = 0.5
    augment: ChangeConfig = field(default_factory=ChangeConfig)

    def __post_init__(self) -> None:
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 16):
            raise LtcamError(
                f"student.crops.size={self.size}: must be [height,width], each at least 16, or null"
            )
        shares = (self.defect_share, self.clean_share)
        if min(shares) < 0 or sum(shares) > 1:
            raise LtcamError(
                f"student.crops.defect_share={shares[0]:g}, clean_share={shares[1]:g}: "
                "must not be negative, and together at most 1"
            )


class Crops:
    """Batches of one round. Each follows from the seed and its step alone.

    So a step that is taken again after a crash sees the same crops.
    """

    def __init__(
        self,
        images: Images,
        readable: Sequence[int],
        labels: Mapping[str, np.ndarray],
        config: CropConfig,
        batch_size: int,
        seed: Sequence[int],
    ) -> None:
        """Of images at the student's size.

        Args:
            readable: numbers of the images that count.
            labels: (h, w) of each defective one; all else is background.
            seed: of this round.
        """
        self.images, self.labels = images, labels
        self.config, self.seed = config, list(seed)
        assert images.size is not None
        height, width = images.size
        self.size = (height, width)
        asked = config.size or images.size
        self.crop = (min(asked[0], height), min(asked[1], width))
        named = {number: labels.get(images.samples[number].name) for number in readable}
        self.defects = {
            number: np.flatnonzero(each == DEFECT)
            for number, each in named.items()
            if each is not None and (each == DEFECT).any()
        }
        clean = [number for number in readable if not images.samples[number].label]
        known = [number for number, each in named.items()
                 if each is None or (each != IGNORED).any()]  # fmt: skip
        defective = round(batch_size * config.defect_share)
        spotless = min(round(batch_size * config.clean_share), batch_size - defective)
        self.pools = [list(self.defects)] * defective + [clean] * spotless
        self.pools += [known] * (batch_size - len(self.pools))
        self.centred = defective
        change = config.augment
        self.change = augmentation(
            AugmentConfig(False, False, 0.0, change.brightness, change.contrast, change.gamma)
        )

    def batches(self, start: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Of each step from `start`: crops (N, C, h, w) in [0, 1], and labels (N, h, w) uint8."""
        for step in range(start, stop):
            rng = np.random.default_rng([*self.seed, step])
            pairs = [
                self._pair(int(rng.choice(pool)), place < self.centred, rng)
                for place, pool in enumerate(self.pools)
            ]
            images, labels = zip(*pairs, strict=True)
            yield torch.stack(images), torch.stack(labels)

    def _pair(
        self, number: int, with_defect: bool, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        item = self.images[number]
        assert isinstance(item, Item)
        top, left, height, width = self._window(number if with_defect else None, rng)
        image = item.image[:, top : top + height, left : left + width]
        held = self.labels.get(item.sample.name)
        if held is None:
            label = torch.full((height, width), BACKGROUND, dtype=torch.uint8)
        else:
            label = torch.from_numpy(held[top : top + height, left : left + width].copy())
        if (height, width) != self.crop:
            image = tv.resize(image, list(self.crop), antialias=True)
            label = tv.resize(label[None], list(self.crop), InterpolationMode.NEAREST_EXACT)[0]
        change = self.config.augment
        for axis, wanted in ((-1, change.flip_horizontal), (-2, change.flip_vertical)):
            if wanted and rng.random() < 0.5:
                image, label = image.flip(axis), label.flip(axis)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**31)))
            return self.change(image), label

    def _window(self, number: int | None, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Top, left, height and width of a window, round a defect pixel of that image if given."""
        factor = 1 + self.config.augment.scale * (2 * rng.random() - 1)
        height, width = (
            min(whole, max(1, round(side * factor)))
            for side, whole in zip(self.crop, self.size, strict=True)
        )
        pixel = None
        if number is not None:
            pixel = np.unravel_index(rng.choice(self.defects[number]), self.size)
        corner = []
        for axis, side in enumerate((height, width)):
            low, high = 0, self.size[axis] - side
            if pixel is not None:
                at = int(pixel[axis])
                low, high = max(low, at - side + 1), min(high, at)
            corner.append(int(rng.integers(low, high + 1)))
        return corner[0], corner[1], height, width
