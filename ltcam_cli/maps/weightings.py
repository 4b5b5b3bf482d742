"""How much each channel, or each position, counts: the one thing in which CAM methods differ.

A weighting is a function of a `Layer` that returns

- (N, K) one weight a channel:      M = ReLU(Σ_k w_k A^k),
- (N, K, h, w) local weights:       M = ReLU(Σ_k w^k ∘ A^k), or
- (N, h, w) the finished map M,

registered under a name, with what it needs of the capture:

    @weighting("mine", needs={"A", "g"})
    def mine(layer: Layer) -> Tensor:
        return layer.g.amax(dim=(2, 3))
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ltcam_cli.errors import LtcamError, nearest
from ltcam_cli.maps.capture import Capture, Layer

NEEDS = frozenset({"A", "g", "biases", "forwards"})


@dataclass(frozen=True)
class Weighting:
    """A weighting function and what it needs.

    Attributes:
        name: by which specs ask for it.
        function: of a `Layer`, and of its options by keyword.
        needs: of `NEEDS`; `biases` brings ∂y/∂z and b of every convolution and the input's
            gradient, `forwards` further runs of the model.
    """

    name: str
    function: Callable[..., Tensor]
    needs: frozenset[str]

    @property
    def reads_gradients(self) -> bool:
        """Whether truncation can act."""
        return bool(self.needs & {"g", "biases"})

    def options(self) -> dict[str, Any]:
        """Names and default values of the function's options."""
        parameters = list(inspect.signature(self.function).parameters.values())[1:]
        return {parameter.name: parameter.default for parameter in parameters}


_REGISTRY: dict[str, Weighting] = {}


