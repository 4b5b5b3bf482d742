"""What a student's logits cost against labels of which some are unknown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ltcam_cli.errors import LtcamError
from ltcam_cli.student.labels import DEFECT, IGNORED

AUTO = "auto"


@dataclass
class LossConfig:
    """The student's loss.

    Attributes:
        pos_weight: of defect pixels; `auto`: background over defect pixels of the batch, but at
            most `pos_weight_cap`, since a great one makes masks too generous.
        pos_weight_cap: see there.
        dice: weight of the dice loss (Milletari et al. 2016) beside cross-entropy.
        focal_gamma: the cross-entropy of a pixel is multiplied by (1 - p)^gamma, p the probability
            of its label (Lin et al. 2017).
        hard_share: share of the background pixels of a batch that count: those of the greatest
            loss.
    """

    pos_weight: Any = 1.0
    pos_weight_cap: float = 4.0
    dice: float = 0.2
    focal_gamma: float = 0.0
    hard_share: float = 1.0

    def __post_init__(self) -> None:
        number = isinstance(self.pos_weight, (int, float)) and not isinstance(self.pos_weight, bool)
        if self.pos_weight != AUTO and not (number and self.pos_weight > 0):
            raise LtcamError(
                f"student.loss.pos_weight={self.pos_weight}: must be auto or a number above 0"
            )
        if not 0 < self.hard_share <= 1:
            raise LtcamError(f"student.loss.hard_share={self.hard_share:g}: must lie in (0, 1]")
        for key in ("pos_weight_cap", "dice", "focal_gamma"):
            if getattr(self, key) < 0:
                raise LtcamError(f"student.loss.{key}={getattr(self, key):g}: must not be negative")


def loss_of(logits: Tensor, labels: Tensor, config: LossConfig) -> Tensor:
    """The weighted mean over the pixels with a label; 0 if there is none.

    Args:
        logits: (N, h, w).
        labels: (N, h, w) uint8 of `BACKGROUND`, `DEFECT` and `IGNORED`.
    """
    known = labels != IGNORED
    found, truth = logits[known], (labels[known] == DEFECT).float()
    each = F.binary_cross_entropy_with_logits(found, truth, reduction="none")
    if config.focal_gamma:
        each = each * (1 - torch.exp(-each)).clamp_min(1e-6) ** config.focal_gamma
    defect = truth > 0
    of_defect, of_background = each[defect], each[~defect]
    if config.hard_share < 1:
        kept = max(1, round(config.hard_share * len(of_background)))
        of_background = of_background.topk(min(kept, len(of_background))).values
    weight = config.pos_weight
    if weight == AUTO:
        weight = min(config.pos_weight_cap, len(of_background) / max(1, len(of_defect)))
    total = weight * len(of_defect) + len(of_background)
    loss = (weight * of_defect.sum() + of_background.sum()) / max(1, total)
    if config.dice and len(of_defect):
        p = torch.sigmoid(found)
        overlap = 2 * (p * truth).sum() + 1
        loss = loss + config.dice * (1 - overlap / (p.sum() + truth.sum() + 1))
    return loss
