"""Images and a list of specs -> a heatmap per image and spec, from one forward and backward."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Protocol

import torch
from torch import Tensor, nn

from ltcam_cli.errors import LtcamError
from ltcam_cli.maps.capture import capture, check_finite, frozen
from ltcam_cli.maps.fusion import Upscale, fuse, upscale
from ltcam_cli.maps.layer import Capture, Layer
from ltcam_cli.maps.multi_delta import multi_delta_maps, supports_multi_delta
from ltcam_cli.maps.spec import BackwardRule, MapSpec, Target
from ltcam_cli.maps.stages import main_stages, resolve_layers, resolve_weights
from ltcam_cli.maps.truncation import keep, thresholds
from ltcam_cli.maps.tta_config import Size
from ltcam_cli.maps.weightings import combine, get_weighting


@dataclass(frozen=True)
class Heatmaps:
    """What a source gives for one batch.

    Attributes:
        maps: One (N, H, W) a cell, at the size of the images, as the source's cells are listed.
        logits: (N, L) of the classifier.
        finite: Whether the gradient is finite, by layer; to be checked on the host.
    """

    maps: list[Tensor]
    logits: Tensor
    finite: dict[str, Tensor] = field(default_factory=dict)

    def to_host(self) -> Heatmaps:
        """The same in the host's memory, as float32; from a GPU all in one copy.

        Raises:
            LtcamError: If a gradient was no finite number.
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


class HeatmapSource(Protocol):
    """Normalised images (N, C, H, W) -> heatmaps: a CAM engine, or a network that draws masks.

    One that takes images of another size than the network's input says so: see `wanted_size`.
    """

    def __call__(self, images: Tensor) -> Heatmaps:
        """Heatmaps of a batch."""
        ...


def without_logits(source: HeatmapSource) -> HeatmapSource:
    """A source's method `maps`, where it has one: its heatmaps without a run of the classifier."""
    return getattr(source, "maps", source)


def wanted_size(source: HeatmapSource) -> Size:
    """A source's attribute `size`, if it has one.

    That is (height, width) of the images it takes, `FULL` for each image's own size, one image a
    batch, or None for the network's input.
    """
    return getattr(source, "size", None)


# A layer's maps by spec, with the layer's name; a bias term's stage, or "".
LayerMaps = tuple[str, dict[MapSpec, Tensor]]


class CamEngine:
    """The heatmap source of class activation maps."""

    def __init__(
        self, model: nn.Module, specs: Sequence[MapSpec], autocast_dtype: torch.dtype | None = None
    ) -> None:
        """Source of one map a spec; `autocast_dtype`: see `capture`."""
        self.model, self.autocast_dtype = model, autocast_dtype
        self.specs = list(specs)
        self.layers = {spec: resolve_layers(model, spec) for spec in self.specs}
        self.fusions = {
            spec: resolve_weights(model, spec, layers) for spec, layers in self.layers.items()
        }

    def __call__(self, images: Tensor) -> Heatmaps:
        """Heatmaps of normalised images (N, C, H, W); the model is left as it was.

        Raises:
            LtcamError: See `capture`.
        """
        size = (images.shape[-2], images.shape[-1])
        maps: dict[MapSpec, Tensor] = {}
        logits, finite = torch.empty(0), dict[str, Tensor]()
        with frozen(self.model):
            passes: dict[tuple[Target, BackwardRule | None], list[MapSpec]] = {}
            for spec in self.layers:  # each once
                passes.setdefault((spec.target, spec.backward_rule), []).append(spec)
            for specs in passes.values():
                captured = self._capture(images, specs)
                logits = captured.logits
                finite |= captured.finite
                with torch.no_grad():
                    maps |= self._fused(captured, specs, size)
        return Heatmaps([maps[spec] for spec in self.specs], logits, finite)

    def _capture(self, images: Tensor, specs: Sequence[MapSpec]) -> Capture:
        """One capture, of the specs' target and backward rule, with all that they need."""
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
            specs[0].target,
            tuple(names),
            gradients="g" in needs,
            biases="biases" in needs,
            markers=main_stages(self.model) if "biases" in needs else (),
            use_term=lambda term: (term.stage, maps_of_layer(term, self._readers(term, specs))),
            autocast_dtype=self.autocast_dtype,
            backward=specs[0].backward_rule,
        )

    def _layer_maps(self, captured: Capture, specs: Sequence[MapSpec]) -> list[LayerMaps]:
        """Maps layer by layer; specs that read a layer share its truncation."""
        maps: list[LayerMaps] = [
            (name, maps_of_layer(layer, self._readers(layer, specs)))
            for name, layer in captured.layers.items()
        ]
        maps += captured.terms  # made while the gradients came
        if captured.input is not None:
            readers = self._readers(captured.input, specs)
            maps.append(("", maps_of_layer(captured.input, readers)))
        return maps

    def _fused(
        self, captured: Capture, specs: Sequence[MapSpec], size: tuple[int, int]
    ) -> dict[MapSpec, Tensor]:
        """The heatmap (N, *size) of each spec; those that share maps share their up-scaling."""
        layer_maps = self._layer_maps(captured, specs)
        by_map: dict[MapSpec, list[MapSpec]] = {}
        for spec in specs:
            by_map.setdefault(spec.layer_spec, []).append(spec)
        heatmaps: dict[MapSpec, Tensor] = {}
        for alike in by_map.values():
            psi = cache(upscale)
            heatmaps |= {spec: self._heatmap(spec, layer_maps, size, psi) for spec in alike}
        return heatmaps

    def _heatmap(
        self, spec: MapSpec, layer_maps: Sequence[LayerMaps], size: tuple[int, int], psi: Upscale
    ) -> Tensor:
        """The heatmap (N, *size) of a spec."""
        order = {name: number for number, name in enumerate(self.layers[spec])}
        chosen = [(order.get(name), maps[spec]) for name, maps in layer_maps if spec in maps]
        if not chosen:
            raise LtcamError(f"method.layers={'+'.join(spec.layers)}: no convolution there")
        numbers, maps = zip(*chosen, strict=True)
        return fuse(maps, size, self.fusions[spec], numbers, psi)

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
    """Heatmaps of images, one forward and one backward for all specs of one target and backward.

    Args:
        model: Any CNN whose feature maps are (N, K, h, w).
        images: (N, C, H, W), normalised, on the model's device.
        specs: One spec a heatmap; layers by module name, or s1.. where the model has `stages`.
        target: Overrides the specs' own.

    Returns:
        For each spec (N, H, W), before any threshold; zeros where nothing speaks for the target.

    Raises:
        LtcamError: If a layer, target or option does not exist.
    """
    if target is not None:
        specs = [replace(spec, target=target) for spec in specs]
    heatmaps = CamEngine(model, specs)(images)
    check_finite(heatmaps.finite)
    return heatmaps.maps


