"""`runs`: what was trained and evaluated. Nothing here imports torch, and lists need no Hydra."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ltcam_cli.commands import options as o
from ltcam_cli.commands.groups import RunsGroup
from ltcam_cli.commands.options import Call, command
from ltcam_cli.errors import LtcamError

if TYPE_CHECKING:
    from ltcam_cli.runs.folder import RunFolder

app = typer.Typer(cls=RunsGroup, help="List runs, the results of one, or join tables.")


@app.command("list")
def runs(name: o.OneRun = None, outputs: o.OutputsFolder = Path("outputs")) -> None:
    """List runs, or the results of one; the word `list` can be omitted."""
    from ltcam_cli.report.terminal import print_table
    from ltcam_cli.runs.cells import results_of
    from ltcam_cli.runs.folder import find_run, list_runs
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


@app.command("rm")
def remove(
    names: Annotated[list[str], typer.Argument(help="Runs, by name.", autocompletion=o.RUNS)],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    outputs: o.OutputsFolder = Path("outputs"),
) -> None:
    """Delete runs with all that was made of them; asks first."""
    from ltcam_cli.runs.removal import removable_runs, remove_run

    chosen = removable_runs(outputs, names)
    listed = ", ".join(run.name for run in chosen)
    if not yes:
        typer.confirm(f"Delete {listed} in {outputs}, with all results?", abort=True)
    for run in chosen:
        remove_run(run)
    print(f"deleted: {listed}")


@command(app)
def why(
    call: Call,
    name: Annotated[str, typer.Argument(help="A run, or path of a cell.", autocompletion=o.RUNS)],
) -> None:
    """Print in what a run or cell differs from what the config describes now.

    [dim]ltcam runs why RUN trainer.epochs=40[/]
    """
    from ltcam_cli.commands.compose import composer
    from ltcam_cli.config import shown
    from ltcam_cli.experiments.why import identity_differences

    lines = identity_differences(name, composer(call), call.overrides)
    for key, before, after in lines:
        print(f"{key}: {shown(before)} -> {shown(after)}")
    if not lines:
        print(f"{name}: nothing differs")


@app.command()
def gather(
    out: Annotated[Path, typer.Argument(help="Folder of shards' predictions, or of runs.")],
) -> None:
    """Join tables, and say what is missing; then the exit status is 1.

    Where nothing is missing and a part was rejected, it is 3.

    Those of shards (ltcam predict --shard) into scores.csv and regions.csv; or, of a folder of
    runs, all results into one results.csv.
    """
    from ltcam_cli.runs.folder import list_runs

    if not out.is_dir():
        raise LtcamError(f"{out}: no such folder; name one of predictions, or of runs")
    folders = list_runs(out)
    if not (_gather_runs(out, folders) if folders else _gather_shards(out)):
        raise typer.Exit(1)


def _gather_shards(out: Path) -> bool:
    from ltcam_cli.runs.prediction_tables import gather as join_shards
    from ltcam_cli.runs.prediction_tables import rejected_parts

    gathered = join_shards(out)
    print(f"{gathered}\n{out}: scores.csv regions.csv{' annotations/' * gathered.annotated}")
    for line in gathered.missing():
        _missing(line)
    if not gathered.absent and rejected_parts(gathered.scores):
        raise typer.Exit(o.REJECTED)
    return not gathered.absent


def _gather_runs(out: Path, folders: Sequence[RunFolder]) -> bool:
    import pandas as pd

    from ltcam_cli.report.terminal import print_table
    from ltcam_cli.runs.reading import healthy
    from ltcam_cli.runs.tables import SHOWN, rows_of, write_results

    shown = healthy(folders)
    tables = [table for run in shown if not (table := run.results()).empty]
    if tables:
        print_table(write_results(out, rows_of(pd.concat(tables))), ["run", *SHOWN])
        print(f"\n{out / 'results.csv'}")
    unfinished = [run for run in folders if not run.checkpoint.is_file()]
    for run in unfinished:
        _missing(f"the training of {run.name} is not finished; ltcam train --resume")
    return not unfinished and len(shown) == len(folders)


def _missing(what: str) -> None:
    print(f"missing: {what}", file=sys.stderr)
