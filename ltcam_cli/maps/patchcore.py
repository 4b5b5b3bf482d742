"""PatchCore: how far an image's patches are from those of good training images.

Roth et al., Towards Total Recall in Industrial Anomaly Detection, CVPR 2022. No label but "good" is
read, so a kind of defect that no training image shows is as far from the memory as any other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.transforms.v2 import functional as tv

from ltcam_cli.classifier.checkpoint import Classifier
from ltcam_cli.errors import LtcamError
from ltcam_cli.maps.engine import Heatmaps
from ltcam_cli.maps.fusion import upscale
from ltcam_cli.maps.stages import main_stages, stages_of, submodule

PROJECTED = 64  # dimensions in which the coreset is taken
ROWS = 1 << 13  # patches whose distances to the memory are in memory at once


def feature_layers(model: nn.Module, layers: str) -> list[str]:
    """Module names of `middle`, or of stages and modules joined by +, finest first.

    The middle of five stages are s3 and s4, layer2 and layer3 of a ResNet as in the paper; of four,
    s2 and s3.

    Raises:
        LtcamError: If there is no such layer.
    """
    if layers != "middle":
        names = [stages_of(model).get(layer, layer) for layer in layers.split("+")]
        for name in names:
            submodule(model, name)
        return list(dict.fromkeys(names))
    ordered = main_stages(model)
    if len(ordered) < 2:
        raise LtcamError("method.layers=middle: this model names no stages; give module names")
    first = (len(ordered) - 1) // 2
    return list(ordered[first : first + 2])


def feature_extractor(model: nn.Module, layers: str) -> nn.Module:
    """The part of a model that ends in these layers, see `feature_layers`: images -> {name: A}."""
    return create_feature_extractor(model, feature_layers(model, layers))


def patch_features(extractor: nn.Module, images: Tensor) -> Tensor:
    """Features of each patch: those of its 3×3 neighbourhood, averaged, of all layers.

    Args:
        extractor: See `feature_extractor`.
        images: (N, C, H, W), normalised.

    Returns:
        (N, K, h, w) float32, h and w of the finest layer and K the channels of all.
    """
    with torch.inference_mode():
        maps = [F.avg_pool2d(A.float(), 3, stride=1, padding=1) for A in extractor(images).values()]
        height, width = max(A.shape[-2:] for A in maps)
        return torch.cat([_enlarged(A, (height, width)) for A in maps], dim=1)


def as_rows(features: Tensor) -> Tensor:
    """(N, K, h, w) -> (N·h·w, K)."""
    return features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])


def drawn_patches(features: Tensor, count: int, generator: torch.Generator) -> Iterator[Tensor]:
    """`count` random patches of each image, (count, K); all of one that has fewer."""
    for image in features:
        rows = as_rows(image[None])
        yield rows[torch.randperm(len(rows), generator=generator)[:count].to(rows.device)]


def coreset(patches: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Numbers of patches near which all others are: greedy k-center (eq. 4 and algorithm 1).

    The first is random. Each next one is farthest from those before, in a random projection.

    Args:
        patches: (P, K).
        count: Number of patches that are kept; all, if there are fewer.
        generator: Of the draws, on the CPU.

    Returns:
        (min(count, P),) int64, in the order in which they were found.
    """
    projection = torch.randn(patches.shape[1], PROJECTED, generator=generator)
    rows = patches @ projection.to(patches) / math.sqrt(PROJECTED)
    chosen = [int(torch.randint(len(rows), (1,), generator=generator))]
    squares = rows.square().sum(dim=1)
    distance = torch.full_like(squares, math.inf)
    for _ in range(min(count, len(rows)) - 1):
        last = chosen[-1]
        squared = squares + squares[last] - 2 * (rows @ rows[last])
        distance = torch.minimum(distance, squared)
        distance[last] = -math.inf  # each once
        chosen.append(int(distance.argmax()))
    return torch.tensor(chosen, device=patches.device)


def nearest_distance(patches: Tensor, memory: Tensor) -> Tensor:
    """(P,) Euclidean distance of patches (P, K) to the nearest of a memory (M, K)."""
    return torch.cat([torch.cdist(rows, memory).amin(dim=1) for rows in patches.split(ROWS)])


def smoothed(maps: Tensor, sigma: float) -> Tensor:
    """Maps (N, H, W) under a Gaussian of `sigma` pixels, cut off at 4 sigma; edges are mirrored."""
    radius = min(math.ceil(4 * sigma), *(side - 1 for side in maps.shape[-2:]))
    if not sigma or not radius:
        return maps
    return tv.gaussian_blur(maps[:, None], [2 * radius + 1] * 2, [sigma] * 2)[:, 0]


@dataclass(frozen=True)
class Memory:
    """What is remembered of good training images.

    Attributes:
        patches: (M, K) float32.
        extractor: See `feature_extractor`; on the device of the patches.
    """

    patches: Tensor
    extractor: nn.Module

    def distances(self, images: Tensor) -> Tensor:
        """(N, h, w) distance of each patch of normalised images to the nearest in the memory."""
        features = patch_features(self.extractor, images)
        with torch.inference_mode():
            distance = nearest_distance(as_rows(features), self.patches)
        return distance.view(len(features), *features.shape[-2:])


class PatchcoreSource:
    """Heatmap source of a memory: smoothed distances >= 0, and the classifier's logits."""

    def __init__(self, classifier: Classifier, memory: Memory, smooth: float) -> None:
        """Join a classifier and a memory; `smooth`: see `smoothed`."""
        self.classifier, self.memory, self.smooth = classifier, memory, smooth

    def __call__(self, images: Tensor) -> Heatmaps:
        """Maps of normalised images (N, C, H, W), at their size."""
        with torch.inference_mode():
            logits = self.classifier.model(images)
            size = (images.shape[-2], images.shape[-1])
            maps = smoothed(upscale(self.memory.distances(images), size), self.smooth)
        return Heatmaps([maps], logits)


def _enlarged(A: Tensor, size: tuple[int, int]) -> Tensor:
    if A.shape[-2:] == size:
        return A
    return F.interpolate(A, size, mode="bilinear", align_corners=False)
