"""How much each channel, or each position, counts: the one thing in which CAM methods differ.

A weighting is a function of a `Layer` that returns

- (N, K) one weight a channel:      M = ReLU(Σ_k w_k A^k),
- (N, K, h, w) local weights:       M = ReLU(Σ_k w^k ∘ A^k), or
- (N, h, w) the finished map M,

registered under a name, with what it needs of the capture:

    @weighting("strongest", needs={"A", "g"})
    def strongest(layer: Layer) -> Tensor:
        return layer.g.amax(dim=(2, 3))

Importing this module imports no torch: names, needs and options are known without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from ltcam_cli.errors import LtcamError
from ltcam_cli.maps.normalize import min_max
from ltcam_cli.parts import checked_options, find_part, options_of

if TYPE_CHECKING:
    from torch import Tensor

    from ltcam_cli.maps.layer import Capture, Layer

NEEDS = frozenset({"A", "g", "biases", "forwards"})
Percentile = Annotated[float, Field(ge=0, le=100)]
Channels = Annotated[int, Field(ge=1, le=65536)]


@dataclass(frozen=True)
class Weighting:
    """A weighting function and what it needs.

    Attributes:
        name: Name by which specs ask for it.
        function: Function of a `Layer`, and of its options by keyword.
        needs: Some of `NEEDS`; `biases` brings ∂y/∂z and b of every convolution and the input's
            gradient, `forwards` further runs of the model.
        multi_delta: Whether it sums over g by the methods of `Layer` alone, with default options,
            so that one pass over the positive gradients gives the maps of many δ.
    """

    name: str
    function: Callable[..., Tensor]
    needs: frozenset[str]
    multi_delta: bool = False

    def __call__(self, layer: Layer, **options: Any) -> Tensor:
        """Weights, or the finished map, of a layer."""
        return self.function(layer, **options)

    @property
    def reads_gradients(self) -> bool:
        """Whether truncation can act."""
        return bool(self.needs & {"g", "biases"})

    def options(self) -> dict[str, Any]:
        """Names and default values of the function's options."""
        return {name: each.default for name, each in (options_of(self.function) or {}).items()}

    def check(self, options: dict[str, Any]) -> None:
        """Refuse options that do not exist.

        Raises:
            LtcamError: Naming the option, and what is allowed.
        """
        checked_options("method.options", self.name, self.function, options)


_REGISTRY: dict[str, Weighting] = {}


def weighting(
    name: str, needs: Iterable[str], *, multi_delta: bool = False
) -> Callable[[Callable[..., Tensor]], Weighting]:
    """Register a weighting function under a name; a later one of that name replaces it."""
    if unknown := set(needs) - NEEDS:
        raise ValueError(f"unknown needs {unknown}")

    def register(function: Callable[..., Tensor]) -> Weighting:
        _REGISTRY[name] = Weighting(name, function, frozenset(needs), multi_delta)
        return _REGISTRY[name]

    return register


def get_weighting(name: str) -> Weighting:
    """Weighting of a name: registered, `module:function`, or an entry point `ltcam.weightings`.

    Raises:
        LtcamError: If there is none, or it cannot be imported.
    """
    if name not in _REGISTRY:
        part: Any = find_part("method.weighting", name, _REGISTRY, "ltcam.weightings")
        if not isinstance(part, Weighting):
            raise LtcamError(
                f"method.weighting={name}: is no weighting; decorate the function with "
                "@ltcam_cli.weighting(NAME, needs={'A', 'g'})"
            )
        _REGISTRY[name] = part
    return _REGISTRY[name]


def combine(weights: Tensor, A: Tensor | None) -> Tensor:
    """The layer's map (N, h, w) from weights in one of the three shapes (module docstring)."""
    import torch

    if weights.ndim == 3:
        return weights
    assert A is not None
    pattern = "nk,nkhw->nhw" if weights.ndim == 2 else "nkhw,nkhw->nhw"
    return torch.einsum(pattern, weights, A).relu()


@weighting("gradcam", needs={"A", "g"}, multi_delta=True)
def gradcam(layer: Layer) -> Tensor:
    """w_k = mean_ij g_ij, over all positions (Selvaraju et al. 2017, eq. 1; the paper's eq. 2)."""
    assert layer.g is not None
    return layer.mean(layer.g)


@weighting("gradcampp", needs={"A", "g"}, multi_delta=True)
def gradcampp(layer: Layer) -> Tensor:
    """w_k = Σ_ij α_ij ReLU(g_ij) with α_ij = 1/(2 + g_ij Σ_ab A_ab) where g_ij > 0.

    Chattopadhyay et al. 2018, eq. 19: g²/(2g² + g³ΣA), reduced by g² so that small gradients do
    not underflow; e^S, a constant per image, is dropped. 0 where the denominator is not positive.
    """
    A, g = layer.A, layer.g
    assert A is not None and g is not None
    denominator = (g * layer.at(A.sum(dim=(2, 3), keepdim=True))).add_(2)
    left_out = (denominator <= 0) | (g <= 0)
    return layer.sum(denominator.reciprocal_().mul_(g).masked_fill_(left_out, 0))


@weighting("xgradcam", needs={"A", "g"}, multi_delta=True)
def xgradcam(layer: Layer) -> Tensor:
    """w_k = Σ_ij g_ij A_ij / Σ_ij A_ij, 0 where ΣA is 0 (Fu et al. 2020, eq. 8)."""
    A, g = layer.A, layer.g
    assert A is not None and g is not None
    total = A.sum(dim=(2, 3))
    return (layer.sum(g * layer.at(A)) / total).where(total != 0, 0)


