"""What ReLUs let through in the backward pass, where that is not their derivative.

Our readings of two papers of which abstracts alone were at hand; `docs/kin.md` says what they rest
on. The forward pass stays as it is, so activations and logits are those of the network.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from ltcam_cli.maps.forwards import to_float32
from ltcam_cli.maps.spec import BackwardRule
from ltcam_cli.maps.truncation import thresholds


@dataclass(frozen=True)
class _Call:
    """A call of a ReLU: where its slope ends (6 of a ReLU6), and whether it changes its input."""

    top: float
    inplace: bool


def _relu(input: Tensor, inplace: bool = False) -> _Call:
    return _Call(math.inf, inplace)


def _relu6(input: Tensor, inplace: bool = False) -> _Call:
    return _Call(6.0, inplace)


def _hardtanh(
    input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> _Call | None:
    return _Call(max_val, inplace) if min_val == 0 else None  # as `nn.ReLU6` calls it


def _relu_(input: Tensor) -> _Call:
    return _Call(math.inf, True)


# What a ReLU is called by, modules included, with how its arguments are read.
RELUS: dict[Callable[..., Any], Callable[..., _Call | None]] = {
    F.relu: _relu, torch.relu: _relu, Tensor.relu: _relu,
    torch.relu_: _relu_, Tensor.relu_: _relu_,
    F.relu6: _relu6, F.hardtanh: _hardtanh,
}  # fmt: skip


class RelusWith(TorchFunctionMode):
    """Within this context every ReLU, a module or a function, passes gradients back by a rule.

    With x the input of a ReLU, G = ∂y/∂ReLU(x) what arrives at it, and per image:

    - `filtered`: g = 1[x > 0] ∘ G, and of that what is at least the percentile of its positive
      values (`truncation.thresholds` of the whole tensor); the rest is 0. So shallow layers get
      what deep ones let through. Percentile 0 is guided back-propagation (Springenberg et al.
      2015, sec. 3.4). Reading of the filtering-guided back-propagation of Region-Aware CAM (2025).
    - `continuous`: σ(βx) ∘ G, the derivative of softplus(βx)/β in place of the step. Reading of
      the continuous gradient of CG-fusion CAM (2023).

    For a ReLU6 the step ends at 6: 1[0 < x < 6], and σ(βx) - σ(β(x - 6)).

    Attributes:
        count: ReLUs to which the rule applied: those of which a gradient was wanted.
    """

    def __init__(self, rule: BackwardRule) -> None:
        super().__init__()
        self.rule, self.count = rule, 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """A ReLU with our backward; everything else as it is."""
        kwargs = kwargs or {}
        call = RELUS[func](*args, **kwargs) if func in RELUS else None
        x = args[0] if args else kwargs.get("input")
        if call is None or not (torch.is_grad_enabled() and x.requires_grad):
            return func(*args, **kwargs)
        self.count += 1
        return _Relu.apply(x, call, self.rule)


class _Relu(torch.autograd.Function):
    """A ReLU forwards, a rule backwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, call: _Call, rule: BackwardRule) -> Tensor:
        """The input clipped to [0, top], in place if it was so called."""
        ctx.rule = rule
        ctx.save_for_backward(_slope(x, call.top, rule))
        if not call.inplace:
            return x.clamp(0, call.top)
        ctx.mark_dirty(x)
        return x.clamp_(0, call.top)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, G: Tensor) -> tuple[Tensor | None, ...]:
        """What passes."""
        [slope] = ctx.saved_tensors
        g = G * slope
        return (_filtered(g, ctx.rule.value) if ctx.rule.name == "filtered" else g), None, None


def _slope(x: Tensor, top: float, rule: BackwardRule) -> Tensor:
    """The ReLU's derivative, bool; or a smooth one, in [0, 1]."""
    if rule.name == "filtered":
        return (x > 0) & (x < top) if top < math.inf else x > 0
    slope = (rule.value * x).sigmoid_()
    return slope if top == math.inf else slope.sub_((rule.value * (x - top)).sigmoid_())


def _filtered(g: Tensor, percentile: float) -> Tensor:
    """g (N, …) without what is below the percentile of an image's positive values.

    A product, so that NaN and infinity are NaN still, and found; it is faster than `torch.where`.
    """
    channels_last = g.ndim == 4 and g.is_contiguous(memory_format=torch.channels_last)
    values = g.permute(0, 2, 3, 1) if channels_last else g  # their order does not matter
    threshold = thresholds(to_float32(values), [percentile], "layer")[0].to(g.dtype)
    return g.mul_(g >= threshold.view(-1, *[1] * (g.ndim - 1)))
