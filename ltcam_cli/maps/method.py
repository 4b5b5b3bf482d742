"""A method's config -> its spec."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ltcam_cli.errors import LtcamError, nearest
from ltcam_cli.files import LATER
from ltcam_cli.maps.spec import Fusion, MapSpec
from ltcam_cli.maps.weightings import get_weighting

AUTO = "auto"
STUDENT = "student"
TEACHER = "ltcam_plus"  # makes a student's first labels
STUDENT_OPTIONS = ("student", "checkpoint")


@dataclass
class FusionConfig:
    """See `Fusion`."""

    rule: str = "sum"
    normalize: str = "none"
    weights: Any = field(default=None, metadata=LATER)
    quantile: float = field(default=0.99, metadata=LATER)
    gamma: float = field(default=2.0, metadata=LATER)
    scaled: int | None = field(default=None, metadata=LATER)


@dataclass
class MethodConfig:
    """A method (conf/method/*.yaml); see `MapSpec` for the meaning of its keys.

    Attributes:
        name: in run names and tables.
        layers: names joined by `+`, or `all`, `last`.
        delta: a number, None, or `auto`: chosen on the training part before there is a spec.
    """

    name: str = "ltgradcam"
    weighting: str = "gradcam"
    layers: str = "all"
    delta: Any = 50.0
    scope: str = "channel"
    form: str = "gradient"
    fusion: FusionConfig = field(default_factory=FusionConfig)
    target: Any = "defect"
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.delta, int) and not isinstance(self.delta, bool):
            self.delta = float(self.delta)  # 50 and 50.0 are one cell

    @property
    def is_student(self) -> bool:
        """Whether a second-stage network draws the maps, which has no spec."""
        return self.weighting == STUDENT

    @property
    def reads_gradients(self) -> bool:
        """Whether δ can act."""
        return not self.is_student and get_weighting(self.weighting).reads_gradients

    def check(self) -> None:
        """Refuse what does not exist, before anything is computed.

        Raises:
            LtcamError: naming the key that is wrong.
        """
        if not self.is_student:
            self.spec()
            return
        if self.delta is not None:
            raise LtcamError(
                f"method.delta={self.delta}: a student reads no gradients to truncate; "
                "use delta=null"
            )
        for option in self.options:
            if option not in STUDENT_OPTIONS:
                raise LtcamError(
                    f"method.options.{option}: a student has no such option"
                    f"{nearest(option, STUDENT_OPTIONS)}"
                )

    def spec(self) -> MapSpec:
        """The spec.

        Raises:
            LtcamError: naming the key that is wrong.
        """
        delta = self.delta
        if delta == AUTO:
            raise LtcamError(
                "method.delta=auto: no number yet; ltcam evaluate --delta auto chooses one on the "
                "training part, then give that"
            )
        if delta is not None and not isinstance(delta, float):
            raise LtcamError(f"method.delta={delta}: must be a number in 0..100, or null")
        return MapSpec(
            weighting=self.weighting,
            layers=tuple(str(self.layers).split("+")),
            delta=delta,
            scope=self.scope,
            form=self.form,
            fusion=Fusion(**vars(self.fusion)),
            target=self.target,
            options=tuple(sorted(self.options.items())),
        )
