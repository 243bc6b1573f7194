"""The sentences of the study `triage`: what the paper claims, tested on what was run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from netopsy.stats.hypothesis_tests import mean_interval
from netopsy.studies.triage.design import IMAGES, SCORES, SEEDS, TOGETHER
from netopsy.studies.triage.figures import convergence
from netopsy.wording import listing, plural, points


def findings(tables: Mapping[str, pl.DataFrame], left: Sequence[str], *, max_drop: float, stn_epochs: int) -> list[str]:
    """Plain sentences, the most important first. left: blocks that no one layer can stand in for."""
    cells = tables["cells"]
    scored = cells.filter(pl.col("top1").is_not_null())
    sentences: list[str] = []
    if scored.height:
        sentences += [
            *critical(tables["criticality"]),
            *frozen(scored),
            *above(scored, tables["baselines"]),
            *taught(scored),
            cost(tables["summary"], tables["blocks"]),
            *deeper(tables.get("deeper"), max_drop),
            *speed(cells, stn_epochs),
            *likeness(scored),
            *optimism_sentences(scored),
        ]
    return [*sentences, *failure_sentences(cells, tables["baselines"]), *skipped_sentences(left)]


def difference(a: pl.DataFrame, b: pl.DataFrame, on: Sequence[str]) -> tuple[float, float | None, float | None, int]:
    """(mean, low, high, blocks) of a's accuracy less b's, paired by `on`, averaged per block, by t over the blocks."""
    pairs = a.join(b, on=list(on), suffix="_other").with_columns(gain=pl.col("top1") - pl.col("top1_other"))
    means = pairs.group_by("block", maintain_order=True).agg(pl.col("gain").mean())["gain"].to_list()
    low, high = mean_interval(means)
    return (sum(means) / len(means) if means else 0.0), low, high, len(means)


def frozen(scored: pl.DataFrame) -> list[str]:
    """Do FM models fall short of TM ones?"""
    alone, together = (scored.filter(pl.col("training") == way) for way in ("FM", "TM"))
    gain, low, high, blocks = difference(together, alone, ("block", "start", "seed"))
    if not blocks:
        return []
    how = _verdict(
        low, high, "so FM falls short", "so FM does better", "which the blocks' own differences do not rule out as 0"
    )
    within = _interval(low, high, f"paired, t over {_blocks(blocks)}")
    side = "above" if gain >= 0 else "below"
    return [f"Training all layers (TM) ends {points(abs(gain))} {side} training the new layer alone (FM){within}{how}."]


def above(scored: pl.DataFrame, baselines: pl.DataFrame) -> list[str]:
    """Does TM beat the baseline, and would training on alone have done so?"""
    tm_rows = scored.filter(pl.col("training") == "TM")
    if not tm_rows.height:
        return []
    over, best = tm_rows.filter(pl.col("drop_high") < 0).height, _above(tm_rows, "best", baselines)
    means = tm_rows.group_by("block", maintain_order=True).agg(-pl.col("drop").mean())["drop"].to_list()
    gain = sum(means) / len(means)
    text = (
        f"Of {plural(tm_rows.height, 'TM network')}, {_above(tm_rows, 'top1', baselines)} end above the baseline, "
        f"{over} "
        f"of them by more than the images' paired 95 % interval; by their best epoch, as the paper counts, {best}. "
        f"Their mean difference to the baseline is {points(gain)}"
        f"{_interval(*mean_interval(means), f't over {_blocks(len(means))}')}."
    )
    further = baselines.filter(pl.col("gain").is_not_null())
    if not further.height:
        return [text]
    control = float(further["gain"].mean())  # type: ignore[arg-type]
    if further.height > 1:
        within = _interval(*mean_interval(further["gain"].to_list()), f"t over {plural(further.height, 'seed')}")
    else:
        within = _interval(further["gain_low"][0], further["gain_high"][0], "paired over the images")
    return [
        text,
        f"The uncompressed network, trained on for as many epochs, changes by {points(control)}{within}; against that, "
        f"the TM networks end {points(abs(gain - control))} {'higher' if gain > control else 'lower'}.",
    ]


def taught(scored: pl.DataFrame) -> list[str]:
    """Does STN keep to the teacher's accuracy?"""
    stn_rows = scored.filter(pl.col("start") == "STN")
    if not stn_rows.height:
        return []
    ways = [
        f"{way}-STN {0.0 - 100 * float(part['drop'].mean()):+.2f}"  # type: ignore[arg-type]
        for way in ("FM", "TM")
        if (part := stn_rows.filter(pl.col("training") == way)).height
    ]
    higher = stn_rows.filter(pl.col("drop") < 0).height
    sure = stn_rows.filter(pl.col("drop_high") < 0).height
    return [
        f"Networks taught by their parent (STN) end at {listing(ways)} points from its accuracy on average; "
        f"{higher} of {stn_rows.height} end above it, {sure} by more than the images' paired interval. The paper "
        "found none above."
    ]


