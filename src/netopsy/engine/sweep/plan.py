"""The plan of a sweep, made once and before anything runs: what runs together, from where, and how much at once.

Variants that change the same parameters are a group, and the network is split for them. The head is the part whose
weights differ between the variants: it runs once a variant. The tail, everything after it, has the same weights for
all: it runs once for all, the variants folded into one batch.

Where a group shifts weights, a part of its head is linear. Up to the first nonlinear operation after an edited layer, a
value under the weights `w + s * d` is `base + s * delta`: `base` belongs to the unedited network and `delta` is the
same for every strength `s`. One convolution, `conv(d, x)`, then serves all strengths, and so do the batch norm and the
addition of a shortcut that follow it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from netopsy.engine.interpreter import Plan, affected_nodes, boundary, plan
from netopsy.engine.sweep.edits import Shift, Variant
from netopsy.network.graph import aten
from netopsy.network.macs import graph_macs
from netopsy.network.network import Network
from netopsy.network.node import Node

BLOCK_BYTES = 512 << 20
BLOCK_IMAGES = 512
FOLD_BYTES = {"cpu": 4 << 20}  # the largest activation of a piece: what the caches hold
HEAD_BYTES = 64 << 20
ELSEWHERE = 256 << 20
OUTPUT_BYTES = 512 << 20  # outputs of the members of a group, before they are judged
RERUN = 0.6  # what a rerun costs, folded, of the plain run of as many multiply-accumulates (EfficientNet-Lite0: 0.56)
# Work on each value alone: folding gains nothing, so these stay with the head, where a batch norm can be folded too.
# What is taken from several results stays with them: the results together are no value that can be kept.
_LIGHT = {"batch_norm", "add", "relu", "hardtanh", "silu", "hardswish", "gelu", "max_pool2d", "avg_pool2d", "getitem"}


@dataclass(frozen=True)
class EditGroup:
    """members: positions of the variants. tensors: the parameters that they change.

    linear or head: what runs for each variant (the linear part of a shift, or a plan); cut: the values it ends in.
    tail: the plan of the rest, or None where there is none; beside: the unedited values that it reads.
    needs: all unedited values that the group starts from; start: the one of them that is made last.
    *_bytes: the largest activation within, for one image. share: of the network's multiply-accumulates, those that a
    member runs again.
    """

    members: tuple[int, ...]
    tensors: tuple[str, ...]
    linear: Linear | None
    head: Plan | None
    tail: Plan | None
    cut: tuple[str, ...]
    beside: tuple[str, ...]
    needs: tuple[str, ...]
    start: str
    head_bytes: int
    cut_bytes: int
    tail_bytes: int
    share: float


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep will run.

    groups: in the order in which a walk of the network can start them; members: positions of all variants in them. The
    others have no edit, or none that can reach the output: their outputs are the unedited network's.
    walk: of the unedited network, which shows the values that groups start from.
    block: images that are walked at once. piece: images times variants that run at once; None for what `budget`, bytes
    of the largest activation of a piece, has room for.
    """

    network: Network
    variants: tuple[Variant, ...]
    groups: tuple[EditGroup, ...]
    members: frozenset[int]
    walk: Plan
    block: int
    piece: int | None
    budget: int

    @property
    def passes(self) -> float:
        """About how many runs of the whole network a sample costs."""
        return 1 + RERUN * sum(len(group.members) * group.share for group in self.groups)

    def pieces(self, group: EditGroup, members: int) -> tuple[int, int, int]:
        """How `members` variants of a group are run.

        (images that the heads take at once, a multiple of the next; images of a piece of the tail; variants of one)
        """
        fold = self.piece or max(_fewest(8, group.tail_bytes), min(256, self.budget // group.tail_bytes))
        images = max(1, fold // members)
        inside = 256
        if group.linear is None:
            inside = max(_fewest(4, group.head_bytes), self.piece or min(256, self.budget // group.head_bytes))
            if group.tail is None:
                return inside, images, 1
        room = max(1, HEAD_BYTES // (group.cut_bytes * members))
        return max(1, min(inside, room) // images) * images, images, max(1, fold // images)


def make_plan(network: Network, variants: Sequence[Variant], piece: int | None = None) -> SweepPlan:
    """The plan for `variants` of `network`; piece: images times variants that run at once, None chooses."""
    groups, each = _groups(network, variants), value_bytes(network, network.output)
    most = max(1, OUTPUT_BYTES // each)  # of a large vocabulary few variants at a time
    groups = tuple(part for group in groups for part in _split(group, most))
    largest = max((len(group.members) for group in groups), default=1)
    needs = dict.fromkeys(name for group in groups for name in group.needs)
    return SweepPlan(
        network=network,
        variants=tuple(variants),
        groups=groups,
        members=frozenset(position for group in groups for position in group.members),
        walk=plan(network, [network.output], watched=list(needs)),
        block=min(_block(network, groups), max(1, most // largest)),
        piece=piece,
        budget=FOLD_BYTES.get(network.device.type, ELSEWHERE),
    )


def _fewest(count: int, each: int) -> int:
    """`count` pieces, or as many of `each` bytes as there is room for."""
    return max(1, min(count, ELSEWHERE // each))


def _split(group: EditGroup, most: int) -> list[EditGroup]:
    """The group in parts of at most `most` members."""
    return [replace(group, members=group.members[i : i + most]) for i in range(0, len(group.members), most)]


def last_use(groups: Iterable[EditGroup]) -> dict[str, str]:
    """For each value that groups start from, the node after which it may go: where the last of them starts."""
    last: dict[str, str] = {}
    for group in groups:  # in the order of their starts
        last |= dict.fromkeys(group.needs, group.start)
    return last


def _block(network: Network, groups: Sequence[EditGroup]) -> int:
    """Images in a block, such that the unedited values in memory at once stay under BLOCK_BYTES; at least 1."""
    alive, peak, last = 0, 0, last_use(groups)
    sizes = {name: value_bytes(network, name) for name in network.nodes}
    ends: dict[str, int] = {}
    for name, size in sizes.items():
        if name in last:
            alive += size
            ends[last[name]] = ends.get(last[name], 0) + size
        peak = max(peak, alive + 3 * size)
        alive -= ends.get(name, 0)
    return max(1, min(BLOCK_IMAGES, BLOCK_BYTES // max(peak, 1)))


def _groups(network: Network, variants: Sequence[Variant]) -> tuple[EditGroup, ...]:
    """The groups in the order in which a walk of the network can start them.

    Variants without an edit, and those whose parameters cannot reach the output, belong to no group.
    """
    sets: dict[tuple[bool, frozenset[str]], list[int]] = {}
    for position, variant in enumerate(variants):
        if variant.edit is not None:
            sets.setdefault((isinstance(variant.edit, Shift), frozenset(variant.edit.tensors)), []).append(position)
    groups = [
        group
        for (shift, tensors), members in sets.items()
        if (group := _group(network, sorted(tensors), members, shift)) is not None
    ]
    rank = {name: i for i, name in enumerate(network.nodes)}
    return tuple(sorted(groups, key=lambda group: rank[group.start]))


def value_bytes(network: Network, name: str) -> int:
    """Bytes of a node's value for one image."""
    node = network.nodes[name]
    assert node.dtype is not None
    return max(1, math.prod(node.full_shape)) * node.dtype.itemsize


def _group(network: Network, tensors: list[str], members: list[int], shift: bool) -> EditGroup | None:
    changed = affected_nodes(network, tensors)
    output = network.nodes[network.output]
    if output not in changed:
        return None
    linear = linear_part(network, tensors) if shift else None
    if linear is not None and not all(network.nodes[name].per_sample for name in (*linear.inputs, *linear.exits)):
        linear = None
    inside = set(linear.steps) if linear else _head(network, tensors, changed)
    cut = linear.exits if linear else _boundary_names(inside, output)
    if not all(name in network.nodes and network.nodes[name].per_sample for name in cut) and output not in inside:
        inside, cut = changed, (network.output,)
    before = () if linear else boundary(network, inside, usable=_by_sample)
    tail, beside = None, tuple[str, ...]()
    if output not in inside:
        beside = tuple(x for x in boundary(network, changed - inside, usable=_by_sample) if x not in cut)
        tail_inputs = (*cut, *beside)
        tail = plan(network, [network.output], given=tail_inputs, consumed=tail_inputs, folded=True)
    else:
        cut = (network.output,)
    head = None if linear else plan(network, cut, given=before, folded=True)
    needs = tuple(dict.fromkeys((*before, *(linear.inputs if linear else ()), *(cut if linear else ()), *beside)))
    return EditGroup(
        members=tuple(members),
        tensors=tuple(tensors),
        linear=linear,
        head=head,
        tail=tail,
        cut=cut,
        beside=beside,
        needs=needs,
        start=max(needs, key=list(network.nodes).index),
        head_bytes=_largest(network, inside),
        cut_bytes=sum(value_bytes(network, name) for name in cut),
        tail_bytes=_largest(network, (changed - inside) | {network.nodes[name] for name in cut}),
        share=graph_macs(changed) / max(1, graph_macs(network.program.nodes)),
    )


def _head(network: Network, tensors: Collection[str], changed: set[Node]) -> set[Node]:
    """What runs once a variant: all that leads from an edited parameter to the last reader of one, and light work."""
    named = {node for node in changed if node.op == "get_attr" and str(node.target) in tensors}
    head: set[Node] = set()
    stack = [user for node in named for user in node.users]
    while stack:
        node = stack.pop()
        if node not in head:
            head.add(node)
            stack.extend(parent for parent in node.inputs if parent in changed)
    for node in network.program.nodes:
        moved = [parent for parent in node.inputs if parent in changed]
        if moved and node.op == "call_function" and node.operator in _LIGHT and all(p in head for p in moved):
            head.add(node)
    return head


def _boundary_names(inside: set[Node], output: Node) -> tuple[str, ...]:
    """Names of the nodes of `inside` that others read."""
    edge = [n for n in inside if n.op != "get_attr" and any(user not in inside for user in n.users)]
    return (output.name,) if output in inside else tuple(n.name for n in edge)


def _by_sample(node: Node) -> bool:
    return node.per_sample


def _largest(network: Network, nodes: Collection[Node]) -> int:
    return max((value_bytes(network, n.name) for n in nodes if n.name in network.nodes), default=1)


_SOURCES = {"conv1d", "conv2d", "conv3d", "linear"}
_PASSING = {
    aten.view.default,
    aten.reshape.default,
    aten._unsafe_view.default,
    aten.flatten.using_ints,
    aten.permute.default,
    aten.transpose.int,
    aten.mean.dim,
    aten.avg_pool2d.default,
    aten.adaptive_avg_pool2d.default,
}


@dataclass(frozen=True)
class Linear:
    """steps: the nodes of the linear part in order. inputs: names of the unedited values that it reads.

    exits: names of its nodes that are read outside it, or are the network's output.
    """

    network: Network
    steps: tuple[Node, ...]
    inputs: tuple[str, ...]
    exits: tuple[str, ...]

    def deltas(self, inputs: Mapping[str, Tensor], direction: Mapping[str, Tensor], *, batch: int) -> dict[str, Tensor]:
        """Change of each exit per unit of scale. inputs: values by node name; direction: by parameter."""
        tensors = self.network.tensors
        values: dict[Node, Tensor] = {}
        for node in self.steps:
            if node.args[0] not in values and node.operator in _SOURCES:
                values[node] = _source(node, inputs[_name(node.args[0])], direction, tensors)
            elif node.operator == "batch_norm":
                values[node] = _scale_by_norm(values[node.args[0]], node, tensors)
            elif node.target is aten.add.Tensor:
                values[node] = next(values[x] for x in node.inputs if x in values)
            else:
                args, kwargs = node.filled({x: values.get(x, batch) for x in node.inputs})
                target: Any = aten.reshape.default if node.operator in ("view", "unsafe_view") else node.target
                values[node] = target(*args, **kwargs)
        return {_name(node): values[node] for node in self.steps if _name(node) in self.exits}


def linear_part(network: Network, tensors: Collection[str]) -> Linear | None:
    """The linear part behind the parameters `tensors`, or None where they act in another way than as weight or bias."""
    changed = affected_nodes(network, tensors)
    steps: list[Node] = []
    for node in network.program.nodes:
        if node not in changed or node.op != "call_function":
            continue
        edited = [x for x in node.inputs if x.op == "get_attr" and x in changed]
        if edited:
            weights = list(node.args[1:3]) if node.operator in _SOURCES else []
            fits = weights and all(x in weights for x in edited)
            plain = all(x is None or x.op == "get_attr" for x in weights) and not node.kwargs
            if not fits or not plain or node.args[0] in changed or not node.args[0].from_input:
                return None
            steps.append(node)
        elif _passes(node, set(steps), changed):
            steps.append(node)
    inside = set(steps)
    exits = [n for n in steps if any(user not in inside for user in n.users)]
    inputs = dict.fromkeys(_name(n.args[0]) for n in steps if n.args[0] not in inside and n.operator in _SOURCES)
    return Linear(network, tuple(steps), tuple(inputs), tuple(_name(n) for n in exits)) if steps else None


def _passes(node: Node, inside: set[Node], changed: set[Node]) -> bool:
    """Whether the node is linear in the one changed value that it reads, and that value is in the linear part."""
    moved = [x for x in node.inputs if x in changed]
    if len(moved) != 1 or moved[0] not in inside:
        return False
    if node.target is aten.add.Tensor:
        same = node.same_shape(moved[0])
        operands = [x for x in node.args[:2] if isinstance(x, Node)]
        return same and len(set(operands)) == len(operands) and "alpha" not in node.kwargs
    if node.operator == "batch_norm":
        return not node.args[5] and node.args[0] is moved[0]
    return (
        node.target in _PASSING
        and node.args[0] is moved[0]
        and all(x is moved[0] or x.is_batch_size for x in node.inputs)
    )


def _source(node: Node, x: Tensor, direction: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
    """The edited layer itself: its operator with the direction in place of weight and bias."""
    weight, bias = str(node.args[1].target), node.args[2] if len(node.args) > 2 else None
    if weight not in direction:
        direction = {weight: torch.zeros_like(tensors[weight]), **direction}
    shift = direction.get(str(bias.target)) if isinstance(bias, Node) else None
    return node.target(x, direction[weight], shift, *node.args[3:])


def _scale_by_norm(delta: Tensor, node: Node, tensors: Mapping[str, Tensor]) -> Tensor:
    """A batch norm without its offset: gamma / sqrt(variance + eps) times the change."""
    gamma, variance = (None if p is None else tensors[str(p.target)] for p in (node.args[1], node.args[4]))
    assert variance is not None
    factor = (variance + float(node.args[7])).rsqrt()
    factor = factor if gamma is None else factor * gamma
    return delta * factor.reshape(1, -1, *[1] * (delta.ndim - 2))


def _name(node: Any) -> str:
    return node.name
