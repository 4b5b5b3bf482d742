"""True masks from annotation files of other tools, in the place of a data set's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from ltcam_cli.annotations.reading import KNOWN, read_annotations
from ltcam_cli.annotations.shapes import Annotation, names_of
from ltcam_cli.data.decoding import MAX_PIXELS, read_pixels
from ltcam_cli.data.listing import list_images, mask_of, readable
from ltcam_cli.data.mask_files import MaskReader
from ltcam_cli.data.sample import Sample
from ltcam_cli.data.tables import Names
from ltcam_cli.errors import LtcamError


@dataclass(frozen=True)
class DrawnMask:
    """Reader of the mask that an annotation says of an image.

    Attributes:
        annotation: What the file says.
        path: Image.
        max_pixels: Most pixels of the image.
    """

    annotation: Annotation
    path: Path
    max_pixels: int = MAX_PIXELS

    def __call__(self) -> np.ndarray:
        """Mask (H, W) bool.

        Raises:
            LtcamError: If the image cannot be read, is of another size, or the mask is damaged.
        """
        pixels = read_pixels(self.path, self.max_pixels).values
        return self.annotation.mask(pixels.shape[:2])


def annotated_samples(
    path: Path, samples: Sequence[Sample], max_pixels: int = MAX_PIXELS
) -> dict[str, Sample]:
    """The samples that annotations name, with their masks, by name.

    Args:
        path: Annotation file, or folder of such files or of mask images.
        samples: Samples that may be named.
        max_pixels: Most pixels of an image.

    Raises:
        LtcamError: If there are no annotations, or one fits no image or several.
    """
    names, found, sources = Names(samples), dict[str, Sample](), dict[str, str]()
    for image, source, mask in _masks(path):
        entry = readable(image if isinstance(mask, Path) else f"{source}: {image}")
        sample = _named(image, entry, names)
        if sample.name in found:
            raise LtcamError(
                f"dataset.annotations: {sample.name} is annotated twice, by {sources[sample.name]} "
                f"and {entry}; delete one of them"
            )
        sources[sample.name] = entry
        if isinstance(mask, Path):
            read = partial(MaskReader(max_pixels=max_pixels), mask)
            found[sample.name] = replace(sample, read_mask=read, mask_path=mask)
        elif sample.path is None:
            raise LtcamError(
                f"dataset.annotations: {entry} is an image made on the fly; write the data set as "
                "files with: ltcam data synth"
            )
        else:
            drawn = DrawnMask(mask, sample.path, max_pixels)
            found[sample.name] = replace(sample, read_mask=drawn, mask_path=None)
    return found


def _masks(path: Path) -> Iterator[tuple[str, Path, Annotation | Path]]:
    """Image as it is named, source, and annotation or mask file."""
    if not path.exists():
        raise LtcamError(f"dataset.annotations={path}: no such file or folder; name another one")
    annotations = read_annotations(path)
    for annotation in annotations:
        yield annotation.image, annotation.source, annotation
    if annotations:
        return
    masks = list_images(path).files
    if not masks:
        raise LtcamError(
            f"dataset.annotations={path}: holds none of {KNOWN}, and no mask images; unpack "
            "archives, and name the folder of the files"
        )
    for mask in masks:
        yield mask.relative_to(path).as_posix(), mask, mask


def _named(image: str, entry: str, names: Names) -> Sample:
    """The one sample that an annotation names.

    Raises:
        LtcamError: If it fits none or several.
    """
    tried = names_of(image)
    without_suffix = [name.rpartition(".")[0] for name in tried]
    masks = [name for each in (*tried, *without_suffix) if (name := mask_of(each))]
    for name in (*tried, *without_suffix, *masks):
        try:
            fits = names.find(name, folders=False) if name else []
        except ValueError as error:
            raise LtcamError(f"dataset.annotations: {entry}: {error}") from error
        if fits:
            return fits[0]
    near = names.nearest(tried[0]) if tried else ""
    raise LtcamError(f"dataset.annotations: {entry} fits no image of the data set{near}")
