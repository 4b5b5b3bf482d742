"""Backbones of torchvision with named layers s1..sN and p1..pN, and a head of our choice.

A classifier is a plain torchvision model whose pooling and last layers are ours; the attribute
`stages` maps its layer names to module names: s = the last activation before each reduction of
resolution, p = the same after the pooling that follows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.vgg import VGG, make_layers

from ltcam_cli.classifier.heads import make_head
from ltcam_cli.classifier.tensors import read_tensors
from ltcam_cli.errors import LtcamError, nearest

log = logging.getLogger(__name__)

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SLIM = [16, 16, "M", 32, 32, "M", 64, 64, 64, "M", 128, 128, 128, "M", 128, 128, 128, "M"]


@dataclass
class BackboneConfig:
    """A network (conf/backbone/*.yaml).

    Attributes:
        name: one of `BACKBONES`.
        head: `fc | avg | max | lse`.
        logits: 1 (of the defect) or 2 (good, defect); imported models may have more.
        hidden: width of the hidden layer of head `fc`; VGG16 has its own two of 4096.
        dropout: of head `fc`.
        weights: torchvision's name (`DEFAULT`, `IMAGENET1K_V1`), a file, or None: from scratch.
        freeze_bn: keep batch norm in eval mode and its parameters fixed while training.
    """

    name: str = "vgg16"
    head: str = "fc"
    logits: int = 1
    hidden: int = 256
    dropout: float = 0.5
    weights: str | None = "DEFAULT"
    freeze_bn: bool = False

    def __post_init__(self) -> None:
        if self.name not in BACKBONES:
            raise LtcamError(
                f"backbone.name={self.name}: no such backbone{nearest(self.name, BACKBONES)}"
            )
        if self.logits < 1:
            raise LtcamError(f"backbone.logits={self.logits}: must be 1 or 2")


class MobileNet(models.MobileNetV2):
    """torchvision's MobileNetV2 with its pooling as a module, so that heads can replace it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.avgpool: nn.Module = nn.AdaptiveAvgPool2d(1)

    def _forward_impl(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


@dataclass(frozen=True)
class Backbone:
    """How to build a family member, where its stages are, and how its head is attached.

    Attributes:
        build: the torchvision model with its own head, random weights.
        channels: of the last feature map.
        stages: layer names s1.. p1.. of the built model, by module name.
        attach: puts (pooling, classifier) into the model.
        head: prefix of the parameters that belong to the head.
        own_head: the head that torchvision's own last layer is, and that layer's name.
        slim: has no published weights.
    """

    build: Callable[[], nn.Module]
    channels: int
    stages: Callable[[nn.Module], dict[str, str]]
    attach: Callable[[nn.Module, nn.Module, nn.Module], None]
    head: str
    own_head: tuple[str, str]
    slim: bool = False


def build_classifier(config: BackboneConfig, in_channels: int) -> nn.Module:
    """A network with random weights, its head, and the attribute `stages`.

    Args:
        config: `config.weights` is not read here.
        in_channels: 1 or 3.

    Returns:
        Maps (N, in_channels, H, W) to logits (N, config.logits).
    """
    backbone = BACKBONES[config.name]
    model = backbone.build()
    if config.head == "fc" and config.name in {"vgg16", "vgg16_bn"}:
        classifier = model.classifier  # the paper's: two layers of 4096, which weights may fill
        assert isinstance(classifier, nn.Sequential)
        classifier[-1] = nn.Linear(4096, config.logits)
    else:
        pool, classifier = make_head(
            config.head, backbone.channels, config.logits, config.hidden, config.dropout
        )
        backbone.attach(model, pool, classifier)
    if in_channels != 3:
        _replace_first_convolution(model, in_channels)
    model.stages = backbone.stages(model)  # type: ignore[assignment]
    return model


def load_weights(model: nn.Module, config: BackboneConfig) -> None:
    """Fill everything but the head from `config.weights` (nothing where that is None).

    Raises:
        LtcamError: if the weights cannot be had, are unsafe, or do not fit; the first misfit is
            named.
    """
    if config.weights is None:
        return
    backbone = BACKBONES[config.name]
    state = _published(config) if _is_name(config.weights) else read_state(Path(config.weights))
    mine = model.state_dict()
    if not set(state) & set(mine):  # `features` alone
        state = {f"features.{key}": value for key, value in state.items()}
    body = [key for key in mine if not key.startswith(backbone.head)]
    source = f"backbone.weights={config.weights}"
    misfit = f"these are not weights of backbone={config.name}"
    check_fit(state, {key: mine[key] for key in body}, source, misfit)
    fitting = {
        key: value for key, value in state.items() if key in mine and value.shape == mine[key].shape
    }
    model.load_state_dict(fitting, strict=False)
    log.info("%s: %d tensors of the backbone, %d of the head", source, len(body),
             len(fitting) - len(set(fitting) & set(body)))  # fmt: skip


def check_fit(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], source: str, misfit: str
) -> None:
    """Refuse a state dict that lacks a wanted tensor or has it in another shape.

    Batch norms' counters of batches may be missing.

    Raises:
        LtcamError: naming the source, the first such tensor, and what the misfit means.
    """
    for key, value in wanted.items():
        if key not in state:
            if key.endswith("num_batches_tracked"):
                continue
            raise LtcamError(f"{source}: has no {key}; {misfit}")
        if state[key].shape != value.shape:
            raise LtcamError(
                f"{source}: {key} has shape {tuple(state[key].shape)} instead of "
                f"{tuple(value.shape)}; {misfit}"
            )


def own_state(state: Mapping[str, Tensor], config: BackboneConfig) -> dict[str, Tensor]:
    """The state dict of an unchanged torchvision model, renamed to our head's parameters."""
    own_head, last = BACKBONES[config.name].own_head
    if config.head != own_head:
        raise LtcamError(
            f"backbone.head={config.head}: an unchanged {config.name} has backbone.head={own_head}"
        )
    prefix = BACKBONES[config.name].head
    renamed = {}
    for key, value in state.items():
        if key.startswith(f"{last}.") and own_head == "avg":
            leaf = key.rsplit(".", 1)[1]
            key = f"{prefix}{'2.' if config.name == 'squeezenet1_1' else ''}{leaf}"
            value = value.flatten(1) if value.ndim == 4 else value
        renamed[key] = value
    return renamed


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict from a file; only tensors are unpickled.

    Accepts a bare state dict, or one below the key `state_dict` or `model`; a prefix `module.`
    (DataParallel) is removed.

    Raises:
        LtcamError: if the file is missing, unsafe, or holds no state dict.
    """
    if not path.is_file():
        raise LtcamError(f"{path}: no such weights; give a file, a torchvision name or null")
    state = read_tensors(path, "give the model's state_dict() alone")
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise LtcamError(f"{path}: holds no state dict; save the model's state_dict()")
    return {key.removeprefix("module."): value for key, value in state.items()}


def freeze_batch_norm(model: nn.Module) -> None:
    """Put batch norms into eval mode and fix their parameters; call after every `train()`."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
            module.requires_grad_(False)


def _is_name(weights: str) -> bool:
    return weights == "DEFAULT" or weights.startswith("IMAGENET")


def _published(config: BackboneConfig) -> dict[str, Tensor]:
    offline = "give a local file with backbone.weights=FILE, or train from scratch with null"
    if BACKBONES[config.name].slim:
        raise LtcamError(
            f"backbone.weights={config.weights}: {config.name} has no published weights; {offline}"
        )
    try:
        weights = models.get_model_weights(config.name)[config.weights]
    except KeyError as error:
        known = [weight.name for weight in models.get_model_weights(config.name)]
        raise LtcamError(
            f"backbone.weights={config.weights}: torchvision has no such weights of {config.name}"
            f"{nearest(str(config.weights), known)}"
        ) from error
    try:
        return dict(weights.get_state_dict(progress=True))
    except (OSError, RuntimeError) as error:
        raise LtcamError(
            f"backbone.weights={config.weights}: cannot be downloaded ({error}); {offline}"
        ) from error


def _replace_first_convolution(model: nn.Module, in_channels: int) -> None:
    name, first = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    new = nn.Conv2d(
        in_channels,
        first.out_channels,
        first.kernel_size,  # type: ignore[arg-type]
        first.stride,  # type: ignore[arg-type]
        first.padding,  # type: ignore[arg-type]
        bias=first.bias is not None,
    )
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    if new.bias is not None:
        nn.init.zeros_(new.bias)
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, new)


def _vgg_stages(model: nn.Module) -> dict[str, str]:
    features = list(model.features.named_children())  # type: ignore[union-attr]
    pools = [i for i, (_, module) in enumerate(features) if isinstance(module, nn.MaxPool2d)]
    stages = {f"s{k}": f"features.{features[i - 1][0]}" for k, i in enumerate(pools, 1)}
    return stages | {f"p{k}": f"features.{features[i][0]}" for k, i in enumerate(pools, 1)}


def _resnet_stages(model: nn.Module) -> dict[str, str]:
    return {"s1": "relu", **{f"s{k + 1}": f"layer{k}" for k in range(1, 5)}, "p1": "maxpool"}


def _squeezenet_stages(model: nn.Module) -> dict[str, str]:
    s = {f"s{k}": f"features.{i}" for k, i in enumerate((1, 4, 7, 12), 1)}
    return s | {f"p{k}": f"features.{i}" for k, i in enumerate((2, 5, 8), 1)}


def _mobilenet_stages(model: nn.Module) -> dict[str, str]:
    places = ("2.conv.0", "4.conv.0", "7.conv.0", "14.conv.0", "18")
    return {f"s{k}": f"features.{place}" for k, place in enumerate(places, 1)}


def _attach_vgg(model: nn.Module, pool: nn.Module, classifier: nn.Module) -> None:
    model.avgpool, model.classifier = pool, classifier


def _attach_resnet(model: nn.Module, pool: nn.Module, classifier: nn.Module) -> None:
    model.avgpool, model.fc = pool, classifier


def _attach_squeezenet(model: nn.Module, pool: nn.Module, classifier: nn.Module) -> None:
    # The model's own class convolution ends in a ReLU; a logit must be able to be negative.
    model.classifier = nn.Sequential(pool, nn.Flatten(), classifier)


def _slim() -> nn.Module:
    features = make_layers(SLIM, batch_norm=True)
    with torch.device("meta"):  # its own head of 120 million numbers, which ours replaces
        return VGG(features)


VGG_OWN, RESNET_OWN = ("fc", "classifier.6"), ("avg", "fc")
BACKBONES: dict[str, Backbone] = {
    "vgg16": Backbone(models.vgg16, 512, _vgg_stages, _attach_vgg, "classifier.", VGG_OWN),
    "vgg16_bn": Backbone(models.vgg16_bn, 512, _vgg_stages, _attach_vgg, "classifier.", VGG_OWN),
    "vgg16_slim": Backbone(_slim, 128, _vgg_stages, _attach_vgg, "classifier.", VGG_OWN, slim=True),
    "resnet18": Backbone(models.resnet18, 512, _resnet_stages, _attach_resnet, "fc.", RESNET_OWN),
    "resnet50": Backbone(models.resnet50, 2048, _resnet_stages, _attach_resnet, "fc.", RESNET_OWN),
    "mobilenet_v2": Backbone(
        MobileNet, 1280, _mobilenet_stages, _attach_vgg, "classifier.", ("avg", "classifier.1")
    ),
    "squeezenet1_1": Backbone(
        models.squeezenet1_1,
        512,
        _squeezenet_stages,
        _attach_squeezenet,
        "classifier.",
        ("avg", "classifier.1"),
    ),
}
