"""Maps as one graph without autograd: what forward and backward compute, recorded once.

ONNX has no backward operators, so those of convolution and max pooling are written as forward ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._decomp import get_decompositions
from torch.fx.experimental.proxy_tensor import make_fx

aten = torch.ops.aten


def recorded(function: Callable[[Tensor], Any], example: Tensor) -> fx.GraphModule:
    """A function with its `torch.autograd.grad` inside as a graph of plain operators.

    Args:
        function: Function of one tensor, free of control flow by values.
        example: Tensor of the shape that the graph is of.
    """
    rules: dict[Any, Callable[..., Any]] = {
        **get_decompositions([aten.native_batch_norm_backward, aten.native_layer_norm_backward]),
        aten._adaptive_avg_pool2d_backward.default: _average_pool_backward,
        aten.convolution_backward.default: _convolution_backward,
        aten.max_pool2d_with_indices_backward.default: _max_pool_backward,
    }
    with torch.no_grad():
        graph = make_fx(function, decomposition_table=rules, tracing_mode="fake",
                        _allow_non_fake_inputs=True)(example)  # fmt: skip
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _convolution_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
) -> tuple[Tensor | None, None, None]:
    """Gradient of the input alone: the transposed convolution (parameters are frozen)."""
    if transposed or any(output_mask[1:]):
        raise NotImplementedError("gradients of weights or transposed convolutions")
    if not output_mask[0]:
        return None, None, None
    rest = [
        x.shape[2 + i]
        - ((gradient.shape[2 + i] - 1) * stride[i] - 2 * padding[i])
        - dilation[i] * (weight.shape[2 + i] - 1)
        - 1
        for i in range(len(stride))
    ]
    g = aten.convolution(gradient, weight, None, stride, padding, dilation, True, rest, groups)
    return g, None, None


def _average_pool_backward(gradient: Tensor, x: Tensor) -> Tensor:
    """P_hᵀ g P_w of an average pooling P_h x P_wᵀ to another grid."""
    rows, columns = (_averages(gradient.shape[i], x.shape[i]).to(gradient) for i in (2, 3))
    return rows.T @ gradient @ columns


def _averages(count: int, length: int) -> Tensor:
    """(count, length): row i averages the places ⌊i·length/count⌋ to ⌈(i+1)·length/count⌉ - 1."""
    i, place = torch.arange(count)[:, None], torch.arange(length)
    start = torch.div(i * length, count, rounding_mode="floor")
    end = torch.div((i + 1) * length + count - 1, count, rounding_mode="floor")
    inside = ((place >= start) & (place < end)).to(torch.float32)
    return inside / inside.sum(dim=1, keepdim=True)


def _max_pool_backward(
    gradient: Tensor,
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    indices: Tensor,
) -> Tensor:
    """Each gradient added at the place of its window's maximum."""
    flat = torch.zeros_like(x).flatten(2)
    return flat.scatter_add(2, indices.flatten(2), gradient.flatten(2)).view(x.shape)
