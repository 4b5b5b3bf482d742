"""Names of a model's layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from ltcam_cli.errors import LtcamError, nearest
from ltcam_cli.maps.spec import Fusion, MapSpec
from ltcam_cli.maps.weightings import get_weighting


def submodule(model: nn.Module, name: str) -> nn.Module:
    """The module called `name`.

    Raises:
        LtcamError: With the nearest names if there is none.
    """
    modules = dict(model.named_modules())
    if name not in modules or not name:
        leaves = [n for n, m in modules.items() if n and not any(m.children())]
        names = [*stages_of(model), *leaves]
        raise LtcamError(f"layer {name}: the model has no such layer{nearest(name, names)}")
    return modules[name]


def stages_of(model: nn.Module) -> dict[str, str]:
    """Module names of s1.. p1..; none where the model calls something else its `stages`."""
    stages = getattr(model, "stages", None)
    return stages if isinstance(stages, dict) else {}


def main_stages(model: nn.Module) -> tuple[str, ...]:
    """Module names of s1..sN."""
    stages = stages_of(model)
    names = sorted((name for name in stages if name.startswith("s")), key=lambda n: (len(n), n))
    return tuple(stages[name] for name in names)


def resolve_layers(model: nn.Module, spec: MapSpec) -> tuple[str, ...]:
    """Module names of a spec's layers; of `all` and `last` by the model's `stages`.

    Raises:
        LtcamError: With the nearest name if there is no such layer.
    """
    stages, ordered = stages_of(model), main_stages(model)
    biases = "biases" in get_weighting(spec.weighting).needs
    names: list[str] = []
    for layer in spec.layers:
        if layer in {"all", "last"} and not ordered:
            if biases and layer == "all":
                continue
            raise LtcamError(
                f"method.layers={layer}: this model names no stages; give module names"
            )
        if biases and layer not in {"all", "last", *stages}:
            raise LtcamError(
                f"method.layers={layer}: {spec.weighting} takes all, last or stages"
                f"{nearest(layer, stages)}"
            )
        if layer == "all":
            names += ordered
        elif layer == "last":
            names.append(ordered[-1])
        elif layer in stages:
            names.append(stages[layer])
        else:
            submodule(model, layer)
            names.append(layer)
    return tuple(dict.fromkeys(names))


def resolve_weights(model: nn.Module, spec: MapSpec, layers: Sequence[str]) -> Fusion:
    """A spec's fusion with its weights as a number for each of the layers, by module name.

    Raises:
        LtcamError: If there are not as many, a name is none of the layers', or all are 0.
    """
    fusion, stages, spec_layers = spec.fusion, stages_of(model), "+".join(spec.layers)
    if fusion.weights is None:
        return fusion
    if not isinstance(fusion.weights[0], tuple):
        if len(fusion.weights) != len(layers):
            raise LtcamError(
                f"method.fusion.weights: {len(fusion.weights)} numbers for the {len(layers)} "
                f"layers of {spec_layers}; give one a layer, or by name such as {{s1:0.5}}"
            )
        return fusion
    weights = dict.fromkeys(layers, 1.0)
    for name, weight in fusion.weights:
        if stages.get(name, name) not in weights:
            names = [short for short, full in stages.items() if full in weights]
            raise LtcamError(
                f"method.fusion.weights: {name} is none of the layers of {spec_layers}"
                f"{nearest(name, names or layers)}"
            )
        weights[stages.get(name, name)] = weight
    if not any(weights.values()):
        raise LtcamError("method.fusion.weights: all are 0; give one layer at least a weight")
    return replace(fusion, weights=tuple(weights.values()))
