"""One image, what is known of it, and how its pixels are read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import BITSPERSAMPLE, TiffImageFile

from ltcam_cli.errors import LtcamError
from ltcam_cli.files import content_digest, regular, short_hash

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class Sample:
    """One image of a data set. Pixels are read only when asked for.

    Attributes:
        name: unique in its data set, e.g. `kos01/Part5`.
        group: the physical item; samples of one group never stand on both sides of a split.
        label: 1 defective, 0 good, None unknown.
        read_image: gives (H, W) or (H, W, 3), uint8, or float32 in [0, 1] for 16-bit files.
        read_mask: gives (H, W) bool, True on defects; None where there is no mask.
        path: the image's file; None for images made on the fly.
        mask_path: the mask's file; None for masks made on the fly.
        recipe: text that decides the pixels of an image and mask made on the fly; None: their
            digests are of the pixels.
    """

    name: str
    group: str
    label: int | None
    read_image: Callable[[], np.ndarray]
    read_mask: Callable[[], np.ndarray] | None = None
    path: Path | None = None
    mask_path: Path | None = None
    recipe: str | None = None

    @classmethod
    def from_files(
        cls, path: Path, mask: Path | None, *, name: str, group: str, label: int | None
    ) -> Sample:
        """A sample of an image file and, where there is one, its mask file."""
        read_mask = partial(read_mask_file, mask) if mask else None
        return cls(name, group, label, partial(read_image_file, path), read_mask, path, mask)

    @property
    def image(self) -> np.ndarray:
        """(H, W) or (H, W, 3), uint8, or float32 in [0, 1]; read anew each time."""
        return self.read_image()

    @property
    def mask(self) -> np.ndarray | None:
        """(H, W) bool or None; read anew each time."""
        return self.read_mask() if self.read_mask else None

    def image_digest(self) -> str:
        """Hex SHA-256 of the image's file, recipe or pixels; `missing` if it cannot be read."""
        return _digest(self.path, self.recipe, self.read_image)

    def mask_digest(self) -> str:
        """Hex SHA-256 of the mask's file, recipe or pixels; empty where there is no mask."""
        if self.read_mask is None:
            return ""
        return _digest(self.mask_path, self.recipe and f"mask {self.recipe}", self.read_mask)


def content_of(samples: Sequence[Sample], *, masks: bool = False) -> str:
    """Sixteen hex digits of names, groups, labels and pixels; of the masks, too, if asked for."""
    rows = [(s.name, s.group, s.label, s.image_digest()) for s in samples]
    return short_hash([rows, [s.mask_digest() for s in samples] if masks else []], 16)


def _digest(path: Path | None, recipe: str | None, read: Callable[[], np.ndarray]) -> str:
    if path is not None:
        try:
            return content_digest(path)
        except OSError:
            return "missing"  # an error, if anybody reads it
    if recipe is None:
        pixels = read()
        recipe = f"{pixels.dtype} {pixels.shape} {hashlib.sha256(pixels.tobytes()).hexdigest()}"
    return hashlib.sha256(recipe.encode()).hexdigest()


def read_image_file(path: Path) -> np.ndarray:
    """Read an image as (H, W) or (H, W, 3): uint8, or float32 in [0, 1] if it has 16 bits.

    Raises:
        LtcamError: if the file is missing, empty, truncated or no image.
    """
    try:
        regular(path)
        with Image.open(path) as image:
            if isinstance(image, TiffImageFile) and _is_deep_colour(image):
                import tifffile

                pixels = tifffile.imread(path)
            else:
                keep = image.mode in {"L", "RGB", "I;16", "I;16B", "I;16L", "I", "F"}
                grey = image.mode in {"1", "LA"}
                pixels = np.asarray(image if keep else image.convert("L" if grey else "RGB"))
    except FileNotFoundError as error:
        raise LtcamError(f"{path}: no such image; restore it (or on_error=skip)") from error
    except Exception as error:  # decoders raise whatever they like for damaged files
        raise _unreadable(path, error) from error
    return _to_known_range(path, pixels)


def read_mask_file(path: Path) -> np.ndarray:
    """Read a mask as (H, W) bool. Of a palette image the *indices* count: 0 is background.

    Raises:
        LtcamError: if the file is missing, empty, truncated or no image.
    """
    try:
        regular(path)
        with Image.open(path) as image:
            pixels = np.asarray(image)
            colours = [band != "A" for band in image.getbands()]
    except FileNotFoundError as error:
        raise LtcamError(f"{path}: no such mask; restore it (or on_error=skip)") from error
    except Exception as error:  # decoders raise whatever they like for damaged files
        raise _unreadable(path, error) from error
    return np.greater(pixels, 0) if pixels.ndim == 2 else np.any(pixels[..., colours], axis=-1)


def _is_deep_colour(image: TiffImageFile) -> bool:
    """Colour of more than 8 bits, which Pillow would cut down to 8."""
    return image.mode.startswith("RGB") and max(image.tag_v2.get(BITSPERSAMPLE, (8,))) > 8


def _unreadable(path: Path, error: BaseException) -> LtcamError:
    if path.is_file() and path.stat().st_size == 0:
        return LtcamError(f"{path}: the file is empty; delete or replace it (or on_error=skip)")
    text = str(getattr(error, "strerror", None) or error)
    reason = " ".join(text.split()) or type(error).__name__
    return LtcamError(f"{path}: cannot be read ({reason}); replace it (or on_error=skip)")


def _to_known_range(path: Path, pixels: np.ndarray) -> np.ndarray:
    if pixels.ndim == 3 and pixels.shape[-1] in {1, 4}:
        pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels[..., :3]
    if pixels.ndim not in {2, 3} or (pixels.ndim == 3 and pixels.shape[-1] != 3):
        raise LtcamError(f"{path}: expected a grey or RGB image, got an array {pixels.shape}")
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * 255
    if pixels.dtype == np.uint8:
        return pixels
    if np.issubdtype(pixels.dtype, np.integer):  # 16 bits; Pillow hands them over as int32 too
        return (pixels / 65535.0).astype(np.float32)
    return pixels.astype(np.float32)
