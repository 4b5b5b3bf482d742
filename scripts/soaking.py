"""Kills of commands at random moments and around renames; what is left must lead to equal bytes.

Each trial begins with a copy of a prepared folder, starts a command in a process of its own, kills
it, and runs the same command to its end. The files must then be those of an undisturbed run, and no
temporary file may be left.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pandas as pd

from ltcam_cli.runs.tables import as_markdown

REPOSITORY = Path(__file__).resolve().parents[1]
DATA = (
    "dataset=synthetic dataset.items=6 dataset.parts=4 dataset.height=64 dataset.width=64 "
    "backbone=vgg16_slim trainer.epochs=4 trainer.images_per_epoch=12 threads=1 device=cpu"
).split()
STUDENT = (
    "student.steps=8 student.every=2 student.batch_size=4 student.network.width=8 "
    "student.network.decoder=8 student.overlays=1"
).split()
TIMES = {"date", "seconds", "images_per_second", "loop"}
SKIPPED = {".lock", ".log", ".md"}  # of each process; tables stand in CSV files, too
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
MOMENTS = ("random", "before a rename", "in a rename", "after a rename")

# Runs `ltcam`, and signals itself before, in or after its n-th rename.
SHIM = """
import os, sys, threading, time
moment, count, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
seen = 0
def patched(plain):
    def rename(*args, **options):
        global seen
        seen += 1
        due = seen == count
        if due and moment == "before a rename":
            os.kill(os.getpid(), number); time.sleep(0.05)
        if due and moment == "in a rename":  # a race, as with any other process
            threading.Thread(target=os.kill, args=(os.getpid(), number)).start()
        result = plain(*args, **options)
        if due and moment == "after a rename":
            os.kill(os.getpid(), number); time.sleep(0.05)
        return result
    return rename
os.replace, os.rename = patched(os.replace), patched(os.rename)
sys.argv = ["ltcam", *sys.argv[4:]]
from ltcam_cli.__main__ import main
main()
"""


@dataclass(frozen=True)
class Command:
    """A command that is killed.

    Attributes:
        name: Name in the table.
        args: Arguments of the command; the same again goes on.
        before: Commands whose results it needs.
    """

    name: str
    args: list[str]
    before: tuple[str, ...] = ()


COMMANDS = {
    command.name: command
    for command in (
        Command("train", ["train", *DATA, "resume=true"]),
        Command(
            "evaluate -m",
            ["evaluate", *DATA, "-m", "--method", "ltgradcam,layercam", "evaluation.overlays=1"],
            ("train",),
        ),
        Command(
            "sweep", ["sweep", *DATA, "--method", "ltgradcam", "--delta", "0,50,90"], ("train",)
        ),
        Command("student train", ["student", "train", *DATA, *STUDENT, "resume=true"], ("train",)),
        Command(
            "reproduce",
            ["reproduce", "table1", *DATA, "reproduce.pictures=1", "evaluation.overlays=0"],
            ("train",),
        ),
        Command(
            "predict",
            ["predict", "plates", "--run", "RUN", "--out", "out", "threads=1",
             "predict.batch_size=1", "predict.gate=false"],
            ("train", "plates"),
        ),
        Command("runs gather", ["runs", "gather", "out"], ("train", "plates", "shards")),
        Command("plates", ["data", "synth", "plates", "dataset.items=4", "dataset.parts=4",
                           "dataset.height=64", "dataset.width=64"]),
        Command(
            "shards",
            ["predict", "plates", "--run", "RUN", "--out", "out", "threads=1", "-m", "--shard",
             "1:2/2", "predict.gate=false"],
            ("train", "plates"),
        ),
    )
}  # fmt: skip
KILLED = ("train", "evaluate -m", "sweep", "student train", "reproduce", "predict", "runs gather")


def argv(command: Command, folder: Path) -> list[str]:
    """Arguments of a command in a folder whose run is known by now."""
    runs = sorted((folder / "outputs").glob("synthetic-*"))
    return [runs[0].name if arg == "RUN" and runs else arg for arg in command.args]


def run(
    command: Command,
    folder: Path,
    number: int = 0,
    *,
    moment: str = "never",
    count: int = 0,
    after: float | None = None,
) -> int:
    """Exit status of a command in a folder.

    Args:
        command: Command.
        folder: Working directory.
        number: Signal that kills it.
        moment: When the shim does, of its `count`-th rename.
        count: Number of that rename, from 1.
        after: Seconds after which this process does; None: it does not.
    """
    with (folder.parent / "soak.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", SHIM, moment, str(count), str(int(number)),
             *argv(command, folder)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
        )  # fmt: skip
        if after is not None:
            time.sleep(after)
            process.send_signal(number)
        return process.wait(timeout=3600)


def prepare(command: Command, folder: Path) -> None:
    """Run what a command needs."""
    for name in command.before:
        if run(COMMANDS[name], folder) != 0:
            raise SystemExit(f"{name} failed; see {folder.parent / 'soak.log'}")


def content(folder: Path) -> dict[str, str]:
    """Digest of each file, by its path; of what tells the time, all else."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or path.suffix in SKIPPED or path.name == "last.pt":
            continue
        if "multirun/" in name:  # a folder for each second
            continue
        found[name] = hashlib.sha256(timeless(path)).hexdigest()
    return found


