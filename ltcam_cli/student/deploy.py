"""ONNX export of a classifier and its student, and ONNX files as heatmap sources."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ltcam_cli.classifier.checkpoint import Classifier, standardized
from ltcam_cli.classifier.config import BackboneConfig
from ltcam_cli.config import check_fields
from ltcam_cli.errors import LtcamError, errors_only, require
from ltcam_cli.files import atomic, read_json, write_json
from ltcam_cli.maps.engine import Heatmaps
from ltcam_cli.progress import Progress
from ltcam_cli.student.checkpoint import Student

EXTRA = "deploy"
FORMAT = 1
OPSET = 18
INPUT, OUTPUTS = "images", ("probability", "heatmap")
TOLERANCE = 1e-4


class DeployedNetwork(nn.Module):
    """Network from images (N, C, H, W) in [0, 1] to probabilities (N,) and heatmaps (N, H, W).

    It holds the normalisation, the classifier's prior and its resizing, where the student is of
    another size. Heatmaps lie in [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, classifier: Classifier, student: Student, decides: bool = False) -> None:
        super().__init__()
        self.classifier, self.student = classifier.model, student.model
        self.probability, self.decides = classifier.probability, decides
        self.size = classifier.size
        self.same = self.size == student.size
        self.standardize = classifier.backbone.standardize
        self.register_buffer("mean", torch.tensor(classifier.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(classifier.std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities and heatmaps."""
        images = (images - self.mean) / self.std
        if self.standardize:
            images = standardized(images)
        if self.decides:
            pixels, decision = self.student.judge(images)
            assert decision is not None
            return torch.sigmoid(decision), torch.sigmoid(pixels)
        resized = images
        if not self.same:
            resized = F.interpolate(
                images, self.size, mode="bilinear", align_corners=False, antialias=True
            )
        logits = self.classifier(resized)
        return self.probability(logits), torch.sigmoid(self.student(images))


def export(
    classifier: Classifier,
    student: Student,
    images: Tensor,
    path: Path,
    metadata: dict[str, Any],
    decides: bool = False,
) -> dict[str, float]:
    """Write an ONNX file, and beside it a JSON file that says how to use it.

    Args:
        classifier: Classifier to export.
        student: Student of this classifier.
        images: Images (N, C, H, W) in [0, 1], N >= 2, at the student's size, on which the file's
            outputs are compared with the original's.
        path: ONNX file to write.
        metadata: Further entries of the JSON file.
        decides: Whether the probability is the student's decision, of a student that has one.

    Returns:
        Greatest difference from the original, by output.

    Raises:
        LtcamError: if a difference is above 1e-4, or an extra is missing; nothing is written then.
    """
    network = DeployedNetwork(
        replace(classifier, model=copy.deepcopy(classifier.model).cpu()),
        replace(student, model=copy.deepcopy(student.model).cpu()),
        decides,
    ).eval()
    with torch.inference_mode():
        expected = network(images)
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    return write_onnx(network, expected, images, path, classifier, student.size, metadata, shapes)


def write_onnx(
    network: nn.Module,
    expected: Sequence[Tensor],
    images: Tensor,
    path: Path,
    classifier: Classifier,
    size: tuple[int, int],
    metadata: dict[str, Any],
    dynamic_shapes: Any = None,
    measure: Callable[[np.ndarray, np.ndarray], float] = lambda a, b: float(np.abs(a - b).max()),
) -> dict[str, float]:
    """Write a network with the outputs `OUTPUTS`, and the JSON file.

    Args:
        network, expected: Network, and its outputs for the images.
        images: (N, C, H, W) in [0, 1].
        path: ONNX file.
        classifier: Classifier that the network holds.
        size: Height and width of the images.
        metadata: Further entries of the JSON file.
        dynamic_shapes: See `torch.onnx.export`; None: the file takes one image at a time.
        measure: Difference of what an output is from what is expected; default: the greatest one.

    Returns:
        Difference by output.

    Raises:
        LtcamError: See `export`.
    """
    for module in ("onnx", "onnxscript", "onnxruntime"):
        require(module, EXTRA)
    with atomic(path) as temporary, Progress("exporting", None):
        with warnings.catch_warnings(), errors_only("torch.onnx", "onnxscript", "onnx_ir"):
            warnings.simplefilter("ignore")  # of torch about itself
            torch.onnx.export(
                network,
                (images[:2] if dynamic_shapes else images[:1],),
                str(temporary),
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                dynamic_shapes=dynamic_shapes,
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        outputs = _outputs(_session(temporary, None, gpu=False), images.numpy())
        differences = {
            name: measure(array, tensor.numpy())
            for name, tensor, array in zip(OUTPUTS, expected, outputs, strict=True)
        }
        if not max(differences.values()) <= TOLERANCE:
            raise LtcamError(
                f"{path}: differs from the original by {max(differences.values()):.2g}, more than "
                f"{TOLERANCE:g}; it is not written"
            )
    content = {
        "format": FORMAT,
        "channels": classifier.in_channels,
        "height": size[0],
        "width": size[1],
        "range": [0, 1],
        "white": classifier.white,
        "fit": classifier.fit,
        "threshold": classifier.threshold,
        "classes": list(classifier.classes),
        "differences": differences,
        **metadata,
    }
    write_json(metadata_path(path), content)
    return differences


def onnx_path(folder: Path) -> Path:
    """Default ONNX file of a run folder."""
    return folder / "model.onnx"


def metadata_path(path: Path) -> Path:
    """JSON file beside an ONNX file."""
    return path.with_suffix(".json")


@dataclass
class OnnxClassifier(Classifier):
    """Classifier of an ONNX file; its logits are the probabilities themselves."""

    def prepare(self, images: Tensor) -> Tensor:
        """Unchanged images (N, C, H, W) in [0, 1]: the file normalises them."""
        return images

    def probability(self, logits: Tensor) -> Tensor:
        """Probability (N,) of a defect of logits (N, 1)."""
        return logits[:, 0]


class OnnxSource:
    """Heatmap source of an ONNX file."""

    def __init__(self, path: Path, threads: int | None = None, gpu: bool = False) -> None:
        """Open an exported file.

        Args:
            path: ONNX file.
            threads: Threads on the CPU; None: the runtime's choice.
            gpu: Whether to run on a GPU, if this runtime can.

        Raises:
            LtcamError: if the file cannot be read, or the extra is missing.
        """
        self.session = _session(path, threads, gpu)

    def __call__(self, images: Tensor) -> Heatmaps:
        """Maps of images (N, C, H, W) in [0, 1]."""
        probability, heatmap = _outputs(self.session, np.ascontiguousarray(images.numpy()))
        return Heatmaps([torch.from_numpy(heatmap)], torch.from_numpy(probability)[:, None])


def read_metadata(path: Path) -> dict[str, Any]:
    """Content of the JSON file beside an ONNX file.

    Raises:
        LtcamError: if a file is missing, or the JSON file does not describe an export.
    """
    for file in (path, metadata_path(path)):
        if not file.is_file():
            raise LtcamError(f"{file}: no such file; make it with: ltcam export --out {path}")
    try:
        content = read_json(metadata_path(path))
        if content["format"] == FORMAT and isinstance(content.get("decision", {}), dict):
            check_fields(Classifier, _fields(content))
            return dict(content)
    except (ValueError, KeyError, TypeError, LtcamError):
        pass
    raise LtcamError(
        f"{metadata_path(path)}: does not describe an export of this version of ltcam; "
        "export it anew"
    )


def onnx_classifier(metadata: dict[str, Any]) -> OnnxClassifier:
    """Classifier of an ONNX file with this metadata."""
    fields = _fields(metadata)
    return OnnxClassifier(
        nn.Identity(),
        BackboneConfig(weights=None),
        mean=(0.0,) * fields["in_channels"],
        std=(1.0,) * fields["in_channels"],
        **fields,
    )


def _fields(metadata: dict[str, Any]) -> dict[str, Any]:
    """Fields of a `Classifier` that an ONNX file's metadata holds."""
    return {
        "in_channels": metadata["channels"],
        "height": metadata["height"],
        "width": metadata["width"],
        "classes": tuple(metadata["classes"]),
        "white": metadata["white"],
        "fit": metadata.get("fit", "stretch"),
        "threshold": metadata["threshold"],
    }


def _outputs(session: Any, pixels: np.ndarray) -> list[np.ndarray]:
    """Outputs for images (N, C, H, W), one after another if the file takes one at a time."""
    single = session.get_inputs()[0].shape[0] == 1
    parts = [pixels[number : number + 1] for number in range(len(pixels))] if single else [pixels]
    results = [session.run(list(OUTPUTS), {INPUT: part}) for part in parts]
    return [np.concatenate(arrays) for arrays in zip(*results, strict=True)]


def _session(path: Path, threads: int | None, gpu: bool) -> Any:
    runtime = require("onnxruntime", EXTRA)
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors
    if threads is not None:
        options.intra_op_num_threads = threads
    on_gpu = gpu and "CUDAExecutionProvider" in runtime.get_available_providers()
    providers = ["CUDAExecutionProvider"] * on_gpu + ["CPUExecutionProvider"]
    try:
        return runtime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime has no base class of its errors
        raise LtcamError(
            f"{path}: is no ONNX file that onnxruntime can run; export it anew"
        ) from error
