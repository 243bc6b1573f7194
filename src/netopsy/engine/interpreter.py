"""The one interpreter of a network's graph: which nodes to run, in which order, and when each value may go."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from netopsy.errors import SamplesError
from netopsy.network.graph import aten
from netopsy.network.network import Network
from netopsy.network.node import Node

Visit = Callable[[str, Tensor], None]

# Operators that return fresh memory: nobody else can hold a view of their result.
_FOLDABLE = {"conv1d", "conv2d", "conv3d"}
_FRESH = {"conv1d", "conv2d", "conv3d", "conv_transpose2d", "linear", "batch_norm", "add", "mul", "cat", "layer_norm"}
_IN_PLACE = {
    aten.relu.default: aten.relu_.default,
    aten.hardtanh.default: aten.hardtanh_.default,
    aten.silu.default: aten.silu_.default,
    aten.hardswish.default: aten.hardswish_.default,
    aten.gelu.default: aten.gelu_.default,
    aten.add.Tensor: aten.add_.Tensor,
}
# A graph is exported from contiguous values; reshape gives the same where the memory lies otherwise (channels last).
ANY_LAYOUT = {aten.view.default: aten.reshape.default, aten._unsafe_view.default: aten.reshape.default}


@dataclass(frozen=True)
class Instruction:
    """One node to run; `target` is its operator (the in-place twin where nobody reads the operand again).

    convolution: for a batch norm that is folded into the convolution before it, that convolution.
    """

    node: Node
    target: Any
    drop: tuple[Node, ...]
    convolution: Node | None = None


@dataclass(frozen=True)
class Plan:
    """An order of execution from the `given` nodes to the `targets`.

    Values are freed after their last use. A node of `watched` is shown to `visit` as soon as it is computed;
    the tensor is valid during that call only, since a later step may overwrite it.
    """

    network: Network
    steps: tuple[Instruction, ...]
    given: tuple[Node, ...]
    targets: tuple[str, ...]
    watched: frozenset[str]
    _folded: dict[Node, tuple[Tensor, Tensor]] = field(default_factory=dict, compare=False, repr=False)

    def run(
        self,
        given: Mapping[str, Tensor],
        *,
        batch: int,
        overrides: Mapping[str, Tensor] | None = None,
        tensors: Mapping[str, Tensor] | None = None,
        visit: Visit | None = None,
    ) -> dict[str, Tensor]:
        """Values of the targets.

        given: value by name for each given node, (batch, ...). batch: the batch size that the graph's sizes take.
        overrides: parameters or buffers to use instead of the network's own, by name. tensors: `Network.tensors`, of
        those who run many plans: gathering them takes as long as a small network.
        """
        values: dict[Node, Any] = {node: _in_type(node, given[node.name]) for node in self.given}
        known = self.network.tensors if tensors is None else tensors
        tensors = {**self.network.program.constants, **known, **(overrides or {})}
        if visit:
            for node in self.given:
                if node.name in self.watched:
                    visit(node.name, values[node])
        results = {name: given[name] for name in self.targets if name in given}
        for step in self.steps:
            node = step.node
            if node.op == "get_attr":
                values[node] = tensors[node.target]
                continue
            if node.is_batch_size:
                values[node] = batch
                continue
            if step.convolution is not None:
                value = values[node] = self._convolve(node, step.convolution, values, overrides or {})
            else:
                args, kwargs = node.filled(values)
                target: Any = node.target if torch.is_grad_enabled() else step.target
                if node.operator == "embedding":
                    _check_rows(node, args[0], args[1])
                value = values[node] = target(*args, **kwargs)
            name = node.name
            if visit and name in self.watched:
                visit(name, value)
            if name in self.targets:
                results[name] = value
            for dead in step.drop:
                del values[dead]
        return results

    def _convolve(
        self, norm: Node, convolution: Node, values: Mapping[Node, Any], overrides: Mapping[str, Tensor]
    ) -> Tensor:
        """The convolution with the batch norm `norm` folded into its weights."""
        x, weight, *rest = convolution.args
        parameters = [weight, rest[0] if rest else None, *norm.args[1:5]]
        unchanged = not any(str(p.target) in overrides for p in parameters if isinstance(p, Node))
        folded = self._folded.get(norm) if unchanged else None
        if folded is None:
            folded = fold(*(values[p] if isinstance(p, Node) else p for p in parameters), eps=float(norm.args[7]))
            if unchanged:
                self._folded[norm] = folded
        operator: Any = convolution.target
        return operator(values[x], *folded, *rest[1:])


def _check_rows(node: Node, table: Tensor, rows: Tensor) -> None:
    """Raise SamplesError for a number that the table has no row for: on a GPU torch would end the process."""
    if rows.numel() and not 0 <= (extremes := rows.aminmax())[0] <= extremes[1] < len(table):
        raise SamplesError(
            f"the samples hold numbers from {int(extremes[0])} to {int(extremes[1])} where '{node.name}' has rows 0 to "
            f"{len(table) - 1}: they were made for another network (its tokenizer, its categories); give those of this "
            "one."
        )


def _in_type(node: Node, value: Tensor) -> Tensor:
    """An input of real numbers in the type in which the network computes."""
    if node.op != "placeholder" or not node.is_floating_point or not value.is_floating_point():
        return value
    return value.to(node.dtype)


def fold(
    weight: Tensor,
    bias: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor,
    var: Tensor,
    *,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution that equals a convolution followed by a batch norm in eval mode."""
    scale = (var + eps).rsqrt() if gamma is None else gamma * (var + eps).rsqrt()
    shift = (-mean if bias is None else bias - mean) * scale
    folded = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    if folded.ndim == 4:
        folded = folded.contiguous(memory_format=torch.channels_last)
    return folded, shift if beta is None else shift + beta


