"""The graph of an ONNX file as a flat list of calls.

It is run twice on examples of two batch sizes. What comes out the same both times is a constant; branches and loops
that do not depend on the input's values are written out; a shape that was written down for one sample takes the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netopsy.errors import NetworkError
from netopsy.network.sources.onnx_layers import LAYERS, recurrent_weights
from netopsy.network.sources.onnx_moves import MOVES, ON_SIZES
from netopsy.network.sources.onnx_operators import OPERATORS, SIZES, Call, Value, as_tensor, is_symbolic
from netopsy.network.weights.onnx import read_attributes

TABLE = {**OPERATORS, **MOVES, **LAYERS}
_DOMAINS = ("", "ai.onnx", "com.microsoft")
_MOST_STEPS = 2000  # of a loop that is written out


def run(call: Call, given: Sequence[Value], *, folding: bool = False) -> tuple[Value, ...]:
    """The results of one call; of constants alone where `folding`.

    Raises NetworkError where the operator, or this use of it, is not supported.
    """
    tensors = any(isinstance(value, Tensor) for value in given)
    grows = call.get("grows", False)
    if not tensors and not folding and not grows and call.operator in ON_SIZES:
        return tuple(map(_as_array, _several(ON_SIZES[call.operator](call, *given))))
    function = TABLE.get(call.operator)
    if function is None:
        raise call.refuse("is not supported")
    if tensors and call.operator not in LAYERS:
        return _several(function(call, *given))
    places = SIZES.get(call.operator, ())
    device = next((value.device for value in given if isinstance(value, Tensor)), None)
    results = function(call, *(v if i in places or v is None else as_tensor(v, device) for i, v in enumerate(given)))
    if grows:
        return tuple(as_tensor(result) for result in _several(results))
    if tensors or any(map(is_symbolic, given)):
        return _several(results)
    return tuple(result.numpy() if type(result) is Tensor else result for result in _several(results))


def _as_array(value: Value) -> Value:
    """A lone number or symbol as an array without axes."""
    if isinstance(value, np.ndarray | Tensor):
        return value
    array = np.empty((), object if isinstance(value, torch.SymInt | torch.SymFloat) else None)
    array[()] = value
    return array if array.dtype == object else np.asarray(value)


def _several(value: Any) -> tuple[Value, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)


class Tracing:
    """The graph as a flat list of calls, and the constants that they read.

    origins: the initialiser that a constant was made from. flipped: constants that are a matrix's transpose.
    """

    def __init__(self, model: Any, own_type: bool) -> None:
        self.own_type = own_type
        self.versions = {entry.domain: entry.version for entry in model.opset_import}
        self.functions = {(f.domain, f.name): f for f in model.functions}
        self.constants: dict[str, np.ndarray] = {}
        self.origins: dict[str, str] = {}
        self.learned: set[str] = set()
        self.flipped: dict[str, str] = {}
        self.values: dict[str, tuple[Value, Value]] = {}
        self.calls: list[Call] = []
        self.host: set[int] = set()  # places of calls that give sizes
        self.notes: dict[str, None] = {}
        self.final: dict[str, str] = {}
        self.count = 0

    def trace(self, graph: Any, one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
        self.values |= {name: (one[name], two[name]) for name in one}
        scope: dict[str, str] = {}
        self.read_constants(graph, scope, "")
        scope.update((name, name) for name in (*self.values, *self.constants))
        self.walk(graph.node, scope, "")
        for output in graph.output:
            self.final[output.name] = name = scope.get(output.name, output.name)
            self.check_batch(output.name, name)

    def check_batch(self, output: str, name: str) -> None:
        """The last samples of the larger batch must give what they give in the smaller one."""
        if name in self.constants or not isinstance(self.values[name][0], Tensor):
            return
        small, large = self.values[name]
        axes = [i for i, (m, n) in enumerate(zip(small.shape, large.shape, strict=True)) if m != n]
        if not axes:
            return  # said when the graph is captured
        part = large.narrow(axes[0], large.shape[axes[0]] - small.shape[axes[0]], small.shape[axes[0]])
        if len(axes) > 1 or not torch.allclose(part.double(), small.double(), rtol=1e-3, atol=1e-3, equal_nan=True):
            raise NetworkError(
                f"the ONNX graph mixes the samples of a batch (output '{output}' of one changes with the others); "
                "export it for any batch size."
            )

    def read_constants(self, graph: Any, scope: dict[str, str], prefix: str) -> None:
        for tensor in graph.initializer:
            scope[tensor.name] = name = self.share(tensor.name, self.to_array(tensor), prefix)
            self.learned.add(name)

    def to_array(self, tensor: Any) -> np.ndarray:
        from onnx import numpy_helper

        array = numpy_helper.to_array(tensor)
        if (
            array.dtype.kind == "V"
            or array.dtype.name in ("bfloat16", "int4", "uint4")
            or (array.dtype == np.float16 and not self.own_type)
        ):
            array = array.astype(
                np.float32 if "float" in array.dtype.name else np.int8 if array.dtype.name == "int4" else np.uint8
            )
        return array

    def share(self, name: str, array: np.ndarray, prefix: str) -> str:
        """The name of a constant of the file; the body of a loop, written out at each step, has it once."""
        known = self.constants.get(name)
        if known is not None and (known.dtype != array.dtype or not np.array_equal(known, array)):
            name = prefix + name
        self.add_constant(name, array, name)
        return name

    def add_constant(self, name: str, array: np.ndarray, origin: str | None = None) -> None:
        self.constants[name] = array
        if origin is not None:
            self.origins[name] = origin

    def derive(self, name: str, how: str, array: np.ndarray) -> str:
        """A constant made of another one, which it replaces where it is used."""
        new = f"{name}/{how}"
        self.add_constant(new, array, self.origins.get(name, name))
        if name in self.learned:
            self.learned.add(new)
        return new

    def walk(self, nodes: Any, scope: dict[str, str], prefix: str) -> None:
        for node in nodes:
            attributes = {
                name: self.to_array(value) if hasattr(value, "raw_data") else value
                for name, value in read_attributes(node).items()
            }
            inputs = tuple(scope.get(name, name) if name else "" for name in node.input)
            outputs = tuple(prefix + name if name else "" for name in node.output)
            scope.update((name, prefix + name) for name in node.output if name)
            if node.domain not in _DOMAINS and (node.domain, node.op_type) in self.functions:
                self.inline(self.functions[node.domain, node.op_type], node, inputs, outputs, scope)
                continue
            version = self.versions.get(node.domain, self.versions.get("", 1))
            call = Call(node.op_type, node.name, inputs, outputs, attributes, version, self.own_type)
            if node.domain not in _DOMAINS:
                raise call.refuse(f"of the domain '{node.domain}' is not supported")
            if node.op_type == "Constant":
                scope[node.output[0]] = self.share(node.output[0], self.constant_of(call), prefix)
            elif node.op_type == "If":
                branch = attributes["then_branch" if self.known(call, inputs[0]) else "else_branch"]
                results = self.subgraph(branch, {}, scope)
                scope.update(zip(node.output, results, strict=False))
            elif node.op_type == "Loop":
                self.loop(call, scope, node.output)
            elif node.op_type == "Scan":
                self.scan(call, scope, node.output)
            else:
                for each in self.spell(call):
                    if each.operator == "QuantizeLinear":
                        self.notes[
                            "a quantized file: its weights are shown as floats, and values are rounded as it says"
                        ] = None
                    self.emit(each)

    def constant_of(self, call: Call) -> np.ndarray:
        for name, value in call.attributes.items():
            if name == "value":
                return value
            if name.startswith("value_"):
                return np.array(value, np.float32 if "float" in name else np.int64)
        raise call.refuse("holds no tensor of numbers")

    def known(self, call: Call, name: str) -> Any:
        """The value of a condition or a count, which must not depend on the input's values."""
        value = self.constants.get(name)
        if value is None:
            both = self.values[name]
            if any(isinstance(v, Tensor) for v in both) or not np.array_equal(*both):
                raise call.refuse("depends on the values of the input, which a graph cannot follow")
            value = both[0]
        return value.reshape(-1)[0].item()

    def subgraph(self, graph: Any, given: dict[str, str], scope: dict[str, str]) -> list[str]:
        """Write out the nodes of a branch or a body; returns where its results are."""
        self.count += 1
        inner, prefix = {**scope, **given}, f"{self.count}/"
        self.read_constants(graph, inner, prefix)
        self.walk(graph.node, inner, prefix)
        return [inner[output.name] for output in graph.output]

    def inline(
        self, function: Any, node: Any, inputs: Sequence[str], outputs: Sequence[str], scope: dict[str, str]
    ) -> None:
        if function.attribute:
            raise Call(node.op_type, node.name, (), ()).refuse("is a function with attributes, which is not supported")
        self.count += 1
        inner = dict(zip(function.input, inputs, strict=False))
        self.walk(function.node, inner, f"{self.count}/")
        scope.update((name, inner[result]) for name, result in zip(node.output, function.output, strict=False))

    def loop(self, call: Call, scope: dict[str, str], names: Sequence[str]) -> None:
        body = call.attributes["body"]
        most = self.known(call, call.inputs[0]) if call.inputs[0] else _MOST_STEPS + 1
        going = self.known(call, call.inputs[1]) if len(call.inputs) > 1 and call.inputs[1] else True
        carried, step, rows = list(call.inputs[2:]), 0, []
        while going and step < most:
            if step == _MOST_STEPS:
                raise call.refuse(f"takes more than {_MOST_STEPS} steps")
            self.count += 1
            number = f"{self.count}/step"
            self.constants[number] = np.array(step, np.int64)
            condition = f"{number}?"
            self.constants[condition] = np.array(True)
            given = dict(zip((v.name for v in body.input), (number, condition, *carried), strict=True))
            going_name, *results = self.subgraph(body, given, scope)
            carried, step = results[: len(carried)], step + 1
            rows.append(results[len(carried) :])
            going = self.known(call, going_name)
        scope.update(zip(names, carried, strict=False))
        self.stack(rows, names[len(carried) :], scope)

    def scan(self, call: Call, scope: dict[str, str], names: Sequence[str]) -> None:
        body, count = call.attributes["body"], call.get("num_scan_inputs")
        carried, sequences = list(call.inputs[:-count]), call.inputs[-count:]
        value: Any = self.constants.get(sequences[0], self.values.get(sequences[0], (None,))[0])
        axes = call.get("scan_input_axes", [0] * count)
        back = call.get("scan_input_directions", [0] * count)
        length, rows = int(value.shape[axes[0]]), []
        for step in range(length):
            self.count += 1
            parts = [f"{self.count}/{i}" for i in range(count)]
            for sequence, part, axis, turned in zip(sequences, parts, axes, back, strict=True):
                self.constants[f"{part}/step"] = np.array(length - 1 - step if turned else step, np.int64)
                self.emit(Call("Gather", call.name, (sequence, f"{part}/step"), (part,), {"axis": axis}))
            given = dict(zip((v.name for v in body.input), (*carried, *parts), strict=True))
            results = self.subgraph(body, given, scope)
            carried, row = results[: len(carried)], results[len(carried) :]
            rows.append(row)
        scope.update(zip(names, carried, strict=False))
        outputs = names[len(carried) :]
        axes, back = (call.get(f"scan_output_{key}", [0] * len(outputs)) for key in ("axes", "directions"))
        self.stack(rows, outputs, scope, axes, back)

    def stack(
        self,
        rows: list[list[str]],
        names: Sequence[str],
        scope: dict[str, str],
        axes: Sequence[int] = (),
        back: Sequence[int] = (),
    ) -> None:
        """The results of the steps of a loop as one tensor with an axis of its own for the steps."""
        for i, (name, column) in enumerate(zip(names, zip(*rows, strict=True), strict=False)):
            axis = axes[i] if axes else 0
            column = column[::-1] if back and back[i] else column
            self.count += 1
            parts = [f"{self.count}/{k}" for k in range(len(column))]
            for source, part in zip(column, parts, strict=True):
                self.emit(Call("Unsqueeze", "", (source,), (part,), {"axes": [axis]}))
            scope[name] = f"{self.count}/stack"
            self.emit(Call("Concat", "", tuple(parts), (scope[name],), {"axis": axis}))

    def spell(self, call: Call) -> list[Call]:
        """A recurrent call with torch's weights in the place of ONNX's, one on integers as floats; else as it is."""
        if call.operator not in ("LSTM", "GRU", "RNN"):
            return _in_float(call)
        names = [*call.inputs, *[""] * (8 - len(call.inputs))]
        if any(name and name not in self.constants for name in names[1:4]):
            raise call.refuse("has weights that are computed from the input, which is not supported")
        if names[7]:
            raise call.refuse("has peepholes, which are not supported")
        path, layer = call.path or call.operator.lower(), 0
        while f"{path}.weight_ih_l{layer}" in self.constants:
            layer += 1
        own = []
        weight, state, bias = self.constants[names[1]], self.constants[names[2]], self.constants.get(names[3])
        for name, array in recurrent_weights(call, weight, state, bias).items():
            own.append(f"{path}.{name.replace('_l0', f'_l{layer}')}")
            self.constants[own[-1]] = array
            self.learned.add(own[-1])
        return [replace(call, inputs=(names[0], names[4], names[5], names[6], *own))]

    def emit(self, call: Call) -> None:
        """Run a call on both examples: its results are constants, or it is written down."""
        if all(not name or name in self.constants for name in call.inputs):
            results = run(call, [self.constants.get(name) for name in call.inputs], folding=True)
            origins = {self.origins[n] for n in call.inputs if n in self.origins and self.constants[n].size > 1}
            for name, result in zip(call.outputs, results, strict=False):
                self.add_constant(name, result, next(iter(origins)) if len(origins) == 1 else None)
                if any(n in self.learned for n in call.inputs):
                    self.learned.add(name)
            if call.operator == "Transpose" and results[0].ndim == 2:
                self.flipped[call.outputs[0]] = call.inputs[0]
            return
        small, large = ([self.both(name)[i] if name else None for name in call.inputs] for i in (0, 1))
        first = self.attempt(call, small, "fails on an example")
        if call.operator == "Reshape":
            call = _for_any_batch(call, first[0], small[0], large)
        fixed = "is written for one batch size; export the network with a dynamic first axis"
        second = self.attempt(call, large, fixed)
        if isinstance(first[0], np.ndarray) and first[0].shape != second[0].shape:
            # sizes never grow with the batch: these are values, if only zeros to begin with
            call = replace(call, attributes={**call.attributes, "grows": True})
            first, second = run(call, small), run(call, large)
        same = all(isinstance(a, np.ndarray) and np.array_equal(a, b) for a, b in zip(first, second, strict=True))
        for name, a, b in zip(call.outputs, first, second, strict=False):
            if same:
                self.add_constant(name, a)
            else:
                self.values[name] = (a, b)
        if not same:
            if not any(isinstance(a, Tensor) for a in first):
                self.host.add(len(self.calls))
            self.calls.append(call)

    def attempt(self, call: Call, given: Sequence[Value], what: str) -> tuple[Value, ...]:
        try:
            return run(call, given)
        except (RuntimeError, ValueError, IndexError, TypeError, AttributeError, KeyError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160].rstrip(".")
            raise call.refuse(f"{what} ({reason})") from error

    def both(self, name: str) -> tuple[Value, Value]:
        return (self.constants[name],) * 2 if name in self.constants else self.values[name]


