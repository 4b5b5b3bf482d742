"""Kinds of defects: a logit of each, and what they say together of any defect.

The kinds are independent (several may be in one image), so the probability of a defect is
P = 1 - Π(1 - p_k) with p_k = σ(z_k), a noisy or. Its log-odds y have ∂y/∂z_k = p_k / P, the
probability that a defective image has the kind k: a map of y is that of the kinds that are there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from ltcam_cli.data.sample import Sample

ANY: Final = "any"
TINY = 1e-30
PROBABILITY = "probability_"  # begins the column of a kind


@dataclass(frozen=True)
class KindVerdict:
    """What a classifier says of the kinds of an image; nothing, if it tells none apart.

    Attributes:
        probabilities: Probability of each kind.
        likely: Kinds that the image has if it is defective: those with at least half of its
            probability, or the most probable one.
    """

    probabilities: Mapping[str, float] = field(default_factory=dict)
    likely: tuple[str, ...] = ()

    def columns(self, predicted: bool) -> dict[str, Any]:
        """Cells of tables: the kinds of an image that is called defective, and probabilities."""
        if not self.probabilities:
            return {}
        named = {f"{PROBABILITY}{kind}": p for kind, p in self.probabilities.items()}
        return {"predicted_kind": "+".join(self.likely) if predicted else "", **named}


def kind_verdicts(kinds: Sequence[str], shares: Tensor, probability: Tensor) -> list[KindVerdict]:
    """Verdicts on images.

    Args:
        kinds: Names of K kinds; none: verdicts that say nothing.
        shares: Probability (N, K) of each kind of an image that is defective.
        probability: Probability (N,) of a defect.
    """
    if not kinds:
        return [KindVerdict()] * len(probability)
    likely = (shares >= 0.5) | (shares == shares.amax(dim=1, keepdim=True))
    return [
        KindVerdict(
            dict(zip(kinds, values, strict=True)),
            tuple(kind for kind, has in zip(kinds, flags, strict=True) if has),
        )
        for values, flags in zip(
            (shares * probability[:, None]).tolist(), likely.tolist(), strict=True
        )
    ]


def any_log_odds(logits: Tensor) -> Tensor:
    """Log-odds (N,) of 1 - Π(1 - σ(z_k)) of logits z (N, K); of one kind, its logit."""
    total = F.softplus(logits.float()).sum(dim=1).clamp_min(TINY)  # -log Π(1 - p_k)
    return total + torch.log(-torch.expm1(-total))


def kind_targets(samples: Sequence[Sample], kinds: Sequence[str]) -> Tensor:
    """(N, K) float: whether a sample has a kind; a row of NaN if its defect is of unknown kind."""
    rows = [
        [float("nan")] * len(kinds)
        if sample.label and not sample.kinds
        else [float(bool(sample.label) and kind in sample.kinds) for kind in kinds]
        for sample in samples
    ]
    return torch.tensor(rows)


def kind_loss(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean negative log-likelihood of the images' kinds; 0 of images whose kinds are not known.

    Args:
        logits: Logits (N, K).
        targets: Targets (N, K), see `kind_targets`.
        smoothing: ε; the targets become t (1 - ε) + ε/2.
    """
    unknown = targets.isnan().any(dim=1)
    shares = targets.nan_to_num() * (1 - smoothing) + smoothing / 2
    each = F.binary_cross_entropy_with_logits(logits.float(), shares, reduction="none")
    return each.sum(dim=1).masked_fill(unknown, 0).mean()
