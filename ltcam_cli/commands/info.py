"""`methods`, `runs`, `config`: what there is."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from omegaconf import OmegaConf

from ltcam_cli.commands.compose import compose, conf_dir, own_configs
from ltcam_cli.commands.options import print_table
from ltcam_cli.errors import LtcamError, nearest
from ltcam_cli.maps.method import STUDENT, TEACHER
from ltcam_cli.maps.weightings import get_weighting
from ltcam_cli.runs.cells import results_of
from ltcam_cli.runs.folder import RunFolder, find_run, list_runs
from ltcam_cli.runs.shards import gather as join_shards
from ltcam_cli.runs.tables import SHOWN, write_results

HEAD_NOTE = """\
The head decides whether truncation can act on the last stage: behind backbone.head=avg all
gradients of a channel are equal there, behind max only one is not 0, so truncation by channel
changes nothing there but the sign; fc and lse let it act. Methods that read no gradients take no
delta. The stages' maps differ in size by orders of magnitude: fusion.normalize=none, the paper's
plain sum, is practically the deepest stage alone where batch norm is; minmax gives all a voice."""

# Commands that compose a config, and what they override themselves.
COMMANDS = {
    "train": (), "evaluate": (), "sweep": (), "search": (), "predict": (), "reproduce": (),
    "report": (), "data": (),
    "student": (f"method={TEACHER}",), "export": ("method=student",),
    "import": ("backbone.weights=null",), "demo": ("experiment=demo",),
}  # fmt: skip


def methods(config_dir: Path | None) -> None:
    """A table of what `--method` takes."""
    folders = [*reversed(own_configs(config_dir)), conf_dir()]  # the first that Hydra finds counts
    paths = {path.stem: path for folder in folders for path in (folder / "method").glob("*.yaml")}
    rows = []
    for name, path in sorted(paths.items()):
        config = OmegaConf.load(path)
        if "defaults" in config:
            config = compose("methods", [f"method={name}"], config_dir).method
        student = config.weighting == STUDENT
        needs = frozenset() if student else get_weighting(config.weighting).needs
        rows.append(
            {
                "method": name,
                "weighting": config.weighting,
                "layers": config.layers,
                "delta": "" if config.delta is None else f"{config.delta:g}",
                "needs": " ".join(sorted(needs)),
                "what": path.read_text(encoding="utf-8").splitlines()[0].lstrip("# "),
            }
        )
    print_table(pd.DataFrame(rows))
    print(f"\n{HEAD_NOTE}")


def runs(outputs: Path, name: str | None) -> None:
    """A table of all runs, or the results of one."""
    if name is not None:
        print_table(results_of(find_run(outputs, name)), SHOWN)
        return
    found = list_runs(outputs)
    if not found:
        raise LtcamError(f"no run in {outputs}; train one with: ltcam train")
    print_table(pd.DataFrame([_run_row(run) for run in found]))


def gather(out: Path) -> bool:
    """Join the tables of shards, or of runs; whether nothing is missing."""
    if not out.is_dir():
        raise LtcamError(f"{out}: no such folder; name one of predictions, or of runs")
    if found := list_runs(out):
        return _gather_runs(out, found)
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


def _gather_runs(out: Path, found: Sequence[RunFolder]) -> bool:
    tables = [table for run in found if not (table := run.results()).empty]
    if tables:
        rows = [{str(k): v for k, v in row.items()} for row in pd.concat(tables).to_dict("records")]
        print_table(write_results(out, rows), ["run", *SHOWN])
        print(f"\n{out / 'results.csv'}")
    unfinished = [run for run in found if not run.checkpoint.is_file()]
    for run in unfinished:
        _missing(f"the training of {run.name} is not finished; ltcam train --resume")
    return not unfinished


def _missing(what: str) -> None:
    print(f"missing: {what}", file=sys.stderr)


def _run_row(run: RunFolder) -> dict[str, object]:
    metrics, results = run.metrics, run.results()
    return {
        "run": run.name,
        "trained": "yes" if run.checkpoint.is_file() else "unfinished",
        "test_ap": metrics.get("test_ap"),
        "test_auroc": metrics.get("test_auroc"),
        "seconds": metrics.get("seconds"),
        "cells": len(results),
    }


def config(command: str, overrides: Sequence[str], config_dir: Path | None) -> None:
    """Print the composed config."""
    if command not in COMMANDS:
        raise LtcamError(f"config {command}: no such command{nearest(command, COMMANDS)}")
    composed = compose(command, [*COMMANDS[command], *overrides], config_dir)
    print(OmegaConf.to_yaml(composed), end="")
