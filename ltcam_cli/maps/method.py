"""A method's config: class activation maps, or a student's masks. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Annotated, Any, Literal

from pydantic import Field

from ltcam_cli.config import FolderName, build, config
from ltcam_cli.errors import LtcamError, nearest
from ltcam_cli.maps.spec import Form, Fusion, MapSpec, Scope
from ltcam_cli.maps.weightings import get_weighting

AUTO = "auto"
LABEL = Field(min_length=1, max_length=255)
COLUMNS = ("target", "scope", "form", "fusion", "normalize", "weights")


@config("method")
class CamMethod:
    """Class activation maps of the classifier; see `MapSpec`.

    Attributes:
        source: cam.
        name: Name in cell folders and tables.
        weighting: gradcam | gradcampp | xgradcam | layercam | hirescam | eigencam | ablationcam |
            scorecam | fullgrad, or one of yours, as module:function.
        layers: all | last | stages or module names joined by + (s3+s4+s5).
        delta: Percentile below which positive gradients are cut; null: no truncation; auto: chosen
            on the training part.
        scope: The percentile is of each channel | of the layer.
        form: gradient (eq. 9, 10) | mask (eq. 11 to the letter) | mask_relu.
        fusion: Fusion of the layers' maps.
        target: defect | margin (y_defect - y_good) | a kind of defect, of a classifier that tells
            them apart | a logit's index.
        options: Options of the weighting, e.g. {batch: 16}.
    """

    source: Literal["cam"] = "cam"
    name: FolderName = "ltgradcam"
    weighting: str = "gradcam"
    layers: str = "all"
    delta: Annotated[float, Field(ge=0, le=100)] | Literal["auto"] | None = 50.0
    scope: Scope = "channel"
    form: Form = "gradient"
    fusion: Fusion = field(default_factory=Fusion)
    target: Annotated[int, Field(ge=-10_000, le=10_000)] | Annotated[str, LABEL] = "defect"
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def reads_gradients(self) -> bool:
        """Whether δ can act."""
        return get_weighting(self.weighting).reads_gradients

    @property
    def shares_pass(self) -> bool:
        """Whether other methods' maps may come from the same pass over the images."""
        return True

    def check(self) -> None:
        """Refuse what does not exist, before anything is computed.

        Raises:
            LtcamError: Naming the key that is wrong.
        """
        if self.delta != AUTO:
            self.spec()
        elif not self.reads_gradients:
            raise LtcamError(
                f"method.delta=auto: {self.weighting} reads no gradients to truncate; "
                "use delta=null"
            )
        else:
            replace(self, delta=0.0).spec()

    def spec(self) -> MapSpec:
        """The spec.

        Raises:
            LtcamError: Naming the key that is wrong.
        """
        if isinstance(self.delta, str):
            raise LtcamError(
                "method.delta=auto: no number yet; ltcam evaluate --delta auto chooses one on the "
                "training part, then give that"
            )
        return MapSpec(
            weighting=self.weighting,
            layers=tuple(self.layers.split("+")),
            delta=self.delta,
            scope=self.scope,
            form=self.form,
            fusion=self.fusion,
            target=self.target,
            options=tuple(sorted(self.options.items())),
        )

    def columns(self) -> dict[str, str | None]:
        """Cells of the results' columns target, scope, form, fusion, normalize and weights."""
        fusion = self.fusion
        values = (str(self.target), self.scope, self.form, fusion.rule, fusion.normalization)
        return dict(zip(COLUMNS, (*values, fusion.weighting), strict=True))


class NoMaps:
    """What a method without maps of its own says of layers, δ and columns."""

    @property
    def layers(self) -> str:
        """Layers, for tables."""
        return "none"

    @property
    def delta(self) -> None:
        """It reads no gradients."""
        return None

    @property
    def reads_gradients(self) -> bool:
        """Whether δ can act."""
        return False

    @property
    def shares_pass(self) -> bool:
        """A student may want larger images than a classifier, and what is open draws nothing."""
        return False

    def check(self) -> None:
        """Nothing that its fields do not say."""

    def columns(self) -> dict[str, str | None]:
        """Cells of the results' columns target, scope, form, fusion, normalize and weights."""
        return dict.fromkeys(COLUMNS)


@config("method")
class StudentMethod(NoMaps):
    """Masks of a second-stage network: after `ltcam student train`.

    Attributes:
        source: student.
        name: Name in cell folders and tables.
        student: Folder, or beginning of its name, of the run's student; null: the newest one.
        checkpoint: Digest of the student's weights, sha256:…, that must be there; null: any.
    """

    source: Literal["student"] = "student"
    name: FolderName = "student"
    student: FolderName | None = None
    checkpoint: Annotated[str, Field(max_length=100)] | None = None


@config("method")
class AutoMethod(NoMaps):
    """A method that training images choose, before anything is drawn: `experiments.choice`.

    Attributes:
        source: auto.
        name: Name in messages.
        with_student: Whether a student learns from the masks of what is chosen, and draws in its
            place.
    """

    source: Literal["auto"] = "auto"
    name: FolderName = "auto"
    with_student: bool = True


Method = CamMethod | StudentMethod | AutoMethod
SOURCES: dict[str, type[CamMethod] | type[StudentMethod] | type[AutoMethod]] = {
    "cam": CamMethod,
    "student": StudentMethod,
    "auto": AutoMethod,
}


def make_method(values: Mapping[str, Any]) -> Method:
    """Config of a method, by its source.

    Raises:
        LtcamError: Naming the key that is wrong.
    """
    if not isinstance(values, Mapping):
        raise LtcamError(f"method={values}: must be a mapping")
    source = str(values.get("source", "cam"))
    if source not in SOURCES:
        raise LtcamError(f"method.source={source}: unknown{nearest(source, SOURCES)}")
    if source != "cam":
        values = _without_cam_keys(values, source)
    elif "weighting" in values:
        get_weighting(str(values["weighting"]))  # before a name that was made of it
    return build(SOURCES[source], values)


def _without_cam_keys(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Values of a method that is no map's without delta=null and layers=none.

    Raises:
        LtcamError: If these are anything else.
    """
    if values.get("delta") is not None:
        raise LtcamError(
            f"method.delta={values['delta']}: method={source} reads no gradients to truncate; "
            "use delta=null"
        )
    if values.get("layers") not in (None, "none"):
        raise LtcamError(
            f"method.layers={values['layers']}: method={source} has no layers to choose"
        )
    return {key: value for key, value in values.items() if key not in {"delta", "layers"}}
