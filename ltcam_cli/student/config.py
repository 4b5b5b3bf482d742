"""Configs of the student: its network, crops, loss, labels and training. Free of torch."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from ltcam_cli.classifier.config import LoggerName
from ltcam_cli.config import (
    NO_EFFECT,
    UNLESS_DEFAULT,
    FolderName,
    Mixed,
    NotNegative,
    Pixels,
    Positive,
    Says,
    Share,
    config,
)
from ltcam_cli.errors import LtcamError

CropSide = Annotated[int, Field(ge=16, le=16384)]
CropSize = Annotated[
    list[CropSide],
    Field(min_length=2, max_length=2),
    Says("[height,width], each of at least 16 and at most 16384"),
]
Task = Literal["mask", "multi"]
Channels = Annotated[
    int, Field(ge=8, le=1024, multiple_of=8), Says("a multiple of 8, at least 8 and at most 1024")
]


@config("student.network")
class NetworkConfig:
    """The student's network.

    Attributes:
        encoder: `light`: five stages of convolutions, the first at full resolution, each other at
            half of the one before; `classifier`: the classifier's own s1..s4 and their weights,
            which are trained further.
        width: Channels of the light encoder's first stage; the others have 1.5, 2, 3 and 4 times
            as many.
        decoder: Channels of the top-down path.
        norm: Batch norm, or group norm (4 groups), which is the same in training and use.
    """

    encoder: Literal["light", "classifier"] = "classifier"
    width: Channels = 16
    decoder: Channels = 32
    norm: Literal["batch", "group"] = "batch"


@config("student.crops.augment")
class CropAugmentConfig:
    """Random changes of crops.

    Attributes:
        flip_horizontal, flip_vertical: Whether to mirror with probability 1/2.
        scale: Greatest relative change, in [0, 1), of the window that becomes a crop; it stays in
            the image.
        brightness, contrast: Greatest relative change.
        gamma: Greatest change of the exponent, as in x^(1 ± gamma).
    """

    flip_horizontal: bool = True
    flip_vertical: bool = True
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.1
    brightness: Share = 0.15
    contrast: Share = 0.15
    gamma: Share = 0.1


@config("student.crops")
class CropConfig:
    """Which parts of which images make a batch.

    Attributes:
        size: Height and width of a crop, at most the image's; null: whole images.
        defect_share: Share of a batch's crops that hold a pixel labelled as defect.
        good_share: Share of a batch's crops from good images; the others are from anywhere.
        synthetic_share: Share of the crops from good images that get a synthetic defect.
        augment: Random changes of crops.
    """

    size: CropSize | None = field(default_factory=lambda: [256, 192])
    defect_share: Share = 0.5
    good_share: Share = 0.5
    synthetic_share: Share = 0.0
    augment: CropAugmentConfig = field(default_factory=CropAugmentConfig)

    def __post_init__(self) -> None:
        if self.defect_share + self.good_share > 1:
            raise LtcamError(
                f"student.crops.defect_share={self.defect_share:g}, good_share="
                f"{self.good_share:g}: must be at most 1 together"
            )


@config("student.loss")
class LossConfig:
    """The student's loss.

    Attributes:
        pos_weight: Weight of defect pixels; `auto`: background over defect pixels of the batch,
            but at most `pos_weight_cap`, since a great one makes masks too generous.
        pos_weight_cap: Highest weight of defect pixels where `pos_weight=auto`.
        dice: Weight of the dice loss (Milletari et al. 2016) beside cross-entropy.
        focal_gamma: Exponent γ of (1 - p)^γ, which multiplies the cross-entropy of a pixel whose
            label has the probability p (Lin et al. 2017).
        hard_share: Share of a batch's background pixels that count: those of the greatest loss.
        decision: Weight of the decision's cross-entropy beside the mask's loss; only read where
            `student.task=multi`.
    """

    pos_weight: Literal["auto"] | Positive = 1.0
    pos_weight_cap: Positive = 4.0
    dice: NotNegative = 1.0
    focal_gamma: Annotated[float, Field(ge=0, le=100)] = 0.0
    hard_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    decision: Annotated[NotNegative, UNLESS_DEFAULT] = 1.0


@config("student.labels")
class LabelConfig:
    """Which label a pixel of a defective image has.

    Attributes:
        masks: Defective training images whose true masks are their labels, drawn at random; `all`:
            all that have one.
        maps: Whether the labels of the others come from maps; false: they have none, and teach
            nothing in the first round.
        low: Share of the map's maximum up to which, in the first round, a pixel outside the mask
            is background.
        ignore_radius: Pixels around the mask that are not background in the first round.
        defect: Probability from which a pixel is defect in later rounds.
        background: Probability below which a pixel is background in later rounds.
    """

    masks: Literal["all"] | Annotated[int, Field(ge=0, le=1_000_000)] = 0
    maps: Annotated[bool, UNLESS_DEFAULT] = True
    low: Share = 1.0
    ignore_radius: Pixels = 0
    defect: Share = 0.7
    background: Share = 0.3

    def __post_init__(self) -> None:
        if self.background > self.defect:
            raise LtcamError(
                f"student.labels.background={self.background:g}, defect={self.defect:g}: "
                "must be background <= defect"
            )
        if not self.maps and not self.masks:
            raise LtcamError(
                "student.labels.maps=false: needs true masks; set student.labels.masks=N or all"
            )


@config("student")
class StudentConfig:
    """How the student is trained (conf/student/*.yaml).

    Attributes:
        name: Beginning of the name of the student's folder.
        network: Network that is trained.
        height, width: Size of the images that the student sees; null: the classifier's.
        rounds: Rounds of training; each but the first has the last one's predictions as labels.
        restart: Whether a later round begins with new weights.
        steps: Steps of each round.
        every: Steps from one line of the history, and one state to resume from, to the next.
        batch_size: Crops of one step.
        crops: Which parts of which images make a batch.
        lr: Highest learning rate, of one cycle a round; null: 3e-4 where the encoder is the
            classifier's, else 3e-3.
        weight_decay: Weight decay of AdamW.
        loss: Loss that is minimised.
        ema: Decay, in [0, 1), of the weights' exponential moving average, which becomes the
            student; 0: the weights themselves.
        clip: Greatest norm of the gradient; null: no limit.
        amp: Whether to train in mixed precision; `auto`: on a GPU, and on a CPU that has
            instructions for bfloat16.
        overlays: Pictures of labels a round; null: all.
        labels: When a pixel of a defective image has a label.
        task: `mask`: each pixel is judged; `multi`: the whole image is, too, and that decision
            scales the features of the mask (our reading of Sample-Centric Multi-Task Learning,
            2025).
        logger: Where curves and pictures go, too; null: nowhere else.
    """

    name: FolderName = "fpn_slim"
    network: NetworkConfig = field(default_factory=NetworkConfig)
    height: CropSide | None = None
    width: CropSide | None = None
    rounds: Annotated[int, Field(ge=1, le=1000)] = 1
    restart: bool = True
    steps: Annotated[int, Field(ge=1, le=10_000_000)] = 600
    every: Annotated[int, Field(ge=1, le=10_000_000), NO_EFFECT] = 50
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 8
    crops: CropConfig = field(default_factory=CropConfig)
    lr: Positive | None = None
    weight_decay: NotNegative = 0.01
    loss: LossConfig = field(default_factory=LossConfig)
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.98
    clip: Positive | None = 1.0
    amp: Annotated[Mixed, NO_EFFECT] = "auto"
    overlays: Annotated[Annotated[int, Field(ge=0, le=1_000_000)] | None, NO_EFFECT] = 20
    labels: LabelConfig = field(default_factory=LabelConfig)
    task: Annotated[Task, UNLESS_DEFAULT] = "mask"
    logger: Annotated[LoggerName | None, NO_EFFECT] = None
