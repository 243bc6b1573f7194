"""The sentences of the study `triage`: what the paper claims, tested on what was run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from netopsy.result import Finding
from netopsy.stats.hypothesis_tests import mean_interval
from netopsy.studies.draws import half_width
from netopsy.studies.triage.design import IMAGES, SCORES, SEEDS, TOGETHER
from netopsy.studies.triage.figures import convergence
from netopsy.wording import alike, chance, hundredths, listing, percent, plural, points


def findings(
    tables: Mapping[str, pl.DataFrame], left: Sequence[str], *, max_drop: float, stn_epochs: int
) -> list[Finding]:
    """Plain sentences, the most important first. left: blocks that no one layer can stand in for."""
    cells = tables["cells"]
    scored = cells.filter(pl.col("top1").is_not_null())
    sentences: list[Finding] = []
    if scored.height:
        sentences += [
            *critical(tables["criticality"]),
            cost(tables["summary"], tables["blocks"]),
            *above(scored, tables["baselines"]),
            *frozen(scored),
            *taught(scored),
            *deeper(tables.get("deeper"), max_drop),
            *speed(cells, tables["history"], stn_epochs),
            *likeness(scored),
            *optimism_sentences(scored),
        ]
    return [*sentences, *failure_sentences(cells, tables["baselines"]), *skipped_sentences(left)]


def difference(a: pl.DataFrame, b: pl.DataFrame, on: Sequence[str]) -> dict[str, float]:
    """By block, a's accuracy less b's, paired by `on`."""
    pairs = a.join(b, on=list(on), suffix="_other").with_columns(gain=pl.col("top1") - pl.col("top1_other"))
    return dict(pairs.group_by("block", maintain_order=True).agg(pl.col("gain").mean()).iter_rows())


def over_each(values: Mapping[str, float], scored: pl.DataFrame) -> tuple[float | None, float | None, str]:
    """(low, high) of a mean of differences in points over blocks or seeds, and the words for it.

    Of fewer than three there is no interval: the words are the values themselves, each with its name.
    """
    least = 0.0 if float(scored["top1"].min()) >= 0 else -math.inf  # type: ignore[arg-type]
    low, high = mean_interval(list(values.values()), (least - 1, 1 - least))
    if low is not None and high is not None:
        return low, high, _interval(low, high, f"over {plural(len(values), 'block')}")
    each = [f"{name} {hundredths(100 * value)}" for name, value in values.items()]
    return None, None, f" ({', '.join(each)})" if len(each) > 1 else ""


def frozen(scored: pl.DataFrame) -> list[Finding]:
    """Do FM models fall short of TM ones?"""
    alone, together = (scored.filter(pl.col("training") == way) for way in ("FM", "TM"))
    gains = difference(together, alone, ("block", "start", "seed"))
    if not gains:
        return []
    gain = sum(gains.values()) / len(gains)
    low, high, within = over_each(gains, scored)
    if low is not None and high is not None and low <= 0 <= high:
        text = "Training all layers (TM) gains nothing measurable over training the new layer alone (FM): "
        text += f"{points(gain)}{within}."
    else:
        side = "above" if gain >= 0 else "below"
        text = f"Training all layers (TM) ends {points(abs(gain))} {side} training the new layer alone (FM){within}."
    return [Finding(text, _weight(gain, low, high))]


def above(scored: pl.DataFrame, baselines: pl.DataFrame) -> list[Finding]:
    """Does TM beat the baseline, and would training on alone have done so?"""
    tm_rows = scored.filter(pl.col("training") == "TM")
    if not tm_rows.height:
        return []
    over, best = tm_rows.filter(pl.col("drop_high") < 0).height, _above(tm_rows, "best", baselines)
    means = dict(tm_rows.group_by("block", maintain_order=True).agg(-pl.col("drop").mean()).iter_rows())
    gain = sum(means.values()) / len(means)
    low, high, within = over_each(means, scored)
    text = (
        f"Compressed networks with all layers trained (TM) end {points(abs(gain))} {'above' if gain > 0 else 'below'} "
        f"the baseline on average{within}. Of {tm_rows.height}, "
        f"{_above(tm_rows, 'top1', baselines)} end above it, {over or 'none'} of them measurably; by their best "
        f"epoch, {best} do."
    )
    found = [Finding(text, _weight(gain, low, high))]
    further = baselines.filter(pl.col("gain").is_not_null())
    if not further.height:
        return found
    control = float(further["gain"].mean())  # type: ignore[arg-type]
    low, high = (float(further[name].mean()) for name in ("gain_low", "gain_high"))  # type: ignore[arg-type]
    within = _interval(low, high, "over images")
    seeds_low, seeds_high = mean_interval(further["gain"].to_list(), (-1.0, 1.0))
    if seeds_low is not None and seeds_high is not None:
        over_seeds = f"{hundredths(100 * seeds_low)} to {hundredths(100 * seeds_high)}"
        within = f"{within[:-1]}, {over_seeds} over {plural(further.height, 'seed')})"
        low, high = min(low, seeds_low), max(high, seeds_high)
    text = (
        f"Trained on for as many epochs, the uncompressed network changes by {points(control)}"
        f"{within}; the TM networks end {points(abs(gain - control))} "
        f"{'above' if gain > control else 'below'} it."
    )
    return [*found, Finding(text, _weight(control, low, high))]


def taught(scored: pl.DataFrame) -> list[Finding]:
    """Does STN keep to the teacher's accuracy?"""
    stn_rows = scored.filter(pl.col("start") == "STN")
    if not stn_rows.height:
        return []
    ways, weights = [], []
    for way in ("FM", "TM"):
        if (part := stn_rows.filter(pl.col("training") == way)).height:
            drop = float(part["drop"].mean())  # type: ignore[arg-type]
            ways.append(f"{points(abs(drop))} {'below' if drop > 0 else 'above'} it with {way}")
            weights.append(max(_weight(row["drop"], row["drop_low"], row["drop_high"]) for row in part.to_dicts()))
    higher = stn_rows.filter(pl.col("drop") < 0).height
    sure = stn_rows.filter(pl.col("drop_high") < 0).height
    text = (
        f"Networks taught by their parent (STN) end {listing(ways)} on average; {higher} of {stn_rows.height} end "
        f"above it, {sure or 'none'} of them measurably."
    )
    return [Finding(text, max(weights, default=0.5))]


