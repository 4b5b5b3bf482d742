"""Prediction: masks of images without labels, by a run or by an exported file."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from ltcam_cli.classifier.checkpoint import Classifier
from ltcam_cli.data.decoding import is_deep
from ltcam_cli.data.image_files import forget_warnings, or_skip
from ltcam_cli.data.listing import said
from ltcam_cli.data.sample import Sample
from ltcam_cli.errors import LtcamError
from ltcam_cli.experiments.calibration import calibration_digest
from ltcam_cli.experiments.cells import masks_of
from ltcam_cli.experiments.devices import torch_device
from ltcam_cli.experiments.session import session_of_run, settings_from
from ltcam_cli.experiments.settings import Composed, Settings, with_kept_parts
from ltcam_cli.experiments.sources import resolved
from ltcam_cli.experiments.students import best_pipeline
from ltcam_cli.experiments.tasks import Row
from ltcam_cli.files import content_digest, exclusive, lock, short_hash
from ltcam_cli.maps.engine import HeatmapSource
from ltcam_cli.masks.segmenters import Segmenter
from ltcam_cli.report.overlay import draw_strip
from ltcam_cli.runs.annotating import ANNOTATIONS, write_annotations
from ltcam_cli.runs.folder import find_run, read_config, write_config
from ltcam_cli.runs.identity import Identity
from ltcam_cli.runs.json_lines import json_lines
from ltcam_cli.runs.masking import Loading, MaskJob
from ltcam_cli.runs.prediction_tables import PredictionTables, rejected_parts
from ltcam_cli.runs.predictions import Writing, find_images, predict
from ltcam_cli.runs.reliability import Reliability
from ltcam_cli.scores.skill import no_skill
from ltcam_cli.student.deploy import (
    OnnxSource,
    metadata_path,
    onnx_classifier,
    onnx_path,
    read_metadata,
)

log = logging.getLogger("ltcam_cli")


@dataclass(frozen=True)
class Predictor:
    """What makes the masks.

    Attributes:
        settings: Settings that it was made with.
        classifier: Classifier that prepares the images and says which are defective.
        source: Heatmap source.
        job: Mask job of one of its maps.
        identity: All that decides the masks.
        folder: Folder of results for which no other is given.
    """

    settings: Settings
    classifier: Classifier
    source: HeatmapSource
    job: MaskJob
    identity: Identity
    folder: Path

    def read(self, sample: Sample) -> Sample:
        """A sample that is read as the training images were."""
        dataset = self.settings.dataset
        return sample.read_by(dataset.image_reader(self.classifier.white), dataset.mask_reader())

    def folder_of(self, paths: Sequence[str]) -> Path:
        """Folder of the results of some images and folders."""
        settings = self.settings
        places = [str(Path(path).resolve()) for path in paths]
        digest = short_hash([self.identity.mapping, places])
        name = f"{settings.method.name}-{settings.segmenter.label}-{digest}"
        out = settings.predict.out
        return Path(out) if out else self.folder / "predict" / name

    def writing(self, out: Path) -> Writing:
        """What is written into a folder, which is claimed.

        Raises:
            LtcamError: If another pipeline's masks are there.
        """
        config = self.settings.predict
        kept = asdict(replace(self.settings, predict=replace(config, shard=None)))
        kept["threshold"] = float(self.classifier.threshold)  # for report and review
        kept["white"] = self.classifier.white
        claim(out, self.identity, kept)
        return Writing(
            out,
            self.identity.hash,
            config.gate,
            config.save_maps,
            draw_strip if config.overlays else None,
            config.part(),
            config.acceptance,
            None if config.ask_below is None else Reliability(self.classifier, config.reliability),
            self.classifier.kinds,
        )


def predictor_of(composed: Composed) -> Predictor:
    """Predictor of a run or, with `predict.runtime=onnx`, of an exported file."""
    onnx = settings_from(composed).predict.runtime == "onnx"
    return (file_predictor if onnx else run_predictor)(composed)


def run_predictor(composed: Composed) -> Predictor:
    """Predictor of a run's classifier and the config's pipeline."""
    session = session_of_run(composed)
    settings = session.settings
    if warning := no_skill(session.run.metrics):  # before minutes of a student, and empty masks
        log.warning("%s: %s", session.run.name, warning)
    pipeline = best_pipeline(session, settings.pipeline)
    method = resolved(session, pipeline.method)
    method.check()  # refuses what does not exist before a checkpoint is read
    pipeline = replace(pipeline, method=method)
    source, [job] = masks_of(session, [pipeline])
    identity = Identity(
        "prediction",
        {
            **session.source_parts,
            **session.decision_parts,
            "pipeline": pipeline,
            "calibration": calibration_digest(session, pipeline),
            "gate": settings.predict.gate,
            "images": settings.dataset.image_reader(session.classifier.white).setting,
            **settings.predict.acceptance.parts,
        },
    )
    settings = replace(settings, method=method, segmenter=pipeline.segmenter)
    return Predictor(settings, session.classifier, source, job, identity, session.run.path)


def file_predictor(composed: Composed) -> Predictor:
    """Predictor of what `ltcam export` wrote; with another segmenter if the user set one.

    Raises:
        LtcamError: If there is no such file, or something else is asked of it than it can do.
    """
    values = composed.values
    asked = settings_from(composed)
    run = None if asked.run is None else find_run(asked.root, asked.run)
    if asked.predict.model is not None:
        path = Path(asked.predict.model)
    elif run is not None:
        path = onnx_path(run.path)
    else:
        raise LtcamError("predict.runtime=onnx: which file? give predict.model=FILE, or --run")
    if asked.predict.ask_below is not None:
        raise LtcamError(
            f"predict.ask_below={asked.predict.ask_below:g}: reliability needs gradients, which "
            "an exported file has not; use predict.runtime=torch"
        )
    metadata = read_metadata(path)
    chosen = Composed(values, composed.overrides_of({"segmenter"}))
    settings = with_kept_parts(chosen, metadata, ("method", "segmenter"), metadata_path(path))
    asked_for = composed.overrides_of({"method", "tta", "ensemble", "pipeline"})
    refused = [each for each in asked_for if each != "pipeline=student"]  # the command's default
    if refused and (asked.method.name != settings.method.name or asked.tta.label or asked.ensemble):
        raise LtcamError(
            f"{path}: draws the maps of method={metadata['method']['name']} of the image itself; "
            "do not set --method, tta and ensemble, or use predict.runtime=torch"
        )
    gpu = torch_device(settings.device).type == "cuda"
    source = OnnxSource(path, settings.threads, gpu)
    segmenter = Segmenter(settings.segmenter)
    if segmenter.calibrators and asdict(settings.segmenter) != metadata["segmenter"]:
        raise LtcamError(
            f"segmenter {settings.segmenter.label}: learns from training images; export the file "
            "with it: ltcam export --segmenter …"
        )
    for calibrator, state in zip(segmenter.calibrators, metadata["calibration"], strict=False):
        calibrator.state = state
    identity = Identity(
        "prediction",
        {
            "file": content_digest(path),
            **metadata.get("decision", {}),
            "segmenter": settings.segmenter,
            "gate": settings.predict.gate,
            "images": settings.dataset.image_reader(metadata["white"]).setting,
            **settings.predict.acceptance.parts,
        },
    )
    folder = run.path if run else path.parent
    job = MaskJob(0, segmenter)
    return Predictor(settings, onnx_classifier(metadata), source, job, identity, folder)


@dataclass(frozen=True)
class Prediction:
    """Prediction of some images and folders."""

    paths: Sequence[str]

    def __call__(self, composed: Composed) -> Row:
        """Predict; the data set need not be there where a run is named."""
        samples = find_images([Path(path) for path in self.paths])
        if settings_from(composed).predict.on_error == "raise":
            _check_heads(samples)  # a student may be trained first, for minutes
        return self.run(predictor_of(composed))

    def run(self, predictor: Predictor) -> Row:
        """Predict the images, and write masks and tables."""
        config = predictor.settings.predict
        out = predictor.folder_of(self.paths)
        forget_warnings()
        left_out: Counter[str] = Counter()
        found = find_images([Path(path) for path in self.paths], out, left_out)
        samples = [predictor.read(sample) for sample in found]
        tables, table, skipped = predict_samples(predictor, samples, out)
        asked = table[table["name"].isin([sample.name for sample in samples])]
        lines = json_lines(asked, tables.read()[1]) if config.json else None
        folders = [name for name in ("overlays", "maps", ANNOTATIONS) if (out / name).is_dir()]
        return {
            "out": str(out),
            "shard": config.shard,
            "tables": " ".join(tables.path(kind).name for kind in ("scores", "regions")),
            "images": len(table),
            "defective": int(table["predicted"].sum()),
            "regions": int(table["regions"].sum()),
            "rejected": rejected_parts(asked),
            "look_again": int(asked["look_again"].sum()) if "look_again" in asked else None,
            "skipped": len(skipped),
            "left_out": f"; left out: {said(left_out)}" if left_out else "",
            "also": " ".join(f"{name}/" for name in folders),
            **({} if lines is None else {"lines": lines}),
        }


def _check_heads(samples: Sequence[Sample]) -> None:
    """Refuse files that are empty or no image, by their heads; damage behind is seen later."""
    for sample in samples:
        try:
            assert sample.path is not None
            is_deep(sample.path)
        except LtcamError as error:
            raise or_skip(error, "predict.on_error") from error


def predict_samples(
    predictor: Predictor, samples: Sequence[Sample], out: Path
) -> tuple[PredictionTables, pd.DataFrame, list[str]]:
    """Predict samples into a folder, which is claimed; its tables, that of scores, and skipped."""
    config, writing = predictor.settings.predict, predictor.writing(out)
    shard, tables = writing.shard, writing.tables
    title = f"predict {shard}" if shard else "predict"
    loading = Loading(config.batch_size, config.workers, config.on_error, title, "predict.on_error")
    with exclusive(tables.path("scores")):
        table, skipped = predict(
            predictor.classifier, predictor.source, predictor.job, samples, writing, loading
        )
        if config.annotations and not shard:
            regions = tables.read()[1]
            write_annotations(out, table, regions, config.annotations, config.class_name)
    return tables, table, skipped


def claim(out: Path, identity: Identity, config: dict[str, Any]) -> None:
    """Write `config.yaml` and `identity.json`, unless another pipeline's masks are there.

    Raises:
        LtcamError: If they are.
    """
    path = out / "config.yaml"
    with lock(path):
        remedy = "choose another predict.out, or delete the folder"
        if path.is_file() and read_config(out, remedy).get("hash") != identity.hash:
            raise LtcamError(
                f"{out}: holds the masks of another method, segmenter, classifier, scale or "
                "limits; choose another predict.out or delete it"
            )
        write_config(out, {"hash": identity.hash, **config})
        identity.write(out)
