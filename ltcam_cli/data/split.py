"""Train and test parts of a data set, by physical items."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from ltcam_cli.data.image_files import ImageReader
from ltcam_cli.data.mask_files import MaskReader
from ltcam_cli.data.sample import MISSING, Sample
from ltcam_cli.data.tables import read_split
from ltcam_cli.errors import LtcamError
from ltcam_cli.files import short_hash
from ltcam_cli.progress import track

log = logging.getLogger(__name__)

REMEDY = "choose another dataset.split or fold"


@dataclass
class Split:
    """The two parts of a data set. Labels are looked up part by part, when a part is first used.

    So `evaluate` reads no mask of the training part, and with `dataset.labels` nobody does.

    Attributes:
        listed_train, listed_test: samples as found, label None where it must come from the mask.
        labels: image labels by name that go before all others; None where there are none.
        dropped: training samples left out because their physical item is in the test part.
        left_out: samples that a CSV leaves out of both parts.
        notes: lines on what was found in the folder and is no sample.
        unread_masks: folder of masks of which none is any image's; empty if there is none.
        remedy: how to get other parts.
    """

    listed_train: list[Sample]
    listed_test: list[Sample]
    labels: Mapping[str, int] | None = None
    dropped: list[Sample] = field(default_factory=list)
    left_out: list[Sample] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unread_masks: str = ""
    remedy: str = REMEDY

    @property
    def listed(self) -> list[Sample]:
        """Samples of both parts as found, and those dropped."""
        return [*self.listed_train, *self.listed_test, *self.dropped]

    @cached_property
    def train(self) -> list[Sample]:
        """Training samples with labels.

        Raises:
            LtcamError: if `labels` is given and lacks one whose label only a mask tells, or a mask
                cannot be read.
        """
        return [_labelled(sample, self.labels, strict=True) for sample in self.listed_train]

    @cached_property
    def test(self) -> list[Sample]:
        """Test samples with labels."""
        return [_labelled(sample, self.labels, strict=False) for sample in self.listed_test]

    def part(self, name: str) -> list[Sample]:
        """Samples of `train`, `test` or `all`."""
        if name not in {"train", "test", "all"}:
            raise LtcamError(f"evaluation.split={name}: must be train, test or all")
        return self.train + self.test if name == "all" else getattr(self, name)

    def read_by(self, images: ImageReader, masks: MaskReader) -> Split:
        """This split, whose files are read so."""
        return self.changed(lambda sample: sample.read_by(images, masks))

    def changed(self, change: Callable[[Sample], Sample]) -> Split:
        """This split with other samples of the same names."""
        train, test = map(change, self.listed_train), map(change, self.listed_test)
        return replace(self, listed_train=[*train], listed_test=[*test])

    def remedy_for(self, label: int, name: str) -> str:
        """What helps if a part has no image of a label, which is called `name`."""
        items = {sample.group for sample in self.part("all") if sample.label == label}
        if len(items) > 1:
            return self.remedy
        count = "one" if items else "no"
        return "; ".join(
            [
                f"the whole data set has {count} {name} item, and both parts need one: add images, "
                "or give dataset.labels=FILE.csv",
                *self.notes,
            ]
        )

    def fingerprint(self) -> str:
        """Sixteen hex digits of what stands on which side, wherever the data set lies.

        Covers name, group, content and label of each image; its mask where that tells the label.
        """
        sides = {"train": self.listed_train, "test": self.listed_test}
        return short_hash(
            {
                side: [self._identity(sample) for sample in track(samples, f"reading {side}")]
                for side, samples in sides.items()
            },
            length=16,
        )

    def _identity(self, sample: Sample) -> list[str | int]:
        label = (self.labels or {}).get(sample.name, sample.label)
        return [
            sample.name,
            sample.group,
            sample.image_digest(),
            sample.mask_digest() if label is None else label,
        ]


def _labelled(sample: Sample, labels: Mapping[str, int] | None, *, strict: bool) -> Sample:
    labelled = _with_label(sample, labels, strict=strict)
    return labelled if labelled.label else replace(labelled, kinds=())


def _with_label(sample: Sample, labels: Mapping[str, int] | None, *, strict: bool) -> Sample:
    if labels is not None:
        if sample.name in labels:
            return replace(sample, label=labels[sample.name])
        if strict and sample.label is None:
            raise LtcamError(f"dataset.labels: no label for the training image {sample.name}")
    if sample.label is not None:
        return sample
    mask = sample.mask
    if mask is None:
        raise LtcamError(f"{sample.name}: has neither label nor mask; give dataset.labels=FILE.csv")
    return replace(sample, label=int(mask.any()))


def split_by(samples: Sequence[Sample], is_test: Callable[[Sample], bool]) -> Split:
    """The split whose test part are the samples for which `is_test` holds."""
    test = [sample for sample in samples if is_test(sample)]
    return Split([sample for sample in samples if not is_test(sample)], test)


def split_by_csv(samples: Sequence[Sample], path: Path) -> Split:
    """The split of a CSV `name,split[,group]`; what it does not name is left out.

    Raises:
        LtcamError: see `read_split`.
    """
    given = read_split(path, samples)
    parts: dict[str, list[Sample]] = {"train": [], "test": [], "": []}
    for sample in samples:
        part, group = given.get(sample.name, ("", ""))
        parts[part].append(replace(sample, group=group or sample.group))
    remedy = f"change the rows of {path}"
    return Split(parts["train"], parts["test"], left_out=parts[""], remedy=remedy)


def without_leaks(split: Split, *, drop: bool) -> Split:
    """`split` without training samples of items that the test part holds; logged, or refused.

    Raises:
        LtcamError: if there are such samples and `drop` is false.
    """
    tested = {sample.group for sample in split.listed_test}
    leaks = [sample for sample in split.listed_train if sample.group in tested]
    if not leaks:
        return split
    groups = ", ".join(sorted({sample.group for sample in leaks}))
    if not drop:
        raise LtcamError(
            f"train and test share the item(s) {groups} ({len(leaks)} training images); "
            "use dataset.drop_leaks=true or another split"
        )
    log.info("dropped %d training images of items that are tested: %s", len(leaks), groups)
    kept = [sample for sample in split.listed_train if sample.group not in tested]
    return replace(split, listed_train=kept, dropped=leaks)


def split_fraction(
    samples: Sequence[Sample], fraction: float, seed: int
) -> tuple[list[Sample], list[Sample]]:
    """Split labelled samples by items: about `fraction` of the items with and without defects.

    Args:
        samples: with labels.
        fraction: of the items that go to the second part, in (0, 1).
        seed: of the shuffle.

    Returns:
        The samples that stay, and those that were split off.
    """
    defective = {sample.group for sample in samples if sample.label}
    good = {sample.group for sample in samples} - defective
    rng = np.random.default_rng(seed)
    chosen: set[str] = set()
    for groups in (sorted(defective), sorted(good)):
        count = min(max(1, round(fraction * len(groups))), len(groups) - 1) if groups else 0
        chosen.update(rng.permutation(groups)[:count])
    return (
        [sample for sample in samples if sample.group not in chosen],
        [sample for sample in samples if sample.group in chosen],
    )


def check_classes(samples: Sequence[Sample], part: str, remedy: str | Split = REMEDY) -> None:
    """Refuse a part that lacks one of the two classes.

    Args:
        samples: of the part, with labels.
        part: its name.
        remedy: what to do, or the split that the part is of.

    Raises:
        LtcamError: naming the class that has no sample, and what helps.
    """
    for label, name in ((0, "good"), (1, "defective")):
        if not any(sample.label == label for sample in samples):
            helps = remedy.remedy_for(label, name) if isinstance(remedy, Split) else remedy
            raise LtcamError(f"the {part} part has no {name} image; {helps}")


def duplicates(first: Sequence[Sample], second: Sequence[Sample]) -> set[tuple[str, str]]:
    """Pairs of names, one of each side, whose images are equal; a sample is none of itself."""
    names = defaultdict(list)
    for sample in track(first, "comparing"):
        names[sample.image_digest()].append(sample.name)
    names.pop(MISSING, None)
    return {
        (min(name, sample.name), max(name, sample.name))
        for sample in track(second, "comparing")
        for name in names.get(sample.image_digest(), ())
        if name != sample.name
    }


def warn_of_equals(split: Split) -> None:
    """Log a pair of equal image files of which one is good and one defective, and their number."""
    files = [sample for sample in split.part("all") if sample.path]  # whose digests are kept
    pairs = duplicates([s for s in files if s.label], [s for s in files if not s.label])
    if pairs:
        log.warning(
            "equal images with different labels: %s = %s (such pairs: %d); see: ltcam data check",
            *min(pairs),
            len(pairs),
        )
