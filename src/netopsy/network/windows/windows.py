"""Which pixels each element of a tensor sees: an algebra of moving windows.

An index along an axis is written as digits of mixed radix, the outermost first: after `flatten` a token's number has a
row digit and a column digit, after a window partition a row has a window digit and a digit inside the window. Each
digit moves the window by a fixed step, so reshapes, transposes and partitions lose nothing.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from fractions import Fraction

Number = int | Fraction
Pair = tuple[Number, Number]

_fresh = itertools.count(1)


@dataclass(frozen=True)
class Loose:
    """Why the elements along a digit were all given one common window: their own could not be told apart.

    event: number of the union that did it. operand: which operand's positions were given up.
    clears: whether that operand, over all its positions, fills the union; then summing over them makes it exact again.
    """

    event: int
    operand: int
    clears: bool


@dataclass(frozen=True)
class Digit:
    """One digit of an axis's index: its number of values, the step in pixels (down, right), and whether it is loose."""

    size: int
    step: Pair = (0, 0)
    loose: Loose | None = None


Axis = tuple[Digit, ...]


@dataclass(frozen=True)
class Windows:
    """The window of every element of a tensor, for one image.

    axes: the digits of each axis of the tensor; an axis of size one has none.
    start, size: of the window at index zero, in pixels (y, x); it may reach over the image's edge.
    reach: (first, end) per image axis of the pixels that any element can see.
    bound: whether one element was taken out of a loose axis, so that its window may be too large.
    """

    axes: tuple[Axis, ...]
    start: Pair
    size: Pair
    reach: tuple[Pair, Pair]
    bound: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor."""
        return tuple(math.prod(digit.size for digit in axis) for axis in self.axes)

    @property
    def exact(self) -> bool:
        """Whether every window is the smallest box around the pixels seen."""
        return not self.bound and not any(digit.loose for axis in self.axes for digit in axis)

    def hull(self, image_axis: int) -> Pair:
        """(first, end) of the pixels that all elements see together, not cut to the image."""
        moves = [(d.size - 1) * d.step[image_axis] for axis in self.axes for d in axis]
        low, high = self.start[image_axis], self.start[image_axis] + self.size[image_axis]
        for move in moves:
            low, high = (low + move, high) if move < 0 else (low, high + move)
        return low, high

    def box(self) -> tuple[Pair, Pair]:
        """The hull cut to the reach, per image axis."""
        hulls = self.hull(0), self.hull(1)
        return tuple((max(h[0], r[0]), min(h[1], r[1])) for h, r in zip(hulls, self.reach, strict=True))  # type: ignore[return-value]

    def settled(self) -> Windows:
        """With the reach cut to what is seen, and a window that no longer moves cut to the reach."""
        reach = self.box()
        start, size = list(self.start), list(self.size)
        for k in (0, 1):
            if not any(digit.step[k] for axis in self.axes for digit in axis):
                start[k], size[k] = reach[k][0], reach[k][1] - reach[k][0]
        return replace(self, start=(start[0], start[1]), size=(size[0], size[1]), reach=reach)

    def with_axis(self, axis: int, digits: Axis) -> Windows:
        """With the digits of one axis replaced."""
        axes = list(self.axes)
        axes[axis] = merge_digits(digits)
        return replace(self, axes=tuple(axes))

    def frozen(self, axis: int, loose: Loose | None = None, size: int | None = None) -> Windows:
        """Every element along `axis` sees what all along it see together; `size` is the axis's new length."""
        start, extent = list(self.start), list(self.size)
        for digit in self.axes[axis]:
            for k in (0, 1):
                move = (digit.size - 1) * digit.step[k]
                start[k] += move if move < 0 else 0
                extent[k] += magnitude(move)
        size = self.shape[axis] if size is None else size
        still = (Digit(size, loose=loose),) if size > 1 else ()
        moved = replace(self, start=(start[0], start[1]), size=(extent[0], extent[1])).with_axis(axis, still)
        if loose is None:
            moved = moved._cleared(self.axes[axis])
        return moved.settled()

    def blurred(self, axis: int) -> Windows:
        """As `frozen`, where not every element along `axis` sees all: loose."""
        return self.frozen(axis, Loose(next(_fresh), 0, False))

    def _cleared(self, summed: Axis) -> Windows:
        """Without the looseness that summing over the digits `summed` makes good."""
        left = {(d.loose.event, d.loose.operand) for axis in self.axes for d in axis if d.loose}
        events = {
            d.loose.event for d in summed if d.loose and d.loose.clears and (d.loose.event, d.loose.operand) not in left
        }
        if not events:
            return self
        axes = tuple(
            merge_digits(tuple(replace(d, loose=None) if d.loose and d.loose.event in events else d for d in axis))
            for axis in self.axes
        )
        return replace(self, axes=axes)

    def dropped(self, axis: int) -> Windows:
        """Summed over `axis`, which goes."""
        summed = self.frozen(axis, size=1)
        return replace(summed, axes=summed.axes[:axis] + summed.axes[axis + 1 :])

    def inserted(self, axis: int, size: int = 1) -> Windows:
        """With a new axis along which all elements see the same."""
        digits = (Digit(size),) if size > 1 else ()
        return replace(self, axes=(*self.axes[:axis], digits, *self.axes[axis:]))

    def permuted(self, order: tuple[int, ...]) -> Windows:
        """With the axes in another order."""
        return replace(self, axes=tuple(self.axes[i] for i in order))

    def reshaped(self, shape: tuple[int, ...]) -> Windows:
        """The same elements in another shape; loose where a digit would have to be cut at an uneven place."""
        digits = list(merge_digits(tuple(digit for axis in self.axes for digit in axis)))
        axes: list[Axis] = []
        for length in shape:
            taken: list[Digit] = []
            while length > 1 and digits:
                digit = digits.pop(0)
                if length % digit.size == 0:
                    taken.append(digit)
                    length //= digit.size
                elif digit.size % length == 0:
                    outer, inner = split_digit(digit, digit.size // length)
                    taken.append(outer)
                    digits.insert(0, inner)
                    length = 1
                else:
                    return self.everywhere(shape)
            axes.append(merge_digits(tuple(taken)))
        return replace(self, axes=tuple(axes))

    def everywhere(self, shape: tuple[int, ...]) -> Windows:
        """Every element of a tensor of `shape` is said to see all that any element sees; loose."""
        loose = Loose(next(_fresh), 0, False)
        axes = tuple((Digit(n, loose=loose),) if n > 1 else () for n in shape) if shape else ()
        (top, bottom), (left, right) = self.box()
        return Windows(axes, (top, left), (bottom - top, right - left), self.reach, self.bound)

    def offsets(self, axis: int) -> list[Pair]:
        """Pixels that the window moves from index 0 to each index along `axis`."""
        moves: list[Pair] = [(0, 0)]
        for digit in self.axes[axis]:
            moves = [(y + i * digit.step[0], x + i * digit.step[1]) for y, x in moves for i in range(digit.size)]
        return moves

    def gathered(self, axis: int, ranges: list[tuple[int, int]]) -> Windows:
        """Element j along `axis` sees what the elements first..last of ranges[j] saw; last < first: nothing.

        Exact where the new windows move by a constant step; else the smallest moving window around them, loose.
        """
        offsets = self.offsets(axis)
        start, size, uneven = list(self.start), list(self.size), False
        step: list[Number] = [0, 0]
        last = len(offsets) - 1
        for k in (0, 1):
            if not any(offset[k] for offset in offsets):
                continue
            column = [offset[k] for offset in offsets]
            inside = [(j, max(a, 0), min(b, last)) for j, (a, b) in enumerate(ranges)]
            cut = [(j, column[a : b + 1]) for j, a, b in inside if a <= b]
            spans = [(j, min(part), max(part)) for j, part in cut]
            step[k], low, high, bad = _line(spans)
            start[k] += low
            size[k] += high - low
            uneven = uneven or bad
        loose = Loose(next(_fresh), 0, False) if uneven else None
        digits = (Digit(len(ranges), (step[0], step[1]), loose),) if len(ranges) > 1 else ()
        carried = next((d.loose for d in self.axes[axis] if d.loose), None)
        if carried and digits and not loose:
            digits = (replace(digits[0], loose=replace(carried, clears=False)),)
        bound = self.bound or (carried is not None and not digits)
        moved = replace(self, start=(start[0], start[1]), size=(size[0], size[1]), bound=bound)
        return moved.with_axis(axis, digits).settled()

    def slid(self, axis: int, kernel: int, stride: int, padding: int, dilation: int, count: int) -> Windows:
        """A sliding window (convolution, pooling) along `axis` with `count` positions; `padding` at the low end."""
        digits = self.axes[axis]
        if len(digits) == 1 and not digits[0].loose:
            step = digits[0].step
            start = self.start[0] - padding * step[0], self.start[1] - padding * step[1]
            extent = (kernel - 1) * dilation
            size = self.size[0] + extent * step[0], self.size[1] + extent * step[1]
            new = (Digit(count, (step[0] * stride, step[1] * stride)),) if count > 1 else ()
            return replace(self, start=start, size=size).with_axis(axis, new).settled()
        first = [j * stride - padding for j in range(count)]
        return self.gathered(axis, [(i, i + (kernel - 1) * dilation) for i in first])


def magnitude(number: Number) -> Number:
    """The absolute value."""
    return -number if number < 0 else number


def _line(spans: list[tuple[int, Number, Number]]) -> tuple[Number, Number, Number, bool]:
    """Step, low and high of the smallest evenly moving window around all (index, low, high); and if loose."""
    if len(spans) < 2:
        return 0, spans[0][1] if spans else 0, spans[0][2] if spans else 0, False
    inner = spans[1:-1] if len(spans) > 4 else spans
    (i, a, _), (j, b, _) = inner[0], inner[-1]
    ratio = Fraction(b - a) / (j - i)
    step = ratio.numerator if ratio.denominator == 1 else ratio
    lows, highs = [low - j * step for j, low, _ in spans], [high - j * step for j, _, high in spans]
    # at the edges a window is cut short by the tensor's end, which the reach accounts for
    body = range(1, len(spans) - 1) if len(spans) > 4 else range(len(spans))
    bad = any(lows[j] != min(lows) or highs[j] != max(highs) for j in body)
    return step, min(lows), max(highs), bad


def split_digit(digit: Digit, inner: int) -> tuple[Digit, Digit]:
    """A digit as an outer one and an inner one of `inner` values."""
    y, x = digit.step
    return (
        Digit(digit.size // inner, (y * inner, x * inner), digit.loose),
        Digit(inner, (y, x), digit.loose),
    )


def merge_digits(digits: Axis) -> Axis:
    """Neighbouring digits that move as one, made one."""
    out: list[Digit] = []
    for digit in digits:
        if digit.size == 1:
            continue
        if out and out[-1].loose == digit.loose:
            outer = out[-1]
            if all(o == digit.size * i for o, i in zip(outer.step, digit.step, strict=True)):
                out[-1] = Digit(outer.size * digit.size, digit.step, digit.loose)
                continue
        out.append(digit)
    return tuple(out)


def union(operands: list[Windows]) -> Windows:
    """Windows of an elementwise combination with broadcasting: the box around what each operand sees.

    Where two operands move differently, neither position is kept; the result is loose unless one of them sees it all.
    """
    rank = max(len(w.axes) for w in operands)
    padded = [replace(w, axes=((),) * (rank - len(w.axes)) + w.axes) for w in operands]
    if len(padded) == 1:
        return padded[0]
    shape = tuple(max(w.shape[i] for w in padded) for i in range(rank))
    padded = [_refine(w, padded, shape) for w in padded]
    event = next(_fresh)
    axes = [[w.axes[i] for w in padded] for i in range(rank)]
    frozen: list[set[tuple[int, int]]] = [set() for _ in padded]
    starts, sizes = [list(w.start) for w in padded], [list(w.size) for w in padded]
    steps: dict[tuple[int, int], list[Number]] = {}
    for i, column in enumerate(axes):
        for d in range(max(len(axis) for axis in column)):
            digits_here = [axis[d] if axis else Digit(1) for axis in column]
            steps[i, d] = [0, 0]
            for k in (0, 1):
                if len({digit.step[k] for digit in digits_here}) == 1:
                    steps[i, d][k] = digits_here[0].step[k]
                    continue
                for m, digit in enumerate(digits_here):
                    move = (digit.size - 1) * digit.step[k]
                    starts[m][k] += move if move < 0 else 0
                    sizes[m][k] += magnitude(move)
                    if move:
                        frozen[m].add((i, d))
    low = [min(start[k] for start in starts) for k in (0, 1)]
    high = [max(start[k] + size[k] for start, size in zip(starts, sizes, strict=True)) for k in (0, 1)]
    reach = [(min(w.reach[k][0] for w in padded), max(w.reach[k][1] for w in padded)) for k in (0, 1)]

    def fills(m: int) -> bool:
        """Whether operand m alone sees all that the union sees."""
        return all(
            max(starts[m][k], reach[k][0]) <= max(low[k], reach[k][0])
            and min(starts[m][k] + sizes[m][k], reach[k][1]) >= min(high[k], reach[k][1])
            for k in (0, 1)
        )

    tight = any(fills(m) and not frozen[m] and w.exact for m, w in enumerate(padded))
    bound = not tight and any(w.bound for w in padded)
    owner: dict[tuple[int, int], int] = {}
    shared: set[int] = set()
    for m, w in enumerate(padded):
        given_up = {(i, d) for i, axis in enumerate(w.axes) for d, digit in enumerate(axis) if digit.loose}
        for place in frozen[m] | given_up:
            if owner.setdefault(place, m) != m:
                shared.add(m)
    result: list[Axis] = []
    for i, column in enumerate(axes):
        digits = []
        for d in range(max(len(axis) for axis in column)):
            whose = owner.get((i, d)) if not tight else None
            # summed over all digits that it owns, an operand is exact; if it fills the union, so is the union
            loose = Loose(event, whose, fills(whose) and whose not in shared) if whose is not None else None
            y, x = steps[i, d]
            digits.append(Digit(max(axis[d].size if axis else 1 for axis in column), (y, x), loose))
        result.append(merge_digits(tuple(digits)))
    window = Windows(tuple(result), (low[0], low[1]), (high[0] - low[0], high[1] - low[1]), (reach[0], reach[1]), bound)
    return window.settled()


def _refine(window: Windows, others: list[Windows], shape: tuple[int, ...]) -> Windows:
    """`window` with its digits cut at every place where another operand's are cut; frozen where that is uneven."""
    for i, length in enumerate(shape):
        if window.shape[i] == 1:
            continue
        cuts = {1}
        for other in others:
            inner = 1
            for digit in reversed(other.axes[i]):
                inner *= digit.size
                cuts.add(inner)
        places = sorted(cuts)
        if any(b % a for a, b in itertools.pairwise(places)):
            window = window.frozen(i, Loose(next(_fresh), 0, False))
            places = [1, length]
        digits: list[Digit] = []
        inner = 1
        for digit in reversed(window.axes[i]):
            inside = [p // inner for p in places if inner < p < inner * digit.size]
            inner *= digit.size
            last = 1
            for p in inside:
                rest, piece = split_digit(digit, p // last)
                digits.insert(0, piece)
                digit, last = rest, p
            digits.insert(0, digit)
        axes = list(window.axes)
        axes[i] = tuple(digits)
        window = replace(window, axes=tuple(axes))
    return window
