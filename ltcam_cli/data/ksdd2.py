"""KolektorSDD2: 3335 colour images, split by its authors (Bozic et al. 2021)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from ltcam_cli.config import NO_EFFECT, Count, FolderName, Side, config
from ltcam_cli.data.dataset import PublishedDataset
from ltcam_cli.data.sample import Sample
from ltcam_cli.data.split import Split
from ltcam_cli.errors import LtcamError


@config("dataset")
class Ksdd2(PublishedDataset):
    """KolektorSDD2: `train/` and `test/` with `NNNNN.png`, and `NNNNN_GT.png` with the mask.

    Attributes:
        split: given, by the data set's authors.
    """

    kind: Literal["ksdd2"] = "ksdd2"
    name: Annotated[FolderName | None, NO_EFFECT] = "ksdd2"
    root: Annotated[str | None, NO_EFFECT] = "data/KolektorSDD2"
    split: Literal["given"] = "given"
    height: Side | None = 640
    width: Side | None = 224
    channels: Literal[1, 3] = 3
    count: Annotated[Count | None, NO_EFFECT] = 3335
    url: Annotated[str | None, NO_EFFECT] = "https://go.vicos.si/kolektorsdd2"

    def listed(self) -> Split:
        """The authors' two parts; labels are in the masks."""
        root = self.folder()
        return Split(_samples(root, "train"), _samples(root, "test"))


def _samples(root: Path, part: str) -> list[Sample]:
    paths = sorted(p for p in (root / part).glob("*.png") if not p.stem.endswith("_GT"))
    if not paths:
        raise LtcamError(
            f"dataset.root={root}: no {part}/NNNNN.png below it; "
            "give the folder that holds train and test, or run: ltcam data download ksdd2"
        )
    return [
        Sample.from_files(path, path.with_name(f"{path.stem}_GT.png"), name=f"{part}/{path.stem}")
        for path in paths
    ]
