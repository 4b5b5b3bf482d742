"""`sweep` and `search`: many pipelines on one run."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from ltcam_cli.commands.compose import Row, launch, settings_of
from ltcam_cli.commands.options import Call, quoted
from ltcam_cli.commands.ranges import deltas_of
from ltcam_cli.commands.terminal import spent
from ltcam_cli.config import effective
from ltcam_cli.errors import LtcamError
from ltcam_cli.experiments.config import check_split
from ltcam_cli.experiments.settings import Settings, named_keys
from ltcam_cli.files import short_hash
from ltcam_cli.maps.method import AUTO, CamMethod, Method
from ltcam_cli.report.terminal import print_table
from ltcam_cli.runs.tables import SHOWN

PARTS = {"test": ("test",), "train": ("train",), "both": ("train", "test")}
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
    table = pd.DataFrame(result["rows"])
    columns = ["part", *SHOWN] if part == "both" else list(SHOWN)
    print_table(table, [*columns, *(["chosen"] if part != "test" else [])])
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
    entries = [{"method": name} for name in names.split(",")] if names else settings.search.methods
    methods = candidates(call, settings, entries, values, sets)
    from ltcam_cli.experiments.search import Candidate, Search

    segmenters = []
    for keys in settings.search.segmenters:
        overrides = entry_overrides(keys)
        composed = settings_of("search", call.followed_by(*overrides))
        segmenters.append(Candidate(composed.segmenter, overrides))
    options = ["--config-dir", str(call.config_dir)] if call.config_dir else []
    options += [o for o in call.overrides if not o.startswith(("search.", "overwrite="))]
    chosen = Search([Candidate(*each) for each in methods], segmenters, options)
    [result], _ = launch("search", chosen, call)
    print_table(result["ranked"].head(TOP))
    print(f"\n{result['text']}")
    print(os.path.relpath(result["folder"]))
    return result


def candidates(
    call: Call,
    settings: Settings,
    entries: Sequence[Mapping[str, Any]],
    deltas: Sequence[float | None],
    layers: Sequence[str],
) -> list[tuple[Method, list[str]]]:
    """Methods × fusions × layer sets × deltas, each once, with their overrides.

    A student has no fusion.
    """
    from ltcam_cli.experiments.sweep import grid

    methods: dict[str, tuple[Method, list[str]]] = {}
    for entry in entries:
        plain = settings_of("search", call.followed_by(*entry_overrides(entry))).method
        fused = isinstance(plain, CamMethod) and settings.search.fusions
        for fusion in settings.search.fusions if fused else [{}]:
            keys = {**entry, **{f"method.fusion.{key}": value for key, value in fusion.items()}}
            overrides = entry_overrides(keys)
            method = settings_of("search", call.followed_by(*overrides)).method
            swept = deltas
            if method.delta == AUTO and not deltas:
                swept = settings.evaluation.deltas
            for cell in grid(method, swept, layers):
                changed = [
                    (f"method.{key}", getattr(cell, key))
                    for key in ("layers", "delta")
                    if getattr(cell, key) != getattr(method, key)
                ]
                names = {key for key, _ in changed}
                kept = [o for o in overrides if o.split("=")[0] not in names]
                both = kept + [f"{key}={override_text(value)}" for key, value in changed]
                methods.setdefault(short_hash(effective(cell), 64), (cell, both))
    return list(methods.values())


def entry_overrides(keys: Mapping[str, Any]) -> list[str]:
    """A mapping of config keys as overrides; groups first.

    Raises:
        LtcamError: If a key is no text.
    """
    ordered = sorted(keys.items(), key=lambda pair: "." in str(pair[0]))
    return [f"{key}={override_text(value)}" for key, value in ordered]


def override_text(value: Any) -> str:
    """A value in Hydra's grammar."""
    if value is None:
        return "null"
    if isinstance(value, (list, tuple)):
        return f"[{','.join(override_text(item) for item in value)}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{override_text(item)}' for key, item in value.items())}}}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    return f"{value:.17g}" if isinstance(value, float) else quoted(str(value))


