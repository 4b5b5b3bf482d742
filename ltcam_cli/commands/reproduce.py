"""`reproduce`: the paper's tables and figures, or one's own, over folds and seeds."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ltcam_cli.classifier.checkpoint import load_classifier
from ltcam_cli.commands.compose import Row, compose, launch
from ltcam_cli.commands.options import line_overrides, print_table
from ltcam_cli.commands.pictures import drawable, maps_of, ranking
from ltcam_cli.commands.settings import TRAINING, Pipeline, Settings, trained
from ltcam_cli.commands.student import train_one
from ltcam_cli.commands.tasks import evaluate_pipelines, train_task
from ltcam_cli.data.load import dataset_name, load_split
from ltcam_cli.data.sample import Sample
from ltcam_cli.data.split import Split
from ltcam_cli.errors import LtcamError
from ltcam_cli.files import hashed, short_hash, write_text
from ltcam_cli.maps.capture import stages_of
from ltcam_cli.maps.method import AUTO, TEACHER
from ltcam_cli.report.curves import draw_delta_curve
from ltcam_cli.report.grids import draw_grid, layer_rows, method_rows
from ltcam_cli.report.paper import (
    UNTOUCHED,
    as_page,
    as_tex,
    beside_paper,
    notes_of,
    over_runs,
    shown,
)
from ltcam_cli.runs.folder import (
    UNHASHED_DATASET,
    UNHASHED_TRAINER,
    RunFolder,
    fitting_run,
    write_config,
    write_table,
)
from ltcam_cli.runs.tables import in_order

FOLDS = {"tens": 5, "official": 3}
log = logging.getLogger("ltcam_cli")


@dataclass(frozen=True)
class Entry(Pipeline):
    """A line of `reproduce.methods`, and what it describes."""

    text: str


def reproduce(
    what: str,
    folds: str | None,
    seeds: str | None,
    overrides: Sequence[str],
    config_dir: Path | None,
) -> Path:
    """Train what is not trained yet, evaluate, and write a table or figure; print where it is.

    The files are written anew after each run, so a killed reproduction leaves what it had, and the
    next one goes on: trainings and cells that exist are reused.

    Args:
        what: an experiment with `reproduce.methods`, e.g. `table1`.
        folds: `all`, or numbers joined by commas; None for the split as it is.
        seeds: numbers joined by commas; None for the seed as it is.
    """
    given = experiments(what, overrides)
    settings = Settings.of(compose("reproduce", given, config_dir))
    wanted = settings.reproduce
    if not wanted.methods:
        raise LtcamError(
            f"experiment={what}: lists no reproduce.methods; see conf/experiment/table1.yaml"
        )
    if settings.run and (folds or seeds):
        raise LtcamError(f"run={settings.run}: is one run; --folds and --seeds choose others")
    entries = [entry_of(line, given, config_dir) for line in wanted.methods]
    taught = any(entry.method.is_student for entry in entries)
    teacher = entry_of(TEACHER, given, config_dir) if taught else None
    each = list(runs_of(settings, folds, seeds))
    if len(each) > 1:
        each = [[*chosen, "name=null"] for chosen in each]  # of the report, then, not of the runs
    folder = (
        settings.root / "reproduce" / f"{what}-{settings.name or identity(settings, entries, each)}"
    )
    write_config(folder, {**asdict(settings), "runs": [" ".join(chosen) for chosen in each]})
    rows: list[Row] = []
    for number, chosen in enumerate(each):
        task = Reproduction(entries, teacher, what, folder if number == 0 else None)
        log.info("reproduce %s: run %d of %d %s", what, number + 1, len(each), " ".join(chosen))
        [found], _ = launch("reproduce", task, [*given, *chosen], config_dir=config_dir)
        rows += found["rows"]
        table = write(folder, what, settings, rows)
    print_table(table)
    print(
        f"\n{os.path.relpath(folder)}: {' '.join(sorted(path.name for path in folder.iterdir()))}"
    )
    for run in dict.fromkeys(str(row["run_path"]) for row in rows):
        print(f"ltcam report {shlex.quote(os.path.relpath(run))}")
    return folder


def experiments(what: str, overrides: Sequence[str]) -> list[str]:
    """The overrides, with `what` before the experiment that the user chose besides."""
    mine = [o for o in overrides if o.split("=")[0] == "experiment"]
    others = "".join(f",{o.split('=', 1)[1].strip('[]')}" for o in mine)
    both = f"experiment=[{what}{others}]" if mine else f"experiment={what}"
    return [both, *(o for o in overrides if o not in mine)]


def entry_of(line: str, overrides: Sequence[str], config_dir: Path | None) -> Entry:
    """What a line such as `ltgradcam delta=50 layers=s3+s4 segmenter=fraction` describes.

    Raises:
        LtcamError: naming what of it does not exist.
    """
    own = line_overrides("method", line, ("segmenter", "tta"))
    pipeline = Settings.of(compose("reproduce", [*overrides, *own], config_dir)).pipeline
    if pipeline.method.delta != AUTO:
        pipeline.method.check()  # refuses what does not exist before anything is trained
    return Entry(pipeline.method, pipeline.segmenter, pipeline.tta, " ".join(shlex.split(line)))


def runs_of(settings: Settings, folds: str | None, seeds: str | None) -> Iterator[list[str]]:
    """The overrides of each run."""
    over_folds: list[list[str]] = [[]]
    if folds is not None:
        data = settings.dataset
        if data.kind != "ksdd":
            raise LtcamError(f"--folds {folds}: dataset={data.kind} has no folds")
        split = data.split if data.split in FOLDS else "tens"
        numbers = range(FOLDS[split]) if folds == "all" else _numbers("--folds", folds)
        over_folds = [[f"dataset.split={split}", f"dataset.fold={fold}"] for fold in numbers]
    over_seeds: list[list[str]] = [[]]
    if seeds is not None:
        over_seeds = [[f"seed={seed}"] for seed in _numbers("--seeds", seeds)]
    for seed, fold in product(over_seeds, over_folds):
        yield [*fold, *seed]


def _numbers(option: str, text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        known = "all, or " if option == "--folds" else ""
        raise LtcamError(f"{option} {text}: must be {known}numbers such as 0,1,2") from None


def identity(settings: Settings, entries: Sequence[Entry], each: Sequence[list[str]]) -> str:
    """A hash of all that decides what is reproduced; not of paths and speed."""
    part = {key: hashed(getattr(settings, key)) for key in TRAINING}
    for key, without in (("dataset", UNHASHED_DATASET), ("trainer", UNHASHED_TRAINER)):
        part[key] = {name: value for name, value in part[key].items() if name not in without}
    evaluation = settings.evaluation
    return short_hash(
        [
            part,
            [hashed(entry) for entry in entries],
            hashed(settings.student),
            hashed(settings.reproduce),
            [evaluation.images, evaluation.split, evaluation.labels, evaluation.deltas],
            settings.run,
            *settings.options,
            [chosen[:-1] if len(each) > 1 else chosen for chosen in each],
        ]
    )


@dataclass(frozen=True)
class Reproduction:
    """The task that Hydra runs for one fold and seed.

    Attributes:
        entries: what is evaluated.
        teacher: what students learn from; None where there are none.
        what: the experiment's name.
        pictures: folder of the pictures of maps; None for none.
    """

    entries: list[Entry]
    teacher: Entry | None
    what: str
    pictures: Path | None

    def __call__(self, cfg: DictConfig) -> Row:
        """Train what is not there, and evaluate all that is listed in as few passes as it takes."""
        settings, split, run = self._run(cfg)
        kind = settings.reproduce.kind
        entries = self.entries
        if kind == "curves":
            entries = [
                e for entry in entries for e in over_deltas(entry, settings.evaluation.deltas)
            ]
        elif kind == "stages":
            names = stage_names(run)
            entries = [e for entry in entries for e in over_stages(entry, names)]
        evaluation = settings.evaluation
        if kind != "table":
            settings = replace(settings, evaluation=replace(evaluation, overlays=0))
        entries = self._taught(entries, settings, split, run)
        rows, _ = evaluate_pipelines(settings, split, run, entries)
        dropped = split.dropped or []
        known = {
            "kind": settings.dataset.kind,
            "dropped": len(dropped),
            "dropped_items": " ".join(sorted({sample.group for sample in dropped})),
            "run_path": str(run.path),
        }
        rows = [row | {"entry": e.text} | known for row, e in zip(rows, entries, strict=True)]
        pictures = settings.reproduce.pictures and kind != "curves" and drawable()
        if self.pictures is not None and pictures:
            samples = split.part(settings.evaluation.split)
            entries = [  # with the δ that was chosen
                replace(e, method=replace(e.method, delta=row["delta"]))
                for e, row in zip(entries, rows, strict=True)
            ]
            draw_maps(self.pictures, self.what, settings, run, samples, entries, rows)
        return {"rows": rows}

    def _taught(
        self, entries: list[Entry], settings: Settings, split: Split, run: RunFolder
    ) -> list[Entry]:
        """The entries with the students of the settings, trained if they are not there."""
        unnamed = [e.method.is_student and not e.method.options.get("student") for e in entries]
        teacher = self.teacher
        if teacher is None or not any(unnamed):
            return entries
        training = replace(
            settings,
            method=teacher.method,
            segmenter=teacher.segmenter,
            tta=teacher.tta,
            resume=True,
            overwrite=False,
        )
        row = train_one(training, split, run)
        named = {"student": row["student"]}
        return [
            replace(e, method=replace(e.method, options=e.method.options | named)) if own else e
            for e, own in zip(entries, unnamed, strict=True)
        ]

    def _run(self, cfg: DictConfig) -> tuple[Settings, Split, RunFolder]:
        overrides = HydraConfig.get().overrides.task
        if cfg.run is None:
            settings = Settings.of(cfg)
            split = load_split(settings.dataset)
            if fitting_run(settings.root, settings.hash(split)) is None:
                training = cfg.copy()
                training.resume, training.overwrite = True, False
                train_task(training)
        return trained(cfg, overrides)


def over_deltas(entry: Entry, deltas: Sequence[float]) -> list[Entry]:
    """A method with each δ; one that reads no gradients as it is."""
    if not entry.method.reads_gradients:
        return [entry]
    return [
        replace(
            entry, text=f"{entry.text} delta={delta:g}", method=replace(entry.method, delta=delta)
        )
        for delta in deltas
    ]


def over_stages(entry: Entry, stages: Sequence[str]) -> list[Entry]:
    """A method on each stage alone, and then as it is."""
    alone = [
        replace(
            entry, text=f"{entry.text} layers={stage}", method=replace(entry.method, layers=stage)
        )
        for stage in stages
    ]
    return [*alone, entry]


def stage_names(run: RunFolder) -> list[str]:
    """s1..sN of a run's network."""
    names = stages_of(load_classifier(run.checkpoint).model)
    return sorted(name for name in names if name.startswith("s"))


