"""An ONNX file as a torch module: its graph as a list of calls, its weights as parameters."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from netopsy.errors import SettingsError
from netopsy.network.sources.onnx_operators import SIZES, Call, Value, as_tensor, readable
from netopsy.network.sources.onnx_tracing import Tracing, run
from netopsy.network.weights.onnx import load_model

_RECURRENT = ("LSTM", "GRU", "RNN")


@dataclass(frozen=True)
class OnnxInput:
    """An input of the file.

    shape: for one sample. batch_axis: where the file has the batch, which is first in the module.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    batch_axis: int = 0


class NamedPart(nn.Module):
    """A name on the way to a weight. Calls run inside it, so that the graph's nodes carry the name."""

    def forward(self, call: Call, given: Sequence[Value]) -> tuple[Value, ...]:
        return run(call, given)


class OnnxModule(nn.Module):
    """The graph of an ONNX file; its weights are parameters under the names of the file's initialisers.

    inputs: in the file's order, the batch first. returns: names of the outputs; several come as a dictionary.
    calls: each with the path of the module that it runs in, and the paths of the tensors that are its operands.
    """

    def __init__(self, inputs: Sequence[OnnxInput], returns: Sequence[str], notes: Sequence[str] = ()) -> None:
        super().__init__()
        self.inputs, self.returns, self.notes = tuple(inputs), tuple(returns), tuple(notes)
        self.calls: list[tuple[str, Call, tuple[str | None, ...]]] = []
        self.constants: dict[str, np.ndarray] = {}
        self.final: dict[str, str] = {}

    def forward(self, *given: Tensor, **named: Tensor) -> Any:
        values: dict[str, Value] = dict(self.constants)
        found = given or [named[readable_input(entry.name)] for entry in self.inputs]
        for entry, x in zip(self.inputs, found, strict=True):
            values[entry.name] = x.movedim(0, entry.batch_axis) if entry.batch_axis else x
        for path, call, tensors in self.calls:
            operands = [
                self._tensor(tensor) if tensor else values[name] if name else None
                for name, tensor in zip(call.inputs, tensors, strict=True)
            ]
            scope = self.get_submodule(path) if path else None
            results = run(call, operands) if scope is None else scope(call, operands)
            values.update(zip(call.outputs, results, strict=False))
        outputs = {name: as_tensor(values[self.final[name]]) for name in self.returns}
        return outputs if len(outputs) > 1 else next(iter(outputs.values()))

    def _tensor(self, path: str) -> Tensor:
        owner, _, name = path.rpartition(".")
        tensor: Tensor = getattr(self.get_submodule(owner), name)
        return tensor


def open_onnx(
    path: str | os.PathLike[str],
    *,
    shape: Sequence[int] | Mapping[str, Sequence[int]] | str | None = None,
    fixed: Mapping[str, Any] | str | None = None,
    size: tuple[int, int] | None = None,
    own_type: bool = False,
) -> tuple[OnnxModule, dict[str, Tensor]]:
    """The module of an ONNX file, and an example of each input with a batch of two.

    shape: of one sample, without the batch, where the file leaves it open: `(3, 48, 96)`, `3x48x96`; by name where
        there are several inputs: `{"ids": (16,), "mask": (16,)}`, `ids=16,mask=16`.
    fixed: inputs that are given once and for all: a number, or an array: `{"sr": 16000}`, `sr=16000`.
    size: height and width of an image whose size the file leaves open. own_type: half precision stays half.
    Raises NetworkError where the graph has no counterpart in torch, SettingsError where a shape or value is missing.
    """
    model = load_model(Path(path))
    tracing = Tracing(model, own_type)
    given, values = _read_shape(shape), _read_fixed(fixed)
    inputs, one, two = _examples(model.graph, tracing, given, values, Path(path).name, size)
    with torch.no_grad():
        tracing.trace(model.graph, one, two)
    module = _build(tracing, inputs, [output.name for output in model.graph.output])
    module.eval()
    example = {readable_input(e.name): two[e.name].movedim(e.batch_axis, 0) for e in inputs}
    if len(next(iter(example.values()), ())) == 3:
        example = {name: x[:2] for name, x in example.items()}
    return module, example


def _read_shape(given: Any) -> Any:
    """A shape, or shapes by name; also as text."""
    try:
        if isinstance(given, str) and "=" in given:
            pairs = (pair.split("=", 1) for pair in given.split(","))
            return {name.strip(): _read_shape(text) for name, text in pairs}
        if isinstance(given, str):
            return tuple(int(part) for part in given.split("x") if part)
        if isinstance(given, Mapping):
            return {name: tuple(map(int, shape)) for name, shape in given.items()}
        return given if given is None else (int(given),) if isinstance(given, int) else tuple(map(int, given))
    except (TypeError, ValueError) as error:
        raise SettingsError(f"shape {given!r} must be sizes such as 3x48x96, or ids=16,mask=16 by name.") from error


