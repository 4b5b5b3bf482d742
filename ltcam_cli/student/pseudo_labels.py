"""Labels of each round, true ones or from maps: made, kept in the student's folder, and drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ltcam_cli.classifier.tensors import read_tensors, write_tensors
from ltcam_cli.data.batches import Images
from ltcam_cli.data.listing import stem_of
from ltcam_cli.data.sample import Sample
from ltcam_cli.errors import LtcamError
from ltcam_cli.files import atomic
from ltcam_cli.progress import track
from ltcam_cli.student.config import LabelConfig, StudentConfig
from ltcam_cli.student.labels import (
    DEFECT,
    IGNORED,
    draw_labels,
    first_labels,
    next_labels,
    true_labels,
)

Labels = dict[str, np.ndarray]
# From defective samples to names, heatmaps (H, W) and masks (H, W) bool.
Teacher = Callable[[Sequence[Sample]], Iterable[tuple[str, np.ndarray, np.ndarray]]]
# From an image (C, h, w) in [0, 1] to probabilities (h, w) of a defect.
Predict = Callable[[Tensor], np.ndarray]


class PseudoLabels:
    """Labels of the defective images, by name, of one round after another."""

    def __init__(
        self,
        folder: Path,
        images: Images,
        readable: Sequence[int],
        teacher: Teacher,
        config: StudentConfig,
    ) -> None:
        """Prepare the labels of a training.

        Args:
            folder: Directory of the labels and their pictures.
            images: Images at the student's size.
            readable: Numbers of the images that can be read.
            teacher: Source of the first labels; called once, and not if they are in the folder.
            config: Rules of the labels, and number of pictures.
        """
        assert images.size is not None
        self.size = images.size
        self.folder, self.images, self.teacher, self.config = folder, images, teacher, config
        self.defective = [n for n in readable if images.samples[n].label]
        self.with_mask = with_mask([images.samples[n] for n in self.defective], config.labels)

    def of_round(self, number: int, predict: Predict) -> Labels:
        """Labels of a round, from 0; they are made unless the folder has them.

        Raises:
            LtcamError: if no pixel is labelled as defect.
        """
        path = self._path(number)
        if path.is_file():
            return self._read(number)
        labels = self._first() if number == 0 else self._next(number, predict)
        if not any((label == DEFECT).any() for label in labels.values()):
            raise LtcamError(
                "no pixel of a training image is labelled as defect: their masks are empty, or "
                "thinner than half a pixel at the student's size; choose another --method or "
                "--segmenter, or a larger student.height and student.width"
            )
        self._draw(labels, path.with_suffix(""))
        with atomic(path) as temporary:
            write_tensors(
                {name: torch.from_numpy(label) for name, label in labels.items()}, temporary
            )
        return labels

    def statistics(self, number: int, labels: Labels) -> dict[str, float]:
        """Shares of defect, ignored and changed pixels of a round, and images without a defect."""
        stack = np.stack(list(labels.values()))
        change = float("nan")
        if number:
            previous = self._read(number - 1)
            change = float(np.mean([(label != previous[n]).mean() for n, label in labels.items()]))
        return {
            "defect_share": float((stack == DEFECT).mean()),
            "ignored_share": float((stack == IGNORED).mean()),
            "without_defect": int((~(stack == DEFECT).any(axis=(1, 2))).sum()),
            "change": change,
        }

    def _first(self) -> Labels:
        config = self.config.labels
        samples = [self.images.samples[n] for n in self.defective]
        others = [sample for sample in samples if sample.name not in self.with_mask]
        from_maps = self.teacher(others) if others and config.maps else ()
        ignored, fit = np.full(self.size, IGNORED, dtype=np.uint8), self.images.fit
        return (
            dict.fromkeys((sample.name for sample in others), ignored)
            | {
                sample.name: true_labels(mask, self.size, fit)
                for sample in samples
                if sample.name in self.with_mask and (mask := sample.mask) is not None
            }
            | {
                name: first_labels(heatmap, mask, self.size, config, fit)
                for name, heatmap, mask in from_maps
            }
        )

    def _next(self, number: int, predict: Predict) -> Labels:
        first, previous = self._read(0), self._read(number - 1)
        labels = {}
        for item in map(self.images.item, track(self.defective, "labels")):
            name = item.sample.name
            if name in self.with_mask:
                labels[name] = previous[name]
            else:
                labels[name] = next_labels(
                    predict(item.image), previous[name], first[name], self.config.labels
                )
        return labels

    def _draw(self, labels: Labels, folder: Path) -> None:
        for item in map(self.images.item, self.defective[: self.config.overlays]):
            name = item.sample.name
            pixels = (item.image * 255).byte().permute(1, 2, 0).numpy()
            image = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
            draw_labels(image, labels[name], folder / f"{stem_of(name)}.png")

    def _path(self, number: int) -> Path:
        return self.folder / f"round{number + 1}.pt"

    def _read(self, number: int) -> Labels:
        path, remedy = self._path(number), "delete the student's folder and train it anew"
        tensors = read_tensors(path, remedy)
        names = {self.images.samples[n].name for n in self.defective}
        if not isinstance(tensors, dict) or not names <= {*tensors}:
            raise LtcamError(f"{path}: does not hold the labels of these images; {remedy}")
        labels = [tensors[name] for name in names]
        if any(not isinstance(each, Tensor) or each.shape != self.size for each in labels):
            raise LtcamError(f"{path}: holds labels of another kind or size; {remedy}")
        return {name: each.numpy() for name, each in tensors.items()}


def with_mask(defective: Sequence[Sample], config: LabelConfig) -> frozenset[str]:
    """Names of the defective samples whose true masks are read; of fewer, some of the same."""
    names = [sample.name for sample in defective if sample.read_mask is not None]
    order = np.random.default_rng(0).permutation(len(names))
    count = None if config.masks == "all" else config.masks
    return frozenset(names[number] for number in order[:count])
