"""`data`: fetch a data set, look at it, or make one."""

from __future__ import annotations

from pathlib import Path

from ltcam_cli.commands.compose import settings_of
from ltcam_cli.commands.options import Call
from ltcam_cli.data.dataset import PublishedDataset
from ltcam_cli.data.load import load_split
from ltcam_cli.errors import LtcamError
from ltcam_cli.report.terminal import print_table


def download(call: Call, name: str) -> None:
    """Fetch a published data set into its root."""
    dataset = settings_of("data", call.preceded_by(f"dataset={name}")).dataset
    if not isinstance(dataset, PublishedDataset):
        raise LtcamError(f"dataset={name}: is not published as an archive")
    target = dataset.download()
    split = load_split(dataset)
    count = len(split.listed_train) + len(split.listed_test)
    print(f"{target}: {count} images. Now: ltcam data check dataset={name}")


def check(call: Call) -> None:
    """Count classes and items of both parts, and name images that stand on both sides.

    Raises:
        LtcamError: If equal images stand in train and test.
    """
    dataset = settings_of("data", call).dataset
    split = load_split(dataset)
    from ltcam_cli.data.split import duplicates
    from ltcam_cli.experiments.data_check import class_table

    fold = dataset.fold
    print(f"{dataset.display_name}, split {dataset.split}{'' if fold is None else f' {fold}'}")
    print_table(class_table(split))
    if split.dropped:
        items = ", ".join(sorted({sample.group for sample in split.dropped}))
        print(f"dropped from training, since their item is tested: {len(split.dropped)} ({items})")
    for fact in dataset.facts(split):
        print(fact)
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


def synth(call: Call, out: Path) -> None:
    """Write the synthetic set as a folder of images and masks."""
    dataset = settings_of("data", call.preceded_by("dataset=synthetic")).dataset
    from ltcam_cli.data.folder import write_folder
    from ltcam_cli.data.synthetic import Synthetic

    if not isinstance(dataset, Synthetic):
        raise LtcamError(f"dataset={dataset.kind}: only the synthetic set can be written")
    samples = dataset.samples()
    write_folder(samples, out)
    print(f"{out}: {len(samples)} images. Now: ltcam train dataset=folder dataset.root={out}")
