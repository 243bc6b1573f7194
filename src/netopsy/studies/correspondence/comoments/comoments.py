"""Co-moments of many columns as a few large matrix products.

Every value enters as its float32 deviation from a shift, so that nothing is lost where the mean dwarfs the spread. The
shift is a median, which is never further than one standard deviation from the mean, and is the value of a column that
has one value at most rows (the background of an image): equal numbers would round alike and drift. Products of some
rows are added up in float32, those sums in float64. Sums about the means follow at the end: Chan, Golub, LeVeque,
"Algorithms for computing the sample variance", 1983.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float32, Float64
from torch import Tensor

SMALL, FEW = 4096, 128  # products of at most so many elements take so many rows at once: libraries do not block them
ROWS = 1024  # rows of one larger product
SETTLE = 8192  # rows between two looks at the shifts
FAR = 0.8  # a shift moves where the mean's part in the sum of squares is larger: 2 standard deviations

Span = tuple[int, int]


class Side:
    """The columns of one network on one grid, and the rows of the images at hand.

    width: columns. places: rows an image. images: the most that come at once.
    The buffer begins with the rows of the image before those at hand, which is what the shuffled products pair with.
    """

    def __init__(self, width: int, places: int, images: int, device: torch.device | str = "cpu") -> None:
        self.width, self.places = width, places
        self.buffer: Float32[Tensor, "rows width"] = torch.zeros((images + 1) * places, width, device=device)
        self.shift: Float32[Tensor, " width"] = torch.zeros(width, device=device)
        self.sums: Float64[Tensor, " width"] = torch.zeros(width, dtype=torch.float64, device=device)
        self.first: Float64[Tensor, " width"] = torch.zeros(width, dtype=torch.float64, device=device)

    def begin(self, shift: Float32[Tensor, " width"], before: Tensor) -> None:
        """Take the shift, and the rows (places, width) of the image that precedes the first one."""
        self.shift.copy_(shift)
        torch.sub(before, self.shift, out=self.buffer[: self.places])
        self.first.copy_(self._preceding())

    def write(self, span: Span, values: Tensor) -> None:
        """Columns `span` of the images at hand; values: (images, *grid, channel)."""
        rows = self.buffer[self.places : (len(values) + 1) * self.places, span[0] : span[1]]
        torch.sub(values, self.shift[span[0] : span[1]], out=rows.view(values.shape))

    def rows(self, images: int, *, before: bool = False) -> Float32[Tensor, "rows width"]:
        """Deviations from the shift; before: each image's place is taken by the one before it."""
        start = 0 if before else self.places
        return self.buffer[start : start + images * self.places]

    def sums_before(self) -> Float64[Tensor, " width"]:
        """Sums of the rows that came as `before`: all but the last image, and the one that preceded the first."""
        return self.sums + self.first - self._preceding()

    def advance(self, images: int) -> None:
        """Make the last of the images at hand the one before those to come."""
        last = images * self.places
        self.buffer[: self.places] = self.buffer[last : last + self.places].clone()

    def move(self, by: Float64[Tensor, " width"], n: int) -> None:
        """Move the shift, with the sums of `n` rows, by nearly `by`."""
        shift = (self.shift.double() + by).float()
        moved = shift.double() - self.shift.double()
        self.sums -= n * moved
        self.first -= self.places * moved
        self.buffer[: self.places] = (self.buffer[: self.places].double() - moved).float()
        self.shift = shift

    def _preceding(self) -> Float64[Tensor, " width"]:
        return self.buffer[: self.places].sum(0, dtype=torch.float64)


