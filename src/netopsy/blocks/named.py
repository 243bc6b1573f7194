"""A block by its name."""

from __future__ import annotations

from netopsy.blocks.block import Block, describe_block
from netopsy.blocks.find import _NORMS, _modules, find_blocks
from netopsy.blocks.flow import Flow, bits
from netopsy.errors import SettingsError, UnknownLayer, nearest
from netopsy.network.activations import ELEMENTWISE
from netopsy.network.network import Network


def find_block(network: Network, name: str) -> Block:
    """The block called `name`: one that is listed, a module's path, or `FIRST:LAST` of layers, modules or nodes.

    FIRST:LAST is the smallest stretch with one input and one output that holds both; behind a LAST that is a layer the
    norm and the activation that follow it are inside too.
    Errors: UnknownLayer for a name of nothing, SettingsError for a stretch that has several inputs or outputs, or no
    layer.
    """
    blocks = {block.name: block for block in find_blocks(network)}
    if name in blocks:
        return blocks[name]
    flow = Flow.of(network)
    modules = _modules(flow)
    if name in modules:
        region = modules[name]
    elif ":" in name:
        region = _between(network, flow, name, modules)
    else:
        raise UnknownLayer(
            f"no block '{name}' in {network.name}; nearest: {nearest(name, [*blocks, *modules])}. "
            f"`netopsy blocks {network.name}` lists all {len(blocks)}; FIRST:LAST names any other stretch."
        )
    block = describe_block(network, flow, name, region) if _layers(network, flow, region) else None
    if block is not None and block.layers:
        same = next((other for other in blocks.values() if other.nodes == block.nodes), None)
        return block if same is None else same
    if not _layers(network, flow, region):
        raise SettingsError(f"'{name}' of {network.name} holds no layer; a block needs one at least.")
    inputs, outputs = ([flow.name(i) for i in ends] for ends in (flow.inputs(region), flow.outputs(region)))
    raise SettingsError(
        f"'{name}' of {network.name} is no block: it reads {_some(inputs)} and gives {_some(outputs)}; a block reads "
        f"one value and gives one. `netopsy blocks {network.name}` lists those that do."
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _layers(network: Network, flow: Flow, region: int) -> bool:
    return any(region >> i & 1 for layer in network.layers for i in flow.calls(network, layer))


def _between(network: Network, flow: Flow, name: str, modules: dict[str, int]) -> int:
    """The smallest region with one input and one output that holds both ends of `FIRST:LAST`."""
    first, _, last = name.partition(":")
    head, tail = (_positions(network, flow, end, modules) for end in (first, last))
    region = flow.between(head[0], tail[-1]) | 1 << head[0] | 1 << tail[-1]
    if head[0] > tail[-1] or (head[0] != tail[-1] and not flow.ancestors[tail[-1]] >> head[0] & 1):
        raise SettingsError(f"'{name}': {last} does not follow {first} in {network.name}; name the earlier one first.")
    region = _close_region(flow, region)
    if any(layer.name == last for layer in network.layers):
        region = _with_followers(network, flow, region)
    return region


def _positions(network: Network, flow: Flow, name: str, modules: dict[str, int]) -> list[int]:
    """The first and last node that `name`, a layer, node or module, stands for."""
    for layer in network.layers:
        if layer.name == name and (calls := flow.calls(network, layer)):
            return [calls[0], calls[-1]]
    if name in network.nodes and network.nodes[name] in flow.index:
        return [flow.position(network, name)] * 2
    if name in modules:
        inside = list(bits(modules[name]))
        return [inside[0], inside[-1]]
    names = [*(layer.name for layer in network.layers), *modules]
    if name in names or name in network.nodes:
        raise SettingsError(f"'{name}' of {network.name} is made from a mask or segments alone, so it is in no block.")
    raise UnknownLayer(f"no layer, module or node '{name}' in {network.name}; nearest: {nearest(name, names)}.")


def _close_region(flow: Flow, region: int) -> int:
    """`region`, grown until it reads one value and gives one."""
    while True:
        inputs, outputs = flow.inputs(region), flow.outputs(region)
        start, end = inputs, outputs
        if len(inputs) > 1 or (inputs and not flow.single(inputs[0])):
            common = -1
            for i in inputs:
                common &= flow.dominators[i]
            start = [i for i in bits(common) if flow.single(i)][-1:]
        if len(outputs) > 1 or (outputs and not flow.single(outputs[0])):
            common = -1
            for i in outputs:
                common &= flow.postdominators[i]
            end = [i for i in bits(common) if common > 0 and flow.single(i)][:1]
        if not start or not end:
            return region
        grown = region | flow.between(start[0], end[0])
        if grown == region:
            return region
        region = grown


def _with_followers(network: Network, flow: Flow, region: int) -> int:
    """`region` with the norm and the activation that alone read its value."""
    while len(out := flow.outputs(region)) == 1:
        readers = flow.readers[out[0]]
        if len(readers) != 1 or flow.results >> out[0] & 1:
            break
        kind = flow.nodes[readers[0]].operator
        if kind not in _NORMS and kind not in ELEMENTWISE:
            break
        if len(flow.reads[readers[0]]) != 1:
            break
        region |= 1 << readers[0]
        if kind in ELEMENTWISE:
            break
    return region
