"""The operators of ONNX in terms of torch, one function each.

A value is a torch tensor or, for sizes and what is computed from them, a NumPy array whose entries may be symbols of
`torch.export`: so shapes stay numbers, and the export follows them. Source: the ONNX operator specification, opset 24.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from netopsy.errors import NetworkError

Value = Any  # Tensor, np.ndarray of sizes, or None for an operand that is left out

_TYPES = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 4: torch.uint16, 5: torch.int16, 6: torch.int32, 7: torch.int64,
    9: torch.bool, 10: torch.float16, 11: torch.float64, 12: torch.uint32, 13: torch.uint64, 16: torch.bfloat16,
}  # fmt: skip
_HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Call:
    """One operator of the file: what it is called with, and what its results are called.

    version: of the operator set. own_type: half precision stays what it is; else it is computed in float32.
    """

    operator: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    version: int = 18
    own_type: bool = False

    def get(self, name: str, default: Any = None) -> Any:
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def refuse(self, why: str) -> NetworkError:
        """The error that names this operator."""
        where = f" ('{self.name}')" if self.name else ""
        return NetworkError(f"the ONNX operator {self.operator}{where} {why}.")

    @property
    def path(self) -> str:
        """Where its exporter says that it stands: `/layer1/layer1.0/conv1/Conv` is in `layer1.0.conv1`."""
        parts = [part for part in self.name.split("/") if part]
        if parts and re.match(rf"{self.operator}(_\d+)?$", parts[-1]) and self.name.startswith("/"):
            parts = parts[:-1]
        short: list[str] = []
        for part in parts:
            short = short[:-1] if short and part.startswith(f"{short[-1]}.") else short
            short.append(part)
        return readable("/".join(short))

    def torch_type(self, code: int) -> torch.dtype:
        kind = _TYPES.get(code)
        if kind is None:
            raise self.refuse(f"works in the ONNX type {code}, which torch has not")
        return torch.float32 if kind in _HALVES and not self.own_type else kind


def readable(name: str) -> str:
    """A name of the file as a path in a module: letters, digits, underscores and dots."""
    parts = re.split(r"[./]+", re.sub(r"[^0-9A-Za-z_./]+", "_", name))
    return ".".join(part.strip("_") or "_" for part in parts if part)


# Operands that must be known without the input's values.
SIZES = {
    "Reshape": (1,), "Expand": (1,), "Tile": (1,), "Slice": (1, 2, 3, 4), "Pad": (1, 2, 3), "Resize": (1, 2, 3),
    "Squeeze": (1,), "Unsqueeze": (1,), "Split": (1,), "ConstantOfShape": (0,), "TopK": (1,), "OneHot": (1,),
    "CumSum": (1,), **dict.fromkeys(("LSTM", "GRU", "RNN"), (1,)),
    "Upsample": (1,), "Trilu": (1,), "Range": (0, 1, 2), "Clip": (1, 2), "STFT": (1, 3), "DFT": (1, 2),
    **dict.fromkeys(("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2"), (1,)),
    **dict.fromkeys(("ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare", "Dropout"), (1,)),
}  # fmt: skip


def is_symbolic(value: Value) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == object


def sizes_of(values: Iterable[Any]) -> np.ndarray:
    """An array of numbers, or of symbols where any is one."""
    entries = [value.item() if isinstance(value, np.generic) else value for value in values]
    if not any(isinstance(entry, torch.SymInt | torch.SymFloat) for entry in entries):
        return np.array(entries) if entries else np.zeros(0, np.int64)
    array = np.empty(len(entries), dtype=object)
    array[:] = entries
    return array


def is_one(size: Any) -> bool:
    """Whether a size is the number 1; a symbol never is."""
    return isinstance(size, int) and size == 1


def as_tensor(value: Value, device: Any = None) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if is_symbolic(value):
        whole = all(isinstance(entry, int | torch.SymInt) for entry in value.flat)
        kind = torch.int64 if whole else torch.float32
        entries = [torch.scalar_tensor(entry, dtype=kind, device=device) for entry in value.flat]
        return torch.stack(entries).reshape(value.shape)
    return torch.from_numpy(np.array(value, order="C")).to(device)


def as_operand(value: Value, like: Tensor) -> Any:
    """A lone number as Python's own, which takes the type of the tensor that it meets."""
    if isinstance(value, np.ndarray) and value.size == 1 and value.ndim <= like.ndim:
        return value.reshape(()).item()
    return as_tensor(value, like.device)


