"""Export: a run's classifier and student as one ONNX file."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

import ltcam_cli
from ltcam_cli.data.batches import Images, Item
from ltcam_cli.errors import LtcamError
from ltcam_cli.experiments.cells import masks_of
from ltcam_cli.experiments.session import Session, session_of_run
from ltcam_cli.experiments.settings import Composed, Pipeline
from ltcam_cli.experiments.sources import resolved, student_folder
from ltcam_cli.maps.method import StudentMethod
from ltcam_cli.student.checkpoint import Student, load_student
from ltcam_cli.student.deploy import export, onnx_path

SAMPLES = 8  # images on which the file is compared with the original
log = logging.getLogger("ltcam_cli")


@dataclass(frozen=True)
class Exported:
    """An exported file.

    Attributes:
        path: Path of the ONNX file.
        differences: Greatest difference of each output from the original's.
    """

    path: Path
    differences: dict[str, float]


def export_student(composed: Composed, out: Path | None = None) -> Exported:
    """Write the ONNX file, and the JSON file beside it.

    Args:
        composed: Config whose method is a student.
        out: Path of the ONNX file; None: `model.onnx` in the run folder.

    Raises:
        LtcamError: If the method is no student's, whose maps need no gradients.
    """
    session = session_of_run(composed)
    settings, run = session.settings, session.run
    method = resolved(session, settings.method)
    if not isinstance(method, StudentMethod):
        raise LtcamError(
            f"method={settings.method.name}: a memory or gradients cannot be exported; train a "
            f"student of its maps: ltcam student train --run {run.name} "
            f"--method {settings.method.name}"
        )
    student = load_student(student_folder(session, method) / "checkpoint.pt")
    pipeline = Pipeline(method, settings.segmenter, settings.tta)
    _, [job] = masks_of(session, [pipeline])
    described = {
        "run": run.name,
        "classifier": session.checkpoint,
        "decision": session.decision_parts,
        "version": ltcam_cli.__version__,
        "method": asdict(method),
        "segmenter": asdict(settings.segmenter),
        "calibration": [calibrator.state for calibrator in job.segmenter.calibrators],
    }
    path = out or onnx_path(run.path)
    images = compared_images(session, student)
    return Exported(path, export(session.classifier, student, images, path, described))


def compared_images(session: Session, student: Student) -> Tensor:
    """Test images (N, C, H, W) in [0, 1] at the student's size; noise where there is no data."""
    images = []
    try:
        samples = session.split.listed_test[:SAMPLES]
        dataset = Images(
            samples, student.height, student.width, student.in_channels, on_error="skip"
        )
        items = [dataset[number] for number in range(len(samples))]
        images = [item.image for item in items if isinstance(item, Item)]
    except LtcamError as error:
        log.info("compared on noise: %s", error)
    if len(images) >= 2:
        return torch.stack(images)
    size = (SAMPLES, student.in_channels, student.height, student.width)
    return torch.rand(size, generator=torch.Generator().manual_seed(0))
