"""`predict`: masks of images that nobody labelled."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ltcam_cli.classifier.checkpoint import load_classifier
from ltcam_cli.commands.compose import Row, launch
from ltcam_cli.commands.pipeline import drawings, fitted_names, heatmap_source
from ltcam_cli.commands.run import run_task
from ltcam_cli.commands.settings import Settings, trained, with_training_of
from ltcam_cli.errors import LtcamError
from ltcam_cli.files import alone, hashed, lock, sha256, short_hash
from ltcam_cli.report.overlay import draw_strip
from ltcam_cli.runs.folder import RunFolder, find_run, write_config
from ltcam_cli.runs.prediction import find_images
from ltcam_cli.runs.prediction import predict as predict_images
from ltcam_cli.runs.shards import Tables

PREDICTED = ("shard", "images", "defective", "regions", "skipped", "out")


def predict(
    paths: Sequence[Path], overrides: Sequence[str], multirun: bool, config_dir: Path | None
) -> list[Row]:
    """Predict images and folders; prints where the results are."""
    task = partial(predict_task, [str(path) for path in paths])
    if multirun:
        rows = run_task("predict", task, overrides, True, config_dir, PREDICTED)
        if any(row["shard"] for row in rows):
            for out in dict.fromkeys(row["out"] for row in rows):
                print(f"join the shards with: {shlex.join(['ltcam', 'runs', 'gather', out])}")
        return rows
    rows, _ = launch("predict", task, overrides, config_dir=config_dir)
    row = rows[0]
    skipped = f", {row['skipped']} unreadable ones skipped" if row["skipped"] else ""
    print(
        f"{row['images']} images, {row['defective']} called defective, "
        f"{row['regions']} regions{skipped}"
    )
    print(f"{row['out']}: {row['tables']} masks/ {row['also']}")
    return rows


def predict_task(paths: Sequence[str], cfg: DictConfig) -> Row:
    """The task; with a `run` no data set needs to be there."""
    settings, run = _settings(cfg, HydraConfig.get().overrides.task)
    settings.method.check()  # refuses what does not exist before a checkpoint is read
    classifier = load_classifier(run.checkpoint, settings.torch_device())
    source = heatmap_source(settings, run, classifier, [settings.method])
    [drawing] = drawings(settings, run, classifier, [settings.method])
    fitted = fitted_names(settings, run, [settings.method])
    identity = short_hash(
        [
            hashed(settings.method),
            hashed(settings.segmenter),
            sha256(run.checkpoint),
            settings.predict.gate,
            *settings.options,
            *filter(None, fitted),
        ]
    )
    places = [str(Path(path).resolve()) for path in paths]
    cell = f"{settings.method.name}-{settings.segmenter.label}-{short_hash([identity, places])}"
    out = Path(settings.predict.out) if settings.predict.out else run.path / "predict" / cell
    samples = find_images([Path(path) for path in paths], besides=out)
    claim(out, identity, asdict(replace(settings, predict=replace(settings.predict, shard=None))))
    shard = settings.predict.part()
    tables = Tables(out, shard)
    with alone(tables.path("scores")):
        table, skipped = predict_images(
            classifier,
            source,
            drawing,
            samples,
            settings.predict,
            out,
            identity=identity,
            draw=draw_strip,
            progress=f"predict {shard}" if shard else "predict",
        )
    also = [name for name in ("overlays", "maps") if (out / name).is_dir()]
    return {
        "out": str(out),
        "shard": settings.predict.shard,
        "tables": " ".join(tables.path(kind).name for kind in ("scores", "regions")),
        "images": len(table),
        "defective": int(table["predicted"].sum()),
        "regions": int(table["regions"].sum()),
        "skipped": len(skipped),
        "also": " ".join(f"{name}/" for name in also),
    }


def claim(out: Path, identity: str, config: dict[str, Any]) -> None:
    """Write `config.yaml`, unless another method's or classifier's masks are there.

    Raises:
        LtcamError: if they are.
    """
    path = out / "config.yaml"
    with lock(path):
        held = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
        if held is not None and (not isinstance(held, dict) or held.get("hash") != identity):
            raise LtcamError(
                f"{out}: holds the masks of another method, segmenter or classifier; "
                "choose another predict.out or delete it"
            )
        write_config(out, {"hash": identity, **config})


def _settings(cfg: DictConfig, overrides: Sequence[str]) -> tuple[Settings, RunFolder]:
    if cfg.run is None:
        settings, _, run = trained(cfg, overrides)
        return settings, run
    run = find_run(Path(cfg.outputs), str(cfg.run))
    return Settings.of(with_training_of(run, cfg, overrides)), run