def critical(tests: pl.DataFrame) -> list[str]:
    """Is no block more critical than another?"""
    sentences = []
    for row in tests.filter(pl.col("over") == TOGETHER).iter_rows(named=True):
        claim = "is" if row["p"] < 0.05 else "cannot be told to be"
        blind = " No p below 0.05 was possible with so few seeds and blocks." if row["least_p"] > 0.05 else ""
        sentences.append(
            f"Over all ways of training some block {claim} more critical than another: the mean accuracy runs over "
            f"{_points(row['spread'])}, from {row['least_critical']} (least critical) to {row['most_critical']} "
            f"(permutation test over {plural(row['count'], 'seed')}, p {_p(row['p'])}).{blind}"
        )
    seeds = tests.filter(pl.col("over") == SEEDS)
    if seeds.height:
        hit = seeds.filter(pl.col("p_holm") < 0.05)
        widest = seeds.sort("spread", descending=True).row(0, named=True)
        many = f"{hit.height} of {plural(seeds.height, 'way')} of training"
        least = float(seeds["least_p"].max()) * seeds.height  # type: ignore[arg-type]
        blind = " With so few seeds and blocks no p could have come below 0.05." if least > 0.05 else ""
        sentences.append(
            f"Over {plural(seeds['count'][0], 'seed')} the accuracy depends on the block in {many} (permutation "
            "test, Holm: p < "
            f"0.05). The widest spread, {_points(widest['spread'])}, is {widest['training']}-{widest['start']}'s, from "
            f"{widest['least_critical']} to {widest['most_critical']} (p {_p(widest['p_holm'])}; a difference of "
            f"{_points(widest['detectable'])} would be seen in 4 of 5 cases).{blind}"
        )
    images = tests.filter(pl.col("over").is_in([IMAGES, SCORES]))
    if images.height:
        hit = images.filter(pl.col("p_holm") < 0.05)
        widest = images.sort("spread", descending=True).row(0, named=True)
        test = images["over"][0].partition("(")[2][:-1]
        claim = "so these networks differ" if hit.height else "so the images show no block to be more critical"
        sentences.append(
            f"On the same {plural(widest['count'], 'image')} the blocks' networks differ in {hit.height} of "
            f"{plural(images.height, 'comparison')} ({test}, Holm: p < 0.05), {claim}: the spread runs from "
            f"{_points(float(images['spread'].min()))} to {_points(widest['spread'])}, and a difference of "  # type: ignore[arg-type]
            f"{_points(float(images['detectable'].mean()))} would be seen in 4 of 5 cases."  # type: ignore[arg-type]
            f"{'' if seeds.height else ' One seed cannot tell a critical block from an unlucky training.'}"
        )
    return sentences


def cost(summary: pl.DataFrame, blocks: pl.DataFrame) -> str:
    """Which block costs least and most, and what it saves, in the best way of training it."""
    best = summary.sort("top1", descending=True).unique("block", keep="first", maintain_order=True).sort("drop")
    saved = dict(zip(blocks["block"].to_list(), blocks["saved"].to_list(), strict=True))

    def one(row: dict[str, Any]) -> str:
        change = f"{row['training']}-{row['start']}, {0.0 - 100 * row['drop']:+.2f} points"
        share = saved.get(row["block"])
        return f"{row['block']} ({change}{'' if share is None else f', {share:.1%} of the parameters saved'})"

    low, high = best.row(0, named=True), best.row(-1, named=True)
    if best.height == 1:
        return f"Compressed to one layer, in its best way: {one(low)}."
    return f"Each in its best way, the block that costs least is {one(low)}, the one that costs most {one(high)}."


def speed(cells: pl.DataFrame, stn_epochs: int) -> list[str]:
    """Does STN converge faster?"""
    frame = convergence(cells)
    if frame["start"].n_unique() < 2:
        return []
    parts = []
    for training in ("FM", "TM"):
        rows = frame.filter(pl.col("training") == training).sort("epochs")
        if rows.height:
            parts.append(
                f"{training} {listing([f'{s} {e:.1f}' for s, e in rows.select('start', 'epochs').iter_rows()])}"
            )
    before = f" STN had {plural(stn_epochs, 'epoch')} before that." if "STN" in frame["start"].to_list() else ""
    return [f"Epochs until within 1 % of the best accuracy, mean over the blocks: {'; '.join(parts)}.{before}"]


