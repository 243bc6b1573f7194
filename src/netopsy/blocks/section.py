"""A part of a network as a module that can be trained, with blocks replaced, or the whole as a network of its own.

It is cut where one stored value feeds all that comes behind.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx, nn

from netopsy.blocks.block import Block
from netopsy.blocks.flow import Flow, side_inputs
from netopsy.blocks.training_ops import Norm, find_dropouts, flat_arguments, norm_path, overwriting
from netopsy.engine.interpreter import ANY_LAYOUT
from netopsy.errors import SettingsError
from netopsy.network.network import Network
from netopsy.network.node import Node
from netopsy.network.program import Origin, Section, origin


def cut_before(network: Network, block: Block) -> str:
    """Name of the last node at or before the block's input that every path from the input to the output passes.

    Its value has one row an image, so that it can be stored and read back in batches. Where several inputs meet behind
    the block there is none, and the first input stands for all of them.
    """
    flow = Flow.of(network)
    at = flow.position(network, block.input)
    passed = [i for i in flow.spine() if i <= at]
    return flow.name(passed[-1]) if passed else network.signature.names[0]


def layer_path(block: Block) -> str:
    """Module path of the new layer in a section: the module's own, or `FIRST_to_LAST` of a stretch."""
    first, colon, last = block.name.partition(":")
    return f"{first}_to_{last.replace('.', '_')}" if colon else first


def section(
    network: Network,
    *,
    start: str = "input",
    end: str | None = None,
    replaced: Sequence[tuple[Block, nn.Module]] = (),
) -> Section:
    """The computation from the value of node `start` to that of `end` (None: the output), with blocks replaced.

    From `input`, or any of several inputs, it takes what the network takes; from another node that node's value, `x`,
    and by their names the masks and segments that a network of tokens takes. It gives one tensor. Parameters and
    buffers are the network's own, not copies, under their own names; a new layer lies at `layer_path(block)`.
    Errors: UnknownLayer for a name of nothing; SettingsError where another value than that of `start` is needed, and
    for blocks that overlap.
    """
    last = network.node(network.output if end is None else end)
    given = _given(network, start)
    first = next(iter(given))
    _check(network, first, replaced)
    instead = {network.nodes[block.output]: (block, layer) for block, layer in replaced}
    order = _nodes_to_compute(network, given, last, instead)
    graph, root = fx.Graph(), nn.Module()
    values: dict[Node, fx.Node] = {node: graph.placeholder(name) for node, name in given.items()}
    drop = _Drops(network, graph, root, values)
    tensors = {**network.program.constants, **network.tensors}
    modules = dict(network.module.named_modules())
    norms: dict[str, Norm] = {}
    names: list[Origin] = []
    for node in order:
        if node in instead:
            block, layer = instead[node]
            _place(root, layer_path(block), layer)
            new = graph.call_module(layer_path(block), (values[network.nodes[block.input]],))
        elif node.op == "get_attr":
            _place(root, node.target, tensors[node.target])
            new = graph.get_attr(node.target)
        elif node.is_batch_size:
            new = graph.call_function(torch.ops.aten.sym_size.int, (values[first], 0))
        else:
            operands, dropped = drop.operands(node)
            if (path := norm_path(tensors, node)) is not None:
                if path not in norms:
                    norms[path] = Norm.of(tensors, path, node, modules.get(path))
                    _place(root, path, norms[path])
                new = graph.call_module(path, (operands[node.args[0]],))
            else:
                target = ANY_LAYOUT.get(node.target, node.target)
                if not dropped and node.args and node.args[0] not in instead and node.args[0] not in given:
                    target = overwriting(node) or target
                new = graph.call_function(target, *node.filled(operands))
            if node.is_tensor:
                names.append(origin(node))
        values[node] = new
    graph.output(drop.output() if end is None else values[last])
    graph.lint()
    layers = {layer_path(block): origin(node) for node, (block, _) in instead.items()}
    return Section.of(root, graph, names, layers).train(network.module.training)


def _given(network: Network, start: str) -> dict[Node, str]:
    """The nodes whose values the section takes, and what they are called in it."""
    names = network.signature.names
    if start == "input" or start in names:
        return {network.nodes[name]: "x" if len(names) == 1 else name for name in names}
    return {network.node(start): "x", **{network.nodes[name]: name for name in side_inputs(network)}}


