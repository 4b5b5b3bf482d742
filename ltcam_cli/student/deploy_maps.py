"""ONNX export of a classifier and its class activation maps."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ltcam_cli.classifier.checkpoint import Classifier
from ltcam_cli.errors import LtcamError
from ltcam_cli.maps.engine import CamEngine
from ltcam_cli.maps.graph import recorded
from ltcam_cli.maps.spec import MapSpec
from ltcam_cli.maps.weightings import get_weighting
from ltcam_cli.student.deploy import write_onnx


def export_maps(
    classifier: Classifier, spec: MapSpec, images: Tensor, path: Path, metadata: dict[str, Any]
) -> dict[str, float]:
    """Write classifier and heatmaps as an ONNX file of one image; the backward is part of it.

    Args:
        classifier: Classifier to export.
        spec: Map; of a weighting that reads activations and gradients alone.
        images: Images (N, C, H, W) in [0, 1], on which the file is compared with the original.
        path: ONNX file to write.
        metadata: Further entries of the JSON file.

    Returns:
        Mean difference from the original, by output, as a share of the greatest value.

    Raises:
        LtcamError: If the maps are no one graph, or as `write_onnx` raises.
    """
    remedy = "; train a student of its maps, and export that: ltcam student train"
    if not get_weighting(spec.weighting).reads_gradients:
        raise LtcamError(f"{spec.weighting}: is no one forward and backward{remedy}")
    model = copy.deepcopy(classifier.model).cpu().eval()
    model.to(memory_format=torch.contiguous_format)
    classifier, engine = replace(classifier, model=model), CamEngine(model, [spec])

    def network(images: Tensor) -> tuple[Tensor, Tensor]:
        # Channels last are pooled by as_strided, whose backward ONNX lacks.
        heatmaps = engine(classifier.prepare(images).contiguous())
        return classifier.probability(heatmaps.logits), heatmaps.maps[0]

    expected = network(images)
    try:
        graph = recorded(network, images[:1])
        size = classifier.size
        return write_onnx(
            graph, expected, images, path, classifier, size, metadata, measure=mean_share
        )
    except (RuntimeError, NotImplementedError) as error:
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        raise LtcamError(f"{spec.weighting}: is no graph for ONNX ({reason}){remedy}") from error


def mean_share(output: np.ndarray, expected: np.ndarray) -> float:
    """Mean difference as a share of the greatest expected value.

    Not the greatest one: rounding decides ties of max pooling, so that float32 and float64 differ
    by a hundredth in single pixels.
    """
    scale = max(float(np.abs(expected).max()), np.finfo(np.float32).tiny)
    return float(np.abs(output - expected).mean() / scale)
