"""What follows a layer, as a network of its own: what comes before need not run again."""

from __future__ import annotations

from torch import fx, nn


class _Tracer(fx.Tracer):
    """Looks into containers, but not into the layer, nor into modules without children."""

    def __init__(self, layer: str) -> None:
        super().__init__()
        self.layer = layer

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name == self.layer or not any(m.children())


def tail(model: nn.Module, layer: str) -> nn.Module | None:
    """A network that maps the layer's output to the model's; it shares the model's modules.

    Args:
        model: in the mode in which it is to run.
        layer: module name, called once in a forward.

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
    graph = fx.Graph()
    copies = {start[0]: graph.placeholder("output")}
    for node in nodes:
        known = [parent in copies for parent in node.all_input_nodes]
        if not any(known) or node in copies:
            continue
        if not all(known):
            return None
        copies[node] = graph.node_copy(node, copies.__getitem__)
    return fx.GraphModule(model, graph)
