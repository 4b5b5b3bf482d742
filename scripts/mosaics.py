#!/usr/bin/env python3
"""Large images with small defects, from a folder of small ones: scripts/mosaics.py SOURCE OUT.

An image is 4 x 4 cells of 160 x 160 pixels. A quarter of the images have one defective cell among
good ones. Cells of both parts come from the source's parts of the same name.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from PIL import Image

CELLS, SIDE, SHARE = 4, 160, 4  # cells a side; pixels of a cell; one image in so many is defective
COUNTS = {"train": 400, "test": 160}
LEAST = 20  # pixels of a defect in its cell


def cell(path: Path, mode: str) -> Image.Image:
    """The middle square of an image or mask, as a cell."""
    image = Image.open(path).convert(mode)
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    rule = Image.Resampling.NEAREST if mode == "L" else Image.Resampling.BICUBIC
    return image.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), rule)


def write_mosaics(source: Path, out: Path) -> None:
    """Write `good/`, `defect/`, `masks/` and `split.csv`."""
    for folder in ("good", "defect", "masks"):
        (out / folder).mkdir(parents=True)
    with (source / "split.csv").open() as file:
        parts = {row["name"]: row["split"] for row in csv.DictReader(file)}
    masks = {path.stem: path for path in (source / "masks").iterdir()}
    random, lines = np.random.default_rng(0), ["name,split"]
    for part, count in COUNTS.items():
        good, bad = (
            [path for path in sorted((source / kind).iterdir()) if parts.get(path.stem) == part]
            for kind in ("good", "defect")
        )
        bad = [path for path in bad if path.stem in masks]
        order, used = random.permutation(len(bad)), 0
        for number in range(count):
            name, kind = f"{part}{number:04d}", "good" if number % SHARE else "defect"
            mosaic = Image.new("RGB", (CELLS * SIDE, CELLS * SIDE))
            drawn = random.choice(len(good), CELLS**2, replace=len(good) < CELLS**2)
            for place, index in enumerate(drawn):
                corner = (place % CELLS * SIDE, place // CELLS * SIDE)
                mosaic.paste(cell(good[index], "RGB"), corner)
            if kind == "defect":
                defect = np.zeros((SIDE, SIDE), bool)
                while defect.sum() < LEAST:
                    path = bad[order[used % len(bad)]]
                    defect, used = np.array(cell(masks[path.stem], "L")) > 127, used + 1
                place = int(random.integers(CELLS**2))
                corner = (place % CELLS * SIDE, place // CELLS * SIDE)
                mosaic.paste(cell(path, "RGB"), corner)
                mask = Image.new("L", mosaic.size)
                mask.paste(Image.fromarray(defect), corner)
                mask.save(out / "masks" / f"{name}.png")
            mosaic.save(out / kind / f"{name}.png")
            lines.append(f"{name},{part}")
    (out / "split.csv").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    write_mosaics(given.source, given.out)