def weighting(
    name: str, needs: Iterable[str]
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Register a weighting function under a name; a later one of that name replaces it."""
    if unknown := set(needs) - NEEDS:
        raise ValueError(f"unknown needs {unknown}")

    def register(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        _REGISTRY[name] = Weighting(name, function, frozenset(needs))
        return function

    return register


def get_weighting(name: str) -> Weighting:
    """The weighting of that name.

    Raises:
        LtcamError: with the nearest name if there is none.
    """
    if name not in _REGISTRY:
        raise LtcamError(f"method.weighting={name}: no such weighting{nearest(name, _REGISTRY)}")
    return _REGISTRY[name]


def combine(weights: Tensor, A: Tensor | None) -> Tensor:
    """The layer's map (N, h, w) from weights in one of the three shapes (module docstring)."""
    if weights.ndim == 3:
        return weights
    assert A is not None
    pattern = "nk,nkhw->nhw" if weights.ndim == 2 else "nkhw,nkhw->nhw"
    return torch.einsum(pattern, weights, A).relu()


@weighting("gradcam", needs={"A", "g"})
def gradcam(layer: Layer) -> Tensor:
    """w_k = mean_ij g_ij, over all positions (Selvaraju et al. 2017, eq. 1; the paper's eq. 2)."""
    assert layer.g is not None
    return layer.g.mean(dim=(2, 3))


@weighting("gradcampp", needs={"A", "g"})
def gradcampp(layer: Layer) -> Tensor:
    """w_k = Σ_ij α_ij ReLU(g_ij) with α_ij = 1/(2 + g_ij Σ_ab A_ab) where g_ij > 0.

    Chattopadhyay et al. 2018, eq. 19: g²/(2g² + g³ΣA), reduced by g² so that small gradients do
    not underflow; e^S, a constant per image, is dropped. 0 where the denominator is not positive.
    """
    A, g = layer.A, layer.g
    assert A is not None and g is not None
    return gradcampp_terms(g, A.sum(dim=(2, 3), keepdim=True)).sum(dim=(2, 3))


def gradcampp_terms(g: Tensor, total: Tensor) -> Tensor:
    """α ReLU(g) with α = 1/(2 + g ΣA), 0 where the denominator is not positive."""
    denominator = (g * total).add_(2)
    left_out = (denominator <= 0) | (g <= 0)
    return denominator.reciprocal_().mul_(g).masked_fill_(left_out, 0)


@weighting("xgradcam", needs={"A", "g"})
def xgradcam(layer: Layer) -> Tensor:
    """w_k = Σ_ij g_ij A_ij / Σ_ij A_ij, 0 where ΣA is 0 (Fu et al. 2020, eq. 8)."""
    A, g = layer.A, layer.g
    assert A is not None and g is not None
    total = A.sum(dim=(2, 3))
    return torch.where(total != 0, (g * A).sum(dim=(2, 3)) / total, 0)


@weighting("layercam", needs={"A", "g"})
def layercam(layer: Layer) -> Tensor:
    """w_ij = ReLU(g_ij) (Jiang et al. 2021; the paper's eq. 4 and 5)."""
    assert layer.g is not None
    return layer.g.relu()


@weighting("ablationcam", needs={"A", "forwards"})
def ablationcam(layer: Layer, batch: int | None = None) -> Tensor:
    """w_k = (y - y with channel k set to 0) / |y| (Ramaswamy et al. 2020, eq. 2).

    The original divides by y, which turns the map over where y < 0.

    Args:
        layer: as captured.
        batch: channels of one forward; None: see `_forwards_at_once`.
    """
    A, capture = layer.A, layer.capture
    assert A is not None
    batch = batch or _forwards_at_once(capture)
    without = torch.stack(
        [
            capture.forwards.ablated(layer.name, x[None], image[None], batch)
            for x, image in zip(capture.x, A, strict=True)
        ]
    )
    y = capture.y[:, None]
    return (y - without) / y.abs().clamp_min(torch.finfo(A.dtype).eps)


@weighting("scorecam", needs={"A", "forwards"})
def scorecam(layer: Layer, batch: int | None = None) -> Tensor:
    """w = softmax_k(y(x ∘ H_k) - y(0)), H_k the up-scaled A^k between 0 and 1.

    Wang et al. 2020, eq. 7 to 9; the baseline image is 0, and as a constant it drops out of the
    softmax. A constant channel has H = 0: all of them share one forward.

    Args:
        layer: as captured.
        batch: channels of one forward; None: see `_forwards_at_once`.
    """
    A, capture = layer.A, layer.capture
    assert A is not None
    size, batch = capture.x.shape[-2:], batch or _forwards_at_once(capture)
    live = A.amin(dim=(2, 3)) < A.amax(dim=(2, 3))
    y = A.new_empty(live.shape)
    if not live.all():
        y[~live] = capture.forwards(torch.zeros_like(capture.x[:1]))
    masked = capture.x.new_empty(batch, *capture.x.shape[1:])
    for image, x in enumerate(capture.x):
        alive = live[image].nonzero()[:, 0]
        for channels in alive.split(batch) if len(alive) else ():
            H = min_max(F.interpolate(A[image, channels][None], size, mode="bilinear")[0], (1, 2))
            torch.mul(x, H[:, None], out=masked[: len(channels)])
            y[image, channels] = capture.forwards(masked[: len(channels)])
    return y.softmax(dim=1)


def _forwards_at_once(capture: Capture) -> int:
    """Twice the captured images: without a graph they need no more memory than the capture did."""
    return 2 * len(capture.x)


@weighting("fullgrad", needs={"biases"})
def fullgrad(layer: Layer, normalize_scope: str = "layer") -> Tensor:
    """M = Σ_k Ψ(∂y/∂z^k · b_k), Ψ = min-max of the absolute value (the paper's eq. 6 and 7).

    Args:
        layer: a term of biases, or the input's own term, where b = x.
        normalize_scope: min-max over the `layer`, as FullGrad's authors do, or each `channel`, as
            eq. 7 reads literally.
    """
    assert layer.g is not None and layer.b is not None
    dim = {"layer": (1, 2, 3), "channel": (2, 3)}.get(normalize_scope)
    if dim is None:
        raise LtcamError(f"method.options.normalize_scope={normalize_scope}: layer or channel")
    return min_max((layer.g * layer.b).abs_(), dim=dim).sum(dim=1)


def min_max(values: Tensor, dim: tuple[int, ...]) -> Tensor:
    """(x - min) / (max - min) over `dim`; 0 where all values are equal."""
    low, high = values.amin(dim=dim, keepdim=True), values.amax(dim=dim, keepdim=True)
    return (values - low).div_(torch.where(high > low, high - low, 1))
