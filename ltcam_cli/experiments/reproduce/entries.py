"""What is reproduced: the entries of a table, and the folds and seeds it is repeated over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from ltcam_cli.errors import LtcamError
from ltcam_cli.experiments.settings import Pipeline, Settings
from ltcam_cli.maps.method import AUTO, CamMethod
from ltcam_cli.runs.identity import Identity


@dataclass(frozen=True)
class Entry:
    """A row of a table.

    Attributes:
        pipeline: Method, segmenter, test-time augmentation.
        text: Name of the entry, e.g. `ltgradcam delta=50`.
        options: Keys that no column of the table shows, e.g. `pipeline=ltcam_plus`.
        auto: Whether δ is chosen.
    """

    pipeline: Pipeline
    text: str
    options: str = ""
    auto: bool = False


def entry_text(keys: Mapping[str, Any]) -> str:
    """Name of an entry: the pipeline or method, then other keys, those of the method shortened."""
    name = keys.get("pipeline") or keys.get("method") or "ltgradcam"
    others = [
        f"{key.removeprefix('method.')}={value}"
        for key, value in keys.items()
        if value != name or key not in {"pipeline", "method"}
    ]
    return " ".join([str(name), *others])


def make_entry(keys: Mapping[str, Any], settings: Settings) -> Entry:
    """Entry of a mapping of config keys, composed to settings.

    Raises:
        LtcamError: Naming what of it does not exist, before anything is trained.
    """
    pipeline = settings.pipeline
    if pipeline.method.delta != AUTO:
        pipeline.method.check()
    columns = ("method", "method.delta", "method.layers")
    options = [f"{key}={value}" for key, value in keys.items() if key not in columns]
    return Entry(pipeline, entry_text(keys), " ".join(options), pipeline.method.delta == AUTO)


def repetitions(settings: Settings, folds: str | None, seeds: str | None) -> list[list[str]]:
    """Overrides of each run.

    Args:
        settings: Settings of the reproduction.
        folds: `all`, or numbers joined by commas; None: the split as it is.
        seeds: Numbers joined by commas; None: the seed as it is.

    Raises:
        LtcamError: If the data set has no folds, or a number is none.
    """
    over_folds: list[list[str]] = [[]]
    if folds is not None:
        dataset = settings.dataset
        known = dataset.folds()
        if not known:
            raise LtcamError(f"--folds {folds}: dataset={dataset.kind} has no folds")
        split = dataset.split if dataset.split in known else next(iter(known))
        numbers = range(known[split]) if folds == "all" else _numbers("--folds", folds)
        over_folds = [[f"dataset.split={split}", f"dataset.fold={fold}"] for fold in numbers]
    over_seeds: list[list[str]] = [[]]
    if seeds is not None:
        over_seeds = [[f"seed={seed}"] for seed in _numbers("--seeds", seeds)]
    return [[*fold, *seed] for seed, fold in product(over_seeds, over_folds)]


def _numbers(option: str, text: str) -> list[int]:
    try:
        return list(dict.fromkeys(int(number) for number in text.split(",")))
    except ValueError:
        known = "all, or " if option == "--folds" else ""
        raise LtcamError(f"{option} {text}: must be {known}numbers such as 0,1,2") from None


def reproduction_identity(
    settings: Settings, entries: Sequence[Entry], runs: Sequence[list[str]]
) -> Identity:
    """All that decides what is reproduced; not paths and speed."""
    evaluation = settings.evaluation
    return Identity(
        "reproduction",
        {
            "dataset": settings.dataset,
            "backbone": settings.backbone,
            "trainer": settings.trainer,
            "seed": settings.seed,
            "entries": entries,
            "student": settings.student,
            "reproduce": settings.reproduce,
            "counted": evaluation.images,
            "split": evaluation.split,
            "supervision": evaluation.supervision,
            "deltas": evaluation.deltas,
            "run": settings.run,
            "bf16": settings.bf16,
            "ensemble": settings.ensemble,
            "runs": list(runs),
        },
    )


def over_deltas(entry: Entry, deltas: Sequence[float]) -> Iterator[Entry]:
    """The entry with each δ; one that reads no gradients as it is."""
    method = entry.pipeline.method
    if not isinstance(method, CamMethod) or not method.reads_gradients:
        yield entry
        return
    for delta in deltas:
        pipeline = replace(entry.pipeline, method=replace(method, delta=delta))
        yield replace(entry, pipeline=pipeline, text=f"{entry.text} delta={delta:g}", auto=False)


def over_stages(entry: Entry, stages: Sequence[str]) -> Iterator[Entry]:
    """The entry on each stage alone, and then as it is."""
    method = entry.pipeline.method
    if isinstance(method, CamMethod):
        for stage in stages:
            pipeline = replace(entry.pipeline, method=replace(method, layers=stage))
            yield replace(entry, pipeline=pipeline, text=f"{entry.text} layers={stage}")
    yield entry