# What is written


def write(folder: Path, what: str, settings: Settings, rows: Sequence[Row]) -> pd.DataFrame:
    """Write the rows of all runs so far, their table as CSV, Markdown and LaTeX, and curves.

    Returns:
        The table as texts.
    """
    runs = pd.DataFrame(rows)
    wanted = settings.reproduce
    summed = beside_paper(over_runs(runs), wanted.paper, settings.dataset.kind)
    texts, title = shown(summed), wanted.title or what
    notes = [*notes_of(summed), *setting_notes(settings, runs)]
    write_table(folder / f"{what}-runs.csv", in_order(runs.drop(columns="run_path")))
    write_table(folder / f"{what}.csv", summed)
    write_text(folder / f"{what}.md", as_page(title, texts, notes))
    write_text(folder / f"{what}.tex", as_tex(title, texts, notes))
    if wanted.kind == "curves" and drawable():
        band = "95 % interval" if (summed["runs"] == 1).all() else "standard deviation over runs"
        draw_delta_curve(curve_of(summed, settings), folder / f"{what}.png", title, band)
    return texts


def setting_notes(settings: Settings, runs: pd.DataFrame) -> list[str]:
    """What the numbers were made with, and what they can and cannot say."""
    first, backbone = runs.iloc[0], settings.backbone
    count = runs["run_path"].nunique()
    folds = sorted(int(fold) for fold in runs["fold"].dropna().unique())
    seeds = sorted(int(seed) for seed in runs["seed"].unique())
    weights = Path(backbone.weights).name if backbone.weights else "none, from scratch"
    notes = [
        f"{dataset_name(settings.dataset)}, split {first['split']}"
        + (f", folds {', '.join(map(str, folds))}" if folds else "")
        + f"; seeds {', '.join(map(str, seeds))}; backbone {backbone.name}, head {backbone.head}, "
        f"pre-trained weights {weights}; {', '.join(runs['segmenter'].unique())}; "
        f"{first['images']} images, "
        f"{int(first['n_images'])} in the first run; pixels pooled, in per cent."
    ]
    if count > 1:
        notes.append(
            f"Mean and sample standard deviation over {count} runs; pooled: of the summed pixels "
            "of all runs."
        )
        untouched = [str(fold) for fold in folds if fold in UNTOUCHED[2]]
        if (runs["split"] == UNTOUCHED[1]).any() and untouched:
            notes.append(
                f"Untouched: mean over fold {' and '.join(untouched)}; no trial before looked at "
                "folds 1 and 3 (items 11 to 20 and 31 to 40)."
            )
    elif first["n_images"] < 50:
        notes.append(
            f"On {int(first['n_images'])} images differences within the interval (95 %, bootstrap "
            "over physical items) are noise."
        )
    for fold, part in runs[runs["dropped"] > 0].drop_duplicates("fold").groupby("fold"):
        notes.append(
            f"Fold {int(fold)}: {int(part['dropped'].iloc[0])} training images of items that are "
            f"tested were dropped ({part['dropped_items'].iloc[0]})."
        )
    if settings.reproduce.paper and first["split"] != "paper" and settings.dataset.kind == "ksdd":
        notes.append("The paper's numbers are of its own split, which tests items 41 to 50.")
    return notes


