"""What Hydra runs, once or as a multirun: a composed config -> one row of a table."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

import ltcam_cli
from ltcam_cli.classifier.checkpoint import load_classifier
from ltcam_cli.classifier.train import train as fit
from ltcam_cli.commands.compose import Row
from ltcam_cli.commands.settings import Settings, aimed, trained
from ltcam_cli.data.load import dataset_name, load_split
from ltcam_cli.data.sample import Sample
from ltcam_cli.errors import LtcamError
from ltcam_cli.files import read_json, sha256, short_hash, write_json
from ltcam_cli.maps.engine import CamEngine
from ltcam_cli.masks.segmenters import make_segmenter
from ltcam_cli.report.overlay import draw_strip
from ltcam_cli.runs.evaluation import ImageResult, evaluate
from ltcam_cli.runs.folder import RunFolder, write_config, write_table
from ltcam_cli.runs.prediction import save_map
from ltcam_cli.runs.tables import add_row
from ltcam_cli.scores.pixels import PixelCounts

log = logging.getLogger("ltcam_cli")


def train_task(cfg: DictConfig) -> Row:
    """Train one classifier; a finished one is not trained again without `overwrite`."""
    settings = Settings.of(cfg)
    split = load_split(settings.dataset)
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
            settings.trainer,
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
    """Evaluate one cell; one that exists is not computed again without `overwrite`."""
    settings, split, run = trained(cfg, HydraConfig.get().overrides.task)
    spec, segmenter = settings.method.spec(), make_segmenter(settings.segmenter)
    checkpoint = sha256(run.checkpoint)
    samples = split.part(settings.evaluation.split)
    cell = cell_name(settings, samples, checkpoint, segmenter.state)
    folder = run.path / "evaluate" / cell
    if (folder / "metrics.json").is_file() and not settings.overwrite:
        row = read_json(folder / "metrics.json")
        if not settings.evaluation.save_maps or (folder / "maps").is_dir():
            log.info("%s: is there already; overwrite=true computes it anew", folder)
            add_row(run, row)
            return row

    classifier = load_classifier(run.checkpoint, settings.torch_device())
    engine = CamEngine(classifier.model, [aimed(spec, classifier)])
    shown = 0

    def visit(result: ImageResult, counts: PixelCounts) -> None:
        nonlocal shown
        name = result.item.sample.name.replace("/", "_")
        limit = settings.evaluation.overlays
        if limit is None or shown < limit:
            iou = 100 * counts.iou
            prefix = "clean" if iou != iou else f"iou{iou:03.0f}"
            draw_strip(result, folder / "overlays" / f"{prefix}_{name}.png")
            shown += 1
        if settings.evaluation.save_maps:
            save_map(result, folder / "maps" / f"{name}.npy")

    scores, summary = evaluate(
        classifier,
        engine,
        segmenter,
        samples,
        settings.evaluation,
        on_error=settings.dataset.on_error,
        visit=visit,
        progress=settings.method.name,
    )
    part = settings.evaluation.split
    row = summary | {
        "method": settings.method.name,
        "delta": spec.delta,
        "layers": settings.method.layers,
        "segmenter": settings.segmenter.name,
        "images": settings.evaluation.images,
        "dataset": dataset_name(settings.dataset),
        "split": settings.dataset.split + ("" if part == "test" else f"/{part}"),
        "fold": settings.dataset.fold,
        "seed": settings.seed,
        "labels": "image",
        "target": str(spec.target),
        "scope": spec.scope,
        "form": spec.form,
        "fusion": spec.fusion.rule,
        "normalize": spec.fusion.normalize,
        "checkpoint": checkpoint[:12],
        "cell": cell,
        "run": run.name,
    }
    write_config(folder, {"hash": cell[-6:], **asdict(settings)})
    write_table(folder / "images.csv", scores.table)
    write_json(folder / "metrics.json", row)
    add_row(run, row)
    return row


def training_row(metrics: dict[str, Any]) -> Row:
    """The figures of a training that stand in a table."""
    return {key: metrics[key] for key in metrics if key.startswith("test_")} | {
        "threshold": metrics.get("threshold"),
        "seconds": metrics.get("seconds"),
    }


def cell_name(settings: Settings, samples: list[Sample], checkpoint: str, state: Any) -> str:
    """A readable stem and a hash of all that decides the cell's scores."""
    evaluation = {"images": settings.evaluation.images, "split": settings.evaluation.split}
    method = asdict(settings.method)
    network_input = [settings.dataset.height, settings.dataset.width]
    digest = short_hash(
        [
            method,
            asdict(settings.segmenter),
            state,
            evaluation,
            network_input,
            checkpoint,
            [(s.name, s.label, s.mask_digest()) for s in samples],
            ltcam_cli.__version__,
        ]
    )
    delta = settings.method.delta
    stem = [
        settings.method.name,
        *([] if delta is None else [f"d{delta:g}"]),
        str(settings.method.layers),
        settings.segmenter.name,
        settings.evaluation.images,
        *([] if settings.evaluation.split == "test" else [settings.evaluation.split]),
    ]
    return "-".join([*stem, digest])


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
