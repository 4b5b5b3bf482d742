"""A method's config: class activation maps, or a student's masks. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Annotated, Any, Literal

from pydantic import Field

from ltcam_cli.config import UNLESS_DEFAULT, Count, FolderName, Positive, Seed, build, config
from ltcam_cli.errors import LtcamError, nearest
from ltcam_cli.maps.spec import Backward, Form, Fusion, MapSpec, Scope
from ltcam_cli.maps.weightings import get_weighting

AUTO = "auto"
LABEL = Field(min_length=1, max_length=255)
COLUMNS = ("target", "scope", "form", "fusion", "normalize", "weights", "backward")


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
        backward: exact | filtered, where ReLUs let only large positive gradients through |
            continuous, where their derivative is a smooth one.
        backward_percentile: Of backward=filtered: percentile of the positive gradients at a ReLU,
            below which nothing passes.
        backward_beta: Of backward=continuous: steepness of σ(βx) in place of the ReLU's step.
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
    backward: Backward = "exact"
    backward_percentile: Annotated[float, Field(ge=0, le=100)] = 20.0
    backward_beta: Positive = 1.0

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
            backward=self.backward,
            backward_percentile=self.backward_percentile,
            backward_beta=self.backward_beta,
        )

    def columns(self) -> dict[str, str | None]:
        """Cells of the results' `COLUMNS`."""
        fusion, backward = self.fusion, replace(self, delta=None).spec().backward_rule
        values = (str(self.target), self.scope, self.form, fusion.label, fusion.normalization)
        rule = None if backward is None else str(backward)
        return dict(zip(COLUMNS, (*values, fusion.weighting, rule), strict=True))


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
        """Cells of the results' `COLUMNS`."""
        return dict.fromkeys(COLUMNS)


@config("method")
class StudentMethod(NoMaps):
    """Masks of a second-stage network: after `ltcam student train`.

    Attributes:
        source: student.
        name: Name in cell folders and tables.
        student: Folder, or beginning of its name, of the run's student; null: the newest one.
        checkpoint: Digest of the student's weights, sha256:…, that must be there; null: any.
        verdict: Whether the run's classifier or the student calls an image defective, at the
            run's threshold; a student does that if it was trained with `student.task=multi`.
    """

    source: Literal["student"] = "student"
    name: FolderName = "student"
    student: FolderName | None = None
    checkpoint: Annotated[str, Field(max_length=100)] | None = None
    verdict: Annotated[Literal["classifier", "student"], UNLESS_DEFAULT] = "classifier"


@config("method")
class PatchcoreMethod(NoMaps):
    """Anomaly maps of a memory of good training images (PatchCore); see `maps.patchcore`.

    Attributes:
        source: patchcore.
        name: Name in cell folders and tables.
        features: Network of the features: the run's classifier | start, the weights that its
            training began with.
        layers: Layers whose features are joined: middle, the two middle stages | stages or module
            names joined by + (s2+s3).
        images: Good training images that are read, drawn at random; all, if there are fewer.
        patches: Patches that are drawn of them, before the coreset is taken.
        coreset: Patches that are kept, the memory.
        smooth: Standard deviation of the Gaussian that smooths the map, in pixels of the network's
            input.
        seed: Seed of the draws and of the random projection.
        memory: Digest of the training images, sha256:…, whose memory must be there; null: any.
    """

    source: Literal["patchcore"] = "patchcore"
    name: FolderName = "patchcore"
    features: Literal["classifier", "start"] = "classifier"
    layers: str = "middle"
    images: Count = 200
    patches: Annotated[int, Field(ge=1, le=1_000_000)] = 50_000
    coreset: Annotated[int, Field(ge=1, le=100_000)] = 1000
    smooth: Annotated[float, Field(ge=0, le=1000)] = 4.0
    seed: Seed = 0
    memory: Annotated[str, Field(max_length=100)] | None = None

    @property
    def shares_pass(self) -> bool:
        """It reads images of the classifier's size."""
        return True


@config("method")
class ProductMethod(CamMethod):
    """Class activation maps times anomaly maps; see `maps.combined.ProductSource`.

    Attributes:
        source: product.
        partner: The anomaly maps.
    """

    source: Literal["product"] = "product"  # type: ignore[assignment]
    partner: PatchcoreMethod = field(default_factory=PatchcoreMethod)


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


Method = CamMethod | StudentMethod | PatchcoreMethod | ProductMethod | AutoMethod
SOURCES: dict[str, type[Method]] = {
    "cam": CamMethod,
    "student": StudentMethod,
    "patchcore": PatchcoreMethod,
    "product": ProductMethod,
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
    if not issubclass(SOURCES[source], CamMethod):
        values = _without_cam_keys(values, source)
    elif "weighting" in values:
        get_weighting(str(values["weighting"]))  # before a name that was made of it
    return build(SOURCES[source], values)


def _without_cam_keys(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Values of a method that is no map's without delta=null, and layers=none where it has none.

    Raises:
        LtcamError: If these are anything else.
    """
    if values.get("delta") is not None:
        raise LtcamError(
            f"method.delta={values['delta']}: method={source} reads no gradients to truncate; "
            "use delta=null"
        )
    absent = {"delta"} if source == "patchcore" else {"delta", "layers"}
    if "layers" in absent and values.get("layers") not in (None, "none"):
        raise LtcamError(
            f"method.layers={values['layers']}: method={source} has no layers to choose"
        )
    return {key: value for key, value in values.items() if key not in absent}
