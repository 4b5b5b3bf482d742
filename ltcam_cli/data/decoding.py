"""Image files -> pixels as they are stored, upright."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tifffile
from PIL import Image, ImageOps, UnidentifiedImageError

from ltcam_cli.errors import LtcamError
from ltcam_cli.files import regular

MAX_PIXELS = 178_956_970  # Pillow's own limit
LEVEL_TAGS = (50717, 341, 281)  # WhiteLevel of DNG, SMaxSampleValue, MaxSampleValue
COLOURS = {0: 1, 1: 1, 2: 3}  # channels without alpha of TIFF's kinds: white is 0, black is 0, RGB
DEEP_MODES = frozenset({"I;16", "I;16B", "I;16L", "I;16N", "I", "F"})
ORIENTATION = 0x0112
TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_LIMIT = threading.Lock()


@dataclass(frozen=True)
class Pixels:
    """Pixels as they are in the file, upright.

    Attributes:
        values: (H, W) or (H, W, 3): uint8, or deeper integers or floats.
        white: Level of white by the file: by its tags, by its bits, or 1 for floats.
        inverted: Whether 0 is white.
        pages: Number of pages or frames of the file; the first is read.
    """

    values: np.ndarray
    white: float = 255.0
    inverted: bool = False
    pages: int = 1

    @property
    def is_deep(self) -> bool:
        """Whether there are more than 8 bits."""
        return self.values.dtype != np.uint8


def read_pixels(path: Path, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Pixels of an image file's first page.

    Raises:
        LtcamError: If the file is missing, empty, truncated, no image, too large, or has pixels
            that are no finite numbers.
    """
    with _one_line(path):
        if _is_deep_tiff(path):
            return _checked(path, _tiff_pixels(path, max_pixels))
        with opened(path, max_pixels) as image:
            if _is_deep_png(path, image):
                return _png_pixels(path)
            values = np.asarray(_grey_or_colour(image))
            return _checked(path, Pixels(values, _white(image), pages=page_count(path, image)))


