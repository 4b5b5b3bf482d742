"""`export`: a run's classifier and student as one ONNX file."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

import ltcam_cli
from ltcam_cli.classifier.checkpoint import load_classifier
from ltcam_cli.commands.compose import compose
from ltcam_cli.commands.pipeline import drawings, resolved, student_of
from ltcam_cli.commands.predict import settings_and_run
from ltcam_cli.commands.settings import Settings
from ltcam_cli.data.batches import Images, Item
from ltcam_cli.data.load import load_split
from ltcam_cli.errors import LtcamError
from ltcam_cli.files import sha256
from ltcam_cli.runs.folder import RunFolder
from ltcam_cli.student.checkpoint import Student
from ltcam_cli.student.deploy import card_of, export, exported

SAMPLES = 8  # images on which the file is compared with the original
log = logging.getLogger("ltcam_cli")


def export_run(out: Path | None, overrides: Sequence[str], config_dir: Path | None) -> Path:
    """Write the files; print where they are, and how far they are from the original.

    Args:
        out: of the ONNX file; None: `model.onnx` in the run folder.

    Raises:
        LtcamError: if the method is no student's, whose maps need no gradients.
    """
    overrides = ["method=student", *overrides]
    settings, run = settings_and_run(compose("export", overrides, config_dir), overrides)
    if not settings.method.is_student:
        raise LtcamError(
            f"method={settings.method.name}: gradients cannot be exported; train a student of its "
            f"maps: ltcam student train --run {run.name} --method {settings.method.name}"
        )
    method = resolved(run, settings.method)
    classifier = load_classifier(run.checkpoint)
    student = student_of(run, method, torch.device("cpu"))
    [drawing] = drawings(replace(settings, method=method), run, classifier, [method])
    path = out or exported(run.path)
    described = {
        "run": run.name,
        "classifier": sha256(run.checkpoint),
        "version": ltcam_cli.__version__,
        "method": asdict(method),
        "segmenter": asdict(settings.segmenter),
        "lessons": [lesson.state for lesson in drawing.segmenter.lessons],
    }
    found = export(classifier, student, samples_of(settings, run, student), path, described)
    told = ", ".join(f"{name} {value:.1e}" for name, value in found.items())
    print(f"greatest differences from the original: {told}")
    print(f"{os.path.relpath(path)} {card_of(path).name}")
    print(f"Now: ltcam predict FOLDER --runtime onnx --model {os.path.relpath(path)}")
    return path


def samples_of(settings: Settings, run: RunFolder, student: Student) -> Tensor:
    """Test images (N, C, H, W) in [0, 1] at the student's size; noise where there is no data."""
    try:
        listed = load_split(settings.dataset).listed_test[:SAMPLES]
        images = Images(listed, student.height, student.width, student.in_channels, on_error="skip")
        found = [item.image for n in range(len(listed)) if isinstance(item := images[n], Item)]
    except LtcamError as error:
        log.info("compared on noise: %s", error)
        found = []
    if len(found) >= 2:
        return torch.stack(found)
    size = (SAMPLES, student.in_channels, student.height, student.width)
    return torch.rand(size, generator=torch.Generator().manual_seed(0))
