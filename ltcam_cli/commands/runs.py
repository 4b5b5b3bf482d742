"""`runs`: what was trained and evaluated. Nothing here imports torch, and lists need no Hydra."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from ltcam_cli.commands.options import Call
from ltcam_cli.errors import LtcamError
from ltcam_cli.runs.folder import RunFolder, find_run, list_runs
from ltcam_cli.runs.reading import healthy


def runs(outputs: Path, name: str | None) -> None:
    """Print a table of all runs, or the results of one."""
    from ltcam_cli.report.terminal import print_table
    from ltcam_cli.runs.cells import results_of
    from ltcam_cli.runs.listing import run_rows
    from ltcam_cli.runs.tables import SHOWN

    if name is not None:
        print_table(results_of(find_run(outputs, name)), SHOWN)
        return
    folders = list_runs(outputs)
    if not folders:
        raise LtcamError(f"no run in {outputs}; train one with: ltcam train")
    import pandas as pd

    table = pd.DataFrame(run_rows(folders))
    print_table(table.drop(columns="said"))
    for said in table["said"].dropna():
        print(said, file=sys.stderr)


def remove(outputs: Path, names: Sequence[str], yes: bool) -> None:
    """Delete runs; asks first, unless `yes`."""
    from ltcam_cli.runs.removal import removable_runs, remove_run

    chosen = removable_runs(outputs, names)
    listed = ", ".join(run.name for run in chosen)
    if not yes:
        typer.confirm(f"Delete {listed} in {outputs}, with all results?", abort=True)
    for run in chosen:
        remove_run(run)
    print(f"deleted: {listed}")


def why(call: Call, name: str) -> None:
    """Print in what a run or a cell differs from what the config describes now."""
    from ltcam_cli.commands.compose import composer
    from ltcam_cli.config import shown
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
    print(f"{out}: scores.csv regions.csv{' annotations/' if gathered.annotated else ''}")
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

    shown = healthy(folders)
    tables = [table for run in shown if not (table := run.results()).empty]
    if tables:
        rows = [{str(k): v for k, v in row.items()} for row in pd.concat(tables).to_dict("records")]
        print_table(write_results(out, rows), ["run", *SHOWN])
        print(f"\n{out / 'results.csv'}")
    unfinished = [run for run in folders if not run.checkpoint.is_file()]
    for run in unfinished:
        _missing(f"the training of {run.name} is not finished; ltcam train --resume")
    return not unfinished and len(shown) == len(folders)


def _missing(what: str) -> None:
    print(f"missing: {what}", file=sys.stderr)