class CrossProduct:
    """Sums of products of the columns `rows` of one side with the columns `columns` of another.

    before: with the image before each (the shuffled control).
    """

    def __init__(self, left: Side, rows: Span, right: Side, columns: Span, *, before: bool = False) -> None:
        self.left, self.right, self.before = left, right, before
        self.rows, self.columns = slice(*rows), slice(*columns)
        shape = (rows[1] - rows[0], columns[1] - columns[0])
        self.part: Float32[Tensor, "p q"] = torch.empty(shape, device=left.shift.device)
        self.total: Float64[Tensor, "p q"] = torch.zeros(shape, dtype=torch.float64, device=left.shift.device)

    def update(self, images: int) -> None:
        x = self.left.rows(images)[:, self.rows]
        y = self.right.rows(images, before=self.before)[:, self.columns]
        start = 0
        if self.part.numel() <= SMALL and len(x) >= 2 * FEW:
            start = len(x) // FEW * FEW
            parts = [v[:start].unflatten(0, (-1, FEW)) for v in (x, y)]
            self.total += torch.bmm(parts[0].transpose(1, 2), parts[1]).sum(0, dtype=torch.float64)
        for first in range(start, len(x), ROWS):
            torch.mm(x[first : first + ROWS].t(), y[first : first + ROWS], out=self.part)
            self.total += self.part

    def move(self, left: Float64[Tensor, " p"], right: Float64[Tensor, " q"], n: int) -> None:
        """Sums about shifts that lie `left` and `right` further; called before the sides move."""
        one, other = self._sums()
        self.total -= torch.outer(left, other) + torch.outer(one, right) - n * torch.outer(left, right)

    def central(self, n: int) -> Float64[Tensor, "p q"]:
        """Sums of products of the deviations from the means."""
        one, other = self._sums()
        return self.total - torch.outer(one, other / n)

    def _sums(self) -> tuple[Tensor, Tensor]:
        other = self.right.sums_before() if self.before else self.right.sums
        return self.left.sums[self.rows], other[self.columns]


class CoMoments:
    """Products of columns on one grid; the sides' buffers are filled before each `update`.

    A column whose mean moves far from its shift, compared with its spread, gets a new one: the sums are translated.
    """

    def __init__(self, sides: Sequence[Side], products: Sequence[CrossProduct]) -> None:
        self.sides, self.products = tuple(sides), tuple(products)
        self.n = self.waiting = 0

    def update(self, images: int) -> None:
        """Add the rows of the first `images` images of the buffers."""
        for side in self.sides:
            side.sums += side.rows(images).sum(0).double()
        for product in self.products:
            product.update(images)
        for side in self.sides:
            side.advance(images)
        count = images * self.sides[0].places
        self.n, self.waiting = self.n + count, self.waiting + count
        if self.waiting >= SETTLE:
            self._settle()

    def _settle(self) -> None:
        """Move the shifts where that is due."""
        self.waiting = 0
        moves = {id(side): self._move(side) for side in self.sides}
        if any(bool(move.any()) for move in moves.values()):
            for p in self.products:
                p.move(self._exact(p.left, moves)[p.rows], self._exact(p.right, moves)[p.columns], self.n)
            for side in self.sides:
                side.move(moves[id(side)], self.n)

    def _move(self, side: Side) -> Tensor:
        """How far the shift of each column should move: the mean's distance from it where that is far."""
        squares = torch.zeros_like(side.sums)
        for p in self.products:
            if p.left is p.right is side and p.rows == p.columns and not p.before:
                squares[p.rows] = p.total.diagonal()
        distance = side.sums / max(1, self.n)
        return torch.where(distance.square() * self.n > FAR * squares, distance, 0)

    @staticmethod
    def _exact(side: Side, moves: dict[int, Tensor]) -> Tensor:
        """The move as far as float32 shifts can follow it."""
        return (side.shift.double() + moves[id(side)]).float().double() - side.shift.double()

    def state(self) -> dict[str, Tensor]:
        """All that has been counted, as tensors."""
        state = {"counts": torch.tensor([self.n, self.waiting])}
        for k, side in enumerate(self.sides):
            state |= {f"{k} {name}": getattr(side, name) for name in ("shift", "sums", "first")}
            state[f"{k} before"] = side.buffer[: side.places]
        for k, product in enumerate(self.products):
            state[f"{k} total"] = product.total
        return state

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up a `state`."""
        self.n, self.waiting = state["counts"].tolist()
        for k, side in enumerate(self.sides):
            for name in ("shift", "sums", "first"):
                getattr(side, name).copy_(state[f"{k} {name}"])
            side.buffer[: side.places].copy_(state[f"{k} before"])
        for k, product in enumerate(self.products):
            product.total.copy_(state[f"{k} total"])
