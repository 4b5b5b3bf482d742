"""Configs of the classifier and of its training. Free of torch."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from ltcam_cli.config import (
    NO_EFFECT,
    UNLESS_DEFAULT,
    Mixed,
    NotNegative,
    Positive,
    Says,
    Share,
    Workers,
    as_folder_name,
    config,
)
from ltcam_cli.errors import LtcamError


def _checked_rule(rule: str) -> str:
    if rule not in {"prior", "f1"} and not 0 < _recall(rule) <= 1:
        raise ValueError
    return rule


def _recall(rule: str) -> float:
    name, _, number = rule.partition(":")
    if name != "recall":
        raise ValueError
    return float(number)


ThresholdRule = Annotated[
    str, AfterValidator(_checked_rule), Says("prior, f1 or recall:R with 0 < R <= 1")
]

LoggerName = Literal["tensorboard", "mlflow", "wandb"]


@config("backbone")
class BackboneConfig:
    """A network (conf/backbone/*.yaml).

    Attributes:
        name: Architecture; auto: see conf/backbone/auto.yaml; timm: any that timm has.
        head: Pooling and last layers: fully connected, or average, max or log-sum-exp pooling; own:
            those of torchvision, of imported models; noisy_or: an image is defective if one of its
            overlapping windows is, for small defects in large images.
        logits: Outputs: 1 (defective) or 2 (good, defective); imported models may have more.
        hidden: Width of the hidden layer of head `fc`; VGG16 has its own two of 4096.
        dropout: Probability of dropout in head `fc`, in [0, 1).
        weights: Name of torchvision's (`DEFAULT`, `IMAGENET1K_V1`) or file; null: from scratch.
        standardize: Whether each image is brought to mean 0 and deviation 1, so that its brightness
            and contrast do not count.
        freeze_bn: Whether batch norms stay in eval mode and keep their parameters in training.
        model: Name of timm's model, with its tag of weights if any; null: of the other networks.
        window: Side of the windows of head `noisy_or`, in cells of the last feature map, which are
            32 pixels of the input each, of SqueezeNet 16.
    """

    name: Literal[
        "auto",
        "vgg16",
        "vgg16_bn",
        "vgg16_slim",
        "resnet18",
        "resnet50",
        "mobilenet_v2",
        "squeezenet1_1",
        "timm",
    ] = "vgg16"
    head: Literal["fc", "avg", "max", "lse", "noisy_or", "own"] = "fc"
    logits: Annotated[int, Field(ge=1, le=100_000)] = 1
    hidden: Annotated[int, Field(ge=1, le=65_536)] = 4096
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    weights: str | None = "DEFAULT"
    standardize: bool = False
    freeze_bn: bool = False
    model: Annotated[str | None, UNLESS_DEFAULT] = None
    window: Annotated[int, Field(ge=1, le=1024), UNLESS_DEFAULT] = 7

    def __post_init__(self) -> None:
        if self.name == "timm" and self.model is None:
            raise LtcamError("backbone.model: is not set; name one of timm, e.g. convnext_tiny")
        if self.name != "timm" and self.model is not None:
            raise LtcamError(f"backbone.model={self.model}: is of backbone=timm; set that")
        if self.name == "timm" and self.head == "own":
            raise LtcamError("backbone.head=own: backbone=timm takes fc, avg, max, lse or noisy_or")

    @property
    def display_name(self) -> str:
        """Name of the network, in names of runs."""
        return as_folder_name(self.model or self.name)


@config("trainer.augment")
class AugmentConfig:
    """Random changes of training images.

    Attributes:
        flip_horizontal, flip_vertical: Whether to mirror with probability 1/2.
        shift: Greatest translation, as a share of height and width.
        brightness, contrast: Greatest relative change.
        gamma: Greatest change of the exponent, as in x^(1 ± gamma).
    """

    flip_horizontal: bool = True
    flip_vertical: bool = True
    shift: Share = 0.05
    brightness: Share = 0.15
    contrast: Share = 0.15
    gamma: Share = 0.1


@config("trainer")
class TrainerConfig:
    """How the classifier is trained (conf/trainer/*.yaml).

    Attributes:
        epochs: Passes of `images_per_epoch` images; null: 20 from scratch, and with pre-trained
            weights as many as show 4000 images, but 4 to 20.
        images_per_epoch: Images of a pass; null: four times those of the rarer class.
        progressive: Share of height and width that images have in the first half of the epochs,
            which are quicker so (progressive resizing); 1: all epochs see them whole.
        batch_size: Images of a step; half of them are defective.
        optimizer: AdamW, or SGD with momentum 0.9.
        lr: Highest learning rate; null: 3e-3 from scratch, 1e-4 with pre-trained weights.
        restarts: How often a training that has learnt nothing in its first epochs begins anew, with
            other weights and a third of the learning rate; of fewer than five epochs, none does.
        weight_decay: Weight decay of the optimizer.
        schedule: Learning rate schedule.
        validation: Share of the training items held out to choose the threshold; 0: none.
        threshold: `prior` (0.5 after correction for balanced sampling), or on the validation part
            `f1` (the highest F1) or `recall:R` (the highest threshold whose recall is R).
        clip: Greatest norm of the gradient; null: no limit.
        amp: Whether to train in mixed precision; `auto`: on a GPU, and on a CPU that has
            instructions for bfloat16.
        cache: Whether resized images stay in memory, up to 2 GB.
        workers: Loading processes; null: none on a CPU, up to 8 beside a GPU.
        augment: Random changes of the images.
        label_smoothing: ε in [0, 1): the target of a defect is 1 - ε/2, of a good image ε/2.
        cutmix: Share of the batches that are mixed (Yun et al. 2019).
        guide: Run or checkpoint of a first classifier whose maps this one's shall resemble; null:
            no guide.
        guide_weight: Weight of the maps' difference in the loss.
        kinds: Whether the classifier has an output for each kind of defect, in place of one for
            all; see `dataset.kinds`.
        logger: Where curves and pictures go, too; null: nowhere else.
    """

    epochs: Annotated[int, Field(ge=1, le=100_000)] | None = None
    images_per_epoch: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    progressive: Annotated[float, Field(gt=0, le=1), UNLESS_DEFAULT] = 1.0
    batch_size: Annotated[int, Field(ge=2, le=4096)] = 12
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: Positive | None = None
    restarts: Annotated[int, Field(ge=0, le=10)] = 2
    weight_decay: NotNegative = 0.01
    schedule: Literal["onecycle", "cosine"] = "onecycle"
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.0
    threshold: ThresholdRule = "prior"
    clip: Positive | None = 1.0
    amp: Annotated[Mixed, NO_EFFECT] = "auto"
    cache: Annotated[bool, NO_EFFECT] = True
    workers: Annotated[Workers | None, NO_EFFECT] = None
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    cutmix: Share = 0.0
    guide: str | None = None
    guide_weight: NotNegative = 1.0
    kinds: Annotated[bool, NO_EFFECT] = False  # true adds their names to a training's identity
    logger: Annotated[LoggerName | None, NO_EFFECT] = None

    def __post_init__(self) -> None:
        if self.threshold != "prior" and not self.validation:
            raise LtcamError(
                f"trainer.threshold={self.threshold} is chosen on validation items; "
                "set trainer.validation, e.g. 0.2"
            )
        if self.kinds and self.cutmix:
            raise LtcamError("trainer.cutmix: mixes two classes; leave it out with trainer.kinds")

    @property
    def recall(self) -> float | None:
        """R of the threshold rule `recall:R`; None for the other rules."""
        return _recall(self.threshold) if self.threshold.startswith("recall:") else None
