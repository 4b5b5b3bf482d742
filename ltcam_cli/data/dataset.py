"""What all data sets share. A data set of your own is a subclass that defines `listed`."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ltcam_cli.config import (
    NO_EFFECT,
    UNLESS_DEFAULT,
    Count,
    FolderName,
    NotNegative,
    Positive,
    Says,
    Side,
    as_folder_name,
    config,
)
from ltcam_cli.data.decoding import MAX_PIXELS
from ltcam_cli.data.image_files import ImageReader, White
from ltcam_cli.data.mask_files import MaskReader
from ltcam_cli.data.split import Split
from ltcam_cli.errors import LtcamError

Fit = Literal["stretch", "pad"]


@config("dataset")
class Dataset:
    """A data set: where its images lie, how they are split, and their size for the network.

    Attributes:
        kind: Kind of data set: ksdd, ksdd2, folder, synthetic, or yours as `module:Class`.
        name: Name in run folders and tables; null: the root folder's.
        root: Folder of the images.
        split: Way the images are split into a training and a test part.
        fold: Fold that is tested, of a split that has folds; null: none.
        height, width: Size in pixels that images are resized to; masks keep their own. Null: from
            the sizes of the training images, see `derived_size`.
        fit: How an image of another aspect comes into that size: stretch, or pad, which keeps its
            aspect and fills up with its mean (a letterbox). The checkpoint keeps it.
        channels: 1 grey or 3 RGB, for networks trained from scratch; pre-trained ones take 3.
        labels: CSV `name,label` of image labels, 0 good or 1 defective, which go before the data
            set's own; null: none.
        kinds: CSV `name,kind` of the kinds of defects, `+` between several; null: the column
            `kind` of the data set's other files, kinds.csv in the root, or the folders.
        annotations: True masks that go before the data set's own: a file or folder of COCO, YOLO,
            LabelMe, CVAT or Label Studio, or a folder of mask images; null: none.
        drop_leaks: Whether training images of items that are tested are dropped, not refused.
        on_error: What happens to an image that cannot be read: raise, or skip and count it.
        white: Level of white of images with more than 8 bits: a number; `file`, by the bits of
            each file; `auto`, the least 2^n - 1 that no training image exceeds, or 1 for floats up
            to 1. The checkpoint keeps it.
        mask_values: Grey values of defects in the masks; empty: the brighter of two main values.
        max_pixels: Most pixels of an image or mask.
        count: Number of images that must be there; null: any.
    """

    kind: str = ""
    name: Annotated[FolderName | None, NO_EFFECT] = None
    root: Annotated[str | None, NO_EFFECT] = None
    split: str = "given"
    fold: Annotated[int, Field(ge=0, le=999)] | None = None
    height: Side | None = None
    width: Side | None = None
    fit: Annotated[Fit, UNLESS_DEFAULT] = "stretch"
    channels: Literal[1, 3] = 1
    labels: Annotated[str | None, NO_EFFECT] = None
    kinds: Annotated[str | None, NO_EFFECT] = None
    annotations: Annotated[str | None, NO_EFFECT] = None
    drop_leaks: bool = True
    on_error: Annotated[Literal["raise", "skip"], NO_EFFECT] = "raise"
    white: Literal["auto", "file"] | Positive = "auto"
    mask_values: Annotated[list[NotNegative], Field(max_length=256)] = field(default_factory=list)
    max_pixels: Annotated[Count, NO_EFFECT] = MAX_PIXELS
    count: Annotated[Count | None, NO_EFFECT] = None

    def __post_init__(self) -> None:
        if self.fold is not None:
            self.fold_number()

    def listed(self) -> Split:
        """Both parts as they are found: with all leaks, and labels unknown where masks tell them.

        Raises:
            LtcamError: if the images are not there.
        """
        raise NotImplementedError

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width in pixels that images are resized to.

        Raises:
            LtcamError: if they are not set.
        """
        if self.height is None or self.width is None:
            raise LtcamError(
                "dataset.height and dataset.width are not set; give the size that the network "
                "takes, e.g. dataset.height=224 dataset.width=224"
            )
        return self.height, self.width

    def image_reader(self, white: White) -> ImageReader:
        """Reader of its images; `white` counts where the key is `auto`."""
        level = white if self.white == "auto" else self.white
        return ImageReader(level, self.max_pixels)

    def mask_reader(self) -> MaskReader:
        """Reader of its masks."""
        return MaskReader(tuple(self.mask_values), self.max_pixels)

    def folds(self) -> dict[str, int]:
        """Number of folds of each split that has folds."""
        return {}

    def kind_files(self) -> list[Path]:
        """CSVs that are there and may have a column `kind`, the one that counts most first."""
        return [Path(self.labels)] if self.labels else []

    def facts(self, split: Split) -> list[str]:
        """Lines that `ltcam data check` prints of this data set."""
        counts = Counter(kind for sample in split.part("all") for kind in sample.kinds)
        told = ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items()))
        return [f"kinds: {told}"] if told else []

    @property
    def display_name(self) -> str:
        """Name in run folders and tables."""
        if self.name is not None or not self.root:
            return self.name or self.kind
        return as_folder_name(Path(os.path.normpath(Path.cwd() / self.root)).name) or self.kind

    def fold_number(self) -> int:
        """Fold that is tested; 0 if the split has no folds.

        Raises:
            LtcamError: if the split has no such fold, or has folds and none is set.
        """
        count = self.folds().get(self.split, 0)
        if self.fold is None and not count:
            return 0
        if not count:
            raise LtcamError(
                f"dataset.fold={self.fold}: the split {self.split} has no folds; use null"
            )
        if self.fold is None or self.fold >= count:
            fold = "null" if self.fold is None else self.fold
            raise LtcamError(
                f"dataset.fold={fold}: the split {self.split} has folds 0..{count - 1}"
            )
        return self.fold

    def folder(self) -> Path:
        """Root folder.

        Raises:
            LtcamError: if it is not set or does not exist.
        """
        if not self.root:
            raise LtcamError(
                "dataset.root is not set; give the folder of the images (one called null: ./null)"
            )
        root = Path(self.root).expanduser()  # no shell expands ~ behind `dataset.root=`
        if not root.is_dir():
            raise LtcamError(
                f"dataset.root={self.root}: no such folder; give the images' folder"
                f"{self._or_download}"
            )
        return root

    @property
    def _or_download(self) -> str:
        return ""


