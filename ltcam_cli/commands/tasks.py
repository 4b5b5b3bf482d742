"""What Hydra runs, once or as a multirun: a composed config -> one row of a table."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

import ltcam_cli
from ltcam_cli.classifier.checkpoint import load_classifier
from ltcam_cli.classifier.train import train as fit
from ltcam_cli.commands.compose import Row
from ltcam_cli.commands.delta import chosen
from ltcam_cli.commands.pipeline import (
    drawings,
    fitted_names,
    heatmap_source,
    resolved,
    together,
)
from ltcam_cli.commands.settings import Pipeline, Settings, trained
from ltcam_cli.data.load import dataset_name, load_split
from ltcam_cli.data.sample import Sample
from ltcam_cli.data.split import Split
from ltcam_cli.errors import LtcamError
from ltcam_cli.files import alone, hashed, read_json, sha256, short_hash, write_json
from ltcam_cli.maps.method import MethodConfig
from ltcam_cli.report.overlay import draw_strip
from ltcam_cli.runs.evaluation import EvaluationConfig, ImageResult, evaluate
from ltcam_cli.runs.folder import RunFolder, write_config, write_table
from ltcam_cli.runs.prediction import save_map
from ltcam_cli.runs.tables import add_rows
from ltcam_cli.scores.pixels import PixelCounts

log = logging.getLogger("ltcam_cli")


def train_task(cfg: DictConfig) -> Row:
    """Train one classifier; a finished one is not trained again without `overwrite`."""
    settings = Settings.of(cfg)
    split = load_split(settings.dataset)
    run, _ = settings.run_to_train(split)
    with alone(run.train):
        return train_run(settings, split)


def train_run(settings: Settings, split: Split) -> Row:
    """Train into the settings' run folder, which no other process writes to meanwhile."""
    run, digest = settings.run_to_train(split)
    head = {"run": run.name, "head": settings.backbone.head, "seed": settings.seed}
    if run.checkpoint.is_file() and run.metrics and not settings.overwrite:
        log.info("%s: is trained already; overwrite=true trains it anew", run.path)
        return head | training_row(run.metrics)
    unfinished = run.train / "last.pt"
    if settings.overwrite and not settings.resume:
        for old in (unfinished, run.checkpoint, run.train / "metrics.json"):
            old.unlink(missing_ok=True)
    elif unfinished.is_file() and not settings.resume:
        raise LtcamError(
            f"{run.path}: an unfinished training is there; go on with --resume, or start anew "
            "with --overwrite"
        )
    write_config(run.train, {"hash": digest, **settings.training_part()})
    with logged_to(run.train / "train.log"):
        log.info("training %s on %s", run.name, settings.torch_device())
        metrics = fit(
            run.train,
            split,
            settings.dataset,
            settings.backbone,
            settings.guided(),
            seed=settings.seed,
            device=settings.torch_device(),
            resume=settings.resume,
        )
        log.info(
            "test AP %.4f, AUROC %.4f, accuracy %.4f", *(metrics[f"test_{k}"] for k in
            ("ap", "auroc", "accuracy")),
        )  # fmt: skip
    return head | training_row(metrics)


def evaluate_task(cfg: DictConfig) -> Row:
    """Evaluate one cell; one that exists is not computed again without `overwrite`.

    Returns:
        Its row, with the seconds of this very call's `loop`: 0 if the cell was there.
    """
    settings, split, run = trained(cfg, HydraConfig.get().overrides.task)
    [row], loop = evaluate_methods(settings, split, run, [settings.method])
    return row | {"loop": loop}


def evaluate_pipelines(
    settings: Settings, split: Split, run: RunFolder, pipelines: Sequence[Pipeline]
) -> tuple[list[Row], float]:
    """Evaluate a cell for each pipeline; those of one segmenter and tta share their passes.

    Returns:
        As `evaluate_methods`.
    """
    rows, seconds = dict[int, Row](), 0.0
    for own, numbers in settings.grouped(pipelines):
        methods = [pipelines[number].method for number in numbers]
        found, loop = evaluate_methods(own, split, run, methods)
        rows |= zip(numbers, found, strict=True)
        seconds += loop
    return [rows[number] for number in range(len(pipelines))], seconds


