"""Export: a run's classifier and its maps or student as one ONNX file."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

import ltcam_cli
from ltcam_cli.classifier.checkpoint import Classifier
from ltcam_cli.data.batches import Images
from ltcam_cli.errors import LtcamError
from ltcam_cli.experiments.calibration import calibrated_segmenters
from ltcam_cli.experiments.session import Session, session_of_run
from ltcam_cli.experiments.settings import Composed, Pipeline
from ltcam_cli.experiments.sources import resolved, student_folder, with_logit
from ltcam_cli.maps.method import CamMethod, ProductMethod, StudentMethod
from ltcam_cli.student.checkpoint import Student, load_student
from ltcam_cli.student.deploy import export, onnx_path
from ltcam_cli.student.deploy_maps import export_maps

SAMPLES = 8  # images on which the file is compared with the original
log = logging.getLogger("ltcam_cli")


@dataclass(frozen=True)
class Exported:
    """An exported file.

    Attributes:
        path: Path of the ONNX file.
        differences: Difference of each output from the original's.
        measure: Which one it is: greatest, or mean, as a share of the greatest value.
    """

    path: Path
    differences: dict[str, float]
    measure: str = "greatest"


def export_pipeline(composed: Composed, out: Path | None = None) -> Exported:
    """Write the ONNX file, and the JSON file beside it.

    Args:
        composed: Config with the method, a student or maps.
        out: Path of the ONNX file; None: `model.onnx` in the run folder.

    Raises:
        LtcamError: If the method cannot be exported.
    """
    session = session_of_run(composed)
    settings, run = session.settings, session.run
    method = resolved(session, settings.method)
    if settings.tta.label or settings.ensemble:
        raise LtcamError("export: is of one classifier's maps alone; do not set tta and ensemble")
    if isinstance(method, ProductMethod) or not isinstance(method, CamMethod | StudentMethod):
        raise LtcamError(
            f"method={method.name}: a memory cannot be exported; train a student of its maps: "
            f"ltcam student train --run {run.name} --method {method.name}"
        )
    pipeline = Pipeline(method, settings.segmenter, settings.tta)
    [segmenter] = calibrated_segmenters(session, [pipeline])
    described = {
        "run": run.name,
        "classifier": session.checkpoint,
        "decision": session.decision_parts,
        "version": ltcam_cli.__version__,
        "method": asdict(method),
        "segmenter": asdict(settings.segmenter),
        "calibration": [calibrator.state for calibrator in segmenter.calibrators],
    }
    path = out or onnx_path(run.path)
    classifier = session.classifier
    if isinstance(method, CamMethod):
        spec = with_logit(method.spec(), classifier)
        images = compared_images(session, classifier)
        return Exported(path, export_maps(classifier, spec, images, path, described), "mean")
    student = load_student(student_folder(session, method) / "checkpoint.pt")
    images = compared_images(session, student)
    decides = method.verdict == "student"
    return Exported(path, export(classifier, student, images, path, described, decides))


def compared_images(session: Session, network: Student | Classifier) -> Tensor:
    """Test images (N, C, H, W) in [0, 1] at a network's size; noise where there is no data."""
    images = []
    try:
        samples = session.split.listed_test[:SAMPLES]
        shape = (*network.size, network.in_channels)
        dataset = Images(samples, *shape, fit=session.classifier.fit, on_error="skip")
        images = [item.image for item in dataset.readable(range(len(samples)))]
    except LtcamError as error:
        log.info("compared on noise: %s", error)
    if len(images) >= 2:
        return torch.stack(images)
    size = (SAMPLES, network.in_channels, *network.size)
    return torch.rand(size, generator=torch.Generator().manual_seed(0))
