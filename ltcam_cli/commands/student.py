"""`student train`: the second stage of a run, from its maps of the training images."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ltcam_cli.classifier.checkpoint import load_classifier
from ltcam_cli.commands.compose import Row
from ltcam_cli.commands.delta import chosen
from ltcam_cli.commands.pipeline import drawings, heatmap_source
from ltcam_cli.commands.run import run_task
from ltcam_cli.commands.settings import Settings, trained
from ltcam_cli.commands.tasks import evaluate_methods, logged_to
from ltcam_cli.data.sample import Sample
from ltcam_cli.data.split import Split
from ltcam_cli.errors import LtcamError
from ltcam_cli.files import alone, hashed, sha256, short_hash
from ltcam_cli.maps.method import TEACHER
from ltcam_cli.runs.evaluation import map_and_segment
from ltcam_cli.runs.folder import RunFolder, write_config
from ltcam_cli.student.train import train_student

SHOWN = ("run", "student", "defect_share", "ignored_share", "without_defect", "change", "loss",
         "seconds")  # fmt: skip
UNHASHED = {"every", "overlays"}  # what changes no weight
log = logging.getLogger("ltcam_cli")


def train(overrides: Sequence[str], multirun: bool, config_dir: Path | None) -> list[Row]:
    """Train one student, or several; prints what its labels were."""
    # It goes before the method of an experiment, which may be the student itself, and after it a
    # --method of the user's counts.
    overrides = [f"method={TEACHER}", *overrides]
    rows = run_task("student", student_task, overrides, multirun, config_dir, SHOWN)
    for run in dict.fromkeys(row["run"] for row in rows):
        print(f"Now: ltcam evaluate --run {run} --method student")
    return rows


def student_task(cfg: DictConfig) -> Row:
    """The task; a finished student is not trained again without `overwrite`."""
    return train_one(*trained(cfg, HydraConfig.get().overrides.task))


def train_one(settings: Settings, split: Split, run: RunFolder) -> Row:
    """Train the student that the settings describe, unless it is there; its row."""
    if settings.method.is_student:
        raise LtcamError(
            "method=student: a student's first labels are made from a classifier's maps; "
            "give another --method"
        )
    [choice] = chosen(settings, split, run, [settings.method], evaluate_methods)
    settings = replace(settings, method=choice.method)
    digest = sha256(run.checkpoint)
    folder = student_folder(settings, split, run, digest)
    with alone(folder):
        return train_into(folder, settings, split, run, digest)


def student_folder(settings: Settings, split: Split, run: RunFolder, digest: str) -> Path:
    """`<run>/student/<name>-<hash of all that decides what is learnt>`."""
    config = {k: v for k, v in hashed(settings.student).items() if k not in UNHASHED}
    known = [
        digest,
        hashed(settings.method),
        hashed(settings.segmenter),
        config,
        [(sample.name, sample.label) for sample in split.train],
        settings.seed,
        settings.options,
    ]
    return run.path / "student" / f"{settings.student.name}-{short_hash(known)}"


def train_into(folder: Path, settings: Settings, split: Split, run: RunFolder, digest: str) -> Row:
    """Train into a student's folder, which no other process writes to meanwhile."""
    head = {"run": run.name, "student": folder.name}
    history, last, checkpoint = (
        folder / name for name in ("history.csv", "last.pt", "checkpoint.pt")
    )
    if checkpoint.is_file() and not settings.overwrite:
        log.info("%s: is trained already; overwrite=true trains it anew", folder)
        table = pd.read_csv(history)
        last_row: Row = {str(key): value for key, value in table.iloc[-1].items()}
        return head | last_row | {"seconds": table["seconds"].sum()}
    if settings.overwrite and not settings.resume:
        for old in (last, checkpoint, history, *folder.glob("labels/*.pt")):
            old.unlink(missing_ok=True)
    elif last.is_file() and not settings.resume:
        raise LtcamError(
            f"{folder}: an unfinished training is there; go on with --resume, or start anew "
            "with --overwrite"
        )
    described = {
        "classifier": digest,
        "method": asdict(settings.method),
        "segmenter": asdict(settings.segmenter),
        "tta": asdict(settings.tta),
        "bf16": settings.bf16,
        "student": asdict(settings.student),
        "seed": settings.seed,
    }
    write_config(folder, {"hash": folder.name[-6:], **described})
    device = settings.torch_device()
    classifier = load_classifier(run.checkpoint, device)

    def drawn(samples: Sequence[Sample]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        methods = [settings.method]
        results = map_and_segment(
            classifier,
            heatmap_source(settings, run, classifier, methods),
            drawings(settings, run, classifier, methods),
            samples,
            masks=False,
            gate=False,
            batch_size=settings.evaluation.batch_size,
            workers=settings.evaluation.workers,
            on_error=settings.dataset.on_error,
            progress="labels",
        )
        for result in results:
            yield result.item.sample.name, result.heatmap, result.mask

    with logged_to(folder / "train.log"):
        log.info("training %s of %s on %s", folder.name, run.name, device)
        row = train_student(
            folder,
            classifier,
            digest,
            split.train,
            drawn,
            settings.student,
            seed=settings.seed,
            device=device,
            resume=settings.resume,
            on_error=settings.dataset.on_error,
        )
    return head | row
