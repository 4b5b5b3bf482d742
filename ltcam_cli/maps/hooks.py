"""Forward hooks that record layers' activations and gradients, for the time of one forward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ltcam_cli.errors import LtcamError
from ltcam_cli.maps.bias_terms import BiasTerms
from ltcam_cli.maps.stages import stages_of, submodule

# Modules whose output nothing changes in place, as the models of torchvision are written. The
# output of any other is copied, so that A stays what it was.
NOT_CHANGED_IN_PLACE = (nn.ReLU, nn.ReLU6, nn.MaxPool2d, nn.AvgPool2d)


class Recorder:
    """Records A and g of layers; a context manager around the forward.

    Attributes:
        A: Activations by module name.
        g: Gradients by module name, after `backward`; of the input under "", if it has one.
    """

    def __init__(
        self, model: nn.Module, layers: Sequence[str], gradients: bool, terms: BiasTerms | None
    ) -> None:
        """Hooks of the named layers, beside those of bias terms."""
        self.gradients, self.terms = gradients, terms
        self.layers = {name: submodule(model, name) for name in layers}
        stages = set(stages_of(model).values())
        self.copied = {
            name
            for name, module in self.layers.items()
            if name not in stages and not isinstance(module, NOT_CHANGED_IN_PLACE)
        }
        self.A: dict[str, Tensor] = {}
        self.g: dict[str, Tensor] = {}
        self._leaves: dict[str, Tensor] = {}
        self._versions: dict[str, int] = {}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> None:
        if self.terms:  # first: a convolution's term is of its output before that is copied
            self._handles += self.terms.register()
        for name, module in self.layers.items():
            self._handles.append(module.register_forward_hook(self._hook(name)))

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        for handle in self._handles:
            handle.remove()
        if self.terms:
            self.terms.forget_outputs()
        not_copied = [name for name in self._leaves if name not in self.copied]
        if not_copied and isinstance(error, RuntimeError) and "leaf Variable" in str(error):
            raise _changed_in_place(not_copied[-1]) from error

    def _hook(self, name: str) -> Callable[..., Tensor]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            if not isinstance(output, Tensor) or output.ndim != 4:
                raise LtcamError(f"layer {name}: its output is no feature map (N, K, h, w)")
            if name in self.A:
                raise LtcamError(f"layer {name}: is called twice in one forward; choose another")
            if self.gradients and not output.requires_grad:
                output = output.detach().requires_grad_(True)  # the graph begins here
                self._leaves[name] = output
            elif self.gradients:
                output.register_hook(_store(self.g, name))
            self.A[name], self._versions[name] = output, output._version
            if name not in self.copied:
                return output
            copy = output.clone()
            if self.terms:
                self.terms.follow_copy(output, copy)
            return copy

        return hook

    def check(self) -> None:
        """Refuse layers that did not run, or were changed in place after it."""
        for name in self.layers:
            if name not in self.A:
                raise LtcamError(f"layer {name}: is not used in a forward; choose another")
            if self.A[name]._version != self._versions[name]:
                raise _changed_in_place(name)

    def backward(self, y: Tensor, x: Tensor) -> None:
        """Gradients of Σ y for the layers, and for x if it requires one."""
        starts = {"": x, **self._leaves} if x.requires_grad else self._leaves
        if not y.requires_grad:
            raise _not_upstream(next(iter(self.layers), "?"))
        gradients = torch.autograd.grad(y.sum(), list(starts.values()), allow_unused=True)
        self.g |= {name: g for name, g in zip(starts, gradients, strict=True) if g is not None}
        for name in self.layers if self.gradients else ():
            if name not in self.g:
                raise _not_upstream(name)

    def release(self) -> None:
        """Let go of the graph, whose hooks refer to this recorder."""
        self.A, self._leaves = {}, {}


def _changed_in_place(name: str) -> LtcamError:
    return LtcamError(f"layer {name}: is changed in place after it; choose the next one")


def _not_upstream(name: str) -> LtcamError:
    return LtcamError(f"layer {name}: is not upstream of the logit; choose another")


def _store(gradients: dict[str, Tensor], name: str) -> Callable[[Tensor], None]:
    def store(g: Tensor) -> None:
        gradients[name] = g.detach()

    return store
