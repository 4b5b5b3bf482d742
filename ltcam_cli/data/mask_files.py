"""Mask files -> where the defect is, however a tool wrote it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ltcam_cli.data.decoding import MAX_PIXELS, is_deep, opened, page_count, read_pixels
from ltcam_cli.data.image_files import warn_once

LABEL_IDS = 32  # highest value of a mask whose values are numbers of classes
NOISE = 1 / 8  # share of the range within which values are one
MOST = 0.5  # share of an image from which a defect is unlikely
LOSSY = frozenset({"JPEG", "WEBP", "JPEG2000", "MPO"})
SETTLED = "dataset.mask_values settles how masks are read, ltcam data check names all such"


@dataclass(frozen=True)
class TrueMask:
    """A mask, and what is odd about it.

    Attributes:
        defect: (H, W) bool, True on defects.
        oddities: Short sentences; empty if the file is clear.
    """

    defect: np.ndarray
    oddities: tuple[str, ...] = ()


@dataclass(frozen=True)
class MaskReader:
    """How mask files are read.

    The brighter of a mask's two main values is defect, and what is between them belongs to the
    nearer one. Of more main values all but the lowest are defect. Alpha counts where the visible
    colour is constant, and a palette's colours count, not its indices.

    Attributes:
        values: Grey values of defects: each pixel belongs to the nearest of these and of the
            mask's other main values. Empty: by the rule above.
        max_pixels: Most pixels of a mask.
    """

    values: tuple[float, ...] = ()
    max_pixels: int = MAX_PIXELS

    @property
    def setting(self) -> str:
        """What of it decides masks; empty where nothing is set."""
        return f"values {list(self.values)}" if self.values else ""

    def __call__(self, path: Path) -> np.ndarray:
        """Mask (H, W) bool, True on defects; what is odd is logged, once a kind.

        Raises:
            LtcamError: If the file is missing, empty, truncated or no image.
        """
        mask = self.read(path)
        warn_of(path, mask.oddities)
        return mask.defect

    def read(self, path: Path) -> TrueMask:
        """Mask and its oddities.

        Raises:
            LtcamError: See `__call__`.
        """
        levels, is_lossy, pages = _levels(path, self.max_pixels)
        mains = main_values(levels, is_lossy)
        oddities = [f"pages: it has {pages}, of which the first is read"] if pages > 1 else []
        if self.values:
            return TrueMask(_nearest(levels, mains, self.values), tuple(oddities))
        defect = _brighter(levels, mains, is_lossy)
        if len(mains) > 2:
            shown = ", ".join(f"{value:g}" for value in mains[:8])
            oddities.append(f"values: it has {len(mains)} main ones ({shown}), not two")
        elif _is_soft(levels, mains):
            oddities.append(f"soft: it was cut in the middle, above {sum(mains) / 2:g}")
        if defect.mean() > MOST:
            oddities.append(f"inverted? {100 * defect.mean():.0f} % of the image are defect")
        return TrueMask(defect, tuple(oddities))


def warn_of(where: Path | str, oddities: Sequence[str]) -> None:
    """Log what is odd about a mask, once a kind; a kind is an oddity's first word."""
    for oddity in oddities:
        warn_once(oddity.split()[0], f"{where}: {oddity}; {SETTLED}")


def label_oddities(defect: np.ndarray, label: int | None) -> list[str]:
    """What of a mask contradicts its image's label, 1 or 0; None: the mask tells it."""
    if label == 1 and not defect.any():
        return ["empty: the image is defective"]
    if label == 0 and defect.any():
        return [f"marked: {defect.sum()} pixels are defect, and the image is good"]
    return []


def main_values(levels: np.ndarray, is_lossy: bool = False) -> list[float]:
    """Main values of a mask, ascending: of pixels whose eight neighbours are like them.

    What anti-aliasing or compression put between two areas has no such neighbours.

    Args:
        levels: (H, W) grey values.
        is_lossy: Whether values are blurred by compression.

    Returns:
        At least the least value; the greatest too, if there are others than the least.
    """
    low, high = float(levels.min()), float(levels.max())
    if low == high or (is_lossy and high - low < NOISE * 255):
        return [low]
    if not is_lossy:
        known = _known(levels)
        if len(known) <= 3 or (levels.dtype.kind in "ui" and high <= LABEL_IDS):
            return [float(value) for value in known]
    step = NOISE * (high - low)
    mains = [low]
    for value in _known(levels[_spread(levels) <= (step if is_lossy else 0)]):
        if value > mains[-1] + step:
            mains.append(float(value))
    if len(mains) == 1 or (len(mains) == 2 and high - mains[1] <= 2 * step):
        mains[1:] = [high]  # a thin area, or ringing beside an edge
    return mains