def _for_any_batch(call: Call, result: Value, x: Value, large: Sequence[Value]) -> Call:
    """A Reshape whose size was written down for one sample, with the axis that takes the batch instead.

    result, x: with the smaller batch; large: the operands with the larger one.
    """
    grown = large[0]
    if not isinstance(x, Tensor) or len(large) < 2 or not isinstance(large[1], np.ndarray):
        return call
    axes = [i for i, (m, n) in enumerate(zip(x.shape, grown.shape, strict=True)) if m != n]
    if len(axes) != 1 or x.shape[axes[0]] != 1:
        return call
    before = int(np.prod(x.shape[: axes[0]]))
    places = [i for i in range(result.ndim) if int(np.prod(result.shape[:i])) == before]
    if not places:
        return call
    place = next((i for i in places if result.shape[i] == 1), max(places[0] - 1, 0))
    wanted = list(result.shape)
    wanted[place] *= grown.shape[axes[0]]
    target = large[1].tolist()
    if -1 in target and target.index(-1) == place:
        return call
    try:
        if list(run(call, large)[0].shape) == wanted:
            return call
    except RuntimeError:
        pass
    return replace(call, attributes={**call.attributes, "batch": [(place, axes[0])], "sizes": list(result.shape)})


def _in_float(call: Call) -> list[Call]:
    """An operator on quantized tensors as the float operator between dequantized operands; any other as it is."""
    names = {"QLinearConv": "Conv", "QLinearMatMul": "MatMul"}
    if call.operator not in names:
        return [call]
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, *bias = call.inputs
    base = call.outputs[0]
    conv = call.operator == "QLinearConv"
    plain, rows = replace(call, operator="DequantizeLinear", attributes={}), {"axis": 0 if conv else 1}
    calls = [
        replace(plain, inputs=(x, x_scale, x_zero), outputs=(f"{base}/x",)),
        replace(plain, inputs=(w, w_scale, w_zero), outputs=(f"{base}/w",), attributes=rows),
    ]
    operands = [f"{base}/x", f"{base}/w"]
    if bias:
        calls += [
            replace(plain, operator="Mul", inputs=(x_scale, w_scale), outputs=(f"{base}/s",)),
            replace(plain, inputs=(bias[0], f"{base}/s"), outputs=(f"{base}/b",), attributes=rows),
        ]
        operands.append(f"{base}/b")
    return [
        *calls,
        replace(call, operator=names[call.operator], inputs=tuple(operands), outputs=(f"{base}/y",)),
        replace(plain, operator="QuantizeLinear", inputs=(f"{base}/y", y_scale, y_zero), outputs=call.outputs),
    ]
