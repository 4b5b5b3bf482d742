"""Losses of pixels, of which some have no label, and of whole images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ltcam_cli.student.config import LossConfig
from ltcam_cli.student.labels import BACKGROUND, DEFECT, IGNORED


def segmentation_loss(logits: Tensor, labels: Tensor, config: LossConfig) -> Tensor:
    """Weighted mean over the labelled pixels; 0 if there is none.

    Args:
        logits: Logits (N, h, w) of a defect.
        labels: Labels (N, h, w) uint8: `BACKGROUND`, `DEFECT` or `IGNORED`.
        config: Weights and terms of the loss.
    """
    labelled = labels != IGNORED
    scores, truth = logits[labelled].float(), (labels[labelled] == DEFECT).float()
    losses = F.binary_cross_entropy_with_logits(scores, truth, reduction="none")
    if config.focal_gamma:
        losses = losses * (1 - torch.exp(-losses)).clamp_min(1e-6) ** config.focal_gamma
    defect = truth > 0
    of_defect, of_background = losses[defect], losses[~defect]
    if config.hard_share < 1:
        count = max(1, round(config.hard_share * len(of_background)))
        of_background = of_background.topk(min(count, len(of_background))).values
    auto = min(config.pos_weight_cap, len(of_background) / max(1, len(of_defect)))
    weight = auto if isinstance(config.pos_weight, str) else config.pos_weight
    total = weight * len(of_defect) + len(of_background)
    loss = (weight * of_defect.sum() + of_background.sum()) / max(1, total)
    if config.dice and len(of_defect):
        p = torch.sigmoid(scores)
        overlap = 2 * (p * truth).sum() + 1
        loss = loss + config.dice * (1 - overlap / (p.sum() + truth.sum() + 1))
    return loss


def decision_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean binary cross-entropy of whole crops' decisions; 0 if no crop has a label.

    A crop is defective where one of its pixels is labelled as defect, and good where all are
    background: a part of a defective image need not show the defect. Others have no label.

    Args:
        logits: Logits (N,) of a defect.
        labels: Labels (N, h, w) uint8 of the pixels.
    """
    defective = (labels == DEFECT).flatten(1).any(dim=1)
    labelled = defective | (labels == BACKGROUND).flatten(1).all(dim=1)
    truth = defective.to(logits.dtype)
    losses = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return (losses * labelled).sum() / labelled.sum().clamp_min(1)
