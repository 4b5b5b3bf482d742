"""`demo`: the whole way on the synthetic set, in minutes."""

from __future__ import annotations

from ltcam_cli.commands.compose import settings_of
from ltcam_cli.commands.experiments import evaluate, train
from ltcam_cli.commands.options import Call
from ltcam_cli.runs.folder import find_run

METHODS = ("gradcam", "layercam", "ltgradcam", "ltlayercam")


def demo(call: Call) -> None:
    """Train on the synthetic set, evaluate four methods and the chosen pipeline, show pictures."""
    call = call.preceded_by("experiment=demo")
    outputs = settings_of("evaluate", call).root
    train(call)
    print()
    multirun = Call([*call.overrides, f"method={','.join(METHODS)}"], True, call.config_dir)
    evaluate(multirun)
    print("\nA student of the method that training images choose, refined by the image's contrast:")
    [best] = evaluate(call.followed_by("pipeline=auto", "segmenter=contrast"))
    run, cell = find_run(outputs, str(best["run"])), str(best["cell"])
    print(f"\nPictures (image | truth | heatmap | mask) of {best['method']}, best first:")
    overlays = sorted((run.path / "evaluate" / cell / "overlays").glob("*.png"))
    for path in overlays[::-1][:4]:
        print(f"  {path}")
    from ltcam_cli.experiments.pictures import can_draw, draw_gallery

    if can_draw():
        shown = [
            *((f"method={name}",) for name in METHODS),
            ("pipeline=best", "segmenter=contrast"),
        ]
        settings = [settings_of("evaluate", call.followed_by(*words)) for words in shown]
        print("\nAll methods, on the best, the median and the worst image:")
        print(f"  {draw_gallery(run, cell, settings)}")
