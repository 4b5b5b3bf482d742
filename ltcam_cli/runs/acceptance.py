"""Acceptance of parts: the scale of their images, limits, and the verdict: `predict.reject`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from ltcam_cli.config import NotNegative, Share, config


@config("predict.reject")
class RejectConfig:
    """Limits of an accepted part; null: no limit. What exceeds one of them is rejected.

    Areas and lengths are in mm² and mm where predict.mm_per_pixel is set, else in pixels.

    Attributes:
        probability: Highest probability of a defect.
        regions: Most regions of the mask.
        area: Largest area of a region; mm² with predict.mm_per_pixel, else pixels.
        total_area: Largest area of all regions together; mm² with predict.mm_per_pixel, else
            pixels.
        length: Greatest length of a region; mm with predict.mm_per_pixel, else pixels.
    """

    probability: Share | None = None
    regions: Annotated[int, Field(ge=0, le=1_000_000_000)] | None = None
    area: NotNegative | None = None
    total_area: NotNegative | None = None
    length: NotNegative | None = None


@config("predict.reliability")
class ReliabilityConfig:
    """How the reliability of a verdict is computed; see `ltcam_cli.runs.reliability`.

    Attributes:
        layer: Layer of both maps: last, a stage, or a module name.
        agnostic: Class-agnostic map: energy, the sum over channels of squared activations, or
            absolute, of |gradient ∘ activation|.
        step: Signed step of each pixel in [0, 1] towards a defect, before the maps; 0: none.
    """

    layer: Annotated[str, Field(min_length=1, max_length=200)] = "last"
    agnostic: Literal["energy", "absolute"] = "energy"
    step: Share = 0.0


@dataclass(frozen=True)
class Acceptance:
    """When a part is accepted or looked at again, and the scale of its images.

    Attributes:
        limits: Limits.
        mm_per_pixel: Millimetres of a pixel's side; None: not known.
        ask_below: Reliability below which an image called good is looked at again; None: none is.
        reliability: How reliability is computed.
    """

    limits: RejectConfig = field(default_factory=RejectConfig)
    mm_per_pixel: float | None = None
    ask_below: float | None = None
    reliability: ReliabilityConfig = field(default_factory=ReliabilityConfig)

    @property
    def has_limits(self) -> bool:
        """Whether there is any limit."""
        return any(limit is not None for limit in asdict(self.limits).values())

    @property
    def parts(self) -> dict[str, Any]:
        """What of it decides tables: parts of an identity; none where nothing is set."""
        scale = {} if self.mm_per_pixel is None else {"mm_per_pixel": self.mm_per_pixel}
        asked = {"ask_below": self.ask_below, "reliability": self.reliability}
        return {
            **scale,
            **({"reject": self.limits} if self.has_limits else {}),
            **({} if self.ask_below is None else asked),
        }

    @property
    def score_columns(self) -> list[str]:
        """Columns that it adds to `scores.csv`."""
        scale = [] if self.mm_per_pixel is None else ["area_mm2"]
        asked = [] if self.ask_below is None else ["reliability", "look_again"]
        return scale + asked + (["verdict", "rule"] if self.has_limits else [])

    @property
    def region_columns(self) -> list[str]:
        """Columns that it adds to `regions.csv`."""
        return [] if self.mm_per_pixel is None else ["area_mm2", "length_mm", "width_mm"]

    def measured(self, region: Mapping[str, Any]) -> dict[str, Any]:
        """A region in millimetres, too, where the scale is known."""
        mm = self.mm_per_pixel
        if mm is None:
            return dict(region)
        lengths = {f"{side}_mm": region[side] * mm for side in ("length", "width")}
        return {**region, "area_mm2": region["area"] * mm**2, **lengths}

    def judged(
        self, row: Mapping[str, Any], regions: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        """A row of `scores.csv` with its area in mm², and with the verdict where there are limits.

        The rule names all limits that are exceeded; it is empty of an accepted part.
        """
        mm = self.mm_per_pixel or 1.0
        judged = (
            dict(row) if self.mm_per_pixel is None else {**row, "area_mm2": row["area"] * mm**2}
        )
        if not self.has_limits:
            return judged
        values = {
            "probability": row["probability"],
            "regions": row["regions"],
            "area": max((region["area"] for region in regions), default=0) * mm**2,
            "total_area": row["area"] * mm**2,
            "length": max((region["length"] for region in regions), default=0) * mm,
        }
        limits = {name: limit for name, limit in asdict(self.limits).items() if limit is not None}
        exceeded = [name for name, limit in limits.items() if values[name] > limit]
        return {
            **judged,
            "verdict": "reject" if exceeded else "accept",
            "rule": " ".join(exceeded),
        }
