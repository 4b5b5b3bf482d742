"""A method as data: which weighting, of which layers, truncated and fused how. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field

from ltcam_cli.config import Positive, Says, config
from ltcam_cli.errors import LtcamError, nearest
from ltcam_cli.maps.weightings import get_weighting

Target = str | int
FusionRule = Literal["sum", "mean", "max", "product"]
Normalization = Literal["none", "minmax", "quantile", "unit-energy", "tanh"]
Activation = Literal["none", "tanh"]
Scope = Literal["channel", "layer"]
Form = Literal["gradient", "mask", "mask_relu"]
Backward = Literal["exact", "filtered", "continuous"]


def _weights(values: Any) -> tuple[Any, ...] | None:
    """A list, a mapping, or pairs, as tuples that can be hashed.

    Raises:
        ValueError: If one is no number in [0, 1e9], or none is above 0.
    """
    if values is None:
        return None
    if not isinstance(values, (Mapping, list, tuple)) or not values:
        raise ValueError
    entries: list[Any] = list(values.items() if isinstance(values, Mapping) else values)
    by_name = isinstance(entries[0], (list, tuple))
    if by_name and not all(isinstance(entry, (list, tuple)) and len(entry) == 2
                           and isinstance(entry[0], str) for entry in entries):  # fmt: skip
        raise ValueError
    numbers = [entry[1] if by_name else entry for entry in entries]
    if not all(type(number) in {int, float} and 0 <= number <= 1e9 for number in numbers):
        raise ValueError
    if not by_name and not any(numbers):
        raise ValueError
    numbers = [float(number) for number in numbers]
    return tuple(
        (entry[0], number) if by_name else number
        for entry, number in zip(entries, numbers, strict=True)
    )


@config("method.fusion")
class Fusion:
    """How the layers' up-scaled maps become one (eq. 8 of the paper: their plain sum).

    Attributes:
        rule: sum Σ w_l M_l | mean Σ w_l M_l / Σ w_l | max of w_l M_l | product, the geometric mean
            Π M_l^(w_l / Σ w_l).
        normalize: Scale of each layer's map before it is up-scaled, so that stages whose values
            are larger by orders of magnitude do not drown the others: none (the paper) | minmax |
            quantile | unit-energy | tanh; see `fusion.normalized`.
        weights: w_l >= 0, one a layer in the order of the layers, or by the layers' names, 1 for
            those not named; null: 1 for all. Terms of fullgrad have the weight of their stage, and
            1 where they belong to none.
        quantile: Order of the quantile that normalize=quantile divides by.
        gamma: Factor of normalize=tanh and of activation=tanh.
        tanh_layers: Number of layers, from the first on, whose map normalize=tanh passes through
            tanh; null: all.
        activation: Of the fused map: none | tanh, tanh(γ M / max M), which lifts what is weak.
    """

    rule: FusionRule = "sum"
    normalize: Normalization = "none"
    weights: Annotated[
        Any,
        BeforeValidator(_weights),
        Says("numbers >= 0 such as [1,1,2], or by layer such as {s1: 0.5}, or null"),
    ] = None
    quantile: Annotated[float, Field(gt=0, le=1)] = 0.99
    gamma: Positive = 2.0
    tanh_layers: Annotated[int, Field(ge=0, le=10_000)] | None = None
    activation: Activation = "none"

    @property
    def label(self) -> str:
        """`rule` with the activation, for tables: `sum`, `sum tanh:2`."""
        return self.rule if self.activation == "none" else f"{self.rule} tanh:{self.gamma:g}"

    @property
    def normalization(self) -> str:
        """`normalize` with what it depends on, for tables: `quantile:0.99`, `tanh:2:3`."""
        if self.normalize == "quantile":
            return f"quantile:{self.quantile:g}"
        layers = "" if self.tanh_layers is None else f":{self.tanh_layers}"
        return f"tanh:{self.gamma:g}{layers}" if self.normalize == "tanh" else self.normalize

    @property
    def weighting(self) -> str | None:
        """Weights for tables: `1,1,2`, or `s1:0.5`; None where all are 1."""
        if self.weights is None:
            return None
        return ",".join(
            f"{weight[0]}:{weight[1]:g}" if isinstance(weight, tuple) else f"{weight:g}"
            for weight in self.weights
        )


PLAIN_SUM = Fusion()


@dataclass(frozen=True)
class BackwardRule:
    """What ReLUs let through in the backward pass: see `backward.RelusWith`.

    Attributes:
        name: `filtered` or `continuous`.
        value: Percentile of the positive gradients in [0, 100], or steepness β > 0.
    """

    name: str
    value: float

    def __str__(self) -> str:
        """For tables and messages: `filtered:20`, `continuous:1`."""
        return f"{self.name}:{self.value:g}"


@dataclass(frozen=True)
class MapSpec:
    """One heatmap per image. `ltX` is X with all layers and a delta.

    Attributes:
        weighting: Registered name, e.g. `gradcam`, or `module:function`.
        layers: `all`, `last`, stage names (`s3`), or module names (`features.29`).
        delta: Percentile in [0, 100] below which positive gradients are cut; None: no truncation,
            negative gradients stay.
        scope: The percentile is of each `channel` or of the `layer`.
        form: `gradient` (eq. 9, 10): the truncated gradient replaces g wherever the method reads
            it; `mask` (eq. 11 to the letter): the weight stays, A is masked, no ReLU; `mask_relu`
            adds the ReLU of eq. 3.
        fusion: Fusion of the layers' maps.
        target: `defect` (the last logit), `margin` (y_defect - y_good), `any` (the log-odds of any
            of independent classes), or a logit's index.
        options: Options of the weighting, as pairs.
        backward: What ReLUs let through in the backward pass: their derivative's share (`exact`),
            only large positive gradients (`filtered`), or by a smooth derivative (`continuous`);
            see `backward.RelusWith`.
        backward_percentile: Percentile in [0, 100] of `filtered`.
        backward_beta: Steepness > 0 of `continuous`, in 1 / the unit of the activations.
    """

    weighting: str
    layers: tuple[str, ...] = ("last",)
    delta: float | None = None
    scope: str = "channel"
    form: str = "gradient"
    fusion: Fusion = PLAIN_SUM
    target: Target = "defect"
    options: tuple[tuple[str, Any], ...] = ()
    backward: str = "exact"
    backward_percentile: float = 20.0
    backward_beta: float = 1.0

    def __post_init__(self) -> None:
        layers = self.layers.split("+") if isinstance(self.layers, str) else self.layers
        object.__setattr__(self, "layers", tuple(layers))  # ("s5") and ["s5"] are easily written
        weighting = get_weighting(self.weighting)
        for key, values in {"scope": Scope, "form": Form, "backward": Backward}.items():
            if (value := getattr(self, key)) not in get_args(values):
                raise LtcamError(f"method.{key}={value}: unknown{nearest(value, get_args(values))}")
        if not self.layers or not all(self.layers):
            raise LtcamError("method.layers is empty; give all, last, or names joined by +")
        weighting.check(dict(self.options))
        for name, value in self.options:
            if isinstance(value, (list, dict, set)):  # maps of equal specs are shared
                raise LtcamError(f"method.options.{name}={value}: must be a number or a text")
        if self.backward != "exact" and not weighting.reads_gradients:
            raise LtcamError(
                f"method.backward={self.backward}: {self.weighting} reads no gradients; "
                "use backward=exact"
            )
        if not 0 <= self.backward_percentile <= 100:
            raise LtcamError(
                f"method.backward_percentile={self.backward_percentile:g}: "
                "a percentile lies in 0..100"
            )
        if not 0 < self.backward_beta < math.inf:
            raise LtcamError(f"method.backward_beta={self.backward_beta:g}: must be above 0")
        if self.delta is None:
            return
        if not weighting.reads_gradients:
            raise LtcamError(
                f"method.delta={self.delta:g}: {self.weighting} reads no gradients to truncate; "
                "use delta=null"
            )
        if not 0 <= self.delta <= 100:
            raise LtcamError(f"method.delta={self.delta:g}: a percentile lies in 0..100")
        if self.form != "gradient" and self.weighting != "gradcam":
            raise LtcamError(
                f"method.form={self.form}: eq. 11 masks the maps of gradcam; "
                f"use form=gradient for {self.weighting}"
            )

    @cached_property
    def backward_rule(self) -> BackwardRule | None:
        """What is not exact in the backward pass; None: nothing."""
        values = {"filtered": self.backward_percentile, "continuous": self.backward_beta}
        return (
            BackwardRule(self.backward, values[self.backward]) if self.backward in values else None
        )

    @cached_property
    def layer_spec(self) -> MapSpec:
        """What decides a layer's map: all but layers and fusion."""
        return replace(self, layers=("last",), fusion=PLAIN_SUM)
