"""`report`: one HTML page of a run, or of several side by side."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import DictConfig

from ltcam_cli.classifier.checkpoint import Classifier, load_classifier
from ltcam_cli.classifier.train import predict_images
from ltcam_cli.commands.compose import compose
from ltcam_cli.commands.invocation import command_of_cell, command_of_run
from ltcam_cli.commands.options import deltas_of
from ltcam_cli.commands.pipeline import drawings, heatmap_source
from ltcam_cli.commands.settings import TRAINING, Settings, trained, with_parts_of
from ltcam_cli.data.load import load_split
from ltcam_cli.data.sample import Sample
from ltcam_cli.errors import LtcamError, require
from ltcam_cli.files import sha256, short_hash, write_text
from ltcam_cli.report.gallery import Gallery, Visitor
from ltcam_cli.report.page import Shown, render
from ltcam_cli.runs.cells import Cell, chosen_by_training, find_cells, newest
from ltcam_cli.runs.evaluation import evaluate
from ltcam_cli.runs.folder import RunFolder, find_run

MOST = 4  # cells of a page, where none are named
HELD = ("method", "segmenter", "tta", "ensemble")  # parts of a cell that no override changes


@dataclass(frozen=True)
class Wanted:
    """Which cells: names, methods and deltas as they were typed; none of them: a few of all."""

    names: Sequence[str] = ()
    methods: Sequence[str] = ()
    deltas: Sequence[str] = ()

    def cells(self, run: RunFolder, most: int) -> tuple[list[Cell], list[Cell]]:
        """The cells whose pictures are shown, and those whose IoU is.

        Where none are named: `most` of them, and the newest of each method (see `newest`); what
        training chose counts as newest. Cells of other weights than the run's cannot be drawn.

        Raises:
            LtcamError: if there is none, or a named one was made of other weights.
        """
        named = bool(self.names or self.methods or self.deltas)
        found = find_cells(run, self.names, self.methods, deltas_of(self.deltas))
        digest = sha256(run.checkpoint)[:12]
        fitting = [cell for cell in found if cell.metrics["checkpoint"] == digest]
        if not fitting or (self.names and len(fitting) < len(found)):
            other = next(cell for cell in found if cell not in fitting)
            raise LtcamError(
                f"{other.path}: is of another checkpoint than {run.checkpoint}; "
                f"evaluate it anew: ltcam evaluate --run {run.name}"
            )
        if named:
            return fitting, fitting
        chosen = chosen_by_training(run)
        methods = {cell.metrics["method"] for cell in fitting}
        return newest(fitting, most, chosen), newest(fitting, len(methods), chosen)


def report(
    names: Sequence[str],
    wanted: Wanted,
    limit: int,
    out: Path | None,
    overrides: Sequence[str],
    config_dir: Path | None,
) -> Path:
    """Write the page, and print where it is.

    Args:
        names: of the runs, or their paths; none: the run that the config fits.
        wanted: cells.
        limit: of images, defective ones first, then those that look most like it.
        out: file of the page; None: `report.html` in the run folder, or below `outputs`.
        overrides, config_dir: of the config; a cell's method and segmenter stay as they are.

    Raises:
        LtcamError: see `Wanted.cells`; if an override would change a cell, or an extra is missing.
    """
    for module in ("jinja2", "matplotlib"):
        require(module, "report")
    for override in overrides:
        if override.lstrip("+~").split("=")[0].split(".")[0] in HELD:
            raise LtcamError(
                f"{override}: a report shows cells as they were evaluated; "
                "choose them with --method, --delta or --cell"
            )
    cfg = compose("report", overrides, config_dir)
    outputs = Path(cfg.outputs)
    runs = [find_run(outputs, name) for name in names] or [trained(cfg, overrides)[2]]
    runs = list({run.path.resolve(): run for run in runs}.values())
    each = [wanted.cells(run, max(1, MOST // len(runs))) for run in runs]
    cells = [cell for shown, _ in each for cell in shown]
    gallery = Gallery([{} for _ in cells])
    left_out = max(
        draw(gallery, run, {cell: cells.index(cell) for cell in shown}, cfg, overrides, limit)
        for run, (shown, _) in zip(runs, each, strict=True)
    )
    commands = {run.path: command_of_run(run, config_dir) for run in runs}
    commands |= {cell.path: command_of_cell(cell, config_dir) for cell in cells}
    bars = [cell for _, shown in each for cell in shown]
    page = render(Shown(runs, cells, bars, commands, gallery, left_out))
    path = out or _place(outputs, runs)
    write_text(path, page)
    size = path.stat().st_size / 1e6
    print(f"{len(cells)} cells, {len(gallery.images)} images, {size:.1f} MB")
    print(os.path.relpath(path))
    return path


def draw(
    gallery: Gallery,
    run: RunFolder,
    cells: Mapping[Cell, int],
    cfg: DictConfig,
    overrides: Sequence[str],
    limit: int,
) -> int:
    """Draw cells of a run into the gallery, all of one segmenter in one pass over the images.

    Args:
        cells: with their numbers in the gallery.

    Returns:
        How many images the limit left out.
    """
    passes: dict[str, list[tuple[Settings, int]]] = {}
    for cell, number in cells.items():
        settings = settings_of(cell, cfg, overrides)
        gate = settings.evaluation.images == "predicted"
        student = number if settings.method.is_student else None  # each has a pass of its own
        alike = (
            settings.dataset, settings.segmenter, settings.evaluation.split, gate, settings.bf16,
            settings.tta, settings.ensemble, student,
        )  # fmt: skip
        passes.setdefault(repr(alike), []).append((settings, number))
    classifier, left_out = None, 0
    for group in passes.values():
        settings = group[0][0]
        classifier = classifier or load_classifier(run.checkpoint, settings.torch_device())
        methods = [each.method for each, _ in group]
        everything = load_split(settings.dataset).part(settings.evaluation.split)
        gate = settings.evaluation.images == "predicted"
        visit = Visitor(gallery, [number for _, number in group])
        samples = likeliest(everything, limit, classifier, settings.dataset.on_error)
        scores, _ = evaluate(
            classifier,
            heatmap_source(settings, run, classifier, methods),
            drawings(settings, run, classifier, methods),
            samples,
            replace(settings.evaluation, images="predicted" if gate else "all"),
            on_error=settings.dataset.on_error,
            visit=visit,
            progress=run.name,
        )
        visit.add_scores(scores)
        left_out = max(left_out, len(everything) - len(samples))
    return left_out


def settings_of(cell: Cell, cfg: DictConfig, overrides: Sequence[str]) -> Settings:
    """The settings that a cell was evaluated with, but for what the overrides say of the data.

    δ is the one that was used, also where the config asked for another to be found.
    """
    held = cell.config
    parts = (*TRAINING, *HELD, "evaluation", "bf16")
    settings = Settings.of(with_parts_of(held, parts, cfg, overrides))
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
    first = table.sort_values(["label", "probability"], ascending=False)["name"].head(limit)
    return [sample for sample in samples if sample.name in set(first)]


def _place(outputs: Path, runs: Sequence[RunFolder]) -> Path:
    """`report.html` in the run folder; of several runs, a page below the outputs."""
    if len(runs) == 1:
        return runs[0].path / "report.html"
    return outputs / f"report-{short_hash([run.name for run in runs])}.html"
