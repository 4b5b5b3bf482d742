"""`import`: a run folder from one's own torchvision state dict, to be explained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from ltcam_cli.classifier.backbones import (
    BACKBONES,
    IMAGENET_MEAN,
    IMAGENET_STD,
    build_classifier,
    check_fit,
    own_state,
    read_state,
)
from ltcam_cli.classifier.checkpoint import Classifier
from ltcam_cli.commands.compose import compose
from ltcam_cli.commands.settings import Settings
from ltcam_cli.errors import LtcamError
from ltcam_cli.files import sha256, short_hash, write_json
from ltcam_cli.runs.folder import open_run, write_config


def import_weights(
    path: Path, defect: int, overrides: Sequence[str], config_dir: Path | None
) -> None:
    """Make a run folder of an unchanged torchvision model's state dict.

    Args:
        path: of the file.
        defect: index of the logit of defects.

    Raises:
        LtcamError: if the state dict does not fit the backbone; the first misfit is named.
    """
    overrides = ["backbone.weights=null", *overrides]
    settings = Settings.of(compose("import", overrides, config_dir))
    state = read_state(path)
    last = BACKBONES[settings.backbone.name].own_head[1]
    bias = state.get(f"{last}.bias")
    if bias is None:
        raise LtcamError(
            f"{path}: has no {last}.bias; name the network it is of with backbone=NAME "
            f"(now {settings.backbone.name})"
        )
    backbone = replace(settings.backbone, logits=len(bias))
    if not -len(bias) <= defect < len(bias):
        raise LtcamError(f"--defect {defect}: the model has logits 0..{len(bias) - 1}")
    model = build_classifier(backbone, 3)
    state, mine = own_state(state, backbone), model.state_dict()
    check_fit(state, mine, str(path), f"it is no state dict of {backbone.name}")
    model.load_state_dict({key: state[key] for key in mine if key in state}, strict=False)
    classifier = Classifier(
        model,
        backbone,
        in_channels=3,
        height=settings.dataset.height,
        width=settings.dataset.width,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        classes=tuple(str(index) for index in range(len(bias))),
        defect=defect,
    )
    size = [settings.dataset.height, settings.dataset.width]
    digest = short_hash([sha256(path), asdict(backbone), size, defect])
    run = open_run(settings.root, settings.name or f"{path.stem}-{digest}", digest)
    part = settings.training_part()
    part["backbone"]["logits"] = backbone.logits
    write_config(run.train, {"hash": digest, "imported": path.name, **part})
    classifier.save(run.checkpoint)
    write_json(run.train / "metrics.json", {})
    print(
        f"{run.path}\nNow: ltcam predict FOLDER --run {run.name}, "
        f"or ltcam evaluate --run {run.name}"
    )
