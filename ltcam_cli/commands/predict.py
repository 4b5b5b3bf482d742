"""`predict`: masks of images that nobody labelled."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ltcam_cli.classifier.checkpoint import load_classifier
from ltcam_cli.commands.compose import Row, launch
from ltcam_cli.commands.settings import Settings, trained, with_training_of
from ltcam_cli.files import sha256, short_hash
from ltcam_cli.maps.engine import CamEngine
from ltcam_cli.masks.segmenters import make_segmenter
from ltcam_cli.report.overlay import draw_strip
from ltcam_cli.runs.folder import RunFolder, find_run, write_config
from ltcam_cli.runs.prediction import find_images
from ltcam_cli.runs.prediction import predict as predict_images

log = logging.getLogger("ltcam_cli")


def predict(paths: Sequence[Path], overrides: Sequence[str], config_dir: Path | None) -> Row:
    """Predict images and folders; prints where the results are."""
    samples_of = partial(predict_task, [str(path) for path in paths])
    rows, _ = launch("predict", samples_of, overrides, config_dir=config_dir)
    row = rows[0]
    print(f"{row['images']} images, {row['defective']} called defective, {row['regions']} regions")
    print(f"{row['out']}: scores.csv regions.csv masks/ {row['also']}")
    return row


def predict_task(paths: Sequence[str], cfg: DictConfig) -> Row:
    """The task; with a `run` no data set needs to be there."""
    settings, run = _settings(cfg, HydraConfig.get().overrides.task)
    samples = find_images([Path(path) for path in paths])
    spec, segmenter = settings.method.spec(), make_segmenter(settings.segmenter)
    classifier = load_classifier(run.checkpoint, settings.torch_device())
    identity = [asdict(settings.method), asdict(settings.segmenter), sha256(run.checkpoint)]
    options = [settings.predict.gate]
    cell = f"{settings.method.name}-{settings.segmenter.name}-{short_hash([identity, options])}"
    out = Path(settings.predict.out) if settings.predict.out else run.path / "predict" / cell
    write_config(out, asdict(settings))
    table = predict_images(
        classifier,
        CamEngine(classifier.model, [spec]),
        segmenter,
        samples,
        settings.predict,
        out,
        draw=draw_strip,
        progress="predict",
    )
    also = [name for name in ("overlays", "maps") if (out / name).is_dir()]
    return {
        "out": str(out),
        "images": len(table),
        "defective": int(table["predicted"].sum()),
        "regions": int(table["regions"].sum()),
        "also": " ".join(f"{name}/" for name in also),
    }


def _settings(cfg: DictConfig, overrides: Sequence[str]) -> tuple[Settings, RunFolder]:
    if cfg.run is None:
        settings, _, run = trained(cfg, overrides)
        return settings, run
    run = find_run(Path(cfg.outputs), str(cfg.run))
    return Settings.of(with_training_of(run, cfg, overrides)), run
