"""`method.delta=auto`: a number, chosen on the training part before anything is evaluated."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from ltcam_cli.data.sample import content_of
from ltcam_cli.errors import DamagedFileError, LtcamError
from ltcam_cli.experiments.calibration import calibration_digest
from ltcam_cli.experiments.cells import ChosenPipeline, masks_of, plan, run
from ltcam_cli.experiments.evidence import mean_evidence
from ltcam_cli.experiments.session import Session
from ltcam_cli.experiments.settings import Pipeline
from ltcam_cli.experiments.sources import passes, resolved
from ltcam_cli.files import lock, write_json
from ltcam_cli.maps.method import AUTO, CamMethod
from ltcam_cli.runs.identity import Identity
from ltcam_cli.runs.reading import read_mapping

log = logging.getLogger("ltcam_cli")


def choose_deltas(session: Session, pipelines: Sequence[Pipeline]) -> list[ChosenPipeline]:
    """The pipelines with every `delta=auto` replaced by the best of `evaluation.deltas`.

    With `evaluation.supervision=pixel` the best has the highest pooled IoU on the defective
    training images; with `image`, no mask is read, and the best has the highest mean `Evidence`. Of
    equals, the smallest. The test part is never looked at.

    Raises:
        LtcamError: If a method reads no gradients, or a training mask is needed and missing.
    """
    evaluation = session.settings.evaluation
    automatic = [pipeline for pipeline in pipelines if pipeline.method.delta == AUTO]
    if not automatic:
        return [ChosenPipeline(pipeline) for pipeline in pipelines]
    deltas = sorted(set(evaluation.deltas))
    candidates = [with_delta(pipeline, delta) for pipeline in automatic for delta in deltas]
    for candidate in candidates:
        candidate.method.check()  # refuses a method without gradients
    if evaluation.supervision == "pixel":
        criterion, values = "iou", _training_ious(session, candidates)
    else:
        criterion, values = "evidence", _evidences(session, candidates)
    count = len(deltas)
    curves = [
        _curve(criterion, deltas, values[start : start + count])
        for start in range(0, len(values), count)
    ]
    chosen = []
    for pipeline in pipelines:
        if pipeline.method.delta != AUTO:
            chosen.append(ChosenPipeline(pipeline))
            continue
        curve = curves.pop(0)
        delta = float(curve.loc[curve["chosen"], "delta"].iloc[0])
        name = pipeline.method.name
        log.info("%s: delta %g chosen by %s of training images", name, delta, criterion)
        chosen.append(ChosenPipeline(with_delta(pipeline, delta), evaluation.supervision, curve))
    return chosen


def with_delta(pipeline: Pipeline, delta: float | None) -> Pipeline:
    """The pipeline with another δ."""
    assert isinstance(pipeline.method, CamMethod)
    return replace(pipeline, method=replace(pipeline.method, delta=delta))


def _training_ious(session: Session, candidates: Sequence[Pipeline]) -> list[float]:
    """Pooled IoU of each candidate on the defective training images."""
    evaluation = replace(
        session.settings.evaluation,
        split="train",
        images="defective",
        overlays=0,
        save_maps=False,
        masks_chose=False,
    )
    for sample in session.training_images:
        if sample.label and sample.read_mask is None:
            raise LtcamError(
                f"{sample.name}: is defective and has no mask to choose by; add it to masks/, or "
                "use evaluation.supervision=image"
            )
    training = session.with_settings(evaluation=evaluation)
    rows, _ = run(training, plan(training, [ChosenPipeline(each) for each in candidates]))
    return [float("nan") if row["iou"] is None else row["iou"] for row in rows]


def _evidences(session: Session, candidates: Sequence[Pipeline]) -> list[float]:
    """Criterion of each candidate on the defective training images; kept in the run folder."""
    candidates = [replace(each, method=resolved(session, each.method)) for each in candidates]
    samples = [sample for sample in session.training_images if sample.label]
    images = content_of(samples)
    names = [
        Identity(
            "delta",
            {
                **session.source_parts,
                "pipeline": pipeline,
                "calibration": calibration_digest(session, pipeline),
                "images": images,
            },
        ).hash
        for pipeline in candidates
    ]
    path = session.run.path / "delta.json"
    kept = {} if session.settings.overwrite else kept_evidence(path, names)
    missing = [number for number, name in enumerate(names) if name not in kept]
    values: dict[str, float] = {}
    for numbers in passes([candidates[number] for number in missing]):
        places = [missing[number] for number in numbers]
        source, jobs = masks_of(session, [candidates[place] for place in places])
        means = mean_evidence(session.classifier, source, jobs, samples, session.loading("delta"))
        values |= {names[place]: mean for place, mean in zip(places, means, strict=True)}
    if values:
        with lock(path):  # another process may have written others meanwhile
            kept |= kept_evidence(path)
            kept |= values
            write_json(path, kept)
    return [float("nan") if kept[name] is None else kept[name] for name in names]


def kept_evidence(path: Path, names: Sequence[str] = ()) -> dict[str, Any]:
    """Criteria that were computed before; none of a damaged file, which is then made anew."""
    try:
        return read_mapping(path, "it is made anew", numbers=names) if path.is_file() else {}
    except DamagedFileError as error:
        log.warning("%s", error)
        return {}


def _curve(criterion: str, deltas: Sequence[float], values: Sequence[float]) -> pd.DataFrame:
    curve = pd.DataFrame({"delta": deltas, criterion: values}, dtype=float)
    if curve[criterion].isna().all():
        raise LtcamError(
            "method.delta=auto: no mask of a training image has a pixel; give a number"
        )
    return curve.assign(chosen=curve.index == curve[criterion].idxmax())
