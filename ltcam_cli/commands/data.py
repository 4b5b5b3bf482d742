"""`data`: fetch a data set, look at it, or make one."""

from __future__ import annotations

import shlex
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


def check(call: Call) -> bool:
    """Count classes and items of both parts, and name what is odd.

    Returns:
        Whether nothing contradicts itself.
    """
    dataset = settings_of("data", call).dataset
    split = load_split(dataset)
    from ltcam_cli.experiments.data_check import class_table, look_at

    fold = dataset.fold
    print(f"{dataset.display_name}, split {dataset.split}{'' if fold is None else f' {fold}'}")
    print_table(class_table(split))
    if split.dropped:
        items = ", ".join(sorted({sample.group for sample in split.dropped}))
        print(f"dropped from training, since their item is tested: {len(split.dropped)} ({items})")
    found = look_at(dataset, split)
    for line in [*dataset.facts(split), *found.odd, *found.wrong]:
        print(line)
    print(f"{len(found.wrong)} contradictions" if found.wrong else "nothing contradicts itself")
    return not found.wrong


def synth(call: Call, out: Path) -> None:
    """Write the synthetic set as a folder of images and masks."""
    dataset = settings_of("data", call.preceded_by("dataset=synthetic")).dataset
    from ltcam_cli.data.folder import write_folder
    from ltcam_cli.data.synthetic import Synthetic

    if not isinstance(dataset, Synthetic):
        raise LtcamError(f"dataset={dataset.kind}: only the synthetic set can be written")
    samples = dataset.samples()
    write_folder(samples, out)
    train = shlex.join(["ltcam", "train", "dataset=folder", f"dataset.root={out}"])
    print(f"{out}: {len(samples)} images. Now: {train}")
