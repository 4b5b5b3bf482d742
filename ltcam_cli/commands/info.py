"""`methods`, `runs`, `config`: what there is. Nothing here imports torch."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from ltcam_cli.commands.compose import (
    GROUPS,
    compose_config,
    composer,
    conf_dir,
    own_config_dirs,
    plain,
    root_groups,
)
from ltcam_cli.commands.options import Call
from ltcam_cli.config import defaults, descriptions, shown
from ltcam_cli.errors import LtcamError, nearest
from ltcam_cli.experiments.settings import Settings
from ltcam_cli.maps.method import CamMethod
from ltcam_cli.maps.weightings import get_weighting
from ltcam_cli.runs.folder import RunFolder, find_run, list_runs

HEAD_NOTE = """\
The head decides whether truncation can act on the last stage: behind backbone.head=avg all
gradients of a channel are equal there, behind max only one is not 0, so truncation by channel
changes nothing there but the sign; fc and lse let it act. Methods that read no gradients take no
delta. The stages' maps differ in size by orders of magnitude: fusion.normalize=none, the paper's
plain sum, is practically the deepest stage alone where batch norm is; minmax gives all a voice."""


def methods(call: Call) -> None:
    """Print a table of what `--method` takes."""
    import pandas as pd

    from ltcam_cli.report.terminal import print_table

    rows = []
    for name, path in sorted(config_files("method", call.config_dir).items()):
        values = merged_file(path)
        weighting = values.get("weighting") if values.get("source") != "student" else None
        needs = get_weighting(weighting).needs if weighting else frozenset()
        delta = values.get("delta")
        rows.append(
            {
                "method": name,
                "weighting": weighting or "student",
                "layers": values.get("layers", ""),
                "delta": "" if delta is None else f"{delta:g}",
                "needs": " ".join(sorted(needs)),
                "what": path.read_text(encoding="utf-8").splitlines()[0].lstrip("# "),
            }
        )
    print_table(pd.DataFrame(rows))
    print(f"\n{HEAD_NOTE}")


def config_files(group: str, config_dir: Path | None) -> dict[str, Path]:
    """Files of a config group by name; the user's own before the package's."""
    folders = [*reversed(own_config_dirs(config_dir)), conf_dir()]
    paths = {path.stem: path for folder in folders for path in (folder / group).glob("*.yaml")}
    return {name: path for name, path in paths.items() if not name.startswith("_")}


def merged_file(path: Path) -> dict[str, Any]:
    """A method's file over those that it begins with."""
    values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    merged: dict[str, Any] = {}
    for base in values.pop("defaults", []):
        if base == "_student_schema":
            merged |= {"source": "student", "layers": "none"}
        elif base == "_schema":
            merged |= defaults(CamMethod)
        elif isinstance(base, str) and base != "_self_":
            places = [path.with_name(f"{base}.yaml"), conf_dir() / "method" / f"{base}.yaml"]
            merged |= merged_file(next((each for each in places if each.is_file()), path))
    return merged | values


def runs(outputs: Path, name: str | None) -> None:
    """Print a table of all runs, or the results of one."""
    from ltcam_cli.report.terminal import print_table
    from ltcam_cli.runs.cells import results_of
    from ltcam_cli.runs.tables import SHOWN

    if name is not None:
        print_table(results_of(find_run(outputs, name)), SHOWN)
        return
    folders = list_runs(outputs)
    if not folders:
        raise LtcamError(f"no run in {outputs}; train one with: ltcam train")
    import pandas as pd

    print_table(pd.DataFrame([_run_row(run) for run in folders]))


def _run_row(run: RunFolder) -> dict[str, object]:
    try:
        metrics, results = run.metrics, run.results()
    except LtcamError as error:  # a damaged run must not hide the others
        print(f"ltcam: {error}", file=sys.stderr)
        return {"run": run.name, "trained": "damaged"}
    return {
        "run": run.name,
        "trained": "yes" if run.checkpoint.is_file() else "unfinished",
        "test_ap": metrics.get("test_ap"),
        "test_auroc": metrics.get("test_auroc"),
        "seconds": metrics.get("seconds"),
        "cells": len(results),
    }