def critical(tests: pl.DataFrame) -> list[Finding]:
    """Is no block more critical than another?"""
    sentences = []
    for row in tests.filter(pl.col("over") == TOGETHER).iter_rows(named=True):
        blind = " With so few seeds and blocks no p below 0.05 was possible." if row["least_p"] > 0.05 else ""
        test = f"permutation test over {plural(row['count'], 'seed')}, {chance(row['p'])}"
        if row["p"] < 0.05:
            text = (
                f"Some block is more critical than another: over all ways of training the mean accuracy differs by "
                f"{_points(row['spread'])}, from {row['least_critical']} (least critical) to {row['most_critical']} "
                f"({test}).{blind}"
            )
        else:
            text = (
                f"No block is measurably more critical than another: over all ways of training the mean accuracies lie "
                f"within {_points(row['spread'])} ({test}).{blind}"
            )
        sentences.append(Finding(text, _spread_weight(row, row["p"])))
    seeds = tests.filter(pl.col("over") == SEEDS)
    if seeds.height:
        hit = seeds.filter(pl.col("p_holm") < 0.05)
        widest = seeds.sort("spread", descending=True, maintain_order=True).row(0, named=True)
        least = float(seeds["least_p"].max()) * seeds.height  # type: ignore[arg-type]
        blind = " With so few seeds and blocks no p could have come below 0.05." if least > 0.05 else ""
        text = (
            f"The accuracy depends measurably on the block in {hit.height} of {plural(seeds.height, 'way')} of "
            f"training (permutation test over {plural(seeds['count'][0], 'seed')}, p < 0.05 after Holm). The widest "
            f"spread is {_points(widest['spread'])} with {widest['training']}-{widest['start']}, from "
            f"{widest['least_critical']} to {widest['most_critical']} ({chance(widest['p_holm'])}; "
            f"{_points(widest['detectable'])} would be seen in 4 of 5 cases).{blind}"
        )
        sentences.append(Finding(text, _spread_weight(widest, widest["p_holm"])))
    images = tests.filter(pl.col("over").is_in([IMAGES, SCORES]))
    if images.height:
        hit = images.filter(pl.col("p_holm") < 0.05)
        widest = images.sort("spread", descending=True, maintain_order=True).row(0, named=True)
        test = images["over"][0].partition("(")[2][:-1]
        low, high = (_points(value) for value in (float(images["spread"].min()), widest["spread"]))  # type: ignore[arg-type]
        within = f"by {high}" if low == high else f"by {low.removesuffix(' points')} to {high}"
        text = (
            f"On the same {plural(widest['count'], 'image')} the networks of different blocks differ measurably in "
            f"{hit.height} of {plural(images.height, 'comparison')}, {within} ({test}, p < 0.05 after Holm; "
            f"{_points(float(images['detectable'].mean()))} would be seen in 4 of 5 cases)."  # type: ignore[arg-type]
            f"{'' if seeds.height else ' One seed cannot tell a critical block from an unlucky training: give more.'}"
        )
        sentences.append(Finding(text, _spread_weight(widest, widest["p_holm"]) if seeds.is_empty() else 0.5))
    return sentences


