"""The sentences of the study `maximize`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import polars as pl

from netopsy.network.network import Network
from netopsy.samples.samples import Samples
from netopsy.studies.maximize.ascend import AscentSettings, Climb
from netopsy.studies.maximize.target import Target
from netopsy.wording import listing, plural

_STILL = 0.05  # share of the gain that the last tenth of the steps may bring to an ascent that has levelled off


def findings(
    runs: pl.DataFrame,
    targets: Sequence[Target],
    climbs: Sequence[Climb],
    recipe: AscentSettings,
    network: Network,
    samples: Samples | None,
    *,
    chosen: bool,
) -> list[str]:
    """Plain sentences, the most important first. chosen: whether the study chose the units by itself."""
    if not targets:
        return [f"{network.name} has no node whose units can be maximised (none holds units of one image each)."]
    risen = runs.filter(pl.col("state") == "risen")
    sentences = _failure_sentences(runs)
    sentences += _comparison_sentences(risen, samples) if risen.height else []
    sentences += _agreement(risen)
    sentences += _limits(risen, recipe)
    sentences += _convergence_sentences(climbs, runs)
    sentences += _where(targets, samples, chosen)
    if recipe.way == "fourier" and samples is None and network.image_preprocessing.depth > 1:
        sentences.append("Without samples the colours' covariance is unknown: the three channels were climbed apart.")
    return sentences


def _failure_sentences(runs: pl.DataFrame) -> list[str]:
    """Runs of which it cannot be said that they maximised anything."""
    sentences = []
    for kind, words in (
        ("no gradient", "got no gradient from their random start (every path to the image is off, or it is no number)"),
        ("not finite", "met values that are no finite numbers"),
        ("not risen", "ended no higher than they began"),
    ):
        part = runs.filter(pl.col("state") == kind)
        if part.height:
            units = part["unit"].unique(maintain_order=True).to_list()
            sentences.append(
                f"{plural(part.height, 'run')} of {listing(units)} {words}: their pictures are not maxima of anything."
            )
    return sentences


def _comparison_sentences(risen: pl.DataFrame, samples: Samples | None) -> list[str]:
    if samples is None:
        return ["No samples were given, so the values reached were compared with none."]
    compared, with_ratio = risen.drop_nulls("strongest"), risen.drop_nulls("ratio")
    sentences = []
    if with_ratio.height:
        ratios = with_ratio["ratio"]
        above = int((compared["reached"] > compared["strongest"]).sum())
        sentences.append(
            f"{above} of {plural(compared.height, 'run')} reached more than the strongest of {len(samples):,} samples: "
            f"{_number(ratios.median())} times as much in the median, from {_number(ratios.min())} to "
            f"{_number(ratios.max())} times."
        )
    elsewhere = risen.filter(pl.col("strongest_here") < pl.col("strongest")).drop_nulls("ratio_here")
    if elsewhere.height:
        sentences.append(
            f"Some samples drive these channels harder at another place than the one maximised: beside the samples' "
            f"strongest at the unit's own place, the runs reached {_number(elsewhere['ratio_here'].median())} times as "
            "much in the median."
        )
    silent = risen.filter(pl.col("ratio").is_null())["unit"].unique(maintain_order=True).to_list()
    if silent:
        sentences.append(
            f"No ratio is given for {listing(silent)}: the value reached or the samples' is not above zero."
        )
    return sentences


def _agreement(risen: pl.DataFrame) -> list[str]:
    """Whether another start gives another picture (Palmieri et al., Section 4)."""
    several = risen.filter(pl.len().over("unit") > 1).drop_nulls("similarity")
    if several.is_empty():
        return []
    units = several.group_by("unit", maintain_order=True).agg(
        pl.col("similarity").mean(), (pl.col("reached").max() - pl.col("reached").min()).alias("spread"),
        pl.col("reached").abs().max().alias("most"), pl.col("start_kept").mean(),
    )  # fmt: skip
    similar = units["similarity"].to_numpy()
    mean, low, high = similar.mean(), similar.min(), similar.max()
    word = "different pictures" if mean < 0.3 else "alike pictures" if mean > 0.7 else "partly alike pictures"
    spread = float((units["spread"] / units["most"]).to_numpy().mean())
    between = several["similarity_others"].drop_nulls().to_numpy()
    beside = f"; pictures of different units correlate {between.mean():.2f}" if len(between) else ""
    start_correlations = units["start_kept"].drop_nulls()
    start = (
        f" A picture correlates {float(start_correlations.to_numpy().mean()):.2f} with its own random start."
        if len(start_correlations)
        else ""
    )
    return [
        f"Other starts lead to {word}: the runs of one unit correlate {mean:.2f} on average over "
        f"{plural(units.height, 'unit')} (from {low:.2f} to {high:.2f}), "
        f"while the values that they reach differ by {spread:.0%}{beside}.{start}"
    ]


def _limits(risen: pl.DataFrame, recipe: AscentSettings) -> list[str]:
    if risen.is_empty():
        return []
    share = float(risen["at_limits"].to_numpy().mean())
    how = "each step is cut to it" if recipe.way == "plain" else "a sigmoid keeps them there"
    return [f"All pictures lie within the range of valid pixels ({how}); {share:.1%} of their values are 0 or 255."]


def _convergence_sentences(climbs: Sequence[Climb], runs: pl.DataFrame) -> list[str]:
    """Whether the ascents were still rising when they were stopped."""
    states = iter(runs["state"].to_list())
    gains = []
    for climb in climbs:
        for curve in climb.curve:
            if next(states) != "risen" or len(curve) < 20:
                continue
            tenth = len(curve) // 10
            # means over a tenth, because moved images make a jagged curve
            first, before, last = curve[:1].mean(), curve[-2 * tenth : -tenth].mean(), curve[-tenth:].mean()
            if float(last - first) > 0:
                gains.append(float((last - before) / (last - first)))
    rising = sum(gain > _STILL for gain in gains)
    if not rising:
        return []
    return [
        f"{rising} of {plural(len(gains), 'ascent')} still gained more than {_STILL:.0%} of all their gain in the last "
        "tenth of the steps: more steps would reach more."
    ]


def _where(targets: Sequence[Target], samples: Samples | None, chosen: bool) -> list[str]:
    """Which units, at which places, and at which node the value was taken."""
    sentences = []
    if chosen:
        how = "those of the highest values in the samples" if samples is not None else "evenly spread ones"
        sentences.append(f"The units were chosen by the study: of each of its nodes {how}.")
    centred = [str(target.unit) for target in targets if target.centred and target.unit.place]
    if centred:
        sentences.append(f"No place was given for {listing(centred)}: the centre of the map was taken.")
    before = list(dict.fromkeys(t.unit.node for t in targets if t.node != t.unit.node))
    if before:
        sentences.append(
            f"For units of {listing(before)} what enters the activation function was climbed and compared, since a "
            "rectifier that is off passes no gradient."
        )
    return sentences


def _number(value: Any) -> str:
    number = float(value)
    return f"{number:.3g}" if math.isfinite(number) else "-"
