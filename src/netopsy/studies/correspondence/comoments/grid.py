"""The places at which two layers can be compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, ...]


def common_grid(a: Grid, b: Grid) -> Grid:
    """The grid on which units with places `a` and units with places `b` are compared.

    Equal grids stay. Of two maps, the smaller height and the smaller width: areas are averaged. Sequences of different
    length (a class token more, say), a sequence and a map, or values without places have no places in common: each
    unit is averaged over all its places, (). A class token is a place like the others.
    """
    if a == b:
        return a
    if len(a) == len(b) == 2:
        return (min(a[0], b[0]), min(a[1], b[1]))
    return ()


def pooled(values: Tensor, grid: Grid) -> Tensor:
    """(batch, *grid, channel) of (batch, *places, channel): means of areas.

    Equal areas where the sizes divide; else those of `adaptive_avg_pool2d`, which may overlap by a place.
    """
    places = tuple(values.shape[1:-1])
    if places == grid:
        return values
    if not grid:
        return values.flatten(1, -2).mean(1)
    maps = values.movedim(-1, 1)
    if divides(grid, places):
        return F.avg_pool2d(maps, (places[0] // grid[0], places[1] // grid[1])).movedim(1, -1)
    return F.adaptive_avg_pool2d(maps, (grid[0], grid[1])).movedim(1, -1)


def pyramid(values: Tensor, grids: Sequence[Grid]) -> Iterator[Tensor]:
    """`pooled` to each of the grids, which run from fine to coarse: from the one before it where that is the same."""
    places = tuple(values.shape[1:-1])
    source = values
    for grid in grids:
        found = pooled(source if divides(grid, tuple(source.shape[1:-1])) else values, grid)
        if divides(grid, places):
            source = found
        yield found


def divides(grid: Grid, places: Grid) -> bool:
    """Whether `grid` parts `places` into equal areas."""
    return not grid or (len(grid) == len(places) and all(p % g == 0 for g, p in zip(grid, places, strict=True)))