@config("dataset")
class PublishedDataset(Dataset):
    """A data set that is published as an archive.

    Attributes:
        url: Address of the archive, http or https.
        size: Bytes of the archive, checked where set.
        sha256: SHA-256 of the archive, checked where set.
    """

    url: Annotated[str | None, NO_EFFECT] = None
    size: Annotated[Annotated[int, Field(ge=1, le=2**40)] | None, NO_EFFECT] = None
    sha256: Annotated[
        Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$"), Says("64 hexadecimal digits")] | None,
        NO_EFFECT,
    ] = None

    def download(self) -> Path:
        """Fetch the archive and unpack it as the root folder; see `download_archive`.

        Raises:
            LtcamError: if address or root are not set, or the download fails.
        """
        from ltcam_cli.data.download import download_archive

        for key, value in (("url", self.url), ("root", self.root)):
            if not value:
                raise LtcamError(f"dataset.{key} is not set; give it to download {self.kind}")
        assert self.url and self.root
        return download_archive(self.url, Path(self.root), size=self.size, sha256=self.sha256)

    @property
    def _or_download(self) -> str:
        download = f", or run: ltcam data download {self.kind}" if self.url else ""
        own = "for your own images set dataset=folder dataset.root=FOLDER, or name their run"
        return f"{download}; {own}"
