"""Masks of images without labels: streamed, and resumed where they stopped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from skimage.measure import label, regionprops

from ltcam_cli.classifier.checkpoint import Classifier
from ltcam_cli.data.listing import (
    check_lengths,
    kept_apart,
    list_images,
    readable,
    said,
    without_twins,
)
from ltcam_cli.data.sample import Sample
from ltcam_cli.errors import LtcamError
from ltcam_cli.files import atomic
from ltcam_cli.maps.engine import HeatmapSource
from ltcam_cli.progress import track
from ltcam_cli.runs.acceptance import Acceptance
from ltcam_cli.runs.masking import (
    BatchMaps,
    ImageResult,
    Loading,
    MaskJob,
    batch_maps,
    in_background,
)
from ltcam_cli.runs.prediction_tables import PredictionTables
from ltcam_cli.runs.reliability import Reliability
from ltcam_cli.runs.shards import Shard

SAVED = 50  # images after which the tables are written


@dataclass(frozen=True)
class Writing:
    """What is written of each image.

    Attributes:
        out: Folder of the results.
        identity: Hash of all that decides the masks; shards of one hash can be joined.
        gate: Whether an image that the classifier calls good gets an empty mask.
        save_maps: Whether heatmaps are written.
        draw: Function that writes an overlay; None: no overlays.
        shard: Part of the images; None: all.
        acceptance: Scale of the images, and limits of accepted parts.
        reliability: Of images that are called good; None: it is not asked for.
        kinds: Kinds of defects that the classifier tells apart.
    """

    out: Path
    identity: str = ""
    gate: bool = True
    save_maps: bool = False
    draw: Callable[[ImageResult, Path], None] | None = None
    shard: Shard | None = None
    acceptance: Acceptance = field(default_factory=Acceptance)
    reliability: Reliability | None = None
    kinds: tuple[str, ...] = ()

    @property
    def tables(self) -> PredictionTables:
        """Tables that are written."""
        return PredictionTables(self.out, self.shard, self.acceptance, self.kinds)

    @property
    def patterns(self) -> list[str]:
        """Files of an image, below `out`."""
        patterns = ["masks/{}.png"]
        patterns += ["maps/{}.npy"] if self.save_maps else []
        return patterns + (["overlays/{}.png"] if self.draw is not None else [])


def find_images(
    paths: Sequence[Path], besides: Path | None = None, left_out: Counter[str] | None = None
) -> list[Sample]:
    """Images of files and, recursively, of folders, without labels.

    Those of a folder that differ in their suffix alone are called with it.

    Args:
        paths: of images and folders.
        besides: a folder that is not looked into.
        left_out: is given the number of other files, by what they are.

    Raises:
        LtcamError: if a path does not exist, there is no image, or two have one name.
    """
    named: list[tuple[str, Path]] = []
    others: Counter[str] = Counter() if left_out is None else left_out
    for path in paths:
        if path.is_dir():
            listing = list_images(path, besides)
            others.update(listing.left_out)
            named += kept_apart(listing)
        elif path.is_file():
            named.append((readable(path.stem), path))
        else:
            raise LtcamError(f"{path}: no such image or folder")
    if not named:
        found = f" ({said(others)})" if others else ""
        raise LtcamError(f"{', '.join(map(str, paths))}: no image there{found}")
    return [
        Sample.from_files(file, None, name=name)
        for name, file in without_twins(named, "predict them into two folders").items()
    ]


def predict(
    classifier: Classifier,
    source: HeatmapSource,
    job: MaskJob,
    samples: Sequence[Sample],
    writing: Writing,
    loading: Loading,
) -> tuple[pd.DataFrame, list[str]]:
    """Write masks, overlays and maps of each image, and the tables `scores.csv`, `regions.csv`.

    Images that `scores.csv` already lists are not computed again, unless their content changed.

    Args:
        classifier: Classifier that prepares the images and says which are defective.
        source: Heatmap source.
        job: Mask job of one of its maps.
        samples: All samples; of a shard its part is taken, with tables called `scores.3of8.csv`.
        writing: What is written, and where.
        loading: How images are loaded.

    Returns:
        Table of scores, and the names of images that could not be read.

    Raises:
        LtcamError: If `out` holds the mask of another image of the same name, or other shards.
    """
    tables = writing.tables
    samples = writing.shard.of(samples) if writing.shard else samples
    names = [sample.name for sample in samples]
    check_lengths(names, len(".png"), "predict")
    scores, regions = tables.read()
    done: dict[str, Any] = {row["name"]: row for row in scores.to_dict("records")}
    todo = [
        sample
        for sample in track(samples, "looking for what is done")
        if not is_done(sample, done, writing)
    ]
    anew = [sample.name for sample in todo]
    tables.claim(names, writing.identity)
    anew += _renamed(samples, done, writing)
    tables.write(scores[~scores["name"].isin(anew)], regions[~regions["name"].isin(anew)])
    rows: list[dict[str, Any]] = []
    region_rows: list[dict[str, Any]] = []
    skipped: list[str] = []

    def save() -> None:
        full, full_regions = rows.copy(), region_rows.copy()
        rows.clear()
        region_rows.clear()
        tables.append(full, full_regions)  # no row twice, should this fail

    def write(batch: BatchMaps) -> None:
        for result in batch.results([job], gate=writing.gate):
            row, image_regions = record(result, writing)
            region_rows.extend(image_regions)
            rows.append(row)
            if len(rows) == SAVED:
                save()

    try:
        in_background(
            batch_maps(classifier, source, todo, loading, masks=False, skipped=skipped), write
        )
    finally:
        save()
    if writing.shard and skipped:
        tables.record(names, writing.identity, skipped)
    return tables.read()[0], skipped


def record(result: ImageResult, writing: Writing) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Write the pictures of an image; its rows of `scores.csv` and `regions.csv`."""
    sample, acceptance = result.item.sample, writing.acceptance
    regions = [
        {"name": sample.name, **acceptance.measured(region)} for region in describe_regions(result)
    ]
    _write_pictures(result, writing)
    row = {
        "name": sample.name,
        "path": path_of(sample),
        "probability": result.probability,
        "predicted": int(result.predicted),
        "regions": len(regions),
        "area": int(result.mask.sum()),
        "content": image_content(sample),
        **result.kinds.verdict.columns(result.predicted),
    }
    if (score := writing.reliability) is not None:
        value = None if result.predicted else float(score(result.item.image[None])[0])
        below = value is not None and value < (acceptance.ask_below or 0)
        row |= {"reliability": value, "look_again": int(below)}
    return acceptance.judged(row, regions), regions