def _spread_weight(row: dict[str, Any], p: float) -> float:
    """Of a spread over the blocks: over what the test would find, below 1 where it found none."""
    reach = row["spread"] / row["detectable"] if row["detectable"] else 0.0
    return min(5.0, max(1.0, reach)) if p < 0.05 else min(0.99, reach)


def cost(summary: pl.DataFrame, blocks: pl.DataFrame) -> Finding:
    """Which block costs least and most, and what it saves, in the best way of training it."""
    best = summary.sort("top1", descending=True, maintain_order=True).unique("block", keep="first", maintain_order=True)
    best = best.sort("drop", maintain_order=True)
    saved = dict(zip(blocks["block"].to_list(), blocks["saved"].to_list(), strict=True))

    def one(row: dict[str, Any], verb: str = "") -> str:
        share = saved.get(row["block"])
        change = f"{points(abs(row['drop']))} {'lost' if row['drop'] > 0 else 'gained'}"
        change = "nothing lost" if points(row["drop"]) == points(0.0) else change
        saves = "" if share is None else f", saving {percent(share)} of the parameters"
        return f"{row['block']}{verb} ({change} with {row['training']}-{row['start']}{saves})"

    low, high = best.row(0, named=True), best.row(-1, named=True)
    weight = _weight(high["drop"], *_widest(high))
    if best.height == 1:
        return Finding(f"Compressed to one layer and trained in its best way: {one(low)}.", weight)
    drops = best["drop"].to_list()
    if points(drops[0]) == points(drops[-1]):
        text = f"{_every(best.height)} cost alike, each trained in its best way: {points(drops[0])}."
        return Finding(text, weight)
    names = best["block"].to_list()
    least, most = (alike(names, values) for values in ([-d for d in drops], drops))
    texts = [
        one(row, f" costs {how}") if len(tie) == 1 else f"{listing(tie)} cost {how} ({points(row['drop'])} lost)"
        for tie, row, how in ((least, low, "least"), (most, high, "most"))
    ]
    return Finding(f"Each block trained in its best way, {' and '.join(texts)}.", weight)


def speed(cells: pl.DataFrame, history: pl.DataFrame, stn_epochs: int) -> list[Finding]:
    """Does STN converge faster?"""
    frame = convergence(cells, history)
    if frame["start"].n_unique() < 2:
        return []
    parts = []
    for training in ("FM", "TM"):
        rows = frame.filter(pl.col("training") == training).sort("epochs", maintain_order=True)
        if rows.height:
            parts.append(
                f"{training} {listing([f'{e:.1f} ({s})' for s, e in rows.select('start', 'epochs').iter_rows()])}"
            )
    before = ""
    if "STN" in frame["start"].to_list():
        before = f" Before that, STN was taught for {plural(stn_epochs, 'epoch')}."
    text = f"Mean epochs until the accuracy is within 1 % of its best: {'; '.join(parts)}.{before}"
    return [Finding(text, 0.5)]


def likeness(scored: pl.DataFrame) -> list[Finding]:
    """Which new layers answer as their parents do."""
    correlated = scored.filter(pl.col("matched_correlation").is_not_null())
    if not correlated.height:
        return []
    means = (
        correlated.group_by("training", "start", maintain_order=True)
        .agg(pl.col("matched_correlation", "same_index_correlation").mean())
        .sort("matched_correlation", descending=True, maintain_order=True)
    )
    parts = [
        f"{r['training']}-{r['start']} {hundredths(r['matched_correlation'])} "
        f"({hundredths(r['same_index_correlation'])})"
        for r in means.iter_rows(named=True)
    ]
    text = "Correlation of the new layers' channels with their parents', matched one to one (in brackets unmatched)"
    return [Finding(f"{text}: {listing(parts, 8)}.", 0.8)]


