"""The sentences of the study `correspondence`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl
from scipy.stats import kendalltau, spearmanr

from netopsy.result import Finding
from netopsy.studies.correspondence.counting import NETWORKS, SHUFFLED, UNTRAINED, Comparison
from netopsy.wording import chance, listing, number, percent, plural, two

_NAMED = 6  # layers or units that a sentence names


def findings(tables: Mapping[str, pl.DataFrame], comparison: Comparison) -> list[Finding]:
    """Plain sentences, the most important first."""
    layers = tables["layers"]
    pairs = layers.filter(pl.col("of") == NETWORKS)
    return [
        matching(layers, pairs, tables["draws"]),
        best_partner(pairs),
        likeness(layers, pairs),
        *depth(pairs, comparison),
        *regression(tables["regression"], pairs),
        *alike(comparison, pairs),
        *chosen(tables["chosen"]),
        *dead(pairs),
        *places(pairs),
        *missing_sentences(comparison),
    ]


def matching(layers: pl.DataFrame, pairs: pl.DataFrame, draws: pl.DataFrame) -> Finding:
    """How well units find a partner, next to the controls."""
    controls, value, chance_level = [], _mean(pairs, "bipartite"), 0.0
    for of, words in ((SHUFFLED, "with the images shuffled"), (UNTRAINED, "with the other network untrained")):
        control = layers.filter(pl.col("of") == of)
        if control.height:
            drawn = _range(draws, "bipartite") if of == UNTRAINED else ""
            controls.append(f"{two(_mean(control, 'bipartite'))} {words}{drawn}")
            chance_level = max(chance_level, _mean(control, "bipartite"))
    text = (
        f"Matched one to one, units of the two networks correlate by {two(value)} on average over "
        f"{plural(pairs.height, 'pair')} of layers{_in_brackets(', '.join(controls))}."
    )
    return Finding(text, min(5.0, abs(value - chance_level) / 0.1))


def best_partner(pairs: pl.DataFrame) -> Finding:
    """What a partner that several may share adds, over the same units: never less than nothing."""
    free, bound = _mean(pairs, "semi_matched"), _mean(pairs, "bipartite")
    text = (
        f"With the best partner, which several may share, the same units correlate by {two(free)}; "
        f"{percent(_mean(pairs, 'same_partner'))} of them have the same partner either way."
    )
    return Finding(text, min(5.0, (free - bound) / 0.1))


def likeness(layers: pl.DataFrame, pairs: pl.DataFrame) -> Finding:
    """CKA, next to the controls; its kin are in the table."""
    value = _mean(pairs, "cka")
    controls = [
        f"{two(_mean(_of(layers, of), 'cka'))} {word}"
        for of, word in ((SHUFFLED, "shuffled"), (UNTRAINED, "untrained"))
        if _of(layers, of).height
    ]
    levels = [_mean(_of(layers, of), "cka") for of in (SHUFFLED, UNTRAINED) if _of(layers, of).height]
    text = f"The layers as a whole have a linear CKA of {two(value)} on average{_in_brackets(', '.join(controls))}."
    return Finding(text, min(5.0, abs(value - max(levels, default=0.0)) / 0.1))


def depth(pairs: pl.DataFrame, comparison: Comparison) -> list[Finding]:
    """Does the correlation change with depth? The output is left out: its units are the same classes."""
    pairs = pairs.filter(pl.col("layer_a").is_in(list(comparison.hidden)))
    if pairs.height < 3 or pairs["bipartite"].n_unique() == 1:
        return []
    first, last = pairs.row(0, named=True), pairs.row(-1, named=True)
    tau, p = kendalltau(np.arange(pairs.height), pairs["bipartite"].to_numpy())
    if not p < 0.05:
        return []
    text = (
        f"The correlation {'falls' if tau < 0 else 'rises'} with depth, from {two(first['bipartite'])} at "
        f"{first['layer_a']} to {two(last['bipartite'])} at {last['layer_a']} (Kendall's tau {tau:+.2f}, "
        f"{chance(float(p))}, over {plural(pairs.height, 'layer')} before the output)."
    )
    return [Finding(text, max(1.0, abs(float(tau)) * pairs.height**0.5 / 1.5))]


def regression(table: pl.DataFrame, pairs: pl.DataFrame) -> list[Finding]:
    """Is a unit a combination of a few units of the other network?"""
    nets = table.filter(pl.col("of") == NETWORKS)
    first = pairs.row(0, named=True)
    rows = nets.filter((pl.col("layer_a") == first["layer_a"]) & (pl.col("layer_b") == first["layer_b"]))
    explained = 1 - first["least_squares"]
    if explained <= 0.01:
        text = f"At {first['layer_a']} the units of the other network do not predict a unit linearly."
        return [Finding(text, 1.0)]
    few = rows.filter(pl.col("decay").is_not_null() & (1 - pl.col("error") >= 0.9 * explained)).sort("used")
    text = (
        f"At {first['layer_a']} all {plural(first['used'], 'unit')} of the other network explain "
        f"{percent(explained)} of a unit's variance"
    )
    if few.height:
        one = few.row(0, named=True)
        text += f"; {number(one['used'])} of them, chosen by an L1 penalty, explain {percent(1 - one['error'])}"
    return [Finding(f"{text}.", 1.0)]


def alike(comparison: Comparison, pairs: pl.DataFrame) -> list[Finding]:
    """Do both networks go the same way?"""
    if comparison.map is None:
        return []
    best = comparison.map.sort("cka", descending=True).unique("layer_a", keep="first", maintain_order=True)
    partner = dict(zip(best["layer_a"], best["layer_b"], strict=True))
    if comparison.how == "equal":
        same = sum(partner[a] == b for a, b in pairs.select("layer_a", "layer_b").iter_rows())
        text = (
            f"For {same} of {plural(pairs.height, 'layer')} the most alike layer, by linear CKA, is at the same place."
        )
        return [Finding(text, 1.0)]
    position = {name: at for at, name in enumerate(comparison.order[1])}
    steps = [position[partner[a]] for a in comparison.order[0] if a in partner]
    rho = float(spearmanr(np.arange(len(steps)), steps)[0]) if len(set(steps)) > 1 else float("nan")
    way = "" if np.isnan(rho) else f" (rank correlation of their places {rho:+.2f})"
    a, b = comparison.networks
    text = (
        f"Each layer of {a} is compared with the one of {b} most like it by linear CKA{way}, so their likeness is high "
        "by choice."
    )
    return [Finding(text, 0.0)]


def chosen(table: pl.DataFrame) -> list[Finding]:
    """Units that many choose, and those that none does."""
    live = table.filter(~pl.col("dead"))
    if not live.height:
        return []
    most = live["choices"].to_numpy().max()
    top = live.filter(pl.col("choices") == most)
    alone = live.filter(pl.col("choices") == 0).height
    text = f"{percent(alone / live.height)} of the other network's live units are nobody's best partner"
    if top.height == 1:
        row = top.row(0, named=True)
        text += f"; unit {row['channel']} of {row['layer_b']} is that of {plural(int(most), 'unit')}"
    return [Finding(f"{text}.", 1.0)]


def dead(pairs: pl.DataFrame) -> list[Finding]:
    """Dead units, which take no part."""
    parts = []
    for side, words in (("a", "of the first network"), ("b", "of the other")):
        has = pairs.unique(f"layer_{side}", maintain_order=True).filter(pl.col(f"dead_{side}") > 0)
        if has.height:
            names = [f"{n} {c}" for n, c in has.select(f"layer_{side}", f"dead_{side}").iter_rows()]
            parts.append(f"{words}: {listing(names, _NAMED)}")
    text = f"Units with one value on all images take no part, {'; '.join(parts)}."
    return [Finding(text, 1.0)] if parts else []


def places(pairs: pl.DataFrame) -> list[Finding]:
    """Layers that had to be averaged to a common grid."""
    apart = pairs.filter((pl.col("places_a") != pl.col("grid")) | (pl.col("places_b") != pl.col("grid")))
    names = ("layer_a", "places_a", "layer_b", "places_b", "grid")
    rows = [f"{a} ({x}) and {b} ({y}) on {grid}" for a, x, b, y, grid in apart.select(names).iter_rows()]
    text = f"Layers of different size are compared on their common grid, areas averaged: {listing(rows, 3)}."
    return [Finding(text, 0.0)] if rows else []


def missing_sentences(comparison: Comparison) -> list[Finding]:
    """What is missing."""
    sentences = []
    if comparison.missing_control is not None:
        sentences.append(Finding(f"There is no untrained control: {comparison.missing_control}", 0.0))
    if comparison.map is None and comparison.how != "named" and len(comparison.compared) > 1:
        text = "The layers are too wide for a map of every layer with every other; name pairs of them as layers A:B."
        sentences.append(Finding(text, 0.0))
    return sentences


def _of(layers: pl.DataFrame, of: str) -> pl.DataFrame:
    return layers.filter(pl.col("of") == of)


def _mean(frame: pl.DataFrame, column: str) -> float:
    return float(frame[column].drop_nulls().mean() or 0.0)  # type: ignore[arg-type]


def _in_brackets(words: str) -> str:
    return f" ({words})" if words else ""


def _range(draws: pl.DataFrame, column: str) -> str:
    """`, 0.21 to 0.25 over 3 draws`: lowest and highest mean over the layers; nothing of one draw."""
    means = draws.group_by("draw").agg(pl.col(column).mean())[column].to_numpy()
    return f", {two(means.min())} to {two(means.max())} over {len(means)} draws" if len(means) > 1 else ""
