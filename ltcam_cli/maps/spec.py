"""A method as data: which weighting, of which layers, truncated and fused how."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ltcam_cli.errors import LtcamError, nearest
from ltcam_cli.maps.capture import Target
from ltcam_cli.maps.weightings import get_weighting

FUSION_RULES = ("sum", "mean", "max", "product")
NORMALIZATIONS = ("none", "minmax", "quantile", "unit-energy", "tanh")
SCOPES = ("channel", "layer")
FORMS = ("gradient", "mask", "mask_relu")


def _check(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise LtcamError(f"method.{key}={value}: unknown{nearest(value, known)}")


@dataclass(frozen=True)
class Fusion:
    """How the layers' up-scaled maps become one (eq. 8 of the paper: their plain sum).

    Attributes:
        rule: `sum` Σ w_l M_l, `mean` Σ w_l M_l / Σ w_l, `max` of w_l M_l, or `product`, the
            geometric mean Π M_l^(w_l / Σ w_l).
        normalize: `none` (the paper), or what is done to each layer's map before it is up-scaled,
            so that stages whose values are larger by orders of magnitude do not drown the others:
            `minmax`, `quantile`, `unit-energy` or `tanh`; see `fusion.normalized`.
        weights: w_l >= 0, one a layer in the order of the layers, or by the layers' names, 1 for
            those not named; None: 1 for all. Terms of fullgrad have the weight of their stage, and
            1 where they belong to none.
        quantile: q in (0, 1] of `quantile`.
        gamma: > 0, of `tanh`.
        scaled: of how many layers, the first that are listed, `tanh` scales the map; None: of all.
    """

    rule: str = "sum"
    normalize: str = "none"
    weights: tuple[Any, ...] | None = None
    quantile: float = 0.99
    gamma: float = 2.0
    scaled: int | None = None

    def __post_init__(self) -> None:
        _check("fusion.rule", self.rule, FUSION_RULES)
        _check("fusion.normalize", self.normalize, NORMALIZATIONS)
        if not 0 < self.quantile <= 1:
            raise LtcamError(f"method.fusion.quantile={self.quantile:g}: must lie in (0, 1]")
        if not 0 < self.gamma < math.inf:
            raise LtcamError(f"method.fusion.gamma={self.gamma:g}: must be above 0")
        if self.scaled is not None and self.scaled < 0:
            raise LtcamError(f"method.fusion.scaled={self.scaled}: a number of layers, or null")
        if self.weights is not None:
            object.__setattr__(self, "weights", _weights(self.weights))

    @property
    def normalization(self) -> str:
        """`normalize` with what it depends on, for tables: `quantile:0.99`, `tanh:2:3`."""
        if self.normalize == "quantile":
            return f"quantile:{self.quantile:g}"
        scaled = "" if self.scaled is None else f":{self.scaled}"
        return f"tanh:{self.gamma:g}{scaled}" if self.normalize == "tanh" else self.normalize

    @property
    def weighting(self) -> str | None:
        """The weights for tables: `1,1,2`, or `s1:0.5`; None where all are 1."""
        if self.weights is None:
            return None
        return ",".join(
            f"{each[0]}:{each[1]:g}" if isinstance(each, tuple) else f"{each:g}"
            for each in self.weights
        )


def _weights(given: Any) -> tuple[Any, ...]:
    """A list, a mapping, or pairs, as tuples that can be hashed.

    Raises:
        LtcamError: if one is no finite number >= 0, or none is above 0.
    """
    fault = LtcamError(
        f"method.fusion.weights={given}: must be numbers >= 0 such as [1,1,2], or by layer such as "
        "{s1:0.5}"
    )
    if not isinstance(given, (Mapping, list, tuple)) or not given:
        raise fault
    pairs: list[Any] = list(given.items() if isinstance(given, Mapping) else given)
    by_name = isinstance(pairs[0], (list, tuple))
    try:
        numbers = [float(pair[1] if by_name else pair) for pair in pairs]
    except (TypeError, ValueError, IndexError):
        raise fault from None
    if not all(0 <= number < math.inf for number in numbers) or not (by_name or any(numbers)):
        raise fault
    if by_name:
        return tuple((str(pair[0]), number) for pair, number in zip(pairs, numbers, strict=True))
    return tuple(numbers)


@dataclass(frozen=True)
class MapSpec:
    """One heatmap per image. `ltX` is X with all layers and a delta.

    Attributes:
        weighting: a registered name, e.g. `gradcam`.
        layers: `all`, `last`, stage names (`s3`), or module names (`features.29`).
        delta: percentile in [0, 100] below which positive gradients are cut; None: no truncation,
            negative gradients stay.
        scope: the percentile is of each `channel` or of the `layer`.
        form: `gradient` (eq. 9, 10): the truncated gradient replaces g wherever the method reads
            it; `mask` (eq. 11 to the letter): the weight stays, A is masked, no ReLU; `mask_relu`
            adds the ReLU of eq. 3.
        fusion: of the layers' maps.
        target: `defect` (the last logit), `margin` (y_defect - y_good), or a logit's index.
        options: of the weighting, as pairs.
    """

    weighting: str
    layers: tuple[str, ...] = ("last",)
    delta: float | None = None
    scope: str = "channel"
    form: str = "gradient"
    fusion: Fusion = Fusion()
    target: Target = "defect"
    options: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        layers = self.layers.split("+") if isinstance(self.layers, str) else self.layers
        object.__setattr__(self, "layers", tuple(layers))  # ("s5") and ["s5"] are easily written
        weighting = get_weighting(self.weighting)
        _check("scope", self.scope, SCOPES)
        _check("form", self.form, FORMS)
        if not self.layers or not all(self.layers):
            raise LtcamError("method.layers is empty; give all, last, or names joined by +")
        for name, _ in self.options:
            if name not in weighting.options():
                raise LtcamError(
                    f"method.options.{name}: {self.weighting} has no such option"
                    f"{nearest(name, weighting.options())}"
                )
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