@weighting("layercam", needs={"A", "g"}, multi_delta=True)
def layercam(layer: Layer) -> Tensor:
    """w_ij = ReLU(g_ij) (Jiang et al. 2021; the paper's eq. 4 and 5)."""
    assert layer.g is not None
    return layer.g.relu()


@weighting("hirescam", needs={"A", "g"}, multi_delta=True)
def hirescam(layer: Layer) -> Tensor:
    """w_ij = g_ij (Draelos and Carin 2020); of truncated gradients it is LayerCAM."""
    assert layer.g is not None
    return layer.g


@weighting("regioncam", needs={"A", "g"})
def regioncam(layer: Layer, percentile: Percentile = 90.0) -> Tensor:
    """w_k = mean of g_ij over the salient region R, where S_ij is at least its percentile.

    S = Σ_k ReLU(g^k) ∘ A^k is LayerCAM's map; the percentile is of its positive values. 0 where S
    has none. Our reading of the region weighting of Region-Aware CAM (2025), of which an abstract
    alone was at hand.

    Args:
        layer: As captured.
        percentile: 0: wherever S is positive; 100: at its maximum.
    """
    from ltcam_cli.maps.truncation import thresholds

    A, g = layer.A, layer.g
    assert A is not None and g is not None
    salience = combine(g.relu(), A)[:, None]  # (N, 1, h, w)
    region = salience >= thresholds(salience, [percentile], "layer")[0]
    return (g * region).sum(dim=(2, 3)) / region.sum(dim=(2, 3)).clamp_min(1)


@weighting("eigencam", needs={"A"})
def eigencam(layer: Layer) -> Tensor:
    """M = ReLU(±Σ_k v_k (A^k - mean A^k)), v the first principal component of the positions.

    Muhammad and Yeasin 2020, of centred activations as in pytorch-grad-cam. A component's sign is
    arbitrary: the value of greatest size is positive (Chung and Ying 2025, eq. 13). 0 where the
    activations differ by rounding alone. The target has no influence.
    """
    import torch

    A = layer.A
    assert A is not None
    positions = A.to(torch.promote_types(A.dtype, torch.float32)).flatten(2)  # (N, K, h·w)
    centred = positions - positions.mean(dim=2, keepdim=True)
    rounding = torch.finfo(A.dtype).eps * positions.norm(dim=(1, 2))
    _, S, V = torch.linalg.svd(centred, full_matrices=False)
    M = (S[:, :1] * V[:, 0]).where(S[:, :1] > rounding[:, None], 0)  # (N, h·w)
    M = torch.where(-M.amin(dim=1, keepdim=True) > M.amax(dim=1, keepdim=True), -M, M)
    return M.relu().view(len(A), *A.shape[2:])


@weighting("ablationcam", needs={"A", "forwards"})
def ablationcam(layer: Layer, batch: Channels | None = None) -> Tensor:
    """w_k = (y - y with channel k set to 0) / |y| (Ramaswamy et al. 2020, eq. 2).

    The original divides by y, which turns the map over where y < 0.

    Args:
        layer: As captured.
        batch: Channels of one forward; None: see `_forwards_at_once`.
    """
    import torch

    A, capture = layer.A, layer.capture
    assert A is not None and capture is not None
    batch = _forwards_at_once(capture) if batch is None else batch
    without = torch.stack(
        [
            capture.forwards.ablated(layer.name, x[None], image[None], batch)
            for x, image in zip(capture.x, A, strict=True)
        ]
    )
    y = capture.y[:, None]
    return (y - without) / y.abs().clamp_min(torch.finfo(A.dtype).eps)


@weighting("scorecam", needs={"A", "forwards"})
def scorecam(layer: Layer, batch: Channels | None = None) -> Tensor:
    """w = softmax_k(y(x ∘ H_k) - y(0)), H_k the up-scaled A^k between 0 and 1.

    Wang et al. 2020, eq. 7 to 9; the baseline image is 0, and as a constant it drops out of the
    softmax. A constant channel has H = 0: all of them share one forward.

    Args:
        layer: As captured.
        batch: Channels of one forward; None: see `_forwards_at_once`.
    """
    import torch
    import torch.nn.functional as F

    A, capture = layer.A, layer.capture
    assert A is not None and capture is not None
    batch = _forwards_at_once(capture) if batch is None else batch
    size = capture.x.shape[-2:]
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


@weighting("fullgrad", needs={"biases"}, multi_delta=True)
def fullgrad(layer: Layer, normalize_scope: Literal["layer", "channel"] = "layer") -> Tensor:
    """M = Σ_k Ψ(∂y/∂z^k · b_k), Ψ = min-max of the absolute value (the paper's eq. 6 and 7).

    Args:
        layer: A term of biases, or the input's own term, where b = x.
        normalize_scope: Min-max over the `layer`, as FullGrad's authors do, or each `channel`, as
            eq. 7 reads literally.
    """
    assert layer.g is not None and layer.b is not None
    dim = {"layer": (1, 2, 3), "channel": (2, 3)}[normalize_scope]
    return layer.sum_normalized((layer.g * layer.at(layer.b)).abs_(), dim)
