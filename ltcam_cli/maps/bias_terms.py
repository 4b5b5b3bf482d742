"""The biases' share of the logit: hooks on every convolution and batch norm.

y = Σ x·∂y/∂x + Σ_l b_l·∂y/∂z_l of a network that is linear between its ReLUs (Srinivas and Fleuret
2019, eq. 4). A batch norm that reads a convolution's output takes its bias over: one term for both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ltcam_cli.errors import LtcamError
from ltcam_cli.maps.forwards import to_float32
from ltcam_cli.maps.layer import Capture, Layer
from ltcam_cli.maps.stages import submodule


@dataclass
class _Convolution:
    """The last convolution that ran, with the gradient hook of its term."""

    name: str
    output: Tensor
    version: int
    handle: RemovableHandle

    def gave(self, x: Tensor) -> bool:
        """Whether x is its output, and nothing has changed it in place."""
        return x is self.output and x._version == self.version


class BiasTerms:
    """Biases and gradients ∂y/∂z of the convolutions and batch norms of one forward.

    Attributes:
        batch: Capture that the terms refer to; to be set before the backward pass.
        finite: Whether each term's gradient is finite, by module name.
    """

    def __init__(
        self, model: nn.Module, markers: Sequence[str], use_term: Callable[[Layer], Any]
    ) -> None:
        """Hooks of a model's modules; `markers` and `use_term`: see `capture`."""
        self.modules = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, (nn.Conv2d, nn.BatchNorm2d))
        }
        self.markers = {name: submodule(model, name) for name in markers}
        self.use_term = use_term
        self.batch: Capture | None = None
        self.finite: dict[str, Tensor] = {}
        self._biases: dict[str, Tensor] = {}  # by term name, in the order of execution
        self._results: dict[str, Any] = {}
        self._stages: dict[str, str] = {}
        self._last: _Convolution | None = None

    def register(self) -> Iterator[RemovableHandle]:
        """Register all forward hooks."""
        for name, module in self.modules.items():
            yield module.register_forward_hook(self._module_hook(name))
        for name, marker in self.markers.items():
            yield marker.register_forward_hook(self._marker_hook(name))

    def follow_copy(self, output: Tensor, copy: Tensor) -> None:
        """Let a batch norm that reads the copy of a convolution's output take its bias over."""
        if self._last and self._last.gave(output):
            self._last = replace(self._last, output=copy, version=copy._version)

    def forget_outputs(self) -> None:
        """Let go of the last convolution's output, after the forward."""
        self._last = None

    def results(self) -> list[Any]:
        """Results of `use_term`, in the order of execution."""
        return [self._results[name] for name in self._biases if name in self._results]

    def _module_hook(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            bias = _bias(module, output)
            if isinstance(module, nn.BatchNorm2d):
                if self._last and self._last.gave(inputs[0]):  # one term a layer
                    self._last.handle.remove()
                    bias = bias + _scale(module) * self._biases.pop(self._last.name)
                self._last = None
            if name in self._biases:
                raise LtcamError(f"layer {name}: is called twice; fullgrad cannot tell its terms")
            handle = output.register_hook(self._gradient_hook(name))
            self._biases[name] = bias
            if isinstance(module, nn.Conv2d):
                self._last = _Convolution(name, output, output._version, handle)

        return hook

    def _gradient_hook(self, name: str) -> Callable[[Tensor], None]:
        def hook(g: Tensor) -> None:
            g, stage = to_float32(g.detach()), self._stages.get(name, "")
            self.finite[name] = torch.isfinite(g.sum())  # NaN and infinity pass through a sum
            term = Layer(name, None, g, self.batch, self._biases[name], stage)
            with torch.no_grad():
                self._results[name] = self.use_term(term)

        return hook

    def _marker_hook(self, name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            for term in self._biases:
                self._stages.setdefault(term, name)

        return hook


def _scale(norm: nn.BatchNorm2d) -> Tensor:
    """γ / √(σ² + ε), (K, 1, 1)."""
    assert norm.running_var is not None
    scale = (norm.running_var + norm.eps).rsqrt()
    return (scale if norm.weight is None else scale * norm.weight.detach()).view(-1, 1, 1)


def _bias(module: nn.Module, output: Tensor) -> Tensor:
    """What the layer adds wherever its input is 0, (K, 1, 1)."""
    zero = to_float32(output.new_zeros(output.shape[1], 1, 1))
    bias = getattr(module, "bias", None)
    bias = zero if bias is None else bias.detach().view(-1, 1, 1)
    if not isinstance(module, nn.BatchNorm2d):
        return bias
    if module.running_mean is None:
        raise LtcamError("fullgrad needs batch norms that track running statistics")
    return bias - _scale(module) * module.running_mean.view(-1, 1, 1)
