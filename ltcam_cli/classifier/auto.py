"""`backbone=auto`: the best network whose weights can be had, for this machine."""

from __future__ import annotations

import logging
import socket
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import torch
from torchvision import models

from ltcam_cli.classifier.backbones import BACKBONES, build_classifier
from ltcam_cli.classifier.config import BackboneConfig
from ltcam_cli.classifier.weights import check_fit, of_whole, published_state, read_state
from ltcam_cli.config import build
from ltcam_cli.errors import LtcamError

ON_CPU, ON_GPU = ("squeezenet1_1", "resnet18"), ("resnet18", "squeezenet1_1")  # best first
FROM_SCRATCH = "vgg16_slim"
FOLDER = Path("weights")  # of the working directory: files named after their network
PATIENCE = 20  # seconds until a download that does not answer is given up
log = logging.getLogger(__name__)


def resolved_backbone(config: BackboneConfig, on_gpu: bool) -> BackboneConfig:
    """The network that `auto` stands for; any other as it is.

    A file in `weights` decides by its tensors. Otherwise the first network of `ON_CPU` or `ON_GPU`
    whose ImageNet weights lie in `weights/` or in torchvision's cache; else the first that can be
    downloaded; else `vgg16_slim` from scratch, which is said.

    Args:
        config: Network; of `auto`, logits, dropout, window and head `noisy_or` count.
        on_gpu: Whether it is trained on a GPU.

    Raises:
        LtcamError: If a given file fits no network.
    """
    if config.name != "auto":
        return config
    if config.weights not in (None, "DEFAULT"):
        return pretrained(config, network_of(Path(str(config.weights))), str(config.weights))
    order = ON_GPU if on_gpu else ON_CPU
    for name in order if config.weights else ():
        for path in sorted(FOLDER.glob(f"{name}*.pt*")):
            return _said(pretrained(config, name, str(path)))
        if cached(name).is_file():
            return _said(pretrained(config, name, "DEFAULT"))
    for name in order if config.weights else ():
        if downloaded(name):
            return _said(pretrained(config, name, "DEFAULT"))
    values = {"name": FROM_SCRATCH, "head": _head(config), "weights": None, "standardize": True}
    return _said(build(BackboneConfig, asdict(config) | values))


def pretrained(config: BackboneConfig, name: str, weights: str) -> BackboneConfig:
    """A network with ImageNet weights; a ResNet's batch norms stay, since batches are small."""
    values = {"name": name, "head": _head(config), "hidden": 256, "weights": weights}
    values["freeze_bn"] = name.startswith("resnet")
    return build(BackboneConfig, asdict(config) | values)


def _head(config: BackboneConfig) -> str:
    """Average pooling, or windows where they are asked for."""
    return "noisy_or" if config.head == "noisy_or" else "avg"


def network_of(path: Path) -> str:
    """Name of the network whose body a file of weights fills.

    Raises:
        LtcamError: If it is none of ours, or cannot be read.
    """
    state = read_state(path)
    for name, backbone in BACKBONES.items():
        with torch.device("meta"):
            config = build(BackboneConfig, {"name": name, "head": "avg"})
            body = build_classifier(config, 3).state_dict()
        body = {k: v for k, v in body.items() if not k.startswith(backbone.head)}
        with suppress(LtcamError):
            check_fit(of_whole(state, body), body, str(path), name)
            return name
    raise LtcamError(f"backbone.weights={path}: fits none of {', '.join(BACKBONES)}")


def cached(name: str) -> Path:
    """File in torchvision's cache of a network's default weights."""
    url = models.get_model_weights(name)["DEFAULT"].url
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name


def downloaded(name: str) -> bool:
    """Whether a network's default weights could be downloaded into torchvision's cache."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)
    try:
        published_state(build(BackboneConfig, {"name": name, "weights": "DEFAULT"}))
    except LtcamError as error:
        log.info("backbone=auto: %s: %s", name, error)
        return False
    finally:
        socket.setdefaulttimeout(before)
    return True


def _said(config: BackboneConfig) -> BackboneConfig:
    if config.weights:
        log.info("backbone=auto: %s with weights %s", config.name, config.weights)
    else:
        log.warning(
            "backbone=auto: %s from scratch; ImageNet weights need fewer images: put a file "
            "such as squeezenet1_1.pth into %s/, or give backbone.weights=FILE",
            config.name,
            FOLDER,
        )
    return config
