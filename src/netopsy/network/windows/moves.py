"""Rules for the operators that move elements without computing: views, slices, padding, joins."""

from __future__ import annotations

from typing import Any

from netopsy.network.node import Node
from netopsy.network.windows.rules import WindowsOf, _as_list, _expand, first, rule
from netopsy.network.windows.windows import Digit, Windows, union


@rule(
    "view",
    "reshape",
    "flatten",
    "unflatten",
    "squeeze",
    "unsqueeze",
    "unsafe_view",
    "view_as",
    "reshape_as",
    "view_copy",
)
def reshape(node: Node, windows_of: WindowsOf) -> Windows:
    """The same elements in the same order."""
    return first(node, windows_of).reshaped(node.full_shape)


@rule("permute", "transpose", "t", "numpy_T", "movedim", "mT", "swapaxes")
def permute(node: Node, windows_of: WindowsOf) -> Windows:
    """Axes in another order, read off the operator's arguments."""
    w = first(node, windows_of)
    rank = len(w.axes)
    order = list(range(rank))
    dims = node.argument("dims")
    if dims is not None:
        order = [int(d) % rank for d in dims]
    elif node.argument("dim0") is not None:
        a, b = int(node.argument("dim0")) % rank, int(node.argument("dim1")) % rank
        order[a], order[b] = b, a
    elif node.argument("source") is not None:
        return _move(w, node.argument("source"), node.argument("destination"))
    else:
        order = order[:-2] + order[-2:][::-1] if rank > 1 else order
    return w.permuted(tuple(order))


def _move(w: Windows, source: Any, destination: Any) -> Windows:
    rank = len(w.axes)
    pairs = sorted(
        (int(d) % rank, int(s) % rank)
        for s, d in zip(
            [source] if isinstance(source, int) else source,
            [destination] if isinstance(destination, int) else destination,
            strict=True,
        )
    )
    order = [i for i in range(rank) if i not in [s for _, s in pairs]]
    for d, s in pairs:
        order.insert(d, s)
    return w.permuted(tuple(order))


