"""Training of a student: the second stage of a run, from its masks of the training images."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from ltcam_cli.data.sample import Sample, content_of
from ltcam_cli.errors import LtcamError
from ltcam_cli.experiments.calibration import calibration_digest
from ltcam_cli.experiments.cells import masks_of
from ltcam_cli.experiments.choice import chosen_pipeline, described
from ltcam_cli.experiments.delta import choose_deltas
from ltcam_cli.experiments.session import Session, find_session
from ltcam_cli.experiments.settings import Composed, Pipeline
from ltcam_cli.experiments.sources import resolved
from ltcam_cli.experiments.tasks import Row
from ltcam_cli.experiments.train import as_begun, logged_to, start_anew
from ltcam_cli.files import exclusive
from ltcam_cli.maps.method import AutoMethod, StudentMethod
from ltcam_cli.masks.refine import RefineConfig
from ltcam_cli.masks.segmenters import SegmenterConfig
from ltcam_cli.masks.thresholds import CHOSEN
from ltcam_cli.runs.folder import write_config
from ltcam_cli.runs.identity import Identity, same_but_rounding
from ltcam_cli.runs.masking import mask_images
from ltcam_cli.runs.reading import read_table
from ltcam_cli.runs.students import AUTO, find_student, students_of
from ltcam_cli.student.config import StudentConfig
from ltcam_cli.student.pseudo_labels import with_mask
from ltcam_cli.student.train import train_student

AUTO_STUDENT = StudentConfig(name=AUTO)  # what `pipeline=auto` trains
STUDENT_MASKS = SegmenterConfig("fixed", "fixed", {"at": 0.5})
log = logging.getLogger("ltcam_cli")


def student_task(composed: Composed) -> Row:
    """Train the config's student; a finished one is not trained again without `overwrite`."""
    session = find_session(composed)
    return train_with_teacher(session, session.settings.pipeline)


def train_with_teacher(session: Session, teacher: Pipeline) -> Row:
    """Train the settings' student on a pipeline's masks, unless it is there; its row.

    Raises:
        LtcamError: If the teacher is a student itself.
    """
    if isinstance(teacher.method, StudentMethod):
        raise LtcamError(
            "method=student: a student's first labels are made from a classifier's maps; "
            "give another --method"
        )
    teacher = chosen_pipeline(session, teacher)
    teacher = replace(teacher, method=resolved(session, teacher.method))
    [chosen] = choose_deltas(session, [teacher])
    identity = student_identity(session, chosen.pipeline)
    if as_begun(session.settings, session.run.path.glob("student/*"), identity):
        identity = student_identity(session, chosen.pipeline)
    name = f"{session.settings.student.name}-{identity.hash}"
    folder = session.run.path / "student" / name
    with exclusive(folder):
        return _train(session, chosen.pipeline, folder, identity)


def best_pipeline(session: Session, pipeline: Pipeline) -> Pipeline:
    """The pipeline, or where it is open what training images choose: by default its student.

    The student learns from the chosen pipeline's masks of the training images. Its masks are where
    it is surer than not; or, where the segmenter is one that looks at the image, by that, since the
    student sees the image smaller than it is. Beside another segmenter that the user named the
    chosen method draws. The student is kept in the run folder, as those of `student train` are, and
    is used where the training images are absent, too. Where it cannot be trained, the chosen
    pipeline draws.
    """
    chosen = chosen_pipeline(session, pipeline)
    method, refines = pipeline.method, chosen.segmenter.refine.rule != RefineConfig().rule
    taught = isinstance(method, AutoMethod) and method.with_student
    taught &= not session.settings.ensemble  # students are not averaged
    if not taught or not (refines or pipeline.segmenter.rule == CHOSEN):
        return chosen
    session = session.with_settings(student=AUTO_STUDENT, resume=True)
    try:
        name = _kept_student(session, chosen) or train_with_teacher(session, chosen)["student"]
    except LtcamError as error:
        log.warning("pipeline=auto: no student: %s; %s", error, described(chosen))
        return chosen
    segmenter = chosen.segmenter if refines else STUDENT_MASKS
    return replace(chosen, method=StudentMethod(student=name), segmenter=segmenter)


def _kept_student(session: Session, teacher: Pipeline) -> str | None:
    """Folder's name of the student that the settings describe, on whatever machine it was trained.

    Where the training images are absent, the newest one of its name.

    Raises:
        LtcamError: If they are absent, and so is a student.
    """
    if session.settings.overwrite:
        return None
    try:
        _ = session.training_images
    except LtcamError:
        return find_student(session.run, session.settings.student.name).name
    identity = student_identity(session, teacher)
    own = f"{session.settings.student.name}-{identity.hash}"
    for folder in students_of(session.run):
        if folder.name == own or same_but_rounding(folder, identity):
            return folder.name
    return None


def student_identity(session: Session, teacher: Pipeline) -> Identity:
    """All that decides what a student learns."""
    from ltcam_cli.classifier.precision import rounding

    settings = session.settings
    defective = [sample for sample in session.training_images if sample.label]
    named = with_mask(defective, settings.student.labels)
    masked = [sample for sample in defective if sample.name in named]
    return Identity(
        "student",
        {
            **session.source_parts,
            "teacher": teacher,
            "calibration": calibration_digest(session, teacher),
            "student": settings.student,
            "images": session.training_digest,
            "masks": content_of(masked, masks=True),
            "training": rounding(settings.student.amp, session.device, settings.threads),
            "seed": settings.seed,
        },
    )


def _train(session: Session, teacher: Pipeline, folder: Path, identity: Identity) -> Row:
    """Train into a student's folder, which no other process writes to meanwhile."""
    settings, run = session.settings, session.run
    head = {"run": run.name, "student": folder.name}
    if (folder / "checkpoint.pt").is_file() and not settings.overwrite:
        log.info("%s: is trained already; overwrite=true trains it anew", folder)
        remedy = "train the student anew with --overwrite"
        table = read_table(folder / "history.csv", remedy, numbers=("loss", "seconds"))
        last: Row = {str(key): value for key, value in table.iloc[-1].items()}
        return head | last | {"seconds": table["seconds"].sum()}
    start_anew(settings, folder, folder, "history.csv", "labels/*.pt")
    described = {
        "classifier": session.checkpoint,
        **asdict(teacher),
        "bf16": settings.bf16,
        "student": asdict(settings.student),
        "seed": settings.seed,
    }
    write_config(folder, {"hash": identity.hash, **described})
    identity.write(folder)

    def teacher_masks(
        samples: Sequence[Sample],
    ) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        source, jobs = masks_of(session, [teacher])
        loading = session.loading("labels", workers=True)
        for result in mask_images(session.classifier, source, jobs, samples, loading):
            yield result.item.sample.name, result.heatmap, result.mask

    with logged_to(folder / "train.log"):
        log.info("training %s of %s on %s", folder.name, run.name, session.device)
        row = train_student(
            folder,
            session.classifier,
            session.checkpoint,
            session.training_images,
            teacher_masks,
            settings.student,
            seed=settings.seed,
            device=session.device,
            resume=settings.resume,
            on_error=settings.dataset.on_error,
        )
    return head | row
