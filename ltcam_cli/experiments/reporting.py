"""A report of runs: cells are made again, for their pictures, and laid out on one page."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ltcam_cli.classifier.checkpoint import Classifier
from ltcam_cli.classifier.predictions import predict_images
from ltcam_cli.data.sample import Sample
from ltcam_cli.errors import LtcamError
from ltcam_cli.experiments.cells import masks_of
from ltcam_cli.experiments.session import Session
from ltcam_cli.experiments.settings import TRAINING, Composed, Settings, with_kept_parts
from ltcam_cli.experiments.sources import passes
from ltcam_cli.files import content_digest
from ltcam_cli.maps.method import CamMethod
from ltcam_cli.report.gallery import Gallery, Visitor
from ltcam_cli.runs.cells import Cell, chosen_by_training, find_cells, newest
from ltcam_cli.runs.folder import RunFolder
from ltcam_cli.runs.reading import healthy
from ltcam_cli.runs.scoring import evaluate
from ltcam_cli.scores.skill import no_skill

KEPT = ("method", "segmenter", "tta", "ensemble")  # parts of a cell that no override changes


@dataclass(frozen=True)
class Selection:
    """Cells that are asked for by name, method or δ; none of them: a few of all."""

    names: Sequence[str] = ()
    methods: Sequence[str] = ()
    deltas: Sequence[float | None] = ()

    def cells(self, run: RunFolder, most: int) -> tuple[list[Cell], list[Cell]]:
        """The cells whose pictures are shown, and those whose IoU is.

        Where none are named: `most` of them, and the newest of each method (see `newest`); what
        training chose counts as newest. Cells of other weights than the run's cannot be drawn.

        Raises:
            LtcamError: If there is none, or a named one was made of other weights.
        """
        cells = healthy(find_cells(run, self.names, self.methods, self.deltas))
        digest = content_digest(run.checkpoint)[:12]
        fitting = [cell for cell in cells if cell.metrics["checkpoint"] == digest]
        if not fitting or (self.names and len(fitting) < len(cells)):
            other = next(cell for cell in cells if cell not in fitting)
            raise LtcamError(
                f"{other.path}: is of another checkpoint than {run.checkpoint}; "
                f"evaluate it anew: ltcam evaluate --run {run.name}"
            )
        if self.names or self.methods or self.deltas:
            return fitting, fitting
        chosen = chosen_by_training(run)
        methods = {cell.metrics["method"] for cell in fitting}
        return newest(fitting, most, chosen), newest(fitting, len(methods), chosen)


def draw_cells(
    gallery: Gallery, run: RunFolder, cells: Mapping[Cell, int], composed: Composed, limit: int
) -> int:
    """Draw cells of a run into the gallery, those that can in one pass over the images.

    Args:
        gallery: Gallery of the page.
        run: Run.
        cells: Cells, with their numbers in the gallery.
        composed: Config of the command.
        limit: Most images: defective ones first, then those that look most like it.

    Returns:
        Number of images that the limit left out.
    """
    groups: dict[str, list[tuple[Settings, int]]] = {}
    for cell, number in cells.items():
        settings = settings_of(cell, composed)
        gate = settings.evaluation.images == "predicted"
        alike = (
            settings.dataset, settings.evaluation.split, gate, settings.bf16, settings.ensemble,
        )  # fmt: skip
        groups.setdefault(repr(alike), []).append((settings, number))
    if warning := no_skill(run.metrics):
        print(f"{run.name}: {warning}", file=sys.stderr)
    left_out, classifier = 0, None
    for group in groups.values():
        session = Session(group[0][0], run)
        if classifier is not None:
            vars(session)["classifier"] = classifier
        classifier = session.classifier
        left_out = max(left_out, _draw_group(gallery, session, group, limit))
    return left_out


def _draw_group(
    gallery: Gallery, session: Session, group: Sequence[tuple[Settings, int]], limit: int
) -> int:
    """Draw cells of the same images."""
    evaluation = session.settings.evaluation
    images = "predicted" if evaluation.images == "predicted" else "all"
    everything = session.split.part(evaluation.split)
    samples = likeliest(everything, limit, session.classifier, session.settings.dataset.on_error)
    pipelines = [settings.pipeline for settings, _ in group]
    for numbers in passes(pipelines):
        source, jobs = masks_of(session, [pipelines[number] for number in numbers])
        visitor = Visitor(gallery, [group[number][1] for number in numbers])
        scores, _ = evaluate(
            session.classifier,
            source,
            jobs,
            samples,
            session.loading(session.run.name, workers=True),
            images=images,
            visit=visitor,
        )
        visitor.add_scores(scores)
    return len(everything) - len(samples)


def settings_of(cell: Cell, composed: Composed) -> Settings:
    """The settings that a cell was evaluated with, but for what the user set of the data.

    δ is the one that was used, also where the config asked for another to be found.
    """
    settings = with_kept_parts(
        composed, cell.config, (*TRAINING, *KEPT, "evaluation", "bf16"), cell.path / "config.yaml"
    )
    if not isinstance(settings.method, CamMethod):
        return settings
    return replace(settings, method=replace(settings.method, delta=cell.metrics["delta"]))


def likeliest(
    samples: Sequence[Sample], limit: int, classifier: Classifier, on_error: str
) -> list[Sample]:
    """At most `limit` samples: defective ones first, then by the probability of a defect.

    Their order stays.
    """
    if len(samples) <= limit:
        return list(samples)
    table = predict_images(classifier, samples, on_error=on_error)
    ranked = table.sort_values(["label", "probability"], ascending=False)["name"].head(limit)
    return [sample for sample in samples if sample.name in set(ranked)]


def page_path(outputs: Path, runs: Sequence[RunFolder], digest: Any) -> Path:
    """`report.html` in the run folder; of several runs, a page below the outputs."""
    return runs[0].path / "report.html" if len(runs) == 1 else outputs / f"report-{digest}.html"
