"""Training of a classifier into its run folder."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ltcam_cli.data.load import load_split
from ltcam_cli.data.split import Split
from ltcam_cli.errors import LtcamError
from ltcam_cli.experiments.devices import torch_device, use_threads
from ltcam_cli.experiments.session import completed, guided, run_name, training_identity
from ltcam_cli.experiments.settings import Composed, Settings
from ltcam_cli.files import exclusive
from ltcam_cli.runs.environment import write_environment
from ltcam_cli.runs.folder import RunFolder, list_runs, open_run, write_config
from ltcam_cli.runs.identity import Identity, kept_threads, same_but_rounding
from ltcam_cli.scores.skill import SCORES, no_skill

log = logging.getLogger("ltcam_cli")


def train_task(composed: Composed) -> dict[str, Any]:
    """Train the config's classifier; a finished one is not trained again without `overwrite`."""
    return train_classifier(Settings.of(composed.values), composed.command("train"))


def train_classifier(settings: Settings, command: str = "") -> dict[str, Any]:
    """Train a classifier into its run folder; the row of its figures.

    Args:
        settings: Settings.
        command: Command line, which is kept in the folder.

    Raises:
        LtcamError: If an unfinished training is there and neither `resume` nor `overwrite` is set.
    """
    split = load_split(settings.dataset)
    settings = completed(settings, split)
    for note in split.notes:
        log.info("%s: %s", settings.dataset.root, note)
    identity = training_identity(settings, split)
    if as_begun(settings, (run.train for run in list_runs(settings.root)), identity):
        identity = training_identity(settings, split)
    run = open_run(settings.root, run_name(settings, identity), identity.hash)
    with exclusive(run.train):
        open_run(settings.root, run.name, identity.hash)  # another process may have begun it
        return _train(settings, split, run, identity, command)


def _train(
    settings: Settings, split: Split, run: RunFolder, identity: Identity, command: str
) -> dict[str, Any]:
    head = {"run": run.name, "head": settings.backbone.head, "seed": settings.seed}
    if run.checkpoint.is_file() and run.metrics and not settings.overwrite:
        log.info("%s: is trained already; overwrite=true trains it anew", run.path)
        _warn(run.name, run.metrics)
        return head | _figures(run.metrics)
    start_anew(settings, run.train, run.path, "metrics.json", "threshold.json")
    write_config(run.train, {"hash": identity.hash, **settings.training_part()})
    identity.write(run.train)
    write_environment(run, command)
    from ltcam_cli.classifier.train import train

    device = torch_device(settings.device)
    with logged_to(run.train / "train.log"):
        log.info("training %s on %s", run.name, device)
        metrics = train(
            run.train,
            split,
            settings.dataset,
            settings.backbone,
            guided(settings),
            seed=settings.seed,
            device=device,
            resume=settings.resume,
        )
        log.info(
            "test AP %.4f, AUROC %.4f, accuracy %.4f, balanced accuracy %.4f, tp %d, fp %d, fn %d, "
            "tn %d",
            *(metrics[f"test_{name}"] for name in SCORES),
        )
        _warn(run.name, metrics)
    return head | _figures(metrics)


def _warn(name: str, metrics: dict[str, Any]) -> None:
    if warning := no_skill(metrics):
        log.warning("%s: %s", name, warning)


def as_begun(settings: Settings, folders: Iterable[Path], identity: Identity) -> bool:
    """Take the CPU threads of the unfinished training that differs in their number alone.

    So a training that goes on elsewhere, on other cores, ends with the weights that it would have
    had. Not without `resume`, nor where `threads` is set.

    Returns:
        Whether there is one; the identity is another then.
    """
    if not settings.resume or settings.threads is not None:
        return False
    for folder in folders:
        begun = (folder / "last.pt").is_file() and not (folder / "checkpoint.pt").is_file()
        if begun and same_but_rounding(folder, identity) and (threads := kept_threads(folder)):
            log.info("%s: goes on with %d threads, as it was begun", folder, threads)
            use_threads(threads)
            return True
    return False


def start_anew(settings: Settings, folder: Path, named: Path, *results: str) -> None:
    """Delete an older training with `overwrite`; refuse an unfinished one without `resume`.

    Args:
        settings: Settings of the command.
        folder: Folder of the training.
        named: Folder that the error names.
        results: Patterns of files that go with checkpoint and state.

    Raises:
        LtcamError: If an unfinished training is there and neither is set.
    """
    if settings.overwrite and not settings.resume:
        for pattern in ("last.pt", "checkpoint.pt", *results):
            for path in folder.glob(pattern):
                path.unlink(missing_ok=True)
    elif (folder / "last.pt").is_file() and not settings.resume:
        raise LtcamError(
            f"{named}: an unfinished training is there; go on with --resume, or start anew "
            "with --overwrite"
        )


def _figures(metrics: dict[str, Any]) -> dict[str, Any]:
    """Figures of a training that stand in a table."""
    return {key: metrics[key] for key in metrics if key.startswith("test_")} | {
        "threshold": metrics.get("threshold"),
        "seconds": metrics.get("seconds"),
    }


@contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Append what this package logs to a file as well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()
