"""Operators that may write their result over their operand while gradients are taken."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from netopsy.network.graph import aten, operator_name

# The gradients of these need their result at most, and those of _SOURCES do not need theirs.
_TWINS = {
    aten.relu.default: aten.relu_.default,
    aten.hardtanh.default: aten.hardtanh_.default,
    aten.add.Tensor: aten.add_.Tensor,
}
_SOURCES = {"conv1d", "conv2d", "conv3d", "linear", "batch_norm", "add"}


def overwriting(node: fx.Node) -> Any:
    """The operator that does the same as `node` in the memory of its first operand, which nobody else reads; or None.

    A network's own module often overwrites too (`nn.ReLU(inplace=True)`), which its functional graph does not tell.
    """
    twin: Any = _TWINS.get(node.target)  # type: ignore[call-overload]
    source = node.args[0] if node.args else None
    if twin is None or not isinstance(source, fx.Node) or operator_name(source) not in _SOURCES:
        return None
    before, after = source.meta.get("val"), node.meta.get("val")
    if not (isinstance(before, Tensor) and isinstance(after, Tensor)):
        return None
    alone = len(source.users) == 1 and list(node.all_input_nodes).count(source) == 1
    return twin if alone and before.shape == after.shape and before.dtype == after.dtype else None
