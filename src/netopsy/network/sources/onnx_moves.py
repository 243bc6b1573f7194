"""The operators of ONNX that move values, and what is done on sizes, which may be symbols of `torch.export`."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from netopsy.network.sources.onnx_operators import (
    OPERATORS,
    Call,
    Value,
    as_tensor,
    axes_of,
    is_one,
    is_symbolic,
    numbers_of,
    sizes_of,
)


def _reshape(call: Call, x: Value, shape: Value = None) -> Value:
    target = list(call.get("sizes", call.get("shape", ()) if shape is None else numbers_of(call, shape)))
    if not call.get("allowzero", 0):
        target = [x.shape[i] if isinstance(size, int) and size == 0 else size for i, size in enumerate(target)]
    for axis, source in call.get("batch", ()):  # a file made for one sample says 1 where its batch is
        target[axis] = target[axis] * x.shape[source]
    return x.reshape(target)


def _concatenate(call: Call, *parts: Value) -> Tensor:
    like = next(part for part in parts if isinstance(part, Tensor))
    tensors, axis = [as_tensor(part, like.device) for part in parts], call.get("axis", 0) % like.ndim
    whole = [next((t.shape[i] for t in tensors if not is_one(t.shape[i])), 1) for i in range(like.ndim)]
    # a file made for one sample holds a constant for one sample, as a class token, that meets the batch here
    joined = [
        t
        if all(i == axis or is_one(n) or not is_one(t.shape[i]) for i, n in enumerate(whole))
        else t.expand([t.shape[i] if i == axis else n for i, n in enumerate(whole)])
        for t in tensors
    ]
    return torch.cat(joined, axis)


def _slice(
    call: Call, x: Value, starts: Value = None, ends: Value = None, axes: Value = None, steps: Value = None
) -> Value:
    first, last = (call.get(k) if v is None else numbers_of(call, v) for k, v in (("starts", starts), ("ends", ends)))
    dims = axes_of(call, axes) or list(range(len(first)))
    strides = [1] * len(first) if steps is None else numbers_of(call, steps)
    for dim, start, end, step in zip(dims, first, last, strides, strict=True):
        if step < 0:
            kept = np.arange(x.shape[dim])[slice(start, end if end >= -x.shape[dim] else None, step)]
            x = x.flip(dim) if step == -1 and len(kept) == x.shape[dim] else _take(x, kept, dim)
        else:
            # an end far behind any is how files say "to the end"
            end = None if isinstance(end, int) and end >= 10**9 - 1 else end
            if isinstance(start, int) and start == 0 and end is None and step == 1:
                continue
            index: list[Any] = [slice(None)] * x.ndim
            index[dim] = slice(start, end, step)
            x = x[tuple(index)]
    return x


def _take(x: Value, kept: np.ndarray, axis: int) -> Value:
    if isinstance(x, np.ndarray):
        return np.take(x, kept, axis)
    return x.index_select(axis, torch.from_numpy(np.ascontiguousarray(kept)).to(x.device))


def _gather(call: Call, x: Value, index: Value) -> Value:
    axis = call.get("axis", 0)
    if isinstance(x, np.ndarray) and isinstance(index, np.ndarray):
        return np.take(x, index.astype(np.int64), axis)
    x = as_tensor(x, index.device if isinstance(index, Tensor) else None)
    if isinstance(index, np.ndarray) and index.ndim == 0:
        return x.select(axis, index.item())
    index = as_tensor(index, x.device).long()
    if axis == 0 and x.ndim == 2 and x.is_floating_point():
        return F.embedding(index, x)
    return x[(*[slice(None)] * (axis % x.ndim), index)]


def _from_end(index: Value, length: int, like: Tensor) -> Tensor:
    """Indices that count from the end, as ONNX allows, from the beginning."""
    if isinstance(index, np.ndarray):
        return as_tensor(np.where(index < 0, index + length, index), like.device)
    return torch.where(index < 0, index + length, index).long()


def _gather_points(call: Call, x: Tensor, index: Value) -> Tensor:
    shared = call.get("batch_dims", 0)
    index = as_tensor(index, x.device).long()
    grid = [
        torch.arange(x.shape[i], device=x.device).reshape([-1 if j == i else 1 for j in range(index.ndim - 1)])
        for i in range(shared)
    ]
    return x[(*grid, *index.unbind(-1))]


def _scatter(call: Call, x: Tensor, index: Value, values: Value) -> Tensor:
    axis, how = call.get("axis", 0), call.get("reduction", "none")
    x = as_tensor(x, next((v.device for v in (index, values) if isinstance(v, Tensor)), None))
    index, values = _from_end(index, x.shape[axis], x), as_tensor(values, x.device)
    names = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}
    return x.scatter(axis, index, values) if how == "none" else x.scatter_reduce(axis, index, values, names[how])


def _scatter_points(call: Call, x: Value, index: Value, values: Value) -> Tensor:
    x = as_tensor(x, next((v.device for v in (index, values) if isinstance(v, Tensor)), None))
    if (how := call.get("reduction", "none")) not in ("none", "add"):
        raise call.refuse(f"with the reduction '{how}' is not supported")
    return x.index_put(as_tensor(index).long().unbind(-1), as_tensor(values, x.device), how == "add")


def _expand(call: Call, x: Tensor, shape: Value) -> Tensor:
    target = numbers_of(call, shape)
    rank = max(x.ndim, len(target))
    old, new = [1] * (rank - x.ndim) + list(x.shape), [1] * (rank - len(target)) + target
    return x.expand([wanted if is_one(size) else size for size, wanted in zip(old, new, strict=True)])


def _split(call: Call, x: Value, lengths: Value = None) -> Any:
    axis = call.get("axis", 0)
    given = call.get("split") if lengths is None else numbers_of(call, lengths)
    if given is None:
        parts = call.get("num_outputs", len(call.outputs))
        each = -(-x.shape[axis] // parts)
        given = [each] * (parts - 1) + [x.shape[axis] - each * (parts - 1)]
    if isinstance(x, np.ndarray):
        return tuple(np.split(x, np.cumsum(given)[:-1], axis))
    return torch.split(x, list(given), axis)


def _squeeze(call: Call, x: Value, axes: Value = None) -> Value:
    chosen = axes_of(call, axes)
    dims = [i for i, n in enumerate(x.shape) if is_one(n)] if chosen is None else [axis % x.ndim for axis in chosen]
    for dim in dims:
        if isinstance(x.shape[dim], torch.SymInt) or x.shape[dim] != 1:
            raise call.refuse("drops the axis of the batch, so the file takes one sample at a time")
    return x.squeeze(tuple(dims))


def _unsqueeze(call: Call, x: Value, axes: Value = None) -> Value:
    chosen = axes_of(call, axes) or []
    rank = x.ndim + len(chosen)
    for axis in sorted(axis % rank for axis in chosen):
        x = np.expand_dims(x, axis) if isinstance(x, np.ndarray) else x.unsqueeze(axis)
    return x


def _depth_to_space(call: Call, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    b = call.get("blocksize")
    if call.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, b)
    return x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // b**2, h * b, w * b)


def _space_to_depth(call: Call, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    b = call.get("blocksize")
    return x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(n, c * b**2, h // b, w // b)


def _cast(call: Call, x: Tensor) -> Tensor:
    return x.to(call.torch_type(call.get("to")))


def _shape(call: Call, x: Value) -> np.ndarray:
    return sizes_of(x.shape)[call.get("start", 0) : call.get("end")]


def _size(call: Call, x: Value) -> np.ndarray:
    return sizes_of([math.prod(x.shape)]).reshape(())


# resizing ------------------------------------------------------------------------------------------------------------


def _resize(call: Call, x: Tensor, roi: Value = None, scales: Value = None, sizes: Value = None) -> Tensor:
    """Axis by axis where torch has no function of that kind; the sizes are known, only the batch may be a symbol."""
    if call.operator == "Upsample":
        roi, scales = None, roi if roi is not None else np.array(call.get("scales"))
    given = scales if scales is not None and scales.size else sizes
    axes = call.get("axes") or list(range(x.ndim))
    changes = []
    for axis, entry in zip(axes, numbers_of(call, given), strict=True):
        length = x.shape[axis]
        if isinstance(length, torch.SymInt) or (axis < x.ndim - 3 and axis == 0):
            continue
        wanted = entry if given is sizes else math.floor(length * float(entry) + 1e-6)
        if wanted != length:
            changes.append((axis, int(wanted), int(wanted) / length if given is sizes else float(entry)))
    policy = call.get("keep_aspect_ratio_policy", "stretch")
    if (
        policy != "stretch"
        or call.get("antialias", 0)
        or call.get("coordinate_transformation_mode") == "tf_crop_and_resize"
    ):
        raise call.refuse("keeps an aspect ratio, smooths or crops, which is not supported")
    if not changes:
        return x
    return (_whole_resize if _usual(call, x, changes) else _resize_axes)(call, x, changes)


def _kind(call: Call) -> tuple[str, str]:
    older = call.operator == "Upsample" or call.version < 11
    return call.get("mode", "nearest"), call.get(
        "coordinate_transformation_mode", "asymmetric" if older else "half_pixel"
    )


def _usual(call: Call, x: Tensor, changes: list[tuple[int, int, float]]) -> bool:
    """Whether `F.interpolate` does just that."""
    mode, how = _kind(call)
    if (
        any(axis < 2 or abs(size / x.shape[axis] - scale) > 1e-6 for axis, size, scale in changes)
        or not 3 <= x.ndim <= 5
    ):
        return False
    if mode == "nearest":
        plain = [np.arange(size) * x.shape[axis] // size for axis, size, _ in changes]
        return all(
            np.array_equal(_coordinates(call, x.shape[axis], size, scale), index)
            for (axis, size, scale), index in zip(changes, plain, strict=True)
        )
    fits = how in ("half_pixel", "align_corners") or (how == "pytorch_half_pixel" and all(n > 1 for _, n, _ in changes))
    cubic = mode == "cubic"
    return fits and (
        not cubic or (x.ndim == 4 and call.get("cubic_coeff_a", -0.75) == -0.75 and not call.get("exclude_outside", 0))
    )


def _whole_resize(call: Call, x: Tensor, changes: list[tuple[int, int, float]]) -> Tensor:
    mode, how = _kind(call)
    size = [{axis: n for axis, n, _ in changes}.get(axis, x.shape[axis]) for axis in range(2, x.ndim)]
    if mode == "nearest":
        return F.interpolate(x, size)
    name = "bicubic" if mode == "cubic" else ("linear", "bilinear", "trilinear")[x.ndim - 3]
    return F.interpolate(x, size, mode=name, align_corners=how == "align_corners")


def _coordinates(call: Call, length: int, size: int, scale: float) -> np.ndarray:
    """Where each new place lies among the old ones; with the mode `nearest` the old place that it takes."""
    mode, how = _kind(call)
    new = np.arange(size, dtype=np.float64)
    if how == "align_corners":
        old = new * (length - 1) / max(size - 1, 1)
    elif how == "asymmetric":
        old = new / scale
    elif how == "tf_half_pixel_for_nn":
        old = (new + 0.5) / scale
    elif how == "half_pixel_symmetric":
        old = length / 2 * (1 - size / (length * scale)) + (new + 0.5) / scale - 0.5
    else:
        old = np.zeros(size) if how == "pytorch_half_pixel" and size == 1 else (new + 0.5) / scale - 0.5
    if mode != "nearest":
        return old
    older = call.operator == "Upsample" or call.version < 11
    rounding = call.get("nearest_mode", "floor" if older else "round_prefer_floor")
    old = np.round(old, 9)
    rounds: dict[str, Any] = {"floor": np.floor, "ceil": np.ceil, "round_prefer_ceil": lambda v: np.floor(v + 0.5)}
    return np.clip(rounds.get(rounding, lambda v: np.ceil(v - 0.5))(old), 0, length - 1).astype(np.int64)


def _resize_axes(call: Call, x: Tensor, changes: list[tuple[int, int, float]]) -> Tensor:
    mode, _ = _kind(call)
    for axis, size, scale in changes:
        old, length = _coordinates(call, x.shape[axis], size, scale), x.shape[axis]
        if mode == "nearest":
            x = _take(x, old, axis)
            continue
        matrix, low = np.zeros((size, length)), np.floor(old).astype(int)
        for step in (0, 1) if mode == "linear" else (-1, 0, 1, 2):
            away = np.abs(old - (low + step))
            weight = 1 - away if mode == "linear" else _cubic(away, call.get("cubic_coeff_a", -0.75))
            if call.get("exclude_outside", 0):
                weight = weight * ((low + step >= 0) & (low + step < length))
            np.add.at(matrix, (np.arange(size), np.clip(low + step, 0, length - 1)), weight)
        matrix /= matrix.sum(1, keepdims=True)
        x = (x.movedim(axis, -1) @ torch.from_numpy(matrix.T.copy()).to(x)).movedim(-1, axis)
    return x


def _cubic(d: np.ndarray, a: float) -> np.ndarray:
    """The cubic convolution kernel at a distance of `d` (Keys, 1981)."""
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    return np.where(d <= 1, near, np.where(d < 2, a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a, 0.0))


MOVES: dict[str, Callable[..., Any]] = {
    "Cast": _cast,
    "CastLike": lambda call, x, like: x.to(like.dtype),
    "Concat": _concatenate,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "EyeLike": lambda call, x: torch.eye(*x.shape, dtype=call.torch_type(call.get("dtype", 1)), device=x.device),
    "Flatten": lambda call, x: x.reshape(*([-1, math.prod(x.shape[a:])] if (a := call.get("axis", 1)) else [1, -1])),
    "Gather": _gather,
    "GatherElements": lambda call, x, index: x.gather(a := call.get("axis", 0), _from_end(index, x.shape[a], x)),
    "GatherND": _gather_points,
    "Reshape": _reshape,
    "Resize": _resize,
    "Upsample": _resize,
    "Scatter": _scatter,
    "ScatterElements": _scatter,
    "ScatterND": _scatter_points,
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": lambda call, x, repeats: x.repeat(*numbers_of(call, repeats)),
    "Transpose": lambda call, x: x.permute(*call.get("perm", range(x.ndim)[::-1])),
    "Trilu": lambda call, x, k=None: (torch.triu if call.get("upper", 1) else torch.tril)(
        x, 0 if k is None else numbers_of(call, k)[0]
    ),
    "Unsqueeze": _unsqueeze,
}


def _of_numbers(function: Callable[..., Any]) -> Callable[..., np.ndarray]:
    """The same entry by entry, on arrays that hold symbols."""

    def apply(call: Call, *x: np.ndarray) -> np.ndarray:
        spread = np.broadcast_arrays(*x)
        columns = (numbers_of(call, part) for part in spread)
        return sizes_of(function(*each) for each in zip(*columns, strict=True)).reshape(spread[0].shape)

    return apply


def _divide_sizes(a: Any, b: Any) -> Any:
    return a // b if all(isinstance(v, int | torch.SymInt) for v in (a, b)) else a / b


def _reduced(function: Callable[..., Any]) -> Callable[..., np.ndarray]:
    """Over all entries, as reductions of shapes are."""

    def apply(call: Call, x: np.ndarray, axes: Value = None) -> np.ndarray:
        if x.ndim > 1:
            raise call.refuse("works on a table of sizes, which is not supported")
        return sizes_of([function(list(x.flat))]).reshape([1] * x.ndim if call.get("keepdims", 1) else ())

    return apply


def _cast_sizes(call: Call, x: np.ndarray) -> np.ndarray:
    kind = call.torch_type(call.get("to"))
    if kind.is_floating_point:
        return x if is_symbolic(x) else x.astype(np.float64)
    if kind == torch.bool:
        return sizes_of(bool(v) for v in x.flat).reshape(x.shape)
    return sizes_of(torch.sym_int(v) if is_symbolic(x) else int(v) for v in x.flat).reshape(x.shape)


ON_SIZES: dict[str, Callable[..., Any]] = {
    "Add": _of_numbers(operator.add),
    "Cast": _cast_sizes,
    "Ceil": _of_numbers(lambda v: v if isinstance(v, int | torch.SymInt) else torch.sym_int(-((-v) // 1))),
    "Concat": lambda call, *parts: np.concatenate(parts, call.get("axis", 0)),
    "Div": _of_numbers(_divide_sizes),
    "Equal": _of_numbers(lambda a, b: bool(a == b)),
    "Expand": lambda call, x, to: np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(numbers_of(call, to)))),
    "Floor": _of_numbers(lambda v: v if isinstance(v, int | torch.SymInt) else v // 1),
    "Gather": _gather,
    "Greater": _of_numbers(lambda a, b: bool(a > b)),
    "Identity": lambda call, x: x,
    "Less": _of_numbers(lambda a, b: bool(a < b)),
    "Max": _of_numbers(lambda a, b: torch.sym_max(a, b)),
    "Min": _of_numbers(lambda a, b: torch.sym_min(a, b)),
    "Mod": _of_numbers(operator.mod),
    "Mul": _of_numbers(operator.mul),
    "Neg": _of_numbers(operator.neg),
    "Range": OPERATORS["Range"],
    "ReduceMax": _reduced(lambda v: v[0] if len(v) == 1 else max(v)),
    "ReduceMin": _reduced(lambda v: v[0] if len(v) == 1 else min(v)),
    "ReduceProd": _reduced(math.prod),
    "ReduceSum": _reduced(sum),
    "Reshape": lambda call, x, shape: x.reshape(numbers_of(call, shape)),
    "Shape": _shape,
    "Size": _size,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Sub": _of_numbers(operator.sub),
    "Unsqueeze": _unsqueeze,
    "Where": _of_numbers(lambda c, a, b: a if c else b),
    "ConstantOfShape": OPERATORS["ConstantOfShape"],
}
"""What of these is also done on sizes that are symbols; all else turns them into tensors first."""
