"""Batches of crops from training images and their labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from ltcam_cli.classifier.augment import augmentation
from ltcam_cli.classifier.config import AugmentConfig
from ltcam_cli.data.batches import Images
from ltcam_cli.student.config import CropConfig
from ltcam_cli.student.labels import BACKGROUND, DEFECT, IGNORED
from ltcam_cli.student.synthetic_defects import with_defect


class Crops:
    """Batches of one round, each of which follows from the seed and its step alone.

    So a step that is repeated after a crash sees the same crops.
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
        """Prepare the batches of a round.

        Args:
            images: Images at the student's size.
            readable: Numbers of the images that can be read.
            labels: Labels (h, w) of defective images by name; images without are background.
            config: Size, kinds and random changes of crops.
            batch_size: Crops of a batch.
            seed: Seed of this round.
        """
        self.images, self.labels, self.readable = images, labels, list(readable)
        self.config, self.seed = config, list(seed)
        assert images.size is not None
        height, width = images.size
        self.size = (height, width)
        size = images.size if config.size is None else config.size
        self.crop = (min(size[0], height), min(size[1], width))
        label_of = {number: labels.get(images.samples[number].name) for number in readable}
        self.defects = {
            number: np.flatnonzero(label == DEFECT)
            for number, label in label_of.items()
            if label is not None and (label == DEFECT).any()
        }
        good = [number for number in readable if not images.samples[number].label]
        labelled = [number for number, label in label_of.items()
                    if label is None or (label != IGNORED).any()]  # fmt: skip
        self.with_defect = round(batch_size * config.defect_share)
        of_good = min(round(batch_size * config.good_share), batch_size - self.with_defect)
        self.synthetic = round(of_good * config.synthetic_share)
        self.pools = [list(self.defects)] * self.with_defect + [good] * of_good
        self.pools += [labelled] * (batch_size - len(self.pools))
        change = config.augment
        self.augment = augmentation(
            AugmentConfig(False, False, 0.0, change.brightness, change.contrast, change.gamma)
        )

    def batches(self, start: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Crops (N, C, h, w) in [0, 1] and labels (N, h, w) uint8 of the steps from `start` on."""
        for step in range(start, stop):
            rng = np.random.default_rng([*self.seed, step])
            pairs = [
                self._pair(int(rng.choice(pool)), place, rng)
                for place, pool in enumerate(self.pools)
            ]
            images, labels = zip(*pairs, strict=True)
            yield torch.stack(images), torch.stack(labels)

    def _pair(self, number: int, place: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        item = self.images.item(number)
        top, left, height, width = self._window(number if place < self.with_defect else None, rng)
        image = item.image[:, top : top + height, left : left + width]
        labels = self.labels.get(item.sample.name)
        if labels is None:
            label = torch.full((height, width), BACKGROUND, dtype=torch.uint8)
        else:
            label = torch.from_numpy(labels[top : top + height, left : left + width].copy())
        if (height, width) != self.crop:
            image = tv.resize(image, list(self.crop), antialias=True)
            label = tv.resize(label[None], list(self.crop), InterpolationMode.NEAREST_EXACT)[0]
        if self.with_defect <= place < self.with_defect + self.synthetic:
            image, defect = with_defect(image, self._texture(rng), rng)
            label[torch.from_numpy(defect)] = DEFECT
        change = self.config.augment
        for axis, enabled in ((-1, change.flip_horizontal), (-2, change.flip_vertical)):
            if enabled and rng.random() < 0.5:
                image, label = image.flip(axis), label.flip(axis)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**31)))
            return self.augment(image), label

    def _texture(self, rng: np.random.Generator) -> Tensor:
        """A crop of any image."""
        image = self.images.item(int(rng.choice(self.readable))).image
        corner = [
            int(rng.integers(whole - side + 1))
            for whole, side in zip(self.size, self.crop, strict=True)
        ]
        return tv.crop(image, *corner, *self.crop)

    def _window(self, number: int | None, rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Top, left, height and width of a window, which holds a defect pixel of image `number`."""
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