def evaluate_methods(
    settings: Settings, split: Split, run: RunFolder, methods: Sequence[MethodConfig]
) -> tuple[list[Row], float]:
    """Evaluate a cell for each method, those that are missing in one pass over the images.

    Each student has a pass of its own.

    Returns:
        The rows, as the methods are listed, and the seconds of the loops.
    """
    methods = [resolved(run, method) for method in methods]
    choices = chosen(settings, split, run, methods, evaluate_methods)
    each = [replace(settings, method=choice.method) for choice in choices]
    for one in each:
        one.method.check()  # refuses what does not exist before anything is computed
    fitted = fitted_names(settings, run, [one.method for one in each])
    checkpoint = sha256(run.checkpoint)
    samples = split.part(settings.evaluation.split)
    masks_chose = settings.evaluation.masks_chose
    by = ["pixel-val" if masks_chose else choice.by for choice in choices]
    cells = cell_names(each, samples, checkpoint, fitted, by)
    folders = {run.path / "evaluate" / cell: number for number, cell in enumerate(cells)}
    missing = [folder for folder in folders if settings.overwrite or not finished(folder, settings)]
    for folder in folders:
        if folder not in missing:
            log.info("%s: is there already; overwrite=true computes it anew", folder)
    seconds = 0.0
    if missing:
        classifier = load_classifier(run.checkpoint, settings.torch_device())
        for group in together([each[folders[folder]].method for folder in missing]):
            drawn = [missing[place] for place in group]
            wanted = [each[folders[folder]].method for folder in drawn]
            scores, loop = evaluate(
                classifier,
                heatmap_source(settings, run, classifier, wanted),
                drawings(settings, run, classifier, wanted),
                samples,
                settings.evaluation,
                on_error=settings.dataset.on_error,
                visit=Pictures(drawn, samples, settings.evaluation),
                progress=" ".join(dict.fromkeys(method.name for method in wanted)),
            )
            seconds += loop["seconds"]
            share = loop | {"seconds": loop["seconds"] / len(drawn)}
            for folder, scored in zip(drawn, scores, strict=True):
                known = result_row(each[folders[folder]], run, checkpoint, folder.name)
                known["labels"] = by[folders[folder]] or known["labels"]
                choices[folders[folder]].write(folder)
                write_config(folder, {"hash": folder.name[-6:], **asdict(each[folders[folder]])})
                write_table(folder / "images.csv", scored.table)
                write_table(folder / "curve.csv", scored.curve)
                write_json(folder / "metrics.json", scored.summary() | share | known)
    rows = {folder.name: read_json(folder / "metrics.json") for folder in folders}
    add_rows(run, list(rows.values()))
    return [rows[cell] for cell in cells], seconds


def finished(folder: Path, settings: Settings) -> bool:
    """Whether a cell is there, with its maps where they are wanted."""
    maps = not settings.evaluation.save_maps or (folder / "maps").is_dir()
    return maps and (folder / "metrics.json").is_file()


class Pictures:
    """Writes overlays, of defective images first, and maps of each cell as results come."""

    def __init__(
        self, folders: Sequence[Path], samples: Sequence[Sample], config: EvaluationConfig
    ) -> None:
        limit = len(samples) if config.overlays is None else config.overlays
        defective = sum(bool(sample.label) for sample in samples)
        self.folders, self.save_maps = folders, config.save_maps
        self.left = {
            (cell, label): count
            for cell in range(len(folders))
            for label, count in ((1, limit), (0, max(0, limit - defective)))
        }

    def __call__(self, result: ImageResult, counts: PixelCounts) -> None:
        """Write what is wanted of one image and cell."""
        sample, folder = result.item.sample, self.folders[result.cell]
        name = sample.name.replace("/", "_")
        if self.left[result.cell, sample.label or 0] > 0:
            self.left[result.cell, sample.label or 0] -= 1
            iou = 100 * counts.iou
            prefix = "clean" if iou != iou else f"iou{iou:03.0f}"
            draw_strip(result, folder / "overlays" / f"{prefix}_{name}.png")
        if self.save_maps:
            save_map(result, folder / "maps" / f"{name}.npy")


