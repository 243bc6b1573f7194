"""Capture a forward pass with torch.export, trying gentler ways where the plain one fails; keep programs in files."""

from __future__ import annotations

import dataclasses
import inspect
import io
import json
import logging
import operator
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import fx, nn
from torch.export import Dim, ExportedProgram, export, register_dataclass
from torch.utils import _pytree as pytree

from netopsy.errors import NetworkError, SettingsError
from netopsy.files import atomic_write
from netopsy.network.signature import Input, Signature, input_kind

# Tried in this order: (batch of the example, further arguments of export). Some modules compare the batch with sizes of
# their own, some checks can only be made when the graph runs, some Python only the strict tracer follows.
_WAYS: tuple[tuple[int, dict[str, Any]], ...] = (
    (2, {"strict": False}),
    (3, {"strict": False, "prefer_deferred_runtime_asserts_over_guards": True}),
    (2, {"strict": True}),
)


def capture(module: nn.Module, signature: Signature) -> fx.GraphModule:
    """The forward pass in functional ATen operators; the batch is a symbol.

    Floating-point inputs have the type and device of the module's first float parameter.
    Raises NetworkError with the first reason if no way works.
    """

    def decomposed(program: ExportedProgram) -> fx.GraphModule:
        graph = program.run_decompositions({}).module()
        assert isinstance(graph, fx.GraphModule)
        return graph

    graph = _first_way(module, signature, decomposed)
    _one_batch_symbol(graph)
    _check_batch(graph, module)
    return graph


Made = TypeVar("Made")


def _first_way(module: nn.Module, signature: Signature, make: Callable[[ExportedProgram], Made]) -> Made:
    """What `make` gives for the program of the first way of export that works for both."""
    tensor = next((p for p in module.parameters() if p.is_floating_point()), None)
    reasons: list[Exception] = []
    with quiet_torch(), torch.random.fork_rng([tensor.device] if tensor is not None and tensor.is_cuda else []):
        for program in _attempts(module, signature, reasons):
            try:
                return make(program)
            except Exception as error:
                reasons.append(error)
        _try_once(module, signature)
    raise NetworkError(
        f"{type(module).__name__} cannot be exported to a graph for {_described(signature)}: "
        f"{_sentence(reasons[0])} {_advice(module, reasons)}"
    ) from reasons[0]


def export_program(module: nn.Module, signature: Signature) -> ExportedProgram:
    """The forward pass in eval mode as a program of torch.export; the batch is a symbol. Its tensors are the module's.

    Errors: as `capture`.
    """
    return _first_way(module, signature, lambda program: program)


_HEADER = "netopsy.json"  # beside the program in its archive


def write_program(program: ExportedProgram, path: Path, header: Mapping[str, str]) -> None:
    """Write a program to `path`, whole or not at all; header: what `read_program` gives back with it."""
    with quiet_torch(), atomic_write(path) as part:
        torch.export.save(program, part, extra_files={_HEADER: json.dumps(dict(header))})


