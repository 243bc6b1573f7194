"""The blocks of a network: all that it has by itself, the table of them, and one by its name."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import polars as pl

from netopsy.blocks.block import Block, describe_block, is_pooling
from netopsy.blocks.fit import layer_shape
from netopsy.blocks.flow import Flow, bits
from netopsy.errors import SettingsError, UnknownLayer, nearest
from netopsy.network.activations import ELEMENTWISE
from netopsy.network.network import Network, check_network
from netopsy.network.program import Program

_NORMS = {"batch_norm", "layer_norm", "native_layer_norm", "group_norm", "native_group_norm", "instance_norm"}

_cache: weakref.WeakKeyDictionary[Program, tuple[Block, ...]] = weakref.WeakKeyDictionary()


def find_blocks(network: Network) -> tuple[Block, ...]:
    """Every block of `network` with at least two layers, in order of execution, an outer one before an inner one.

    These are the modules whose nodes have one input and one output, and the stretches between the poolings of the
    chain that all paths pass, named `FIRST:LAST` by their layers. A pooling at the end is never inside. Of two modules
    that hold the same nodes the one with the shorter path is listed. A stretch is listed where one layer can stand in
    for it and no module that one can holds just its layers. The layer that gives the network's output is in no stretch.
    """
    if network.program not in _cache:
        _cache[network.program] = _search_blocks(network)
    return _cache[network.program]


def default_blocks(network: Network) -> tuple[Block, ...]:
    """The blocks to triage where none is named: those inside no other; of one that is alone, those inside it.

    Blocks that no one layer can stand in for are replaced by those inside them, and so is a stretch with more than two
    thirds of all layers: it is rather the network than a block of it (Inception v3 between its poolings). Classifiers,
    whose values are single vectors, are left out where the network has other blocks, and so is what gives the
    network's output, unless that is a vector at each place, as of an encoder.
    """
    every = {block.name: block for block in find_blocks(network)}
    usable = {name: block for name, block in every.items() if block.output != network.output or block.kind == "tokens"}
    if any(block.kind != "linear" and block.obstacle is None for block in usable.values()):
        usable = {name: block for name, block in usable.items() if block.kind != "linear"}

    def inside(parent: str | None) -> list[Block]:
        blocks: list[Block] = []
        for block in every.values():
            if block.parent == parent:
                unfit = block.name not in usable or block.obstacle is not None
                most = ":" in block.name and 3 * len(block.layers) > 2 * len(network.layers)
                children = inside(block.name) if unfit or most else []
                blocks += children if unfit or children else [block]
        return blocks

    chosen = inside(None)
    while len(chosen) == 1 and (children := inside(chosen[0].name)):
        chosen = children
    return tuple(chosen)


def _search_blocks(network: Network) -> tuple[Block, ...]:
    flow = Flow.of(network)
    blocks: dict[tuple[str, ...], Block] = {}
    for path, region in sorted(_modules(flow).items(), key=lambda entry: (entry[0].count("."), len(entry[0]))):
        block = describe_block(network, flow, path, region) if _has_two_layers(network, flow, region) else None
        whole = block is not None and network.nodes[block.input].op == "placeholder"
        is_network = whole and block is not None and block.output == network.output
        if block is not None and len(block.layers) > 1 and not is_network:
            blocks.setdefault(block.nodes, block)
    layer_sets = {block.layers for block in blocks.values() if block.obstacle is None}
    for block in _stretches(network, flow):
        if block.layers not in layer_sets and block.obstacle is None:
            blocks.setdefault(block.nodes, block)
    order = {name: i for i, name in enumerate(network.nodes)}
    ordered = sorted(blocks.values(), key=lambda b: (order.get(b.nodes[0], order[b.output]), -len(b.nodes)))
    return tuple(replace(block, parent=_parent(block, ordered)) for block in ordered)


def _has_two_layers(network: Network, flow: Flow, region: int) -> bool:
    """Whether at least two layers have a call in `region`; a cheap test before the costly ones."""
    return sum(any(region >> i & 1 for i in flow.calls(network, layer)) for layer in network.layers) > 1


def _modules(flow: Flow) -> dict[str, int]:
    """The nodes of every module but the root, by path."""
    regions: dict[str, int] = {}
    for i, node in enumerate(flow.nodes):
        for path in node.modules:
            if path:
                regions[path] = regions.get(path, 0) | 1 << i
    return regions


def _stretches(network: Network, flow: Flow) -> Iterator[Block]:
    """The stretches of the chain between poolings, changes of axes, and the layer that gives the output."""
    spine = flow.spine()
    parts = [flow.between(a, b) for a, b in pairwise(spine)]
    calls = {i for layer in network.layers for i in flow.calls(network, layer)}
    holds = [any(i in calls for i in bits(part)) for part in parts]
    final = max((k for k, layered in enumerate(holds) if layered), default=-1)
    run: list[int] = []
    for k, (part, before, after) in enumerate(zip(parts, spine, spine[1:], strict=False)):
        node = flow.nodes[after]
        moved = len(node.full_shape) != len(flow.nodes[before].full_shape)
        if is_pooling(node) or moved or k == final:
            yield from _stretch(network, flow, run, calls)
            run = []
        else:
            run.append(part)
    yield from _stretch(network, flow, run, calls)


def _stretch(network: Network, flow: Flow, run: list[int], calls: set[int]) -> Iterator[Block]:
    """The block of consecutive parts of the chain, from its first layer (or the norm before it) to its last."""

    def works(part: int) -> bool:
        return any(i in calls or flow.nodes[i].operator in _NORMS for i in bits(part))

    while run and not works(run[0]):
        run = run[1:]
    region = 0
    for part in run:
        region |= part
    if len({i for i in bits(region) if i in calls}) < 2:
        return
    block = describe_block(network, flow, "", region)
    if block is not None and len(block.layers) > 1 and block.kind != "tokens":
        yield replace(block, name=f"{block.layers[0]}:{block.layers[-1]}")


def _parent(block: Block, blocks: list[Block]) -> str | None:
    nodes = set(block.nodes)
    around = [other for other in blocks if len(other.nodes) > len(nodes) and nodes < set(other.nodes)]
    return min(around, key=lambda other: len(other.nodes)).name if around else None


_SCHEMA = {
    "block": pl.String,
    "kind": pl.String,
    "layers": pl.Int64,
    "parameters": pl.Int64,
    "share": pl.Float64,
    "macs": pl.Int64,
    "input": pl.String,
    "output": pl.String,
    "layer": pl.String,
    "layer_parameters": pl.Int64,
    "layer_macs": pl.Int64,
    "parent": pl.String,
    "default": pl.Boolean,
    "obstacle": pl.String,
}


def list_blocks(network: Network) -> pl.DataFrame:
    """The blocks of `network` in order of execution, an outer one before an inner one, one row each.

    block: name; kind (conv, tokens, linear); layers, parameters, macs: inside, macs for one image; share: of all the
    network's parameters, 0..1; input, output: shapes without the batch; layer: the one layer that fits in its place,
    with its own layer_parameters and layer_macs; parent: the smallest listed block around it; default: whether it is
    taken where no block is named; obstacle: why no one layer fits.
    """
    check_network(network)
    total = max(network.parameters, 1)
    chosen = {block.name for block in default_blocks(network)}
    rows = [
        {
            "block": block.name,
            "kind": block.kind,
            "layers": len(block.layers),
            "parameters": block.parameters,
            "share": block.parameters / total,
            "macs": block.macs,
            "input": "x".join(map(str, block.input_shape)),
            "output": "x".join(map(str, block.output_shape)),
            **_layer(network, block),
            "parent": block.parent,
            "default": block.name in chosen,
            "obstacle": block.obstacle,
        }
        for block in find_blocks(network)
    ]
    return pl.DataFrame(rows, schema=_SCHEMA)


def _layer(network: Network, block: Block) -> dict[str, str | int | None]:
    if block.obstacle is not None:
        return {"layer": None, "layer_parameters": None, "layer_macs": None}
    shape = layer_shape(network, block)
    places = math.prod(block.output_shape) // shape.outputs
    return {"layer": str(shape), "layer_parameters": shape.parameters, "layer_macs": places * shape.weights}


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
