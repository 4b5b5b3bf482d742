"""Import: a run folder of one's own torchvision state dict, to be explained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ltcam_cli.classifier.backbones import BACKBONES, build_classifier
from ltcam_cli.classifier.checkpoint import Classifier
from ltcam_cli.classifier.weights import IMAGENET_MEAN, IMAGENET_STD, check_fit, read_state
from ltcam_cli.errors import LtcamError
from ltcam_cli.experiments.settings import Composed, Settings
from ltcam_cli.files import content_digest, write_json
from ltcam_cli.runs.environment import write_environment
from ltcam_cli.runs.folder import RunFolder, open_run, write_config
from ltcam_cli.runs.identity import Identity


def import_state(composed: Composed, path: Path, target: int | None) -> RunFolder:
    """Make a run folder of an unchanged torchvision model's state dict.

    Args:
        composed: Config with the backbone and the data set's image size.
        path: File of the state dict.
        target: Index of the logit of defects, negative from the end; None: the last of at most two.

    Raises:
        LtcamError: If the state dict does not fit the backbone; the first misfit is named. If it
            has more than two logits, and `target` is None.
    """
    settings = Settings.of(composed.values)
    name, head = settings.backbone.name, settings.backbone.head
    last = BACKBONES[name].last
    if last is None:
        raise LtcamError(
            f"backbone={name}: is not torchvision's; import one that is, e.g. resnet18"
        )
    if head != "own":
        raise LtcamError(
            f"backbone.head={head}: an imported model keeps its own head; do not set it"
        )
    state = read_state(path)
    bias = state.get(f"{last}.bias")
    if bias is None:
        raise LtcamError(
            f"{path}: has no {last}.bias; name the network it is of with backbone=NAME (now {name})"
        )
    backbone = replace(settings.backbone, logits=len(bias))
    defect = target_logit(path, len(bias), target)
    model = build_classifier(backbone, 3)
    wanted = model.state_dict()
    check_fit(state, wanted, str(path), f"it is no state dict of {name}")
    model.load_state_dict({key: state[key] for key in wanted if key in state}, strict=False)
    height, width = settings.dataset.input_size
    classifier = Classifier(
        model,
        backbone,
        in_channels=3,
        height=height,
        width=width,
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
            "size": [height, width],
            "defect": defect,
        },
    )
    run = open_run(settings.root, settings.name or f"{path.stem}-{identity.hash}", identity.hash)
    part = replace(settings, backbone=backbone).training_part()
    write_config(run.train, {"hash": identity.hash, "imported": path.name, **part})
    identity.write(run.train)
    classifier.save(run.checkpoint)
    write_json(run.train / "metrics.json", {})
    write_environment(run, composed.command("import", str(path)))
    return run


def target_logit(path: Path, logits: int, target: int | None) -> int:
    """Index of the logit of defects, from 0.

    Raises:
        LtcamError: If it is not given and there are more than two, or if there is no such logit.
    """
    if target is None and logits > 2:
        raise LtcamError(
            f"{path}: the model has {logits} classes; say which one is the defect with --target "
            f"0..{logits - 1}"
        )
    if target is not None and not -logits <= target < logits:
        raise LtcamError(f"--target {target}: the model has logits 0..{logits - 1}")
    return (-1 if target is None else target) % logits
