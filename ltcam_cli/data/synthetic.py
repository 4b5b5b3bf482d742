"""The synthetic data set: surfaces with thin cracks, rendered when read; needs no files."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from ltcam_cli.config import NO_EFFECT, FolderName, Seed, Share, config
from ltcam_cli.data.dataset import Dataset
from ltcam_cli.data.rendering import LABELS, RENDERING_FORMAT, Scene, render_image, render_mask
from ltcam_cli.data.sample import Sample
from ltcam_cli.data.split import Split, split_fraction
from ltcam_cli.errors import LtcamError

MOST_IMAGES = 100_000


@config("dataset")
class Synthetic(Dataset):
    """Synthetic surfaces. The same seed gives the same pixels.

    Attributes:
        root: null; there are no files.
        split: fraction, a random share of the items is tested.
        items: Number of physical items.
        parts: Images of each item.
        defective: Share of defective images, spread evenly over the items; above 0 at least one.
        seed: Seed of the images.
        test_fraction: Share of the items that are tested.
        split_seed: Seed of that draw.
    """

    kind: Literal["synthetic"] = "synthetic"
    name: Annotated[FolderName | None, NO_EFFECT] = "synthetic"
    root: Annotated[None, NO_EFFECT] = None
    split: Literal["fraction"] = "fraction"
    items: Annotated[int, Field(ge=2, le=10_000)] = 40
    parts: Annotated[int, Field(ge=1, le=1000)] = 6
    defective: Share = 0.3
    seed: Seed = 0
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.25
    split_seed: Seed = 0
    height: Annotated[int, Field(ge=32, le=2048)] = 256
    width: Annotated[int, Field(ge=32, le=2048)] = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.items * self.parts > MOST_IMAGES:
            raise LtcamError(
                f"dataset.items={self.items}: with dataset.parts={self.parts} more than "
                f"{MOST_IMAGES} images; lower one of them"
            )

    def listed(self) -> Split:
        """Both parts, labelled."""
        return Split(*split_fraction(self.samples(), self.test_fraction, self.split_seed))

    def samples(self) -> list[Sample]:
        """All images: (height, width) uint8, masks bool. Item 7 is the group `item007`."""
        samples = []
        for (item, part), label in np.ndenumerate(self._labels()):
            scene = Scene(self.seed, item, part, bool(label), self.height, self.width)
            group = f"item{item:03d}"
            samples.append(
                Sample(
                    name=f"{group}/part{part}",
                    group=group,
                    label=int(label),
                    read_image=partial(render_image, scene),
                    read_mask=partial(render_mask, scene),
                    recipe=f"format {RENDERING_FORMAT} of {scene}",
                )
            )
        return samples

    def _labels(self) -> np.ndarray:
        """(items, parts) bool: which images are defective; items differ by at most one."""
        count = round(self.defective * self.items * self.parts)
        if self.defective > 0:
            count = max(count, 1)
        random = np.random.default_rng([LABELS, self.seed])
        least, extra = divmod(count, self.items)
        counts = np.full(self.items, least)
        counts[random.permutation(self.items)[:extra]] += 1
        rank = random.permuted(np.tile(np.arange(self.parts), (self.items, 1)), axis=1)
        return rank < counts[:, None]
