"""Networks that draw a mask: a light one made for CPUs, or a decoder on the classifier's stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from ltcam_cli.classifier.backbones import BackboneConfig, build_classifier
from ltcam_cli.errors import LtcamError, nearest
from ltcam_cli.maps.capture import stages_of

ENCODERS = ("light", "classifier")
STAGES = ("s1", "s2", "s3", "s4")
NORMS = ("batch", "group")
RARE = -3.0  # first logit of every pixel: few are defective


@dataclass
class NetworkConfig:
    """The student's network.

    Attributes:
        encoder: `light`: five stages of convolutions, the first at full resolution, each other at
            half of the one before; `classifier`: the classifier's own s1..s4 and their weights,
            which learn on.
        width: channels of the light encoder's first stage; the others have 1.5, 2, 3 and 4 times
            as many.
        decoder: channels of the top-down path.
        norm: `batch`, or `group` (4 groups), which is the same in training and use.
    """

    encoder: str = "light"
    width: int = 16
    decoder: int = 32
    norm: str = "batch"

    def __post_init__(self) -> None:
        for name, known in {"encoder": ENCODERS, "norm": NORMS}.items():
            value = getattr(self, name)
            if value not in known:
                raise LtcamError(f"student.network.{name}={value}: unknown{nearest(value, known)}")
        for name in ("width", "decoder"):
            value = getattr(self, name)
            if value < 8 or value % 8:
                raise LtcamError(f"student.network.{name}={value}: must be a multiple of 8")


class MaskNet(nn.Module):
    """Normalised images (N, C, H, W) of any size -> logits (N, H, W) of a defect at each pixel.

    A feature pyramid (Lin et al. 2017): laterals of the encoder's stages are summed from the
    coarsest to the finest, which should have full resolution: a crack is a few pixels wide.
    """

    def __init__(self, encoder: nn.Module, channels: Sequence[int], config: NetworkConfig) -> None:
        """Of an encoder whose forward gives maps with these channels, finest first."""
        super().__init__()
        self.encoder = encoder
        width = config.decoder
        self.laterals = nn.ModuleList(nn.Conv2d(before, width, 1) for before in channels)
        self.smooth = nn.ModuleList(_block(width, width, config.norm) for _ in channels[1:])
        self.mask = nn.Conv2d(width, 1, 1)
        nn.init.constant_(self.mask.bias, RARE)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, H, W)."""
        found = self.encoder(images)
        maps = list(found.values()) if isinstance(found, dict) else found
        sums = [lateral(each) for lateral, each in zip(self.laterals, maps, strict=True)]
        top = sums[-1]
        for lower, smooth in zip(sums[-2::-1], self.smooth, strict=True):
            top = smooth(lower + _resized(top, lower))
        logits: Tensor = _resized(self.mask(top), images)[:, 0]
        return logits


class LightEncoder(nn.Module):
    """Five stages, the first at full resolution, each other at half of the one before."""

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
        """The stages' outputs, finest first."""
        maps = [self.stages[0](self.stem(images))]
        for stage in self.stages[1:]:
            maps.append(stage(F.max_pool2d(maps[-1], 2)))
        return maps


def build_network(
    config: NetworkConfig,
    in_channels: int,
    backbone: BackboneConfig | None = None,
    state: dict[str, Tensor] | None = None,
) -> MaskNet:
    """A network with random weights; an encoder of the classifier has the classifier's.

    Args:
        in_channels: 1 or 3.
        backbone: of the classifier; only read for `encoder=classifier`.
        state: the classifier's weights; None leaves random ones, e.g. to load a student's.
    """
    if config.encoder == "light":
        light = LightEncoder(in_channels, config.width, config.norm)
        return MaskNet(light, light.channels, config)
    assert backbone is not None
    model = build_classifier(backbone, in_channels)
    if state is not None:
        model.load_state_dict(state)
    named = stages_of(model)
    encoder = create_feature_extractor(model, {named[stage]: stage for stage in STAGES})
    with torch.no_grad():
        maps = encoder.eval()(torch.zeros(1, in_channels, 64, 64))
    return MaskNet(encoder, [maps[stage].shape[1] for stage in STAGES], config)


def _resized(maps: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(maps, like.shape[-2:], mode="bilinear", align_corners=False)


def _block(before: int, after: int, norm: str, size: int = 3) -> nn.Sequential:
    layer: Any = nn.BatchNorm2d(after) if norm == "batch" else nn.GroupNorm(4, after)
    convolution = nn.Conv2d(before, after, size, padding=size // 2, bias=False)
    return nn.Sequential(convolution, layer, nn.ReLU(inplace=True))
