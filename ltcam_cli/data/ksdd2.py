"""KolektorSDD2: 3335 colour images, split by its authors (Bozic et al. 2021)."""

from __future__ import annotations

from pathlib import Path

from ltcam_cli.data.sample import Sample
from ltcam_cli.data.split import Split
from ltcam_cli.errors import LtcamError


def ksdd2_split(root: Path) -> Split:
    """The authors' split: `train/` and `test/` with `NNNNN.png` and `NNNNN_GT.png`."""
    parts = {}
    for part in ("train", "test"):
        paths = sorted(p for p in (root / part).glob("*.png") if not p.stem.endswith("_GT"))
        if not paths:
            raise LtcamError(
                f"dataset.root={root}: no {part}/NNNNN.png below it; "
                "give the folder that holds train and test, or run: ltcam data download ksdd2"
            )
        parts[part] = [
            Sample.of_files(
                path,
                path.with_name(f"{path.stem}_GT.png"),
                name=f"{part}/{path.stem}",
                group=f"{part}/{path.stem}",
                label=None,
            )
            for path in paths
        ]
    return Split(parts["train"], parts["test"])