def describe_regions(result: ImageResult) -> list[dict[str, Any]]:
    """The mask's 8-connected regions, the most certain first.

    Each with its box in pixels (bottom and right exclusive), area, length (of the ellipse with the
    same second moments, at least 1), mean width (area / length), and the heatmap's highest value
    in it; with its kind where the classifier tells kinds apart.
    """
    masks = result.masks
    properties = regionprops(label(result.mask, connectivity=2), intensity_image=result.heatmap)
    regions: list[dict[str, Any]] = []
    for region in sorted(properties, key=lambda region: -float(region.intensity_max)):
        top, left, bottom, right = region.bbox
        length = max(1.0, float(region.axis_major_length))
        regions.append(
            {
                "region": len(regions) + 1,
                "top": top,
                "left": left,
                "bottom": bottom,
                "right": right,
                "area": int(region.area),
                "length": length,
                "width": float(region.area) / length,
                "score": float(region.intensity_max),
            }
        )
        if masks:
            inside = tuple(region.coords[0])
            regions[-1]["kind"] = next(kind for kind, mask in masks.items() if mask[inside])
    return regions


def path_of(sample: Sample) -> str:
    """Path of an image as tables have it."""
    assert sample.path is not None
    return readable(sample.path.resolve())


def image_content(sample: Sample) -> str:
    """First 16 hex digits of the SHA-256 of the image's file."""
    return sample.image_digest()[:16]


def is_done(sample: Sample, done: dict[str, Any], writing: Writing) -> bool:
    """Whether all that is written of an image is there, and of the image as it is now."""
    row = done.get(sample.name)
    if row is None:
        return False
    if row["path"] != path_of(sample):
        raise LtcamError(
            f"{writing.out}: holds the mask of another {sample.name} ({row['path']}); "
            "choose another predict.out"
        )
    paths = [writing.out / pattern.format(sample.name) for pattern in writing.patterns]
    return row["content"] == image_content(sample) and all(path.is_file() for path in paths)


def _renamed(samples: Sequence[Sample], done: dict[str, Any], writing: Writing) -> list[str]:
    """Older names of images, whose results are deleted: `a.png` was `a` before `a.jpg` came."""
    now = {path_of(sample): sample.name for sample in samples}
    names = [name for name, row in done.items() if now.get(row["path"], name) != name]
    for name in names:
        for pattern in writing.patterns:
            (writing.out / pattern.format(name)).unlink(missing_ok=True)
    return names


def _write_pictures(result: ImageResult, writing: Writing) -> None:
    name, out = result.item.sample.name, writing.out
    with atomic(out / "masks" / f"{name}.png") as temporary:
        Image.fromarray(result.mask.astype(np.uint8) * 255).save(temporary)
    if writing.save_maps:
        save_map(result, out / "maps" / f"{name}.npy")
    if writing.draw is not None:
        writing.draw(result, out / "overlays" / f"{name}.png")


def save_map(result: ImageResult, path: Path) -> None:
    """Write the heatmap as float32 (H, W) at the image's own size, before any threshold."""
    with atomic(path) as temporary:
        np.save(temporary, result.heatmap.astype(np.float32))
