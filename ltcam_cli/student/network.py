"""Segmentation networks: a light one made for CPUs, or a decoder on the classifier's stages."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.ops import Conv2dNormActivation

from ltcam_cli.classifier.backbones import build_classifier
from ltcam_cli.classifier.config import BackboneConfig
from ltcam_cli.maps.stages import stages_of
from ltcam_cli.student.config import NetworkConfig, Task

STAGES = ("s1", "s2", "s3", "s4")
PRIOR_LOGIT = -3.0  # of every pixel before training: few are defective


class Judged(NamedTuple):
    """Logits of a defect: of pixels (N, H, W), and of whole images (N,) where they are judged."""

    pixels: Tensor
    images: Tensor | None


class MaskNet(nn.Module):
    """Network from normalised images (N, C, H, W) of any size to pixels' logits (N, H, W).

    Feature pyramid (Lin et al. 2017): laterals of the encoder's stages are summed from the coarsest
    to the finest, which should have full resolution: a crack is a few pixels wide.

    With the task `multi` a linear layer judges the whole image by the mean and the maximum of each
    channel of the coarsest stage, and the laterals are multiplied by that probability. This is our
    reading of Sample-Centric Multi-Task Learning (2025), whose abstract alone was at hand.
    """

    def __init__(
        self,
        encoder: nn.Module,
        channels: Sequence[int],
        config: NetworkConfig,
        task: Task = "mask",
    ) -> None:
        """Add a decoder to an encoder whose maps have these channels, finest first."""
        super().__init__()
        self.encoder = encoder
        width = config.decoder
        self.laterals = nn.ModuleList(nn.Conv2d(before, width, 1) for before in channels)
        self.smooth = nn.ModuleList(_block(width, width, config.norm) for _ in channels[1:])
        self.mask = nn.Conv2d(width, 1, 1)
        nn.init.constant_(self.mask.bias, PRIOR_LOGIT)  # type: ignore[arg-type]
        self.decision = nn.Linear(2 * channels[-1], 1) if task == "multi" else None

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, H, W)."""
        return self.judge(images).pixels

    def judge(self, images: Tensor) -> Judged:
        """Logits of the pixels, and with the task `multi` of the images."""
        features = self.encoder(images)
        maps = list(features.values()) if isinstance(features, dict) else features
        laterals = [lateral(stage) for lateral, stage in zip(self.laterals, maps, strict=True)]
        decision = None
        if self.decision is not None:
            pooled = torch.cat([maps[-1].mean((2, 3)), maps[-1].amax((2, 3))], dim=1)
            decision = _in_float32(self.decision, pooled)[:, 0]
            laterals = [torch.sigmoid(decision)[:, None, None, None] * each for each in laterals]
        top = laterals[-1]
        for lower, smooth in zip(laterals[-2::-1], self.smooth, strict=True):
            top = smooth(lower + _resized(top, lower))
        return Judged(_resized(_in_float32(self.mask, top), images)[:, 0], decision)


class LightEncoder(nn.Module):
    """Encoder of five stages: the first at full resolution, each other at half of the previous."""

    def __init__(self, in_channels: int, width: int, norm: str) -> None:
        super().__init__()
        self.channels = [width * times // 2 for times in (2, 3, 4, 6, 8)]
        self.stem = _block(in_channels, width, norm, size=5)
        befores = [width, *self.channels]
        self.stages = nn.ModuleList(
            nn.Sequential(_block(before, after, norm), _block(after, after, norm))
            for before, after in zip(befores, self.channels, strict=False)
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Outputs of the stages, finest first."""
        maps = [self.stages[0](self.stem(images))]
        for stage in self.stages[1:]:
            maps.append(stage(F.max_pool2d(maps[-1], 2)))
        return maps


def build_network(
    config: NetworkConfig,
    in_channels: int,
    backbone: BackboneConfig | None = None,
    state: dict[str, Tensor] | None = None,
    task: Task = "mask",
) -> MaskNet:
    """Network with random weights; with `encoder=classifier` the encoder has the classifier's.

    Args:
        config: Kind and width of the network.
        in_channels: Channels of the images, 1 or 3.
        backbone: Architecture of the classifier; only read for `encoder=classifier`.
        state: Weights of the classifier; None leaves random ones, e.g. to load a student's.
        task: Whether whole images are judged, too.
    """
    if config.encoder == "light":
        light = LightEncoder(in_channels, config.width, config.norm)
        return MaskNet(light, light.channels, config, task)
    assert backbone is not None
    model = build_classifier(backbone, in_channels)
    if state is not None:
        model.load_state_dict(state)
    modules = stages_of(model)
    encoder = create_feature_extractor(model, {modules[stage]: stage for stage in STAGES})
    with torch.no_grad():
        maps = encoder.eval()(torch.zeros(1, in_channels, 64, 64))
    return MaskNet(encoder, [maps[stage].shape[1] for stage in STAGES], config, task)


def _in_float32(layer: nn.Module, values: Tensor) -> Tensor:
    """Output of a layer, without autocast: 8 bits would make steps of a probability."""
    device = values.device.type
    if not torch.is_autocast_enabled(device):
        return layer(values)
    with torch.autocast(device, enabled=False):
        return layer(values.float())


def _resized(maps: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(maps, like.shape[-2:], mode="bilinear", align_corners=False)


def _block(before: int, after: int, norm: str, size: int = 3) -> Conv2dNormActivation:
    layer = nn.BatchNorm2d if norm == "batch" else partial(nn.GroupNorm, 4)
    return Conv2dNormActivation(before, after, size, norm_layer=layer)
