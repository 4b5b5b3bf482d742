"""A classifier and its student as one ONNX file, and that file as a heatmap source."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltcam_cli.classifier.backbones import BackboneConfig
from ltcam_cli.classifier.checkpoint import Classifier
from ltcam_cli.errors import LtcamError, require
from ltcam_cli.files import atomic, read_json, write_json
from ltcam_cli.maps.engine import Heatmaps
from ltcam_cli.student.checkpoint import Student

EXTRA = "deploy"
FORMAT = 1
OPSET = 18
INPUT, OUTPUTS = "images", ("probability", "heatmap")
TOLERANCE = 1e-4


class Deployed(nn.Module):
    """Images (N, C, H, W) in [0, 1] -> probability of a defect (N,), heatmap (N, H, W) in [0, 1].

    Normalisation, the classifier's prior and its resizing, where the student is of another size,
    are inside.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, classifier: Classifier, student: Student) -> None:
        super().__init__()
        self.classifier, self.card, self.student = classifier.model, classifier, student.model
        self.size = (classifier.height, classifier.width)
        self.same = self.size == student.size
        self.register_buffer("mean", torch.tensor(classifier.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(classifier.std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        images = (images - self.mean) / self.std
        whole = images
        if not self.same:
            whole = F.interpolate(
                images, self.size, mode="bilinear", align_corners=False, antialias=True
            )
        logits = self.classifier(whole)
        return self.card.probability(logits), torch.sigmoid(self.student(images))


def export(
    classifier: Classifier,
    student: Student,
    images: Tensor,
    path: Path,
    described: dict[str, Any],
) -> dict[str, float]:
    """Write an ONNX file, and beside it a JSON file that says how to use it.

    Args:
        images: (N, C, H, W) in [0, 1], N >= 2, at the student's size, on which both are compared.
        described: more for the JSON file.

    Returns:
        Of each output the greatest difference from the original's.

    Raises:
        LtcamError: if that is more than 1e-4, or an extra is missing; then nothing is written.
    """
    for module in ("onnx", "onnxscript", "onnxruntime"):
        require(module, EXTRA)
    network = Deployed(
        replace(classifier, model=copy.deepcopy(classifier.model).cpu()),
        replace(student, model=copy.deepcopy(student.model).cpu()),
    ).eval()
    with torch.inference_mode():
        wanted = network(images)
    with atomic(path) as temporary:
        with warnings.catch_warnings(), quiet("torch.onnx", "onnxscript", "onnx_ir"):
            warnings.simplefilter("ignore")  # of torch about itself
            torch.onnx.export(
                network,
                (images[:2],),
                str(temporary),
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        found = _session(temporary, None, gpu=False).run(list(OUTPUTS), {INPUT: images.numpy()})
        differences = {
            name: float(np.abs(mine.numpy() - theirs).max())
            for name, mine, theirs in zip(OUTPUTS, wanted, found, strict=True)
        }
        if not max(differences.values()) <= TOLERANCE:
            raise LtcamError(
                f"{path}: differs from the original by {max(differences.values()):.2g}, more than "
                f"{TOLERANCE:g}; it is not written"
            )
    card = {
        "format": FORMAT,
        "channels": classifier.in_channels,
        "height": student.height,
        "width": student.width,
        "range": [0, 1],
        "threshold": classifier.threshold,
        "classes": list(classifier.classes),
        "differences": differences,
        **described,
    }
    write_json(card_of(path), card)
    return differences


def exported(folder: Path) -> Path:
    """Where a run folder's file lies if no other place is given."""
    return folder / "model.onnx"


def card_of(path: Path) -> Path:
    """The JSON file beside an ONNX file."""
    return path.with_suffix(".json")


@dataclass
class OnnxClassifier(Classifier):
    """What an ONNX file says of whole images; its logits are the probabilities themselves."""

    def prepare(self, images: Tensor) -> Tensor:
        """The images (N, C, H, W) in [0, 1]: normalisation is in the file."""
        return images

    def probability(self, logits: Tensor) -> Tensor:
        """(N, 1) -> (N,), of a defect."""
        return logits[:, 0]


class OnnxSource:
    """The heatmap source of an ONNX file."""

    def __init__(self, path: Path, threads: int | None = None, gpu: bool = False) -> None:
        """Of an exported file.

        Args:
            threads: of the CPU; None leaves the runtime's choice.
            gpu: run it there, if this runtime can.

        Raises:
            LtcamError: if the file cannot be read, or the extra is missing.
        """
        self.session = _session(path, threads, gpu)

    def __call__(self, images: Tensor) -> Heatmaps:
        """Maps of images (N, C, H, W) in [0, 1]."""
        given = np.ascontiguousarray(images.numpy())
        probability, heatmap = self.session.run(list(OUTPUTS), {INPUT: given})
        return Heatmaps([torch.from_numpy(heatmap)], torch.from_numpy(probability)[:, None])


def read_card(path: Path) -> dict[str, Any]:
    """The JSON file beside an ONNX file.

    Raises:
        LtcamError: if one of the two is missing, or the JSON file is no such description.
    """
    for file in (path, card_of(path)):
        if not file.is_file():
            raise LtcamError(f"{file}: no such file; make it with: ltcam export --out {path}")
    try:
        card = read_json(card_of(path))
        if card["format"] == FORMAT:
            return dict(card)
    except (ValueError, KeyError, TypeError):
        pass
    raise LtcamError(
        f"{card_of(path)}: does not describe an export of this version of ltcam; export it anew"
    )


def onnx_classifier(card: dict[str, Any]) -> OnnxClassifier:
    """What a file's description says of its classifier."""
    channels = int(card["channels"])
    return OnnxClassifier(
        nn.Identity(),
        BackboneConfig(weights=None),
        channels,
        int(card["height"]),
        int(card["width"]),
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        classes=tuple(card["classes"]),
        threshold=float(card["threshold"]),
    )


@contextmanager
def quiet(*names: str) -> Iterator[None]:
    """Let loggers of these names say errors only."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _session(path: Path, threads: int | None, gpu: bool) -> Any:
    runtime = require("onnxruntime", EXTRA)
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors
    if threads is not None:
        options.intra_op_num_threads = threads
    known = runtime.get_available_providers()
    wanted = ["CUDAExecutionProvider"] if gpu and "CUDAExecutionProvider" in known else []
    try:
        return runtime.InferenceSession(
            str(path), options, providers=[*wanted, "CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime has no base class of its errors
        raise LtcamError(
            f"{path}: is no ONNX file that onnxruntime can run; export it anew"
        ) from error
