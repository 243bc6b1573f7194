"""The places at which two layers can be compared."""

from __future__ import annotations

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
    if places[0] % grid[0] == 0 and places[1] % grid[1] == 0:
        return F.avg_pool2d(maps, (places[0] // grid[0], places[1] // grid[1])).movedim(1, -1)
    return F.adaptive_avg_pool2d(maps, list(grid)).movedim(1, -1)
