"""Heads: pooling and last layers, from the last feature map to the logits.

The head decides whether truncation can act on the last stage: behind `avg` all gradients of a
channel are equal there, behind `max` only one is not 0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

GRID = 7  # side of a fully connected head's grid, as in VGG16


class LsePool(nn.Module):
    """Log-sum-exp pooling (N, C, H, W) -> (N, C, 1, 1), between mean (r -> 0) and max (r -> inf).

    (1/r) log mean_ij exp(r x_ij), Pinheiro and Collobert 2015, eq. 1.
    """

    def __init__(self, r: float = 4.0) -> None:
        super().__init__()
        self.r = r

    def forward(self, x: Tensor) -> Tensor:
        """Pool the two last axes to 1 x 1."""
        count = torch.tensor(x.shape[-2] * x.shape[-1], dtype=x.dtype, device=x.device)
        pooled = torch.logsumexp(self.r * x, dim=(2, 3), keepdim=True)
        return (pooled - count.log()) / self.r


def make_head(
    name: str, channels: int, logits: int, hidden: int, dropout: float
) -> tuple[nn.Module, nn.Module]:
    """Pooling (N, C, H, W) -> (N, C, h, w), and classifier of its flat output.

    Args:
        name: Kind of head: `fc` (pooled to 7 x 7, one hidden layer), `avg`, `max` or `lse`.
        channels: Channels of the last feature map.
        logits: Outputs of the classifier.
        hidden: Width of the hidden layer of `fc`.
        dropout: Probability of dropout between hidden and last layer of `fc`.
    """
    if name == "fc":
        classifier = nn.Sequential(
            nn.Linear(channels * GRID**2, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, logits),
        )
        return nn.AdaptiveAvgPool2d(GRID), classifier
    pools: dict[str, Callable[[], nn.Module]] = {
        "avg": lambda: nn.AdaptiveAvgPool2d(1),
        "max": lambda: nn.AdaptiveMaxPool2d(1),
        "lse": LsePool,
    }
    return pools[name](), nn.Linear(channels, logits)
