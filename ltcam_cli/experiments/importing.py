"""Import: a run folder of one's own torchvision state dict, to be explained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ltcam_cli.classifier.backbones import BACKBONES, build_classifier
from ltcam_cli.classifier.checkpoint import Classifier
from ltcam_cli.classifier.weights import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    check_fit,
    from_torchvision,
    read_state,
)
from ltcam_cli.errors import LtcamError
from ltcam_cli.experiments.settings import Composed, Settings
from ltcam_cli.files import content_digest, write_json
from ltcam_cli.runs.folder import RunFolder, open_run, write_config
from ltcam_cli.runs.identity import Identity


def import_state(composed: Composed, path: Path, defect: int) -> RunFolder:
    """Make a run folder of an unchanged torchvision model's state dict.

    Args:
        composed: Config with the backbone and the data set's image size.
        path: File of the state dict.
        defect: Index of the logit of defects.

    Raises:
        LtcamError: If the state dict does not fit the backbone; the first misfit is named.
    """
    settings = Settings.of(composed.values)
    state = read_state(path)
    last = BACKBONES[settings.backbone.name].torchvision_head[1]
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
    state, wanted = from_torchvision(state, backbone), model.state_dict()
    check_fit(state, wanted, str(path), f"it is no state dict of {backbone.name}")
    model.load_state_dict({key: state[key] for key in wanted if key in state}, strict=False)
    dataset = settings.dataset
    classifier = Classifier(
        model,
        backbone,
        in_channels=3,
        height=dataset.height,
        width=dataset.width,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        classes=tuple(str(index) for index in range(len(bias))),
        defect=defect,
    )
    identity = Identity(
        "training",
        {
            "imported": content_digest(path),
            "backbone": backbone,
            "size": [dataset.height, dataset.width],
            "defect": defect,
        },
    )
    name = settings.name or f"{path.stem}-{identity.hash}"
    run = open_run(settings.root, name, identity.hash)
    part = replace(settings, backbone=backbone).training_part()
    write_config(run.train, {"hash": identity.hash, "imported": path.name, **part})
    identity.write(run.train)
    classifier.save(run.checkpoint)
    write_json(run.train / "metrics.json", {})
    return run
