"""Which axis of a map holds the channels."""

from __future__ import annotations

from netopsy.blocks.flow import Flow
from netopsy.network.activations import ELEMENTWISE
from netopsy.network.graph import operator_name, shape_of
from netopsy.network.macs import argument

# Operators that leave the axes of a map where they are.
_KEEPING = ELEMENTWISE | {
    "add",
    "sub",
    "mul",
    "div",
    "clone",
    "roll",
    "constant_pad_nd",
    "pad",
    "slice",
    "cat",
    "dropout",
}
_VIEWS = {"view", "reshape", "unsafe_view"}  # of rows and columns as one axis, or in windows, the channels last
_SECOND = {"conv2d", "conv_transpose2d", "convolution", "batch_norm", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"}


def channels_last(flow: Flow, i: int) -> bool:
    """Whether the four axes of value `i` are (batch, row, column, channel), from the operators around it.

    A convolution, batch norm or pooling has its channels second, a linear map or a layer norm over one axis has them
    last; the nearest such operator, through others that leave the channels where they are, decides. None: second.
    """
    if len(shape_of(flow.nodes[i])) != 4:
        return False
    seen, queue = {i}, [i]
    for here in queue:
        found = _says(flow, here)
        for reader in flow.readers[here]:
            found = _says(flow, reader, here) if found is None else found
        if found is not None:
            return found
        beside = [reader for reader in flow.readers[here] if _keeps(flow, reader)]
        beside += [p for p in flow.reads[here] if _keeps(flow, here)]
        new = [j for j in beside if j not in seen and len(_shape(flow, j)) > 2]
        seen.update(new)
        queue.extend(new)
    return False


def _says(flow: Flow, i: int, operand: int | None = None) -> bool | None:
    """What operator `i` says of its own value, or of `operand`, which it reads; None where it says nothing."""
    node = flow.nodes[i]
    if operand is not None and flow.reads[i][:1] != (operand,):
        return None
    name = operator_name(node)
    if name in _SECOND:
        return False
    if name == "linear":
        return True
    if name in ("layer_norm", "native_layer_norm") and len(argument(node, "normalized_shape") or ()) == 1:
        return True
    return None


def _keeps(flow: Flow, i: int) -> bool:
    """Whether the channels of the operator's value lie where those of its operand do."""
    name = operator_name(flow.nodes[i]).rstrip("_")
    if name in _VIEWS and len(flow.reads[i]) == 1:
        before, after = _shape(flow, flow.reads[i][0]), _shape(flow, i)
        return len(before) > 2 and len(after) > 2 and before[-1] == after[-1] and before[1] != after[1]
    return name in _KEEPING


def _shape(flow: Flow, i: int) -> tuple[int, ...]:
    node = flow.nodes[i]
    return shape_of(node) if hasattr(node.meta.get("val"), "shape") else ()
