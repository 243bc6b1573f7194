"""The sentences of the study `maximize`."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from netopsy.network.network import Network
from netopsy.result import Finding
from netopsy.samples.samples import Samples
from netopsy.studies.maximize.ascend import AscentSettings, Climb
from netopsy.studies.maximize.target import Target
from netopsy.wording import listing, number, percent, plural

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
) -> list[Finding]:
    """Plain sentences, the most important first. chosen: whether the study chose the units by itself."""
    if not targets:
        text = f"{network.name} has no node whose units can be maximised (none holds units of one image each)."
        return [Finding(text, 0.0)]
    risen = runs.filter(pl.col("state") == "risen")
    sentences = _failure_sentences(runs)
    sentences += _comparison_sentences(risen, samples) if risen.height else []
    sentences += [*_agreement(risen), *_convergence_sentences(climbs, runs), *_limits(risen)]
    sentences += _where(targets, samples, chosen)
    if recipe.way == "fourier" and samples is None and network.image_preprocessing.depth > 1:
        text = "Without samples the colours' covariance is unknown, so the three channels were climbed separately."
        sentences.append(Finding(text, 0.0))
    return sentences


def _failure_sentences(runs: pl.DataFrame) -> list[Finding]:
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
            text = f"{plural(part.height, 'run')} of {listing(units)} {words}: the pictures are not maxima of anything."
            sentences.append(Finding(text, 5.0))
    return sentences


def _comparison_sentences(risen: pl.DataFrame, samples: Samples | None) -> list[Finding]:
    if samples is None:
        return [Finding("No samples were given, so the values reached were compared with none.", 0.0)]
    compared, with_ratio = risen.drop_nulls("strongest"), risen.drop_nulls("ratio")
    sentences = []
    if with_ratio.height:
        ratio = float(with_ratio["ratio"].median())  # type: ignore[arg-type]
        above = int((compared["reached"] > compared["strongest"]).sum())
        text = (
            f"{above} of {plural(compared.height, 'run')} reached more than the strongest of {len(samples):,} "
            f"{samples.noun}s, {number(ratio)} times as much in the median."
        )
        sentences.append(Finding(text, min(5.0, ratio)))
    elsewhere = risen.filter(pl.col("strongest_here") < pl.col("strongest")).drop_nulls("ratio_here")
    if elsewhere.height:
        ratio = float(elsewhere["ratio_here"].median())  # type: ignore[arg-type]
        text = (
            f"Some {samples.noun}s drive these channels harder at other places; at the unit's own place the runs "
            f"reached {number(ratio)} times as much in the median."
        )
        sentences.append(Finding(text, 0.5))
    silent = risen.filter(pl.col("ratio").is_null())["unit"].unique(maintain_order=True).to_list()
    if silent:
        text = f"No ratio is given for {listing(silent)}: the value reached or the {samples.noun}s' is not above zero."
        sentences.append(Finding(text, 0.0))
    return sentences


def _agreement(risen: pl.DataFrame) -> list[Finding]:
    """Whether another start gives another picture (Palmieri et al., Section 4)."""
    several = risen.filter(pl.len().over("unit") > 1).drop_nulls("similarity")
    if several.is_empty():
        return []
    units = several.group_by("unit", maintain_order=True).agg(
        pl.col("similarity").mean(), (pl.col("reached").max() - pl.col("reached").min()).alias("spread"),
        pl.col("reached").abs().max().alias("most"),
    )  # fmt: skip
    mean = float(units["similarity"].to_numpy().mean())
    word = "different pictures" if mean < 0.3 else "similar pictures" if mean > 0.7 else "partly similar pictures"
    spread = float((units["spread"] / units["most"]).to_numpy().mean())
    between = several["similarity_others"].drop_nulls().to_numpy()
    others = f"; those of different units by {between.mean():.2f}" if len(between) else ""
    text = (
        f"Other starts lead to {word}: the runs of one unit correlate by {mean:.2f} on average over "
        f"{plural(units.height, 'unit')}, and the values that they reach differ by {percent(spread)}{others}."
    )
    return [Finding(text, 1.0 + abs(mean - 0.5))]


def _limits(risen: pl.DataFrame) -> list[Finding]:
    """How much of the pictures is cut to the range of pixels."""
    share = float(risen["at_limits"].to_numpy().mean()) if risen.height else 0.0
    if share < _CUT:
        return []
    return [Finding(f"{percent(share)} of the pictures' values are black or white, the limits of a pixel.", 0.5)]


_CUT = 0.05  # share of values at the limits from which on it is said


def _convergence_sentences(climbs: Sequence[Climb], runs: pl.DataFrame) -> list[Finding]:
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
    text = (
        f"{rising} of {plural(len(gains), 'ascent')} still gained over {percent(_STILL)} in the last tenth of the "
        "steps: raise `steps` to reach more."
    )
    return [Finding(text, 1.0)]


def _where(targets: Sequence[Target], samples: Samples | None, chosen: bool) -> list[Finding]:
    """Which units, at which places, and at which node the value was taken."""
    sentences = []
    if chosen:
        how = "those of the highest values in the samples" if samples is not None else "evenly spread ones"
        sentences.append(Finding(f"The units were chosen by the study: of each of its nodes {how}.", 0.0))
    centred = [str(target.unit) for target in targets if target.centred and target.unit.place]
    if centred:
        text = f"No place was given for {listing(centred)}: the centre of the map was taken."
        sentences.append(Finding(text, 0.0))
    before = list(dict.fromkeys(t.unit.node for t in targets if t.node != t.unit.node))
    if before:
        text = (
            f"For units of {listing(before)} what enters the activation function was climbed, since a rectifier "
            "that is off passes no gradient."
        )
        sentences.append(Finding(text, 0.0))
    return sentences
