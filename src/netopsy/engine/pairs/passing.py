"""One pass over the samples for the co-moments of any pairs of layers of a network and several others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from netopsy.engine.conditions import conditions
from netopsy.engine.observe import default_batch_size
from netopsy.engine.pairs.arrange import Level, Names, arrange
from netopsy.engine.pairs.grid import pyramid
from netopsy.engine.pairs.layers import Pairing, pairs_of
from netopsy.engine.pairs.pair import Pair
from netopsy.engine.walk import Plan, plan
from netopsy.engine.workspace import current_workspace
from netopsy.errors import NetworkError, SettingsError
from netopsy.network.network import Network
from netopsy.network.units import channel_axis, channels, places
from netopsy.samples import Samples

PILOT = 32  # images whose means are the shifts
_CACHED = {"cpu": 2 * 2**20}  # values of the largest buffer; more falls out of the processor's cache
_MOST = 64 * 2**20  # values of the largest buffer elsewhere


def co_moments(
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
    """The co-moments of layers of two networks, by (layer_a, layer_b): `co_moments_of` with one other network."""
    return co_moments_of(
        network_a, [network_b], samples, layers, pairs=pairs, shuffled=shuffled, batch_size=batch_size, seed=seed
    )[0]


def co_moments_of(
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
    on from its last checkpoint, with the same result to the last bit. Correlations are off by less than 1e-6, also where
    a mean is 1000 standard deviations.
    """
    networks = tuple({id(network): network for network in (network_a, *others)}.values())
    positions = [next(k for k, n in enumerate(networks) if n is other) for other in others]
    chosen = {k: pairs_of(network_a, networks[k], layers, pairs) for k in positions}
    _check(others, samples, shuffled, batch_size)
    counted = {k: _once(found) if k == 0 else found for k, found in chosen.items()}
    size = batch_size or _batch_size(networks, counted)
    levels = arrange(networks, counted, size, shuffled)
    _run(networks, samples, levels, size, seed, {"pairs": counted, "shuffled": shuffled, "seed": seed, "batch": size})
    done: dict[int, dict[Names, Pair]] = {k: {} for k in chosen}
    for level in levels:
        for k, found in level.finish(len(samples)).items():
            done[k] |= found
    return [{names: _oriented(done[k], names) for names in chosen[k]} for k in positions]


def _run(
    networks: Sequence[Network],
    samples: Samples,
    levels: Sequence[Level],
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
