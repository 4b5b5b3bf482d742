"""`demo`: the whole way on the synthetic set, in minutes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ltcam_cli.commands.compose import compose
from ltcam_cli.commands.info import COMMANDS
from ltcam_cli.commands.run import evaluate, train
from ltcam_cli.commands.tasks import overlays_of
from ltcam_cli.runs.folder import find_run

METHODS = "gradcam,layercam,ltgradcam,ltlayercam"


def demo(overrides: Sequence[str], config_dir: Path | None) -> None:
    """Train on the synthetic set, evaluate four methods, and show where pictures are."""
    overrides = [*COMMANDS["demo"], *overrides]
    outputs = Path(compose("demo", overrides, config_dir).outputs)
    train(overrides, False, config_dir)
    print()
    rows = evaluate([*overrides, f"method={METHODS}"], True, config_dir)
    best = next(row for row in rows if row["method"] == "ltlayercam")
    run = find_run(outputs, str(best["run"]))
    print("\nPictures (image | truth | heatmap | mask) of ltlayercam, best first:")
    for path in overlays_of(run, str(best["cell"]))[::-1][:4]:
        print(f"  {path}")
