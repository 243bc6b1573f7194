"""The layers of ONNX in terms of torch: products, convolutions, pools, norms, recurrence, resizing, quantization."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import _VF, Tensor

from netopsy.network.sources.onnx_operators import Call, Value, as_operand, as_tensor, is_one, numbers_of


def linear(call: Call, x: Tensor, weight: Tensor, bias: Value = None) -> Tensor:
    """What MatMul and Gemm with a constant matrix become; weight: (outputs, inputs)."""
    return F.linear(x, weight.t() if call.get("flipped") else weight, None if bias is None else as_tensor(bias))


def _gemm(call: Call, a: Tensor, b: Tensor, c: Value = None) -> Tensor:
    a, b = (v.t() if call.get(key, 0) else v for v, key in ((as_tensor(a), "transA"), (as_tensor(b), "transB")))
    product = a @ b * call.get("alpha", 1.0) if call.get("alpha", 1.0) != 1 else a @ b
    return product if c is None else product + as_operand(c, product) * call.get("beta", 1.0)


def _padding(call: Call, x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """Zeros before each spatial axis, then behind each."""
    mode, n = call.get("auto_pad", "NOTSET"), len(kernel)
    if mode in ("NOTSET", ""):
        return list(call.get("pads", [0] * 2 * n))
    if mode == "VALID":
        return [0] * 2 * n
    sides = zip(x.shape[2:], kernel, stride, dilation, strict=True)
    total = [max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0) for size, k, s, d in sides]
    less, more = [t // 2 for t in total], [t - t // 2 for t in total]
    return [*less, *more] if mode == "SAME_UPPER" else [*more, *less]


def _pad_sides(x: Tensor, pads: Sequence[int], value: float = 0.0) -> Tensor:
    n = len(pads) // 2
    return F.pad(x, [size for i in reversed(range(n)) for size in (pads[i], pads[n + i])], value=value)


def _settings(call: Call, x: Tensor, kernel: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Strides, dilations, padding."""
    stride, dilation = (list(call.get(name) or [1] * len(kernel)) for name in ("strides", "dilations"))
    return stride, dilation, _padding(call, x, kernel, stride, dilation)


def _conv(call: Call, x: Tensor, weight: Tensor, bias: Value = None) -> Tensor:
    weight, n = as_tensor(weight), as_tensor(weight).ndim - 2
    stride, dilation, pads = _settings(call, x, weight.shape[2:])
    if pads[:n] != pads[n:]:
        x, pads = _pad_sides(x, pads), [0] * 2 * n
    function = (F.conv1d, F.conv2d, F.conv3d)[n - 1]
    given = None if bias is None else as_tensor(bias)
    return function(x, weight, given, stride, pads[:n], dilation, call.get("group", 1))


