"""A look at a data set: classes and items of both parts, what is odd, what contradicts itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from ltcam_cli.data.dataset import Dataset
from ltcam_cli.data.load import white_of
from ltcam_cli.data.mask_files import MaskReader, TrueMask
from ltcam_cli.data.sample import Sample
from ltcam_cli.data.split import Split, duplicates
from ltcam_cli.errors import LtcamError
from ltcam_cli.progress import track

SHOWN = 20  # lines of one kind


@dataclass
class Findings:
    """What a look at a data set found, in lines.

    Attributes:
        odd: what may be meant so.
        wrong: what contradicts itself, or cannot be read.
    """

    odd: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def class_table(split: Split) -> pd.DataFrame:
    """Images, classes and items of both parts."""
    rows = [
        {
            "part": part,
            "images": len(samples),
            "good": sum(not sample.label for sample in samples),
            "defective": sum(bool(sample.label) for sample in samples),
            "items": len({sample.group for sample in samples}),
        }
        for part, samples in (("train", split.train), ("test", split.test))
    ]
    return pd.DataFrame(rows)


def look_at(dataset: Dataset, split: Split) -> Findings:
    """Read all images and masks of a data set, and compare them with labels and each other."""
    white = white_of(dataset, split.listed_train)
    split = split.read_by(dataset.image_reader(white), dataset.mask_reader())
    found = Findings(odd=list(split.notes))
    samples = split.part("all")
    _compare_images(split, samples, found)
    unmasked = [sample.name for sample in samples if sample.label and sample.read_mask is None]
    if unmasked:
        found.odd.append(f"defective images without a mask, not scored: {_some(unmasked)}")
    if split.labels is not None:
        unnamed = [sample.name for sample in samples if sample.name not in split.labels]
        if unnamed:
            found.odd.append(f"not in dataset.labels, labelled by folder or mask: {_some(unnamed)}")
    unreadable = found.wrong if dataset.on_error == "raise" else found.odd
    for sample in track(samples, "reading"):
        try:
            mask = _mask_of(sample, dataset.mask_reader())
            found.wrong += _faults(sample, mask)
            oddities = mask.oddities if mask else ()
            found.odd += [f"mask of {sample.name}: {oddity}" for oddity in oddities]
        except LtcamError as error:
            unreadable.append(str(error))
    return found


def _compare_images(split: Split, samples: Sequence[Sample], found: Findings) -> None:
    """Equal images: odd within a part; wrong across the parts or with two labels."""
    labels = {sample.name: sample.label for sample in samples}
    tested = {sample.name for sample in split.test}
    for first, second in sorted(duplicates(samples, samples)):
        if labels[first] != labels[second]:
            good, bad = sorted((first, second), key=lambda name: labels[name] or 0)
            found.wrong.append(f"equal images, one good and one defective: {good} = {bad}")
        elif (first in tested) != (second in tested):
            found.wrong.append(f"equal images across train and test: {first} = {second}")
        else:
            found.odd.append(f"equal images within a part: {first} = {second}")


def _mask_of(sample: Sample, reader: MaskReader) -> TrueMask | None:
    """Mask of a sample, and what is odd about its file; None where there is no mask.

    Raises:
        LtcamError: if it cannot be read.
    """
    if sample.mask_path is not None:
        return reader.read(sample.mask_path)
    mask = sample.mask
    return None if mask is None else TrueMask(mask)


def _faults(sample: Sample, true_mask: TrueMask | None) -> list[str]:
    """What is wrong between an image, its mask and its label.

    Raises:
        LtcamError: if the image cannot be read.
    """
    image = sample.image
    if true_mask is None:
        return []
    mask, faults = true_mask.defect, []
    if mask.shape != image.shape[:2]:
        sizes = " for an image of ".join("x".join(map(str, a.shape[:2])) for a in (mask, image))
        faults.append(f"a mask of another size: {sample.name}, {sizes}")
    if sample.label and not mask.any():
        faults.append(f"a defective image with an empty mask: {sample.name}")
    if not sample.label and mask.any():
        faults.append(f"a good image with defect in its mask: {sample.name}")
    return faults


def _some(names: Sequence[str]) -> str:
    more = f", … ({len(names)})" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
