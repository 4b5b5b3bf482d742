"""One forward and one backward: activations A, gradients g, and the biases' share of the logit.

Parameters are frozen, and the graph begins at the shallowest layer that is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ltcam_cli.errors import LtcamError, nearest
from ltcam_cli.maps.tail import Tail, silenced, tail

Target = str | int

# Modules whose output nothing changes in place, as the models of torchvision are written. The
# output of any other is copied, so that A stays what it was.
UNTOUCHED = (nn.ReLU, nn.ReLU6, nn.MaxPool2d, nn.AvgPool2d)


@dataclass
class Layer:
    """What a weighting may read of one layer.

    Attributes:
        name: as asked for.
        A: (N, K, h, w) its output; None for terms of biases.
        g: (N, K, h, w) ∂y/∂A, or ∂y/∂z for terms of biases; None if nobody needs gradients.
        b: (K, 1, 1) bias of a term; for the input's own term, the input (N, K, H, W) itself.
        capture: x, logits, y and forwards of its batch. Not its layers: in a circle of references
            all activations would wait for the garbage collector, batch upon batch.
        stage: of a term, the first marked layer that came after it, or "".
    """

    name: str
    A: Tensor | None
    g: Tensor | None
    capture: Capture
    b: Tensor | None = None
    stage: str = ""

    @property
    def is_input(self) -> bool:
        """Whether it is the input's own term, which is never truncated."""
        return self.b is not None and self.b.ndim == 4


@dataclass
class Capture:
    """All that was read of one batch.

    Attributes:
        x: (N, C, H, W) input as the network got it.
        logits: (N, L).
        y: (N,) the logit that is explained.
        forwards: runs the model again.
        layers: by module name, A and g.
        terms: what was made of each bias term, in the order of execution.
        input: the input's own term, with g = ∂y/∂x and b = x.
        finite: by layer, whether its gradient is; checked here on CPUs, while on GPUs, where each
            look waits for the device, the flags travel to the host with the heatmaps.
    """

    x: Tensor
    logits: Tensor
    y: Tensor
    forwards: Forwards
    layers: dict[str, Layer] = field(default_factory=dict)
    terms: list[Any] = field(default_factory=list)
    input: Layer | None = None
    finite: dict[str, Tensor] = field(default_factory=dict)


def check_finite(finite: Mapping[str, Tensor]) -> None:
    """Refuse gradients that are no finite numbers.

    Raises:
        LtcamError: naming the layer.
    """
    for name, flag in finite.items():
        if not flag:
            raise LtcamError(
                f"layer {name}: its gradient has NaN or infinite values; "
                "train the classifier with a lower trainer.lr"
            )


