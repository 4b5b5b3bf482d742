"""Pictures of a reproduction: images with the maps of all entries, or of all stages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ltcam_cli.experiments.pictures import masks_of_images, ranking
from ltcam_cli.experiments.reproduce.entries import Entry
from ltcam_cli.experiments.session import Session
from ltcam_cli.experiments.tasks import Row
from ltcam_cli.report.grids import draw_grid, layer_rows, method_rows


def draw_pictures(
    folder: Path, name: str, session: Session, entries: Sequence[Entry], rows: Sequence[Row]
) -> None:
    """Draw some images with the maps of all entries, or of all stages; existing pictures stay.

    Args:
        folder: Folder of the reproduction.
        name: Name of the experiment; begins the files' names.
        session: Session of one run.
        entries: Entries with the δ that was used.
        rows: Rows of the entries.
    """
    settings = session.settings
    ranked = ranking(session, str(rows[-1]["cell"]), settings.reproduce.pictures)
    samples = {s.name: s for s in session.split.part(settings.evaluation.split)}
    chosen = [samples[image] for image, _ in ranked]
    labels = [label for _, label in ranked]
    title = f"{settings.reproduce.title or name}\n{session.run.name}"
    if settings.reproduce.kind != "stages":
        path = folder / f"{name}-maps.png"
        if settings.overwrite or not path.is_file():
            pipelines = [entry.pipeline for entry in entries]
            results = masks_of_images(session, chosen, pipelines)
            one_rule = all(p.segmenter == pipelines[0].segmenter for p in pipelines)
            panel = "heatmap" if one_rule else "mask"
            names = [entry.text.replace(" ", "\n") for entry in entries]
            grid = method_rows(results, labels, panel)
            draw_grid(grid, ["image", "truth", *names], title, path)
        return
    fused = [entry.text for entry in entries if "layers=s" not in entry.text]
    count = len(entries) // len(fused) - 1
    weightings = [getattr(entry.pipeline.method, "weighting", "") for entry in entries]
    for weighting in filter(None, dict.fromkeys(weightings)):
        path = folder / f"{name}-{weighting}.png"
        if settings.overwrite or not path.is_file():
            alike = [e for e, own in zip(entries, weightings, strict=True) if own == weighting]
            results = masks_of_images(session, chosen, [entry.pipeline for entry in alike])
            names = [entry.text for entry in alike if entry.text in fused]
            columns = ["truth", *(f"S{number + 1}" for number in range(count)), "fused"]
            draw_grid(layer_rows(results, names, count), columns, title, path)
