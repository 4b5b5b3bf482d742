"""The weightings' formulas for many δ at once, from one pass over the positive gradients.

Truncation only drops terms of a sum. Each positive entry of g has a level: how many of the
ascending δ keep it. What δ_d keeps are the entries of levels above d, so one sum by level, added up
from the top, gives the sums of all δ. The engine goes this way on CPUs where a layer is read with
several δ; what comes out is what the formulas of `weightings` give for each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ltcam_cli.maps.capture import Layer
from ltcam_cli.maps.spec import MapSpec
from ltcam_cli.maps.truncation import keep
from ltcam_cli.maps.weightings import combine, get_weighting, gradcampp_terms


class Kept:
    """The strictly positive entries of one image's gradient, and which δ keep each.

    Attributes:
        g: (P,) their values.
        bounds: of each δ.
    """

    def __init__(self, g: Tensor, bounds: Sequence[Tensor]) -> None:
        """Of g (1, K, h, w), and the `thresholds` of D ascending δ."""
        self.shape, self.bounds = g.shape, bounds
        positions = math.prod(g.shape[2:])
        flat = g.flatten()  # in the order K, h, w, whatever the memory format
        self.index = torch.from_numpy(np.flatnonzero(flat.numpy() > 0))
        self.g = flat[self.index]
        self.channel = self.index // positions
        self.position = self.index % positions
        self.level = torch.zeros_like(self.index)  # how many of the δ keep it
        for bound in bounds:
            each = bound.expand(1, g.shape[1], 1, 1).flatten()
            self.level += self.g >= each[self.channel]

    def at(self, values: Tensor) -> Tensor:
        """(P,) what (1, K, h, w), or (1, K, 1, 1), holds at the entries."""
        if values.shape == self.shape:
            return values.flatten()[self.index]
        return values.flatten()[self.channel]

    def by_channel(self, values: Tensor) -> Tensor:
        """(P,) -> (D, 1, K): for each δ the sum of what it keeps, channel by channel."""
        return self._sums(values, self.channel, self.shape[:2])

    def by_position(self, values: Tensor) -> Tensor:
        """(P,) -> (D, 1, h, w): the same, summed over channels."""
        return self._sums(values, self.position, (1, *self.shape[2:]))

    def highest(self, values: Tensor) -> Tensor:
        """(P,) -> (D, 1, 1, 1): for each δ the highest value that it keeps, at least 0."""
        highest = values.new_zeros(len(self.bounds) + 1)
        highest = highest.scatter_reduce(0, self.level, values, "amax")
        return highest.flip(0).cummax(dim=0).values.flip(0)[1:, None, None, None]

    def _sums(self, values: Tensor, bucket: Tensor, shape: Sequence[int]) -> Tensor:
        size, levels = math.prod(shape), len(self.bounds) + 1
        sums = torch.bincount(self.level * size + bucket, values.double(), levels * size)
        sums = sums.view(levels, *shape).flip(0).cumsum(dim=0).flip(0)[1:]
        return sums.to(values.dtype)


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
    assert layer.g is not None and layer.b is not None
    if len(kept.g) == layer.g.numel():  # nothing need be cut, so the lowest need not be 0
        cut = [replace(layer, g=keep(layer.g, bound)) for bound in kept.bounds]
        return torch.stack([get_weighting("fullgrad").function(each) for each in cut])
    shape = kept.shape if layer.b.shape[-1] > 1 else (*kept.shape[:2], 1, 1)
    terms = (kept.g * kept.at(layer.b.expand(shape))).abs()
    highest = kept.highest(terms)
    return torch.where(highest > 0, kept.by_position(terms) / highest, 0)


SWEPT: dict[str, Callable[[Layer, Kept], Tensor]] = {
    "gradcam": gradcam,
    "gradcampp": gradcampp,
    "xgradcam": xgradcam,
    "layercam": layercam,
    "fullgrad": fullgrad,
}


def can_sweep(spec: MapSpec) -> bool:
    """Whether this way can be gone: not for weightings, options and forms of one's own."""
    if spec.weighting not in SWEPT or spec.form != "gradient":
        return False
    defaults = get_weighting(spec.weighting).options()
    return defaults | dict(spec.options) == defaults


def swept(layer: Layer, bounds: Sequence[Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """A layer's maps by weighting, (D, N, h, w) each.

    One image after another, so that only one's entries are held at a time.

    Args:
        layer: as captured, on the CPU.
        bounds: the `thresholds` of D ascending δ.
        names: of weightings, of `SWEPT`.
    """
    assert layer.g is not None
    maps: dict[str, list[Tensor]] = {name: [] for name in names}
    for n in range(len(layer.g)):
        image = slice(n, n + 1)
        of_image = replace(
            layer,
            g=layer.g[image],
            A=None if layer.A is None else layer.A[image],
            b=layer.b if layer.b is None or layer.b.ndim == 3 else layer.b[image],
        )
        kept = Kept(layer.g[image], [bound[image] for bound in bounds])
        for name, found in maps.items():
            each = SWEPT[name](of_image, kept)
            found.append(torch.stack([combine(weights, of_image.A) for weights in each]))
    return {name: torch.cat(found, dim=1) for name, found in maps.items()}
