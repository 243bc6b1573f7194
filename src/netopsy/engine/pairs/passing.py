"""One pass over the samples for the co-moments of any pairs of layers of a network and several others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from netopsy.engine.pairs.grid import common_grid, pooled
from netopsy.engine.pairs.layers import Pairing, pairs_of
from netopsy.engine.pairs.pair import Pair
from netopsy.engine.walk import plan
from netopsy.network.network import Network
from netopsy.network.units import channel_axis, places
from netopsy.samples import Samples


def co_moments(
    network_a: Network,
    network_b: Network,
    samples: Samples,
    layers: Sequence[tuple[str, str]] | None = None,
    *,
    pairs: Pairing = "matching",
    shuffled: bool = True,
    batch_size: int | None = None,
    seed: int = 0,
) -> dict[tuple[str, str], Pair]:
    """`co_moments_of` with one other network."""
    return co_moments_of(
        network_a, [network_b], samples, layers, pairs=pairs, shuffled=shuffled, batch_size=batch_size, seed=seed
    )[0]


def co_moments_of(
    network_a: Network,
    others: Sequence[Network],
    samples: Samples,
    layers: Sequence[tuple[str, str]] | None = None,
    *,
    pairs: Pairing = "matching",
    shuffled: bool = True,
    batch_size: int | None = None,
    seed: int = 0,
) -> list[dict[tuple[str, str], Pair]]:
    """For each network of `others` the co-moments of its layers with those of `network_a`, by (layer_a, layer_b)."""
    out = []
    for network_b in others:
        chosen = pairs_of(network_a, network_b, layers, pairs)
        values = [_values(n, samples, {p[k] for p in chosen}) for k, n in enumerate((network_a, network_b))]
        found = {}
        for a, b in chosen:
            grid = common_grid(places(network_a.nodes[a]), places(network_b.nodes[b]))
            x, y = (pooled(values[k][name], grid).double() for k, name in ((0, a), (1, b)))
            rolled = y.roll(1, 0).flatten(0, -2).numpy()
            x, y = (v.flatten(0, -2).numpy() for v in (x, y))
            ma, mb = x.mean(0), y.mean(0)
            x, y, rolled = x - ma, y - mb, rolled - mb
            found[a, b] = Pair(
                a, b, len(x), len(samples), grid, ma, mb, x.T @ x, y.T @ y, x.T @ y, x.T @ rolled if shuffled else None
            )
        out.append(found)
    return out


def _values(network: Network, samples: Samples, names: set[str]) -> dict[str, Tensor]:
    walk = plan(network, tuple(names))
    parts: dict[str, list[Tensor]] = {name: [] for name in names}
    with torch.inference_mode():
        for batch in samples.batches(network.preprocessing, 64):
            for name, value in walk.run({"input": batch.images.to(network.device)}, batch=len(batch.indices)).items():
                parts[name].append(value.movedim(channel_axis(network.nodes[name]), -1).cpu())
    return {name: torch.cat(values) for name, values in parts.items()}
