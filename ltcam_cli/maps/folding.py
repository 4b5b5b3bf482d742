"""Batch norms as part of the convolutions before them, which saves their passes."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def folded(model: nn.Module, keep: Collection[str] = ()) -> nn.Module:
    """Copy of a model for inference: γ (w∗x + b - μ) / √(σ² + ε) + β is one convolution.

    Activations and gradients are the same up to rounding, except those between the two. The batch
    norm becomes an identity, so that all modules keep their names.

    Args:
        model: CNN; a convolution is followed by a batch norm if it is by the order of their
            registration, as in all of torchvision's.
        keep: Names of modules whose outputs are needed as they are.

    Returns:
        The copy in eval mode; the model itself if it has nothing to fold.
    """
    pairs = [
        (parent, *names)
        for parent, *names in _pairs(model)
        if not {f"{parent}.{name}".lstrip(".") for name in names} & {*keep}
    ]
    if not pairs:
        return model
    model = copy.deepcopy(model).eval()
    for parent, convolution, norm in pairs:
        module = model.get_submodule(parent)
        both = fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm))
        setattr(module, convolution, both)
        setattr(module, norm, nn.Identity())
    return model


def _pairs(model: nn.Module) -> Iterator[tuple[str, str, str]]:
    """Parent's name and names in it of each convolution and its batch norm."""
    for parent, module in model.named_modules():
        for (first, before), (second, after) in pairwise(module.named_children()):
            if isinstance(before, nn.Conv2d) and _has_statistics(after):
                yield parent, first, second


def _has_statistics(module: nn.Module) -> bool:
    return isinstance(module, nn.BatchNorm2d) and module.running_mean is not None
