"""A weighting's maps for many δ at once, from one pass over the positive gradients.

Truncation only drops terms of a sum. Each positive entry of g has a level: how many of the
ascending δ keep it. What δ_d keeps are the entries of levels above d, so one sum by level, added up
from the top, gives the sums of all δ. The engine goes this way on CPUs where a layer is read with
several δ. The formulas are the weightings' own; `PositiveGradients` sums for them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from ltcam_cli.maps.layer import Layer
from ltcam_cli.maps.spec import MapSpec
from ltcam_cli.maps.truncation import PositiveEntries, exact
from ltcam_cli.maps.weightings import get_weighting


class PositiveGradients(Layer):
    """One image's layer whose g is the strictly positive entries alone, and which δ keep each.

    Sums are of each δ: (D, 1, K) over positions, (D, 1, h, w) over channels. NumPy gathers and
    repeats in a quarter of torch's time.
    """

    g: Tensor

    def __init__(self, layer: Layer, deltas: Sequence[float], scope: str = "channel") -> None:
        """Entries of a layer (1, K, h, w) on the CPU; of D ascending δ and their scope."""
        assert layer.g is not None
        self.shape, self.deltas = layer.g.shape, len(deltas)
        channels, positions = self.shape[1], math.prod(self.shape[2:])
        entries = PositiveEntries.of(layer.g.reshape(channels, positions))
        self.index, self.counts = entries.index, entries.counts
        g = torch.from_numpy(entries.values)
        super().__init__(layer.name, layer.A, g, layer.capture, layer.b, layer.stage)
        level = np.zeros(len(g), np.uint16)  # how many of the δ keep it
        scoped = entries if scope == "channel" else entries.as_one_row()
        for threshold in scoped.at_ranks([exact(delta) for delta in deltas]):
            level += scoped.values >= np.repeat(threshold, scoped.counts)
        self.level = level.astype(np.int64)
        self.channel = np.repeat(np.arange(channels), self.counts)
        self.position = self.index - positions * self.channel

    def at(self, values: Tensor) -> Tensor:
        """(P,)."""
        flat = values.flatten().numpy()
        each = values.shape == self.shape
        return torch.from_numpy(flat.take(self.index) if each else np.repeat(flat, self.counts))

    def sum(self, values: Tensor) -> Tensor:
        """(P,) -> (D, 1, K)."""
        return self._sums(values, self.channel, self.shape[:2])

    def mean(self, values: Tensor) -> Tensor:
        """(P,) -> (D, 1, K): over all positions, kept or not."""
        return self.sum(values) / math.prod(self.shape[2:])

    def sum_channels(self, values: Tensor) -> Tensor:
        """(P,) -> (D, 1, h, w)."""
        return self._sums(values, self.position, (1, *self.shape[2:]))

    def sum_normalized(self, values: Tensor, dim: tuple[int, ...] = (1, 2, 3)) -> Tensor:
        """(P,) >= 0 -> (D, 1, h, w); what is cut is the layer's minimum, 0."""
        if len(self.g) == math.prod(self.shape):  # nothing need be cut: the minimum need not be 0
            kept = [
                torch.where(torch.from_numpy(self.level > d), values, 0).view(self.shape)
                for d in range(self.deltas)
            ]
            return torch.stack([super(PositiveGradients, self).sum_normalized(v) for v in kept])
        highest = self.highest(values)
        return torch.where(highest > 0, self.sum_channels(values) / highest, 0)

    def highest(self, values: Tensor) -> Tensor:
        """(P,) -> (D, 1, 1, 1): the highest value that each δ keeps, at least 0."""
        highest = values.new_zeros(self.deltas + 1)
        highest = highest.scatter_reduce(0, torch.from_numpy(self.level), values, "amax")
        return highest.flip(0).cummax(dim=0).values.flip(0)[1:, None, None, None]

    def map(self, weights: Tensor) -> Tensor:
        """The maps (D, 1, h, w) from what a weighting gives; local weights are of the entries."""
        if weights.ndim == 4:
            return weights
        assert self.A is not None
        if weights.ndim == 1:
            return self.sum_channels(weights * self.at(self.A)).relu()
        return torch.einsum("dnk,nkhw->dnhw", weights, self.A).relu()

    def _sums(self, values: Tensor, bucket: np.ndarray, shape: Sequence[int]) -> Tensor:
        size, levels = math.prod(shape), self.deltas + 1
        by_level = np.bincount(self.level * size + bucket, values.numpy(), levels * size)
        sums = torch.from_numpy(by_level).view(levels, *shape)
        for level in range(levels - 1, 1, -1):
            sums[level - 1] += sums[level]
        return sums[1:].to(values.dtype)


def supports_multi_delta(spec: MapSpec) -> bool:
    """Whether a spec's maps of many δ come from one pass: truncated gradients, default options."""
    weighting = get_weighting(spec.weighting)
    if not weighting.multi_delta or spec.form != "gradient":
        return False
    defaults = weighting.options()
    return defaults | dict(spec.options) == defaults


def multi_delta_maps(
    layer: Layer, deltas: Sequence[float], scope: str, names: Iterable[str]
) -> dict[str, Tensor]:
    """A layer's maps by weighting, (D, N, h, w) each.

    One image after another, so that only one's entries are held at a time.

    Args:
        layer: As captured, on the CPU.
        deltas: D ascending δ.
        scope: See `truncation.thresholds`.
        names: Weightings that are marked `multi_delta`.
    """
    assert layer.g is not None
    maps: dict[str, list[Tensor]] = {name: [] for name in names}
    for n in range(len(layer.g)) if maps else ():
        image = slice(n, n + 1)
        single = Layer(
            layer.name,
            None if layer.A is None else layer.A[image],
            layer.g[image],
            b=layer.b if layer.b is None or layer.b.ndim == 3 else layer.b[image],
        )
        gradients = PositiveGradients(single, deltas, scope)
        for name, images in maps.items():
            images.append(gradients.map(get_weighting(name)(gradients)))
    return {name: torch.cat(images, dim=1) for name, images in maps.items()}