def why(call: Call, name: str) -> None:
    """Print in what a run or a cell differs from what the config describes now."""
    from ltcam_cli.experiments.why import identity_differences

    lines = identity_differences(name, composer(call), call.overrides)
    for key, before, after in lines:
        print(f"{key}: {shown(before)} -> {shown(after)}")
    if not lines:
        print(f"{name}: nothing differs")


def gather(out: Path) -> bool:
    """Join the tables of shards, or of runs; whether nothing is missing."""
    from ltcam_cli.runs.prediction_tables import gather as join_shards

    if not out.is_dir():
        raise LtcamError(f"{out}: no such folder; name one of predictions, or of runs")
    if folders := list_runs(out):
        return _gather_runs(out, folders)
    gathered = join_shards(out)
    begun = gathered.count - sum(names is None for names in gathered.absent.values())
    skipped = f", {gathered.skipped} unreadable ones skipped" if gathered.skipped else ""
    print(
        f"{begun} of {gathered.count} shards, {len(gathered.scores)} of their {gathered.given} "
        f"images{skipped}"
    )
    print(f"{out}: scores.csv regions.csv")
    for shard, names in gathered.absent.items():
        if names is None:
            _missing(f"shard {shard} has not begun; predict.shard={shard}")
        else:
            some = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
            _missing(f"shard {shard} lacks {len(names)} images ({some}); predict.shard={shard}")
    return not gathered.absent


def _gather_runs(out: Path, folders: Sequence[RunFolder]) -> bool:
    import pandas as pd

    from ltcam_cli.report.terminal import print_table
    from ltcam_cli.runs.tables import SHOWN, write_results

    tables = [table for run in folders if not (table := run.results()).empty]
    if tables:
        rows = [{str(k): v for k, v in row.items()} for row in pd.concat(tables).to_dict("records")]
        print_table(write_results(out, rows), ["run", *SHOWN])
        print(f"\n{out / 'results.csv'}")
    unfinished = [run for run in folders if not run.checkpoint.is_file()]
    for run in unfinished:
        _missing(f"the training of {run.name} is not finished; ltcam train --resume")
    return not unfinished


def _missing(what: str) -> None:
    print(f"missing: {what}", file=sys.stderr)


def config(call: Call, job: str) -> None:
    """Print a command's composed config as YAML, with what each key means."""
    jobs = [path.stem for path in conf_dir().glob("*.yaml") if path.stem != "base"]
    if job not in jobs:
        raise LtcamError(f"config {job}: no such command{nearest(job, jobs)}")
    from ltcam_cli.commands.experiments import TEACHER, with_default_pipeline

    if job in {"student", "export"}:
        call = with_default_pipeline(call, TEACHER if job == "student" else "student")
    composed = plain(compose_config(job, call), call.overrides)
    settings = Settings.of(composed.values)
    groups = root_groups(job)
    values = {
        key: value
        for key, value in composed.values.items()
        if key not in GROUPS or (key in groups and key != "pipeline")
    }
    print("\n".join(_lines(values, settings)))


def _lines(values: Mapping[str, Any], config: Any, indent: str = "") -> Iterator[str]:
    """Lines of YAML; a comment behind each leaf, or above it where it is long."""
    known = {one.name for one in fields(config)}
    told = descriptions(type(config))
    for key, value in values.items():
        inner = getattr(config, key) if key in known else None
        if is_dataclass(inner) and isinstance(value, Mapping):
            yield f"{indent}{key}:"
            yield from _lines(value, inner, f"{indent}  ")
            continue
        text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
        line = f"{indent}{key}: {text.removesuffix(chr(10)).removesuffix('...').strip()}"
        comment = told.get(key, "").rstrip(".")
        yield f"{line:<30}  # {comment}" if comment else line