def likeness(scored: pl.DataFrame) -> list[str]:
    """Which new layers answer as their parents do."""
    correlated = scored.filter(pl.col("matched_correlation").is_not_null())
    if not correlated.height:
        return []
    means = (
        correlated.group_by("training", "start", maintain_order=True)
        .agg(pl.col("matched_correlation", "same_index_correlation").mean())
        .sort("matched_correlation", descending=True)
    )
    parts = [
        f"{r['training']}-{r['start']} {r['matched_correlation']:.2f} ({r['same_index_correlation']:.2f})"
        for r in means.iter_rows(named=True)
    ]
    text = "The new layers' channels correlate with their parents', matched one to one (and unmatched)"
    return [f"{text}: {listing(parts, 8)}."]


def optimism_sentences(scored: pl.DataFrame) -> list[str]:
    """How much a best epoch on the scored images promises too much."""
    done = scored.filter(pl.col("epochs_to_99").is_not_null())
    if not done.height:
        return []
    gap = float((done["best"] - done["top1"]).mean())  # type: ignore[arg-type]
    return [
        f"The best epoch, which the paper reports, is {_points(gap)} above the last on average. It is chosen on the "
        "images that it is scored on, so it flatters; all other accuracies are the last epoch's."
    ]


def deeper(frame: pl.DataFrame | None, max_drop: float) -> list[str]:
    """How many blocks can go before the network fails."""
    if frame is None or not frame["top1"].is_not_null().any():
        return []
    scored = frame.filter(pl.col("top1").is_not_null())
    last, way = scored.row(-1, named=True), f"{scored['training'][0]}-{scored['start'][0]}"
    left = f"{last['share']:.1%} of the parameters left"
    drop = f"{100 * last['drop']:.2f} points lost{_interval(last['drop_low'], last['drop_high'], '')}"
    if last["drop_low"] is not None and last["drop_low"] <= max_drop / 100 < last["drop_high"]:
        drop += f", which cannot be told from {max_drop:g}"
    if 100 * last["drop"] > max_drop:
        within_limit = scored.filter(pl.col("drop") <= max_drop / 100)
        until = (
            f"{within_limit['compressed'].to_list()[-1]} at once are borne"
            if within_limit.height
            else "not even one is borne"
        )
        return [
            f"Compressed one after the other ({way}), the network fails (more than {max_drop:g} points lost) at "
            f"{plural(last['compressed'], 'block')}: {drop}, {left}; {until}."
        ]
    return [
        f"Compressed one after the other ({way}), the network does not fail ({max_drop:g} points) with all "
        f"{plural(last['compressed'], 'block')} one layer each: {drop}, {left}."
    ]


def failure_sentences(cells: pl.DataFrame, baselines: pl.DataFrame) -> list[str]:
    """What failed, and why."""
    sentences = []
    for noun, frame in (("baseline", baselines), ("compressed network", cells)):
        failed = frame.filter(pl.col("status") != "done")
        if failed.height:
            reason = failed["reason"][0] or "no reason is known"
            sentences.append(f"{failed.height} of {plural(frame.height, noun)} failed, the first because: {reason}")
    return sentences


def skipped_sentences(left: Sequence[str]) -> list[str]:
    """Blocks that no one layer can stand in for."""
    if not left:
        return []
    return [f"No one layer can stand in for {listing(list(left))}; the table of blocks says why."]


def _above(cells: pl.DataFrame, column: str, baselines: pl.DataFrame) -> int:
    base = dict(zip(baselines["seed"].to_list(), baselines["top1"].to_list(), strict=True))
    return sum(value > base[seed] for seed, value in cells.select("seed", column).iter_rows())


def _interval(low: float | None, high: float | None, how: str) -> str:
    if low is None or high is None:
        return ""
    return f" (95 % interval {100 * low:.2f} to {100 * high:.2f}{', ' if how else ''}{how})"


def _verdict(low: float | None, high: float | None, more: str, less: str, neither: str) -> str:
    if low is None or high is None:
        return ""
    return f", {more if low > 0 else less if high < 0 else neither}"


def _points(share: float | None) -> str:
    return "an unknown number of points" if share is None else points(share)


def _blocks(count: int) -> str:
    return plural(count, "block")


def _p(value: float) -> str:
    return "below 0.001" if value < 0.001 else f"{value:.3f}"