def numbers_of(call: Call, value: Value) -> list[Any]:
    if isinstance(value, Tensor):
        raise call.refuse("needs a size, an axis or a bound that depends on the values of the input")
    return [entry if is_symbolic(value) else entry.item() for entry in np.atleast_1d(value).flat]


def axes_of(call: Call, given: Value) -> list[int] | None:
    """Axes as an attribute (older files) or an operand; None where they are left out."""
    if given is not None:
        return numbers_of(call, given)
    axes = call.get("axes")
    return None if axes is None else list(axes)


# arithmetic ----------------------------------------------------------------------------------------------------------


def _pairwise(function: Callable[[Any, Any], Any]) -> Callable[..., Value]:
    def apply(call: Call, *operands: Value) -> Value:
        total = operands[0]
        for other in operands[1:]:
            like = total if isinstance(total, Tensor) else other
            total = function(as_operand(total, like), as_operand(other, like))
        return total

    return apply


def _divide(a: Any, b: Any) -> Any:
    whole = all(not (v.is_floating_point() if isinstance(v, Tensor) else isinstance(v, float)) for v in (a, b))
    return torch.div(torch.as_tensor(a), b, rounding_mode="trunc") if whole else a / b


def _bounded(below: bool) -> Callable[[Any, Any], Any]:
    def apply(a: Any, b: Any) -> Any:
        if not isinstance(a, Tensor):
            a, b = b, a
        if isinstance(b, Tensor):
            return torch.maximum(a, b) if below else torch.minimum(a, b)
        return torch.clamp(a, min=b) if below else torch.clamp(a, max=b)

    return apply


def _power(a: Any, b: Any) -> Any:
    result = torch.pow(a, b)
    return result.to(a.dtype) if isinstance(a, Tensor) else result


def _mod(call: Call, a: Value, b: Value) -> Value:
    return _pairwise(torch.fmod if call.get("fmod", 0) else torch.remainder)(call, as_tensor(a), b)


def _where(call: Call, condition: Value, a: Value, b: Value) -> Tensor:
    like = next(v for v in (a, b, condition) if isinstance(v, Tensor))
    a, b = (as_operand(v, like) if isinstance(o, Tensor) else as_tensor(v, like.device) for v, o in ((a, b), (b, a)))
    return torch.where(as_tensor(condition, like.device), a, b)


def _clip(call: Call, x: Tensor, low: Value = None, high: Value = None) -> Tensor:
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        low, high = (None if v is None else as_tensor(v, x.device) for v in (low, high))
        return torch.clamp(x, low, high)
    bounds = [call.get("min") if low is None else low.item(), call.get("max") if high is None else high.item()]
    return torch.clamp(x, *bounds) if bounds != [None, None] else x


def _prelu(call: Call, x: Tensor, slope: Value) -> Tensor:
    slope = as_tensor(slope, x.device)
    channels = x.ndim > 1 and slope.ndim == x.ndim - 1 and slope.shape[0] == slope.numel() == x.shape[1]
    if slope.numel() == 1 or channels:
        return F.prelu(x, slope.reshape(-1))
    return torch.where(x < 0, x * slope, x)


def _softmax(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def apply(call: Call, x: Tensor) -> Tensor:
        axis = call.get("axis", -1 if call.version >= 13 else 1)
        if call.version >= 13 or axis in (-1, x.ndim - 1):
            return function(x, dim=axis)
        return function(x.flatten(axis), dim=axis).reshape(x.shape)  # then over all axes from this one on

    return apply


def _hard_sigmoid(call: Call, x: Tensor) -> Tensor:
    alpha, beta = call.get("alpha", 0.2), call.get("beta", 0.5)
    sixth = abs(alpha - 1 / 6) < 1e-6 and beta == 0.5
    return F.hardsigmoid(x) if sixth else torch.clamp(x * alpha + beta, 0, 1)


def _shrink(call: Call, x: Tensor) -> Tensor:
    lambd, bias = call.get("lambd", 0.5), call.get("bias", 0.0)
    return torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, 0.0))