def optimism_sentences(scored: pl.DataFrame) -> list[Finding]:
    """How much a best epoch on the scored images promises too much."""
    done = scored.filter(pl.col("epochs_to_99").is_not_null())
    if not done.height:
        return []
    gap = float((done["best"] - done["top1"]).mean())  # type: ignore[arg-type]
    text = (
        f"The best epoch is {_points(gap)} above the last on average. It is chosen on the images that score it, so it "
        "flatters; all other accuracies here are of the last epoch."
    )
    return [Finding(text, 0.5)]


def deeper(frame: pl.DataFrame | None, max_drop: float) -> list[Finding]:
    """How many blocks can go before the network fails."""
    if frame is None or not frame["top1"].is_not_null().any():
        return []
    scored = frame.filter(pl.col("top1").is_not_null())
    last, way = scored.row(-1, named=True), f"{scored['training'][0]}-{scored['start'][0]}"
    low, high = _widest(last)
    lost = f"a drop of {points(last['drop'])}{_interval(low, high, '')}"
    if low is not None and high is not None and low <= max_drop / 100 < high:
        lost += f", which cannot be told from {max_drop:g}"
    lost += f", with {percent(last['share'])} of the parameters left"
    weight = _weight(last["drop"], low, high)
    if 100 * last["drop"] <= max_drop:
        text = (
            f"{_every(last['compressed'])} can be one layer each without losing more than {max_drop:g} "
            f"points ({way}): {lost}."
        )
        return [Finding(text, weight)]
    within_limit = scored.filter(pl.col("drop") <= max_drop / 100)["compressed"].to_list()
    some = f"At most {plural(within_limit[-1], 'block')}" if within_limit else "No block"
    text = (
        f"{some} can be compressed at once without losing more than {max_drop:g} points ({way}); "
        f"{last['compressed']} cost too much: {lost}."
    )
    return [Finding(text.replace("1 cost too", "1 costs too") if last["compressed"] == 1 else text, weight)]


def failure_sentences(cells: pl.DataFrame, baselines: pl.DataFrame) -> list[Finding]:
    """What failed, and why."""
    sentences = []
    for noun, frame in (("baseline", baselines), ("compressed network", cells)):
        failed = frame.filter(pl.col("status") != "done")
        if failed.height:
            reason = str(failed["reason"][0] or "no reason is known").rstrip(".")
            text = f"{failed.height} of {plural(frame.height, noun)} failed, the first because: {reason}."
            sentences.append(Finding(text, 2.0))
    return sentences


def skipped_sentences(left: Sequence[str]) -> list[Finding]:
    """Blocks that no one layer can stand in for."""
    if not left:
        return []
    text = f"No one layer can stand in for {listing(list(left))}; the table of blocks says why."
    return [Finding(text, 0.0)]


def _above(cells: pl.DataFrame, column: str, baselines: pl.DataFrame) -> int:
    base = dict(zip(baselines["seed"].to_list(), baselines["top1"].to_list(), strict=True))
    return sum(value > base[seed] for seed, value in cells.select("seed", column).iter_rows())


def _interval(low: float | None, high: float | None, over: str) -> str:
    if low is None or high is None:
        return ""
    return f" (95 % interval {hundredths(100 * low)} to {hundredths(100 * high)}{' ' if over else ''}{over})"


def _widest(row: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """(low, high) of a drop: over samples, and where there are three seeds or more the wider of that and theirs."""
    if row["drop_low"] is None:
        return row["drop_images_low"], row["drop_images_high"]
    return min(row["drop_low"], row["drop_images_low"]), max(row["drop_high"], row["drop_images_high"])


def _weight(effect: float, low: float | None, high: float | None) -> float:
    """Over half the interval; of a single value, which has none, 0.5."""
    if low is None or high is None:
        return 0.5
    return min(5.0, abs(effect) / half_width({"drop_low": low, "drop_high": high}))


def _points(share: float | None) -> str:
    return "an unknown number of points" if share is None else points(share)


def _every(count: int) -> str:
    return {1: "The one block", 2: "Both blocks"}.get(count, f"All {count} blocks")
