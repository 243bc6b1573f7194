"""The study `triage` on several image sets together, as the paper's Figures 2 and 4 show it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from netopsy.charts import dots
from netopsy.result import Figure, Finding, Result
from netopsy.stats.hypothesis_tests import PatternTest, holm, pattern_test
from netopsy.studies.triage.design import IMAGES, SEEDS, TOGETHER
from netopsy.studies.triage.figures import SOURCE, TRAININGS, WAY, convergence, in_words, ranges
from netopsy.studies.triage.findings import difference, over_each
from netopsy.wording import alike, chance, hundredths, listing, plural, points

KEPT = ("summary", "cells", "criticality", "baselines", "deeper")


def combine(results: Mapping[str, Result]) -> Result:
    """One result over the sets in which there was something to compress."""
    compressed = {name: result for name, result in results.items() if "top1" in _columns(result)}
    sentences = [
        Finding(f"{name}: {result.findings[0]}", 0.0) for name, result in results.items() if name not in compressed
    ]
    if not compressed:
        return Result("triage", findings=[*sentences])
    tables = {
        table: pl.concat(
            [
                result.tables[table].select(pl.lit(name).alias("set"), pl.all())
                for name, result in compressed.items()
                if table in result.tables
            ],
            how="diagonal_relaxed",
        )
        for table in KEPT
        if any(table in result.tables for result in compressed.values())
    }
    tests = tables["criticality"]
    # over several sets there are more tests to be wrong in
    tables["criticality"] = pl.concat(
        [part.with_columns(p_holm=pl.Series(holm(part["p"].to_list()), dtype=pl.Float64)) for part in _kinds(tests)]
        or [tests]
    )
    found = patterns(compressed)
    if found.height:
        tables["patterns"] = found
    return Result(
        "triage",
        tables=tables,
        figures=_figures(compressed) | _pattern_figure(found),
        findings=[*_findings(compressed, tables), *own_pattern(compressed, found), *sentences],
    )


def patterns(compressed: Mapping[str, Result]) -> pl.DataFrame:
    """What each block costs each network, in the columns set, seed, block, drop (a mean over starts and trainings).

    Only blocks that every network has; empty unless each seed has a parent of its own (`network_start` random): copies
    of one network are alike whatever it was trained on.
    """
    frames = [
        result.tables["cells"]
        .group_by("seed", "block", maintain_order=True)
        .agg(pl.col("drop").mean())
        .select(pl.lit(name).alias("set"), "seed", "block", "drop")
        for name, result in compressed.items()
        if result.settings.get("network_start") == "random"
    ]
    if len(frames) < 2:
        return pl.DataFrame(schema={"set": pl.String, "seed": pl.Int64, "block": pl.String, "drop": pl.Float64})
    rows = pl.concat(frames).drop_nulls("drop")
    networks = rows.select("set", "seed").n_unique()
    everywhere = pl.len().over("block") == networks
    return rows.filter(everywhere)


def compare_patterns(rows: pl.DataFrame) -> PatternTest | None:
    """`pattern_test` of the networks of `patterns`, by data set; None with fewer than three blocks."""
    if rows["block"].n_unique() < 3:
        return None
    wide = rows.pivot("block", index=["set", "seed"], values="drop")
    return pattern_test(wide.drop("set", "seed").to_numpy(), wide["set"].to_list())


def own_pattern(compressed: Mapping[str, Result], rows: pl.DataFrame) -> list[Finding]:
    """Is the pattern of the block accuracies the data set's own? (The paper's Section 5.)"""
    test = compare_patterns(rows)
    if test is None:
        if len(compressed) < 2:
            return []
        text = (
            "Whether the blocks' pattern is the data set's own was not tested: it takes networks trained for each seed "
            "(network_start random), two seeds a set and three blocks."
        )
        return [Finding(text, 0.0)]
    span = "" if test.low is None or test.high is None else f", 95 % interval {test.low:.2f} to {test.high:.2f}"
    sure = test.p < 0.05 and test.low is not None and test.low > 0
    lead = (
        "The pattern of the blocks is the data set's own"
        if sure
        else "Whether the pattern of the blocks is the data set's own is undecided"
    )
    networks = rows.select("set", "seed").n_unique()
    text = (
        f"{lead}: what {plural(rows['block'].n_unique(), 'block')} cost ranks alike with a correlation of "
        f"{hundredths(test.within)} in two networks of one set and {hundredths(test.between)} in two of different sets "
        f"(difference {hundredths(test.difference)}{span}; permutation test over {plural(networks, 'network')}, "
        f"{chance(test.p)}).{'' if sure else ' Give more seeds.'}"
    )
    return [Finding(text, 2.0 if sure else 0.8)]


def _pattern_figure(rows: pl.DataFrame) -> dict[str, Figure]:
    if compare_patterns(rows) is None:
        return {}
    ends = rows.group_by("set", "block", maintain_order=True).agg(
        pl.col("drop").mean(), low=pl.col("drop").min(), high=pl.col("drop").max()
    )
    figure = dots(
        ends,
        "block",
        "drop",
        color="set",
        low="low",
        high="high",
        percent=True,
        category_title="block compressed",
        value_title="accuracy lost",
        color_title="image set",
        title="What each block costs on each image set",
        reading="Means over starts, trainings and seeds; lines run from the lowest to the highest seed, each with a "
        "network of its own. Sets whose marks rise and fall in another order have patterns of their own.",
        source=f"{SOURCE}, Section 5 (future work)",
    )
    return {"patterns": figure}


def _columns(result: Result) -> list[str]:
    """Of the table of cells; scores other than an accuracy are not put together."""
    return result.tables["cells"].columns if "cells" in result.tables else []


def _kinds(tests: pl.DataFrame) -> list[pl.DataFrame]:
    return [rows for kind in (TOGETHER, SEEDS, IMAGES) if (rows := tests.filter(pl.col("over") == kind)).height]


def _figures(compressed: Mapping[str, Result]) -> dict[str, Figure]:
    parts, epochs = [], []
    for name, result in compressed.items():
        tables = result.tables
        spread = ranges(tables["cells"], tables["summary"]).select("block", "way", "top1", "low", "high")
        base = pl.lit(tables["baselines"]["top1"].mean(), dtype=pl.Float64)
        line = spread.select("block").unique(maintain_order=True)
        line = line.select(
            "block", way=pl.lit("baseline"), top1=base, low=pl.lit(None, pl.Float64), high=pl.lit(None, pl.Float64)
        )
        parts.append(pl.concat([line, spread]).select(pl.lit(name).alias("set"), pl.all()))
        epochs.append(convergence(tables["cells"], tables["history"]).select(pl.lit(name).alias("set"), WAY, pl.all()))
    figures = {
        "accuracy": dots(
            pl.concat(parts),
            "block",
            "top1",
            color="way",
            low="low",
            high="high",
            facet="set",
            percent=True,
            category_title="block compressed",
            value_title="top-1 accuracy",
            color_title="training-start",
            title="Accuracy with each block compressed, on each image set",
            reading="Last epoch. FM: the new layer alone was trained, TM: all layers. Lines run from the "
            "worst to the best seed; of one seed they are 95 % intervals over images. Each panel has its own scale.",
            source=f"{SOURCE}, Figure 2",
        )
    }
    converged = pl.concat(epochs)
    for training in converged["training"].unique(maintain_order=True).to_list():
        figures[f"epochs {training}"] = dots(
            in_words(converged.filter(pl.col("training") == training)),
            "set",
            "epochs",
            color="start",
            low="low",
            high="high",
            category_title="image set",
            value_title="epochs to within 1 % of the best accuracy",
            color_title="start of the new layer",
            title=f"Epochs until the accuracy is within 1 % of its best, training {TRAININGS.get(training, training)}",
            reading="Lower is faster. Means over the blocks, with 95 % intervals by Student's t over three or more.",
            source=f"{SOURCE}, Figure 4",
        )
    return figures


def _findings(compressed: Mapping[str, Result], tables: Mapping[str, pl.DataFrame]) -> list[Finding]:
    return [
        *_critical(tables["criticality"]),
        *_frozen(compressed),
        *_against(compressed, "TM", "Networks with one block compressed and all layers trained (TM)"),
        *_against(compressed, "STN", "Networks taught by their parent (STN)"),
        *_speed(compressed),
    ]


def _critical(tests: pl.DataFrame) -> list[Finding]:
    sentences = []
    for kind, words in (
        (TOGETHER, "over the seeds, all ways of training together"),
        (SEEDS, "over the seeds"),
        (IMAGES, "on the same images"),
    ):
        rows = tests.filter(pl.col("over") == kind)
        if rows.height:
            hit = rows.filter(pl.col("p_holm") < 0.05)
            where = f" ({listing(hit['set'].unique(maintain_order=True).to_list())})" if hit.height else ""
            test = kind.partition("(")[2][:-1]
            text = (
                f"The accuracy depends measurably on the block in {hit.height} of {plural(rows.height, 'test')} {words}"
                f"{where}; the widest spread between two blocks is {points(float(rows['spread'].max()))} "  # type: ignore[arg-type]
                f"({test}, p < 0.05 after Holm over all sets)."
            )
            sentences.append(Finding(text, 1.0 + 4 * hit.height / rows.height if hit.height else 0.5))
    return sentences


def _frozen(compressed: Mapping[str, Result]) -> list[Finding]:
    parts, sure = [], False
    for name, result in compressed.items():
        scored = result.tables["cells"].filter(pl.col("top1").is_not_null())
        alone, together = (scored.filter(pl.col("training") == way) for way in ("FM", "TM"))
        gains = difference(together, alone, ("block", "start", "seed"))
        if gains:
            low, high, within = over_each(gains, scored)
            parts.append(f"{name} {hundredths(100 * sum(gains.values()) / len(gains))}{within}")
            sure |= low is not None and high is not None and (low > 0 or high < 0)
    if not parts:
        return []
    text = (
        f"Points by which training all layers (TM) ends above training the new layer alone (FM): {listing(parts, 9)}."
    )
    return [Finding(text, 1.0 if sure else 0.5)]


def _against(compressed: Mapping[str, Result], way: str, words: str) -> list[Finding]:
    parts: list[Any] = []
    for name, result in compressed.items():
        rows = result.tables["cells"].filter((pl.col("training") == way) | (pl.col("start") == way))
        rows = rows.filter(pl.col("drop").is_not_null())
        if rows.height:
            sure = rows.filter(pl.col("drop_high") < 0).height
            mean = 0.0 - 100 * float(rows["drop"].mean())  # type: ignore[arg-type]
            above = rows.filter(pl.col("drop") < 0).height
            parts.append(f"{name} {hundredths(mean)} ({above} of {rows.height} above it, {sure or 'none'} measurably)")
    if not parts:
        return []
    return [Finding(f"{words} end on average so many points from the baseline: {listing(parts, 9)}.", 1.0)]


def _speed(compressed: Mapping[str, Result]) -> list[Finding]:
    parts = []
    for name, result in compressed.items():
        epochs = convergence(result.tables["cells"], result.tables["history"]).sort("epochs", maintain_order=True)
        if epochs.height > 1:
            named = [f"{training}-{start}" for training, start in epochs.select("training", "start").iter_rows()]
            fastest = alike(named, [-value for value in epochs["epochs"].to_list()])
            parts.append(f"{name} {listing(fastest)} ({epochs['epochs'][0]:.1f} epochs)")
    return [Finding(f"First within 1 % of the best accuracy: {listing(parts, 9)}.", 0.5)] if parts else []
