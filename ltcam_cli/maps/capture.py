"""One forward and one backward: activations A, gradients g, and the biases' share of the logit.

Parameters are frozen, and the graph begins at the shallowest layer that is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ltcam_cli.errors import LtcamError
from ltcam_cli.maps.backward import RelusWith
from ltcam_cli.maps.bias_terms import BiasTerms
from ltcam_cli.maps.forwards import Forwards, autocast, select_logit, to_float32
from ltcam_cli.maps.hooks import Recorder
from ltcam_cli.maps.layer import Capture, Layer
from ltcam_cli.maps.spec import BackwardRule, Target


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
    autocast_dtype: torch.dtype | None = None,
    backward: BackwardRule | None = None,
) -> Capture:
    """Run the model once forward, and once backward from the sum of y where gradients are needed.

    Args:
        model: Any CNN; call within `frozen`.
        x: (N, C, H, W) normalised input.
        target: Which logit.
        layers: Module names whose A and g are captured.
        gradients: Whether g is.
        biases: Whether the bias terms and the input's own term are.
        markers: Module names that divide the bias terms into stages.
        use_term: Makes something of each bias term as soon as its gradient is there, and may let
            go of it: all of a network's ∂y/∂z together take as much memory as its activations.
        autocast_dtype: Type that the network computes in where that is safe, e.g. torch.bfloat16;
            what is captured is float32 all the same. None: no autocast.
        backward: What ReLUs let through in the backward pass; None: what their derivative does.

    Raises:
        LtcamError: If a layer is unknown, called twice, not upstream of the logit, changed in
            place, if a gradient is no finite number, or if there is no ReLU for `backward`.
    """
    terms = BiasTerms(model, markers, use_term) if biases else None
    recorder = Recorder(model, layers, gradients, terms)
    with torch.inference_mode(False), torch.set_grad_enabled(gradients or biases):
        x = x.detach().clone().requires_grad_(biases)
        relus = RelusWith(backward) if backward else None
        with recorder, autocast(x, autocast_dtype), relus or nullcontext():
            logits = model(x.clone())  # which the model may change
        recorder.check()
        if relus and not relus.count:
            raise LtcamError(
                f"method.backward={backward}: no ReLU between layer {next(iter(layers), 'input')} "
                "and the logit; add shallower layers, or use backward=exact"
            )
        logits = to_float32(logits)
        y = select_logit(logits, target)
        forwards = Forwards(model, target, autocast_dtype)
        batch = Capture(x.detach(), logits.detach(), y.detach(), forwards)
        if terms:
            terms.batch = batch
        if gradients or biases:
            recorder.backward(y, x)
    return _result(batch, recorder, terms)


def _result(batch: Capture, recorder: Recorder, terms: BiasTerms | None) -> Capture:
    """The batch's capture with layers and terms, which refer to that without them."""
    g = {name: to_float32(values) for name, values in recorder.g.items()}
    finite = {name or "input": torch.isfinite(values.sum()) for name, values in g.items()}
    finite |= terms.finite if terms else {}
    if not batch.y.is_cuda and type(batch.y) is Tensor:  # and not only recorded
        check_finite(finite)
    layers = {
        name: Layer(name, to_float32(A.detach()), g.get(name), batch)
        for name, A in recorder.A.items()
    }
    recorder.release()
    return replace(
        batch,
        layers=layers,
        terms=terms.results() if terms else [],
        input=Layer("input", None, g[""], batch, batch.x) if "" in g else None,
        finite=finite,
    )


def check_finite(finite: Mapping[str, Tensor]) -> None:
    """Refuse gradients that are no finite numbers.

    Raises:
        LtcamError: Naming the layer.
    """
    for name, flag in finite.items():
        if not flag:
            raise LtcamError(
                f"layer {name}: its gradient has NaN or infinite values; "
                "train the classifier with a lower trainer.lr"
            )


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Eval mode and parameters without gradients; everything as it was afterwards."""
    training = {module: module.training for module in model.modules()}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.eval()
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, mode in training.items():
            module.training = mode
        for parameter in trainable:
            parameter.requires_grad_(True)
