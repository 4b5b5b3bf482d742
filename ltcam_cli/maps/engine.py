"""Images and a list of specs -> a heatmap per image and spec, from one forward and backward."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from ltcam_cli.errors import LtcamError, nearest
from ltcam_cli.maps.capture import (
    Capture,
    Layer,
    Target,
    capture,
    check_finite,
    frozen,
    stages_of,
    submodule,
)
from ltcam_cli.maps.fusion import fuse
from ltcam_cli.maps.spec import Fusion, MapSpec
from ltcam_cli.maps.sweep import can_sweep, swept
from ltcam_cli.maps.truncation import keep, thresholds
from ltcam_cli.maps.weightings import combine, get_weighting


@dataclass(frozen=True)
class Heatmaps:
    """What a source gives for one batch.

    Attributes:
        maps: one (N, H, W) a cell, at the size of the images, as the source's cells are listed.
        logits: (N, L) of the classifier.
        finite: by layer, whether the gradient was; to be checked on the host.
    """

    maps: list[Tensor]
    logits: Tensor
    finite: dict[str, Tensor] = field(default_factory=dict)

    def to_host(self) -> Heatmaps:
        """The same in the host's memory, as float32; from a GPU all in one copy.

        Raises:
            LtcamError: if a gradient was no finite number.
        """
        return self.copied() if self.logits.is_cuda else self

    def copied(self) -> Heatmaps:
        """See `to_host`."""
        finite = [flag[None] for flag in self.finite.values()]
        parts = [part.float() for part in (self.logits, *self.maps, *finite)]
        copied = (
            torch.cat([part.flatten() for part in parts]).cpu().split([p.numel() for p in parts])
        )
        logits, *rest = (flat.view(p.shape) for flat, p in zip(copied, parts, strict=True))
        check_finite(dict(zip(self.finite, rest[len(self.maps) :], strict=True)))
        return Heatmaps(rest[: len(self.maps)], logits)


FULL = "full"
Size = tuple[int, int] | str | None


class HeatmapSource(Protocol):
    """Normalised images (N, C, H, W) -> heatmaps: a CAM engine, or a network that draws masks.

    One that wants images of another size than the network's input says so: see `wanted_size`.
    """

    def __call__(self, images: Tensor) -> Heatmaps:
        """Heatmaps of a batch."""
        ...


def wanted_size(source: HeatmapSource) -> Size:
    """A source's attribute `size`, if it has one.

    That is (height, width) of the images it wants, `FULL` for each image's own size, one image a
    batch, or None for the network's input.
    """
    return getattr(source, "size", None)


Placed = tuple[list[int | None], list[Tensor]]  # places of the layers, and their maps


class CamEngine:
    """The heatmap source of class activation maps."""

    def __init__(
        self, model: nn.Module, specs: Sequence[MapSpec], half: torch.dtype | None = None
    ) -> None:
        """Of a model and the cells wanted; `half`: see `capture`."""
        self.model, self.half = model, half
        self.specs = list(specs)
        self.layers = {spec: resolve_layers(model, spec) for spec in self.specs}
        self.fusions = {
            spec: resolve_weights(model, spec, layers) for spec, layers in self.layers.items()
        }

    def __call__(self, images: Tensor) -> Heatmaps:
        """Heatmaps of normalised images (N, C, H, W); the model is left as it was found.

        Raises:
            LtcamError: see `capture`.
        """
        size = (images.shape[-2], images.shape[-1])
        maps: dict[MapSpec, Tensor] = {}
        logits, finite = torch.empty(0), dict[str, Tensor]()
        with frozen(self.model):
            for target in dict.fromkeys(spec.target for spec in self.specs):
                specs = [spec for spec in self.layers if spec.target == target]  # each once
                seen = self._capture(images, target, specs)
                logits = seen.logits
                finite |= seen.finite
                with torch.no_grad():
                    for spec, (places, drawn) in self._layer_maps(seen, specs).items():
                        maps[spec] = fuse(drawn, size, self.fusions[spec], places)
        return Heatmaps([maps[spec] for spec in self.specs], logits, finite)

    def _capture(self, images: Tensor, target: Target, specs: Sequence[MapSpec]) -> Capture:
        """One capture with the union of what the specs' weightings need."""
        needs = frozenset().union(*(get_weighting(spec.weighting).needs for spec in specs))
        names = dict.fromkeys(
            name
            for spec in specs
            if "A" in get_weighting(spec.weighting).needs
            for name in self.layers[spec]
        )
        return capture(
            self.model,
            images,
            target,
            tuple(names),
            gradients="g" in needs,
            biases="biases" in needs,
            markers=_stages(self.model) if "biases" in needs else (),
            use_term=lambda term: (term.stage, _drawn(term, self._readers(term, specs))),
            half=self.half,
        )

    def _layer_maps(self, seen: Capture, specs: Sequence[MapSpec]) -> dict[MapSpec, Placed]:
        """Each spec's maps, layer by layer; specs that read a layer share its truncation."""
        drawn = [(n, _drawn(la, self._readers(la, specs))) for n, la in seen.layers.items()]
        drawn += seen.terms  # drawn while the gradients came
        if seen.input is not None:
            drawn.append(("", _drawn(seen.input, self._readers(seen.input, specs))))
        result: dict[MapSpec, Placed] = {}
        for spec in specs:
            place = {name: number for number, name in enumerate(self.layers[spec])}
            mine = [(place.get(name), maps[spec]) for name, maps in drawn if spec in maps]
            if not mine:
                raise LtcamError(f"method.layers={'+'.join(spec.layers)}: no convolution there")
            result[spec] = [number for number, _ in mine], [M for _, M in mine]
        return result

    def _readers(self, layer: Layer, specs: Sequence[MapSpec]) -> list[MapSpec]:
        """The specs that read a layer, or a term of biases."""
        if layer.b is None:
            return [s for s in specs if "A" in get_weighting(s.weighting).needs
                    and layer.name in self.layers[s]]  # fmt: skip
        return [
            spec
            for spec in specs
            if "biases" in get_weighting(spec.weighting).needs
            and (spec.layers == ("all",) or layer.stage in self.layers[spec])
        ]


