"""One node of a network's graph, as a record: all that anyone may ask about it, written down once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx


@dataclass(frozen=True, eq=False)
class Node:
    """A call of an operator, the input, a parameter, or the output. Two nodes are equal only where they are one.

    name: by the module path, as `layer1.0.conv1`; `parameter:NAME` for a parameter or buffer.
    op: `placeholder` (the input), `get_attr` (a parameter, buffer or constant), `call_function` or `output`.
    operator: plain name of the operator that is called, as `conv2d`; else as `op`.
    target: the operator itself; of a `get_attr`, the tensor's name.
    args, kwargs: what the operator is called with; a node stands for its value.
    inputs: the nodes among the arguments, each once, in order. users: the nodes that read this one.
    modules: paths of the modules around it, outermost first.
    full_shape: of the value for a batch of one sample; () where the value is no single tensor.
    parts: shapes for a batch of one sample, where the value is several tensors; else ().
    dtype: of the value; None where it is no single tensor (a size, a list, several tensors).
    growth: how much longer each axis of the value is for one sample more.
    batch_axis: the one axis that grows, where it counts the samples; None where there is none.
    length_axes: the axes that are longer for longer samples, where samples differ in length: of tokens, of a series.
    sequences: of each of the `length_axes` the sequence that it goes along, as `Input.sequence` calls it.
    from_input: whether the value depends on what the input holds, and not on its batch size alone.
    channel_axis: where the units are: last (-1) behind a linear map or a layer norm, 1 behind a convolution; where axes
        are permuted on the way from there, the units go with them.
    weights: names of the learned weights that this call applies: one, several in a recurrent operator, or none.
    layer: name of the last weight-bearing layer at or before the node; empty where there is none. Of a recurrent
        operator, that of its last weight.
    """

    name: str
    op: str
    operator: str
    target: Any = field(repr=False)
    args: tuple[Any, ...] = field(default=(), repr=False)
    kwargs: Mapping[str, Any] = field(default_factory=dict, repr=False)
    inputs: tuple[Node, ...] = field(default=(), repr=False)
    users: tuple[Node, ...] = field(default=(), repr=False)
    modules: tuple[str, ...] = field(default=(), repr=False)
    full_shape: tuple[int, ...] = ()
    parts: tuple[tuple[int, ...], ...] = field(default=(), repr=False)
    dtype: torch.dtype | None = None
    growth: tuple[int, ...] = field(default=(), repr=False)
    batch_axis: int | None = None
    length_axes: tuple[int, ...] = ()
    sequences: tuple[str, ...] = ()
    from_input: bool = False
    channel_axis: int = 1
    weights: tuple[str, ...] = ()
    layer: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample's values: without the batch where that is an axis, first or not; else `full_shape`."""
        axis = self.batch_axis
        return self.full_shape if axis is None else self.full_shape[:axis] + self.full_shape[axis + 1 :]

    @property
    def per_sample(self) -> bool:
        """Whether the first axis counts the samples, so that each row belongs to one of them alone."""
        return self.batch_axis == 0

    @property
    def sequence(self) -> str:
        """The sequence that the first of its `length_axes` goes along; empty where there is none or one for all."""
        return next(iter(self.sequences), "")

    @property
    def is_tensor(self) -> bool:
        """Whether the value is one tensor (and not a size, a list or a tuple)."""
        return self.dtype is not None

    @property
    def is_floating_point(self) -> bool:
        """Whether the value is one tensor of real numbers."""
        return self.dtype is not None and self.dtype.is_floating_point

    def same_shape(self, other: Node) -> bool:
        """Whether the two values are tensors of one shape, for every batch."""
        return self.is_tensor and other.is_tensor and (self.full_shape, self.growth) == (other.full_shape, other.growth)

    @property
    def is_batch_size(self) -> bool:
        """Whether the value is the batch size, which is known without running what it is read from."""
        return self.operator == "sym_size"

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters, buffers and constants that it reads as they are; of a `get_attr`, its own."""
        return (self.target,) if self.op == "get_attr" else tuple(x.target for x in self.inputs if x.op == "get_attr")

    def argument(self, name: str) -> Any:
        """The argument called `name` in the operator's schema: given, or its default, or None."""
        if name in self.kwargs:
            return self.kwargs[name]
        schema = getattr(self.target, "_schema", None)
        for i, entry in enumerate(schema.arguments if schema else ()):
            if entry.name == name:
                return self.args[i] if i < len(self.args) else entry.default_value
        return None

    def filled(self, values: Mapping[Node, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """`args` and `kwargs` with `values` in the place of nodes."""

        def fill(leaf: Any) -> Any:
            return values[leaf] if isinstance(leaf, Node) else leaf

        args: Any = fx.node.map_aggregate(self.args, fill)
        kwargs: Any = fx.node.map_aggregate(dict(self.kwargs), fill) if self.kwargs else {}
        return args, kwargs
