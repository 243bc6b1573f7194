"""The passes over the samples, the arithmetic of each pair of layers, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl

from netopsy.errors import SettingsError
from netopsy.network.network import Network, fresh
from netopsy.network.units import channels, hidden_nodes, places
from netopsy.samples.samples import Samples
from netopsy.stats.matching import Matching, bipartite_matching, semi_matching
from netopsy.studies.correspondence.comoments.clusters import CoClusters, co_clusters
from netopsy.studies.correspondence.comoments.cross_moments import cross_moments_of
from netopsy.studies.correspondence.comoments.mutual_information import Information, pair_information
from netopsy.studies.correspondence.comoments.pair import Pair, layers_of, pairs_of
from netopsy.studies.correspondence.regression import (
    LassoPath,
    LeastSquares,
    lasso_path,
    least_squares,
    linear_cka,
    procrustes,
    pwcca,
    strength_of_decay,
    svcca,
)

Names = tuple[str, str]

NETWORKS, SHUFFLED, UNTRAINED = "networks", "shuffled", "untrained"
"""What a figure is of: the two networks, or one of the controls."""


@dataclass(frozen=True)
class LayerComparison:
    """What one pair of layers gives, of the two networks or of a control (`of`); `draw` counts untrained networks."""

    of: str
    draw: int
    pair: Pair
    semi: Matching
    bipartite: Matching
    least: LeastSquares
    lasso: LassoPath
    cka: float
    svcca: float
    pwcca: float
    procrustes: float
    information: Information | None = None


@dataclass
class Comparison:
    """All that was counted.

    networks: the names of both. places: of the nodes of each, 1 where a unit has one value an image. order: the
    compared layers of each, in order of execution. how: how the pairs were chosen. compared: by (layer_a, layer_b),
    the networks first, then the controls. map: linear CKA of every layer with every other; None where a pair was asked
    for or the layers are too wide. missing_control: why there is no untrained control. hidden: the nodes of
    the first network that are not its output.
    """

    networks: Names
    images: int
    places: tuple[dict[str, str], dict[str, str]]
    order: tuple[list[str], list[str]]
    decays: tuple[float, ...]
    how: str
    compared: dict[Names, list[LayerComparison]] = field(default_factory=dict)
    clusters: dict[Names, CoClusters] = field(default_factory=dict)
    map: pl.DataFrame | None = None
    missing_control: str | None = None
    hidden: frozenset[str] = frozenset()


def grid_text(grid: Sequence[int]) -> str:
    """`8x8`; `1` of no places."""
    return "x".join(map(str, grid)) or "1"


_MOST = 2 * 2**30  # bytes of the products of all pairs of layers; with more, the map is left out


def compare_networks(
    network: Network,
    other: Network,
    samples: Samples,
    *,
    layers: Sequence[str],
    decays: tuple[float, ...],
    share: float,
    clusters: int | None,
    images: int,
    bins: int,
    draws: int,
    seed: int,
) -> Comparison:
    """One pass for the co-moments of both networks and the untrained ones, one more for the mutual information.

    draws: untrained networks; the other settings are those of the study.
    """
    others, missing_control = {(NETWORKS, 0): other}, None
    try:
        others |= {(UNTRAINED, draw): fresh(other, seed, draw) for draw in range(draws)}
    except SettingsError as error:
        missing_control = str(error)
    named = parse_pairs(layers)
    matching, every = pairs_of(network, other, named), pairs_of(network, other, named, pairs="all")
    all_fit = named is None and _nbytes(network, other, every) * len(others) <= _MOST
    if named is None and not all_fit and len(matching) == len(every) > 1:
        raise SettingsError(
            f"{network.name} and {other.name} have {len(every)} pairs of layers, too many to hold at once; "
            "name some of them as layers A:B."
        )
    moments = cross_moments_of(network, list(others.values()), samples, every if all_fit else matching, seed=seed)
    pairs = dict(zip(others, moments, strict=True))
    chosen, how = matching, "named" if named else "equal"
    if named is None and len(matching) == len(every) > 1:
        chosen, how = _most_alike(pairs[NETWORKS, 0], network, other), "most alike"
    order = (layers_of(network), layers_of(other)) if named is None else _list_layers(named)
    sizes = (_sizes(network, {a for a, _ in every}), _sizes(other, {b for _, b in every}))
    comparison = Comparison(
        (network.name, other.name if other.name != network.name else f"the other {other.name}"),
        len(samples),
        sizes,
        order,
        decays,
        how,
        missing_control=missing_control,
        hidden=frozenset(hidden_nodes(network)),
    )
    for names in chosen:
        comparison.compared[names] = [
            _compare(pair, of, draw, decays, share)
            for (what, draw), by_layers in pairs.items()
            for of, pair in _with_control(what, by_layers[names])
        ]
        pair = pairs[NETWORKS, 0][names]
        most = min(int((~pair.dead_a).sum()), int((~pair.dead_b).sum()))
        groups = None if clusters is None else min(clusters, max(1, most))
        comparison.clusters[names] = co_clusters(pair, groups, seed=seed)
    if all_fit and len(every) > 1:
        comparison.map = _map(pairs)
    _inform(comparison, network, other, samples, bins=bins, images=images, seed=seed)
    return comparison


def parse_pairs(layers: Sequence[str]) -> list[Names] | None:
    """`A:B` or one name for both, as pairs of names."""
    if not layers:
        return None
    pairs = [tuple(name.split(":")) if ":" in name else (name, name) for name in layers]
    for name, pair in zip(layers, pairs, strict=True):
        if len(pair) != 2 or not all(pair):
            raise SettingsError(f"layers names '{name}'; give A:B, a layer of each network, or one name for both.")
    return pairs  # type: ignore[return-value]


def _sizes(network: Network, names: set[str]) -> dict[str, str]:
    return {name: grid_text(places(network.nodes[name])) for name in names}


def _list_layers(named: Sequence[Names]) -> tuple[list[str], list[str]]:
    return list(dict.fromkeys(a for a, _ in named)), list(dict.fromkeys(b for _, b in named))


def _nbytes(network: Network, other: Network, pairs: Sequence[Names]) -> int:
    """Bytes of the products of all pairs with their control."""
    wide = [
        {name: channels(net.nodes[name]) for name in {p[k] for p in pairs}} for k, net in enumerate((network, other))
    ]
    return sum(2 * 8 * wide[0][a] * wide[1][b] for a, b in pairs)


def _with_control(of: str, pair: Pair) -> list[tuple[str, Pair]]:
    """The pair itself, and of the two networks also with the images of one in another order."""
    return [(of, pair)] if of == UNTRAINED else [(of, pair), (SHUFFLED, pair.control())]


def _compare(pair: Pair, of: str, draw: int, decays: Sequence[float], share: float) -> LayerComparison:
    strengths = [strength_of_decay(decay, len(pair.mean_a)) for decay in decays]
    return LayerComparison(
        of=of,
        draw=draw,
        pair=pair,
        semi=semi_matching(pair.correlation, pair.dead_a, pair.dead_b),
        bipartite=bipartite_matching(pair.correlation, pair.dead_a, pair.dead_b),
        least=least_squares(pair),
        lasso=lasso_path(pair, strengths),
        cka=linear_cka(pair),
        svcca=svcca(pair, share),
        pwcca=pwcca(pair),
        procrustes=procrustes(pair),
    )


def _most_alike(pairs: Mapping[Names, Pair], network: Network, other: Network) -> list[Names]:
    """For each layer of the first network the layer of the other with the highest linear CKA.

    Hidden layers go with hidden ones: the output has the classes for units, and few of them.
    """
    inner = hidden_nodes(network), hidden_nodes(other)
    best: dict[str, tuple[float, Names]] = {}
    for names, pair in pairs.items():
        if (names[0] in inner[0]) != (names[1] in inner[1]):
            continue
        alike = linear_cka(pair)
        if names[0] not in best or alike > best[names[0]][0]:
            best[names[0]] = (alike, names)
    return [names for _, names in best.values()]


def _map(pairs: Mapping[tuple[str, int], Mapping[Names, Pair]]) -> pl.DataFrame:
    """Linear CKA and the mean correlation of the semi-matching of every layer with every other."""
    rows = []
    drawn = [by_layers for (of, _), by_layers in pairs.items() if of == UNTRAINED]
    for (a, b), pair in pairs[NETWORKS, 0].items():
        row = {"layer_a": a, "layer_b": b, "cka": linear_cka(pair)}
        row["semi"] = semi_matching(pair.correlation, pair.dead_a, pair.dead_b).mean
        row["cka_shuffled"] = linear_cka(pair.control())
        row["cka_untrained"] = sum(linear_cka(by_layers[a, b]) for by_layers in drawn) / len(drawn) if drawn else None
        rows.append(row)
    return pl.DataFrame(rows, infer_schema_length=None)


def _inform(
    comparison: Comparison, network: Network, other: Network, samples: Samples, *, bins: int, images: int, seed: int
) -> None:
    """Add the mutual information of each unit with its best partner, and its shuffled control."""
    units = {}
    for names, layer_comparisons in comparison.compared.items():
        semi = layer_comparisons[0].semi
        units[names] = np.stack([semi.matched, semi.partner[semi.matched]], 1)
    information = pair_information(network, other, samples, units, bins=bins, images=images, seed=seed)
    for names, (between, control) in information.items():
        by_kind = {NETWORKS: between, SHUFFLED: control}
        comparison.compared[names] = [replace(c, information=by_kind.get(c.of)) for c in comparison.compared[names]]
