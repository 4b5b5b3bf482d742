"""`reproduce`: the paper's tables and figures, or one's own, over folds and seeds."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ltcam_cli.commands.compose import compose, launch, settings_of
from ltcam_cli.commands.experiments import TEACHER
from ltcam_cli.commands.options import Call
from ltcam_cli.errors import LtcamError
from ltcam_cli.experiments.overrides import entry_overrides, with_experiment
from ltcam_cli.experiments.tasks import Row
from ltcam_cli.maps.method import StudentMethod
from ltcam_cli.report.terminal import print_table
from ltcam_cli.runs.folder import write_config

log = logging.getLogger("ltcam_cli")


def reproduce(call: Call, what: str, folds: str | None, seeds: str | None) -> Path:
    """Train what is not trained yet, evaluate, and write a table or figure; print where it is.

    The files are written anew after each run, so a killed reproduction leaves what it had, and the
    next one goes on: trainings and cells that exist are reused.

    Args:
        call: Overrides.
        what: Experiment with `reproduce.entries`, e.g. `table1`.
        folds: `all`, or numbers joined by commas; None: the split as it is.
        seeds: Numbers joined by commas; None: the seed as it is.
    """
    call = Call(with_experiment(what, call.overrides), config_dir=call.config_dir)
    run = compose("reproduce", call).values.get("run")
    if run and (folds or seeds):
        raise LtcamError(f"run={run}: is one run; --folds and --seeds choose others")
    settings = settings_of("reproduce", call)
    if not settings.reproduce.entries:
        raise LtcamError(
            f"experiment={what}: lists no reproduce.entries; see conf/experiment/table1.yaml"
        )
    from ltcam_cli.experiments.reproduce.entries import (
        Entry,
        make_entry,
        repetitions,
        reproduction_identity,
    )
    from ltcam_cli.experiments.reproduce.run import Reproduction
    from ltcam_cli.experiments.reproduce.tables import write

    def entry(keys: Mapping[str, Any]) -> Entry:
        return make_entry(keys, settings_of("reproduce", call.followed_by(*entry_overrides(keys))))

    runs = repetitions(settings, folds, seeds)
    entries = [entry(keys) for keys in settings.reproduce.entries]
    learns = any(isinstance(each.pipeline.method, StudentMethod) for each in entries)
    teacher = entry({"pipeline": TEACHER}) if learns else None
    identity = reproduction_identity(settings, entries, runs)
    folder = settings.root / "reproduce" / f"{what}-{settings.name or identity.hash}"
    write_config(folder, {**asdict(settings), "runs": [" ".join(words) for words in runs]})
    identity.write(folder)
    # A name is the reproduction's, then, not the runs'.
    unnamed = ["name=null"] if len(runs) > 1 else []
    rows: list[Row] = []
    for number, words in enumerate(runs):
        task = Reproduction(entries, teacher, what, folder if number == 0 else None)
        log.info("reproduce %s: run %d of %d %s", what, number + 1, len(runs), " ".join(words))
        [result], _ = launch("reproduce", task, call.followed_by(*words, *unnamed))
        rows += result["rows"]
        table = write(folder, what, settings, rows)
    print_table(table)
    print(
        f"\n{os.path.relpath(folder)}: {' '.join(sorted(path.name for path in folder.iterdir()))}"
    )
    for run in dict.fromkeys(str(row["run_path"]) for row in rows):
        print(f"ltcam report {shlex.quote(os.path.relpath(run))}")
    return folder
