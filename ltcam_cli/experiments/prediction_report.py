"""A page of what `ltcam predict` wrote: its tables, and the masks over the images."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ltcam_cli.data.image_files import ImageReader
from ltcam_cli.errors import LtcamError
from ltcam_cli.experiments.settings import Composed, with_kept_parts
from ltcam_cli.progress import track
from ltcam_cli.report.gallery import Gallery, heat_of, mask_of
from ltcam_cli.report.predictions import Predicted, render_predictions
from ltcam_cli.runs.annotating import kept_mask
from ltcam_cli.runs.prediction_tables import ANEW, read_predictions, unsure_first
from ltcam_cli.runs.reading import reading

log = logging.getLogger("ltcam_cli")


def prediction_page(folder: Path, limit: int) -> tuple[str, str]:
    """The page of a folder of predictions as HTML, and what is in it.

    Args:
        folder: Folder that `ltcam predict` wrote.
        limit: Most images: those whose probability is nearest to the threshold.

    Raises:
        LtcamError: If shards were not joined, a file is damaged, or no image can be read.
    """
    config, scores, regions = read_predictions(folder)
    threshold = config["threshold"]
    shown = unsure_first(scores, threshold)[:limit]
    gallery = Gallery([{}], thresholds={0: threshold})
    settings = with_kept_parts(Composed({}), config, ("dataset",), folder / "config.yaml")
    draw_predictions(
        gallery, folder, shown, settings.dataset.image_reader(config.get("white", "auto"))
    )
    left_out = len(scores) - len(shown)
    page = render_predictions(Predicted(folder, config, scores, regions, gallery, left_out))
    return page, f"{len(scores)} images, {len(gallery.images)} of them drawn"


def draw_predictions(
    gallery: Gallery, folder: Path, shown: pd.DataFrame, reader: ImageReader
) -> None:
    """Draw masks, and heatmaps where they were saved, over the images.

    Raises:
        LtcamError: If none of the images can be read, or a mask is damaged or missing.
    """
    unread = []
    for row in track(shown.to_dict("records"), "drawing"):
        try:
            original = reader(Path(row["path"]))
        except (LtcamError, OSError) as error:
            unread.append(str(error))
            continue
        kind = row.get("predicted_kind")
        kinds = kind.split("+") if isinstance(kind, str) and kind else ()
        number = gallery.add(row["name"], original, None, kinds)
        gallery.cells[0][number] = _picture(folder, row, gallery.images[number])
    if unread and not gallery.images:
        raise LtcamError(f"{folder}: none of its images can be read: {unread[0]}")
    if unread:
        log.warning("not drawn: %d images that cannot be read, e.g. %s", len(unread), unread[0])


def _picture(folder: Path, row: Mapping[Any, Any], image: Mapping[str, Any]) -> dict[str, Any]:
    """Mask, heatmap and scores of one image."""
    mask, heatmap = kept_mask(folder, row["name"]), folder / "maps" / f"{row['name']}.npy"
    picture = {
        "mask": mask_of(mask, image),
        "label": None,
        "probability": float(row["probability"]),
        "predicted": int(row["predicted"]),
        "area": 100 * float(mask.mean()),
        "area_mm2": row.get("area_mm2"),
        "found": int(row["regions"]),
        "verdict": row.get("verdict"),
        "rule": rule if isinstance(rule := row.get("rule"), str) else None,
        "predicted_kind": "+".join(image.get("kinds", ())) or None,
    }
    if heatmap.is_file():
        with reading(heatmap, ANEW):
            picture["heat"] = heat_of(np.load(heatmap))
    return picture
