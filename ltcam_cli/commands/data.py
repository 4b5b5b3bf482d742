"""`data`: fetch a data set, look at it, or make one."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ltcam_cli.commands.compose import compose
from ltcam_cli.commands.options import print_table
from ltcam_cli.commands.settings import Settings
from ltcam_cli.data.download import download_archive
from ltcam_cli.data.ksdd import TWINS
from ltcam_cli.data.load import dataset_name, load_split
from ltcam_cli.data.sample import Sample
from ltcam_cli.data.synthetic import synthetic_samples, write_folder
from ltcam_cli.errors import LtcamError


def download(name: str, overrides: Sequence[str], config_dir: Path | None) -> None:
    """Fetch a published data set into its root."""
    config = Settings.of(compose("data", [f"dataset={name}", *overrides], config_dir)).dataset
    if not config.url or not config.root:
        raise LtcamError(f"dataset={name}: is not published as an archive")
    target = download_archive(config.url, Path(config.root), size=config.size, sha256=config.sha256)
    split = load_split(config)
    found = len(split.listed_train) + len(split.listed_test)
    print(f"{target}: {found} images. Now: ltcam data check dataset={name}")


def check(overrides: Sequence[str], config_dir: Path | None) -> None:
    """Count classes and items of both parts, and name images that stand on both sides.

    Raises:
        LtcamError: if equal images stand in train and test.
    """
    config = Settings.of(compose("data", overrides, config_dir)).dataset
    split = load_split(config)
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
    fold = "" if config.fold is None else f" {config.fold}"
    print(f"{dataset_name(config)}, split {config.split}{fold}")
    print_table(pd.DataFrame(rows))
    if split.dropped:
        items = ", ".join(sorted({sample.group for sample in split.dropped}))
        print(f"dropped from training, since their item is tested: {len(split.dropped)} ({items})")
    listed = [*split.listed_train, *split.listed_test, *(split.dropped or [])]
    if config.kind == "ksdd":
        pairs = ", ".join(f"{second} = {first}" for second, first in TWINS.items())
        count = len({sample.group for sample in listed})
        print(f"{count} physical items; folders that show the same item: {pairs}")
    across = duplicates(split.train, split.test)
    within = duplicates(split.train, split.train) | duplicates(split.test, split.test)
    for first, second in sorted(within):
        print(f"equal images within a part: {first} = {second}")
    for first, second in sorted(across):
        print(f"equal images across train and test: {first} = {second}")
    if across:
        raise LtcamError(
            f"{len(across)} images stand in train and in test; use another split, or give both "
            "the same group"
        )
    print("no image stands on both sides")


def duplicates(first: Sequence[Sample], second: Sequence[Sample]) -> set[tuple[str, str]]:
    """Pairs of different samples whose files (or pixels, without a file) are equal."""
    by_content = defaultdict(list)
    for sample in first:
        by_content[_content(sample)].append(sample.name)
    return {
        (min(name, sample.name), max(name, sample.name))
        for sample in second
        for name in by_content.get(_content(sample), ())
        if name != sample.name
    }


def _content(sample: Sample) -> str:
    content = sample.path.read_bytes() if sample.path else sample.image.tobytes()
    return hashlib.sha256(content).hexdigest()


def synth(out: Path, overrides: Sequence[str], config_dir: Path | None) -> None:
    """Write the synthetic set as a folder of images and masks."""
    overrides = ["dataset=synthetic", *overrides]
    config = Settings.of(compose("data", overrides, config_dir)).dataset
    assert config.items is not None and config.parts is not None and config.defective is not None
    samples = synthetic_samples(
        items=config.items,
        parts=config.parts,
        defective=config.defective,
        height=config.height,
        width=config.width,
        seed=config.seed,
    )
    write_folder(samples, out)
    print(f"{out}: {len(samples)} images. Now: ltcam train dataset=folder dataset.root={out}")
