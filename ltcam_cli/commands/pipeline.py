"""What draws: the heatmap source and the segmenters of all commands are made here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import ltcam_cli
from ltcam_cli.classifier.checkpoint import Classifier, load_classifier
from ltcam_cli.commands.settings import Settings, aimed
from ltcam_cli.errors import LtcamError
from ltcam_cli.files import alone, hashed, read_json, sha256, short_hash, write_json
from ltcam_cli.maps.averaged import averaged
from ltcam_cli.maps.engine import CamEngine, HeatmapSource
from ltcam_cli.maps.ensemble import Ensemble
from ltcam_cli.maps.joined import Joined
from ltcam_cli.maps.method import MethodConfig
from ltcam_cli.masks.segmenters import Segmenter, make_segmenter
from ltcam_cli.runs.evaluation import Drawing, drawn_by
from ltcam_cli.runs.fitting import fit
from ltcam_cli.runs.folder import UNHASHED_DATASET, RunFolder, same_data
from ltcam_cli.runs.students import find_student
from ltcam_cli.student.checkpoint import Student, StudentSource, load_student


def heatmap_source(
    settings: Settings, run: RunFolder, classifier: Classifier, methods: Sequence[MethodConfig]
) -> HeatmapSource:
    """One map a method, with the settings' test-time options, of an ensemble if they name one.

    Args:
        settings: of everything but the methods.
        run: that the classifier is of.
    """
    if settings.ensemble and any(method.is_student for method in methods):
        raise LtcamError("ensemble: students are not averaged; leave it away with --method student")
    members = [(classifier, _alone(settings, run, classifier, methods))]
    for other in settings.members():
        member = load_classifier(other.checkpoint, settings.torch_device())
        _check_member(other, member, run, classifier)
        members.append((member, _alone(settings, other, member, methods)))
    return Ensemble(members) if len(members) > 1 else members[0][1]


def _alone(
    settings: Settings, run: RunFolder, classifier: Classifier, methods: Sequence[MethodConfig]
) -> HeatmapSource:
    """The source of one classifier."""
    size = (classifier.height, classifier.width)
    cams = [place for place, method in enumerate(methods) if not method.is_student]
    parts: list[tuple[HeatmapSource, list[int]]] = []
    if cams:
        specs = [aimed(methods[place].spec(), classifier) for place in cams]
        engine = CamEngine(classifier.model, specs, settings.half)
        parts.append((averaged(engine, settings.tta, size), cams))
    for place, method in enumerate(methods):
        if method.is_student:
            student = student_of(run, method, settings.torch_device())
            source = StudentSource(classifier, student, settings.half)
            parts.append((averaged(source, settings.tta, student.size), [place]))
    return parts[0][0] if len(parts) == 1 else Joined(parts, size)


def together(methods: Sequence[MethodConfig]) -> list[list[int]]:
    """Numbers of the methods that share a pass over the images: all but students.

    A student may want larger images, and no cell must depend on what is evaluated beside it.
    """
    cams = [place for place, method in enumerate(methods) if not method.is_student]
    alone = [[place] for place, method in enumerate(methods) if method.is_student]
    return [*([cams] if cams else []), *alone]


def resolved(run: RunFolder, method: MethodConfig) -> MethodConfig:
    """A method that names its student and the student's weights; any other as it is.

    Raises:
        LtcamError: if there is no such student, or it was trained anew meanwhile.
    """
    if not method.is_student:
        return method
    method.check()
    folder = find_student(run, method.options.get("student"))
    # With its prefix, since 5e8961 alone would be a number to Hydra.
    digest = f"sha256:{sha256(folder / 'checkpoint.pt')[:12]}"
    held = method.options.get("checkpoint")
    if held not in {None, digest}:
        raise LtcamError(
            f"{folder}: holds another student than {held}; evaluate it anew, with "
            "method.options.checkpoint=null"
        )
    return replace(method, options={"student": folder.name, "checkpoint": digest})


def student_of(run: RunFolder, method: MethodConfig, device: torch.device) -> Student:
    """The student that draws a method's maps."""
    name = resolved(run, method).options["student"]
    return load_student(run.path / "student" / name / "checkpoint.pt", device)