def select_logit(logits: Tensor, target: Target) -> Tensor:
    """y (N,) of logits (N, L): `defect` the last, `margin` y_defect - y_good, or an index."""
    count = logits.shape[1]
    if target == "defect":
        return logits[:, -1]
    if target == "margin":
        return logits[:, -1] - logits[:, 0] if count == 2 else logits[:, -1]
    if isinstance(target, str):
        raise LtcamError(
            f"method.target={target}: unknown{nearest(target, ['defect', 'margin', 'an index'])}"
        )
    if not -count <= target < count:
        raise LtcamError(f"method.target={target}: the model has logits 0..{count - 1}")
    return logits[:, target]


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Eval mode and parameters without gradients; everything as it was afterwards."""
    training = {module: module.training for module in model.modules()}
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.eval()
        for parameter in learnt:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, mode in training.items():
            module.training = mode
        for parameter in learnt:
            parameter.requires_grad_(True)


def capture(
    model: nn.Module,
    x: Tensor,
    target: Target,
    layers: Sequence[str] = (),
    *,
    gradients: bool = True,
    biases: bool = False,
    markers: Sequence[str] = (),
    use_term: Callable[[Layer], Any] = lambda term: term,
    half: torch.dtype | None = None,
) -> Capture:
    """Run the model once forward, and once backward from the sum of y where gradients are needed.

    Args:
        model: any CNN; call within `frozen`.
        x: (N, C, H, W) normalised input.
        target: which logit.
        layers: module names whose A and g are wanted.
        gradients: whether g is.
        biases: whether the bias terms and the input's own term are.
        markers: module names that divide the bias terms into stages.
        use_term: makes something of each bias term as soon as its gradient is there, and may let
            go of it: all of a network's ∂y/∂z together take as much memory as its activations.
        half: type that the network computes in where that is safe (autocast), e.g.
            torch.bfloat16; what is captured is float32 all the same.

    Raises:
        LtcamError: if a layer is unknown, called twice, not upstream of the logit, changed in
            place, or if a gradient is no finite number.
    """
    recorder = _Recorder(model, layers, gradients, biases, markers, use_term)
    with torch.inference_mode(False), torch.set_grad_enabled(gradients or biases):
        x = x.detach().clone().requires_grad_(biases)
        with recorder, lowered(x, half):
            logits = model(x.clone())  # which the model may change
        recorder.check()
        logits = _full(logits)
        y = select_logit(logits, target)
        of_batch = (x.detach(), logits.detach(), y.detach(), Forwards(model, target, half))
        recorder.batch = Capture(*of_batch)
        if gradients or biases:
            recorder.backward(y, x)
    return recorder.fill(Capture(*of_batch))


def lowered(x: Tensor, half: torch.dtype | None) -> torch.autocast:
    """Autocast to `half` on the device of x; nothing where that is None."""
    return torch.autocast(x.device.type, half or torch.bfloat16, enabled=half is not None)


def _full(values: Tensor) -> Tensor:
    """Half precision as float32."""
    return values.float() if values.dtype in {torch.bfloat16, torch.float16} else values


def submodule(model: nn.Module, name: str) -> nn.Module:
    """The module called `name`.

    Raises:
        LtcamError: with the nearest names if there is none.
    """
    modules = dict(model.named_modules())
    if name not in modules or not name:
        leaves = [n for n, m in modules.items() if n and not any(m.children())]
        known = [*stages_of(model), *leaves]
        raise LtcamError(f"layer {name}: the model has no such layer{nearest(name, known)}")
    return modules[name]


def stages_of(model: nn.Module) -> dict[str, str]:
    """Module names of s1.. p1..; none where the model calls something else its `stages`."""
    stages = getattr(model, "stages", None)
    return stages if isinstance(stages, dict) else {}


class Forwards:
    """Further runs of the model, without gradients."""

    def __init__(self, model: nn.Module, target: Target, half: torch.dtype | None = None) -> None:
        self.model, self.target, self.half = model, target, half
        self.tails: dict[str, Tail | None] = {}

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """y (M,) of images (M, C, H, W)."""
        with lowered(images, self.half):
            logits = self.model(images)
        return select_logit(_full(logits), self.target)

    @torch.no_grad()
    def ablated(self, layer: str, x: Tensor, A: Tensor, batch: int) -> Tensor:
        """y (K,) of one image when each channel of a layer in turn is 0.

        Only what follows the layer runs, where the model can be parted so.

        Args:
            layer: module name.
            x: (1, C, H, W), the image.
            A: (1, K, h, w), the layer's output for it.
            batch: channels of one run.
        """
        if layer not in self.tails:
            self.tails[layer] = tail(self.model, layer)
        if (after := self.tails[layer]) is not None:
            with lowered(A, self.half):
                logits = after.ablated(A, batch)
            return select_logit(_full(logits), self.target)
        return torch.cat([self._replaced(layer, x, each) for each in silenced(A, batch)])

    def _replaced(self, layer: str, x: Tensor, output: Tensor) -> Tensor:
        handle = submodule(self.model, layer).register_forward_hook(lambda *_: output)
        try:
            return self(x.repeat(len(output), 1, 1, 1))
        finally:
            handle.remove()


@dataclass
class _Convolution:
    """The last one that ran; a batch norm that reads its output takes its bias over."""

    name: str
    output: Tensor
    version: int
    handle: Any

    def gave(self, x: Tensor) -> bool:
        """Whether x is its output, and nothing has changed it in place."""
        return x is self.output and x._version == self.version


class _Recorder:
    """Forward hooks for the time of one forward, and what they saw."""

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str],
        gradients: bool,
        biases: bool,
        markers: Sequence[str],
        use_term: Callable[[Layer], Any],
    ) -> None:
        self.gradients = gradients
        self.layers = {name: submodule(model, name) for name in layers}
        self.markers = {name: submodule(model, name) for name in markers}
        self.affine: dict[str, nn.Module] = {
            name: module
            for name, module in model.named_modules()
            if biases and isinstance(module, (nn.Conv2d, nn.BatchNorm2d))
        }
        stages = set(stages_of(model).values())
        self.copied = {
            name
            for name, module in self.layers.items()
            if name not in stages and not isinstance(module, UNTOUCHED)
        }
        self.A: dict[str, Tensor] = {}
        self.g: dict[str, Tensor] = {}
        self.leaves: dict[str, Tensor] = {}
        self.versions: dict[str, int] = {}
        self.biases: dict[str, Tensor] = {}  # by term name, in the order of execution
        self.terms: dict[str, Any] = {}
        self.use_term = use_term
        self.batch: Capture | None = None
        self.stage_of: dict[str, str] = {}
        self.finite: dict[str, Tensor] = {}
        self._last: _Convolution | None = None

    def __enter__(self) -> None:
        self.handles = []
        for name, module in self.affine.items():
            self.handles.append(module.register_forward_hook(self._affine_hook(name)))
        for name, module in self.layers.items():
            self.handles.append(module.register_forward_hook(self._layer_hook(name)))
        for name, module in self.markers.items():
            self.handles.append(module.register_forward_hook(self._marker_hook(name)))

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        for handle in self.handles:
            handle.remove()
        self._last = None
        bare = [name for name in self.leaves if name not in self.copied]
        if bare and isinstance(error, RuntimeError) and "leaf Variable" in str(error):
            raise _changed(bare[-1]) from error

    def _layer_hook(self, name: str) -> Callable[..., Tensor]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            if not isinstance(output, Tensor) or output.ndim != 4:
                raise LtcamError(f"layer {name}: its output is no feature map (N, K, h, w)")
            if name in self.A:
                raise LtcamError(f"layer {name}: is called twice in one forward; choose another")
            if self.gradients and not output.requires_grad:
                output = output.detach().requires_grad_(True)  # the graph begins here
                self.leaves[name] = output
            elif self.gradients:
                output.register_hook(_store(self.g, name))
            self.A[name], self.versions[name] = output, output._version
            if name not in self.copied:
                return output
            copy = output.clone()
            if self._last and self._last.gave(output):
                self._last = replace(self._last, output=copy, version=copy._version)
            return copy

        return hook

    def _affine_hook(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            bias = _bias(module, output)
            if isinstance(module, nn.BatchNorm2d):
                if self._last and self._last.gave(inputs[0]):  # one term a layer
                    self._last.handle.remove()
                    bias = bias + _scale(module) * self.biases.pop(self._last.name)
                self._last = None
            if name in self.biases:
                raise LtcamError(f"layer {name}: is called twice; fullgrad cannot tell its terms")
            handle = output.register_hook(self._term_hook(name))
            self.biases[name] = bias
            if isinstance(module, nn.Conv2d):
                self._last = _Convolution(name, output, output._version, handle)

        return hook

    def _term_hook(self, name: str) -> Callable[[Tensor], None]:
        def hook(g: Tensor) -> None:
            assert self.batch is not None
            g, stage = _full(g.detach()), self.stage_of.get(name, "")
            self.finite[name] = torch.isfinite(g.sum())  # NaN and infinity pass through a sum
            term = Layer(name, None, g, self.batch, self.biases[name], stage)
            with torch.no_grad():
                self.terms[name] = self.use_term(term)

        return hook

    def _marker_hook(self, name: str) -> Callable[..., None]:
        def hook(*_: object) -> None:
            for term in self.biases:
                self.stage_of.setdefault(term, name)

        return hook

    def check(self) -> None:
        for name in self.layers:
            if name not in self.A:
                raise LtcamError(f"layer {name}: is not used in a forward; choose another")
            if self.A[name]._version != self.versions[name]:
                raise _changed(name)

    def backward(self, y: Tensor, x: Tensor) -> None:
        starts = {"": x, **self.leaves} if x.requires_grad else self.leaves
        if not y.requires_grad:
            name = next(iter(self.layers), "?")
            raise LtcamError(f"layer {name}: is not upstream of the logit; choose another")
        grads = torch.autograd.grad(y.sum(), list(starts.values()), allow_unused=True)
        self.g |= {n: g for n, g in zip(starts, grads, strict=True) if g is not None}
        self.g = {name: _full(g) for name, g in self.g.items()}
        for name in self.layers if self.gradients else ():
            if name not in self.g:
                raise LtcamError(f"layer {name}: is not upstream of the logit; choose another")
        finite = {name or "input": torch.isfinite(g.sum()) for name, g in self.g.items()}
        self.finite = finite | self.finite
        if not y.is_cuda:
            check_finite(self.finite)

    def fill(self, result: Capture) -> Capture:
        assert self.batch is not None
        for name, A in self.A.items():
            result.layers[name] = Layer(name, _full(A.detach()), self.g.get(name), self.batch)
        result.terms = [self.terms[name] for name in self.biases if name in self.terms]
        result.finite = self.finite
        if "" in self.g:
            result.input = Layer("input", None, self.g[""], self.batch, result.x)
        self.A, self.leaves = {}, {}  # whose graph's hooks refer to this recorder
        return result


def _changed(name: str) -> LtcamError:
    return LtcamError(f"layer {name}: is changed in place after it; choose the next one")


def _store(into: dict[str, Tensor], name: str) -> Callable[[Tensor], None]:
    def store(g: Tensor) -> None:
        into[name] = g.detach()

    return store


def _scale(norm: nn.BatchNorm2d) -> Tensor:
    """γ / √(σ² + ε), (K, 1, 1)."""
    assert norm.running_var is not None
    scale = (norm.running_var + norm.eps).rsqrt()
    return (scale if norm.weight is None else scale * norm.weight.detach()).view(-1, 1, 1)


def _bias(module: nn.Module, output: Tensor) -> Tensor:
    """What the layer adds wherever its input is 0, (K, 1, 1)."""
    zero = _full(output.new_zeros(output.shape[1], 1, 1))
    bias = getattr(module, "bias", None)
    bias = zero if bias is None else bias.detach().view(-1, 1, 1)
    if not isinstance(module, nn.BatchNorm2d):
        return bias
    if module.running_mean is None:
        raise LtcamError("fullgrad needs batch norms that track running statistics")
    return bias - _scale(module) * module.running_mean.view(-1, 1, 1)