class _Drops:
    """The dropouts of a section under construction: each is one node, made where it is first read."""

    def __init__(self, network: Network, graph: fx.Graph, root: nn.Module, values: dict[Node, fx.Node]) -> None:
        self.network, self.graph, self.root, self.values = network, graph, root, values
        self.dropouts = find_dropouts(network)
        self.reads = {name for name, _ in self.dropouts.readers}
        self.calls: dict[int, fx.Node] = {}

    def operands(self, node: Node) -> tuple[dict[Node, fx.Node], bool]:
        """The new nodes that the twin of `node` reads, by the old ones, and whether any is a dropout."""
        parents = {parent: self.values[parent] for parent in node.inputs}
        name = node.name
        if name not in self.reads:
            return parents, False
        numbers = {i: n for (reader, i), n in self.dropouts.readers.items() if reader == name}
        return parents | {
            old: self.node(numbers[i]) for i, old in enumerate(flat_arguments(node)) if i in numbers
        }, True

    def output(self) -> fx.Node:
        """What the network's output node reads."""
        returns = [None if node is None else node.name for node in self.network.program.returns.values()]
        number = self.dropouts.readers.get(("output", returns.index(self.network.output)))
        return self.values[self.network.nodes[self.network.output]] if number is None else self.node(number)

    def node(self, number: int) -> fx.Node:
        """The call of dropout `number`."""
        if number not in self.calls:
            dropout = self.dropouts.drops[number]
            source = self.node(dropout.source) if isinstance(dropout.source, int) else self._value(dropout.source)
            path = f"dropouts.{number}"
            _place(self.root, path, dropout.module(self.network))
            self.calls[number] = self.graph.call_module(path, (source,))
        return self.calls[number]

    def _value(self, name: str) -> fx.Node:
        return self.values[self.network.nodes[name]]


def _check(network: Network, first: Node, replaced: Sequence[tuple[Block, nn.Module]]) -> None:
    if not first.per_sample:
        raise SettingsError(
            f"a section cannot begin at '{first.name}': the first axis of its value does not count the images."
        )
    block_of: dict[str, str] = {}
    for block, _ in replaced:
        for name in block.nodes:
            if name in block_of:
                raise SettingsError(f"the blocks {block_of[name]} and {block.name} overlap; replace one of them.")
            block_of[name] = block.name


def _nodes_to_compute(
    network: Network, given: dict[Node, str], last: Node, instead: dict[Node, tuple[Block, nn.Module]]
) -> list[Node]:
    """The nodes to compute, in order; a replaced block is its output node alone."""
    inside = {name: block for block, _ in instead.values() for name in block.nodes if name != block.output}
    needed: set[Node] = set()
    stack = [last] if last not in given else []
    while stack:
        node = stack.pop()
        if node in needed:
            continue
        if node.op == "placeholder":
            raise SettingsError(
                f"the section from '{next(iter(given)).name}' to '{last.name}' needs a value that is made before "
                f"it; begin at a node that all paths pass, as `cut_before` finds it."
            )
        if (block := inside.get(node.name)) is not None:
            raise SettingsError(
                f"the section needs '{node.name}', which is inside the replaced block {block.name}; end it at "
                f"the block's output '{block.output}' or behind it, or keep the block."
            )
        needed.add(node)
        reads = [network.nodes[instead[node][0].input]] if node in instead else node.inputs
        if node.is_batch_size:
            reads = []
        stack += [parent for parent in reads if parent not in given]
    return [node for node in network.program.nodes if node in needed]


def _place(root: nn.Module, path: str, value: nn.Module | torch.Tensor) -> None:
    """Put a module, parameter or buffer at `path` under `root`."""
    *parts, name = path.split(".")
    for part in parts:
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    if isinstance(value, nn.Module):
        root.add_module(name, value)
    elif isinstance(value, nn.Parameter):
        root.register_parameter(name, value)
    elif not hasattr(root, name):
        root.register_buffer(name, value)


def compressed_network(network: Network, replaced: Sequence[tuple[Block, nn.Module]]) -> Network:
    """`network` with blocks replaced by the given modules; all other weights are the network's own, not copies.

    `nn.Identity()` leaves a block out. An output that has a key, as `logits`, keeps it.
    """
    names = ", ".join(block.name for block, _ in replaced)
    module = section(network, replaced=replaced)
    if network.output_name and not network.output_name.isdigit():
        (result,) = (node for node in module.graph.nodes if node.op == "output")
        result.args = ({network.output_name: result.args[0]},)
        module.recompile()
    provenance = {**network.provenance, "compressed": [block.name for block, _ in replaced]}
    how = "left out" if all(isinstance(layer, nn.Identity) for _, layer in replaced) else "as one layer"
    return Network(f"{network.name} with {names} {how}", module, network.preprocessing, provenance)
