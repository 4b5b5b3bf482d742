"""What a person said of predicted masks: the masks as PNG files, and a table of image labels.

<folder>/masks/<name>.png, which `dataset.annotations` reads, and <folder>/labels.csv, which
`dataset.labels` reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from ltcam_cli.errors import LtcamError
from ltcam_cli.files import atomic, exclusive, write_table
from ltcam_cli.runs.reading import read_table, reading

COLUMNS = ("name", "label", "decision")
REMEDY = "correct it, or move the folder away and review the images anew"


@dataclass
class Corrections:
    """A folder of corrections, of which one process writes at a time; see `opened`.

    Attributes:
        folder: Folder.
        rows: Label (0 good, 1 defective) and decision (accepted, repainted or rejected) of each
            image that was reviewed, by name.
    """

    folder: Path
    rows: dict[str, tuple[int, str]] = field(default_factory=dict)

    @classmethod
    @contextmanager
    def opened(cls, folder: Path) -> Iterator[Corrections]:
        """The corrections of a folder, which need not exist yet; no other process writes there.

        Raises:
            LtcamError: If the folder holds something else, or its table is damaged.
        """
        table = folder / "labels.csv"
        if folder.exists() and not table.is_file() and _visible(folder):
            raise LtcamError(
                f"{folder}: holds no corrections (no labels.csv), but other files; "
                "choose another folder with --out"
            )
        with exclusive(table):
            yield cls(folder, _read(table) if table.is_file() else {})

    def mask(self, name: str, size: tuple[int, int]) -> np.ndarray | None:
        """Corrected mask (H, W) bool of an image; None where there is none.

        Args:
            name: Of the image.
            size: Height and width of the image.

        Raises:
            LtcamError: If the file is damaged, or of another size.
        """
        path = self._path(name)
        if not path.is_file():
            return None
        with reading(path, REMEDY), Image.open(path) as image:
            mask = np.asarray(image.convert("L")) > 0
        if mask.shape != size:
            raise LtcamError(f"{path}: is {mask.shape}, and its image {size}; {REMEDY}")
        return mask

    def save(self, name: str, label: int, mask: np.ndarray | None, decision: str) -> None:
        """Write what was decided of an image: its mask first, then the table.

        Args:
            name: Of the image.
            label: 0 good, 1 defective.
            mask: (H, W) bool; None: the image is defective, and nobody knows where.
            decision: What the person did.
        """
        path = self._path(name)
        if mask is None:
            path.unlink(missing_ok=True)
        else:
            with atomic(path) as temporary:
                Image.fromarray(mask.astype(np.uint8) * 255).save(temporary)
        self.rows[name] = label, decision
        self._write()

    def forget(self, name: str) -> None:
        """Delete what was decided of an image."""
        self.rows.pop(name, None)
        self._write()
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        below = Path(f"{name}.png")
        if below.is_absolute() or ".." in below.parts:
            raise LtcamError(f"{name}: leads out of the folder of corrections; rename the image")
        return self.folder / "masks" / below

    def _write(self) -> None:
        rows = [(name, *row) for name, row in sorted(self.rows.items())]
        write_table(self.folder / "labels.csv", pd.DataFrame(rows, columns=list(COLUMNS)))


def _visible(folder: Path) -> bool:
    return not folder.is_dir() or any(path.name[0] != "." for path in folder.iterdir())


def _read(path: Path) -> dict[str, tuple[int, str]]:
    table = read_table(path, REMEDY, COLUMNS, ("label",))
    return {
        str(name): (int(label), str(decision))
        for name, label, decision in table[list(COLUMNS)].itertuples(index=False)
    }
