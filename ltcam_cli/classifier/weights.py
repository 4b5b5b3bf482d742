"""Weights of a network from torchvision or a file."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torchvision import models

from ltcam_cli.classifier.backbones import BACKBONES
from ltcam_cli.classifier.config import BackboneConfig
from ltcam_cli.classifier.tensors import read_tensors
from ltcam_cli.errors import LtcamError, nearest, require

log = logging.getLogger(__name__)

# Where trainings of others keep a state dict, and what they put before its keys: Lightning, torch's
# DataParallel and torch.compile.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
PREFIXES = ("model.", "module.", "_orig_mod.", "net.")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load_weights(model: nn.Module, config: BackboneConfig) -> None:
    """Fill a network from `config.weights`: its body, and of its head what fits; null: nothing.

    Raises:
        LtcamError: if the weights cannot be read or downloaded, are unsafe, or do not fit; the
            first misfit is named.
    """
    if config.weights is None:
        return
    published = _is_name(config.weights)
    if config.name == "timm":
        _load_timm(model, config, None if published else read_state(Path(config.weights)))
        return
    current = model.state_dict()
    state = published_state(config) if published else read_state(Path(config.weights))
    state = of_whole(state, current)
    body = [key for key in current if not key.startswith(BACKBONES[config.name].head)]
    source = f"backbone.weights={config.weights}"
    misfit = f"these are not weights of backbone={config.name}"
    check_fit(state, {key: current[key] for key in body}, source, misfit)
    fitting = {
        key: value
        for key, value in state.items()
        if key in current and value.shape == current[key].shape
    }
    model.load_state_dict(fitting, strict=False)
    log.info("%s: %d tensors of the backbone, %d of the head", source, len(body),
             len(fitting) - len(set(fitting) & set(body)))  # fmt: skip


def of_whole(state: dict[str, Tensor], expected: Collection[str]) -> dict[str, Tensor]:
    """A state dict with the keys of the whole network, where it is one of its `features` alone."""
    alone = set(state).isdisjoint(expected)
    return {f"features.{key}": value for key, value in state.items()} if alone else state


def _load_timm(model: nn.Module, config: BackboneConfig, state: dict[str, Tensor] | None) -> None:
    """Fill the body of a network of timm from a state dict of the whole; None: timm's own."""
    from ltcam_cli.classifier.timm_models import TimmClassifier, fitted_weights, published_weights

    assert isinstance(model, TimmClassifier)
    state = fitted_weights(model, state) if state else published_weights(model, config)
    wanted, source = model.body.state_dict(), f"backbone.weights={config.weights}"
    check_fit(state, wanted, source, f"these are not weights of backbone.model={config.model}")
    model.body.load_state_dict({key: state[key] for key in wanted if key in state}, strict=False)
    log.info("%s: %d tensors of the backbone", source, len(wanted))


def normalization(model: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of a network's published weights: timm's own, or ImageNet's."""
    from ltcam_cli.classifier.timm_models import TimmClassifier

    if isinstance(model, TimmClassifier):
        return model.mean, model.std
    return IMAGENET_MEAN, IMAGENET_STD


def check_fit(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str, misfit: str
) -> None:
    """Refuse a state dict that lacks an expected tensor or has it in another shape.

    Batch norms' counters of batches may be missing.

    Raises:
        LtcamError: naming the source, the first such tensor, and what the misfit means.
    """
    for key, value in expected.items():
        if key not in state:
            if key.endswith("num_batches_tracked"):
                continue
            raise LtcamError(f"{source}: has no {key}; {misfit}")
        if state[key].shape != value.shape:
            raise LtcamError(
                f"{source}: {key} has shape {tuple(state[key].shape)} instead of "
                f"{tuple(value.shape)}; {misfit}"
            )


def read_state(path: Path) -> dict[str, Tensor]:
    """State dict of a file; only tensors are unpickled.

    Accepts a bare state dict, or one below the `WRAPPERS`; `PREFIXES` of its keys are removed, and
    then what has none of them, such as a loss's weights, is left out.

    Raises:
        LtcamError: if the file is missing, unsafe, or holds no state dict.
    """
    if not path.is_file():
        raise LtcamError(f"{path}: no such weights; give a file, a torchvision name or null")
    if path.suffix == ".safetensors":
        state: Any = _safetensors(path)
    else:
        state = read_tensors(path, "give the model's state_dict() alone")
    while isinstance(state, dict) and (inner := [state[k] for k in WRAPPERS if _holds(state, k)]):
        state = inner[0]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise LtcamError(f"{path}: holds no state dict; save the model's state_dict()")
    while prefix := next((p for p in PREFIXES if any(key.startswith(p) for key in state)), None):
        state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return dict(state)


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return dict(require("safetensors.torch", "timm").load_file(path))
    except LtcamError:
        raise
    except Exception as error:  # of a kind of its own
        raise LtcamError(f"{path}: is damaged ({type(error).__name__}); get it anew") from error


def _holds(state: Mapping[str, Any], key: str) -> bool:
    return isinstance(state.get(key), dict)


def _is_name(weights: str) -> bool:
    return weights == "DEFAULT" or weights.startswith("IMAGENET")


def published_state(config: BackboneConfig) -> dict[str, Tensor]:
    """State dict of torchvision's weights, downloaded into its cache where they are not there.

    Raises:
        LtcamError: if there are no such weights, or they cannot be downloaded.
    """
    offline = "give a local file with backbone.weights=FILE, or train from scratch with null"
    if BACKBONES[config.name].last is None:
        raise LtcamError(
            f"backbone.weights={config.weights}: {config.name} has no published weights; {offline}"
        )
    try:
        weights = models.get_model_weights(config.name)[config.weights]
    except KeyError as error:
        names = [weight.name for weight in models.get_model_weights(config.name)]
        raise LtcamError(
            f"backbone.weights={config.weights}: torchvision has no such weights of {config.name}"
            f"{nearest(str(config.weights), names)}"
        ) from error
    try:
        return dict(weights.get_state_dict(progress=True))
    except (OSError, RuntimeError) as error:
        raise LtcamError(
            f"backbone.weights={config.weights}: cannot be downloaded ({error}); {offline}"
        ) from error
