"""`demo`: the whole way on the synthetic set, in minutes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ltcam_cli.commands.compose import compose
from ltcam_cli.commands.info import COMMANDS
from ltcam_cli.commands.pictures import drawable, maps_of, ranking
from ltcam_cli.commands.run import evaluate, train
from ltcam_cli.commands.settings import Settings
from ltcam_cli.commands.tasks import overlays_of
from ltcam_cli.data.load import load_split
from ltcam_cli.report.grids import draw_grid, gallery_rows
from ltcam_cli.runs.folder import RunFolder, find_run

METHODS = "gradcam,layercam,ltgradcam,ltlayercam"
SHOWN = "ltlayercam"


def demo(overrides: Sequence[str], config_dir: Path | None) -> None:
    """Train on the synthetic set, evaluate four methods, and show where pictures are."""
    overrides = [*COMMANDS["demo"], *overrides]
    outputs = Path(compose("demo", overrides, config_dir).outputs)
    train(overrides, False, config_dir)
    print()
    rows = evaluate([*overrides, f"method={METHODS}"], True, config_dir)
    best = next(row for row in rows if row["method"] == SHOWN)
    run, cell = find_run(outputs, str(best["run"])), str(best["cell"])
    print(f"\nPictures (image | truth | heatmap | mask) of {SHOWN}, best first:")
    for path in overlays_of(run, cell)[::-1][:4]:
        print(f"  {path}")
    if drawable():
        print("\nAll methods, on the best, the median and the worst image:")
        print(f"  {draw_gallery(run, cell, overrides, config_dir)}")


def draw_gallery(
    run: RunFolder, cell: str, overrides: Sequence[str], config_dir: Path | None
) -> Path:
    """Draw the best, the median and the worst image of a cell with the maps of all methods."""
    names = METHODS.split(",")
    each = [
        Settings.of(compose("demo", [*overrides, f"method={name}"], config_dir)) for name in names
    ]
    settings = each[0]
    samples = {s.name: s for s in load_split(settings.dataset).part(settings.evaluation.split)}
    ranked = ranking(run, cell, 3)
    pipelines = [one.pipeline for one in each]
    results = maps_of(settings, run, [samples[name] for name, _ in ranked], pipelines)
    path = run.path / "gallery.png"
    draw_grid(
        gallery_rows(results, [label for _, label in ranked]),
        ["image", "truth", *names, f"mask of\n{SHOWN}"],
        f"Test images from best to worst by {SHOWN}; below each heatmap its mask's IoU in per cent",
        path,
    )
    return path
