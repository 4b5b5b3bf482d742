"""A method as data: which weighting, of which layers, truncated and fused how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ltcam_cli.errors import LtcamError, nearest
from ltcam_cli.maps.capture import Target
from ltcam_cli.maps.weightings import get_weighting

FUSION_RULES = ("sum", "mean", "max", "product")
NORMALIZATIONS = ("none", "minmax")
SCOPES = ("channel", "layer")
FORMS = ("gradient", "mask", "mask_relu")


def _check(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise LtcamError(f"method.{key}={value}: unknown{nearest(value, known)}")


@dataclass(frozen=True)
class Fusion:
    """How the layers' up-scaled maps become one (eq. 8 of the paper: their plain sum).

    Attributes:
        rule: `sum`, `mean`, `max`, or `product` (the geometric mean).
        normalize: `none` (the paper), or `minmax` of each layer's map first, so that stages whose
            values are larger by orders of magnitude do not drown the others.
    """

    rule: str = "sum"
    normalize: str = "none"

    def __post_init__(self) -> None:
        _check("fusion.rule", self.rule, FUSION_RULES)
        _check("fusion.normalize", self.normalize, NORMALIZATIONS)


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