def _conv_transpose(call: Call, x: Tensor, weight: Tensor, bias: Value = None) -> Tensor:
    n = weight.ndim - 2
    stride, dilation = (list(call.get(name) or [1] * n) for name in ("strides", "dilations"))
    extra = list(call.get("output_padding") or [0] * n)
    wanted, mode = call.get("output_shape"), call.get("auto_pad", "NOTSET")
    pads = list(call.get("pads", [0] * 2 * n))
    if wanted or mode.startswith("SAME"):
        sizes = wanted or [size * s for size, s in zip(x.shape[2:], stride, strict=True)]
        each = zip(x.shape[2:], sizes, stride, weight.shape[2:], dilation, extra, strict=True)
        total = [max(s * (size - 1) + e + (k - 1) * d + 1 - out, 0) for size, out, s, k, d, e in each]
        low, high = [t // 2 for t in total], [t - t // 2 for t in total]
        pads = [*low, *high] if mode != "SAME_LOWER" else [*high, *low]
    function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[n - 1]
    even = pads[:n] == pads[n:] and all(e < max(s, d) for e, s, d in zip(extra, stride, dilation, strict=True))
    if even:
        return function(x, weight, bias, stride, pads[:n], extra, call.get("group", 1), dilation)
    full = function(x, weight, bias, stride, 0, 0, call.get("group", 1), dilation)
    return _pad_sides(full, [-p for p in pads[:n]] + [e - p for e, p in zip(extra, pads[n:], strict=True)])


def _max_pool(call: Call, x: Tensor) -> Tensor:
    if len(call.outputs) > 1:
        raise call.refuse("gives the places of its maxima, which is not supported")
    kernel = list(call.get("kernel_shape"))
    n = len(kernel)
    stride, dilation, pads = _settings(call, x, kernel)
    if pads[:n] != pads[n:] or any(p > k // 2 for p, k in zip(pads, kernel * 2, strict=True)):
        x, pads = _pad_sides(x, pads, -math.inf), [0] * 2 * n
    function = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[n - 1]
    return function(x, kernel, stride, pads[:n], dilation, bool(call.get("ceil_mode", 0)))


def _average_pool(call: Call, x: Tensor) -> Tensor:
    kernel = list(call.get("kernel_shape"))
    n = len(kernel)
    stride, dilation, pads = _settings(call, x, kernel)
    if any(d != 1 for d in dilation):
        raise call.refuse("has dilations, which is not supported")
    function: Any = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[n - 1]
    ceil, whole = bool(call.get("ceil_mode", 0)), bool(call.get("count_include_pad", 0))
    if pads[:n] == pads[n:] and all(2 * p <= k for p, k in zip(pads[:n], kernel, strict=True)):
        return function(x, kernel, stride, pads[:n], ceil, whole)
    if whole:
        return function(_pad_sides(x, pads), kernel, stride, 0, ceil, True)
    inside = _pad_sides(torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device), pads)
    return function(_pad_sides(x, pads), kernel, stride, 0, ceil) / function(inside, kernel, stride, 0, ceil)


def _global_pool(name: str) -> Callable[..., Tensor]:
    def apply(call: Call, x: Tensor) -> Tensor:
        function = getattr(F, f"adaptive_{name}_pool{x.ndim - 2}d", None)
        if function is not None:
            return function(x, 1)
        axes = list(range(2, x.ndim))
        return x.mean(axes, keepdim=True) if name == "avg" else x.amax(axes, keepdim=True)

    return apply


def _batch_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    if call.get("training_mode", 0):
        raise call.refuse("computes as in training; export the network in eval mode")
    return F.batch_norm(x, mean, variance, scale, bias, False, 0.0, call.get("epsilon", 1e-5))


def _layer_norm(call: Call, x: Tensor, scale: Tensor, bias: Value = None) -> Tensor:
    axis = call.get("axis", -1) % x.ndim
    shape = x.shape[axis:]
    weight, shift = (None if v is None else as_tensor(v, x.device).expand(shape) for v in (scale, bias))
    if call.operator in ("RMSNormalization", "SimplifiedLayerNormalization"):
        return F.rms_norm(x, list(shape), weight, call.get("epsilon", 1e-5))
    return F.layer_norm(x, list(shape), weight, shift, call.get("epsilon", 1e-5))


def _group_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups = call.get("num_groups")
    if scale.shape[0] != x.shape[1]:  # one a group, before opset 21
        scale, bias = (v.repeat_interleave(x.shape[1] // groups) for v in (scale, bias))
    return F.group_norm(x, groups, scale, bias, call.get("epsilon", 1e-5))


def _local_norm(call: Call, x: Tensor) -> Tensor:
    return F.local_response_norm(
        x, call.get("size"), call.get("alpha", 1e-4), call.get("beta", 0.75), call.get("bias", 1.0)
    )


def _attention(call: Call, q: Tensor, k: Tensor, v: Tensor, mask: Value = None, *past: Value) -> Tensor:
    if past or call.get("softcap", 0.0) or len(call.outputs) > 1:
        raise call.refuse("keeps a past, caps its scores or gives them, which is not supported")
    heads = call.get("q_num_heads")
    if flat := q.ndim == 3:
        q = q.unflatten(-1, (heads, -1)).transpose(1, 2)
        k, v = (part.unflatten(-1, (call.get("kv_num_heads"), -1)).transpose(1, 2) for part in (k, v))
    scores = {"is_causal": bool(call.get("is_causal", 0)), "scale": call.get("scale")}
    given = None if mask is None else as_tensor(mask, q.device)
    result = F.scaled_dot_product_attention(q, k, v, given, enable_gqa=q.shape[1] != k.shape[1], **scores)
    return result.transpose(1, 2).flatten(2) if flat else result


# recurrence ----------------------------------------------------------------------------------------------------------

_GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}  # torch's i f g o from i o f c, r z n from z r h


def recurrent_weights(
    call: Call, weight: np.ndarray, state: np.ndarray, bias: np.ndarray | None
) -> dict[str, np.ndarray]:
    """The weights of a recurrent operator as torch orders them, by torch's names; biases are zero where there is none.

    weight: (directions, gates * hidden, inputs); state: (directions, gates * hidden, hidden); bias: (directions, twice
    gates * hidden).
    """
    order = _GATES[call.operator]
    named = {}
    bias = np.zeros((len(weight), 2 * weight.shape[1]), weight.dtype) if bias is None else bias
    for direction, ending in zip(range(len(weight)), ("", "_reverse"), strict=False):
        both = np.split(bias[direction], 2)
        for name, array in (
            ("weight_ih", weight[direction]),
            ("weight_hh", state[direction]),
            ("bias_ih", both[0]),
            ("bias_hh", both[1]),
        ):
            gates = np.split(array, len(order))
            named[f"{name}_l0{ending}"] = np.concatenate([gates[i] for i in order])
    return named


def _recurrent(call: Call, x: Tensor, lengths: Value, h: Value, c: Value, *weights: Tensor) -> Any:
    """Y (steps, directions, batch, hidden), Y_h and Y_c (directions, batch, hidden)."""
    batch_first = call.get("layout", 0)
    x = x.transpose(0, 1) if batch_first else x
    given_states = [None if s is None else as_tensor(s, x.device) for s in (h, c)]
    given_states = [s.transpose(0, 1) if s is not None and batch_first else s for s in given_states]
    way, count = call.get("direction", "forward"), len(weights) // 4
    states = [_state(x, s, count, weights[1].shape[1]) for s in given_states]
    uneven = isinstance(lengths, Tensor)
    if uneven and len(call.outputs) > 2 and call.outputs[2]:
        raise call.refuse("gives the last cells of sequences of several lengths, which is not supported")
    if not uneven and way != "reverse":
        y, last = _layer(call, x, states, weights)
        y = y.unflatten(2, (count, -1)).transpose(1, 2)
    else:
        parts = []
        for i in range(count):
            back = way == "reverse" or i == 1
            own = [s[i : i + 1] for s in states]
            given = _turn(x, lengths) if back else x
            each, final = _layer(call, given, own, weights[4 * i : 4 * i + 4])
            if uneven:
                each, final = _cut(each, lengths)
            parts.append((_turn(each, lengths) if back else each, final))
        y = torch.stack([part for part, _ in parts], 1)
        last = tuple(torch.cat(each) for each in zip(*(final for _, final in parts), strict=True))
    if batch_first:
        y, last = y.permute(2, 0, 1, 3), tuple(s.transpose(0, 1) for s in last)
    return (y, *last)


def _state(x: Tensor, state: Tensor | None, count: int, hidden: int) -> Tensor:
    if state is None:
        return x.new_zeros(count, x.shape[1], hidden)
    return state.expand(count, x.shape[1], hidden) if is_one(state.shape[1]) else state


def _layer(call: Call, x: Tensor, states: list[Tensor], weights: Sequence[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
    settings = (True, 1, 0.0, False, len(weights) > 4, False)
    kinds = [k.decode().lower() if isinstance(k, bytes) else k.lower() for k in call.get("activations", ())]
    usual = {"LSTM": ["sigmoid", "tanh", "tanh"], "GRU": ["sigmoid", "tanh"], "RNN": ["tanh"]}[call.operator]
    rectified = call.operator == "RNN" and set(kinds) == {"relu"}
    if (kinds and kinds != usual * (len(weights) // 4) and not rectified) or call.get("clip"):
        raise call.refuse("has activations or bounds of its own, which is not supported")
    if call.operator == "LSTM":
        y, *last = _VF.lstm(x, states, list(weights), *settings)
        return y, tuple(last)
    if call.operator == "GRU" and not call.get("linear_before_reset", 0):
        parts = [_gru_reset_first(x, states[0], weights[i : i + 4], i) for i in range(0, len(weights), 4)]
        return torch.cat([y for y, _ in parts], -1), (torch.stack([last for _, last in parts]),)
    function = _VF.gru if call.operator == "GRU" else _VF.rnn_relu if rectified else _VF.rnn_tanh
    y, final = function(x, states[0], list(weights), *settings)
    return y, (final,)


def _gru_reset_first(x: Tensor, state: Tensor, weights: Sequence[Tensor], offset: int) -> tuple[Tensor, Tensor]:
    """A GRU that resets the state before its matrix, not behind it as torch does: step by step."""
    w, r, b, c = weights
    h, outputs = state[offset // 4], []
    inputs = F.linear(x, w, b)
    hidden = r.shape[1]
    for step in inputs.flip(0).unbind(0) if offset else inputs.unbind(0):
        gates = torch.sigmoid(step[:, : 2 * hidden] + F.linear(h, r[: 2 * hidden], c[: 2 * hidden]))
        reset, keep = gates.chunk(2, -1)
        new = torch.tanh(step[:, 2 * hidden :] + F.linear(reset * h, r[2 * hidden :], c[2 * hidden :]))
        h = keep * h + (1 - keep) * new
        outputs.append(h)
    return torch.stack(outputs[::-1] if offset else outputs), h


def _turn(x: Tensor, lengths: Value) -> Tensor:
    """Each sequence backwards; what is behind its end stays."""
    if not isinstance(lengths, Tensor):
        return x.flip(0)
    steps = torch.arange(x.shape[0], device=x.device).unsqueeze(1)
    index = torch.where(steps < lengths, lengths - 1 - steps, steps)
    return x.gather(0, index.unsqueeze(-1).expand(x.shape))


def _cut(y: Tensor, lengths: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Zeros behind each sequence's end, and its last state."""
    steps = torch.arange(y.shape[0], device=y.device).unsqueeze(1)
    index = (lengths.long() - 1).clamp(min=0).reshape(1, -1, 1).expand(1, y.shape[1], y.shape[2])
    return y * (steps < lengths).unsqueeze(-1).to(y.dtype), (y.gather(0, index),)


# quantization --------------------------------------------------------------------------------------------------------


def _along(call: Call, value: Value, x: Tensor) -> Tensor:
    """A scale or a zero for the whole tensor, for each place of an axis, or for blocks along it."""
    value = as_tensor(value, x.device)
    axis = call.get("axis", 1) % max(x.ndim, 1)
    if value.numel() == 1:
        return value.reshape(())
    if value.ndim == x.ndim:
        return value.repeat_interleave(call.get("block_size", 1), axis)
    return value.reshape([-1 if i == axis else 1 for i in range(x.ndim)])


def _dequantize(call: Call, x: Tensor, scale: Value, zero: Value = None) -> Tensor:
    scale = _along(call, scale, x)
    whole = x.to(scale.dtype)
    return (whole if zero is None else whole - _along(call, zero, x).to(scale.dtype)) * scale


def _quantize(call: Call, x: Tensor, scale: Value, zero: Value = None) -> Tensor:
    """The whole numbers that the file computes with, as floats: they are multiplied as such."""
    kind = torch.uint8 if zero is None else as_tensor(zero).dtype
    limits = torch.iinfo(call.torch_type(call.get("output_dtype", 0)) if call.get("output_dtype") else kind)
    whole = torch.round(x / _along(call, scale, x))
    return torch.clamp(whole if zero is None else whole + _along(call, zero, x).to(x.dtype), limits.min, limits.max)


def _quantize_by_range(call: Call, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    low, high = torch.clamp(x.amin(), max=0.0), torch.clamp(x.amax(), min=0.0)
    scale = (high - low) / 255
    zero = torch.clamp(torch.round(-low / scale), 0, 255)
    return torch.clamp(torch.round(x / scale) + zero, 0, 255), scale, zero


def _without_zero(x: Value, zero: Value) -> Tensor:
    x = as_tensor(x).to(torch.float32)
    if zero is None:
        return x
    zero = as_tensor(zero, x.device).to(torch.float32)
    return x - (zero.reshape(-1, *[1] * (x.ndim - 1)) if zero.numel() > 1 else zero.reshape(()))


def _pad(call: Call, x: Tensor, pads: Value = None, value: Value = None, axes: Value = None) -> Tensor:
    given = call.get("pads", call.get("paddings")) if pads is None else numbers_of(call, pads)
    fill = call.get("value", 0.0) if value is None or not value.size else value.reshape(-1)[0].item()
    mode, n = call.get("mode", "constant"), len(given) // 2
    dims = list(range(n)) if axes is None else [axis % x.ndim for axis in numbers_of(call, axes)]
    sides = {dim: (given[i], given[n + i]) for i, dim in enumerate(dims) if (given[i], given[n + i]) != (0, 0)}
    if not sides:
        return x
    first = min(sides)
    flat = [side for dim in reversed(range(first, x.ndim)) for side in sides.get(dim, (0, 0))]
    if mode == "constant":
        return F.pad(x, flat, value=fill)
    if all(side >= 0 for side in flat) and x.ndim - first <= 3 and first in (1, 2) and mode != "wrap":
        return F.pad(x, flat, mode="replicate" if mode == "edge" else mode)
    for dim, (before, behind) in sides.items():
        how: Any = {"edge": "edge", "reflect": "reflect", "wrap": "wrap"}[mode]
        index = np.pad(np.arange(x.shape[dim]), (max(before, 0), max(behind, 0)), how)
        index = index[max(-before, 0) : len(index) - max(-behind, 0)]
        x = x.index_select(dim, torch.from_numpy(index).to(x.device))
    return x


def _fourier(call: Call, x: Tensor, length: Value = None, axis: Value = None) -> Tensor:
    """x: (batch, ..., 1 or 2): the last axis holds the real and the imaginary part."""
    dim = call.get("axis", 1 if call.version < 20 else -2) if axis is None else numbers_of(call, axis)[0]
    dim = dim + 1 if dim < 0 else dim  # of the signal without the axis of the two parts
    n = None if length is None else numbers_of(call, length)[0]
    signal = torch.complex(x[..., 0], x[..., 1] if x.shape[-1] == 2 else torch.zeros_like(x[..., 0]))
    result = (torch.fft.ifft if call.get("inverse", 0) else torch.fft.fft)(signal, n, dim)
    if call.get("onesided", 0):
        result = result.narrow(dim, 0, result.shape[dim] // 2 + 1)
    return torch.view_as_real(result)


def _short_fourier(call: Call, x: Tensor, step: Value, window: Value = None, length: Value = None) -> Tensor:
    """x: (batch, samples) or with a last axis of 1. Gives (batch, frames, frequencies, 2)."""
    signal = x.squeeze(-1) if x.ndim == 3 else x
    size = window.shape[0] if window is not None else numbers_of(call, length)[0]
    frames = signal.unfold(1, size, numbers_of(call, step)[0])
    frames = frames if window is None else frames * as_tensor(window, x.device)
    return torch.view_as_real(torch.fft.rfft(frames) if call.get("onesided", 1) else torch.fft.fft(frames))


LAYERS: dict[str, Callable[..., Any]] = {
    "Attention": _attention,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "ConvInteger": lambda call, x, w, zero=None, of_weight=None: _conv(
        call, _without_zero(x, zero), _without_zero(w, of_weight)
    ),
    "DFT": _fourier,
    "DequantizeLinear": _dequantize,
    "DynamicQuantizeLinear": _quantize_by_range,
    "GRU": _recurrent,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool("avg"),
    "GlobalMaxPool": _global_pool("max"),
    "GroupNormalization": _group_norm,
    "InstanceNormalization": lambda call, x, scale, bias: F.instance_norm(
        x, weight=scale, bias=bias, eps=call.get("epsilon", 1e-5)
    ),
    "LRN": _local_norm,
    "LSTM": _recurrent,
    "LayerNormalization": _layer_norm,
    "Linear": linear,
    "MatMul": lambda call, a, b: torch.matmul(a, b),
    "MatMulInteger": lambda call, x, w, zero=None, of_weight=None: torch.matmul(
        _without_zero(x, zero), _without_zero(w, of_weight)
    ),
    "MaxPool": _max_pool,
    "Pad": _pad,
    "QuantizeLinear": _quantize,
    "RMSNormalization": _layer_norm,
    "RNN": _recurrent,
    "STFT": _short_fourier,
    "SimplifiedLayerNormalization": _layer_norm,
}