def read_program(path: str) -> tuple[ExportedProgram, dict[str, str]]:
    """The program in a file, and the header that Netopsy wrote beside it, empty where there is none.

    No Python object in the file is made but tensors. Errors: NetworkError.
    """
    if not Path(path).is_file():
        raise NetworkError(f"no file '{path}'.")
    before = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    beside = {_HEADER: ""}
    try:
        with quiet_torch():
            program = torch.export.load(path, extra_files=beside)
            header = json.loads(beside[_HEADER] or "{}")
    except Exception as error:
        # json, zip and torch each raise their own kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160].rstrip(".")
        raise NetworkError(
            f"'{path}' is no exported program of this version of torch ({reason}); write it again with "
            "torch.export.save(torch.export.export(module, (x,), dynamic_shapes=({0: Dim('batch')},)), path)."
        ) from error
    finally:
        os.environ.pop("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
        os.environ |= {} if before is None else {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": before}
    pairs = header.items() if isinstance(header, dict) else ()
    return program, {key: text for key, text in pairs if isinstance(text, str)}


def _described(signature: Signature) -> str:
    """The inputs in words."""
    shapes = [f"(batch, {', '.join(map(str, entry.shape))})" for entry in signature.inputs]
    if len(shapes) == 1:
        return f"inputs of shape {shapes[0]}"
    pairs = zip(signature.inputs, shapes, strict=True)
    return f"the inputs {', '.join(f'{entry.name} {shape}' for entry, shape in pairs)}"


def call(module: nn.Module, inputs: Mapping[str, Any]) -> Any:
    """What the module returns: a single input goes in by its place, several by their names."""
    args, kwargs = arguments(inputs)
    return module(*args, **kwargs)


def arguments(inputs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """How a forward pass is called with `inputs`: a single one goes in by its place, several by their names."""
    return (tuple(inputs.values()), {}) if len(inputs) == 1 else ((), dict(inputs))


def _register_outputs(module: nn.Module, example: Mapping[str, torch.Tensor]) -> bool:
    """Tell torch of the dataclasses that the module returns, which it does not open by itself; whether any was new."""
    with torch.no_grad():
        stack = [call(module, example)]
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


def _attempts(module: nn.Module, signature: Signature, reasons: list[Exception]) -> Iterator[ExportedProgram]:
    size = Dim("batch")
    shapes: Any = {entry.name: {0: size} for entry in signature.inputs}
    if len(signature.inputs) == 1:
        shapes = (({0: size},),) if _takes_any(module) else ({0: size},)
    for batch, ways in _WAYS:
        example = signature.example(batch, module)
        args, kwargs = arguments(example)
        try:
            with torch.no_grad(), _separate_attention():
                program = export(module, args, kwargs, dynamic_shapes=shapes, **ways)
        except Exception as error:
            if "register a pytree" in str(error) and _register_outputs(module, example):
                yield from _attempts(module, signature, reasons)
                return
            reasons.append(error)
            continue
        yield program


def forward_names(module: nn.Module) -> tuple[str, ...]:
    """Names of the arguments of the forward pass, in order."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.KEYWORD_ONLY)
    return tuple(p.name for p in inspect.signature(module.forward).parameters.values() if p.kind in kinds)


def token_signature(module: nn.Module, tokenizer: Any, length: int | None) -> Signature:
    """What a module of the user's takes that turns tokens into something: by the names of its arguments.

    Its first argument are the tokens, up to `length` of them (by default what the tokenizer was made for, at most 128);
    then come a mask and segments, where the forward pass has arguments that are called so.
    Raises SettingsError for a length below 1, NetworkError where it needs anything else.
    """
    if length is not None and length < 1:
        raise SettingsError(f"length {length} must be at least 1.")
    places = (length or min(getattr(tokenizer, "longest", None) or 128, 128),)
    entries: list[Input] = []
    for parameter in inspect.signature(module.forward).parameters.values():
        name, needed = parameter.name, parameter.default is parameter.empty
        kind = input_kind(name)
        if not entries or kind != "tokens":
            entries.append(Input(name, places, torch.int64, kind if entries else "tokens", 0))
        elif needed and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise NetworkError(
                f"the forward pass of {type(module).__name__} takes '{name}', which text does not give; load the "
                "network with an example of a batch by name, load_network(module, example={...}, tokenizer=...)."
            )
    return Signature(tuple(entries), tokenizer)


def _takes_any(module: nn.Module) -> bool:
    """Whether `forward` takes its input as `*args`, as wrappers do."""
    first = next(iter(inspect.signature(module.forward).parameters.values()), None)
    return first is not None and first.kind is inspect.Parameter.VAR_POSITIONAL


_TRACED = (
    "It is a graph that was traced for one batch size; export it with dynamic_shapes=({0: Dim('batch')},), or give the "
    "module that it was made from."
)


def _advice(module: nn.Module, reasons: list[Exception]) -> str:
    """What to change, by the words of torch's reasons."""
    text = " ".join(map(str, reasons)).lower()
    if isinstance(module, fx.GraphModule):
        return _TRACED
    if "data-dependent" in text or "dynamic control flow" in text:
        return "Its forward pass must not branch on values; torch.where or torch.cond choose between values in a graph."
    if "constraint" in text or "specializ" in text:
        return "Its forward pass must take any batch size: read it from x.shape[0] and write no batch size as a number."
    return "Netopsy reads a network as the graph that torch.export makes; change what it cannot follow."


def _check_batch(graph: fx.GraphModule, module: nn.Module) -> None:
    """Raise NetworkError where no output has the batch as an axis, or a graph at hand computes as in training."""
    name = type(module).__name__
    values = [node.meta.get("val") for node in graph.graph.output_node().all_input_nodes]
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    if tensors and not any(isinstance(side, torch.SymInt) for tensor in tensors for side in tensor.shape):
        shape = ", ".join(map(str, tensors[0].shape))
        raise NetworkError(
            f"{name} gives an output of shape ({shape}) for any number of images: it looks at one image, or mixes them "
            "all; let its forward pass keep the first axis."
        )
    trained = {"_native_batch_norm_legit_functional", "native_dropout"}
    for node in graph.graph.nodes if isinstance(module, fx.GraphModule) else ():
        kind = getattr(getattr(node.target, "_schema", None), "name", "").removeprefix("aten::")
        if kind in trained or (kind == "dropout" and node.args[2] is True):
            raise NetworkError(
                f"{name} computes as in training ({kind.removeprefix('_native_').removesuffix('_legit_functional')}), "
                "whatever its mode; export it, or let it run, in eval mode."
            )


@contextmanager
def quiet_torch() -> Iterator[None]:
    """torch logs, warns of and prints what it cannot export, and the next way may well work."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
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


def _try_once(module: nn.Module, signature: Signature) -> None:
    """Run the module itself, so that a wrong input size is told from a failed export."""
    what = f"{type(module).__name__} cannot take {_described(signature)}"
    parameters = inspect.signature(module.forward).parameters.values()
    needed = [
        p.name for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.POSITIONAL_ONLY)
    ]
    if len(needed) > len(signature.inputs) or not parameters:
        raise NetworkError(
            f"{what}: its forward pass takes {', '.join(needed) or 'nothing'}. Give an example of a batch by name, as "
            "load_network(module, example={'name': tensor, ...}), or samples with those fields."
        )
    example = signature.example(2, module)
    with torch.no_grad():
        try:
            call(module, example)
        except Exception as error:
            advice = "Give the size and channels that it was made for."
            if "dtype" in str(error) or "type (" in str(error):
                advice = "Netopsy gives it float32, so let its forward pass fix no floating type of its own."
            if isinstance(module, fx.GraphModule):
                advice = _TRACED
            with suppress(Exception):
                call(module, {name: value[:1] for name, value in example.items()})
                advice = (
                    "It takes a single image, but no batch of two: keep the first axis as it comes (x.flatten(1) for "
                    "x.view(1, -1), no squeeze() without an axis, no check that it is 1)."
                )
            raise NetworkError(f"{what}: {_sentence(error)} {advice}") from error


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