def _read_fixed(given: Any) -> dict[str, Any]:
    """Values by the name of the input; also as text."""
    try:
        if isinstance(given, str):
            return {name.strip(): float(text) for name, text in (pair.split("=", 1) for pair in given.split(","))}
        return dict(given or {})
    except (TypeError, ValueError) as error:
        raise SettingsError(f"fixed {given!r} must be values by name, such as sr=16000,state=0.") from error


def _examples(
    graph: Any, tracing: Tracing, shape: Any, fixed: Mapping[str, Any], file: str, size: Any
) -> tuple[list[OnnxInput], dict[str, Tensor], dict[str, Tensor]]:
    """The inputs, and an example of each for two batch sizes: 2 and 3, or 1 and 2 where the file says 1."""
    from onnx.helper import tensor_dtype_to_np_dtype

    known = {tensor.name for tensor in graph.initializer}
    declared = {v.name: v for v in graph.input if v.name not in known}
    sizes = {
        name: [
            d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else _symbol(d.dim_param)
            for d in v.type.tensor_type.shape.dim
        ]
        for name, v in declared.items()
    }
    for name in fixed:
        if name not in declared:
            raise SettingsError(f"{file} has no input '{name}' to fix; its inputs: {', '.join(declared)}.")
    shapes = dict(shape) if isinstance(shape, Mapping) else {}
    free = [name for name in declared if name not in fixed]
    if shape is not None and not shapes:
        shapes = {free[0]: shape}
    batch, smallest, found = None, 2, []
    for name in free:
        dims: list[Any] = sizes[name]
        axis = 0 if dims and dims[0] in ((batch, 1, "?") if batch else (1, *_symbols(dims))) else None
        if axis is None:
            symbols = [
                i for i, d in enumerate(dims) if isinstance(d, str) and (batch is None or d == batch or d == "?")
            ]
            if not symbols:
                raise SettingsError(
                    f"the input '{name}' of {file}, of shape ({', '.join(map(str, dims))}), has no batch axis; give "
                    f"its value: fixed={{'{name}': 0}}."
                )
            axis = symbols[0]
        if batch is None:
            batch = dims[axis]
        smallest = 1 if dims[axis] == 1 else smallest
        rest = dims[:axis] + dims[axis + 1 :]
        given = list(shapes.pop(name, rest))
        if size is not None and len(rest) == 3 and all(isinstance(side, str) for side in rest[1:]) and given == rest:
            given = [rest[0], *size]
        wrong = len(given) != len(rest) or any(isinstance(d, int) and d != g for d, g in zip(rest, given, strict=False))
        if wrong or any(isinstance(size, str) for size in given):
            raise SettingsError(
                f"the input '{name}' of {file} is (batch, {', '.join(map(str, rest))}); give the sizes of a sample: "
                f"shape={tuple(d if isinstance(d, int) else 64 for d in rest)}."
            )
        kind = torch.from_numpy(np.zeros(1, tensor_dtype_to_np_dtype(declared[name].type.tensor_type.elem_type))).dtype
        half = kind in (torch.float16, torch.bfloat16) and not tracing.own_type
        found.append(OnnxInput(name, tuple(given), torch.float32 if half else kind, axis))
    if shapes:
        raise SettingsError(f"{file} has no input '{next(iter(shapes))}'; its inputs: {', '.join(declared)}.")
    for name, value in fixed.items():
        array = np.asarray(value, dtype=tensor_dtype_to_np_dtype(declared[name].type.tensor_type.elem_type))
        size = [d if isinstance(d, int) else 1 for d in sizes[name]]
        tracing.constants[name] = np.full(size, array) if array.ndim == 0 else array
    generator = torch.Generator().manual_seed(0)
    two = {entry.name: _example(entry, smallest + 1, generator) for entry in found}
    return found, {e.name: two[e.name].narrow(e.batch_axis, 1, smallest) for e in found}, two


def _symbol(name: str) -> str:
    """The name of a size that the file leaves open; `?` where it says nothing, as TensorFlow's `unk__12`."""
    return "?" if not name or name.startswith("unk__") else name


def _symbols(dims: Sequence[Any]) -> list[str]:
    return [size for size in dims if isinstance(size, str)]


