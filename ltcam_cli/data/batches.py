"""Batches of images, decoded and resized while the model works on those before."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as tv

from ltcam_cli.data.dataset import Fit
from ltcam_cli.data.geometry import fitted
from ltcam_cli.data.image_files import or_skip
from ltcam_cli.data.mask_files import label_oddities, warn_of
from ltcam_cli.data.sample import Sample
from ltcam_cli.errors import LtcamError

log = logging.getLogger(__name__)
T = TypeVar("T")

CACHE_BYTES = 2 << 30  # more resized images than fit are decoded anew each epoch


@dataclass(frozen=True)
class Item:
    """One loaded sample.

    Attributes:
        sample: the sample.
        image: (C, h, w) float32 in [0, 1], the network's input.
        original: (H, W) or (H, W, 3), its pixels; None if not asked for.
        mask: (H, W) bool; None if there is none or it was not asked for.
    """

    sample: Sample
    image: Tensor
    original: np.ndarray | None = None
    mask: np.ndarray | None = None


@dataclass(frozen=True)
class Batch:
    """Images of one forward pass.

    Attributes:
        images: (N, C, h, w) float32 in [0, 1].
        labels: (N,) int64; -1 unknown.
        items: the loaded samples, with originals (H, W[, 3]) and masks (H, W) where asked for.
        skipped: names of the samples that could not be read.
    """

    images: Tensor
    labels: Tensor
    items: list[Item]
    skipped: list[str]


class Images(Dataset[Item | str]):
    """Samples as network inputs of one size, or each of its own (`height` None), loaded lazily.

    Indexed by a number, or by (number, seed) with the seed of the training augmentation: so the
    order of workers cannot change what is drawn.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        height: int | None,
        width: int | None,
        channels: int,
        *,
        fit: Fit = "stretch",
        originals: bool = False,
        masks: bool = False,
        augment: Callable[[Tensor], Tensor] | None = None,
        cache: bool = False,
        on_error: str = "raise",
        skip_key: str = "dataset.on_error",
    ) -> None:
        self.samples = samples
        self.size = (height, width) if height and width else None
        self.channels, self.fit = channels, fit
        self.originals, self.masks = originals, masks
        self.augment = augment
        self.on_error, self.skip_key = on_error, skip_key
        room = CACHE_BYTES // (height * width * channels) if height and width else 0
        self._cache: dict[int, Tensor] | None = {} if cache and len(samples) <= room else None

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int | tuple[int, int]) -> Item | str:
        """The item, or its name if it cannot be read and `on_error` is `skip`."""
        number, seed = index if isinstance(index, tuple) else (index, None)
        sample = self.samples[number]
        try:
            return self._load(number, sample, seed)
        except LtcamError as error:
            if self.on_error != "skip":
                raise or_skip(error, self.skip_key) from error
            log.warning("skipped: %s", error)
            return sample.name

    def item(self, number: int) -> Item:
        """The item of an image that can be read."""
        item = self[number]
        assert isinstance(item, Item)
        return item

    def readable(self, numbers: Iterable[int]) -> list[Item]:
        """The items of these numbers that can be read."""
        return [item for item in map(self.__getitem__, numbers) if isinstance(item, Item)]

    def _load(self, number: int, sample: Sample, seed: int | None) -> Item:
        cached = self._cache.get(number) if self._cache is not None else None
        pixels = sample.image if cached is None or self.originals else None
        if cached is None:
            assert pixels is not None
            cached = to_channels(pixels, self.channels)
            if self.size is not None:
                cached = fitted(cached, self.size, self.fit)
            if self._cache is not None:
                self._cache[number] = cached
        image = tv.to_dtype(cached, torch.float32, scale=True)
        if self.augment is not None and seed is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                image = self.augment(image)
        mask = sample.mask if self.masks else None
        if mask is not None:
            warn_of(sample.mask_path or sample.name, label_oddities(mask, sample.label))
        if mask is not None and pixels is not None and mask.shape != pixels.shape[:2]:
            raise LtcamError(
                f"{sample.name}: mask of {mask.shape[0]}x{mask.shape[1]} pixels for an image of "
                f"{pixels.shape[0]}x{pixels.shape[1]}; give the mask that belongs to it"
            )
        return Item(sample, image, pixels if self.originals else None, mask)


def to_channels(pixels: np.ndarray, channels: int) -> Tensor:
    """(H, W) or (H, W, 3) as (channels, H, W): grey repeated, or colour as luminance."""
    image = torch.from_numpy(np.array(pixels))  # a copy: Pillow's arrays are read-only
    image = image[None] if image.ndim == 2 else image.permute(2, 0, 1)
    if image.shape[0] == channels:
        return image
    return image.expand(channels, -1, -1) if channels == 3 else tv.rgb_to_grayscale(image)


def collate(loaded: Sequence[Item | str]) -> Batch:
    """Stack what could be loaded; a batch without items if nothing could."""
    items = [item for item in loaded if isinstance(item, Item)]
    skipped = [name for name in loaded if isinstance(name, str)]
    if not items:
        return Batch(torch.empty(0), torch.empty(0, dtype=torch.long), [], skipped)
    labels = [-1 if item.sample.label is None else item.sample.label for item in items]
    return Batch(torch.stack([item.image for item in items]), torch.tensor(labels), items, skipped)


def batches(
    images: Images,
    batch_size: int,
    *,
    workers: int | None = None,
    pin: bool = False,
    order: Any = None,
) -> Iterator[Batch]:
    """Iterate over batches, which are decoded and resized before they are asked for.

    Args:
        images: images to load.
        batch_size: number of images of a batch.
        workers: loading processes; with 0 a thread of this process prefetches one batch. None
            takes `default_workers`.
        pin: whether batches lie in pinned memory, from which GPUs copy without waiting.
        order: a sampler of indices; None: the given order.
    """
    loader = DataLoader(
        images,
        batch_size=batch_size,
        sampler=order,
        num_workers=default_workers(pin) if workers is None else workers,
        collate_fn=collate,
        pin_memory=pin,
    )
    yield from read_batches(loader) if loader.num_workers else prefetched(read_batches(loader))


def default_workers(gpu: bool) -> int:
    """Loading processes: none beside a model on CPUs, which uses every core; else up to 8."""
    return min(8, os.cpu_count() or 1) if gpu else 0


def prefetched(items: Iterable[T]) -> Iterator[T]:
    """The items, each made in a thread while the one before is used."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(next, iterator, end)
        while (item := pending.result()) is not end:
            pending = pool.submit(next, iterator, end)
            yield item  # type: ignore[misc]


def read_batches(loader: DataLoader[Any]) -> Iterator[Batch]:
    """The loader's batches; an error of a loading process without torch's traceback before it."""
    try:
        yield from loader
    except LtcamError as error:
        error.__traceback__ = None  # torch's ends in a circle that keeps the processes waiting
        raise LtcamError(str(error).rstrip().rpartition("LtcamError: ")[2]) from error