def _is_soft(levels: np.ndarray, mains: Sequence[float]) -> bool:
    """Whether values between two main ones lie on a slope, and not beside an edge."""
    reach = mains[-1] - mains[0]
    between = (levels > mains[0] + reach / 4) & (levels < mains[-1] - reach / 4)
    if not between.any():
        return False
    return bool((_spread(levels)[between] <= reach / 4).any())


def _spread(levels: np.ndarray) -> np.ndarray:
    """Difference (H, W) between the greatest and least value of a pixel and its neighbours."""
    from scipy import ndimage

    return np.asarray(
        ndimage.maximum_filter(levels, 3).astype(float) - ndimage.minimum_filter(levels, 3)
    )


def _brighter(levels: np.ndarray, mains: Sequence[float], is_lossy: bool) -> np.ndarray:
    """Pixels that are nearer to the second main value than to the least, or brighter."""
    if len(mains) == 1:
        return levels > (127 if is_lossy else 0)
    return levels > (mains[0] + mains[1]) / 2


def _nearest(levels: np.ndarray, mains: Sequence[float], values: Sequence[float]) -> np.ndarray:
    """Pixels that are nearer to one of some values than to any other main value."""
    step = NOISE * (max(mains) - min(mains))
    others = [main for main in mains if all(abs(main - value) > step for value in values)]
    if not others:
        return np.isin(levels, values)
    grey = levels.astype(np.float64)
    to_values = np.min([abs(grey - value) for value in values], axis=0)
    to_others = np.min([abs(grey - other) for other in others], axis=0)
    return np.less(to_values, to_others)


def _levels(path: Path, max_pixels: int) -> tuple[np.ndarray, bool, int]:
    """Grey values (H, W) of a mask file, whether it is lossy, and its pages."""
    if is_deep(path):
        pixels = read_pixels(path, max_pixels)
        levels = pixels.values if pixels.values.ndim == 2 else pixels.values.max(axis=-1)
        return (levels.max() - levels if pixels.inverted else levels), False, pixels.pages
    with opened(path, max_pixels) as image:
        levels = np.asarray(image.convert("L")) if image.mode in {"1", "L"} else _of_colour(image)
        return levels, image.format in LOSSY, page_count(path, image)


def _of_colour(image: Image.Image) -> np.ndarray:
    """Grey values (H, W): the brightest channel, or alpha where visible colour is constant."""
    if image.mode == "P" and "transparency" not in image.info:
        return _of_palette(image)
    rgba = np.asarray(image.convert("RGBA"))
    colour, alpha = rgba[..., :3].max(axis=-1), rgba[..., 3]
    visible = alpha > 0
    if alpha.min() < alpha.max() and (rgba[visible][:, :3] == rgba[visible][0, :3]).all():
        return alpha
    colour = np.where(visible, colour, 0)
    if colour.min() == colour.max():  # e.g. red on white
        return _saturation(rgba[..., :3])
    return colour


def _of_palette(image: Image.Image) -> np.ndarray:
    """Grey values (H, W) of a palette's colours; indices where all that are there are one."""
    indices = np.asarray(image)
    palette = np.zeros((256, 3), np.uint8)
    colours = np.array(image.getpalette() or [], np.uint8).reshape(-1, 3)
    palette[: len(colours)] = colours
    used = palette[_known(indices)]
    if (used == used[0]).all():
        return indices
    brightest = palette.max(axis=1)
    if len(set(brightest[_known(indices)])) == 1:  # e.g. red on white
        return _saturation(palette[indices])
    return np.asarray(brightest[indices])


def _saturation(colours: np.ndarray) -> np.ndarray:
    """(H, W) of (H, W, 3): what sets colours of one brightness apart, or their luminance."""
    saturation = np.asarray(colours.max(axis=-1) - colours.min(axis=-1))
    if saturation.min() < saturation.max():
        return saturation
    return np.asarray(Image.fromarray(colours).convert("L"))


def _known(levels: np.ndarray) -> np.ndarray:
    """Values that are there, ascending; quicker than `np.unique` for 8 bits."""
    if levels.dtype != np.uint8:
        return np.unique(levels)
    return np.flatnonzero(np.bincount(levels.ravel(), minlength=256))
