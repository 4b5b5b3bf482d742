"""A report of runs or of a prediction, on one page; cells are made again, for their pictures."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ltcam_cli.classifier.checkpoint import Classifier
from ltcam_cli.classifier.predictions import predict_images
from ltcam_cli.data.sample import Sample, content_of
from ltcam_cli.errors import DamagedFileError, LtcamError
from ltcam_cli.experiments.cells import masks_of
from ltcam_cli.experiments.evaluate import evaluate_task
from ltcam_cli.experiments.evidence import Evidence
from ltcam_cli.experiments.invocation import command_of_cell, command_of_run
from ltcam_cli.experiments.overrides import Compose, quoted
from ltcam_cli.experiments.prediction_report import prediction_page
from ltcam_cli.experiments.session import Session, find_session
from ltcam_cli.experiments.settings import TRAINING, Composed, Settings, with_kept_parts
from ltcam_cli.experiments.sources import passes
from ltcam_cli.files import content_digest, remove_leftovers, short_hash, write_text
from ltcam_cli.maps.method import CamMethod
from ltcam_cli.report.gallery import Gallery, Visitor, scores_of
from ltcam_cli.report.page import PageContent, render
from ltcam_cli.runs.cells import Cell, chosen_by_training, find_cells, newest
from ltcam_cli.runs.folder import RunFolder, find_run
from ltcam_cli.runs.identity import kept_identity
from ltcam_cli.runs.prediction_tables import is_prediction
from ltcam_cli.runs.reading import healthy
from ltcam_cli.runs.scoring import evaluate, mask_free, scorable
from ltcam_cli.scores.skill import no_skill

MOST = 4  # cells of a page, where none are named
KEPT = ("method", "segmenter", "tta", "ensemble")  # parts of a cell that no override changes


@dataclass(frozen=True)
class Selection:
    """Cells that are asked for by name, method or δ; none of them: a few of all."""

    names: Sequence[str] = ()
    methods: Sequence[str] = ()
    deltas: Sequence[float | None] = ()

    @property
    def is_open(self) -> bool:
        """Whether none is asked for."""
        return not (self.names or self.methods or self.deltas)

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
        if not self.is_open:
            return fitting, fitting
        chosen = chosen_by_training(run)
        methods = {cell.metrics["method"] for cell in fitting}
        return newest(fitting, most, chosen), newest(fitting, len(methods), chosen)


def write_page(
    names: Sequence[str],
    selection: Selection,
    composed: Composed,
    compose: Compose,
    limit: int,
    out: Path | None,
) -> tuple[Path, str]:
    """Write the page of some runs, or of one folder of predictions.

    A run of which nothing was evaluated yet is evaluated with `pipeline=auto` first.

    Args:
        names: Runs by name or path, or the folder; none: the run that the config fits.
        selection: Cells that are shown.
        composed: Config of the command.
        compose: Composes configs of other overrides.
        limit: Most images.
        out: File of the page; None: `report.html` in the folder, or below `outputs`.

    Returns:
        Path of the page, and what is in it.

    Raises:
        LtcamError: If there is no such run, folder or cell.
    """
    folders = [name for name in names if is_prediction(Path(name))]
    if folders:
        if len(names) > 1 or not selection.is_open:
            raise LtcamError(f"{folders[0]}: is a prediction; report it alone, without cells")
        folder = Path(folders[0])
        page, told = prediction_page(folder, limit)
        path = out or folder / "report.html"
    else:
        outputs = Path(str(composed.values["outputs"]))
        found = [find_run(outputs, name) for name in names] or [find_session(composed).run]
        runs = healthy(list({run.path.resolve(): run for run in found}.values()))
        page, told = runs_page(runs, selection, composed, compose, limit)
        path = out or page_path(outputs, runs, short_hash([run.name for run in runs]))
    remove_leftovers(path.parent)
    write_text(path, page)
    return path, told


def runs_page(
    runs: Sequence[RunFolder],
    selection: Selection,
    composed: Composed,
    compose: Compose,
    limit: int,
) -> tuple[str, str]:
    """The page of some runs as HTML, and what is in it; arguments as of `write_page`."""
    bare = [run for run in runs if selection.is_open and run.results().empty]
    for run in bare:
        print(f"{run.name}: nothing evaluated yet; evaluates pipeline=auto", file=sys.stderr)
        own = [f"run={quoted(str(run.path))}", "pipeline=auto"]
        evaluate_task(compose("evaluate", [*composed.overrides, *own]))
    of_runs = [selection.cells(run, max(1, MOST // len(runs))) for run in runs]
    cells = [cell for drawn, _ in of_runs for cell in drawn]
    gallery = Gallery([{} for _ in cells])
    left_out = max(
        draw_cells(gallery, run, {cell: cells.index(cell) for cell in drawn}, composed, limit)
        for run, (drawn, _) in zip(runs, of_runs, strict=True)
    )
    for run in runs:
        if (warning := no_skill(run.metrics)) and run not in bare:  # whose evaluation says it
            print(f"{run.name}: {warning}", file=sys.stderr)
    commands = {run.path: command_of_run(run, compose) for run in runs}
    commands |= {cell.path: command_of_cell(cell, compose) for cell in cells}
    bars = [cell for _, drawn in of_runs for cell in drawn]
    page = render(PageContent(runs, cells, bars, commands, gallery, left_out))
    return page, f"{len(cells)} cells, {len(gallery.images)} images"


def draw_cells(
    gallery: Gallery, run: RunFolder, cells: Mapping[Cell, int], composed: Composed, limit: int
) -> int:
    """Draw cells of a run into the gallery, those that can in one pass over the images.

    Args:
        gallery: Gallery of the page.
        run: Run.
        cells: Cells, with their numbers in the gallery.
        composed: Config of the command.
        limit: Most images; see `shown`.

    Returns:
        Number of images that the limit left out.
    """
    groups: dict[str, list[tuple[Settings, Cell, int]]] = {}
    for cell, number in cells.items():
        settings = settings_of(cell, composed)
        gate = settings.evaluation.images == "predicted"
        alike = (
            settings.dataset, settings.evaluation.split, gate, settings.bf16, settings.ensemble,
        )  # fmt: skip
        groups.setdefault(repr(alike), []).append((settings, cell, number))
    left_out, classifier = 0, None
    for group in groups.values():
        session = Session(group[0][0], run)
        if classifier is not None:
            vars(session)["classifier"] = classifier
        classifier = session.classifier
        left_out = max(left_out, _draw_group(gallery, session, group, limit))
    return left_out


def _draw_group(
    gallery: Gallery, session: Session, group: Sequence[tuple[Settings, Cell, int]], limit: int
) -> int:
    """Draw cells of the same images: what their evaluations kept, and what is made anew."""
    evaluation = session.settings.evaluation
    images = "predicted" if evaluation.images == "predicted" else "all"
    everything = session.split.part(evaluation.split)
    samples = shown(everything, limit, session.classifier, session.settings.dataset.on_error)
    # Where images are skipped, the rest alone might have none that can be read.
    skips = session.settings.dataset.on_error == "skip"
    content = "" if skips else content_of(scorable(everything), masks=True)
    drawn: list[tuple[Visitor, list[dict[str, dict[str, Any]]], set[str]]] = []
    pipelines = [settings.pipeline for settings, *_ in group]
    for numbers in passes(pipelines):
        places = [group[number][2] for number in numbers]
        gallery.thresholds |= dict.fromkeys(places, float(session.classifier.threshold))
        visitor = Visitor(gallery, places)
        kept = [kept_pictures(group[number][1], content) for number in numbers]
        known = set.intersection(*map(set, kept))
        if anew := [sample for sample in samples if sample.name not in known]:
            source, jobs = masks_of(session, [pipelines[number] for number in numbers])
            scores, _ = evaluate(
                session.classifier,
                source,
                jobs,
                anew,
                session.loading(session.run.name, workers=True),
                images=images,
                evidence=Evidence(session.classifier),
                visit=visitor,
            )
            visitor.add_scores(scores)
        drawn.append((visitor, kept, known))
    for sample in samples:
        if not any(sample.name in known for *_, known in drawn):
            continue
        number = gallery.number_of(sample, sample.image, sample.mask)
        for visitor, kept, known in drawn:
            if sample.name in known:
                visitor.add_kept(number, [pictures[sample.name] for pictures in kept])
    return len(everything) - len(samples)


def kept_pictures(cell: Cell, content: str) -> dict[str, dict[str, Any]]:
    """Pictures and scores that a cell's evaluation kept, by the image's name.

    Empty if images, labels or masks were of another `content_of`, and where evidence stands in
    place of IoU, which good images have alone as well.
    """
    if cell.mask_free:
        return {}
    try:
        if (kept_identity(cell.path) or {}).get("images") != content:
            return {}
        pictures = cell.pictures()
    except DamagedFileError:
        return {}
    rows = cell.images().to_dict("index")
    return {
        name: {**picture, **scores_of(rows[name])}
        for name, picture in pictures.items()
        if name in rows
    }


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


def shown(
    samples: Sequence[Sample], limit: int, classifier: Classifier, on_error: str
) -> list[Sample]:
    """At most `limit` samples: defective ones first, then by the probability of a defect.

    Without masks, those whose probability is nearest to the threshold. Their order stays.
    """
    if len(samples) <= limit:
        return list(samples)
    table = predict_images(classifier, samples, on_error=on_error)
    if mask_free(samples):
        table["doubt"] = -(table["probability"] - classifier.threshold).abs()
    order = ["doubt"] if mask_free(samples) else ["label", "probability"]
    kept = set(table.sort_values(order, ascending=False)["name"].head(limit))
    return [sample for sample in samples if sample.name in kept]


def page_path(outputs: Path, runs: Sequence[RunFolder], digest: Any) -> Path:
    """`report.html` in the run folder; of several runs, a page below the outputs."""
    return runs[0].path / "report.html" if len(runs) == 1 else outputs / f"report-{digest}.html"
