"""Pictures and maps of cells, written while their images are scored."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ltcam_cli.data.listing import stem_of
from ltcam_cli.data.sample import Sample
from ltcam_cli.experiments.config import EvaluationConfig
from ltcam_cli.report.gallery import KEPT, kept_picture
from ltcam_cli.report.overlay import draw_strip
from ltcam_cli.runs.masking import ImageResult
from ltcam_cli.runs.predictions import save_map
from ltcam_cli.scores.pixels import PixelCounts


class Pictures:
    """Writes overlays, of defective images first, and maps of each cell as results come.

    Attributes:
        kept: For a report, pictures of each cell by the image's name, unless no overlays are
            wanted.
    """

    def __init__(
        self, folders: Sequence[Path], samples: Sequence[Sample], config: EvaluationConfig
    ) -> None:
        limit = len(samples) if config.overlays is None else config.overlays
        defective = sum(bool(sample.label) for sample in samples)
        self.folders, self.save_maps = folders, config.save_maps
        self.kept: list[dict[str, dict[str, str]]] = [{} for _ in folders]
        self.most_kept = KEPT if limit else 0
        self.left = {
            (cell, label): count
            for cell in range(len(folders))
            for label, count in ((1, limit), (0, max(0, limit - defective)))
        }

    def __call__(self, result: ImageResult, counts: PixelCounts) -> None:
        """Write what is wanted of one image and cell."""
        sample, folder = result.item.sample, self.folders[result.job]
        name = stem_of(sample.name)
        if self.left[result.job, sample.label or 0] > 0:
            self.left[result.job, sample.label or 0] -= 1
            iou = 100 * counts.iou
            prefix = "good" if iou != iou else f"iou{iou:03.0f}"
            if sample.label and result.item.mask is None:
                prefix = f"p{100 * result.probability:03.0f}"
            draw_strip(result, folder / "overlays" / f"{prefix}_{name}.png")
        if len(self.kept[result.job]) < self.most_kept:
            self.kept[result.job][sample.name] = kept_picture(result)
        if self.save_maps:
            save_map(result, folder / "maps" / f"{name}.npy")
