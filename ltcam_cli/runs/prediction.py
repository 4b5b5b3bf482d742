"""Masks of images that nobody labelled: streamed, and resumed where they stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from skimage.measure import label, regionprops

from ltcam_cli.classifier.checkpoint import Classifier
from ltcam_cli.data.sample import IMAGE_SUFFIXES, Sample
from ltcam_cli.errors import LtcamError, nearest
from ltcam_cli.files import atomic
from ltcam_cli.maps.engine import HeatmapSource
from ltcam_cli.runs.evaluation import Drawing, ImageResult, Mapped, mapped, overlapped
from ltcam_cli.runs.shards import Shard, Tables

RUNTIMES = ("torch", "onnx")


@dataclass
class PredictConfig:
    """How unlabelled images are treated (conf/predict/*.yaml).

    Attributes:
        out: folder of the results; None: `predict/<cell>` in the run folder.
        gate: empty masks where the classifier says clean.
        overlays: write a picture of each image.
        save_maps: write heatmaps as float32 (H, W) at the images' own size.
        shard: `i/n`: only the i-th of n parts of the images, into tables of its own; None for all.
        runtime: `torch`, or `onnx`: what `ltcam export` wrote, by onnxruntime.
        model: that file; None: `model.onnx` in the run folder.
        batch_size, workers, on_error: of loading.
    """

    out: str | None = None
    gate: bool = True
    overlays: bool = True
    save_maps: bool = False
    shard: str | None = None
    runtime: str = "torch"
    model: str | None = None
    batch_size: int = 8
    workers: int | None = None
    on_error: str = "raise"

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise LtcamError(f"predict.batch_size={self.batch_size}: must be at least 1")
        if self.on_error not in {"raise", "skip"}:
            raise LtcamError(f"predict.on_error={self.on_error}: must be raise or skip")
        if self.runtime not in RUNTIMES:
            raise LtcamError(
                f"predict.runtime={self.runtime}: unknown{nearest(self.runtime, RUNTIMES)}"
            )
        self.part()

    def part(self) -> Shard | None:
        """The shard, if it is not all."""
        return None if self.shard is None else Shard.parse(self.shard)


def find_images(paths: Sequence[Path], besides: Path | None = None) -> list[Sample]:
    """Images of files and, recursively, of folders, without labels; none below `besides`.

    Raises:
        LtcamError: if a path does not exist, or there is no image.
    """
    samples = []
    for path in paths:
        if path.is_dir():
            # The folder is resolved once: on a network each look at a million files is felt.
            root, hidden = path.resolve(), besides and besides.resolve()
            files = sorted(
                file
                for file in path.rglob("*")
                if file.suffix.lower() in IMAGE_SUFFIXES
                and not (hidden and (root / file.relative_to(path)).is_relative_to(hidden))
            )
            named = [(file, file.relative_to(path).with_suffix("").as_posix()) for file in files]
        elif path.is_file():
            named = [(path, path.stem)]
        else:
            raise LtcamError(f"{path}: no such image or folder")
        samples += [
            Sample.of_files(file, None, name=name, group=name, label=None) for file, name in named
        ]
    if not samples:
        raise LtcamError(f"{', '.join(map(str, paths))}: no image there")
    names = pd.Series([sample.name for sample in samples])
    if names.duplicated().any():
        twice = names[names.duplicated()].iloc[0]
        raise LtcamError(f"{twice}: two images are called so; predict them into two folders")
    return samples


def predict(
    classifier: Classifier,
    source: HeatmapSource,
    drawing: Drawing,
    samples: Sequence[Sample],
    config: PredictConfig,
    out: Path,
    *,
    identity: str = "",
    draw: Callable[[ImageResult, Path], None] | None = None,
    progress: str | None = None,
) -> tuple[pd.DataFrame, list[str]]:
    """Write masks, overlays and maps of each image, and the tables `scores.csv`, `regions.csv`.

    Images that `scores.csv` already lists are not computed again, unless their file is newer.

    Args:
        drawing: of one of the source's maps.
        samples: all of them; with `config.shard` its own are taken, and its tables are called
            `scores.3of8.csv`, `regions.3of8.csv`.
        identity: hash of method, segmenter and classifier: shards of one hash can be joined.

    Returns:
        The table of scores, and the names of images that could not be read.

    Raises:
        LtcamError: if `out` holds the mask of another image of the same name, or other shards.
    """
    shard = config.part()
    tables = Tables(out, shard)
    samples = shard.of(samples) if shard else samples
    names = [sample.name for sample in samples]
    scores, regions = tables.read()
    held = dict(zip(scores["name"], scores["path"], strict=True))
    wanted = ["masks/{}.png"]
    wanted += ["maps/{}.npy"] if config.save_maps else []
    wanted += ["overlays/{}.png"] if config.overlays and draw is not None else []
    todo = [sample for sample in samples if not _is_done(sample, held, out, wanted)]
    anew = [sample.name for sample in todo]
    tables.claim(names, identity)
    tables.write(scores[~scores["name"].isin(anew)], regions[~regions["name"].isin(anew)])
    rows: list[dict[str, Any]] = []
    region_rows: list[dict[str, Any]] = []
    skipped: list[str] = []

    def save() -> None:
        full, full_regions = rows.copy(), region_rows.copy()
        rows.clear()
        region_rows.clear()
        tables.append(full, full_regions)  # no row twice, should this fail

    def write(batch: Mapped) -> None:
        for result in batch.results([drawing], gate=config.gate):
            sample = result.item.sample
            found = describe_regions(result)
            _write_pictures(result, out, config, draw)
            region_rows.extend({"name": sample.name, **region} for region in found)
            rows.append(
                {
                    "name": sample.name,
                    "path": _place(sample),
                    "probability": result.probability,
                    "predicted": int(result.predicted),
                    "regions": len(found),
                    "area": int(result.mask.sum()),
                }
            )
            if len(rows) == 50:
                save()

    try:
        overlapped(
            mapped(
                classifier,
                source,
                todo,
                masks=False,
                batch_size=config.batch_size,
                workers=config.workers,
                on_error=config.on_error,
                skipped=skipped,
                progress=progress,
            ),
            write,
        )
    finally:
        save()
    if shard and skipped:
        tables.record(names, identity, skipped)
    return tables.read()[0], skipped


def describe_regions(result: ImageResult) -> list[dict[str, Any]]:
    """The mask's 8-connected regions, the most certain first.

    Each with its box in pixels (bottom and right exclusive), area, length (of the ellipse with the
    same second moments, at least 1), mean width (area / length), and the heatmap's highest value
    in it.
    """
    found = regionprops(label(result.mask, connectivity=2), intensity_image=result.heatmap)
    regions: list[dict[str, Any]] = []
    for region in sorted(found, key=lambda region: -float(region.intensity_max)):
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
    return regions


def _place(sample: Sample) -> str:
    assert sample.path is not None
    return str(sample.path.resolve())


def _is_done(sample: Sample, held: dict[str, str], out: Path, wanted: list[str]) -> bool:
    """Whether all that is wanted of an image is there, and newer than the image."""
    if sample.name not in held:
        return False
    if held[sample.name] != _place(sample):
        raise LtcamError(
            f"{out}: holds the mask of another {sample.name} ({held[sample.name]}); "
            "choose another predict.out"
        )
    assert sample.path is not None
    changed = sample.path.stat().st_mtime_ns
    paths = [out / pattern.format(sample.name) for pattern in wanted]
    return all(path.is_file() and path.stat().st_mtime_ns >= changed for path in paths)


def _write_pictures(
    result: ImageResult,
    out: Path,
    config: PredictConfig,
    draw: Callable[[ImageResult, Path], None] | None,
) -> None:
    name = result.item.sample.name
    with atomic(out / "masks" / f"{name}.png") as temporary:
        Image.fromarray(result.mask.astype(np.uint8) * 255).save(temporary)
    if config.save_maps:
        save_map(result, out / "maps" / f"{name}.npy")
    if config.overlays and draw is not None:
        draw(result, out / "overlays" / f"{name}.png")


def save_map(result: ImageResult, path: Path) -> None:
    """Write the heatmap as float32 (H, W) at the image's own size, before any threshold."""
    with atomic(path) as temporary:
        np.save(temporary, result.heatmap.astype(np.float32))
