"""Tiny nets, and the formulas of the maps written out with loops, as an independent truth."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

torch.set_num_threads(1)


class Tiny(nn.Module):
    """Two convolutions, a pool between them, two linear layers; 3 x 12 x 8 -> logits."""

    def __init__(self, logits: int = 2, inplace: bool = True) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.ReLU(inplace=inplace),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 5, 3, padding=1),
            nn.ReLU(inplace=inplace),
        )
        self.classifier = nn.Sequential(nn.Linear(5 * 6 * 4, 6), nn.ReLU(), nn.Linear(6, logits))
        self.stages = {"s1": "features.1", "s2": "features.4", "p1": "features.2"}

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


def tiny(seed: int = 0, logits: int = 2, inplace: bool = True) -> Tiny:
    """A `Tiny` in float64 whose hidden units are mostly alive."""
    torch.manual_seed(seed)
    net = Tiny(logits, inplace).double()
    with torch.no_grad():
        net.features[0].bias += 0.1
        net.features[3].bias += 0.1
        net.classifier[0].bias += 0.3
        net.classifier[2].weight *= 2
    return net


def pictures(count: int = 2, size: tuple[int, int] = (12, 8), channels: int = 3, seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, channels, *size, generator=generator, dtype=torch.float64)


def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random statistics and parameters of batch norms, as after training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
                if module.affine:
                    module.weight.uniform_(0.5, 1.5, generator=generator)
                    module.bias.normal_(0, 0.3, generator=generator)
            elif isinstance(module, nn.Conv2d) and module.bias is not None:
                module.bias.normal_(0, 0.3, generator=generator)
    return model


# A forward of `Tiny` written out


def tail(net: Tiny, layer: int, A: Tensor) -> Tensor:
    """Logits from the output of `features.<layer>`."""
    first, second = net.features[0], net.features[3]
    steps = [
        lambda x: F.conv2d(x, first.weight, first.bias, padding=1),
        torch.relu,
        lambda x: F.max_pool2d(x, 2),
        lambda x: F.conv2d(x, second.weight, second.bias, padding=1),
        torch.relu,
    ]
    for step in steps[layer + 1 :]:
        A = step(A)
    hidden, last = net.classifier[0], net.classifier[2]
    return torch.relu(A.flatten(1) @ hidden.weight.T + hidden.bias) @ last.weight.T + last.bias


def read(net: Tiny, x: Tensor, layer: int, index: int = -1) -> tuple[np.ndarray, np.ndarray]:
    """A and ∂y/∂A of `features.<layer>`, (N, K, h, w) each."""
    first, second = net.features[0], net.features[3]
    z1 = F.conv2d(x, first.weight, first.bias, padding=1)
    a1 = torch.relu(z1)
    p1 = F.max_pool2d(a1, 2)
    z2 = F.conv2d(p1, second.weight, second.bias, padding=1)
    A = [z1, a1, p1, z2, torch.relu(z2)][layer].detach().requires_grad_(True)
    (g,) = torch.autograd.grad(tail(net, layer, A)[:, index].sum(), A)
    return A.detach().numpy(), g.numpy()


def hooked(model: nn.Module, x: Tensor, layer: str, index: int) -> tuple[Tensor, Tensor]:
    """A and g of any model's layer, by a hook that copies."""
    seen = []

    def hook(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        seen.append(output)
        return output.clone()

    modes = {module: module.training for module in model.modules()}
    model.eval()
    handle = model.get_submodule(layer).register_forward_hook(hook)
    with torch.enable_grad():
        logits = model(x.clone().requires_grad_(True))
        handle.remove()
        (g,) = torch.autograd.grad(logits[:, index].sum(), seen[0])
    for module, mode in modes.items():
        module.training = mode
    return seen[0].detach(), g


# The definitions, of one image


def truncated(g: np.ndarray, delta: float, scope: str = "channel") -> np.ndarray:
    """g (K, h, w): kept where >= x_(k), k = ceil((n-1) delta/100), of the positive values."""
    if scope == "channel":
        return np.stack([truncated(channel[None], delta, "layer")[0] for channel in g])
    positive = sorted(value for value in g.ravel().tolist() if value > 0)
    result = np.zeros_like(g)
    if positive:
        k = math.ceil(Fraction(len(positive) - 1) * Fraction(str(delta)) / 100)
        for place in np.ndindex(g.shape):
            if g[place] >= positive[k]:
                result[place] = g[place]
    return result


def bilinear(M: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Half-pixel centres, edges repeated: M (h, w) -> size."""
    (h, w), (H, W) = M.shape, size
    result = np.zeros(size)
    for i in range(H):
        for j in range(W):
            u = min(max((i + 0.5) * h / H - 0.5, 0), h - 1)
            v = min(max((j + 0.5) * w / W - 0.5, 0), w - 1)
            a, b = int(u), int(v)
            c, d = min(a + 1, h - 1), min(b + 1, w - 1)
            s, t = u - a, v - b
            result[i, j] = (1 - s) * ((1 - t) * M[a, b] + t * M[a, d]) + s * (
                (1 - t) * M[c, b] + t * M[c, d]
            )
    return result


def unit(M: np.ndarray) -> np.ndarray:
    """(M - min) / (max - min), or zeros."""
    return (M - M.min()) / (M.max() - M.min()) if M.max() > M.min() else np.zeros_like(M)