def _example(entry: OnnxInput, batch: int, generator: torch.Generator) -> Tensor:
    shape = (batch, *entry.shape)
    if entry.dtype.is_floating_point:
        x = torch.rand(shape, generator=generator).to(entry.dtype)
    else:
        x = torch.randint(1, 2 if entry.dtype == torch.bool else 3, shape, generator=generator).to(entry.dtype)
    return x.movedim(0, entry.batch_axis)


# Operands that training does not change, though they stand among those that it does.
_FIXED_PLACES = {"BatchNormalization": (3, 4)}
_LEARNED_PLACES = {
    **dict.fromkeys(("Conv", "ConvTranspose", "Linear", "BatchNormalization", "InstanceNormalization"), (1, 2)),
    **dict.fromkeys(("LayerNormalization", "GroupNormalization", "RMSNormalization", "PRelu", "ConvInteger"), (1, 2)),
    **dict.fromkeys(("MatMul", "Gemm", "Add", "Sub", "Mul", "Div", "MatMulInteger", "Concat", "Expand"), (0, 1, 2)),
    "Gather": (0,),
}
_ROLES = {"BatchNormalization": ("", "weight", "bias", "running_mean", "running_var")}


class _Builder:
    """Gives the calls of a tracing their tensors, under names that a reader knows."""

    def __init__(self, tracing: Tracing, module: OnnxModule) -> None:
        self.tracing, self.module = tracing, module
        self.paths: dict[str, str] = {}  # of the tensors, by the constant
        self.turned: set[str] = set()

    def build(self) -> None:
        calls = list(_fuse(self.tracing))
        uses = Counter(name for _, call in calls for name in call.inputs)
        turned = Counter(call.inputs[1] for _, call in calls if call.operator == "Linear" and call.get("flipped"))
        self.turned = {name for name, count in turned.items() if uses[name] == count}
        for on_sizes, call in calls:
            path, tensors = call.path, list[str | None]()
            for place, name in enumerate(call.inputs):
                array = self.tracing.constants.get(name)
                if array is None or on_sizes or place in SIZES.get(call.operator, ()) or _is_number(call, place, array):
                    tensors.append(None)
                    if array is not None:
                        self.module.constants[name] = array
                    continue
                tensors.append(self.register(call, place, name, array))
            if call.operator == "Linear" and call.inputs[1] in self.turned:
                call = replace(call, attributes={})
            weight = next((t for t in tensors[1:2] if t and isinstance(self.find(t), nn.Parameter)), None)
            scope = weight.rpartition(".")[0] if weight and call.operator in _LEARNED_PLACES else ""
            self.module.calls.append((self.enter(scope or path), call, tuple(tensors)))

    def find(self, path: str) -> Any:
        return self.module._tensor(path)

    def register(self, call: Call, place: int, name: str, array: np.ndarray) -> str:
        if name in self.paths:
            return self.paths[name]
        places = _LEARNED_PLACES.get(call.operator, range(4, 20) if call.operator in _RECURRENT else ())
        floating = array.dtype.kind == "f"
        # some exporters keep weights in Constant nodes, where sums and factors are no weights
        spelled = call.operator in ("Add", "Sub", "Mul", "Div", "Concat", "Expand")
        learned = floating and place in places and (name in self.tracing.learned or not spelled)
        origin = self.tracing.origins.get(name, name)
        path = readable(origin)
        if not path or _anonymous(origin):
            role = _ROLES.get(call.operator, ("input", "weight", "bias"))
            path = f"{call.path or call.operator}.{role[place] if place < len(role) else f'operand_{place}'}"
        owner, _, last = path.rpartition(".")
        owner = self.enter(owner)
        holder = self.module.get_submodule(owner) if owner else self.module
        while hasattr(holder, last):
            last += "_"
        tensor = as_tensor(array.T if name in self.turned else array).contiguous()
        if learned:
            holder.register_parameter(last, nn.Parameter(tensor))
        else:
            holder.register_buffer(last, tensor)
        self.paths[name] = f"{owner}.{last}".lstrip(".")
        return self.paths[name]

    def enter(self, path: str) -> str:
        """Make the modules along a path; a part whose name is taken by a tensor gets another."""
        module: nn.Module = self.module
        taken = []
        for part in filter(None, path.split(".")):
            while not isinstance(getattr(module, part, None), NamedPart) and hasattr(module, part):
                part += "_"
            if not hasattr(module, part):
                module.add_module(part, NamedPart())
            module = getattr(module, part)
            taken.append(part)
        return ".".join(taken)


