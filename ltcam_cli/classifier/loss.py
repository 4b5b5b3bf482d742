"""Loss of a classification, and whether a training has left that of a guess."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LEFT = 0.95  # share of the guess's loss below which a training has left it


def classification_loss(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Binary cross-entropy of one logit, cross-entropy of two.

    Args:
        logits: Logits (N, 1) or (N, 2).
        labels: Labels (N,), 0 or 1, or as floats the share of a defect.
        smoothing: ε; the target becomes share (1 - ε) + ε/2 (Szegedy et al. 2016).
    """
    logits = logits.float()
    if logits.shape[1] == 1:
        share = labels.float() * (1 - smoothing) + smoothing / 2
        return F.binary_cross_entropy_with_logits(logits[:, 0], share)
    target = torch.stack([1 - labels, labels], dim=1) if labels.is_floating_point() else labels
    return F.cross_entropy(logits, target, label_smoothing=smoothing)


class Chance:
    """Loss of a training's batches beside that of a guess, since `start`."""

    def __init__(self, smoothing: float) -> None:
        """Takes ε of label smoothing."""
        self.smoothing = smoothing
        self.start()

    def start(self) -> None:
        """Forget what was."""
        self._losses: list[Tensor] = []
        self._shares: list[Tensor] = []

    def update(self, loss: Tensor, labels: Tensor) -> None:
        """Take a batch's mean cross-entropy, and its labels (N,), or shares of a defect."""
        self._losses.append(loss.detach())
        self._shares.append(labels.float().mean())

    def warning(self) -> str | None:
        """What is wrong, if the loss has not left the guess's; None if it has.

        The best guess is one probability for all images, the mean target t, of one or two logits;
        its cross-entropy is -t ln t - (1 - t) ln(1 - t): ln 2 of balanced batches.
        """
        loss = sum(map(float, self._losses)) / len(self._losses)
        share = sum(map(float, self._shares)) / len(self._shares)
        target = share * (1 - self.smoothing) + self.smoothing / 2
        guess = -sum(t * math.log(t) for t in (target, 1 - target) if t > 0)
        if loss < LEFT * guess:
            return None
        return f"the loss {loss:.4f} is still that of a guess ({guess:.4f}): nothing is learnt yet"
