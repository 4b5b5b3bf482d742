"""Train and test parts of a data set, by physical items."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from ltcam_cli.data.sample import Sample
from ltcam_cli.errors import LtcamError
from ltcam_cli.files import short_hash

log = logging.getLogger(__name__)


@dataclass
class Split:
    """The two parts of a data set. Labels are looked up part by part, when a part is first used.

    So `evaluate` reads no mask of the training part, and with `dataset.labels` nobody does.

    Attributes:
        listed_train, listed_test: samples as found, label None where it must come from the mask.
        labels: image labels by name that go before all others; None where there are none.
        dropped: training samples left out because their physical item is in the test part.
    """

    listed_train: list[Sample]
    listed_test: list[Sample]
    labels: Mapping[str, int] | None = None
    dropped: list[Sample] | None = None

    @cached_property
    def train(self) -> list[Sample]:
        """Training samples with labels.

        Raises:
            LtcamError: if `labels` is given and lacks one of them, or a mask cannot be read.
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

    def fingerprint(self) -> str:
        """A hash of which images stand on which side, wherever the data set lies.

        Covers names, file sizes and groups; no image is read.
        """
        sides = {
            side: [(s.name, s.group, s.path.stat().st_size if s.path else 0) for s in samples]
            for side, samples in (("train", self.listed_train), ("test", self.listed_test))
        }
        return short_hash([sides, dict(self.labels or {})], length=16)


def _labelled(sample: Sample, labels: Mapping[str, int] | None, *, strict: bool) -> Sample:
    if labels is not None:
        if sample.name in labels:
            return replace(sample, label=labels[sample.name])
        if strict:
            raise LtcamError(f"dataset.labels: no label for the training image {sample.name}")
    if sample.label is not None:
        return sample
    mask = sample.mask
    if mask is None:
        raise LtcamError(f"{sample.name}: has neither label nor mask; give dataset.labels=FILE.csv")
    return replace(sample, label=int(mask.any()))


def read_labels(path: Path) -> dict[str, int]:
    """Image labels from a CSV with the columns `name,label` (0 good, 1 defective).

    Raises:
        LtcamError: if the file is missing or does not hold that.
    """
    table = read_table(path, "dataset.labels", {"name", "label"})
    wrong = table[~table["label"].isin(["0", "1"])]
    if len(wrong):
        row = wrong.iloc[0]
        raise LtcamError(f"{path}: label of {row['name']} is {row['label']!r}; must be 0 or 1")
    return dict(zip(table["name"], table["label"].astype(int), strict=True))


def read_table(path: Path, key: str, columns: set[str]) -> pd.DataFrame:
    """A CSV of strings that must have `columns`; `key` is the config key to name in errors."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError as error:
        raise LtcamError(f"{key}={path}: no such file") from error
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise LtcamError(f"{key}={path}: cannot be read as CSV ({reason})") from error
    if missing := columns - set(table.columns):
        raise LtcamError(f"{key}={path}: column {', '.join(sorted(missing))} is missing")
    return table


def split_by(samples: Sequence[Sample], is_test: Callable[[Sample], bool]) -> Split:
    """The split whose test part are the samples for which `is_test` holds."""
    test = [sample for sample in samples if is_test(sample)]
    return Split([sample for sample in samples if not is_test(sample)], test)


def split_by_csv(samples: Sequence[Sample], path: Path) -> Split:
    """The split of a CSV `name,split[,group]`; what it does not name is left out.

    Args:
        samples: of which some are chosen.
        path: of the CSV. A name is an image's, or a folder's: of all images whose names begin with
            it and a slash. The split is `train`, `test` or empty (left out).

    Raises:
        LtcamError: if the CSV does not hold that, or names an image that is not there, or twice.
    """
    table = read_table(path, "dataset.split_file", {"name", "split"})
    by_name: dict[str, list[Sample]] = {}
    for sample in samples:
        folders = [folder.as_posix() for folder in PurePosixPath(sample.name).parents]
        for name in (sample.name, *folders[:-1]):
            by_name.setdefault(name, []).append(sample)
    if unknown := [name for name in table["name"] if name not in by_name]:
        raise LtcamError(f"{path}: no image for {unknown[0]} ({len(unknown)} such names)")
    parts: dict[str, list[Sample]] = {"train": [], "test": [], "": []}
    seen = set[str]()
    for _, row in table.iterrows():
        if row["split"] not in parts:
            raise LtcamError(
                f"{path}: split of {row['name']} is {row['split']!r}; must be train or test"
            )
        for sample in by_name[row["name"]]:
            if sample.name in seen:
                raise LtcamError(f"{path}: {sample.name} stands there twice")
            seen.add(sample.name)
            parts[row["split"]].append(replace(sample, group=row.get("group") or sample.group))
    return Split(parts["train"], parts["test"])


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
    samples: Sequence[Sample], fraction: float, seed: int, *, key: str
) -> tuple[list[Sample], list[Sample]]:
    """Split labelled samples by items: about `fraction` of the items with and without defects.

    Args:
        samples: with labels.
        fraction: of the items that go to the second part, in (0, 1).
        seed: of the shuffle.
        key: the config key to name in errors.

    Returns:
        The samples that stay, and those that were split off.
    """
    if not 0 < fraction < 1:
        raise LtcamError(f"{key}={fraction}: must lie between 0 and 1")
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


def check_classes(samples: Sequence[Sample], part: str) -> None:
    """Refuse a part that lacks one of the two classes.

    Raises:
        LtcamError: naming the class that has no sample.
    """
    for label, name in ((0, "good"), (1, "defective")):
        if not any(sample.label == label for sample in samples):
            raise LtcamError(
                f"the {part} part has no {name} image; choose another dataset.split or fold"
            )