def result_row(settings: Settings, run: RunFolder, checkpoint: str, cell: str) -> Row:
    """What a row of results says of how its scores were made."""
    part = settings.evaluation.split
    return {
        "method": settings.method.name,
        "delta": settings.method.delta,
        "layers": settings.method.layers,
        "segmenter": settings.segmenter.label,
        "images": settings.evaluation.images,
        "dataset": dataset_name(settings.dataset),
        "split": settings.dataset.split + ("" if part == "test" else f"/{part}"),
        "fold": settings.dataset.fold,
        "seed": settings.seed,
        "labels": "image",
        **of_map(settings.method),
        "tta": settings.tta.label,
        "ensemble": " ".join(settings.ensemble) or None,
        "checkpoint": checkpoint[:12],
        "cell": cell,
        "run": run.name,
    }


def of_map(method: MethodConfig) -> Row:
    """What a row of results says of how a map was made; of a student's, nothing."""
    if method.is_student:
        return dict.fromkeys(("target", "scope", "form", "fusion", "normalize", "weights"))
    spec = method.spec()
    return {
        "target": str(spec.target),
        "scope": spec.scope,
        "form": spec.form,
        "fusion": spec.fusion.rule,
        "normalize": spec.fusion.normalization,
        "weights": spec.fusion.weighting,
    }


def training_row(metrics: dict[str, Any]) -> Row:
    """The figures of a training that stand in a table."""
    return {key: metrics[key] for key in metrics if key.startswith("test_")} | {
        "threshold": metrics.get("threshold"),
        "seconds": metrics.get("seconds"),
    }


def cell_names(
    each: Sequence[Settings],
    samples: Sequence[Sample],
    checkpoint: str,
    fitted: Sequence[str | None],
    by: Sequence[str],
) -> list[str]:
    """A readable stem and a hash of all that decides a cell's scores.

    Args:
        fitted: see `fitted_names`.
        by: the labels that chose a cell's δ; empty where nothing was chosen.
    """
    images = [(s.name, s.label, s.mask_digest()) for s in samples]
    options = each[0].options if each else []  # all but the methods are the same
    names = []
    for settings, state, labels in zip(each, fitted, by, strict=True):
        evaluation = {"images": settings.evaluation.images, "split": settings.evaluation.split}
        size = [settings.dataset.height, settings.dataset.width]
        digest = short_hash(
            [
                hashed(settings.method),
                hashed(settings.segmenter),
                state,
                evaluation,
                size,
                checkpoint,
                images,
                ltcam_cli.__version__,
                *([labels] if labels else []),
                *options,
            ]
        )
        delta = settings.method.delta
        stem = [
            settings.method.name,
            *([] if delta is None else [f"{'auto' if labels else 'd'}{delta:g}"]),
            str(settings.method.layers),
            settings.segmenter.label,
            settings.evaluation.images,
            *([] if settings.evaluation.split == "test" else [settings.evaluation.split]),
            *(["bf16"] if settings.bf16 else []),
            *(["tta"] if settings.tta.label else []),
            *(["ensemble"] if settings.ensemble else []),
        ]
        names.append("-".join([*stem, digest]))
    return names


@contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Append what this package logs to a file as well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


def overlays_of(run: RunFolder, cell: str) -> list[Path]:
    """A cell's pictures, worst first."""
    return sorted((run.path / "evaluate" / cell / "overlays").glob("*.png"))
