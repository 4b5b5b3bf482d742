"""The classifier that a training begins with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from ltcam_cli.classifier.backbones import build_classifier
from ltcam_cli.classifier.checkpoint import Classifier, prior_shift
from ltcam_cli.classifier.config import BackboneConfig
from ltcam_cli.classifier.epochs import count_defective
from ltcam_cli.classifier.kinds import ANY
from ltcam_cli.classifier.weights import load_weights, normalization
from ltcam_cli.data.dataset import Dataset
from ltcam_cli.data.sample import Sample
from ltcam_cli.errors import LtcamError


def new_classifier(
    samples: Sequence[Sample],
    dataset: Dataset,
    backbone: BackboneConfig,
    device: torch.device,
    kinds: tuple[str, ...] = (),
) -> Classifier:
    """Untrained classifier, from scratch or with pre-trained weights.

    Args:
        samples: Training images.
        dataset: Data set, of which the size of the images and `channels` are read.
        backbone: Architecture and first weights.
        device: Device of the model.
        kinds: Kinds of defects, of which each is a logit; none: as many logits as the backbone has.

    Raises:
        LtcamError: if it has more than two logits or torchvision's head, or weights do not fit.
    """
    if backbone.head == "own":
        raise LtcamError(
            "backbone.head=own: is for imported models; train with fc, avg, max, lse or noisy_or"
        )
    if backbone.head == "noisy_or" and backbone.logits != 1:
        raise LtcamError(
            f"backbone.logits={backbone.logits}: head noisy_or is of defects alone; set 1"
        )
    if kinds:
        backbone = replace(backbone, logits=len(kinds))
    elif backbone.logits > 2:
        raise LtcamError(f"backbone.logits={backbone.logits}: training takes 1 or 2")
    pretrained = backbone.weights is not None
    channels = 3 if pretrained else dataset.channels
    model = build_classifier(backbone, channels, dataset.input_size)
    mean, std = normalization(model) if pretrained else ((0.5,) * channels, (0.25,) * channels)
    load_weights(model, backbone)
    if kinds:  # so that any defect is as probable as none at first, as in the batches
        last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        nn.init.constant_(last.bias, math.log(2 ** (1 / len(kinds)) - 1))
    model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    classifier = Classifier(
        model,
        backbone,
        channels,
        *dataset.input_size,
        mean=mean,
        std=std,
        fit=dataset.fit,
        prior_shift=prior_shift(count_defective(samples), len(samples)),
    )
    return replace(classifier, classes=kinds, defect=ANY) if kinds else classifier