# reductions ----------------------------------------------------------------------------------------------------------


def _reduce(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def apply(call: Call, x: Tensor, axes: Value = None) -> Tensor:
        chosen = axes_of(call, axes)
        if not chosen and call.get("noop_with_empty_axes", 0):
            return x
        return function(x, chosen or list(range(x.ndim)), bool(call.get("keepdims", 1)))

    return apply


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _arg(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def apply(call: Call, x: Tensor) -> Tensor:
        axis, keep = call.get("axis", 0), bool(call.get("keepdims", 1))
        if call.get("select_last_index", 0):
            return x.shape[axis] - 1 - function(x.flip(axis), axis, keep)
        return function(x, axis, keep)

    return apply


def _cumulative(call: Call, x: Tensor, axis: Value) -> Tensor:
    (dim,) = numbers_of(call, axis)
    x = x.flip(dim) if call.get("reverse", 0) else x
    total = x.cumsum(dim, dtype=x.dtype)
    total = total - x if call.get("exclusive", 0) else total
    return total.flip(dim) if call.get("reverse", 0) else total


def _top(call: Call, x: Tensor, count: Value = None) -> tuple[Tensor, ...]:
    k = call.get("k") if count is None else numbers_of(call, count)[0]
    return tuple(x.topk(k, call.get("axis", -1), bool(call.get("largest", 1)), bool(call.get("sorted", 1))))


def _window(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def apply(call: Call, size: Value) -> Tensor:
        kind = call.torch_type(call.get("output_datatype", 1))
        return make(int(as_tensor(size).item()), periodic=bool(call.get("periodic", 1)), dtype=kind)

    return apply


def _reverse_sequence(call: Call, x: Tensor, lengths: Value) -> Tensor:
    time, batch = call.get("time_axis", 0), call.get("batch_axis", 1)
    moved = x.movedim((batch, time), (0, 1))
    steps = torch.arange(moved.shape[1], device=x.device)
    lengths = as_tensor(lengths, x.device).reshape(-1, 1)
    index = torch.where(steps < lengths, lengths - 1 - steps, steps)
    index = index.reshape(*index.shape, *[1] * (x.ndim - 2)).expand(moved.shape)
    return moved.gather(1, index).movedim((0, 1), (batch, time))


def _one_hot(call: Call, index: Tensor, depth: Value, values: Value) -> Tensor:
    (count,), axis = numbers_of(call, depth), call.get("axis", -1)
    low, high = as_tensor(values, index.device).unbind(0)
    classes = torch.arange(int(count), device=index.device)
    hit = index.long().remainder(int(count)).unsqueeze(-1) == classes
    return torch.where(hit, high, low).movedim(-1, axis)


def _constant_of_shape(call: Call, shape: Value) -> Value:
    fill, size = call.get("value", np.zeros(1, np.float32)).reshape(()), numbers_of(call, shape)
    if all(isinstance(n, int) for n in size):
        return np.full(size, fill)
    return torch.full(size, fill.item(), dtype=torch.from_numpy(fill.reshape(1).copy()).dtype)


def _range(call: Call, start: Value, limit: Value, step: Value) -> Value:
    (first,), (last,), (stride,) = (numbers_of(call, value) for value in (start, limit, step))
    if any(isinstance(v, torch.SymInt | torch.SymFloat) for v in (first, last, stride)):
        return torch.arange(first, last, stride)
    return np.arange(first, last, stride, dtype=None if is_symbolic(start) else start.dtype)


def _plain(function: Callable[..., Any]) -> Callable[..., Value]:
    return lambda call, *operands: function(*operands)


_UNARY: dict[str, Callable[..., Any]] = {
    "Abs": torch.abs, "Acos": torch.acos, "Acosh": torch.acosh, "Asin": torch.asin, "Asinh": torch.asinh,
    "Atan": torch.atan, "Atanh": torch.atanh, "BitwiseNot": torch.bitwise_not, "Ceil": torch.ceil, "Cos": torch.cos,
    "Cosh": torch.cosh, "Det": torch.det, "Erf": torch.erf, "Exp": torch.exp, "Floor": torch.floor,
    "HardSwish": F.hardswish, "IsNaN": torch.isnan, "Log": torch.log, "Mish": F.mish, "Neg": torch.neg,
    "Not": torch.logical_not, "QuickGelu": lambda x: x * torch.sigmoid(1.702 * x), "Reciprocal": torch.reciprocal,
    "Relu": torch.relu, "Round": torch.round, "Sigmoid": torch.sigmoid, "Sign": torch.sign, "Sin": torch.sin,
    "Sinh": torch.sinh, "Softplus": F.softplus, "Softsign": F.softsign, "Sqrt": torch.sqrt, "Tan": torch.tan,
    "Tanh": torch.tanh, "Identity": lambda x: x, "FastGelu": lambda x: F.gelu(x, approximate="tanh"),
}  # fmt: skip

_PAIRWISE = {
    "Add": operator.add, "Sub": operator.sub, "Mul": operator.mul, "Div": _divide, "Pow": _power, "Sum": operator.add,
    "Max": _bounded(True), "Min": _bounded(False), "Equal": operator.eq, "Greater": operator.gt, "Less": operator.lt,
    "GreaterOrEqual": operator.ge, "LessOrEqual": operator.le, "And": operator.and_, "Or": operator.or_,
    "Xor": operator.xor, "BitwiseAnd": operator.and_, "BitwiseOr": operator.or_, "BitwiseXor": operator.xor,
}  # fmt: skip

_REDUCE = {
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keep, dtype=x.dtype),
    "ReduceMean": lambda x, axes, keep: x.mean(axes, keep),
    "ReduceMax": lambda x, axes, keep: x.amax(axes, keep),
    "ReduceMin": lambda x, axes, keep: x.amin(axes, keep),
    "ReduceProd": _product,
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keep),
    "ReduceL2": lambda x, axes, keep: x.square().sum(axes, keep).sqrt(),
    "ReduceLogSum": lambda x, axes, keep: x.sum(axes, keep).log(),
    "ReduceLogSumExp": lambda x, axes, keep: x.logsumexp(axes, keep),
    "ReduceSumSquare": lambda x, axes, keep: x.square().sum(axes, keep),
}

OPERATORS: dict[str, Callable[..., Any]] = {
    **{name: _plain(function) for name, function in _UNARY.items()},
    **{name: _pairwise(function) for name, function in _PAIRWISE.items()},
    **{name: _reduce(function) for name, function in _REDUCE.items()},
    "ArgMax": _arg(torch.argmax),
    "ArgMin": _arg(torch.argmin),
    "BlackmanWindow": _window(torch.blackman_window),
    "Celu": lambda call, x: F.celu(x, call.get("alpha", 1.0)),
    "Clip": _clip,
    "CumSum": _cumulative,
    "Dropout": lambda call, x, *_: (x, torch.ones_like(x, dtype=torch.bool))[: len(call.outputs)],
    "Einsum": lambda call, *x: torch.einsum(call.get("equation"), *map(as_tensor, x)),
    "Elu": lambda call, x: F.elu(x, call.get("alpha", 1.0)),
    "Gelu": lambda call, x: F.gelu(x, approximate=call.get("approximate", "none")),
    "HammingWindow": _window(torch.hamming_window),
    "HannWindow": _window(torch.hann_window),
    "HardSigmoid": _hard_sigmoid,
    "IsInf": lambda call, x: torch.isinf(x),
    "LeakyRelu": lambda call, x: F.leaky_relu(x, call.get("alpha", 0.01)),
    "LogSoftmax": _softmax(F.log_softmax),
    "Mean": lambda call, *x: _pairwise(operator.add)(call, *x) / len(x),
    "Mod": _mod,
    "ReverseSequence": _reverse_sequence,
    "OneHot": _one_hot,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "PRelu": _prelu,
    "Selu": lambda call, x: F.selu(x),
    "Shrink": _shrink,
    "Softmax": _softmax(F.softmax),
    "Swish": lambda call, x: F.silu(x) if call.get("alpha", 1.0) == 1 else x * torch.sigmoid(x * call.get("alpha")),
    "ThresholdedRelu": lambda call, x: F.threshold(x, call.get("alpha", 1.0), 0.0),
    "TopK": _top,
    "Where": _where,
}
