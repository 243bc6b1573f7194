"""How each ATen operator moves windows: from the windows of its operands to those of its result.

A rule is a function of (node, operand windows by node) and returns Windows, a list of them (operators with several
results), or None where the result does not depend on the input. `RULES` maps operator names to rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from netopsy.network.macs import CELLS, RECURRENT, einsum_terms
from netopsy.network.node import Node
from netopsy.network.windows.windows import Digit, Windows, union

WindowsOf = dict[Node, Any]
Rule = Callable[[Node, WindowsOf], Any]
RULES: dict[str, Rule] = {}

# fmt: off
_ELEMENTWISE = [
    "relu", "relu6", "hardtanh", "clamp", "clamp_min", "clamp_max", "leaky_relu", "elu", "selu", "celu", "gelu",
    "silu", "mish", "hardswish", "hardsigmoid", "sigmoid", "tanh", "softplus", "log_sigmoid", "threshold", "prelu",
    "exp", "log", "log2", "log1p", "sqrt", "rsqrt", "pow", "abs", "neg", "sign", "sin", "cos", "erf", "reciprocal",
    "square", "floor", "ceil", "round", "add", "sub", "mul", "div", "rsub", "where", "maximum", "minimum", "lerp",
    "addcmul", "addcdiv", "dropout", "alpha_dropout", "feature_dropout", "clone", "contiguous", "to", "to_copy",
    "detach", "alias", "lift_fresh_copy", "type_as", "float", "batch_norm", "isnan", "nan_to_num", "logical_and",
    "logical_or", "logical_not", "eq", "ne", "lt", "le", "gt", "ge", "masked_fill", "bitwise_not", "fill",
    "full_like", "zeros_like", "ones_like", "trunc", "remainder", "fmod", "atan", "expm1", "softshrink",
    "hardshrink", "tanhshrink", "softsign", "identity", "copy", "expand_as", "native_dropout",
    "assert_tensor_metadata",
]
_REDUCE = [
    "mean", "sum", "amax", "amin", "var", "std", "prod", "logsumexp", "norm", "linalg_vector_norm", "argmax",
    "argmin", "any", "all",
]
# fmt: on
_SEVERAL = {"max", "min", "var_mean", "std_mean", "median"}
_ALONG = {"softmax", "log_softmax", "cumsum", "cumprod", "logcumsumexp", "sort", "flip"}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Put a rule into the table under the operators' names."""

    def enter(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return enter


def operands(node: Node, windows_of: WindowsOf) -> list[Windows]:
    """Windows of the node's tensor operands that depend on the input."""
    every = (windows_of.get(parent) for parent in node.inputs)
    return [w for w in every if isinstance(w, Windows)]


def first(node: Node, windows_of: WindowsOf) -> Windows:
    """Windows of the first operand, or of the first that depends on the input."""
    w = windows_of.get(node.args[0]) if isinstance(node.args[0], Node) else None
    return w if isinstance(w, Windows) else operands(node, windows_of)[0]


def dimensions(value: Any, rank: int) -> list[int]:
    """Axes from a number, a list or None (all), counted from the front; sorted."""
    axes = range(rank) if value is None or value == [] else [value] if isinstance(value, int) else value
    return sorted(int(d) % max(rank, 1) for d in axes)


@rule(*_ELEMENTWISE)
def elementwise(node: Node, windows_of: WindowsOf) -> Windows:
    """Each element sees what the elements at its place in the operands see."""
    w, shape = union(operands(node, windows_of)), node.full_shape
    return w if w.shape == shape else _expand(w, shape)


@rule(*_REDUCE)
def reduce(node: Node, windows_of: WindowsOf) -> Windows:
    """A sum over axes sees all along them."""
    w = first(node, windows_of)
    keep = bool(node.argument("keepdim"))
    for axis in reversed(dimensions(node.argument("dim"), len(w.axes))):
        w = w.frozen(axis, size=1) if keep else w.dropped(axis)
    return w


@rule(*_SEVERAL)
def reduce_several(node: Node, windows_of: WindowsOf) -> Any:
    """`max` over an axis returns values and places; with a second tensor it is elementwise."""
    if node.is_tensor and len(operands(node, windows_of)) > 1:
        return elementwise(node, windows_of)
    w = reduce(node, windows_of)
    return w if node.is_tensor else [w, w]


@rule(*_ALONG)
def along(node: Node, windows_of: WindowsOf) -> Any:
    """Every element along the axis sees all along it."""
    w = first(node, windows_of)
    for axis in dimensions(
        node.argument("dim") if node.argument("dim") is not None else node.argument("dims"), len(w.axes)
    ):
        w = w.frozen(axis)
    return w if node.is_tensor else [w, w]


@rule("layer_norm", "rms_norm")
def layer_norm(node: Node, windows_of: WindowsOf) -> Windows:
    """Mean and variance over the last axes."""
    w = first(node, windows_of)
    count = len(node.argument("normalized_shape"))
    for axis in range(len(w.axes) - count, len(w.axes)):
        w = w.frozen(axis)
    return w


@rule("group_norm", "instance_norm")
def all_norm(node: Node, windows_of: WindowsOf) -> Windows:
    """Mean and variance over the whole plane."""
    w = first(node, windows_of)
    for axis in range(1, len(w.axes)):
        w = w.frozen(axis)
    return w


@rule("conv1d", "conv2d", "conv3d", "convolution")
def convolution(node: Node, windows_of: WindowsOf) -> Windows:
    """Sums over the channels and a sliding window."""
    if node.argument("transposed"):
        return transposed(node, windows_of)
    kernel = node.argument("weight").full_shape[2:]
    return _slide(
        node,
        first(node, windows_of),
        kernel,
        node.argument("padding"),
        node.argument("stride"),
        node.argument("dilation"),
    )


@rule("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool2d_with_indices")
def pool(node: Node, windows_of: WindowsOf) -> Any:
    """A sliding window in each channel."""
    kernel, dilation = node.argument("kernel_size"), node.argument("dilation")
    stride = node.argument("stride") or kernel
    w = _slide(node, first(node, windows_of), kernel, node.argument("padding"), stride, dilation or 1, mixes=False)
    return w if node.is_tensor else [w, w]


def _slide(
    node: Node, w: Windows, kernel: Any, padding: Any, stride: Any, dilation: Any, mixes: bool = True
) -> Windows:
    shape = node.full_shape if node.is_tensor else node.parts[0]
    space, out = len(shape) - 2, shape[2:]
    kernels, strides, dilations = (_as_list(v, space) for v in (kernel, stride, dilation))
    for i in range(space):
        reach = (kernels[i] - 1) * dilations[i]
        low = reach // 2 if padding == "same" else 0 if padding == "valid" else _as_list(padding, space)[i]
        w = w.slid(2 + i, kernels[i], strides[i], low, dilations[i], out[i])
    return w.frozen(1, size=shape[1]) if mixes else w


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def transposed(node: Node, windows_of: WindowsOf) -> Windows:
    """Output o = i * stride - padding + dilation * k gathers the inputs i for which some tap k exists."""
    w, out = first(node, windows_of), node.full_shape
    space = len(out) - 2
    kernels = node.argument("weight").full_shape[2:]
    strides, paddings, dilations = (_as_list(node.argument(v), space) for v in ("stride", "padding", "dilation"))
    for i in range(space):
        k, s, p, d, n = kernels[i], strides[i], paddings[i], dilations[i], w.shape[2 + i]
        if k == s and p == 0 and d == 1 and out[2 + i] == n * s:
            w = w.with_axis(2 + i, (*w.axes[2 + i], Digit(s)))
            continue
        ranges = []
        for o in range(out[2 + i]):
            taps = [(o + p - d * t) // s for t in range(k) if (o + p - d * t) % s == 0]
            taps = [t for t in taps if 0 <= t < n]
            ranges.append((min(taps), max(taps)) if taps else (1, 0))
        w = w.gathered(2 + i, ranges)
    return w.frozen(1, size=out[1])


@rule("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d")
def adaptive(node: Node, windows_of: WindowsOf) -> Any:
    """Output j of m averages the inputs floor(j n / m) to ceil((j + 1) n / m)."""
    w = first(node, windows_of)
    shape = node.full_shape if node.is_tensor else node.parts[0]
    for axis in range(2, len(w.axes)):
        n, m = w.shape[axis], shape[axis]
        if n == m:
            continue
        if m == 1:
            w = w.frozen(axis, size=1)
        elif n % m == 0:
            w = w.slid(axis, n // m, n // m, 0, 1, m)
        else:
            w = w.gathered(axis, [(j * n // m, -(-(j + 1) * n // m) - 1) for j in range(m)])
    return w if node.is_tensor else [w, w]


@rule(
    "upsample_nearest1d",
    "upsample_nearest2d",
    "upsample_nearest_exact2d",
    "upsample_bilinear2d",
    "upsample_bicubic2d",
    "upsample_bilinear2d_aa",
    "upsample_bicubic2d_aa",
)
def upsample(node: Node, windows_of: WindowsOf) -> Windows:
    """Interpolation: nearest sees one input, linear two, cubic four (more where it shrinks with antialiasing)."""
    w, shape, name = first(node, windows_of), node.full_shape, node.operator
    corners = bool(node.argument("align_corners"))
    for axis in range(2, len(shape)):
        n, m = w.shape[axis], shape[axis]
        if "nearest" in name:
            if m % n == 0:
                w = w.with_axis(axis, (*w.axes[axis], Digit(m // n)))
                continue
            w = w.gathered(axis, [(j * n // m,) * 2 for j in range(m)])
            continue
        half = (2 if "bicubic" in name else 1) * (max(1.0, n / m) if "aa" in name else 1.0)
        centres = [j * (n - 1) / max(m - 1, 1) if corners else (j + 0.5) * n / m - 0.5 for j in range(m)]
        w = w.gathered(axis, [(math.floor(c - half) + 1, math.ceil(c + half) - 1) for c in centres])
    return w


@rule("linear")
def linear(node: Node, windows_of: WindowsOf) -> Windows:
    """Sums over the last axis."""
    w = first(node, windows_of)
    return w.frozen(len(w.axes) - 1, size=node.full_shape[-1])


@rule("matmul", "mm", "bmm", "addmm", "baddbmm")
def matmul(node: Node, windows_of: WindowsOf) -> Windows:
    """A matrix product as an Einstein sum; a summand is added elementwise."""
    added = node.operator in ("addmm", "baddbmm")
    a, b = node.args[1:3] if added else node.args[:2]
    assert isinstance(a, Node) and isinstance(b, Node)
    ranks = len(a.full_shape), len(b.full_shape)
    batch = "abcdefgh"[: max(*ranks, 2) - 2]
    left = batch[len(batch) - max(ranks[0] - 2, 0) :] + ("ik" if ranks[0] > 1 else "k")
    right = batch[len(batch) - max(ranks[1] - 2, 0) :] + ("kj" if ranks[1] > 1 else "k")
    output = batch + ("i" if ranks[0] > 1 else "") + ("j" if ranks[1] > 1 else "")
    product = contract([left, right], output, [a, b], windows_of)
    summand = windows_of.get(node.args[0]) if added else None
    both = [w for w in (product, summand) if isinstance(w, Windows)]
    return _expand(union(both), node.full_shape)


@rule(*CELLS)
def recurrent_cell(node: Node, windows_of: WindowsOf) -> Any:
    """Each hidden unit sees all inputs of the step and all hidden units of the step before."""
    size = (node.full_shape if node.is_tensor else node.parts[0])[-1]
    w = union([operand.frozen(len(operand.axes) - 1, size=size) for operand in operands(node, windows_of)])
    return w if node.is_tensor else [w, w]


@rule(*RECURRENT - CELLS)
def recurrent(node: Node, windows_of: WindowsOf) -> Any:
    """Each step sees the steps before it, in both directions all; said of the former too, as a bound.

    The last hidden states see all steps. None where the first ones depend on the input, or the sequences are packed.
    """
    found = operands(node, windows_of)
    if len(found) != 1 or node.argument("batch_first") is None:
        return None
    w, rank = found[0], len(node.parts[0])
    steps = rank - 2 if node.argument("batch_first") else 0
    every = w.frozen(steps) if node.argument("bidirectional") else w.blurred(steps)
    last = [w.dropped(steps).inserted(0, shape[0]).frozen(rank - 1, size=shape[-1]) for shape in node.parts[1:]]
    return [every.frozen(rank - 1, size=node.parts[0][-1]), *last]


@rule("einsum")
def einsum(node: Node, windows_of: WindowsOf) -> Any:
    """The Einstein sum of its formula."""
    tensors: Any = node.args[1]
    terms, output = einsum_terms(str(node.args[0]), [len(x.full_shape) for x in tensors])
    return contract(terms, output, list(tensors), windows_of)


@rule("scaled_dot_product_attention")
def attention(node: Node, windows_of: WindowsOf) -> Any:
    """Each query sees itself and all keys and values."""
    names = "abcdefgh"[: len(node.full_shape) - 2]
    q, k, v = (x for x in node.args[:3] if isinstance(x, Node))
    return contract([names + "le", names + "se", names + "sv"], names + "lv", [q, k, v], windows_of)


def contract(terms: Sequence[str], output: str, nodes: Sequence[Node], windows_of: WindowsOf) -> Windows | None:
    """An Einstein sum: axes of one letter go together, letters that the output lacks are summed over."""
    sizes: dict[str, int] = {}
    for term, x in zip(terms, nodes, strict=True):
        for letter, n in zip(term, x.full_shape, strict=True):
            sizes[letter] = max(n, sizes.get(letter, 1))
    letters = list(output) + sorted(set("".join(terms)) - set(output))
    parts = []
    for term, x in zip(terms, nodes, strict=True):
        w = windows_of.get(x)
        if not isinstance(w, Windows) or len(set(term)) < len(term):
            if isinstance(w, Windows):
                return w.everywhere(tuple(sizes[i] for i in output))
            continue
        # first over what only this operand has, so that its own sums are not taken for positions
        lone = [i for i in term if i not in output and sum(i in t for t in terms) == 1]
        for letter in lone:
            w = w.frozen(term.index(letter), size=1)
        present = [i for i in letters if i in term]
        w = w.permuted(tuple(term.index(i) for i in present))
        for position, letter in enumerate(letters):
            if letter not in term:
                w = w.inserted(position)
        parts.append(w)
    if not parts:
        return None
    w = union(parts)
    for position in range(len(letters) - 1, len(output) - 1, -1):
        w = w.dropped(position)
    return _expand(w, tuple(sizes[i] for i in output))


def _expand(w: Windows, shape: tuple[int, ...]) -> Windows:
    """Broadcast to `shape`."""
    while len(w.axes) < len(shape):
        w = w.inserted(0)
    for axis, n in enumerate(shape):
        if w.shape[axis] == 1 and n > 1:
            w = w.with_axis(axis, (Digit(n),))
    return w


def _as_list(value: Any, count: int) -> list[int]:
    """A number or a list of one as a list of `count`."""
    values = [value] if isinstance(value, int) else list(value)
    return [int(v) for v in (values * count if len(values) == 1 else values)]
