"""Pipelines -> heatmap sources: one pass over the images for all that can share one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from ltcam_cli.classifier.checkpoint import Classifier
from ltcam_cli.errors import LtcamError, nearest
from ltcam_cli.experiments.memories import memory_of, with_memory
from ltcam_cli.experiments.session import Session
from ltcam_cli.experiments.settings import Pipeline
from ltcam_cli.files import content_digest
from ltcam_cli.maps.combined import CombinedSource, ProductSource
from ltcam_cli.maps.engine import CamEngine, HeatmapSource
from ltcam_cli.maps.ensemble import Ensemble
from ltcam_cli.maps.folding import folded
from ltcam_cli.maps.method import (
    AutoMethod,
    CamMethod,
    Method,
    PatchcoreMethod,
    ProductMethod,
    StudentMethod,
)
from ltcam_cli.maps.patchcore import PatchcoreSource
from ltcam_cli.maps.spec import MapSpec, Target
from ltcam_cli.maps.stages import resolve_layers
from ltcam_cli.maps.tta import with_tta
from ltcam_cli.maps.tta_config import TtaConfig
from ltcam_cli.runs.students import find_student
from ltcam_cli.student.checkpoint import StudentSource, load_student

TARGETS = ("defect", "margin")
T = TypeVar("T")


def passes(pipelines: Sequence[Pipeline]) -> list[list[int]]:
    """Numbers of the pipelines that share a pass over the images.

    Those of one test-time augmentation do, but a student has a pass of its own: it may want larger
    images, and no result must depend on what is computed beside it.
    """
    groups: dict[str, list[int]] = {}
    for number, pipeline in enumerate(pipelines):
        alone = "" if pipeline.method.shares_pass else repr(pipeline.method)
        groups.setdefault(f"{pipeline.tta} {alone}", []).append(number)
    return list(groups.values())


def distinct(configs: Sequence[T]) -> list[T]:
    """The pipelines or methods, each once."""
    return list({repr(config): config for config in configs}.values())


def heatmap_source(session: Session, methods: Sequence[Method], tta: TtaConfig) -> HeatmapSource:
    """One map a method, augmented at test time, of an ensemble if the settings name one.

    Raises:
        LtcamError: If a student is to be averaged, or a member takes other images.
    """
    if session.settings.ensemble and not all(method.shares_pass for method in methods):
        raise LtcamError("ensemble: students are not averaged; do not set it with a student")
    for member in session.members:
        _check_inputs(member, session)
    sessions = [session, *session.members]
    members = [(one.classifier, _source(one, methods, tta)) for one in sessions]
    return Ensemble(members) if len(members) > 1 else members[0][1]


def _source(session: Session, methods: Sequence[Method], tta: TtaConfig) -> HeatmapSource:
    """Source of one classifier: one part for each kind of method."""
    parts: list[tuple[HeatmapSource, list[int]]] = []
    for kind, make in SOURCES.items():
        numbers = [number for number, method in enumerate(methods) if type(method) is kind]
        parts += make(session, methods, numbers, tta) if numbers else []
    return parts[0][0] if len(parts) == 1 else CombinedSource(parts, session.classifier.size)


def _cam_source(
    session: Session, methods: Sequence[Method], numbers: list[int], tta: TtaConfig
) -> list[tuple[HeatmapSource, list[int]]]:
    classifier = session.classifier
    specs = [
        with_logit(method.spec(), classifier)
        for number in numbers
        if isinstance(method := methods[number], CamMethod)
    ]
    layers = [layer for spec in specs for layer in resolve_layers(classifier.model, spec)]
    engine = CamEngine(folded(classifier.model, layers), specs, session.autocast_dtype)
    return [(with_tta(engine, tta, classifier.size, classifier.fit), numbers)]


def _student_source(
    session: Session, methods: Sequence[Method], numbers: list[int], tta: TtaConfig
) -> list[tuple[HeatmapSource, list[int]]]:
    parts: list[tuple[HeatmapSource, list[int]]] = []
    for number in numbers:
        method = resolved(session, methods[number])  # refuses a student that was trained anew
        assert isinstance(method, StudentMethod)
        student = load_student(student_folder(session, method) / "checkpoint.pt", session.device)
        decides = method.verdict == "student"
        source = StudentSource(session.classifier, student, session.autocast_dtype, decides)
        parts.append((with_tta(source, tta, student.size, session.classifier.fit), [number]))
    return parts


def _patchcore_source(
    session: Session, methods: Sequence[Method], numbers: list[int], tta: TtaConfig
) -> list[tuple[HeatmapSource, list[int]]]:
    parts: list[tuple[HeatmapSource, list[int]]] = []
    classifier = session.classifier
    for number in numbers:
        method = resolved(session, methods[number])  # refuses a memory of other images
        assert isinstance(method, PatchcoreMethod)
        source = PatchcoreSource(classifier, memory_of(session, method), method.smooth)
        parts.append((with_tta(source, tta, classifier.size, classifier.fit), [number]))
    return parts


def _product_source(
    session: Session, methods: Sequence[Method], numbers: list[int], tta: TtaConfig
) -> list[tuple[HeatmapSource, list[int]]]:
    [(cams, _)] = _cam_source(session, methods, numbers, tta)
    of_cams = [method.partner for n in numbers if isinstance(method := methods[n], ProductMethod)]
    partners = list(dict.fromkeys(of_cams))
    sources = _patchcore_source(session, partners, list(range(len(partners))), tta)
    pairs = [
        (source, [place for place, partner in enumerate(of_cams) if partner == partners[number]])
        for source, [number] in sources
    ]
    return [(ProductSource(cams, pairs), numbers)]


Make = Callable[
    [Session, Sequence[Method], list[int], TtaConfig], list[tuple[HeatmapSource, list[int]]]
]
SOURCES: dict[type, Make] = {
    CamMethod: _cam_source,
    ProductMethod: _product_source,
    PatchcoreMethod: _patchcore_source,
    StudentMethod: _student_source,
}


def resolved(session: Session, method: Method) -> Method:
    """A method that names its student's weights, or its memory's images; any other as it is.

    Raises:
        LtcamError: If there is no such student, it was trained anew meanwhile, the good training
            images are others or absent, or the method is yet to be chosen.
    """
    if isinstance(method, AutoMethod):
        raise LtcamError(
            "method=auto: is chosen by evaluate, predict and student train; name another --method"
        )
    if isinstance(method, PatchcoreMethod):
        return with_memory(session, method)
    if isinstance(method, ProductMethod):
        return replace(method, partner=with_memory(session, method.partner))
    if not isinstance(method, StudentMethod):
        return method
    folder = student_folder(session, method)
    # With its prefix, since 5e8961 alone would be a number to Hydra.
    digest = f"sha256:{content_digest(folder / 'checkpoint.pt')[:12]}"
    if method.checkpoint not in {None, digest}:
        raise LtcamError(
            f"{folder}: holds another student than {method.checkpoint}; evaluate it anew, with "
            "method.checkpoint=null"
        )
    return replace(method, student=folder.name, checkpoint=digest)


def student_folder(session: Session, method: StudentMethod) -> Path:
    """Folder of a method's student."""
    return find_student(session.run, method.student)