def explain(
    model: nn.Module,
    images: Tensor,
    specs: Sequence[MapSpec],
    target: Target | None = None,
) -> list[Tensor]:
    """Heatmaps of images, one forward and one backward for all specs of one target.

    Args:
        model: any CNN whose feature maps are (N, K, h, w).
        images: (N, C, H, W), normalised, on the model's device.
        specs: what is wanted; layers by module name, or s1.. where the model has `stages`.
        target: overrides the specs' own.

    Returns:
        For each spec (N, H, W), before any threshold; zeros where nothing speaks for the target.

    Raises:
        LtcamError: if a layer, target or option does not exist.
    """
    if target is not None:
        specs = [replace(spec, target=target) for spec in specs]
    found = CamEngine(model, specs)(images)
    check_finite(found.finite)
    return found.maps


def resolve_layers(model: nn.Module, spec: MapSpec) -> tuple[str, ...]:
    """Module names of a spec's layers; of `all` and `last` by the model's `stages`.

    Raises:
        LtcamError: with the nearest name if there is no such layer.
    """
    stages = stages_of(model)
    ordered = _stages(model)
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
        LtcamError: if there are not as many, a name is none of the layers', or all are 0.
    """
    fusion, stages = spec.fusion, stages_of(model)
    if fusion.weights is None:
        return fusion
    of_layers = "+".join(spec.layers)
    if not isinstance(fusion.weights[0], tuple):
        if len(fusion.weights) != len(layers):
            raise LtcamError(
                f"method.fusion.weights: {len(fusion.weights)} numbers for the {len(layers)} "
                f"layers of {of_layers}; give one a layer, or by name such as {{s1:0.5}}"
            )
        return fusion
    weights = dict.fromkeys(layers, 1.0)
    for name, weight in fusion.weights:
        if stages.get(name, name) not in weights:
            known = [short for short, full in stages.items() if full in weights]
            raise LtcamError(
                f"method.fusion.weights: {name} is none of the layers of {of_layers}"
                f"{nearest(name, known or layers)}"
            )
        weights[stages.get(name, name)] = weight
    if not any(weights.values()):
        raise LtcamError("method.fusion.weights: all are 0; give one layer at least a weight")
    return replace(fusion, weights=tuple(weights.values()))


def layer_map(layer: Layer, cut: Tensor | None, spec: MapSpec) -> Tensor:
    """A layer's map (N, h, w).

    Args:
        layer: as captured.
        cut: its truncated gradient, or None for no truncation.
        spec: weighting, form and options.
    """
    weigh = get_weighting(spec.weighting).function
    options = dict(spec.options)
    if cut is None:
        return combine(weigh(layer, **options), layer.A)
    if spec.form == "gradient":
        return combine(weigh(replace(layer, g=cut), **options), layer.A)
    assert layer.A is not None
    w = weigh(layer, **options)[:, :, None, None]
    masked = (w * (layer.A * (cut > 0))).sum(dim=1)  # eq. 11: T masks A, the weight stays whole
    return masked.relu() if spec.form == "mask_relu" else masked


def _drawing(spec: MapSpec) -> MapSpec:
    """What of a spec decides a layer's map: all but layers and fusion, by which maps are shared."""
    return replace(spec, layers=("last",), fusion=Fusion())


def _drawn(layer: Layer, specs: Sequence[MapSpec]) -> dict[MapSpec, Tensor]:
    """The layer's map for each spec."""
    maps = dict(_each_drawn(layer, dict.fromkeys(map(_drawing, specs))))
    return {spec: maps[_drawing(spec)] for spec in specs}


def _each_drawn(layer: Layer, drawings: Iterable[MapSpec]) -> Iterator[tuple[MapSpec, Tensor]]:
    """The layer's map of each drawing; one sort a scope, and one pass for all its δ."""
    truncated: dict[str, list[MapSpec]] = {}
    for drawing in drawings:
        if drawing.delta is None or layer.is_input:
            yield drawing, layer_map(layer, None, drawing)
        else:
            truncated.setdefault(drawing.scope, []).append(drawing)
    for scope, drawings in truncated.items():
        assert layer.g is not None
        deltas = sorted({drawing.delta for drawing in drawings if drawing.delta is not None})
        bounds = thresholds(layer.g, deltas, scope)
        together = len(deltas) > 1 and not layer.g.is_cuda
        names = {drawing.weighting for drawing in drawings if together and can_sweep(drawing)}
        found = swept(layer, bounds, sorted(names))
        for drawing in drawings:
            assert drawing.delta is not None
            number = deltas.index(drawing.delta)
            if drawing.weighting in found and can_sweep(drawing):
                yield drawing, found[drawing.weighting][number]
            else:
                yield drawing, layer_map(layer, keep(layer.g, bounds[number]), drawing)


def _stages(model: nn.Module) -> tuple[str, ...]:
    """Module names of s1..sN."""
    stages = stages_of(model)
    return tuple(stages[name] for name in sorted(stages) if name.startswith("s"))
