"""One pass over the samples for the co-moments of any pairs of layers of a network and several others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from netopsy.engine.observe.counting import PLACES, NodeRef
from netopsy.engine.observe.observe import default_batch_size, observe
from netopsy.engine.observe.tally import Tally, real_places
from netopsy.engine.workspace.workspace import workspace
from netopsy.errors import NetworkError, SettingsError
from netopsy.network.network import Network
from netopsy.samples.samples import Samples
from netopsy.studies.correspondence.comoments.column_layout import (
    GridLevel,
    Names,
    Span,
    any_padded,
    arrange_columns,
    values_per_image,
)
from netopsy.studies.correspondence.comoments.comoments import CoMoments
from netopsy.studies.correspondence.comoments.pair import Pair, Pairing, pairs_of, pyramid, real_rows

PILOT = 32  # images whose medians are the shifts
_SAMPLED = 256  # places of each that count
_CACHED = 2 * 2**20  # values of the largest buffer; more falls out of the processor's cache
_MOST = 64 * 2**20  # values of the largest buffer on other devices


def cross_moments(
    network_a: Network,
    network_b: Network,
    samples: Samples,
    layers: Sequence[Names] | None = None,
    *,
    pairs: Pairing = "matching",
    shuffled: bool = True,
    batch_size: int | None = None,
    seed: int = 0,
) -> dict[Names, Pair]:
    """The co-moments of layers of two networks, by (layer_a, layer_b): `cross_moments_of` with one other network."""
    return cross_moments_of(
        network_a, [network_b], samples, layers, pairs=pairs, shuffled=shuffled, batch_size=batch_size, seed=seed
    )[0]


def cross_moments_of(
    network_a: Network,
    others: Sequence[Network],
    samples: Samples,
    layers: Sequence[Names] | None = None,
    *,
    pairs: Pairing = "matching",
    shuffled: bool = True,
    batch_size: int | None = None,
    seed: int = 0,
) -> list[dict[Names, Pair]]:
    """For each network of `others` the co-moments of its layers with those of `network_a`, by (layer_a, layer_b).

    All in one pass: each network runs once an image, with its own preprocessing. A network may be compared with itself.
    layers: pairs of node names; by default as `pairs` says, see `pairs_of`. Layers of different size are compared on
    their common grid, see `common_grid`; the Pair says which. Where samples differ in length a row is a place that all
    networks have of a sample, with other tokenizers a token of a and the one of b that goes with it (`align_places`);
    layers that do not go by the same places are averaged over each sample's own.
    shuffled: count the control too. The images run in a random order (`seed`), and each image of a is paired with the
    one that b saw before it, the first with the last: what remains is what places have in common whatever the image
    (centre and border, say), and chance. As many products again as the pairs themselves. Where samples differ in
    length the rows of each batch meet those half a batch further on, so that the control depends on the batches.
    batch_size: images a step; the results do not depend on it but for rounding. At least 2 of padded samples.
    Errors: UnknownLayer, SettingsError; NetworkError for NaN or infinity. In a `workspace` a pass that was stopped goes
    on from its last checkpoint, with the same result to the last bit; over `workers` it is split. Correlations are off
    by less than 1e-6, also where a mean is 1000 standard deviations.
    """
    networks = tuple({id(network): network for network in (network_a, *others)}.values())
    positions = [next(k for k, n in enumerate(networks) if n is other) for other in others]
    chosen = {k: pairs_of(network_a, networks[k], layers, pairs) for k in positions}
    _check(others, samples, shuffled, batch_size)
    distinct = {k: _once(names) if k == 0 else names for k, names in chosen.items()}
    levels = arrange_columns(networks, distinct, shuffled)
    nodes = tuple(
        WatchedNode(k, name, network.nodes[name].channel_axis, network.nodes[name].length_axes)
        for k, network in enumerate(networks)
        for name in network.nodes
        if any(name in level.spans.get(k, {}) for level in levels)
    )
    watched: tuple[NodeRef, ...] = tuple((networks[node.network], node.name) for node in nodes)
    size, order = batch_size or _batch_size(networks, distinct), np.random.default_rng(seed).permutation(len(samples))
    if any_padded(networks):
        watched, size = (*watched, PLACES), several_each(size, len(samples))

    def count(tally: Tally, visited: Int64[np.ndarray, " n"]) -> Any:
        tallies = {"co-moments": (watched, tally)}
        return observe(network_a, samples, tallies, batch_size=size, order=visited, folded=True, label="co-moments")[
            "co-moments"
        ]

    with workspace(None):  # a few images, whose medians a run that resumes finds again
        shifts = count(ColumnMedians(nodes, levels), np.roll(order, 1)[:PILOT])
    if not len(shifts):
        listed = " and ".join(dict.fromkeys(network.name for network in networks))
        raise SettingsError(
            f"{listed} have no place in common on {samples.name}; give longer samples, or greater lengths."
        )
    pairs_with = count(CrossMoments(nodes, levels, shifts, size), order)
    for k, counted_pairs in pairs_with.items():
        for pair in counted_pairs.values():
            _check_finite(network_a, pair.layer_a, pair.aa, samples)
            _check_finite(networks[k], pair.layer_b, pair.bb, samples)
    return [{names: _orient(pairs_with[k], names) for names in chosen[k]} for k in positions]


def several_each(size: int, count: int) -> int:
    """The batch size next to `size` with which no batch of `count` samples has one alone."""
    size = max(2, size)
    while count > 1 and count % size == 1:
        size += 1
    return size


class WatchedNode(NamedTuple):
    """A node that is compared: the number of its network, its name, where its channels are, and its `length_axes`."""

    network: int
    name: str
    axis: int
    length_axes: tuple[int, ...] = ()


Nodes = tuple[WatchedNode, ...]


def _on_grids(
    nodes: Nodes, levels: Sequence[GridLevel], values: Sequence[Tensor]
) -> Iterator[tuple[int, int, Span, Float32[Tensor, "batch *grid channel"]]]:
    """For each node and each level that it is on: the numbers of the level and of the network, columns and values.

    Of padded samples `values` end with the places, and what comes are rows (rows, channel).
    """
    if len(values) > len(nodes):
        yield from _real_on_grids(nodes, levels, values[:-1], values[-1])
        return
    for (network, name, axis, _), value in zip(nodes, values, strict=True):
        at = [(i, level) for i, level in enumerate(levels) if name in level.spans.get(network, {})]
        grids = pyramid(value.movedim(axis, -1), [level.grid for _, level in at])
        for (i, level), pooled in zip(at, grids, strict=True):
            yield i, network, level.spans[network][name], pooled


def _real_on_grids(
    nodes: Nodes, levels: Sequence[GridLevel], values: Sequence[Tensor], mask: Tensor
) -> Iterator[tuple[int, int, Span, Float32[Tensor, "rows channel"]]]:
    """`_on_grids` of padded samples. mask: which places belong to a sample, (batch, length)."""
    moved = [value.movedim(node.axis, -1) for node, value in zip(nodes, values, strict=True)]
    reals = [
        real_places(node.length_axes, value, mask).movedim(node.axis, -1)[..., 0]
        for node, value in zip(nodes, values, strict=True)
    ]
    for i, level in enumerate(levels):
        at = [k for k, node in enumerate(nodes) if node.name in level.spans.get(node.network, {})]
        rows_of_nodes = real_rows([moved[k] for k in at], [reals[k] for k in at], level.grid)
        for k, rows in zip(at, rows_of_nodes, strict=True):
            yield i, nodes[k].network, level.spans[nodes[k].network][nodes[k].name], rows


class ColumnMedians(Tally):
    """The medians of all columns over some of the rows.

    nodes, levels: see `CrossMoments`. update: the values of the nodes. result: float32 (columns,), level after level
    and network after network; empty where there is no row. Which rows count depends on the batches; so few images are
    not split.
    """

    by_sample = True
    sequential = True

    def __init__(self, nodes: Nodes, levels: tuple[GridLevel, ...]) -> None:
        self.nodes, self.levels = nodes, levels
        self.rows: dict[str, Tensor] = {}

    def update(self, values: tuple[Tensor, ...], indices: Tensor) -> None:
        for i, network, span, pooled in _on_grids(self.nodes, self.levels, values):
            rows = pooled.flatten(0, -2)[:: self.levels[i].places // _SAMPLED | 1].float()
            self._add(f"{i} {network} {span[0]}", rows)

    def _add(self, key: str, rows: Tensor) -> None:
        self.rows[key] = torch.cat([self.rows[key], rows]) if key in self.rows else rows.clone()

    def merge(self, other: ColumnMedians) -> None:
        for key, rows in other.rows.items():
            self._add(key, rows)

    def result(self) -> Float32[Tensor, " columns"]:
        starts = [
            f"{i} {network} {start}"
            for i, level in enumerate(self.levels)
            for network, spans in level.spans.items()
            for start, _ in spans.values()
        ]
        if not all(len(self.rows[key]) for key in starts):
            return torch.zeros(0)
        return torch.cat([self.rows[key].median(0).values for key in starts])


class CrossMoments(Tally):
    """The co-moments of nodes of several networks: sums of squares and products of the deviations from the means.

    nodes: what is watched, in that order. levels: which columns meet on which grid. shifts: near the mean of each
    column, float32, in the order of `ColumnMedians`. images: the most of one batch.
    update: the values of the nodes, (batch, channel, *space) each, and of padded samples `PLACES`. result: the pairs of
    layers of network 0 with those of each other, by its number. The control pairs each image with the one before it in
    the order of the pass, and the first with the last, also where parts are merged; of padded samples each row with
    the one half a batch further on. Sums of float64; parts agree with the whole but for rounding.
    """

    by_sample = True

    def __init__(self, nodes: Nodes, levels: tuple[GridLevel, ...], shifts: Tensor, images: int) -> None:
        self.nodes, self.levels, self.shifts, self.images = nodes, levels, shifts, images
        self.sums: dict[str, Tensor] = {}  # of all levels, as `_moments` counts them in place
        self._moments: list[CoMoments] = []

    def update(self, values: tuple[Tensor, ...], indices: Tensor) -> None:
        moments = self._moments = self._moments or self._restored(values[0].device)
        rows: dict[int, int | None] = {}
        for i, network, span, pooled in _on_grids(self.nodes, self.levels, values):
            moments[i].sides[network].write(span, pooled)
            rows[i] = len(pooled) if self.levels[i].padded else None
        with _full_precision():
            for i, level in enumerate(moments):
                level.update(len(indices), rows[i])
        self._keep()

    def _restored(self, device: torch.device) -> list[CoMoments]:
        """New co-moments, from the sums on."""
        moments = [CoMoments(level, self.images, device) for level in self.levels]
        sides = [side for level in moments for side in level.sides.values()]
        for side, shift in zip(sides, self.shifts.split([side.width for side in sides]), strict=True):
            side.shift.copy_(shift)
        for i, level in enumerate(moments if self.sums else ()):
            mark = f"{i}:"
            level.restore({key.removeprefix(mark): v for key, v in self.sums.items() if key.startswith(mark)})
        return moments

    def _keep(self) -> None:
        self.sums = {f"{i}:{key}": v for i, level in enumerate(self._moments) for key, v in level.state().items()}

    def merge(self, other: CrossMoments) -> None:
        if not other.sums:
            return
        device = next(iter(other.sums.values())).device
        following = other._restored(device)
        if not self.sums:
            self._moments = following
        else:
            self._moments = self._moments or self._restored(device)
            for level, more in zip(self._moments, following, strict=True):
                level.merge(more)
        self._keep()

    def result(self) -> dict[int, dict[Names, Pair]]:
        pairs: dict[int, dict[Names, Pair]] = {}
        if self.sums and not self._moments:
            self._moments = self._restored(next(iter(self.sums.values())).device)
        for level in self._moments:
            for k, on_grid in level.pairs().items():
                pairs.setdefault(k, {}).update(on_grid)
        return pairs


def _check(others: Sequence[Network], samples: Samples, shuffled: bool, batch_size: int | None) -> None:
    if not others:
        raise SettingsError("there is no network to compare with; give at least one.")
    if batch_size is not None and batch_size < 1:
        raise SettingsError(f"batch size {batch_size} must be at least 1.")
    if shuffled and len(samples) < 2:
        raise SettingsError("one image cannot be shuffled; give at least 2 images, or shuffled=False.")


def _check_finite(network: Network, layer: str, squares: Float64[np.ndarray, "p p"], samples: Samples) -> None:
    if not np.isfinite(squares).all():
        raise NetworkError(
            f"'{layer}' of {network.name} is NaN, infinite or too large on an image of {samples.name}, so its units "
            "have no correlations; name layers before it."
        )


def _once(pairs: Sequence[Names]) -> list[Names]:
    """Of two pairs of layers of one network that differ in their order only, the first."""
    unordered: dict[frozenset[str], Names] = {}
    for names in pairs:
        unordered.setdefault(frozenset(names), names)
    return list(unordered.values())


def _orient(pairs: dict[Names, Pair], names: Names) -> Pair:
    return pairs[names] if names in pairs else pairs[names[::-1]].swapped()


def _batch_size(networks: Sequence[Network], pairs: dict[int, list[Names]]) -> int:
    """Images a step: the largest activation and the largest buffer stay in the processor's cache."""
    values = values_per_image(networks, pairs)
    if networks[0].device.type == "cpu":
        return max(1, min(_CACHED // values, *(default_batch_size(network) for network in networks)))
    return max(1, min(256, _MOST // values))


@contextmanager
def _full_precision() -> Iterator[None]:
    """Matrix products of float32 in float32, whatever shorter type is allowed elsewhere."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
