"""Annotations of a folder of predictions, from its finished masks: `predict.annotations`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import cast

import numpy as np
import pandas as pd
from PIL import Image

from ltcam_cli.annotations.formats import Format
from ltcam_cli.annotations.writing import WRITERS, Picture
from ltcam_cli.classifier.kinds import PROBABILITY
from ltcam_cli.errors import LtcamError
from ltcam_cli.files import sha256, write_json, write_text
from ltcam_cli.progress import track
from ltcam_cli.runs.folder import read_config
from ltcam_cli.runs.reading import read_mapping, reading

BOX = ("top", "left", "bottom", "right")
ANNOTATIONS = "annotations"  # their folder, below that of the predictions


def write_annotations(
    out: Path, scores: pd.DataFrame, regions: pd.DataFrame, kind: Format, class_name: str
) -> None:
    """Write the masks of a table's images as annotations, in the order of their names.

    So they are the same after any number of interruptions, and of any shards. Digests of the files
    are kept, so that no correction is lost.

    Args:
        out: Folder of the predictions.
        scores: Table of scores.
        regions: Table of regions.
        kind: Format.
        class_name: Class of the defects, where no kinds of them are told apart.

    Raises:
        LtcamError: If somebody changed a file that would be written anew.
    """
    folder = out / ANNOTATIONS
    record = folder / f".{kind}.json"
    remedy = f"move {folder} away, or choose another predict.out"
    known = read_mapping(record, remedy) if record.is_file() else {}
    written: dict[str, str] = {}
    kinds = [column for column in scores.columns if column.startswith(PROBABILITY)]
    classes = [column.removeprefix(PROBABILITY) for column in kinds] or [class_name]
    pictures = _pictures(out, scores, regions)
    try:
        for name, text in WRITERS[kind](pictures, folder.resolve(), classes):
            path, digest = folder / name, hashlib.sha256(text.encode()).hexdigest()
            held = sha256(path) if path.is_file() else None
            if held not in {None, digest, known.get(name)}:
                raise LtcamError(f"{path}: was changed since it was written; {remedy}")
            if held != digest:
                write_text(path, text)
            written[name] = digest
        for name in known.keys() - written.keys():  # of images that are called otherwise now
            path = folder / name
            if path.is_file() and sha256(path) == known[name]:
                path.unlink()
                del known[name]
    finally:
        write_json(record, {**known, **written})


def write_asked_annotations(out: Path, scores: pd.DataFrame, regions: pd.DataFrame) -> bool:
    """Write the annotations that a folder's config asks for; whether it asks for any.

    Raises:
        LtcamError: See `write_annotations`.
    """
    if not (out / "config.yaml").is_file():
        return False
    config = read_config(out, "predict one of the shards again").get("predict") or {}
    kind = config.get("annotations")
    if kind not in WRITERS:
        return False
    class_name = config.get("class_name", "defect")
    write_annotations(out, scores, regions, cast(Format, kind), class_name)
    return True


def kept_mask(out: Path, name: str) -> np.ndarray:
    """Mask (H, W) bool of an image of a folder of predictions.

    Raises:
        DamagedFileError: If it is damaged or missing.
    """
    path = out / "masks" / f"{name}.png"
    with reading(path, "predict the images anew"), Image.open(path) as image:
        return np.asarray(image) > 0


def _pictures(out: Path, scores: pd.DataFrame, regions: pd.DataFrame) -> Iterator[Picture]:
    classes: dict[str, dict[tuple[int, ...], str]] = {}
    for row in regions.to_dict("records") if "kind" in regions else ():
        top, left, bottom, right, area = (int(row[key]) for key in (*BOX, "area"))
        key = (top, left, bottom - top, right - left, area)
        classes.setdefault(row["name"], {})[key] = row["kind"]
    for name, path in track(sorted(zip(scores["name"], scores["path"], strict=True)), ANNOTATIONS):
        mask = kept_mask(out, name)
        is_whole = f"/{PurePosixPath(path)}".endswith(f"/{name}")  # names of twins have a suffix
        file = name if is_whole else name + Path(path).suffix
        yield Picture(name, file, Path(path), mask, classes.get(name, {}))
