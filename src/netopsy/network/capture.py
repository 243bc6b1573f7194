"""Capture a module's forward pass with torch.export, trying gentler ways where the plain one fails."""

from __future__ import annotations

import dataclasses
import logging
import operator
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.export import Dim, ExportedProgram, export, register_dataclass
from torch.utils import _pytree as pytree

from netopsy.errors import NetworkError

# Tried in this order: (batch of the example, further arguments of export). Some modules compare the batch with sizes of
# their own, some checks can only be made when the graph runs, some Python only the strict tracer follows.
_WAYS: tuple[tuple[int, dict[str, Any]], ...] = (
    (2, {"strict": False}),
    (3, {"strict": False, "prefer_deferred_runtime_asserts_over_guards": True}),
    (2, {"strict": True}),
)


def capture(module: nn.Module, input_shape: tuple[int, ...]) -> fx.GraphModule:
    """The forward pass in functional ATen operators; the batch is a symbol.

    input_shape: one input without its batch. The input has the type and device of the module's first float parameter.
    Raises NetworkError with the first reason if no way works.
    """
    tensor = next((p for p in module.parameters() if p.is_floating_point()), None)
    options: dict[str, Any] = {} if tensor is None else {"device": tensor.device, "dtype": tensor.dtype}
    reasons: list[Exception] = []
    for program in _attempts(module, input_shape, options, reasons):
        try:
            with warnings.catch_warnings():  # torch's own, of its next version
                warnings.simplefilter("ignore")
                graph = program.run_decompositions({}).module()
        except Exception as error:
            reasons.append(error)
            continue
        assert isinstance(graph, fx.GraphModule)
        _one_batch_symbol(graph)
        return graph
    _try_once(module, torch.zeros(2, *input_shape, **options), input_shape)
    raise NetworkError(
        f"{type(module).__name__} cannot be exported to a graph for inputs of shape "
        f"(batch, {', '.join(map(str, input_shape))}): {_sentence(reasons[0])} Its forward pass must not branch on "
        f"values and must take any batch size."
    ) from reasons[0]


def _register_outputs(module: nn.Module, example: torch.Tensor) -> bool:
    """Tell torch of the dataclasses that the module returns, which it does not open by itself; whether any was new."""
    with torch.no_grad():
        stack = [module(example)]
    new = False
    while stack:
        value = stack.pop()
        if isinstance(value, dict | list | tuple):
            stack.extend(value.values() if isinstance(value, dict) else value)
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            stack.extend(vars(value).values())
            if type(value) not in pytree.SUPPORTED_NODES:
                register_dataclass(type(value))
                new = True
    return new


def _attempts(
    module: nn.Module, input_shape: tuple[int, ...], options: dict[str, Any], reasons: list[Exception]
) -> Iterator[ExportedProgram]:
    for batch, ways in _WAYS:
        example = torch.zeros(batch, *input_shape, **options)
        try:
            with torch.no_grad(), _separate_attention(), _no_log(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                program = export(module, (example,), dynamic_shapes=({0: Dim("batch")},), **ways)
        except Exception as error:
            if "register a pytree" in str(error) and _register_outputs(module, example):
                yield from _attempts(module, input_shape, options, reasons)
                return
            reasons.append(error)
            continue
        yield program


@contextmanager
def _no_log() -> Iterator[None]:
    """torch logs tracebacks of what it cannot export, and the next way may well work."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def _separate_attention() -> Iterator[None]:
    """Without gradients torch runs a whole attention layer as one operator, which hides what is inside it."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _try_once(module: nn.Module, example: torch.Tensor, input_shape: tuple[int, ...]) -> None:
    """Run the module itself, so that a wrong input size is told from a failed export."""
    try:
        with torch.no_grad():
            module(example)
    except Exception as error:
        raise NetworkError(
            f"{type(module).__name__} cannot take inputs of shape (batch, {', '.join(map(str, input_shape))}): "
            f"{_sentence(error)} Give the size and channels that it was made for."
        ) from error


def _sentence(error: Exception) -> str:
    """The first line of an error as a sentence of at most 200 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = re.sub(r"\s+", " ", lines[0] if lines else type(error).__name__)
    text = text if len(text) <= 200 else f"{text[:197]}..."
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _one_batch_symbol(graph: fx.GraphModule) -> None:
    """Read the batch size from the input alone: a size of a later tensor becomes the multiple of it that it is."""
    placeholder = next(node for node in graph.graph.nodes if node.op == "placeholder")
    batch = placeholder.meta["val"].shape[0]
    symbol = batch.node.expr
    first: fx.Node | None = None
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or "sym_size" not in str(node.target):
            continue
        expression = getattr(getattr(node.meta.get("val"), "node", None), "expr", None)
        if expression is None or symbol not in expression.free_symbols:
            continue  # of a size that hangs on the image's values only a check may be left
        if first is None:
            with graph.graph.inserting_after(placeholder):
                first = graph.graph.call_function(torch.ops.aten.sym_size.int, (placeholder, 0))
            first.meta = {"val": batch}
        factor = expression / symbol
        if factor == 1:
            node.replace_all_uses_with(first)
        elif factor.is_Integer:
            with graph.graph.inserting_before(node):
                scaled = graph.graph.call_function(operator.mul, (first, int(factor)))
            scaled.meta = {**node.meta}
            node.replace_all_uses_with(scaled)
        else:
            raise NetworkError(f"a size in the graph is {expression}, which is no multiple of the batch {symbol}.")
        graph.graph.erase_node(node)