def layer_map(layer: Layer, truncated: Tensor | None, spec: MapSpec) -> Tensor:
    """A layer's map (N, h, w).

    Args:
        layer: As captured.
        truncated: Its truncated gradient; None: no truncation.
        spec: Weighting, form and options.
    """
    weighting, options = get_weighting(spec.weighting), dict(spec.options)
    if truncated is None:
        return combine(weighting(layer, **options), layer.A)
    if spec.form == "gradient":
        return combine(weighting(replace(layer, g=truncated), **options), layer.A)
    assert layer.A is not None
    w = weighting(layer, **options)[:, :, None, None]
    masked = (w * (layer.A * (truncated > 0))).sum(dim=1)  # eq. 11: T masks A, not the weight
    return masked.relu() if spec.form == "mask_relu" else masked


def maps_of_layer(layer: Layer, specs: Sequence[MapSpec]) -> dict[MapSpec, Tensor]:
    """The layer's map for each spec; specs that differ in layers and fusion alone share it."""
    maps = dict(_distinct_maps(layer, dict.fromkeys(spec.layer_spec for spec in specs)))
    return {spec: maps[spec.layer_spec] for spec in specs}


def _distinct_maps(layer: Layer, specs: Iterable[MapSpec]) -> Iterator[tuple[MapSpec, Tensor]]:
    """The layer's map of each spec; one sort a scope, and one pass for all its δ."""
    by_scope: dict[str, list[MapSpec]] = {}
    for spec in specs:
        if spec.delta is None or layer.is_input:
            yield spec, layer_map(layer, None, spec)
        else:
            by_scope.setdefault(spec.scope, []).append(spec)
    for scope, truncated in by_scope.items():
        assert layer.g is not None
        deltas = sorted({spec.delta for spec in truncated if spec.delta is not None})
        one_pass = len(deltas) > 1 and not layer.g.is_cuda
        together, singly = list[MapSpec](), list[MapSpec]()
        for spec in truncated:
            (together if one_pass and supports_multi_delta(spec) else singly).append(spec)
        maps = multi_delta_maps(layer, deltas, scope, {spec.weighting for spec in together})
        cuts = thresholds(layer.g, deltas, scope) if singly else []
        for number, delta in enumerate(deltas):
            for spec in together:
                if spec.delta == delta:
                    yield spec, maps[spec.weighting][number]
            if alike := [spec for spec in singly if spec.delta == delta]:
                kept = keep(layer.g, cuts[number])
                yield from ((spec, layer_map(layer, kept, spec)) for spec in alike)
