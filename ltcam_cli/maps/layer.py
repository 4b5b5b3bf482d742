"""What is captured of one batch, and the sums over a layer's gradient. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ltcam_cli.maps.normalize import min_max

if TYPE_CHECKING:
    from torch import Tensor

    from ltcam_cli.maps.forwards import Forwards


@dataclass
class Layer:
    """What a weighting may read of one layer.

    A weighting that sums over g by the methods `at`, `sum`, `mean` and `sum_normalized` alone is
    computed for many δ in one pass: `multi_delta` gives it the positive gradients as a `Layer`.

    Attributes:
        name: Module name.
        A: (N, K, h, w) activation; None for terms of biases.
        g: (N, K, h, w) gradient ∂y/∂A, or ∂y/∂z for terms of biases; None if it is not needed.
        capture: x, logits, y and forwards of its batch. Not its layers: in a circle of references
            all activations would wait for the garbage collector, batch upon batch.
        b: (K, 1, 1) bias of a term; for the input's own term, the input (N, K, H, W) itself.
        stage: First marked layer that comes after a term, or "".
    """

    name: str
    A: Tensor | None
    g: Tensor | None
    capture: Capture | None = None
    b: Tensor | None = None
    stage: str = ""

    @property
    def is_input(self) -> bool:
        """Whether it is the input's own term, which is never truncated."""
        return self.b is not None and self.b.ndim == 4

    def at(self, values: Tensor) -> Tensor:
        """Values (N, K, h, w), (N, K, 1, 1) or (K, 1, 1) at the entries of g."""
        return values

    def sum(self, values: Tensor) -> Tensor:
        """Σ_ij of values at the entries of g: (N, K)."""
        return values.sum(dim=(2, 3))

    def mean(self, values: Tensor) -> Tensor:
        """Σ_ij of values at the entries of g / (h·w): (N, K)."""
        return values.mean(dim=(2, 3))

    def sum_normalized(self, values: Tensor, dim: tuple[int, ...] = (1, 2, 3)) -> Tensor:
        """Σ_k of values at the entries of g, min-max normalised over `dim`: (N, h, w)."""
        return min_max(values, dim).sum(dim=1)


@dataclass
class Capture:
    """All that was read of one batch.

    Attributes:
        x: (N, C, H, W) input of the network.
        logits: (N, L).
        y: (N,) logit that is explained.
        forwards: Further runs of the model.
        layers: A and g by module name.
        terms: Results of `use_term`, one a bias term, in the order of execution.
        input: The input's own term, with g = ∂y/∂x and b = x.
        finite: Whether the gradient is finite, by layer. Checked at once on CPUs; on GPUs, where
            each look waits for the device, the flags travel to the host with the heatmaps.
    """

    x: Tensor
    logits: Tensor
    y: Tensor
    forwards: Forwards
    layers: dict[str, Layer] = field(default_factory=dict)
    terms: list[Any] = field(default_factory=list)
    input: Layer | None = None
    finite: dict[str, Tensor] = field(default_factory=dict)