def readable_input(name: str) -> str:
    """The name of an input as one of an argument."""
    return readable(name).replace(".", "_")


def _build(tracing: Tracing, inputs: Sequence[OnnxInput], returns: Sequence[str]) -> OnnxModule:
    module = OnnxModule(inputs, returns, tuple(tracing.notes))
    module.final = dict(tracing.final)
    _Builder(tracing, module).build()
    for name in module.final.values():
        if name in tracing.constants:
            module.constants[name] = tracing.constants[name]
    return module


def _is_number(call: Call, place: int, array: np.ndarray) -> bool:
    """Whether an operand goes in as a number and not as a tensor."""
    if call.operator in ("Gather", "Scatter", "ScatterElements"):
        return array.ndim == 0
    exact = call.operator in _LEARNED_PLACES and call.operator not in ("Add", "Sub", "Mul", "Div")
    return array.size == 1 and not exact and call.operator not in _RECURRENT


def _fuse(tracing: Tracing) -> Iterator[tuple[bool, Call]]:
    """The calls with a product by a constant matrix and its bias as one linear map; and whether a call is on sizes."""
    readers: dict[str, list[int]] = {}
    for i, call in enumerate(tracing.calls):
        for name in call.inputs:
            readers.setdefault(name, []).append(i)
    kept = set(tracing.final.values())
    done: set[int] = set()
    for i, call in enumerate(tracing.calls):
        if i in done:
            continue
        linear = _as_linear(call, tracing)
        bare = (linear is not None and len(linear.inputs) == 2) or (call.operator == "Conv" and len(call.inputs) == 2)
        call = linear or call
        output = call.outputs[0]
        if bare and len(readers.get(output, ())) == 1 and output not in kept:
            (j,) = readers[output]
            bias = _bias_of(tracing.calls[j], output, call, tracing)
            if bias:
                call = replace(call, inputs=(*call.inputs, bias), outputs=tracing.calls[j].outputs)
                done.add(j)
        yield i in tracing.host, call


def _as_linear(call: Call, tracing: Tracing) -> Call | None:
    """MatMul or Gemm with a constant matrix as a linear map; None of any other call."""
    constants = tracing.constants
    if call.operator not in ("MatMul", "Gemm") or call.inputs[1] not in constants or call.inputs[0] in constants:
        return None
    weight, x = call.inputs[1], tracing.values[call.inputs[0]][0]
    array = constants[weight]
    if array.ndim != 2 or array.dtype.kind != "f" or call.get("transA", 0) or x.ndim < 2:
        return None
    turned = not call.get("transB", 0)
    if weight in tracing.flipped and turned:
        weight, turned = tracing.flipped[weight], False
    if call.get("alpha", 1.0) != 1:
        weight = tracing.derive(weight, "scaled", constants[weight] * array.dtype.type(call.get("alpha")))
    bias = call.inputs[2] if len(call.inputs) > 2 else ""
    width = array.shape[1] if not call.get("transB", 0) else array.shape[0]
    if bias:
        if bias not in constants or constants[bias].size != width:
            return None
        if constants[bias].ndim != 1 or call.get("beta", 1.0) != 1:
            flat = constants[bias].reshape(-1) * array.dtype.type(call.get("beta", 1.0))
            bias = tracing.derive(bias, "flat", flat)
    return replace(
        call,
        operator="Linear",
        inputs=(call.inputs[0], weight, bias) if bias else (call.inputs[0], weight),
        attributes={"flipped": True} if turned else {},
    )


def _bias_of(add: Call, product: str, call: Call, tracing: Tracing) -> str | None:
    """The constant that `add` adds to a product and that is its bias."""
    if add.operator != "Add":
        return None
    bias = next((name for name in add.inputs if name != product), product)
    array = tracing.constants.get(bias)
    if array is None or array.dtype.kind != "f":
        return None
    value = tracing.values[product][0]
    axis = value.ndim - 1 if call.operator == "Linear" else 1
    shape = [1] * (value.ndim - array.ndim) + list(array.shape)
    if len(shape) != value.ndim or shape != [n if i == axis else 1 for i, n in enumerate(value.shape)]:
        return None
    return tracing.derive(bias, "flat", array.reshape(-1)) if array.ndim > 1 else bias


def _anonymous(name: str) -> bool:
    """Whether a name is a count of the exporter's, such as `onnx::Conv_193` or `387`."""
    return bool(re.fullmatch(r"(onnx::\w+_)?\d+|.*/?Constant(_\d+)?(_output_\d+)?|_v_\d+|val_\d+|const\w*_?\d+", name))
