"""KolektorSDD: 399 grey images of 50 folders of electrical commutators (Tabernik et al. 2020)."""

from __future__ import annotations

from pathlib import Path

from ltcam_cli.data.sample import Sample
from ltcam_cli.data.split import Split, split_by
from ltcam_cli.errors import LtcamError

# Three items were photographed into two folders each, so that there are 47 items, not 50: 01 and
# 26, 27 and 34 are equal byte for byte; Part K of 38 shows what Part (K+6) mod 8 of 39 shows.
TWINS = {"kos26": "kos01", "kos34": "kos27", "kos39": "kos38"}

# Test folders of the three folds that the data set's authors published.
OFFICIAL = (
    (2, 8, 9, 10, 15, 19, 21, 25, 27, 28, 30, 37, 38, 41, 43, 46, 47),
    (1, 3, 4, 6, 11, 17, 22, 24, 29, 31, 32, 36, 39, 40, 42, 44, 48),
    (5, 7, 12, 13, 14, 16, 18, 20, 23, 26, 33, 34, 35, 45, 49, 50),
)


def ksdd_samples(root: Path) -> list[Sample]:
    """All images below `root`: `kosNN/PartM.jpg` with `PartM_label.bmp`; labels not yet known."""
    samples = []
    for path in sorted(root.glob("kos*/Part*.jpg")):
        folder = path.parent.name
        mask = path.with_name(f"{path.stem}_label.bmp")
        group = TWINS.get(folder, folder)
        name = f"{folder}/{path.stem}"
        samples.append(Sample.of_files(path, mask, name=name, group=group, label=None))
    if not samples:
        raise LtcamError(
            f"dataset.root={root}: no kosNN/PartM.jpg below it; "
            "give the folder that holds kos01, or run: ltcam data download ksdd"
        )
    return samples


def split_ksdd(samples: list[Sample], split: str, fold: int | None) -> Split:
    """Split by folders.

    Args:
        samples: as `ksdd_samples` gives them.
        split: `paper` (test kos41..50), `tens` (fold k tests kos(10k+1)..(10k+10)) or `official`.
        fold: of `tens` and `official`.

    Raises:
        LtcamError: if there is no such split or fold.
    """
    folds = {
        "paper": [tuple(range(41, 51))],
        "tens": [tuple(range(10 * k + 1, 10 * k + 11)) for k in range(5)],
        "official": list(OFFICIAL),
    }
    if split not in folds:
        raise LtcamError(f"dataset.split={split}: KolektorSDD has {', '.join(folds)}, csv")
    if split == "paper" and fold is None:
        fold = 0
    if fold is None or not 0 <= fold < len(folds[split]):
        last = len(folds[split]) - 1
        raise LtcamError(f"dataset.fold={fold}: the split {split} has folds 0..{last}")
    tested = {f"kos{number:02d}" for number in folds[split][fold]}
    return split_by(samples, lambda sample: sample.name.split("/")[0] in tested)
