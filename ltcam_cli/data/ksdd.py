"""KolektorSDD: 399 grey images of 50 folders of electrical commutators (Tabernik et al. 2020)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from ltcam_cli.config import NO_EFFECT, Count, FolderName, Side, config
from ltcam_cli.data.dataset import PublishedDataset
from ltcam_cli.data.sample import Sample
from ltcam_cli.data.split import Split, split_by, split_by_csv
from ltcam_cli.errors import LtcamError

# Three items were photographed into two folders each, so that there are 47 items, not 50: 01 and
# 26, 27 and 34 are equal byte for byte; Part K of 38 shows what Part (K+6) mod 8 of 39 shows.
TWINS = {"kos26": "kos01", "kos34": "kos27", "kos39": "kos38"}

# Numbers of the folders that each fold of a split tests; `official` by the data set's authors.
TEST_FOLDERS = {
    "paper": (range(41, 51),),
    "tens": tuple(range(10 * fold + 1, 10 * fold + 11) for fold in range(5)),
    "official": (
        (2, 8, 9, 10, 15, 19, 21, 25, 27, 28, 30, 37, 38, 41, 43, 46, 47),
        (1, 3, 4, 6, 11, 17, 22, 24, 29, 31, 32, 36, 39, 40, 42, 44, 48),
        (5, 7, 12, 13, 14, 16, 18, 20, 23, 26, 33, 34, 35, 45, 49, 50),
    ),
}


@config("dataset")
class Ksdd(PublishedDataset):
    """KolektorSDD: `kosNN/PartM.jpg`, and `kosNN/PartM_label.bmp` with the mask.

    Attributes:
        split: paper (kos41 to kos50 are tested), tens (five folds of ten folders), official (the
            authors' three folds) or csv.
        fold: Fold that is tested: 0..4 of tens, 0..2 of official; null for the other splits.
        split_file: CSV `name,split` of csv, with names such as kos01 or kos01/Part5; null:
            split.csv in the root.
    """

    kind: Literal["ksdd"] = "ksdd"
    name: Annotated[FolderName | None, NO_EFFECT] = "ksdd"
    root: Annotated[str | None, NO_EFFECT] = "data/KolektorSDD"
    split: Literal["paper", "tens", "official", "csv"] = "paper"
    split_file: Annotated[str | None, NO_EFFECT] = None
    height: Side | None = 512
    width: Side | None = 192
    count: Annotated[Count | None, NO_EFFECT] = 399
    url: Annotated[str | None, NO_EFFECT] = "https://go.vicos.si/kolektorsdd"

    def listed(self) -> Split:
        """Both parts, by folders; labels are in the masks."""
        samples = self.samples()
        if self.split == "csv":
            return split_by_csv(samples, Path(self.split_file or self.folder() / "split.csv"))
        tested = {f"kos{number:02d}" for number in TEST_FOLDERS[self.split][self.fold_number()]}
        return split_by(samples, lambda sample: sample.name.split("/")[0] in tested)

    def folds(self) -> dict[str, int]:
        """Number of folds of each split that has folds."""
        return {split: len(folds) for split, folds in TEST_FOLDERS.items() if len(folds) > 1}

    def facts(self, split: Split) -> list[str]:
        """Number of physical items, and the folders that show the same one."""
        twins = ", ".join(f"{second} = {first}" for second, first in TWINS.items())
        count = len({sample.group for sample in split.listed})
        return [f"{count} physical items; folders that show the same item: {twins}"]

    def samples(self) -> list[Sample]:
        """All images; labels are in the masks.

        Raises:
            LtcamError: if the root is not set, or holds something else.
        """
        root, samples = self.folder(), []
        for path in sorted(root.glob("kos*/Part*.jpg")):
            folder = path.parent.name
            mask = path.with_name(f"{path.stem}_label.bmp")
            group = TWINS.get(folder, folder)
            name = f"{folder}/{path.stem}"
            samples.append(Sample.from_files(path, mask, name=name, group=group))
        if not samples:
            raise LtcamError(
                f"dataset.root={root}: no kosNN/PartM.jpg below it; "
                "give the folder that holds kos01, or run: ltcam data download ksdd"
            )
        return samples