@contextmanager
def opened(path: Path, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """An image file's first page by Pillow, upright.

    Raises:
        LtcamError: If it is missing, empty, truncated, no image, or too large.
    """
    with _one_line(path), _unlimited(path) as image:
        _check_size(path, (image.height, image.width), max_pixels)
        is_tiff, turn = image.format == "TIFF", 1
        if is_tiff and (turn := _orientation(image)) != 1:
            image = _unlimited(io.BytesIO(_lying(path)))  # some Pillows turn it, or mix it up
        image.load()
        if is_tiff:
            image.getexif()[ORIENTATION] = turn
        if _orientation(image) != 1:
            ImageOps.exif_transpose(image, in_place=True)
        yield image


def _orientation(image: Image.Image) -> int:
    """One of the eight of EXIF; the plain one where metadata are damaged."""
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except Exception:  # Pillow raises whatever it likes
        return 1
    return found if found in range(1, 9) else 1


def _lying(path: Path) -> bytes:
    """A TIFF file that says that its pixels lie as they are shown."""
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        start = _first_page(file).tags[ORIENTATION].valueoffset
        order: Literal["little", "big"] = "little" if file.byteorder == "<" else "big"
    content[start : start + 2] = (1).to_bytes(2, order)
    return bytes(content)


def page_count(path: Path, image: Image.Image) -> int:
    """Number of pages or frames, without smaller copies or the second view of a camera."""
    pages = 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
    if pages == 1 or image.format != "TIFF":
        return pages
    with tifffile.TiffFile(path) as file:
        return _page_count(file)


def _page_count(file: tifffile.TiffFile) -> int:
    file.pages.useframes = False  # so that each page has its tags
    return sum(isinstance(page, tifffile.TiffPage) and not page.is_reduced for page in file.pages)


def _unlimited(path: Path | io.BytesIO) -> Image.Image:
    """An image whose head is read, of any size: Pillow's own limit is one for the process."""
    with _LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def is_deep(path: Path) -> bool:
    """Whether a file has more than 8 bits, by its head.

    Raises:
        LtcamError: If it is no image.
    """
    with _one_line(path):
        if _is_deep_tiff(path):
            return True
        with _unlimited(path) as image:
            return image.mode in DEEP_MODES or _is_deep_png(path, image)


def _grey_or_colour(image: Image.Image) -> Image.Image:
    """The image in 8 bits, or deep and grey."""
    if image.mode in DEEP_MODES | {"L", "RGB"}:
        return image
    return image.convert("L" if image.mode in {"1", "LA", "La"} else "RGB")


def _white(image: Image.Image) -> float:
    return {"F": 1.0, "L": 255.0, "RGB": 255.0}.get(image.mode, 65535.0)


def _is_deep_png(path: Path, image: Image.Image) -> bool:
    """Whether it is colour of 16 bits, which Pillow would cut down to 8."""
    if image.format != "PNG" or not image.mode.startswith("RGB"):
        return False
    with path.open("rb") as stream:
        return stream.read(25)[24] == 16


def _png_pixels(path: Path) -> Pixels:
    import png

    with _unlimited(path) as image:
        orientation = _orientation(image)
    width, height, rows, about = png.Reader(filename=str(path)).asDirect()
    values = np.vstack([np.asarray(row, dtype=np.uint16) for row in rows])
    values = values.reshape(height, width, about["planes"])
    values = values[..., :3] if values.shape[-1] > 2 else values[..., 0]  # without alpha
    return Pixels(_upright(values, orientation), 65535.0)


def _is_deep_tiff(path: Path) -> bool:
    """Whether it is a TIFF of more than 8 bits; Pillow reads only some of those as they are."""
    with path.open("rb") as stream:
        if stream.read(4) not in TIFF_HEADS:
            return False
    with tifffile.TiffFile(path) as file:
        page = _first_page(file)
        signed = page.sampleformat == tifffile.SAMPLEFORMAT.INT
        return page.bitspersample > 8 or signed


def _first_page(file: tifffile.TiffFile) -> tifffile.TiffPage:
    page = file.pages.first
    assert isinstance(page, tifffile.TiffPage)
    return page


def _tiff_pixels(path: Path, max_pixels: int) -> Pixels:
    with tifffile.TiffFile(path) as file:
        page = _first_page(file)
        _check_size(path, (page.imagelength, page.imagewidth), max_pixels)
        inverted = page.photometric == tifffile.PHOTOMETRIC.MINISWHITE
        try:
            values = _tiff_values(path, page)
        except (ValueError, ImportError, RuntimeError):  # what tifffile leaves to another package
            with opened(path, max_pixels) as image:
                if image.mode not in DEEP_MODES:
                    raise
                values = np.asarray(image)
        return Pixels(values, _tiff_white(page, values), inverted, _page_count(file))


def _tiff_white(page: tifffile.TiffPage, values: np.ndarray) -> float:
    """Level of white by a page's tags, or its bits; 1 for floats."""
    tags = [page.tags[tag].value for tag in LEVEL_TAGS if tag in page.tags]
    if levels := [level for level in map(np.max, tags) if level > 0]:
        return float(levels[0])
    if values.dtype.kind == "f":
        return 1.0
    return float(2 ** (page.bitspersample - (values.dtype.kind == "i")) - 1)


def _tiff_values(path: Path, page: tifffile.TiffPage) -> np.ndarray:
    """Values (H, W) or (H, W, 3) of a page, upright and without alpha.

    Raises:
        LtcamError: If they are neither grey nor RGB.
    """
    values, tag = page.asarray(), page.tags.get(ORIENTATION)
    if page.axes.startswith("S"):  # planar
        values = np.moveaxis(values, 0, -1)
    channels = values.shape[-1] if values.ndim == 3 else 1
    colours = COLOURS.get(int(page.photometric), 0)
    if not colours or channels not in {colours, colours + 1}:
        kind = tifffile.PHOTOMETRIC(page.photometric).name
        raise LtcamError(
            f"{path}: expected a grey or RGB image, got {channels} channels of {kind}; save it as "
            "RGB"
        )
    if values.ndim == 3:
        values = values[..., :3] if colours == 3 else values[..., 0]
    return _upright(values, tag.value if tag else 1)


def _upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """Values turned as an EXIF orientation says."""
    if orientation in {5, 6, 7, 8}:
        values = values.swapaxes(0, 1)
    if orientation in {3, 4, 7, 8}:
        values = values[::-1]
    if orientation in {2, 3, 6, 7}:
        values = values[:, ::-1]
    return values


def _check_size(path: Path, size: Sequence[int], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise LtcamError(
            f"{path}: has {size[0]} x {size[1]} pixels; raise dataset.max_pixels (now "
            f"{max_pixels}) to read it"
        )


def _checked(path: Path, pixels: Pixels) -> Pixels:
    values = pixels.values
    if values.ndim not in {2, 3} or (values.ndim == 3 and values.shape[-1] != 3):
        raise LtcamError(f"{path}: expected a grey or RGB image, got an array {values.shape}")
    if values.dtype.kind not in "uif":
        raise LtcamError(f"{path}: expected numbers as pixels, got {values.dtype}")
    if values.dtype.kind == "f" and not (finite := np.isfinite(values)).all():
        count = int((~finite).sum())
        raise LtcamError(f"{path}: {count} of its pixels are NaN or infinite; fill or replace them")
    return pixels


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Turn what decoders raise, which is whatever they like for damaged files, into one line."""
    try:
        regular(path)
        yield
    except (LtcamError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise LtcamError(f"{path}: no such file; restore it") from error
    except Exception as error:
        if path.is_file() and path.stat().st_size == 0:
            fault = "the file is empty; delete or replace it"
        elif isinstance(error, UnidentifiedImageError):
            fault = "is no image, or of an unknown kind; replace it"
        else:
            text = str(getattr(error, "strerror", None) or error)
            reason = " ".join(text.split()) or type(error).__name__
            fault = f"cannot be read ({reason}); replace it"
        raise LtcamError(f"{path}: {fault}") from error
