"""Co-moments of many columns as a few large matrix products.

Every value enters as its float32 deviation from a shift, so that nothing is lost where the mean dwarfs the spread. The
shift is a median, which is never further than one standard deviation from the mean, and is the value of a column that
has one value at most rows (the background of an image): equal numbers would round alike and drift. Products of some
rows are added up in float32, those sums in float64. Sums about the means follow at the end: Chan, Golub, LeVeque,
"Algorithms for computing the sample variance", 1983.

The shuffled products pair each image with the one before it. The images of a part are a chain, whose first image has
none before it yet; a part that follows is joined to the chain's end, and the end to the beginning when all is counted.
Samples that differ in length have no such places: there the rows of a batch meet those half a batch further on.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from netopsy.studies.correspondence.comoments.column_layout import GridLevel, Names, Span
from netopsy.studies.correspondence.comoments.pair import Pair

SMALL, FEW = 4096, 128  # products of at most so many elements take so many rows at once: libraries do not block them
ROWS = 1024  # rows of one larger product
SETTLE = 8192  # rows between two looks at the shifts
FAR = 0.8  # a shift moves where the mean's part in the sum of squares is larger: 2 standard deviations


class Side:
    """The columns of one network on one grid, and the rows of the images at hand.

    width: columns. places: rows an image. images: the most that come at once.
    The buffer begins with the rows of the image before those at hand, zeros before the first one.
    turned: the rows before are those half a batch further on, and no image is joined to another.
    """

    def __init__(
        self, width: int, places: int, images: int, device: torch.device | str = "cpu", *, turned: bool = False
    ) -> None:
        self.width, self.places, self.turned = width, places, turned
        self.buffer: Float32[Tensor, "rows width"] = torch.zeros((images + 1) * places, width, device=device)
        self.first: Float32[Tensor, "places width"] = torch.zeros(places, width, device=device)
        self.shift: Float32[Tensor, " width"] = torch.zeros(width, device=device)
        self.sums: Float64[Tensor, " width"] = torch.zeros(width, dtype=torch.float64, device=device)

    @property
    def last(self) -> Float32[Tensor, "places width"]:
        """The rows of the last image counted."""
        return self.buffer[: self.places]

    def write(self, span: Span, values: Tensor) -> None:
        """Columns `span` of the images at hand; values: (images, *grid, channel)."""
        rows = self.buffer[self.places : (len(values) + 1) * self.places, span[0] : span[1]]
        torch.sub(values, self.shift[span[0] : span[1]], out=rows.view(values.shape))

    def rows(self, images: int, *, before: bool = False) -> Float32[Tensor, "rows width"]:
        """Deviations from the shift; before: each image's place is taken by the one before it."""
        if before and self.turned:
            return self.rows(images).roll(images * self.places // 2, 0)
        start = 0 if before else self.places
        return self.buffer[start : start + images * self.places]

    def advance(self, images: int) -> None:
        """Make the last of the images at hand the one before those to come."""
        end = images * self.places
        self.last.copy_(self.buffer[end : end + self.places].clone())

    def move(self, by: Float64[Tensor, " width"], n: int) -> None:
        """Move the shift, with the sums of `n` rows, by nearly `by`."""
        shift = (self.shift.double() + by).float()
        moved = shift.double() - self.shift.double()
        self.sums -= n * moved
        for rows in (self.first, self.last):
            rows.copy_((rows.double() - moved).float())
        self.shift = shift


class CrossProduct:
    """Sums of products of the columns `rows` of one side with the columns `columns` of another.

    before: with the image before each (the shuffled control).
    """

    def __init__(self, left: Side, rows: Span, right: Side, columns: Span, *, before: bool = False) -> None:
        self.left, self.right, self.before = left, right, before
        self.joined = before and not left.turned  # image to image, over batches and parts
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

    def merge(self, other: CrossProduct) -> None:
        """Add the product of a part that follows, about the same shifts; called before the sides are merged."""
        self.total += other.total
        if self.joined:
            self.total += self._join(other.left.first, self.right.last)

    def move(self, left: Float64[Tensor, " p"], right: Float64[Tensor, " q"], n: int) -> None:
        """Sums about shifts that lie `left` and `right` further; called before the sides move."""
        one, other = self.left.sums[self.rows], self.right.sums[self.columns]
        if self.joined:  # the first image has none before it, and the last stands before none
            one = one - self.left.first[:, self.rows].sum(0, dtype=torch.float64)
            other = other - self.right.last[:, self.columns].sum(0, dtype=torch.float64)
            n -= self.left.places
        self.total -= torch.outer(left, other) + torch.outer(one, right) - n * torch.outer(left, right)

    def central(self, n: int) -> Float64[Tensor, "p q"]:
        """Sums of products of the deviations from the means."""
        total = self.total + self._join(self.left.first, self.right.last) if self.joined else self.total
        return total - torch.outer(self.left.sums[self.rows], self.right.sums[self.columns] / n)

    def _join(self, image: Tensor, before: Tensor) -> Float64[Tensor, "p q"]:
        """The product of one image with the one before it."""
        return image[:, self.rows].double().T @ before[:, self.columns].double()


class CoMoments:
    """All products of columns on one grid; the sides' buffers are filled before each `update`.

    A column whose mean moves far from its shift, compared with its spread, gets a new one: the sums are translated.
    images: the most that come at once. Of padded samples each row counts as an image of one place.
    """

    def __init__(self, level: GridLevel, images: int, device: torch.device | str = "cpu") -> None:
        self.level, self.places = level, 1 if level.padded else level.places
        most = images * level.places // self.places
        self.sides = {k: Side(level.width(k), self.places, most, device, turned=level.padded) for k in level.spans}
        self.within = {
            (k, name): CrossProduct(self.sides[k], span, self.sides[k], span)
            for k, spans in level.spans.items()
            for name, span in spans.items()
        }
        self.between, self.shuffled = (
            {
                k: [
                    CrossProduct(self.sides[0], rows, self.sides[k], columns, before=before) for rows, columns in blocks
                ]
                for k, blocks in level.blocks.items()
                if level.shuffled or not before
            }
            for before in (False, True)
        )
        across = [*self.between.values(), *self.shuffled.values()]
        self.products = [*self.within.values(), *(product for products in across for product in products)]
        self.n = self.waiting = self.images = 0

    def update(self, images: int, rows: int | None = None) -> None:
        """Add the rows of the first `images` images of the buffers; rows: of padded samples, how many they have."""
        self.images += images
        images = images if rows is None else rows
        if not images:
            return
        for side in self.sides.values():
            side.sums += side.rows(images).sum(0).double()
            if not self.n:
                side.first.copy_(side.rows(1))
        for product in self.products:
            product.update(images)
        for side in self.sides.values():
            side.advance(images)
        count = images * self.places
        self.n, self.waiting = self.n + count, self.waiting + count
        if self.waiting >= SETTLE:
            self.waiting = 0
            self._move({id(side): self._distance(side) for side in self.sides.values()})

    def merge(self, other: CoMoments) -> None:
        """Add the images that follow; `other` changes on the way."""
        shifts = {id(other.sides[k]): side.shift for k, side in self.sides.items()}
        other._move({id(s): shifts[id(s)].double() - s.shift.double() for s in other.sides.values()})
        for product, more in zip(self.products, other.products, strict=True):
            product.merge(more)
        for k, side in self.sides.items():
            side.sums += other.sides[k].sums
            side.last.copy_(other.sides[k].last)
        self.n, self.waiting = self.n + other.n, self.waiting + other.waiting
        self.images += other.images

    def _move(self, moves: dict[int, Tensor]) -> None:
        """Move the shifts of the sides, by id, as far as float32 can follow, and translate the sums."""
        if not any(bool(move.any()) for move in moves.values()):
            return
        for p in self.products:
            p.move(self._exact(p.left, moves)[p.rows], self._exact(p.right, moves)[p.columns], self.n)
        for side in self.sides.values():
            side.move(moves[id(side)], self.n)

    def _distance(self, side: Side) -> Tensor:
        """How far the shift of each column should move: the mean's distance from it where that is far."""
        squares = torch.zeros_like(side.sums)
        for p in self.within.values():
            if p.left is side:
                squares[p.rows] = p.total.diagonal()
        distance = side.sums / max(1, self.n)
        return torch.where(distance.square() * self.n > FAR * squares, distance, 0)

    @staticmethod
    def _exact(side: Side, moves: dict[int, Tensor]) -> Tensor:
        """The move as far as float32 shifts can follow it."""
        return (side.shift.double() + moves[id(side)]).float().double() - side.shift.double()

    def pairs(self) -> dict[int, dict[Names, Pair]]:
        """The pairs of layers of the first network with those of each other, by its number."""
        level, n = self.level, self.n
        means = {k: (side.shift.double() + side.sums / n).cpu().numpy() for k, side in self.sides.items()}
        squares = {key: product.central(n).cpu().numpy() for key, product in self.within.items()}
        pairs: dict[int, dict[Names, Pair]] = {}
        for k, products in self.between.items():
            between, control = (self._layers(k, blocks) for blocks in (products, self.shuffled.get(k, [])))
            pairs[k] = {}
            for (a, b), sums in between.items():
                mean_a, mean_b = means[0][slice(*level.spans[0][a])], means[k][slice(*level.spans[k][b])]
                aa, bb = squares[0, a], squares[k, b]
                shuffled = control.get((a, b))
                pairs[k][a, b] = Pair(a, b, n, self.images, level.grid, mean_a, mean_b, aa, bb, sums, shuffled)
        return pairs

    def _layers(self, k: int, products: list[CrossProduct]) -> dict[Names, Float64[np.ndarray, "p q"]]:
        """The sums about the means of each pair of layers that the products cover."""
        sums = {}
        for product in products:
            block, top, left = product.central(self.n).cpu().numpy(), product.rows.start, product.columns.start
            for a, rows in self.level.spans[0].items():
                if not (top <= rows[0] and rows[1] <= product.rows.stop):
                    continue
                for b, columns in self.level.spans[k].items():
                    if left <= columns[0] and columns[1] <= product.columns.stop:
                        sums[a, b] = block[rows[0] - top : rows[1] - top, columns[0] - left : columns[1] - left].copy()
        return sums

    def state(self) -> dict[str, Tensor]:
        """All that has been counted, as tensors."""
        state = {"counts": torch.tensor([self.n, self.waiting, self.images])}
        for k, side in self.sides.items():
            state |= {f"{k} {name}": getattr(side, name) for name in ("shift", "sums", "first", "last")}
        return state | {f"{k} total": product.total for k, product in enumerate(self.products)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up a `state`."""
        self.n, self.waiting, self.images = state["counts"].tolist()
        for k, side in self.sides.items():
            for name in ("shift", "sums", "first", "last"):
                getattr(side, name).copy_(state[f"{k} {name}"])
        for k, product in enumerate(self.products):
            product.total.copy_(state[f"{k} total"])
