"""Receptive fields: the pixels of the input that a unit can depend on, from the graph alone."""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from netopsy.errors import SettingsError
from netopsy.network.node import Node
from netopsy.network.program import Program
from netopsy.network.windows import moves as window_moves
from netopsy.network.windows import rules as window_rules
from netopsy.network.windows.windows import Digit, Windows, magnitude

if TYPE_CHECKING:
    from netopsy.network.network import Network

assert window_moves  # its import fills the table of rules

Box = tuple[int, int, int, int]  # (top, left, bottom, right) in pixels, half open

_cache: weakref.WeakKeyDictionary[Program, dict[Node, Any]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class ReceptiveField:
    """Where in the image the units of a node look. All pairs are (vertical, horizontal).

    size: height and width of one unit's field in pixels, not cut to the image; the whole image where the unit sees all.
    stride: pixels that the field moves from one unit to the next, on average where the steps differ; 0 if it stays.
    start: top left corner of the field of unit (0, 0); negative where it lies in the padding.
    grid: rows and columns of units.
    reach: (top, left, bottom, right) of all that the node sees, half open; fields are cut to it.
    exact: whether each field is the smallest box (at the image's edge a dilated window may leave a margin); else it is
        a larger one that holds it, because an operator mixes positions in a way not followed here: node `because`.
    steps: for rows and for columns the digits of the index, outermost first, as (number of values, pixels a step).
    """

    size: tuple[float, float]
    stride: tuple[float, float]
    start: tuple[float, float]
    grid: tuple[int, int]
    reach: Box
    exact: bool
    because: str | None
    steps: tuple[tuple[tuple[int, float], ...], tuple[tuple[int, float], ...]]

    def at(self, y: int = 0, x: int = 0, *, cut: bool = True) -> Box:
        """(top, left, bottom, right) in pixels, half open, of the unit in row `y` and column `x` of the grid.

        cut: to the image; else the box may reach over its edges, where padding is.
        Raises SettingsError outside the grid.
        """
        if not (0 <= y < self.grid[0] and 0 <= x < self.grid[1]):
            raise SettingsError(
                f"no unit at row {y}, column {x}: rows are 0 to {self.grid[0] - 1}, columns 0 to {self.grid[1] - 1}."
            )
        ends = []
        for k, index in enumerate((y, x)):
            low = self.start[k]
            for count, step in reversed(self.steps[k]):
                index, place = divmod(index, count)
                low += place * step
            low, high = math.floor(low), math.ceil(low + self.size[k])
            ends.append((max(low, self.reach[k]), min(high, self.reach[k + 2])) if cut else (low, high))
        return ends[0][0], ends[1][0], ends[0][1], ends[1][1]

    def tells_apart(self, places: tuple[int, ...]) -> bool:
        """Whether each place of a node has a field of its own. places: the sizes of the node's grid of places."""
        return self.grid == places if len(places) == 2 else math.prod(self.grid) == math.prod(places)

    def __str__(self) -> str:
        height, width = (f"{n:g}" for n in self.size)
        return f"{'' if self.exact else '<='}{height}x{width}"


def receptive_field(network: Network, node: str) -> ReceptiveField:
    """The receptive field of the units of `node` (a node, layer or module of the network) in its input.

    Convolution, pooling, interpolation, padding, slices, views, transposes, joins, sums, norms, matrix products and
    attention are followed exactly; where an operator is not known its result is said to see all that its operands see.
    Raises UnknownLayer for a name that the network does not have.
    """
    record = network.node(node)
    if network.program not in _cache:
        _cache[network.program] = _windows(network.program)
    windows, because = _cache[network.program][record]
    return _field(windows, because)


def _windows(program: Program) -> dict[Node, tuple[Any, str | None]]:
    """Windows of every node that depends on the input, and the node that first made them loose."""
    windows_of: dict[Node, Any] = {}
    because: dict[Node, str | None] = {}
    for node in program.nodes:
        if not node.from_input or node.op not in ("placeholder", "call_function"):
            continue
        if node.op == "placeholder":
            windows_of[node] = _pixels(node)
            because[node] = None
            continue
        windows = _apply(node, windows_of)
        parents = [because.get(parent) for parent in node.inputs if parent.from_input]
        blame = next((name for name in parents if name), None)
        windows_of[node] = windows
        because[node] = None if _exact(windows) else blame or node.name
    return {node: (windows, because[node]) for node, windows in windows_of.items()}


def _apply(node: Node, windows_of: dict[Node, Any]) -> Any:
    """The node's rule; where there is none, or it does not fit, everything that the operands see."""
    operands = [w for parent in node.inputs for w in _flat(windows_of.get(parent))]
    if not operands:
        return None
    function = window_rules.RULES.get(node.operator)
    if function is not None:
        try:
            windows = function(node, windows_of)
        except (IndexError, KeyError, TypeError, ValueError, AttributeError, StopIteration):
            windows = None
        fits = isinstance(windows, Windows) and windows.shape == node.full_shape
        if fits if node.is_tensor else isinstance(windows, list):
            return windows
    everything = window_rules.union([w.everywhere(()) for w in operands])
    if node.is_tensor:
        return everything.everywhere(node.full_shape)
    return [everything.everywhere(shape) for shape in node.parts] or None


def _flat(value: Any) -> list[Windows]:
    return [value] if isinstance(value, Windows) else [w for w in value or [] if isinstance(w, Windows)]


def _exact(value: Any) -> bool:
    return all(w.exact for w in _flat(value))


def _pixels(node: Node) -> Windows:
    """Each input value sees its own pixel; the last two axes are the image's (one axis: a single row).

    Of tokens, (batch, length), each is a column of a single row.
    """
    shape = node.full_shape
    if len(shape) == 2 and node.length_axes == (1,):
        height, width, steps = 1, shape[1], [(0, 0), (0, 1)]
    elif len(shape) > 3:
        (height, width), steps = shape[-2:], [(0, 0)] * (len(shape) - 2) + [(1, 0), (0, 1)]
    else:
        (height, width), steps = (1, 1, *shape[2:])[-2:], [(0, 0), (0, 0), (0, 1)][: len(shape)]
    axes = tuple((Digit(n, step),) if n > 1 else () for n, step in zip(shape, steps, strict=True))
    return Windows(axes, (0, 0), (1, 1), ((0, height), (0, width)))


def _field(w: Windows, because: str | None) -> ReceptiveField:
    if len(w.axes) == 4 and any(digit.step != (0, 0) for axis in w.axes[2:] for digit in axis):
        # a unit is a channel at a place; the field of a place holds those of all its channels
        w = w.frozen(1)
    rows, columns = (_digits(w, k) for k in (0, 1))
    box = w.box()
    return ReceptiveField(
        size=(float(w.size[0]), float(w.size[1])),
        stride=(_mean_step(rows), _mean_step(columns)),
        start=(float(w.start[0]), float(w.start[1])),
        grid=(math.prod(n for n, _ in rows), math.prod(n for n, _ in columns)),
        reach=(math.floor(box[0][0]), math.floor(box[1][0]), math.ceil(box[0][1]), math.ceil(box[1][1])),
        exact=w.exact,
        because=because if not w.exact else None,
        steps=(rows, columns),
    )


def _digits(w: Windows, k: int) -> tuple[tuple[int, float], ...]:
    """The digits that count the rows (k = 0) or columns (k = 1) of units."""
    moving = [axis for axis in w.axes if any(digit.step[k] for digit in axis)]
    if not moving and len(w.axes) == 4:
        moving = [w.axes[2 + k]]
    if len(moving) == 1 and not any(digit.step[1 - k] for digit in moving[0]):
        return tuple((digit.size, float(digit.step[k])) for digit in moving[0])
    # rows spread over several axes, as by a window partition, are counted by the size of their step
    digits = [digit for axis in moving for digit in axis if digit.step[k]]
    digits.sort(key=lambda digit: magnitude(digit.step[k]), reverse=True)
    return tuple((digit.size, float(digit.step[k])) for digit in digits)


def _mean_step(digits: tuple[tuple[int, float], ...]) -> float:
    if not any(step for _, step in digits):
        return 0.0
    outer = next(i for i, (_, step) in enumerate(digits) if step)
    return digits[outer][1] / math.prod(n for n, _ in digits[outer + 1 :])