@rule("expand", "repeat", "broadcast_to", "tile")
def expand(node: Node, windows_of: WindowsOf) -> Windows:
    """Copies along axes."""
    w, shape = first(node, windows_of), node.full_shape
    while len(w.axes) < len(shape):
        w = w.inserted(0)
    for axis, n in enumerate(shape):
        size = w.shape[axis]
        if n != size and n % size == 0:
            w = w.with_axis(axis, (Digit(n // size), *w.axes[axis]))
    return w


@rule("repeat_interleave")
def repeat_interleave(node: Node, windows_of: WindowsOf) -> Windows:
    """Each element several times in a row."""
    w, dim = first(node, windows_of), node.argument("dim")
    if dim is None or not isinstance(node.argument("repeats"), int):
        return w.everywhere(node.full_shape)
    axis = int(dim) % len(w.axes)
    return w.with_axis(axis, (*w.axes[axis], Digit(int(node.argument("repeats")))))


@rule("slice", "narrow")
def cut(node: Node, windows_of: WindowsOf) -> Windows:
    """Every step-th element of a stretch of one axis."""
    w = first(node, windows_of)
    axis = int(node.argument("dim") or 0) % len(w.axes)
    n, count = w.shape[axis], node.full_shape[axis]
    begin, step = node.argument("start") or 0, node.argument("step") or 1
    if not isinstance(begin, int) or not isinstance(step, int):
        return w.everywhere(node.full_shape)
    begin = max(begin + n if begin < 0 else min(begin, n), 0)
    return _take(w, axis, begin, step, count)


def _take(w: Windows, axis: int, begin: int, step: int, count: int) -> Windows:
    if count == w.shape[axis]:
        return w
    return w.gathered(axis, [(i, i) for i in range(begin, begin + count * step, step)])


@rule("select")
def select(node: Node, windows_of: WindowsOf) -> Windows:
    """One element of an axis, which goes."""
    w = first(node, windows_of)
    axis, index = int(node.argument("dim")) % len(w.axes), node.argument("index")
    if not isinstance(index, int):
        return w.everywhere(node.full_shape)
    return _take(w, axis, index % w.shape[axis], 1, 1).dropped(axis)


@rule("split", "split_with_sizes", "chunk", "unbind", "tensor_split", "unsafe_split", "unsafe_chunk")
def split(node: Node, windows_of: WindowsOf) -> list[Windows]:
    """Stretches of one axis, one after the other."""
    w, begin, parts = first(node, windows_of), 0, []
    axis = int(node.argument("dim") or 0) % len(w.axes)
    for shape in node.parts:
        if len(shape) < len(w.axes):
            parts.append(_take(w, axis, begin, 1, 1).dropped(axis))
            begin += 1
            continue
        count = shape[axis] if axis else w.shape[0]
        parts.append(_take(w, axis, begin, 1, count))
        begin += count
    return parts


@rule("cat", "concat", "concatenate")
def cat(node: Node, windows_of: WindowsOf) -> Any:
    """Joined along an axis: exact where no operand moves along it; else the positions along it are given up."""
    tensors: Any = node.args[0]
    shape = node.full_shape
    axis = int(node.argument("dim") or 0) % len(shape)
    parts, loose, begin = [], False, 0
    for x in tensors:
        w = windows_of.get(x)
        if isinstance(w, Windows):
            moves = any(any(digit.step) for digit in w.axes[axis])
            loose = loose or moves
            parts.append(w.frozen(axis, size=1) if not moves else w)
        begin += x.full_shape[axis]
    if not parts:
        return None
    if not loose:
        return _expand(union(parts), shape)
    # what all see along the axis together is right for their sum; alone, each position sees less
    everything = union([w.frozen(axis, size=1) for w in parts])
    spread = everything.everywhere(shape) if len(parts) == len(shape) else _loose_axis(everything, axis, shape[axis])
    return spread


def _loose_axis(w: Windows, axis: int, size: int) -> Windows:
    from netopsy.network.windows.windows import Loose, _fresh

    return w.with_axis(axis, (Digit(size, loose=Loose(next(_fresh), 0, True)),))


@rule("stack")
def stack(node: Node, windows_of: WindowsOf) -> Any:
    """Joined along a new axis."""
    tensors: Any = node.args[0]
    axis = int(node.argument("dim") or 0) % len(node.full_shape)
    parts = [windows_of[x].inserted(axis) for x in tensors if isinstance(windows_of.get(x), Windows)]
    return _expand(union(parts), node.full_shape) if parts else None


@rule("constant_pad_nd", "pad", "zero_pad2d")
def pad(node: Node, windows_of: WindowsOf) -> Windows:
    """Constants (or copies of what is inside) around the last axes; negative widths cut."""
    w, widths = first(node, windows_of), node.argument("pad")
    mode = node.argument("mode") or "constant"
    for i in range(len(widths) // 2):
        axis = len(w.axes) - 1 - i
        before, count = int(widths[2 * i]), node.full_shape[axis]
        if before == 0 and count == w.shape[axis]:
            continue
        last = w.shape[axis] - 1
        if mode == "constant":
            w = (
                w.gathered(axis, [(j - before,) * 2 for j in range(count)])
                if w.axes[axis]
                else w.with_axis(axis, (Digit(count),))
            )
        elif mode == "replicate":
            w = w.gathered(axis, [(min(max(j - before, 0), last),) * 2 for j in range(count)])
        elif mode == "reflect":
            places = [abs(j - before) for j in range(count)]
            w = w.gathered(axis, [(p if p <= last else 2 * last - p,) * 2 for p in places])
        else:
            w = w.gathered(axis, [((j - before) % (last + 1),) * 2 for j in range(count)])
    return w


@rule("reflection_pad1d", "reflection_pad2d", "replication_pad2d")
def pad_inside(node: Node, windows_of: WindowsOf) -> Windows:
    """Padding with what is inside."""
    w, widths = first(node, windows_of), node.argument("padding")
    reflects = "reflection" in str(node.target)
    for i in range(len(widths) // 2):
        axis = len(w.axes) - 1 - i
        before, count, last = int(widths[2 * i]), node.full_shape[axis], w.shape[axis] - 1
        places = [j - before for j in range(count)]
        places = [abs(p) if reflects else max(p, 0) for p in places]
        places = [(2 * last - p if reflects else last) if p > last else p for p in places]
        w = w.gathered(axis, [(p, p) for p in places])
    return w


@rule("roll")
def roll(node: Node, windows_of: WindowsOf) -> Windows:
    """Elements pushed round along axes: positions near the seam cannot be told apart."""
    w, shifts, dims = first(node, windows_of), node.argument("shifts"), node.argument("dims")
    if not dims:
        return w.everywhere(node.full_shape)
    for shift, axis in zip(_as_list(shifts, 1), dimensions_in_order(dims, len(w.axes)), strict=True):
        n = w.shape[axis]
        w = w.gathered(axis, [((j - shift) % n,) * 2 for j in range(n)])
    return w


def dimensions_in_order(value: Any, rank: int) -> list[int]:
    """Axes counted from the front, as given."""
    return [int(d) % rank for d in ([value] if isinstance(value, int) else value)]


@rule("index_select")
def index_select(node: Node, windows_of: WindowsOf) -> Windows:
    """Elements of one axis in an order that is not known here."""
    w = first(node, windows_of)
    axis = int(node.argument("dim")) % len(w.axes)
    moves = any(any(digit.step) for digit in w.axes[axis])
    return w.everywhere(node.full_shape) if moves else w.frozen(axis, size=node.full_shape[axis])


@rule("im2col")
def im2col(node: Node, windows_of: WindowsOf) -> Windows:
    """Patches as columns: (batch, channels * kernel, places)."""
    w = first(node, windows_of)
    kernel, dilation, padding, stride = (
        _as_list(node.argument(name), 2) for name in ("kernel_size", "dilation", "padding", "stride")
    )
    channels, start, taps, places = w.shape[1], list(w.start), [], []
    for i in (0, 1):
        axis = w.axes[2 + i]
        if len(axis) != 1:
            return w.everywhere(node.full_shape)
        y, x = axis[0].step
        count = (axis[0].size + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        start = [s - padding[i] * t for s, t in zip(start, (y, x), strict=True)]
        taps.append(Digit(kernel[i], (y * dilation[i], x * dilation[i]), axis[0].loose))
        places.append(Digit(count, (y * stride[i], x * stride[i]), axis[0].loose))
    summed = w.axes[1] or ((Digit(channels),) if channels > 1 else ())
    axes = (w.axes[0], (*summed, *taps), tuple(places))
    return Windows(axes, (start[0], start[1]), w.size, w.reach).settled()


@rule("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle")
def shuffle(node: Node, windows_of: WindowsOf) -> Windows:
    """Channels to space and back, as the reshapes and transposes that they are."""
    w, shape, name = first(node, windows_of), node.full_shape, str(node.target)
    n, c, *space = w.shape
    if "channel" in name:
        groups = int(node.argument("groups"))
        return (
            w.reshaped((n, groups, c // groups, *space)).permuted((0, 2, 1, *range(3, 3 + len(space)))).reshaped(shape)
        )
    if "unshuffle" in name:
        r = int(node.argument("downscale_factor"))
        cut_up = w.reshaped((n, c, space[0] // r, r, space[1] // r, r))
        return cut_up.permuted((0, 1, 3, 5, 2, 4)).reshaped(shape)
    r = int(node.argument("upscale_factor"))
    return w.reshaped((n, c // r**2, r, r, *space)).permuted((0, 1, 4, 2, 5, 3)).reshaped(shape)


@rule("getitem")
def getitem(node: Node, windows_of: WindowsOf) -> Any:
    """One of several results."""
    source, index = windows_of.get(node.args[0]), node.args[1]
    if isinstance(source, list) and isinstance(index, int) and index < len(source):
        return source[index]
    return _any(source).everywhere(node.full_shape) if node.is_tensor else source


def _any(source: Any) -> Windows:
    return next(w for w in source if isinstance(w, Windows)) if isinstance(source, list) else source
