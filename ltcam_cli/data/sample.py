"""One image, what is known of it, and how its pixels are read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from ltcam_cli.data.image_files import ImageReader
from ltcam_cli.data.mask_files import MaskReader
from ltcam_cli.files import content_digest, short_hash
from ltcam_cli.progress import track

MISSING = "missing"  # digest of a file that cannot be read


@dataclass(frozen=True)
class Sample:
    """One image of a data set. Pixels are read only when asked for.

    Attributes:
        name: unique in its data set, e.g. `kos01/Part5`.
        group: the physical item; samples of one group never stand on both sides of a split.
        label: 1 defective, 0 good, None unknown.
        read_image: gives (H, W) or (H, W, 3), uint8, or float32 in [0, 1] of deeper files.
        read_mask: gives (H, W) bool, True on defects; None where there is no mask.
        path: the image's file; None for images made on the fly.
        mask_path: the mask's file; None for masks made on the fly.
        recipe: text that decides the pixels of an image and mask made on the fly; None: their
            digests are of the pixels.
        kinds: names of its kinds of defects, where they are known.
    """

    name: str
    group: str
    label: int | None
    read_image: Callable[[], np.ndarray]
    read_mask: Callable[[], np.ndarray] | None = None
    path: Path | None = None
    mask_path: Path | None = None
    recipe: str | None = None
    kinds: tuple[str, ...] = ()

    @classmethod
    def from_files(
        cls,
        path: Path,
        mask: Path | None,
        *,
        name: str,
        group: str | None = None,
        label: int | None = None,
        kinds: tuple[str, ...] = (),
    ) -> Sample:
        """A sample of an image file and, where there is one, its mask file.

        Its group is its name if there is none.
        """
        read_mask = partial(MaskReader(), mask) if mask else None
        read_image = partial(ImageReader(), path)
        return cls(name, group or name, label, read_image, read_mask, path, mask, kinds=kinds)

    def read_by(self, images: ImageReader, masks: MaskReader) -> Sample:
        """This sample, whose files are read so; one that was made on the fly as it is."""
        sample = self if self.path is None else replace(self, read_image=partial(images, self.path))
        if self.mask_path is None:
            return sample
        return replace(sample, read_mask=partial(masks, self.mask_path))

    @property
    def image(self) -> np.ndarray:
        """(H, W) or (H, W, 3), uint8, or float32 in [0, 1]; read anew each time."""
        return self.read_image()

    @property
    def mask(self) -> np.ndarray | None:
        """(H, W) bool or None; read anew each time."""
        return self.read_mask() if self.read_mask else None

    def image_digest(self) -> str:
        """Hex SHA-256 of the image's file, recipe or pixels, and of how the file is read.

        `MISSING` if it cannot be read.
        """
        return _digest(self.path, self.recipe, self.read_image)

    def mask_digest(self) -> str:
        """The same of the mask; empty where there is no mask."""
        if self.read_mask is None:
            return ""
        return _digest(self.mask_path, self.recipe and f"mask {self.recipe}", self.read_mask)


def content_of(samples: Sequence[Sample], *, masks: bool = False) -> str:
    """Sixteen hex digits of names, groups, labels and pixels; of the masks, too, if asked for."""
    rows = [(s.name, s.group, s.label, s.image_digest()) for s in track(samples, "reading data")]
    masked = track(samples, "reading masks") if masks else ()
    return short_hash([rows, [sample.mask_digest() for sample in masked]], 16)


def _digest(path: Path | None, recipe: str | None, read: Callable[[], np.ndarray]) -> str:
    if path is not None:
        try:
            content = content_digest(path)
        except OSError:
            return MISSING  # an error, if anybody reads it
        setting = getattr(getattr(read, "func", None), "setting", "")  # of an Image- or MaskReader
        return short_hash([content, setting], 64) if setting else content
    if recipe is None:
        pixels = read()
        recipe = f"{pixels.dtype} {pixels.shape} {hashlib.sha256(pixels.tobytes()).hexdigest()}"
    return hashlib.sha256(recipe.encode()).hexdigest()