def _check_member(
    other: RunFolder, member: Classifier, run: RunFolder, classifier: Classifier
) -> None:
    """Refuse a run that takes other inputs, or may have seen this one's test images."""
    inputs = [(c.height, c.width, c.in_channels) for c in (member, classifier)]
    if inputs[0] != inputs[1]:
        raise LtcamError(
            f"ensemble={other.name}: takes images of {'x'.join(map(str, inputs[0]))}, {run.name} "
            f"of {'x'.join(map(str, inputs[1]))}; train them alike"
        )
    if not same_data(other.config.get("dataset", {}), run.config.get("dataset", {})):
        raise LtcamError(
            f"ensemble={other.name}: was trained on another data set, split or size than {run.name}"
        )


def drawings(
    settings: Settings,
    run: RunFolder,
    classifier: Classifier,
    methods: Sequence[MethodConfig],
) -> list[Drawing]:
    """A cell for each map of `heatmap_source`: it, and the settings' segmenter, fitted.

    What was learnt is kept in the run folder, `segmenters/<name>.json`, and read from there the
    next time, unless `overwrite` is set.
    """
    names = fitted_names(settings, run, methods)
    if names[0] is None:
        return drawn_by(make_segmenter(settings.segmenter), len(methods))
    segmenters = {name: make_segmenter(settings.segmenter) for name in names if name}
    folder = run.path / "segmenters"
    if settings.overwrite or not _read(folder, segmenters):
        with alone(folder / "fitting"):
            # Another process may have fitted them meanwhile.
            if settings.overwrite or not _read(folder, segmenters):
                _fit(settings, run, classifier, methods, names, segmenters)
                for name, segmenter in segmenters.items():
                    states = [lesson.state for lesson in segmenter.lessons]
                    write_json(folder / f"{name}.json", states)
    return [Drawing(number, segmenters[str(name)]) for number, name in enumerate(names)]


def fitted_names(
    settings: Settings, run: RunFolder, methods: Sequence[MethodConfig]
) -> list[str | None]:
    """What the fitted segmenter of each method is called; None of one that needs no fit.

    The first half hashes what is asked for, the second one the training images' names and labels.
    Where the data set is absent, as may be for `predict`, the name of what was fitted on it.

    Raises:
        LtcamError: if the data set is absent and nothing was fitted.
    """
    lessons = make_segmenter(settings.segmenter).lessons
    if not lessons:
        return [None] * len(methods)
    known: list[Any] = [
        settings.segmenter.rule,
        settings.segmenter.options,
        hashed(settings.segmenter.refine),
        {k: v for k, v in hashed(settings.dataset).items() if k not in UNHASHED_DATASET},
        True,  # as long as others than the data set's images could be learnt from
        sha256(run.checkpoint),
        ltcam_cli.__version__,
    ]
    reads_maps = any(lesson.reads_maps for lesson in lessons)
    asked = [
        short_hash([*known, *([hashed(method), *settings.options] if reads_maps else [])])
        for method in methods
    ]
    try:
        samples = settings.training
    except LtcamError as error:
        return [_any_of(run.path / "segmenters", half, settings, error) for half in asked]
    images = short_hash([(sample.name, sample.label) for sample in samples])
    return [f"{half}-{images}" for half in asked]


def _any_of(folder: Path, half: str, settings: Settings, error: LtcamError) -> str:
    found = sorted(folder.glob(f"{half}-*.json"))
    if len(found) != 1:
        raise LtcamError(
            f"segmenter {settings.segmenter.label}: learns from training images, and {error}; "
            "or evaluate the run once with this segmenter where they are"
        ) from error
    return found[0].stem


def _read(folder: Path, segmenters: dict[str, Segmenter]) -> bool:
    """Whether what all of them learnt could be read."""
    for name, segmenter in segmenters.items():
        path = folder / f"{name}.json"
        if not path.is_file():
            return False
        for lesson, state in zip(segmenter.lessons, read_json(path), strict=True):
            lesson.state = state
    return True


def _fit(
    settings: Settings,
    run: RunFolder,
    classifier: Classifier,
    methods: Sequence[MethodConfig],
    names: Sequence[str | None],
    segmenters: dict[str, Segmenter],
) -> None:
    """Fit each of the segmenters, on the maps of the first method that it is of."""
    firsts = [names.index(name) for name in segmenters]
    fit(
        classifier,
        heatmap_source(settings, run, classifier, [methods[number] for number in firsts]),
        [Drawing(number, segmenter) for number, segmenter in enumerate(segmenters.values())],
        settings.training,
        batch_size=settings.evaluation.batch_size,
        on_error=settings.dataset.on_error,
        progress=f"segmenter {settings.segmenter.label}",
    )
