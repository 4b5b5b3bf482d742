"""`sweep` and `search`: many pipelines on one run."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from ltcam_cli.commands.compose import launch, settings_of
from ltcam_cli.commands.options import Call
from ltcam_cli.errors import LtcamError
from ltcam_cli.experiments.config import check_split
from ltcam_cli.experiments.ranges import deltas_of
from ltcam_cli.experiments.settings import Settings, named_keys
from ltcam_cli.experiments.tasks import Row
from ltcam_cli.report.terminal import print_table, spent
from ltcam_cli.runs.tables import SHOWN

PARTS: dict[str, tuple[Literal["test", "train"], ...]] = {
    "test": ("test",),
    "train": ("train",),
    "both": ("train", "test"),
}
TOP = 10  # candidates on the terminal; all of them are in the files


def sweep(call: Call, names: str, deltas: str, layers: str | None, part: str) -> list[Row]:
    """Evaluate a grid; print its table and where it was written.

    Args:
        call: Overrides.
        names: Methods, joined by commas.
        deltas: Percentiles: a comma list, `null`, ranges.
        layers: Layer sets, joined by commas; None: each method's own.
        part: `test`, `train` or `both`.
    """
    started = time.perf_counter()
    if part not in PARTS:
        raise LtcamError(f"--split {part}: must be test, train or both")
    values = deltas_of([deltas])
    each = [settings_of("sweep", call.followed_by(f"method={name}")) for name in names.split(",")]
    from ltcam_cli.experiments.sweep import Sweep, grid

    sets = layers.split(",") if layers else []
    pipelines = [
        replace(settings.pipeline, method=method)
        for settings in each
        for method in grid(settings.method, values, sets)
    ]
    [result], _ = launch("sweep", Sweep(pipelines, PARTS[part]), call)
    import pandas as pd

    table = pd.DataFrame(result["rows"])
    first = {"test": [], "train": ["chosen"], "both": ["part", "chosen"]}[part]
    print_table(table, [*first, *SHOWN], Path(result["folder"]) / "sweep.csv")
    print(f"\n{len(table)} cells: {spent(result['loop'], started)}")
    print(os.path.relpath(result["folder"]))
    return list(result["rows"])


def search(call: Call, names: str | None, deltas: str | None, layers: str | None) -> Row:
    """Choose a pipeline, evaluate it; print the best candidates, its scores and how to run it.

    Args:
        call: Overrides.
        names: Methods, joined by commas, in place of `search.methods`.
        deltas: Percentiles of each method; None: its own.
        layers: Layer sets, joined by commas; None: each method's own.
    """
    settings = settings_of("search", call)
    check_split(settings.evaluation, "a search")
    for key in sorted(named_keys(call.overrides) & {"method", "segmenter", "pipeline"}):
        listed = "segmenters" if key == "segmenter" else "methods"
        raise LtcamError(f"{key}: a search tries several; list them in search.{listed}=[…]")
    values = deltas_of([deltas]) if deltas else []
    sets = layers.split(",") if layers else []
    from ltcam_cli.experiments.candidates import method_candidates, segmenter_candidates
    from ltcam_cli.experiments.search import Search

    def compose(overrides: Sequence[str]) -> Settings:
        return settings_of("search", call.followed_by(*overrides))

    entries = [{"method": name} for name in names.split(",")] if names else settings.search.methods
    methods = method_candidates(compose, settings, entries, values, sets)
    segmenters = segmenter_candidates(compose, settings)
    options = ["--config-dir", str(call.config_dir)] if call.config_dir else []
    options += [o for o in call.overrides if not o.startswith(("search.", "overwrite="))]
    [result], _ = launch("search", Search(methods, segmenters, options), call)
    print_table(result["ranked"].head(TOP))
    print(f"\n{result['text']}")
    print(os.path.relpath(result["folder"]))
    return result
