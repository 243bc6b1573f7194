"""The one layer that fits a block: its size, stride, padding and activation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from netopsy.blocks.block import Block
from netopsy.errors import SettingsError
from netopsy.network.activations import ELEMENTWISE
from netopsy.network.macs import CONVOLUTIONS
from netopsy.network.network import Network
from netopsy.network.node import Node


@dataclass(frozen=True)
class Shape:
    """Settings of the one layer in a block's place.

    inputs, outputs: channels or features. kernel, stride: (rows, columns) of a convolution; (1, 1) for a linear map.
    padding: (left, right, top, bottom), negative where the map's edge is cut off instead.
    bias: whether the layer has one. norm: (eps, momentum) of its batch norm, or None; momentum None: a plain mean.
    act: operator of the activation and its further arguments, or None.
    """

    kind: str
    inputs: int
    outputs: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    bias: bool = True
    norm: tuple[float, float | None] | None = None
    act: tuple[str, tuple[Any, ...]] | None = None

    @property
    def weights(self) -> int:
        """Elements of the weight: multiply-accumulates at one place."""
        return self.inputs * self.outputs * self.kernel[0] * self.kernel[1]

    @property
    def parameters(self) -> int:
        """Learned values: weight, bias, and the norm's scale and shift."""
        return self.weights + self.outputs * (int(self.bias) + 2 * (self.norm is not None))

    def __str__(self) -> str:
        parts = ["linear" if self.kind != "conv" else f"conv {self.kernel[0]}x{self.kernel[1]}"]
        if self.stride != (1, 1):
            parts[0] += f" /{self.stride[0]}" if self.stride[0] == self.stride[1] else f" /{self.stride}"
        parts += [] if self.norm is None else ["norm"]
        parts += [] if self.act is None else [self.act[0]]
        return ", ".join(parts)


def layer_shape(network: Network, block: Block) -> Shape:
    """The settings of the layer that turns the block's input shape into exactly its output shape.

    The kernel is the block's largest; the stride is the product of the block's strides, or, where the map shrinks in
    another way, the quotient of its sizes; the padding keeps the outputs centred on the inputs.
    Errors: SettingsError where no one layer fits, with the block's obstacle.
    """
    if block.obstacle is not None:
        raise SettingsError(f"no one layer can stand in for {block.name} of {network.name}. {block.obstacle}")
    inside = [network.nodes[name] for name in block.nodes if name in network.nodes]
    act = last_activation(network, block)
    calls = {name for layer in block.layers for name in network.layer(layer).nodes}
    last = [node for node in inside if node.name in calls][-1]
    norms = [node for node in inside if node.operator == "batch_norm"]
    norm = (float(norms[-1].args[7]), _momentum(network, norms[-1])) if norms else None
    common = {
        "kind": block.kind,
        "bias": norm is None or last.argument("bias") is not None,
        "norm": norm if block.kind != "tokens" else None,
        "act": None if act is None else (act[0].operator, _constants(act[0])),
    }
    if block.kind != "conv":
        common["bias"] = common["bias"] or common["norm"] is None
        return Shape(inputs=block.input_shape[-1], outputs=block.output_shape[-1], **common)  # type: ignore[arg-type]
    kernel = tuple(max((_kernel(node)[k] for node in inside), default=1) for k in (0, 1))
    strides, margins = _strides(network, block, inside)
    axes = [
        _axis(block.input_shape[k + 1], block.output_shape[k + 1], kernel[k], strides[k], margins[k]) for k in (0, 1)
    ]
    return Shape(
        inputs=block.input_shape[0],
        outputs=block.output_shape[0],
        kernel=kernel,  # type: ignore[arg-type]
        stride=(axes[0][0], axes[1][0]),
        padding=(*axes[1][1:], *axes[0][1:]),
        **common,  # type: ignore[arg-type]
    )


def last_activation(network: Network, block: Block) -> list[Node] | None:
    """The nodes of the block's last activation: its output, or the operands of a join of one kind of activation."""
    end = network.nodes[block.output]
    nodes = list(end.args[0]) if end.operator == "cat" else [end]
    inside = set(block.nodes)
    if not all(isinstance(n, Node) and n.name in inside for n in nodes):
        return None
    if not all(n.operator in ELEMENTWISE and isinstance(n.args[0], Node) for n in nodes):
        return None
    same = {(n.target, n.args[1:], tuple(sorted(n.kwargs.items()))) for n in nodes}
    if len(same) != 1 or any(isinstance(a, Node) for a in (*nodes[0].args[1:], *nodes[0].kwargs.values())):
        return None
    return nodes


def _constants(node: Node) -> tuple[Any, ...]:
    """All arguments of an activation but its operand, in the order of its schema."""
    schema: Any = getattr(node.target, "_schema", None)
    return tuple(node.argument(entry.name) for entry in schema.arguments[1:])


def _momentum(network: Network, norm: Node) -> float | None:
    """That of the batch norm's module: in evaluation, as in the graph, one without (a plain mean) calls with 0."""
    path = str(getattr(norm.args[3], "target", "")).rpartition(".")[0]
    graph_momentum: Any = norm.args[6]
    momentum: float | None = getattr(dict(network.module.named_modules()).get(path), "momentum", graph_momentum)
    return momentum


def _kernel(node: Node) -> tuple[int, int]:
    if node.operator not in CONVOLUTIONS:
        return 1, 1
    sizes = node.argument("weight").full_shape[2:]
    return (sizes[0], sizes[1]) if len(sizes) == 2 else (1, 1)


def _strides(network: Network, block: Block, inside: list[Node]) -> tuple[tuple[int, int], tuple[int, int]]:
    """(strides, margins) from the block's input to its output: the largest over paths, along rows and columns.

    strides: products of those of the nodes. margins: places that the nodes' windows can use up without padding.
    """
    pairs, margins = {network.nodes[block.input]: (1, 1)}, {network.nodes[block.input]: (0, 0)}
    for node in inside:
        before = [p for p in node.inputs if p in pairs]
        windows = [node.argument("kernel_size") or _kernel(node), node.argument("stride"), node.argument("dilation")]
        if "pool" in node.operator:
            windows[1] = windows[1] or windows[0]
        (k, s, d) = (_pair(value) if len(node.full_shape) == 4 else (1, 1) for value in windows)
        stride_so_far = [max((pairs[p][i] for p in before), default=1) for i in (0, 1)]
        used = [max((margins[p][i] for p in before), default=0) for i in (0, 1)]
        pairs[node] = (stride_so_far[0] * s[0], stride_so_far[1] * s[1])
        margins[node] = (used[0] + (k[0] - 1) * d[0] * stride_so_far[0], used[1] + (k[1] - 1) * d[1] * stride_so_far[1])
    return pairs[network.nodes[block.output]], margins[network.nodes[block.output]]


def _pair(value: Any) -> tuple[int, int]:
    return (int(value[0]), int(value[-1])) if isinstance(value, list | tuple) and value else (1, 1)


def _axis(size: int, target: int, kernel: int, stride: int, margin: int) -> tuple[int, int, int]:
    """(stride, padding before, padding after) with which `size` places become `target`."""
    unseen = size - (target - 1) * stride - 1
    if stride < 1 or unseen < 0 or unseen > margin + stride - 1:
        stride = max(1, size // target)
    # floor((size + padding - kernel) / stride) + 1 = wanted leaves `stride` choices; take the nearest to "same"
    least = (target - 1) * stride + kernel - size
    total = min(max(kernel - 1, least), least + stride - 1)
    before = total // 2
    return stride, before, total - before
