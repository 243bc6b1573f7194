"""The co-moments of a layer of one network with a layer of another.

The places at which two layers can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float64
from torch import Tensor

from netopsy.errors import SettingsError, UnknownLayer
from netopsy.network.activations import activations
from netopsy.network.network import Network
from netopsy.network.node import Node

ROUNDING = 4 * float(np.finfo(np.float32).eps)  # a standard deviation below this share of the mean is no variance


@dataclass(frozen=True)
class Pair:
    """Sums of squares and products of the deviations from the means, of all units of two layers.

    layer_a, layer_b: node names. n: rows, images times places of the common grid; of padded samples those that are
    theirs. images: their number.
    grid: the common grid of places, (height, width) or (tokens,); () where each image is one row.
    mean_a, mean_b: per unit. aa, bb: within each layer. ab: between the two.
    shuffled: `ab` with the images of b in another order (the control), or None.

    The units are channels; a row is one place of one image (Li et al., Convergent Learning, ICLR 2016, Section 2).
    """

    layer_a: str
    layer_b: str
    n: int
    images: int
    grid: tuple[int, ...]
    mean_a: Float64[np.ndarray, " p"]
    mean_b: Float64[np.ndarray, " q"]
    aa: Float64[np.ndarray, "p p"]
    bb: Float64[np.ndarray, "q q"]
    ab: Float64[np.ndarray, "p q"]
    shuffled: Float64[np.ndarray, "p q"] | None = None

    @cached_property
    def correlation(self) -> Float64[np.ndarray, "p q"]:
        """Pearson's correlation of every unit of a with every unit of b; 0 where one of them is dead."""
        return self._correlation(self.ab, self.spread_a, self.spread_b)

    @cached_property
    def correlation_shuffled(self) -> Float64[np.ndarray, "p q"] | None:
        """The control: the same with the images of b in another order; None where it was not counted."""
        return None if self.shuffled is None else self._correlation(self.shuffled, self.spread_a, self.spread_b)

    @cached_property
    def correlation_aa(self) -> Float64[np.ndarray, "p p"]:
        """Correlation of the units of a with one another; 0 where one of them is dead, on the diagonal too."""
        return self._correlation(self.aa, self.spread_a, self.spread_a)

    @cached_property
    def correlation_bb(self) -> Float64[np.ndarray, "q q"]:
        """Correlation of the units of b with one another; 0 where one of them is dead, on the diagonal too."""
        return self._correlation(self.bb, self.spread_b, self.spread_b)

    @cached_property
    def std_a(self) -> Float64[np.ndarray, " p"]:
        """Standard deviation of each unit of a, sqrt(sum of squares / n); 0 where it is dead."""
        return self.spread_a / np.sqrt(self.n)

    @cached_property
    def std_b(self) -> Float64[np.ndarray, " q"]:
        """Standard deviation of each unit of b; 0 where it is dead."""
        return self.spread_b / np.sqrt(self.n)

    @cached_property
    def spread_a(self) -> Float64[np.ndarray, " p"]:
        """Square root of the sum of squares of each unit of a; exactly 0 where it is dead."""
        return _standard_deviations(self.aa, self.mean_a, self.n)

    @cached_property
    def spread_b(self) -> Float64[np.ndarray, " q"]:
        """Square root of the sum of squares of each unit of b; exactly 0 where it is dead."""
        return _standard_deviations(self.bb, self.mean_b, self.n)

    @property
    def dead_a(self) -> Bool[np.ndarray, " p"]:
        """The units of a that have one value everywhere, up to rounding."""
        return self.spread_a == 0

    @property
    def dead_b(self) -> Bool[np.ndarray, " q"]:
        """The units of b that have one value everywhere, up to rounding."""
        return self.spread_b == 0

    def swapped(self) -> Pair:
        """The same with b in the place of a."""
        return replace(
            self,
            layer_a=self.layer_b,
            layer_b=self.layer_a,
            mean_a=self.mean_b,
            mean_b=self.mean_a,
            aa=self.bb,
            bb=self.aa,
            ab=self.ab.T,
            shuffled=None if self.shuffled is None else self.shuffled.T,
        )

    def control(self) -> Pair:
        """The pair with the images of b in another order: `shuffled` in the place of `ab`."""
        if self.shuffled is None:
            raise ValueError(f"the pair {self.layer_a}, {self.layer_b} was counted without its shuffled control")
        return replace(self, ab=self.shuffled, shuffled=None)

    @staticmethod
    def _correlation(products: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            one, other = (np.where(spread > 0, 1 / spread, 0) for spread in (left, right))
        # a spread of 0 times a product of rounding errors is 0
        return np.clip(products * one[:, None] * other, -1, 1)


def _standard_deviations(products: np.ndarray, mean: np.ndarray, n: int) -> np.ndarray:
    spread = np.sqrt(np.diagonal(products).clip(min=0))
    return np.where(spread > ROUNDING * np.sqrt(n) * np.abs(mean), spread, 0.0)


def merge(one: Pair, other: Pair) -> Pair:
    """The pair over the images of both: exact (Chan, Golub, LeVeque, "Algorithms for computing the sample variance",
    1983, in matrices). The control of each stays among its own images.
    """
    n = one.n + other.n
    weight = one.n * other.n / n
    da, db = other.mean_a - one.mean_a, other.mean_b - one.mean_b
    between = np.outer(da, db) * weight
    controls = one.shuffled is not None and other.shuffled is not None
    return replace(
        one,
        n=n,
        images=one.images + other.images,
        mean_a=one.mean_a + da * (other.n / n),
        mean_b=one.mean_b + db * (other.n / n),
        aa=one.aa + other.aa + np.outer(da, da) * weight,
        bb=one.bb + other.bb + np.outer(db, db) * weight,
        ab=one.ab + other.ab + between,
        shuffled=one.shuffled + other.shuffled + between if controls else None,  # type: ignore[operator]
    )


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


def pool(values: Tensor, grid: Grid) -> Tensor:
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


def real_rows(values: Sequence[Tensor], reals: Sequence[Bool[Tensor, "batch *places"]], grid: Grid) -> Iterator[Tensor]:
    """(rows, channel) of each of several values (batch, *places, channel), at the places of `grid` that belong to a
    sample in all of them. reals: which do, with axes of 1 where a value does not go by the samples' length.

    A value of other places is averaged: over its own real places to the grid (), over areas to another.
    """
    kept = torch.ones((), dtype=torch.bool, device=values[0].device)
    for real in reals:
        kept = kept & (real if grid else real.reshape(len(real), -1).any(1))
    for value, real in zip(values, reals, strict=True):
        pooled = value
        if not grid and value.ndim > 2:
            own = real.expand(value.shape[:-1])[..., None]
            sums = value.masked_fill(~own, 0).flatten(1, -2).sum(1)
            pooled = sums / own.flatten(1, -2).sum(1).clamp(min=1)
        elif tuple(value.shape[1:-1]) != grid:
            pooled = pool(value, grid)
        yield pooled[kept.expand(pooled.shape[:-1])]


def pyramid(values: Tensor, grids: Sequence[Grid]) -> Iterator[Tensor]:
    """`pool` to each of the grids, which run from fine to coarse: from the one before it where that is the same."""
    places = tuple(values.shape[1:-1])
    source = values
    for grid in grids:
        pooled = pool(source if divides(grid, tuple(source.shape[1:-1])) else values, grid)
        if divides(grid, places):
            source = pooled
        yield pooled


def divides(grid: Grid, places: Grid) -> bool:
    """Whether `grid` parts `places` into equal areas."""
    return not grid or (len(grid) == len(places) and all(p % g == 0 for g, p in zip(grid, places, strict=True)))


Pairing = Literal["matching", "all"]
_NORMS = {"batch_norm", "group_norm", "instance_norm", "layer_norm"}
_ON_THE_WAY = _NORMS | {"add", "dropout", "feature_dropout", "clone", "contiguous", "alias", "to"}


def layers_of(network: Network) -> list[str]:
    """Names of the nodes that are compared by default, in order of execution.

    For each weight-bearing layer the activation function behind it, before any pooling or local response norm (Li et
    al., Section 2), over norms and sums of a residual block; else the layer itself, with the norm behind it.
    """
    chosen = {name for layer in network.layers for name in [_behind(network, layer.nodes[0])] if name}
    return [name for name in network.nodes if name in chosen]


def pairs_of(
    network_a: Network,
    network_b: Network,
    layers: Sequence[tuple[str, str]] | None = None,
    pairs: Pairing = "matching",
) -> list[tuple[str, str]]:
    """Node names of the pairs to compare.

    layers: (layer of a, layer of b); a weight-bearing layer's name gives its own output. None: by `pairs`, of the
    layers that `layers_of` names: `all`, or `matching` ones, which are those of equal names where half of them are
    equal, those of equal position where both networks have as many, and else all.
    """
    if pairs not in ("matching", "all"):
        raise SettingsError(f"pairs {pairs!r} is unknown; give matching or all.")
    if layers is not None:
        checked = []
        for pair in layers:
            if isinstance(pair, str) or len(pair) != 2:
                raise SettingsError(
                    f"layers holds {pair!r}; give pairs (layer of a, layer of b), for instance ('conv1', 'conv1')."
                )
            checked.append((_check(network_a, pair[0]), _check(network_b, pair[1])))
        if not checked:
            raise SettingsError("layers is empty; give at least one (layer of a, layer of b), or nothing for all.")
        return list(dict.fromkeys(checked))
    ours, theirs = layers_of(network_a), layers_of(network_b)
    for network, names in ((network_a, ours), (network_b, theirs)):
        if not names:
            raise SettingsError(f"{network.name} has no layer with units of one image each; name nodes in layers.")
    common = [name for name in ours if name in set(theirs)]
    if pairs == "matching" and 2 * len(common) > max(len(ours), len(theirs)):
        return [(name, name) for name in common]
    if pairs == "matching" and len(ours) == len(theirs):
        return list(zip(ours, theirs, strict=True))
    return [(a, b) for a in ours for b in theirs]


def _behind(network: Network, name: str) -> str | None:
    """The activation behind the node `name`, else the last norm directly behind it, or itself."""
    functions_by_name, start = activations(network, mixing=False), network.nodes[name]
    order = {node: position for position, node in enumerate(network.nodes.values())}
    reached, stack = {start}, [start]
    while stack:
        for user in stack.pop().users:
            kind = user.operator.rstrip("_")
            if user in order and user not in reached and (user.name in functions_by_name or kind in _ON_THE_WAY):
                reached.add(user)
                if user.name not in functions_by_name:
                    stack.append(user)
    functions = sorted((node for node in reached if node.name in functions_by_name), key=order.__getitem__)
    if functions and treatable(functions[0]):
        return functions[0].name
    while len(start.users) == 1 and (follower := start.users[0]).operator in _NORMS:
        start = follower
    return start.name if treatable(start) else None


def treatable(node: Node) -> bool:
    """Whether the node has units: real numbers, one image a row, at least one axis more."""
    return node.is_floating_point and node.per_sample and len(node.shape) > 0


def _check(network: Network, name: str) -> str:
    node = network.node(name)
    if not treatable(node):
        raise UnknownLayer(
            f"node '{name}' of {network.name} has no units of one image each (shape {node.full_shape} for one image); "
            "choose the node before or behind it."
        )
    return node.name
