"""`demo`: the whole way on the synthetic set, in minutes."""

from __future__ import annotations

from pathlib import Path

from ltcam_cli.commands.compose import settings_of
from ltcam_cli.commands.experiments import evaluate, train
from ltcam_cli.commands.options import Call
from ltcam_cli.runs.folder import RunFolder, find_run

METHODS = ("gradcam", "layercam", "ltgradcam", "ltlayercam")
SHOWN = "ltlayercam"


def demo(call: Call) -> None:
    """Train on the synthetic set, evaluate four methods, and show where pictures are."""
    call = call.preceded_by("experiment=demo")
    outputs = settings_of("evaluate", call).root
    train(call)
    print()
    multirun = Call([*call.overrides, f"method={','.join(METHODS)}"], True, call.config_dir)
    rows = evaluate(multirun)
    best = next(row for row in rows if row["method"] == SHOWN)
    run, cell = find_run(outputs, str(best["run"])), str(best["cell"])
    print(f"\nPictures (image | truth | heatmap | mask) of {SHOWN}, best first:")
    overlays = sorted((run.path / "evaluate" / cell / "overlays").glob("*.png"))
    for path in overlays[::-1][:4]:
        print(f"  {path}")
    from ltcam_cli.experiments.pictures import can_draw

    if can_draw():
        print("\nAll methods, on the best, the median and the worst image:")
        print(f"  {draw_gallery(call, run, cell)}")


def draw_gallery(call: Call, run: RunFolder, cell: str) -> Path:
    """Draw the best, the median and the worst image of a cell with the maps of all methods."""
    from ltcam_cli.experiments.pictures import masks_of_images, ranking
    from ltcam_cli.experiments.session import Session
    from ltcam_cli.report.grids import draw_grid, gallery_rows

    each = [settings_of("evaluate", call.followed_by(f"method={name}")) for name in METHODS]
    session = Session(each[0], run)
    samples = {s.name: s for s in session.split.part(each[0].evaluation.split)}
    ranked = ranking(session, cell, 3)
    pipelines = [settings.pipeline for settings in each]
    results = masks_of_images(session, [samples[name] for name, _ in ranked], pipelines)
    path = run.path / "gallery.png"
    draw_grid(
        gallery_rows(results, [label for _, label in ranked]),
        ["image", "truth", *METHODS, f"mask of\n{SHOWN}"],
        f"Test images from best to worst by {SHOWN}; below each heatmap its mask's IoU in per cent",
        path,
    )
    return path
