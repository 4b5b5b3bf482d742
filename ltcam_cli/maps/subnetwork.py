"""What follows a layer, as a network of its own: what comes before need not run again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ltcam_cli.classifier.heads import LsePool

# Modules whose output in a channel is a function of that channel alone, in eval mode.
CHANNELWISE = (
    nn.ReLU, nn.ReLU6, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d,
    nn.BatchNorm2d, nn.Dropout, nn.Identity, LsePool,
)  # fmt: skip
MAX_OUTPUTS = 2**24  # of a layer, for many ablated channels at once


@dataclass(frozen=True)
class Subnetwork:
    """Maps the layer's output (N, K, h, w) to the model's; shares the model's modules.

    Attributes:
        network: All that follows.
        before, mix, after: The same in three parts, where it begins so: what acts on each channel
            alone, one linear or convolutional layer that mixes them, and the rest.
    """

    network: nn.Module
    before: nn.Module | None = None
    mix: nn.Linear | nn.Conv2d | None = None
    after: nn.Module | None = None

    def ablated(self, A: Tensor, batch: int) -> Tensor:
        """The model's outputs (K, L) when each channel of A (1, K, h, w) in turn is 0.

        A channel that acts alone as far as a linear layer takes its own share out of what that
        layer gives, so the shares are subtracted and only what comes after runs for each.

        Args:
            A: Output of the layer for one image.
            batch: Channels of one run where what follows must run as a whole.
        """
        if self.before is None or self.mix is None or self.after is None:
            return torch.cat([self.network(copies) for copies in ablated_copies(A, batch)])
        whole = self.before(A.clone())
        change = whole - self.before(torch.zeros_like(A))
        mixed = self.mix(whole)
        shares = _shares_of(self.mix, change, A.shape[1])
        parts = torch.arange(A.shape[1]).split(max(1, MAX_OUTPUTS // mixed.numel()))
        return torch.cat(
            [self.after(mixed - shares(slice(int(k[0]), int(k[-1]) + 1))) for k in parts]
        )


def ablated_copies(A: Tensor, batch: int) -> Iterator[Tensor]:
    """Copies of A (1, K, h, w), each with one channel set to 0 in turn, `batch` in one tensor."""
    for channels in torch.arange(A.shape[1], device=A.device).split(batch):
        copies = A.repeat(len(channels), 1, 1, 1)
        copies[torch.arange(len(channels), device=A.device), channels] = 0
        yield copies


def _shares_of(
    mix: nn.Linear | nn.Conv2d, change: Tensor, channels: int
) -> Callable[[slice], Tensor]:
    """A function: what each of M channels alone adds to the layer's output, (M, *output)."""
    if isinstance(mix, nn.Linear):
        flat = change.view(channels, -1)  # (K, P), flattened before
        weight = mix.weight.view(mix.out_features, channels, -1)
        return lambda part: torch.einsum("kp,okp->ko", flat[part], weight[:, part])

    def shares(part: slice) -> Tensor:
        weight = mix.weight[:, part].transpose(0, 1)  # (M, O, h, w): a group a channel
        output = F.conv2d(
            change[:, part], weight.flatten(0, 1)[:, None], None,
            mix.stride, mix.padding, mix.dilation, groups=len(weight),
        )  # fmt: skip
        return output.view(*weight.shape[:2], *output.shape[2:])

    return shares


def subnetwork_after(model: nn.Module, layer: str) -> Subnetwork | None:
    """What follows the layer in the model.

    Args:
        model: Model in the mode in which it is to run.
        layer: Module name, called once in a forward.

    Returns:
        None where the model cannot be traced, or where what follows also reads something that is
        computed beside the layer.
    """
    try:
        nodes = _Tracer(layer).trace(model).nodes
    except Exception:  # control flow that depends on values raises many kinds
        return None
    start = [node for node in nodes if node.op == "call_module" and node.target == layer]
    if len(start) != 1:
        return None
    reached = {start[0]}
    following: list[fx.Node] = []
    for node in nodes:
        inputs = [parent in reached for parent in node.all_input_nodes]
        if node in reached or not any(inputs):
            continue
        if not all(inputs):
            return None
        reached.add(node)
        following.append(node)
    network = _network(model, start[0], following)
    number = _mixing_layer(model, start[0], following)
    if number is None:
        return Subnetwork(network)
    before, mix, after = following[:number], following[number], following[number + 1 :]
    return Subnetwork(
        network,
        _network(model, start[0], before),
        model.get_submodule(str(mix.target)),  # type: ignore[arg-type]
        _network(model, mix, after),
    )


def _network(model: nn.Module, start: fx.Node, nodes: Sequence[fx.Node]) -> fx.GraphModule:
    """The nodes as a network of the output of `start`."""
    graph = fx.Graph()
    copies = {start: graph.placeholder("output")}
    for node in nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    if not nodes or nodes[-1].op != "output":
        graph.output(copies[nodes[-1] if nodes else start])
    return fx.GraphModule(model, graph)


def _mixing_layer(model: nn.Module, start: fx.Node, nodes: Sequence[fx.Node]) -> int | None:
    """Number of the first node that mixes channels, if it is linear; None where it is not."""
    last, flat = start, False
    for number, node in enumerate(nodes):
        if node.all_input_nodes != [last] or len(last.users) != 1:
            return None
        module = model.get_submodule(str(node.target)) if node.op == "call_module" else None
        if isinstance(module, nn.Linear):
            return number if flat else None
        if isinstance(module, nn.Conv2d):
            plain = module.groups == 1 and module.padding_mode == "zeros"
            return number if plain and not flat else None
        if _flattens(node, module):
            flat = True
        elif not isinstance(module, CHANNELWISE):
            return None
        last = node
    return None


def _flattens(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether it makes (N, K, h, w) to (N, K·h·w)."""
    if isinstance(module, nn.Flatten):
        return (module.start_dim, module.end_dim) == (1, -1)
    return node.target in (torch.flatten, "flatten") and node.args[1:] == (1,) and not node.kwargs


class _Tracer(fx.Tracer):
    """Looks into containers, but not into the layer, nor into modules without children."""

    def __init__(self, layer: str) -> None:
        super().__init__()
        self.layer = layer

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name == self.layer or not any(m.children())