def curve_of(summed: pd.DataFrame, settings: Settings) -> pd.DataFrame:
    """The table as `draw_delta_curve` reads it; over several runs the band is the deviation."""
    many = summed["runs"] > 1
    spread = summed["iou_std"].fillna(0)
    return summed.assign(
        delta=pd.to_numeric(summed["delta"]),
        part={"train": "training part", "test": "test part"}.get(
            settings.evaluation.split, settings.evaluation.split
        ),
        chosen=False,
        iou_low=np.where(many, summed["iou"] - spread, summed.get("iou_low", np.nan)),
        iou_high=np.where(many, summed["iou"] + spread, summed.get("iou_high", np.nan)),
    )


def draw_maps(
    folder: Path,
    what: str,
    settings: Settings,
    run: RunFolder,
    samples: Sequence[Sample],
    entries: Sequence[Entry],
    rows: Sequence[Row],
) -> None:
    """Draw some images with the maps of all methods, or of all stages; once."""
    stages = settings.reproduce.kind == "stages"
    whole = [e.text for e in entries if "layers=s" not in e.text] if stages else []
    ranked = ranking(run, str(rows[-1]["cell"]), settings.reproduce.pictures)
    by_name = {sample.name: sample for sample in samples}
    chosen = [by_name[name] for name, _ in ranked]
    title = f"{settings.reproduce.title or what}\n{run.name}"
    if not stages:
        path = folder / f"{what}-maps.png"
        if settings.overwrite or not path.is_file():
            results = maps_of(settings, run, chosen, entries)
            one_rule = all(entry.segmenter == entries[0].segmenter for entry in entries)
            panel = "heatmap" if one_rule else "mask"
            drawn = method_rows(results, [label for _, label in ranked], panel)
            names = [entry.text.replace(" ", "\n") for entry in entries]
            draw_grid(drawn, ["image", "truth", *names], title, path)
        return
    count = len(entries) // len(whole) - 1
    for weighting in dict.fromkeys(entry.method.weighting for entry in entries):
        path = folder / f"{what}-{weighting}.png"
        if settings.overwrite or not path.is_file():
            mine = [entry for entry in entries if entry.method.weighting == weighting]
            results = maps_of(settings, run, chosen, mine)
            names = [entry.text for entry in mine if entry.text in whole]
            columns = ["truth", *(f"S{number + 1}" for number in range(count)), "fused"]
            draw_grid(layer_rows(results, names, count), columns, title, path)
