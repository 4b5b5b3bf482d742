"""Heads: pooling and last layers, from the last feature map to the logits.

The head decides whether truncation can act on the last stage: behind `avg` all gradients of a
channel are equal there, behind `max` only one is not 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, fx, nn

from ltcam_cli.classifier.kinds import any_log_odds
from ltcam_cli.data.geometry import starts

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


class Windows(nn.Module):
    """Means of overlapping windows: (N, C, H, W) -> (N, C, K, 1), as many as cover the map.

    A window of the last feature map is a crop of the image, at the cost of none: what crops share
    is computed once, and each sees what surrounds it.
    """

    def __init__(self, side: int) -> None:
        """Windows of `side` cells, or the whole map's where that is less; they overlap by half."""
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        """Average each window."""
        return window_means(x, self.side)


class NoisyOr(nn.Module):
    """Logits of an image of whose K windows at least one is defective: multiple-instance learning.

    P = 1 - Π(1 - σ(z_k + c)), Viola, Platt and Zhang 2005. The constant c, with
    1 - (1 - σ(c))^K = 1/2, lets an image of undecided windows be undecided, however many it has.
    Of the log-odds y of P, ∂y/∂z_k = p_k / P: the maps are of the windows that decided.
    """

    def __init__(self, channels: int, logits: int) -> None:
        super().__init__()
        self.window = nn.Linear(channels, logits)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, L) of windows (N, C K)."""
        return any_window(self.window(x.unflatten(1, (self.window.in_features, -1)).mT))


@fx.wrap  # tracing does not look inside
def window_means(x: Tensor, side: int) -> Tensor:
    """See `Windows`."""
    height, width = (min(side, length) for length in x.shape[-2:])
    means = [
        x[:, :, top : top + height, left : left + width].mean(dim=(2, 3))
        for top in starts(x.shape[-2], height, 0.5)
        for left in starts(x.shape[-1], width, 0.5)
    ]
    return torch.stack(means, dim=2)[..., None]


@fx.wrap
def any_window(z: Tensor) -> Tensor:
    """Logits (N, L) of those (N, K, L) of windows; see `NoisyOr`."""
    count, windows, logits = z.shape
    undecided = math.log(math.expm1(math.log(2) / windows))
    return any_log_odds(z.mT.flatten(0, 1) + undecided).view(count, logits)


def make_head(
    name: str, channels: int, logits: int, hidden: int, dropout: float, window: int
) -> tuple[nn.Module, nn.Module]:
    """Pooling (N, C, H, W) -> (N, C, h, w), and classifier of its flat output.

    Args:
        name: Kind of head: `fc` (pooled to 7 x 7, one hidden layer), `avg`, `max`, `lse` or
            `noisy_or` (of windows).
        channels: Channels of the last feature map.
        logits: Outputs of the classifier.
        hidden: Width of the hidden layer of `fc`.
        dropout: Probability of dropout between hidden and last layer of `fc`.
        window: Side of a window of `noisy_or`, in cells of the last feature map.
    """
    if name == "fc":
        classifier = nn.Sequential(
            nn.Linear(channels * GRID**2, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, logits),
        )
        return nn.AdaptiveAvgPool2d(GRID), classifier
    if name == "noisy_or":
        return Windows(window), NoisyOr(channels, logits)
    pools: dict[str, Callable[[], nn.Module]] = {
        "avg": lambda: nn.AdaptiveAvgPool2d(1),
        "max": lambda: nn.AdaptiveMaxPool2d(1),
        "lse": LsePool,
    }
    return pools[name](), nn.Linear(channels, logits)