def plan(
    network: Network,
    targets: Iterable[str],
    *,
    given: Collection[str] | None = None,
    watched: Collection[str] = (),
    consumed: Collection[str] = (),
    folded: bool = False,
) -> Plan:
    """The shortest plan that computes `targets` and `watched` nodes when the values of `given` are supplied.

    given: names of nodes; by default the inputs.
    consumed: names in `given` whose tensors are fresh memory that the run may overwrite.
    folded: fold each batch norm into the convolution before it, where nothing else reads the convolution. The values
    differ by rounding, and such a plan is stale once the network's weights change.
    """
    targets, watched = tuple(targets), frozenset(watched)
    supplied = {network.node(name) for name in (network.signature.names if given is None else given)}
    goals = {network.node(name) for name in (*targets, *watched)}
    foldable = _foldable(network, supplied | goals) if folded else {}
    needed: set[Node] = set()
    stack = [node for node in goals if node not in supplied]
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            stack.extend(parent for parent in _reads(node, foldable) if parent not in supplied)
    order = [node for node in network.program.nodes if node in needed]
    last = {parent: node for node in order for parent in _reads(node, foldable)}
    dying: dict[Node, list[Node]] = {}
    for parent, node in last.items():
        dying.setdefault(node, []).append(parent)
    disposable = {network.node(name) for name in consumed}
    protected = ({network.node(name) for name in targets} | supplied) - disposable
    steps = []
    for node in order:
        dead, operand = dying.get(node, []), node.args[0] if node.args else None
        target: Any = node.target
        if isinstance(operand, Node) and operand in dead and operand not in protected:
            target = _in_place(node, operand, fresh=operand in disposable)
        steps.append(Instruction(node, ANY_LAYOUT.get(target, target), tuple(dead), foldable.get(node)))
    return Plan(network, tuple(steps), tuple(supplied), targets, watched)


def _reads(node: Node, foldable: Mapping[Node, Node]) -> Sequence[Node]:
    """The nodes whose values a step reads."""
    if node.is_batch_size:
        return []  # the batch size is known without the input, so a size does not pull its operand in
    if node in foldable:
        convolution = foldable[node]
        return [*convolution.inputs, *(parent for parent in node.inputs if parent is not convolution)]
    return node.inputs


def _foldable(network: Network, separate: Collection[Node]) -> dict[Node, Node]:
    """Batch norm -> the convolution that it can be folded into; none whose value is in `separate`."""
    convolutions = {}
    for node in network.program.nodes:
        if node.target is not aten.batch_norm.default or node.args[5]:
            continue
        source = node.args[0]
        if (
            source.operator in _FOLDABLE
            and source not in separate
            and len(source.users) == 1
            and not source.kwargs
            and all(p is None or p.op == "get_attr" for p in (*source.args[1:3], *node.args[1:5]))
        ):
            convolutions[node] = source
    return convolutions


def affected_nodes(network: Network, tensors: Collection[str]) -> set[Node]:
    """The nodes whose value can change when the parameters or buffers called `tensors` change."""
    changed: set[Node] = set()
    for node in network.program.nodes:
        named = node.op == "get_attr" and node.target in tensors
        reads = not node.is_batch_size and any(parent in changed for parent in node.inputs)
        if named or reads:
            changed.add(node)
    return changed


def boundary(
    network: Network, changed: Collection[Node], usable: Callable[[Node], bool] = lambda node: True
) -> tuple[str, ...]:
    """Names of the unchanged nodes that `changed` ones read: what a re-run of the changed part must be given.

    usable: says of a node whether its value can be given; where it cannot, the nodes that it is made from are.
    """
    outside: set[Node] = set()
    visited: set[Node] = set()
    stack = [parent for node in changed for parent in node.inputs]
    while stack:
        node = stack.pop()
        if node.from_input and node not in changed and node not in visited:
            visited.add(node)
            # a list of tensors is no value to keep: keep what it was made from
            if node.name in network.nodes and usable(node):
                outside.add(node)
            else:
                stack.extend(node.inputs)
    names = {node.name for node in outside}
    return tuple(name for name in network.nodes if name in names)


def _in_place(node: Node, source: Node, fresh: bool) -> Any:
    """The operator's in-place twin, where the first operand is fresh memory that no other node (or view) reads."""
    if not fresh and (source.op != "call_function" or source.operator not in _FRESH):
        return node.target
    # a list or view of the operand may live on in another node: any second reader rules the twin out
    if len(source.users) > 1 and not (fresh and _only_arithmetic(source)):
        return node.target
    target: Any = node.target
    same = node.same_shape(source) and node.dtype == source.dtype
    return _IN_PLACE.get(target, target) if same else target


def _only_arithmetic(source: Node) -> bool:
    """Whether all readers of `source` make new memory, so that the last of them may overwrite it."""
    return all(user.op == "call_function" and user.operator in _FRESH | {"relu"} for user in source.users)
