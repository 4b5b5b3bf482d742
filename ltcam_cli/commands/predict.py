"""`predict`: masks of images that nobody labelled."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ltcam_cli.classifier.checkpoint import Classifier, load_classifier
from ltcam_cli.commands.compose import Row, launch
from ltcam_cli.commands.pipeline import drawings, fitted_names, heatmap_source, resolved
from ltcam_cli.commands.run import run_task
from ltcam_cli.commands.settings import Settings, trained, with_parts_of, with_training_of
from ltcam_cli.errors import LtcamError
from ltcam_cli.files import alone, hashed, lock, sha256, short_hash
from ltcam_cli.maps.engine import HeatmapSource
from ltcam_cli.masks.segmenters import make_segmenter
from ltcam_cli.report.overlay import draw_strip
from ltcam_cli.runs.evaluation import Drawing
from ltcam_cli.runs.folder import RunFolder, find_run, write_config
from ltcam_cli.runs.prediction import find_images
from ltcam_cli.runs.prediction import predict as predict_images
from ltcam_cli.runs.shards import Tables
from ltcam_cli.student.deploy import OnnxSource, exported, onnx_classifier, read_card

PREDICTED = ("shard", "images", "defective", "regions", "skipped", "out")


def predict(
    paths: Sequence[Path], overrides: Sequence[str], multirun: bool, config_dir: Path | None
) -> list[Row]:
    """Predict images and folders; prints where the results are."""
    if "predict.runtime=onnx" in overrides:
        overrides = ["method=student", *overrides]  # what a file can hold
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


@dataclass(frozen=True)
class Tool:
    """What draws the masks.

    Attributes:
        settings: that it was made with.
        classifier, source, drawing: see `prediction.predict`.
        identity: hash of all that decides the masks.
        home: folder of results for which no other is given.
    """

    settings: Settings
    classifier: Classifier
    source: HeatmapSource
    drawing: Drawing
    identity: str
    home: Path


def of_run(cfg: DictConfig, overrides: Sequence[str]) -> Tool:
    """A run's classifier and the config's method."""
    settings, run = settings_and_run(cfg, overrides)
    settings = replace(settings, method=resolved(run, settings.method))
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
    return Tool(settings, classifier, source, drawing, identity, run.path)


def of_file(cfg: DictConfig, overrides: Sequence[str]) -> Tool:
    """What `ltcam export` wrote; of another segmenter if the overrides say so.

    Raises:
        LtcamError: if there is no such file, or something else is asked of it than it can do.
    """
    run = None if cfg.run is None else find_run(Path(cfg.outputs), str(cfg.run))
    if cfg.predict.model is not None:
        path = Path(cfg.predict.model)
    elif run is not None:
        path = exported(run.path)
    else:
        raise LtcamError("predict.runtime=onnx: which file? give predict.model=FILE, or --run")
    card = read_card(path)
    others = [override for override in overrides if not override.startswith("method")]
    settings = Settings.of(with_parts_of(card, ("method", "segmenter"), cfg, others))
    if cfg.method.name != settings.method.name or settings.tta.label or settings.ensemble:
        raise LtcamError(
            f"{path}: draws the maps of method={card['method']['name']} of the image itself; "
            "leave --method, tta and ensemble away, or use predict.runtime=torch"
        )
    source = OnnxSource(path, settings.threads, settings.torch_device().type == "cuda")
    segmenter = make_segmenter(settings.segmenter)
    if segmenter.lessons and asdict(settings.segmenter) != card["segmenter"]:
        raise LtcamError(
            f"segmenter {settings.segmenter.label}: learns from training images; export the file "
            "with it: ltcam export --segmenter …"
        )
    for lesson, state in zip(segmenter.lessons, card["lessons"], strict=False):
        lesson.state = state
    identity = short_hash([hashed(settings.segmenter), sha256(path), settings.predict.gate])
    home = run.path if run else path.parent
    return Tool(settings, onnx_classifier(card), source, Drawing(0, segmenter), identity, home)


def predict_task(paths: Sequence[str], cfg: DictConfig) -> Row:
    """The task; with a `run` no data set needs to be there."""
    of = of_file if cfg.predict.runtime == "onnx" else of_run
    tool = of(cfg, HydraConfig.get().overrides.task)
    settings = tool.settings
    places = [str(Path(path).resolve()) for path in paths]
    digest = short_hash([tool.identity, places])
    cell = f"{settings.method.name}-{settings.segmenter.label}-{digest}"
    out = Path(settings.predict.out) if settings.predict.out else tool.home / "predict" / cell
    samples = find_images([Path(path) for path in paths], besides=out)
    whole = replace(settings, predict=replace(settings.predict, shard=None))
    claim(out, tool.identity, asdict(whole))
    shard = settings.predict.part()
    tables = Tables(out, shard)
    with alone(tables.path("scores")):
        table, skipped = predict_images(
            tool.classifier,
            tool.source,
            tool.drawing,
            samples,
            settings.predict,
            out,
            identity=tool.identity,
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


def settings_and_run(cfg: DictConfig, overrides: Sequence[str]) -> tuple[Settings, RunFolder]:
    """Of a command that needs no data set if a run is named."""
    if cfg.run is None:
        settings, _, run = trained(cfg, overrides)
        return settings, run
    run = find_run(Path(cfg.outputs), str(cfg.run))
    return Settings.of(with_training_of(run, cfg, overrides)), run
