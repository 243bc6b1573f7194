"""The sentences of the study `maximize`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl
from torch import Tensor

from netopsy.network.network import Network
from netopsy.result import Finding
from netopsy.samples.samples import Samples
from netopsy.studies.maximize.ascend import Climb
from netopsy.studies.maximize.target import Target
from netopsy.wording import listing, number, percent, plural

_STILL = 0.05  # share of the gain that the last tenth of the steps may bring to an ascent that has levelled off


def findings(
    runs: pl.DataFrame,
    targets: Sequence[Target],
    climbs: Mapping[str, Sequence[Climb]],
    network: Network,
    samples: Samples | None,
    *,
    chosen: bool,
    ways: Sequence[str],
) -> list[Finding]:
    """Plain sentences, the most important first.

    climbs: by way. chosen: whether the study chose the units by itself. ways: what was asked for.
    """
    if not targets:
        text = f"{network.name} has no node whose units can be maximised (none holds units of one image each)."
        return [Finding(text, 0.0)]
    risen = runs.filter(pl.col("state") == "risen")
    sentences = _failure_sentences(runs)
    sentences += _comparison_sentences(risen, samples) if risen.height else []
    sentences += [*_agreement(risen), *_convergence_sentences(climbs, runs), *_limits(risen)]
    sentences += _where(targets, samples, chosen)
    for way in ways:
        if way not in climbs and targets:
            text = f"Time was too short for {_NAMES[way]}: ask for it with `--way {way}`, or give more `--minutes`."
            sentences.append(Finding(text, 0.0))
    if "fourier" in climbs and samples is None and network.image_preprocessing.depth > 1:
        text = "Without samples the colours' covariance is unknown, so Fourier ascent climbed the channels separately."
        sentences.append(Finding(text, 0.0))
    return sentences


_NAMES = {"plain": "plain ascent", "fourier": "Fourier ascent"}


def _by_way(runs: pl.DataFrame) -> list[tuple[str, pl.DataFrame]]:
    """The runs of each way under its name."""
    return [(_NAMES[key[0]], part) for key, part in runs.partition_by("way", as_dict=True, maintain_order=True).items()]


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
            ways = " and ".join(name for name, _ in _by_way(part))
            text = (
                f"In {ways} {plural(part.height, 'run')} of {listing(units)} {words}: the pictures are not maxima of "
                "anything."
            )
            sentences.append(Finding(text, 5.0))
    return sentences


def _comparison_sentences(risen: pl.DataFrame, samples: Samples | None) -> list[Finding]:
    if samples is None:
        return [Finding("No samples were given, so the values reached were compared with none.", 0.0)]
    ratios, shares, here = [], [], []
    for name, part in _by_way(risen):
        compared, with_ratio = part.drop_nulls("strongest"), part.drop_nulls("ratio")
        if with_ratio.height:
            above = int((compared["reached"] > compared["strongest"]).sum())
            ratios.append(float(with_ratio["ratio"].median()))  # type: ignore[arg-type]
            shares.append((name, above, compared.height))
        elsewhere = part.filter(pl.col("strongest_here") < pl.col("strongest")).drop_nulls("ratio_here")
        if elsewhere.height:
            here.append((name, float(elsewhere["ratio_here"].median())))  # type: ignore[arg-type]
    sentences = []
    if shares:
        (name, above, count), *others = shares
        more = "".join(f"; {o}: {a} of {c}, {number(r)} times" for (o, a, c), r in zip(others, ratios[1:], strict=True))
        text = (
            f"{above} of {plural(count, 'run')} of {name} reached more than the strongest of {len(samples):,} "
            f"{samples.noun}s, {number(ratios[0])} times as much in the median{more}."
        )
        sentences.append(Finding(text, min(5.0, ratios[0])))
    if here:
        reached = [f"{number(ratio)} times as much in the median ({name})" for name, ratio in here]
        text = (
            f"Some {samples.noun}s drive these channels harder at other places; at the unit's own place the runs "
            f"reached {listing(reached)}."
        )
        sentences.append(Finding(text, 0.5))
    silent = risen.filter(pl.col("ratio").is_null())["unit"].unique(maintain_order=True).to_list()
    if silent:
        text = f"No ratio is given for {listing(silent)}: the value reached or the {samples.noun}s' is not above zero."
        sentences.append(Finding(text, 0.0))
    return sentences


def _agreement(risen: pl.DataFrame) -> list[Finding]:
    """Whether another start gives another picture (Palmieri et al., Section 4), in each way of several runs."""
    several = risen.filter(pl.len().over("unit", "way") > 1).drop_nulls("similarity")
    sentences = []
    for name, part in _by_way(several):
        units = part.group_by("unit", maintain_order=True).agg(
            pl.col("similarity").mean(), (pl.col("reached").max() - pl.col("reached").min()).alias("spread"),
            pl.col("reached").abs().max().alias("most"),
        )  # fmt: skip
        mean = float(units["similarity"].to_numpy().mean())
        word = "different pictures" if mean < 0.3 else "similar pictures" if mean > 0.7 else "partly similar pictures"
        spread = float((units["spread"] / units["most"]).to_numpy().mean())
        between = part["similarity_others"].drop_nulls().to_numpy()
        others = f"; those of different units by {between.mean():.2f}" if len(between) else ""
        text = (
            f"Other starts lead to {word} in {name}: the runs of one unit correlate by {mean:.2f} on average over "
            f"{plural(units.height, 'unit')}, and the values that they reach differ by {percent(spread)}{others}."
        )
        sentences.append(Finding(text, 1.0 + abs(mean - 0.5)))
    return sentences


_CUT = 0.05  # share of values at the limits from which on it is said


def _limits(risen: pl.DataFrame) -> list[Finding]:
    """How much of the pictures is cut to the range of pixels."""
    shares = [(name, float(part["at_limits"].to_numpy().mean())) for name, part in _by_way(risen)]
    parts = [f"{percent(share)} of the values in pictures of {name}" for name, share in shares if share >= _CUT]
    if not parts:
        return []
    return [Finding(f"{listing(parts)} are black or white, the limits of a pixel.", 0.5)]


def _convergence_sentences(climbs: Mapping[str, Sequence[Climb]], runs: pl.DataFrame) -> list[Finding]:
    """Whether the ascents were still rising when they were stopped."""
    parts = []
    for way, found in climbs.items():
        states = runs.filter(pl.col("way") == way)["state"].to_list()
        curves = [curve for climb in found for curve in climb.curve]
        gains = [_last_gain(curve) for curve, state in zip(curves, states, strict=True) if state == "risen"]
        known = [gain for gain in gains if gain is not None]
        rising = sum(gain > _STILL for gain in known)
        if rising:
            parts.append(f"{rising} of {plural(len(known), 'run')} of {_NAMES[way]}")
    if not parts:
        return []
    text = (
        f"{listing(parts)} still gained over {percent(_STILL)} in the last tenth of the steps: raise `steps` to reach "
        "more."
    )
    return [Finding(text, 1.0)]


def _last_gain(curve: Tensor) -> float | None:
    """Share of its gain that the last tenth of a curve brings; None for a short curve, or one without a gain."""
    tenth = len(curve) // 10
    if tenth < 2:
        return None
    # means over a tenth, because moved images make a jagged curve
    first, before, last = curve[:1].mean(), curve[-2 * tenth : -tenth].mean(), curve[-tenth:].mean()
    return float((last - before) / (last - first)) if float(last - first) > 0 else None


def _where(targets: Sequence[Target], samples: Samples | None, chosen: bool) -> list[Finding]:
    """Which units, at which places, and at which node the value was taken."""
    sentences = []
    if chosen:
        how = "evenly spread ones" if samples is None else "those that respond to one class, or most strongly"
        sentences.append(Finding(f"The units were chosen by the study: {how}.", 0.0))
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
