"""The sentences of the study `correspondence`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl
from scipy.stats import kendalltau, spearmanr

from netopsy.studies.correspondence.counting import NETWORKS, SHUFFLED, UNTRAINED, Comparison
from netopsy.wording import listing, plural

_NAMED = 6  # layers or units that a sentence names


def findings(tables: Mapping[str, pl.DataFrame], comparison: Comparison) -> list[str]:
    """Plain sentences, the most important first."""
    layers = tables["layers"]
    pairs = layers.filter(pl.col("of") == NETWORKS)
    return [
        *matching(layers, pairs, tables["draws"]),
        *depth(pairs, comparison),
        agreement(pairs),
        *regression(tables["regression"], pairs),
        likeness(layers, pairs),
        *alike(comparison, pairs),
        *information(layers, pairs),
        *subspaces(tables["clusters"], comparison),
        *chosen(tables["chosen"]),
        *dead(pairs),
        *places(pairs),
        *missing_sentences(comparison),
    ]


def matching(layers: pl.DataFrame, pairs: pl.DataFrame, draws: pl.DataFrame) -> list[str]:
    """How well units find a partner, beside the controls."""
    beside = []
    for of, words in ((SHUFFLED, "with the images shuffled"), (UNTRAINED, "with the other network untrained")):
        control = layers.filter(pl.col("of") == of)
        if control.height:
            drawn = _range(draws, "bipartite") if of == UNTRAINED else ""
            beside.append(f"{_mean(control, 'bipartite'):.2f} {words}{drawn}")
    control_words = f"; {' and '.join(beside)}" if beside else ""
    text = (
        f"Matched one to one, a unit and its partner correlate by {_mean(pairs, 'bipartite'):.2f} on average over "
        f"{plural(pairs.height, 'pair')} of layers{control_words}."
    )
    within = _mean(pairs, "within")
    return [
        text,
        f"A unit's best partner in the other network correlates with it by {_mean(pairs, 'semi'):.2f}, the unit most "
        f"like it in its own layer by {within:.2f}.",
    ]


def depth(pairs: pl.DataFrame, comparison: Comparison) -> list[str]:
    """Does the correlation fall with depth? The output is left out: its units are the same classes."""
    pairs = pairs.filter(pl.col("layer_a").is_in(list(comparison.hidden)))
    if pairs.height < 3 or pairs["bipartite"].n_unique() == 1:
        return []
    first, last = pairs.row(0, named=True), pairs.row(-1, named=True)
    rho, p = kendalltau(np.arange(pairs.height), pairs["bipartite"].to_numpy())
    trend = "changes with no clear order" if not p < 0.05 else "falls with depth" if rho < 0 else "rises with depth"
    return [
        f"The mean correlation {trend}: {first['bipartite']:.2f} at {first['layer_a']}, {last['bipartite']:.2f} at "
        f"{last['layer_a']} (Kendall's tau with depth {rho:+.2f}, p {_p(float(p))}, over "
        f"{plural(pairs.height, 'layer')}, the "
        "output left out)."
    ]


def agreement(pairs: pl.DataFrame) -> str:
    """How often the two matchings agree."""
    low, high = (pairs.sort("same_partner").row(at, named=True) for at in (0, -1))
    if pairs.height == 1:
        return f"For {low['same_partner']:.0%} of the units the best partner is the one-to-one partner too."
    return (
        f"The best partner is the one-to-one partner too for {_mean(pairs, 'same_partner'):.0%} of the units, from "
        f"{low['same_partner']:.0%} ({low['layer_a']}) to {high['same_partner']:.0%} ({high['layer_a']})."
    )


def regression(table: pl.DataFrame, pairs: pl.DataFrame) -> list[str]:
    """Is a unit a combination of a few units of the other network; is L1 almost as good as least squares; how deep?"""
    sentences = []
    nets = table.filter(pl.col("of") == NETWORKS)
    first = pairs.row(0, named=True)
    layer_rows = nets.filter((pl.col("layer_a") == first["layer_a"]) & (pl.col("layer_b") == first["layer_b"]))
    least_squares_error = first["least_squares"]
    few = layer_rows.filter(
        pl.col("decay").is_not_null() & (1 - pl.col("error") >= 0.9 * (1 - least_squares_error))
    ).sort("used")
    text = (
        f"At {first['layer_a']} all {first['used']} units together leave {least_squares_error:.3f} of a unit's variance"
    )
    if few.height and least_squares_error < 0.99:
        one = few.row(0, named=True)
        text += (
            f"; with an L1 penalty of 10^{one['decay']:g} {one['used']:.1f} units leave {one['error']:.3f}, "
            "which keeps 90 % of what can be explained"
        )
    elif least_squares_error < 0.99:
        text += "; no L1 penalty that was tried keeps 90 % of what that explains"
    sentences.append(f"{text}.")
    if pairs.height > 1:
        chance = table.filter((pl.col("of") == SHUFFLED) & pl.col("decay").is_null())
        floor = {row["layer_a"]: row["error"] for row in chance.iter_rows(named=True)}
        ends = [pairs.sort("least_squares").row(at, named=True) for at in (0, -1)]
        best, worst = (f"{r['layer_a']} ({r['least_squares']:.3f}, shuffled {floor[r['layer_a']]:.3f})" for r in ends)
        sentences.append(
            f"Least squares leaves least at {best} and most at {worst}, over the images that it was fitted on; what it "
            f"explains of shuffled images is chance ({_mean(chance, 'error'):.3f} left on average)."
        )
    return sentences


def likeness(layers: pl.DataFrame, pairs: pl.DataFrame) -> str:
    """CKA and its kin, beside the controls."""
    words = []
    for column, name in (("cka", "linear CKA"), ("svcca", "SVCCA"), ("pwcca", "PWCCA"), ("procrustes", "Procrustes")):
        controls = [_mean(part, column) for of in (SHUFFLED, UNTRAINED) if (part := _of(layers, of)).height]
        beside = f" ({', '.join(f'{value:.2f}' for value in controls)})" if controls else ""
        words.append(f"{name} {_mean(pairs, column):.2f}{beside}")
    ways = " and ".join(w for of, w in ((SHUFFLED, "shuffled"), (UNTRAINED, "untrained")) if _of(layers, of).height)
    return (
        f"Likeness of the layers as a whole, mean{f' (and of the controls, {ways})' if ways else ''}: {listing(words)}."
    )


def alike(comparison: Comparison, pairs: pl.DataFrame) -> list[str]:
    """Do both networks go the same way?"""
    if comparison.map is None:
        return []
    best = comparison.map.sort("cka", descending=True).unique("layer_a", keep="first", maintain_order=True)
    partner = dict(zip(best["layer_a"], best["layer_b"], strict=True))
    if comparison.how == "equal":
        same = sum(partner[a] == b for a, b in pairs.select("layer_a", "layer_b").iter_rows())
        return [
            f"By linear CKA the layer of the same place is the most alike for {same} of "
            f"{plural(pairs.height, 'layer')}."
        ]
    position = {name: at for at, name in enumerate(comparison.order[1])}
    steps = [position[partner[a]] for a in comparison.order[0] if a in partner]
    rho = float(spearmanr(np.arange(len(steps)), steps)[0]) if len(set(steps)) > 1 else float("nan")
    way = "" if np.isnan(rho) else f" (rank correlation of the places {rho:+.2f})"
    return [
        f"Layers of {comparison.networks[0]} are compared with the layer of {comparison.networks[1]} most like them by "
        f"linear CKA{way}; being chosen for that, their likeness is no surprise."
    ]


def information(layers: pl.DataFrame, pairs: pl.DataFrame) -> list[str]:
    """What one unit says of its best partner."""
    measured = pairs.filter(pl.col("information").is_not_null())
    if not measured.height:
        return []
    control = _of(layers, SHUFFLED).filter(pl.col("information").is_not_null())
    beside = f" ({_mean(control, 'information'):.2f} shuffled)" if control.height else ""
    return [
        f"A unit and its best partner share {_mean(measured, 'information'):.2f} nats of information on "
        f"average{beside}, {_mean(measured, 'information_share'):.0%} of what the binned values hold."
    ]


def subspaces(clusters: pl.DataFrame, comparison: Comparison) -> list[str]:
    """Groups of units that go together."""
    shared = clusters.filter(
        pl.col("layer_a").is_in(list(comparison.hidden))
        & (pl.col("units_a") > 1)
        & (pl.col("units_b") > 1)
        & (pl.col("units_a") < pl.col("units_a").sum().over("layer_a", "layer_b"))
    )
    if not shared.height:
        return []
    best = shared.with_columns(least=pl.min_horizontal("explained_a", "explained_b")).sort("least", descending=True)
    row = best.row(0, named=True)
    units_text = f"{plural(row['units_a'], 'unit')} of {row['layer_a']} and {row['units_b']} of {row['layer_b']}"
    return [
        f"Co-clustering finds {plural(clusters.height, 'group')} of units in "
        f"{plural(len(comparison.compared), 'pair')} of layers. The best shared: {units_text}, which explain "
        f"{row['explained_a']:.0%} and {row['explained_b']:.0%} of each other's variance."
    ]


def chosen(table: pl.DataFrame) -> list[str]:
    """Units that many choose, and those that none does."""
    live = table.filter(~pl.col("dead"))
    if not live.height:
        return []
    top = live.sort("choices", descending=True).row(0, named=True)
    alone = live.filter(pl.col("choices") == 0).height
    return [
        f"{alone / live.height:.0%} of the other network's live units are nobody's best partner; the one chosen most "
        f"is unit {top['channel']} of {top['layer_b']}, by {plural(top['choices'], 'unit')}."
    ]


def dead(pairs: pl.DataFrame) -> list[str]:
    """Dead units, which take no part."""
    parts = []
    for side, words in (("a", "of the first network"), ("b", "of the other")):
        has = pairs.unique(f"layer_{side}", maintain_order=True).filter(pl.col(f"dead_{side}") > 0)
        if has.height:
            names = [f"{n} {c}" for n, c in has.select(f"layer_{side}", f"dead_{side}").iter_rows()]
            parts.append(f"{words}: {listing(names, _NAMED)}")
    return [f"Units with one value on all images take no part, {'; '.join(parts)}."] if parts else []


def places(pairs: pl.DataFrame) -> list[str]:
    """Layers that had to be averaged to a common grid."""
    apart = pairs.filter((pl.col("places_a") != pl.col("grid")) | (pl.col("places_b") != pl.col("grid")))
    names = ("layer_a", "places_a", "layer_b", "places_b", "grid")
    rows = [f"{a} ({x}) and {b} ({y}) on {grid}" for a, x, b, y, grid in apart.select(names).iter_rows()]
    return (
        [f"Layers of different size are compared on their common grid, areas averaged: {listing(rows, 3)}."]
        if rows
        else []
    )


def missing_sentences(comparison: Comparison) -> list[str]:
    """What is missing."""
    sentences = (
        [] if comparison.missing_control is None else [f"There is no untrained control: {comparison.missing_control}"]
    )
    if comparison.map is None and comparison.how != "named" and len(comparison.compared) > 1:
        sentences.append(
            "The layers are too wide for a map of every layer with every other; name pairs of them as layers A:B."
        )
    return sentences


def _of(layers: pl.DataFrame, of: str) -> pl.DataFrame:
    return layers.filter(pl.col("of") == of)


def _mean(frame: pl.DataFrame, column: str) -> float:
    return float(frame[column].drop_nulls().mean() or 0.0)  # type: ignore[arg-type]


def _range(draws: pl.DataFrame, column: str) -> str:
    """` (0.21 to 0.25 over 3 draws)`: lowest and highest mean over the layers; nothing of one draw."""
    means = draws.group_by("draw").agg(pl.col(column).mean())[column].to_numpy()
    return f" ({means.min():.2f} to {means.max():.2f} over {len(means)} draws)" if len(means) > 1 else ""


def _p(value: float) -> str:
    return "below 0.001" if value < 0.001 else f"{value:.3f}"