def with_logit(spec: MapSpec, classifier: Classifier) -> MapSpec:
    """`spec` with the logit that this classifier has for its target, where that is not the last.

    Raises:
        LtcamError: If the target is no kind that it tells apart, or a margin that it does not have.
    """
    target, kinds = spec.target, classifier.kinds
    if kind := _kind(target, kinds):
        return replace(spec, target=kinds.index(kind))
    if isinstance(target, str) and target not in TARGETS:
        known = nearest(target, [*TARGETS, *kinds])
        why = "unknown" if kinds else "the classifier tells no kinds apart, see trainer.kinds"
        raise LtcamError(f"method.target={target}: {why}{known}")
    if classifier.defect in {-1, classifier.backbone.logits - 1}:
        return spec
    if target == "margin":
        raise LtcamError(
            "method.target=margin: the defect's logit must be the last one; use defect"
        )
    return replace(spec, target=classifier.defect) if target == "defect" else spec


def kind_of(method: Method, session: Session) -> str | None:
    """Kind of defect that a method's map is of; None: of any."""
    if not isinstance(method, CamMethod) or method.target in TARGETS:
        return None
    return _kind(method.target, session.classifier.kinds)


def _kind(target: Target, kinds: Sequence[str]) -> str | None:
    if target in TARGETS:
        return None
    if str(target) in kinds:  # a kind called 1 is written as a number
        return str(target)
    is_index = isinstance(target, int) and -len(kinds) <= target < len(kinds)
    return kinds[int(target)] if is_index else None


def _check_inputs(member: Session, session: Session) -> None:
    """Refuse a run that takes other images."""
    inputs = [
        c.takes
        + (" standardized" if c.backbone.standardize else "")
        + (f" and kinds {'+'.join(c.kinds)}" if c.kinds else "")
        for c in (member.classifier, session.classifier)
    ]
    if inputs[0] != inputs[1]:
        raise LtcamError(
            f"ensemble={member.run.name}: takes images of {inputs[0]}, {session.run.name} "
            f"of {inputs[1]}; train them alike"
        )
