"""One pass over the samples for the co-moments of any pairs of layers of a network and several others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from netopsy.engine.interpreter import plan
from netopsy.engine.observe.observe import default_batch_size
from netopsy.engine.workspace.workspace import conditions, current_workspace
from netopsy.errors import SettingsError
from netopsy.network.network import Network
from netopsy.samples.samples import Samples
from netopsy.studies.correspondence.comoments.column_layout import (
    Columns,
    GridLevel,
    Names,
    arrange_columns,
    values_per_image,
)
from netopsy.studies.correspondence.comoments.comoments import Side, Span
from netopsy.studies.correspondence.comoments.layers import Pairing, pairs_of
from netopsy.studies.correspondence.comoments.pair import Pair, pyramid

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
    their common grid, see `common_grid`; the Pair says which.
    shuffled: count the control too. The images run in a random order (`seed`), and each image of a is paired with the
    one that b saw before it, the first with the last: what remains is what places have in common whatever the image
    (centre and border, say), and chance. As many products again as the pairs themselves.
    batch_size: images a step; the results do not depend on it but for rounding.
    Errors: UnknownLayer, SettingsError; NetworkError for NaN or infinity. In a `workspace` a pass that was stopped goes
    on from its last checkpoint, with the same result to the last bit. Correlations are off by less than 1e-6, also
    where a mean is 1000 standard deviations.
    """
    networks = tuple({id(network): network for network in (network_a, *others)}.values())
    positions = [next(k for k, n in enumerate(networks) if n is other) for other in others]
    chosen = {k: pairs_of(network_a, networks[k], layers, pairs) for k in positions}
    _check(others, samples, shuffled, batch_size)
    counted = {k: _once(found) if k == 0 else found for k, found in chosen.items()}
    size = batch_size or _batch_size(networks, counted)
    levels = arrange_columns(networks, counted, size, shuffled)
    _run(networks, samples, levels, size, seed, {"pairs": counted, "shuffled": shuffled, "seed": seed, "batch": size})
    done: dict[int, dict[Names, Pair]] = {k: {} for k in chosen}
    for level in levels:
        for k, found in level.finish(len(samples)).items():
            done[k] |= found
    return [{names: _orient(done[k], names) for names in chosen[k]} for k in positions]


def _run(
    networks: Sequence[Network],
    samples: Samples,
    levels: Sequence[GridLevel],
    size: int,
    seed: int,
    settings: dict[str, Any],
) -> None:
    """Fill the levels."""
    place, order = current_workspace(), np.random.default_rng(seed).permutation(len(samples))
    spec = {**settings, "networks": [conditions(n, samples) for n in networks]} if place.folder else {}
    saved = place.checkpoint("co-moments", spec)
    done, state = saved.load()
    walks = [_walk(network, k, levels) for k, network in enumerate(networks)]
    with torch.inference_mode(), _full_precision():
        if done:
            for i, level in enumerate(levels):
                mark = f"{i}:"
                level.moments.restore({k.removeprefix(mark): v for k, v in state.items() if k.startswith(mark)})
        else:
            _pilot(networks, walks, samples, levels, size, order)

        def gather() -> dict[str, Tensor]:
            return {f"{i}:{k}": v for i, level in enumerate(levels) for k, v in level.moments.state().items()}

        place.report("co-moments", done, len(samples))
        for images in _batches(networks, samples, size, order[done:]):
            for walk, batch in zip(walks, images, strict=True):
                walk(batch, _write)
            count = len(images[0])
            for level in levels:
                level.moments.update(count)
            done += count
            saved.save(done, gather)
            place.report("co-moments", done, len(samples))
        saved.save(done, gather, final=True)


Sink = Callable[[Side, Span, Tensor], None]


def _walk(network: Network, k: int, levels: Sequence[GridLevel]) -> Callable[[Tensor, Sink], None]:
    """What runs network `k` on a batch and hands each node's values, (images, *grid, channel), to a sink."""
    wanted: dict[str, list[tuple[GridLevel, Columns]]] = {}
    for level in levels:
        if columns := level.columns.get(k):
            for name in columns.spans:
                wanted.setdefault(name, []).append((level, columns))
    walk = plan(network, (), watched=wanted, folded=True)
    axes = {name: network.nodes[name].channel_axis for name in wanted}

    def run(images: Tensor, sink: Sink) -> None:
        def visit(name: str, values: Tensor) -> None:
            values = values.movedim(axes[name], -1)
            grids = pyramid(values, [level.grid for level, _ in wanted[name]])
            for (_, columns), found in zip(wanted[name], grids, strict=True):
                sink(columns.side, columns.spans[name], found)

        walk.run({"input": images.to(network.device)}, batch=len(images), visit=visit)

    return run


def _write(side: Side, span: Span, values: Tensor) -> None:
    side.write(span, values.to(side.shift.device))


def _pilot(
    networks: Sequence[Network],
    walks: Sequence[Callable[[Tensor, Sink], None]],
    samples: Samples,
    levels: Sequence[GridLevel],
    size: int,
    order: Int64[np.ndarray, " n"],
) -> None:
    """Set the shifts to the medians of a few images; the last image of all comes first, and precedes the others."""
    images = np.concatenate([order[-1:], order[:-1][: PILOT - 1]])
    rows: dict[Side, dict[Span, list[Tensor]]] = {c.side: {} for level in levels for c in level.columns.values()}
    before = {side: torch.zeros_like(side.buffer[: side.places]) for side in rows}

    def sink(side: Side, span: Span, values: Tensor) -> None:
        found = values.to(side.shift.device).flatten(0, -2)
        if span not in rows[side]:
            before[side][:, slice(*span)] = found[: side.places]
        rows[side].setdefault(span, []).append(found[:: side.places // _SAMPLED | 1].float())

    for batch in _batches(networks, samples, size, images):
        for walk, pictures in zip(walks, batch, strict=True):
            walk(pictures, sink)
    for side, parts in rows.items():
        shift = torch.cat([torch.cat(parts[span]).median(0).values for span in sorted(parts)])
        side.begin(shift, before[side])


def _batches(
    networks: Sequence[Network], samples: Samples, size: int, order: Int64[np.ndarray, " n"]
) -> Iterator[list[Tensor]]:
    """The images of each batch as each network wants them; networks of the same preprocessing share one reader."""
    kinds = list(dict.fromkeys(network.preprocessing for network in networks))
    readers = [samples.batches(kind, size, order=order) for kind in kinds]
    for batches in zip(*readers, strict=True):
        images = dict(zip(kinds, (batch.images for batch in batches), strict=True))
        yield [images[network.preprocessing] for network in networks]


def _check(others: Sequence[Network], samples: Samples, shuffled: bool, batch_size: int | None) -> None:
    if not others:
        raise SettingsError("there is no network to compare with; give at least one.")
    if batch_size is not None and batch_size < 1:
        raise SettingsError(f"batch size {batch_size} must be at least 1.")
    if shuffled and len(samples) < 2:
        raise SettingsError("one image cannot be shuffled; give at least 2 images, or shuffled=False.")


def _once(pairs: Sequence[Names]) -> list[Names]:
    """Of two pairs of layers of one network that differ in their order only, the first."""
    found: dict[frozenset[str], Names] = {}
    for names in pairs:
        found.setdefault(frozenset(names), names)
    return list(found.values())


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
