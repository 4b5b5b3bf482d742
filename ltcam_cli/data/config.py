"""What a data set needs to be found, split and loaded."""

from __future__ import annotations

from dataclasses import dataclass

from ltcam_cli.errors import LtcamError, nearest

KINDS = ("ksdd", "ksdd2", "folder", "synthetic")


@dataclass
class DatasetConfig:
    """One data set (conf/dataset/*.yaml). Keys that a kind does not read stay None.

    Attributes:
        kind: `ksdd`, `ksdd2`, `folder` or `synthetic`: how the files lie.
        name: in run names and tables; None takes the root folder's name.
        root: folder of the images.
        split: ksdd `paper | tens | official | csv`; ksdd2 `given`; synthetic `fraction`;
            folder `auto | csv | given | fraction`.
        fold: which fold of `tens` (0..4) or `official` (0..2) is the test part.
        height, width: size in pixels that images are resized to for the network.
        channels: 1 grey or 3 RGB, for networks trained from scratch (pre-trained ones take 3).
        labels: CSV `name,label` of image labels; None takes them from masks or folder names.
        drop_leaks: drop training images whose physical item also stands in the test part.
        on_error: `raise`, or `skip` and count images that cannot be read.
        count: number of images that must be found; None does not check.
        split_file, test_fraction, split_seed: for kinds that are split here.
        items, parts, defective, seed: size and seed of the synthetic set.
        url, size, sha256: the published archive, its bytes and its hash.
    """

    kind: str = "ksdd"
    name: str | None = None
    root: str | None = None
    split: str = "auto"
    fold: int | None = None
    height: int = 512
    width: int = 192
    channels: int = 1
    labels: str | None = None
    drop_leaks: bool = True
    on_error: str = "raise"
    count: int | None = None
    split_file: str | None = None
    test_fraction: float | None = None
    split_seed: int = 0
    items: int | None = None
    parts: int | None = None
    defective: float | None = None
    seed: int = 0
    url: str | None = None
    size: int | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise LtcamError(f"dataset.kind={self.kind}: no such kind{nearest(self.kind, KINDS)}")
        if self.on_error not in {"raise", "skip"}:
            raise LtcamError(f"dataset.on_error={self.on_error}: must be raise or skip")
        if self.channels not in {1, 3}:
            raise LtcamError(f"dataset.channels={self.channels}: must be 1 or 3")
        if min(self.height, self.width) < 32:
            raise LtcamError(
                f"dataset.height={self.height}, dataset.width={self.width}: at least 32 pixels each"
            )