def timeless(path: Path) -> bytes:
    """Bytes of a file without durations."""
    if path.suffix == ".json":
        values = json.loads(path.read_text())
        if isinstance(values, dict):
            values = {key: value for key, value in values.items() if key not in TIMES}
        return json.dumps(values, sort_keys=True).encode()
    if path.suffix == ".csv":
        table = pd.read_csv(StringIO(path.read_text()), dtype=str, keep_default_na=False)
        table = table.drop(columns=[name for name in table.columns if name in TIMES])
        return table.sort_values(list(table.columns)).to_csv(index=False).encode()
    return path.read_bytes()


def temporaries(folder: Path) -> list[str]:
    """Files that nobody renamed or deleted."""
    return [str(p) for p in folder.rglob(".*") if p.is_file() and p.suffix != ".lock"]


def main() -> None:
    """Kill each command, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="number of kills of all commands")
    parser.add_argument("--folder", default="logs/soak", help="folder of the trials; made anew")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    options = parser.parse_args()
    root, rng = Path(options.folder).resolve(), random.Random(options.seed)
    shutil.rmtree(root, ignore_errors=True)
    folder = root / "trial"  # always the same, since tables hold paths
    references: dict[str, tuple[dict[str, str], float]] = {}
    for name in KILLED:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        prepare(COMMANDS[name], folder)
        shutil.copytree(folder, root / f"{name}.start", symlinks=True)
        begun = time.perf_counter()
        if run(COMMANDS[name], folder) != 0:
            raise SystemExit(f"{name} failed undisturbed; see {root / 'soak.log'}")
        references[name] = content(folder), time.perf_counter() - begun
        print(f"{name}: {references[name][1]:.1f} s undisturbed", flush=True)
    rows: Counter[tuple[str, str]] = Counter()
    trial = killed = 0
    while killed < options.kills:
        name = KILLED[trial % len(KILLED)]
        trial += 1
        number, moment = rng.choice(SIGNALS), rng.choice(MOMENTS)
        expected, seconds = references[name]
        shutil.rmtree(folder)
        shutil.copytree(root / f"{name}.start", folder)
        if moment == "random":
            after = rng.uniform(0.3, max(0.5, seconds))
            status = run(COMMANDS[name], folder, number, after=after)
        else:
            count = rng.randint(1, 12)
            status = run(COMMANDS[name], folder, number, moment=moment, count=count)
        again = run(COMMANDS[name], folder)
        found = content(folder)
        faults = [f"differs: {path}" for path in sorted({*expected, *found})
                  if expected.get(path) != found.get(path)]  # fmt: skip
        faults += [f"left: {path}" for path in temporaries(folder)]
        faults += [f"exit status {again}"] if again else []
        killed += status != 0
        rows[name, "kills"] += status != 0
        rows[name, "ended before"] += status == 0
        rows[name, "faults"] += bool(faults)
        if faults:
            print(f"{name}, {number.name} {moment}: {'; '.join(faults[:6])}", flush=True)
    table = pd.Series(rows).unstack(fill_value=0).reindex(list(KILLED), fill_value=0)
    table = table[["kills", "ended before", "faults"]].rename_axis("command").reset_index()
    print(as_markdown(table))
    sys.exit(bool(table["faults"].sum()))


if __name__ == "__main__":
    main()
