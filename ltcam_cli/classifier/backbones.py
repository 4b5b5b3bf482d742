"""Backbones of torchvision with named layers s1..sN and p1..pN, and a head of our choice.

A classifier is a plain torchvision model whose pooling and last layers are replaced. Its attribute
`stages` maps layer names to module names: s is the last activation before each reduction of
resolution, p the output of the pooling that follows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.vgg import VGG, make_layers

from ltcam_cli.classifier.config import BackboneConfig
from ltcam_cli.classifier.heads import make_head
from ltcam_cli.errors import LtcamError

HEAVY = {"vgg16", "vgg16_bn", "resnet50"}  # hours on a CPU
HEAVY_HINT = "; backbone=vgg16_slim is made for CPUs and takes minutes"
SLIM = [16, 16, "M", 32, 32, "M", 64, 64, 64, "M", 128, 128, 128, "M", 128, 128, 128, "M"]


class MobileNet(models.MobileNetV2):
    """torchvision's MobileNetV2 with its pooling as a module, so that heads can replace it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.avgpool: nn.Module = nn.AdaptiveAvgPool2d(1)

    def _forward_impl(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


@dataclass(frozen=True)
class Backbone:
    """Family member: how it is built, where its stages are, and how a head is attached.

    Attributes:
        build: Function that gives the torchvision model with its own head and random weights; takes
            `num_classes`.
        channels: Channels of the last feature map.
        stages: Function from the built model to module names by layer name s1.., p1...
        attach: Function that puts (pooling, classifier) into the model.
        head: Prefix of the parameters that belong to the head.
        last: Last layer of torchvision's own head; None: it has none, and no published weights.
    """

    build: Callable[..., nn.Module]
    channels: int
    stages: Callable[[nn.Module], dict[str, str]]
    attach: Callable[[nn.Module, nn.Module, nn.Module], None]
    head: str
    last: str | None


def build_classifier(
    config: BackboneConfig, in_channels: int, size: tuple[int, int] | None = None
) -> nn.Module:
    """Network with random weights, its head, and the attribute `stages`.

    Args:
        config: Backbone and head; `config.weights` is not read here.
        in_channels: Channels of the images, 1 or 3.
        size: Height and width of the images, which transformers of timm are built for; None: those
            of timm's own training.

    Returns:
        Model that maps (N, in_channels, H, W) to logits (N, config.logits).

    Raises:
        LtcamError: if the head is `own`, and the network is not torchvision's; see
            `timm_classifier`.
    """
    if config.name == "timm":
        from ltcam_cli.classifier.timm_models import timm_classifier

        return timm_classifier(config, in_channels, size)
    backbone = BACKBONES[config.name]
    own = config.head == "own"
    if own and backbone.last is None:
        raise LtcamError(
            f"backbone.head=own: {config.name} is not torchvision's; it has no own head"
        )
    model = backbone.build(num_classes=config.logits) if own else backbone.build()
    if config.head == "fc" and config.name in {"vgg16", "vgg16_bn"}:
        classifier = model.classifier  # the paper's: two layers of 4096, which weights may fill
        assert isinstance(classifier, nn.Sequential)
        classifier[-1] = nn.Linear(4096, config.logits)
    elif not own:
        pool, classifier = make_head(
            config.head,
            backbone.channels,
            config.logits,
            config.hidden,
            config.dropout,
            config.window,
        )
        backbone.attach(model, pool, classifier)
    if in_channels != 3:
        _replace_first_convolution(model, in_channels)
    model.stages = backbone.stages(model)  # type: ignore[assignment]
    return model


def freeze_batch_norm(model: nn.Module) -> None:
    """Put batch norms into eval mode and fix their parameters; call after every `train()`."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
            module.requires_grad_(False)


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


BACKBONES: dict[str, Backbone] = {
    "vgg16": Backbone(models.vgg16, 512, _vgg_stages, _attach_vgg, "classifier.", "classifier.6"),
    "vgg16_bn": Backbone(
        models.vgg16_bn, 512, _vgg_stages, _attach_vgg, "classifier.", "classifier.6"
    ),
    "vgg16_slim": Backbone(_slim, 128, _vgg_stages, _attach_vgg, "classifier.", None),
    "resnet18": Backbone(models.resnet18, 512, _resnet_stages, _attach_resnet, "fc.", "fc"),
    "resnet50": Backbone(models.resnet50, 2048, _resnet_stages, _attach_resnet, "fc.", "fc"),
    "mobilenet_v2": Backbone(
        MobileNet, 1280, _mobilenet_stages, _attach_vgg, "classifier.", "classifier.1"
    ),
    "squeezenet1_1": Backbone(
        models.squeezenet1_1,
        512,
        _squeezenet_stages,
        _attach_squeezenet,
        "classifier.",
        "classifier.1",
    ),
}


def remaining_hint(backbone: BackboneConfig, device: torch.device) -> str:
    """Advice beside the remaining time where a heavy network is trained on a CPU."""
    return HEAVY_HINT if backbone.name in HEAVY and device.type == "cpu" else ""
