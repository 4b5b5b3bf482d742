"""The weightings' formulas for many δ at once, from one pass over the positive gradients.

Truncation only drops terms of a sum. Each positive entry of g has a level: how many of the
ascending δ keep it. What δ_d keeps are the entries of levels above d, so one sum by level, added up
from the top, gives the sums of all δ. The engine goes this way on CPUs where a layer is read with
several δ; what comes out is what the formulas of `weightings` give for each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ltcam_cli.maps.capture import Layer
from ltcam_cli.maps.spec import MapSpec
from ltcam_cli.maps.weightings import combine, get_weighting, gradcampp_terms


class Kept:
    """The strictly positive entries of a gradient, and which δ keep each.

    Attributes:
        g: (P,) their values.
        levels: one more than there are δ.
    """

    def __init__(self, g: Tensor, bounds: Sequence[Tensor]) -> None:
        """Of g (N, K, h, w), and the `thresholds` of ascending δ."""
        self.shape = g.shape
        _, channels, height, width = g.shape
        self.levels = len(bounds) + 1
        flat = g.flatten()  # in the order N, K, h, w, whatever the memory format
        self.index = torch.from_numpy(np.flatnonzero(flat.numpy() > 0))
        self.g = flat[self.index]
        self.channel = self.index // (height * width)  # of N·K
        self.image = self.channel // channels
        self.position = self.image * (height * width) + self.index % (height * width)  # of N·h·w
        self.level = torch.zeros_like(self.index)
        for bound in bounds:
            row = self.channel if bound.shape[1] == channels else self.image
            self.level += self.g >= bound.flatten()[row]

    @property
    def everything(self) -> bool:
        """Whether some image has no entry that could be cut; its lowest term need not be 0."""
        each = torch.bincount(self.image, minlength=self.shape[0])
        return bool((each == self.shape[1:].numel()).any())

    def at(self, values: Tensor) -> Tensor:
        """(P,) what (N, K, h, w), or (N, K, 1, 1), holds at the entries."""
        if values.shape == self.shape:
            return values.flatten()[self.index]
        return values.flatten()[self.channel]

    def by_channel(self, values: Tensor) -> Tensor:
        """(P,) -> (D, N, K): for each δ the sum of what it keeps, channel by channel."""
        return self._sums(values, self.channel, self.shape[:2])

    def by_position(self, values: Tensor) -> Tensor:
        """(P,) -> (D, N, h, w): the same, summed over channels."""
        return self._sums(values, self.position, (self.shape[0], *self.shape[2:]))

    def highest(self, values: Tensor) -> Tensor:
        """(P,) -> (D, N): for each δ and image the highest value that it keeps, at least 0."""
        bucket = self.level * self.shape[0] + self.image
        highest = values.new_zeros(self.levels * self.shape[0])
        highest = highest.scatter_reduce(0, bucket, values, "amax").view(self.levels, -1)
        return highest.flip(0).cummax(dim=0).values.flip(0)[1:]

    def _sums(self, values: Tensor, bucket: Tensor, shape: Sequence[int]) -> Tensor:
        size = math.prod(shape)
        bucket = self.level * size + bucket
        sums = torch.bincount(bucket, values.double(), minlength=self.levels * size)
        sums = sums.view(self.levels, *shape).flip(0).cumsum(dim=0).flip(0)[1:]
        return sums.to(values.dtype)


Swept = Callable[[Layer, Kept], Tensor]


def gradcam(layer: Layer, kept: Kept) -> Tensor:
    """w_k = mean_ij g_ij, over all positions, kept or not."""
    height, width = kept.shape[2:]
    return kept.by_channel(kept.g) / (height * width)


def gradcampp(layer: Layer, kept: Kept) -> Tensor:
    """w_k = Σ_ij α_ij g_ij."""
    assert layer.A is not None
    total = kept.at(layer.A.sum(dim=(2, 3), keepdim=True))
    return kept.by_channel(gradcampp_terms(kept.g, total))


def xgradcam(layer: Layer, kept: Kept) -> Tensor:
    """w_k = Σ_ij g_ij A_ij / Σ_ij A_ij."""
    assert layer.A is not None
    total = layer.A.sum(dim=(2, 3))
    return torch.where(total != 0, kept.by_channel(kept.g * kept.at(layer.A)) / total, 0)


def layercam(layer: Layer, kept: Kept) -> Tensor:
    """M = ReLU(Σ_k g^k ∘ A^k)."""
    assert layer.A is not None
    return kept.by_position(kept.g * kept.at(layer.A)).relu()


def fullgrad(layer: Layer, kept: Kept) -> Tensor:
    """M = Σ_k Ψ(g^k · b_k), Ψ over the layer; what is cut is its minimum, 0."""
    assert layer.b is not None
    shape = kept.shape if layer.b.shape[-1] > 1 else (*kept.shape[:2], 1, 1)
    terms = (kept.g * kept.at(layer.b.expand(shape))).abs()
    highest = kept.highest(terms)[..., None, None]
    return torch.where(highest > 0, kept.by_position(terms) / highest, 0)


SWEPT: dict[str, Swept] = {
    "gradcam": gradcam,
    "gradcampp": gradcampp,
    "xgradcam": xgradcam,
    "layercam": layercam,
    "fullgrad": fullgrad,
}


class Sweep:
    """A layer's maps for several δ."""

    def __init__(self, layer: Layer, bounds: Sequence[Tensor]) -> None:
        assert layer.g is not None
        self.layer = layer
        self.kept = Kept(layer.g, bounds)
        self.found: dict[str, Tensor] = {}

    def map(self, spec: MapSpec, number: int) -> Tensor | None:
        """The map (N, h, w) of the δ of that number; None where this way cannot be gone.

        It cannot for weightings of one's own, other forms, options other than the default, and
        fullgrad where nothing can be cut.
        """
        name = spec.weighting
        default = (
            get_weighting(name).options() | dict(spec.options) == get_weighting(name).options()
        )
        if name not in SWEPT or spec.form != "gradient" or not default:
            return None
        if name == "fullgrad" and self.kept.everything:
            return None
        if name not in self.found:
            self.found[name] = SWEPT[name](self.layer, self.kept)
        return combine(self.found[name][number], self.layer.A)
