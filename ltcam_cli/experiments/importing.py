"""Import: a run folder of one's own torchvision state dict, to be explained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ltcam_cli.classifier.backbones import BACKBONES, build_classifier
from ltcam_cli.classifier.checkpoint import Classifier
from ltcam_cli.classifier.config import BackboneConfig
from ltcam_cli.classifier.weights import IMAGENET_MEAN, IMAGENET_STD, check_fit, read_state
from ltcam_cli.errors import LtcamError
from ltcam_cli.experiments.settings import Composed, Settings
from ltcam_cli.files import content_digest, write_json
from ltcam_cli.runs.environment import write_environment
from ltcam_cli.runs.folder import RunFolder, open_run, write_config
from ltcam_cli.runs.identity import Identity

IMAGENET = (IMAGENET_MEAN, IMAGENET_STD)


def import_state(
    composed: Composed,
    path: Path,
    target: int | None,
    norm: tuple[str | None, str | None] = (None, None),
) -> tuple[RunFolder, str]:
    """Make a run folder of an unchanged torchvision model's state dict.

    Args:
        composed: Config with the backbone and the size of the images.
        path: File of the state dict.
        target: Index of the logit of defects, negative from the end; None: the last of at most two.
        norm: Mean and deviation by which images are normalised, numbers joined by commas; None:
            ImageNet's, of three channels.

    Returns:
        Run folder, and a line on what the network takes.

    Raises:
        LtcamError: If the size is not given, channels contradict the weights, or one channel has no
            normalisation.
        LtcamError: If the state dict does not fit the backbone; the first misfit is named. If it
            has more than two logits, and `target` is None.
    """
    settings = Settings.of(composed.values)
    name, head = settings.backbone.name, settings.backbone.head
    last = BACKBONES[name].last if name in BACKBONES else None
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
    channels = channels_of(path, state, backbone)
    model = build_classifier(backbone, channels)
    wanted = model.state_dict()
    check_fit(state, wanted, str(path), f"it is no state dict of {name}")
    check_given(composed, path, channels)
    mean, std = normalization(path, channels, norm)
    model.load_state_dict({key: state[key] for key in wanted if key in state}, strict=False)
    height, width = settings.dataset.input_size
    classifier = Classifier(
        model,
        backbone,
        in_channels=channels,
        height=height,
        width=width,
        mean=mean,
        std=std,
        fit=settings.dataset.fit,
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
            **({} if settings.dataset.fit == "stretch" else {"fit": settings.dataset.fit}),
            **({} if (mean, std) == IMAGENET else {"mean": mean, "std": std}),
        },
    )
    run = open_run(settings.root, settings.name or f"{path.stem}-{identity.hash}", identity.hash)
    part = replace(settings, backbone=backbone).training_part()
    write_config(run.train, {"hash": identity.hash, "imported": path.name, **part})
    identity.write(run.train)
    classifier.save(run.checkpoint)
    write_json(run.train / "metrics.json", {})
    write_environment(run, composed.command("import", str(path)))
    told = (
        f"takes {height} x {width} pixels, {channels} channel{'s' if channels > 1 else ''}, mean "
        f"{_numbers(mean)}, deviation {_numbers(std)}; logit {defect} of {len(bias)} is the defect"
    )
    return run, told


def channels_of(path: Path, state: Mapping[str, Tensor], backbone: BackboneConfig) -> Literal[1, 3]:
    """Channels that the first convolution of a state dict takes; 3 if there is none.

    Raises:
        LtcamError: If that are others than 1 or 3.
    """
    with torch.device("meta"):
        modules = build_classifier(backbone, 3).named_modules()
    first = next(name for name, module in modules if isinstance(module, nn.Conv2d))
    weight = state.get(f"{first}.weight")
    channels = 3 if weight is None or weight.ndim != 4 else weight.shape[1]
    if channels not in (1, 3):
        raise LtcamError(f"{path}: takes {channels} channels; ltcam has images of 1 or 3")
    return 1 if channels == 1 else 3


def check_given(composed: Composed, path: Path, channels: int) -> None:
    """Refuse a size that nobody named, and channels that are not those of the weights.

    A data set that the user named may hold the size.

    Raises:
        LtcamError: Naming the options.
    """
    named = composed.named
    sizes = ("height", "width")
    missing = [f"--{side} PIXELS" for side in sizes if f"dataset.{side}" not in named]
    if missing and not named & {"dataset", "experiment"}:
        raise LtcamError(
            f"{path}: weights do not tell the size of the images; give {' '.join(missing)}, as in "
            "its training"
        )
    given = composed.values["dataset"].get("channels")
    if "dataset.channels" in named and given != channels:
        raise LtcamError(f"--channels {given}: the weights of {path} take {channels}")


def normalization(
    path: Path, channels: int, norm: tuple[str | None, str | None]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation by channel.

    Raises:
        LtcamError: If they are missing, or no numbers of that many channels.
    """
    mean, std = norm
    if mean is None and std is None and channels == 3:
        return IMAGENET
    if mean is None or std is None:
        raise LtcamError(
            f"{path}: takes {channels} channel{'s' if channels > 1 else ''}; give both --mean and "
            "--std by which its training normalised images of 0 to 1, e.g. --mean 0.5 --std 0.25"
        )
    return _parsed("--mean", mean, channels), _parsed("--std", std, channels, above=0)


def _parsed(
    option: str, text: str, channels: int, above: float = float("-inf")
) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != channels or not all(above < value < float("inf") for value in values):
        bound = " above 0" if above == 0 else ""
        raise LtcamError(
            f"{option} {text}: must be {channels} number{'s' if channels > 1 else ''}{bound}, "
            "joined by commas"
        )
    return values


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


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
