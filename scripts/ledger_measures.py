"""From the tables of a case to one figure with its interval: what the claims of the ledger are held against."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from scipy import stats

Tables = Mapping[str, pl.DataFrame]


@dataclass(frozen=True)
class Evidence:
    """A figure with its 95 % interval; `samples` of kind `noun` stand behind the interval, 0 where nothing is drawn."""

    figure: float
    low: float
    high: float
    samples: int = 0
    noun: str = "images"
    unit: str = ""

    @property
    def text(self) -> str:
        """`0.53 points (-0.66 to 1.93)`; the figure alone where it is certain."""
        figure, low, high = (number(value, self.unit) for value in (self.figure, self.low, self.high))
        bare = (end.removesuffix(f" {self.unit}") for end in (low, high))
        return figure if self.low == self.high else f"{figure} ({' to '.join(bare)})"


Measure = Callable[[Tables], Evidence | None]
"""From the tables of a study to a figure; None where they cannot tell."""


def number(value: float, unit: str) -> str:
    if unit in ("%", "points"):
        digits = 1 if unit == "%" else 2
        return f"{100 * value:.{digits}f} {unit}"
    return f"{value:.3g}"


# From columns to evidence


def fact(value: float, unit: str = "") -> Evidence:
    """A figure that no sample could change."""
    return Evidence(float(value), float(value), float(value), unit=unit)


def over(values: object, noun: str, unit: str = "") -> Evidence | None:
    """The mean with Student's interval over `values`; none below three."""
    kept = np.asarray([v for v in values if v is not None and math.isfinite(v)], float)  # type: ignore[attr-defined]
    if len(kept) < 3:
        return None
    reach = float(stats.t.ppf(0.975, len(kept) - 1) * kept.std(ddof=1) / math.sqrt(len(kept)))
    return Evidence(float(kept.mean()), float(kept.mean()) - reach, float(kept.mean()) + reach, len(kept), noun, unit)


def share(count: int, total: int, noun: str) -> Evidence | None:
    """`count` of `total` with Wilson's interval."""
    if not total:
        return None
    low, high = stats.binomtest(count, total).proportion_ci(0.95, method="wilson")
    return Evidence(count / total, float(low), float(high), total, noun, "%")


def trend(values: object, noun: str = "layers") -> Evidence | None:
    """Rank correlation of `values` with their order, and the interval of Bonett and Wright (2000); none below five."""
    kept = [v for v in values if v is not None and math.isfinite(v)]  # type: ignore[attr-defined]
    if len(kept) < 5:
        return None
    rho = float(stats.spearmanr(range(len(kept)), kept).statistic)
    rho = min(max(rho, -0.999), 0.999)
    reach = 1.96 * math.sqrt((1 + rho**2 / 2) / (len(kept) - 3))
    low, high = (math.tanh(math.atanh(rho) + way * reach) for way in (-1, 1))
    return Evidence(rho, low, high, len(kept), noun)


def drop(table: str, setting: str, value: object, layer: str = "all") -> Measure:
    """The loss with `setting` at `value`; its interval spans those over samples and over draws."""

    def measure(tables: Tables) -> Evidence | None:
        rows = tables[table].filter((pl.col("layer") == layer) & _equals(setting, value))
        if "weighting" in rows.columns:
            rows = rows.filter(pl.col("weighting") == "none")  # the paper's distance
        if rows.is_empty():
            return None
        row = rows.row(0, named=True)
        ends = [
            row[name]
            for name in ("drop_low", "drop_high", "drop_draws_low", "drop_draws_high")
            if row.get(name) is not None
        ]
        return Evidence(row["drop"], min(ends), max(ends), int(row["images"]), unit="points")

    return measure


def _equals(column: str, value: object) -> pl.Expr:
    return (pl.col(column) - value).abs() < 1e-9 if isinstance(value, float) else pl.col(column) == value


# Autopsy


def kind_share(kind: str) -> Measure:
    def measure(tables: Tables) -> Evidence | None:
        kinds = dict(tables["kinds"].select("kind", "share").iter_rows())
        return fact(kinds[kind], "%") if {"conv", "linear"} <= set(kinds) else None

    return measure


def centre(tables: Tables) -> Evidence | None:
    rows = tables["moments"].filter((pl.col("part") == "weights") & pl.col("layer").str.starts_with("all "))
    return None if rows.is_empty() else fact(max(abs(m / s) for m, s in rows.select("mean", "std").iter_rows()))


def narrower(tables: Tables) -> Evidence | None:
    rows = tables["moments"].filter(pl.col("part") == "weights")
    std = dict(rows.select("layer", "std").iter_rows())
    return fact(std["all linear"] / std["all conv"]) if {"all conv", "all linear"} <= set(std) else None


def best(kind: str, family: str) -> Measure:
    def measure(tables: Tables) -> Evidence | None:
        rows = tables["fits"].filter((pl.col("layer") == f"all {kind}") & (pl.col("part") == "weights"))
        return None if rows.is_empty() else fact(rows.filter(pl.col("fit") == family)["best"].any())

    return measure


def skewness(tables: Tables) -> Evidence | None:
    layers = tables["moments"].filter((pl.col("part") == "weights") & ~pl.col("layer").str.starts_with("all "))
    return trend(layers["skewness"].abs())


def variety(what: Literal["first", "trend"]) -> Measure:
    """Of the shares of components that hold 90 % of the variance, the first layer's or the trend over convolutions."""

    def measure(tables: Tables) -> Evidence | None:
        shares = tables["components"]["share_90"]
        return fact(shares[0], "%") if what == "first" else trend(shares)

    return measure


def late_zeros(tables: Tables) -> Evidence | None:
    rows = tables["layers"].filter(pl.col("rectifies"))
    return None if rows.is_empty() else fact(rows["sparsity"][-1], "%")


def least_zeros(tables: Tables) -> Evidence | None:
    rows = tables["layers"].filter(pl.col("rectifies"))
    return None if rows.is_empty() else fact(rows["sparsity"].min(), "%")  # type: ignore[arg-type]


def noise_line(tables: Tables) -> Evidence | None:
    rows = (
        tables["summary"]
        .filter((pl.col("layer") == "all") & pl.col("strength").is_between(0.199, 0.601))
        .sort("strength")
    )
    if rows.height < 4:
        return None
    return fact(float(stats.pearsonr(rows["strength"], rows["drop"]).statistic) ** 2)


def noise_slope(tables: Tables) -> Evidence | None:
    by = {
        round(s, 3): (d, low, high, n)
        for s, d, low, high, n in tables["summary"]
        .filter(pl.col("layer") == "all")
        .select("strength", "drop", "drop_low", "drop_high", "images")
        .iter_rows()
    }
    if not {0.2, 0.6} <= set(by):
        return None
    (first, low, high, images), (last, last_low, last_high, _) = by[0.2], by[0.6]
    return Evidence(last - first, last_low - high, last_high - low, int(images), unit="points")


# Triage


def _cells(tables: Tables) -> pl.DataFrame:
    return tables["cells"].filter(pl.col("status") == "done")


def paired(column: str, one: tuple[str, str], other: tuple[str, str], unit: str = "") -> Measure:
    """`column` of the cells of `one` (start, training) less that of `other`, by block; an empty word means all."""

    def values(cells: pl.DataFrame, start: str, training: str) -> pl.DataFrame:
        part = cells.filter(
            (pl.lit(not start) | (pl.col("start") == start)) & (pl.lit(not training) | (pl.col("training") == training))
        )
        return part.group_by("block").agg(pl.col(column).mean())

    def measure(tables: Tables) -> Evidence | None:
        cells = _cells(tables)
        pairs = values(cells, *one).join(values(cells, *other), on="block", suffix="_other").drop_nulls()
        differences = pairs[column] - pairs[f"{column}_other"]
        return over(differences, "blocks", unit) if differences.n_unique() > 1 else None  # of too short a training

    return measure


def critical(tables: Tables) -> Evidence | None:
    """How far the blocks lie apart, where a permutation test finds that they do; else nothing can be told."""
    rows = tables["criticality"].filter(pl.col("over") == "seeds, all ways (permutation)")
    if rows.is_empty() or rows["p"][0] > 0.05:
        return None
    return fact(rows["spread"][0], "points")


def thawed(tables: Tables) -> Evidence | None:
    rows = _cells(tables).filter(pl.col("training") == "TM").group_by("block").agg(pl.col("drop").mean())
    return over(rows["drop"], "blocks", "points")


def taught(tables: Tables) -> Evidence | None:
    rows = _cells(tables).filter(pl.col("start") == "STN").group_by("block").agg(pl.col("drop").mean())
    return over(rows["drop"], "blocks", "points")


# Probing


def rule(rule: str, less: str = "") -> Measure:
    def measure(tables: Tables) -> Evidence | None:
        rows = tables["columns"].group_by("image", "rule").agg(pl.col("edges").mean())
        one = rows.filter(pl.col("rule") == rule)
        if one.is_empty():
            return None
        if not less:
            return over(one["edges"], "images")
        both = one.join(rows.filter(pl.col("rule") == less), on="image", suffix="_other")
        return over(both["edges"] - both["edges_other"], "images")

    return measure


def activity(what: str) -> Measure:
    def measure(tables: Tables) -> Evidence | None:
        rows = tables["layers"].filter(pl.col("rectifies"))
        if rows.height < 3:
            return None
        places = rows["at_a_place"] / rows["channels"]
        third = max(1, rows.height // 3)
        values = {
            "first": places[0],
            "fall": places[-third:].mean() - places[:third].mean(),  # type: ignore[operator]
            "regions": rows["cumulative_unique_share"][-1],
        }
        return fact(float(values[what]), "%")  # type: ignore[arg-type]

    return measure


def contributing(tables: Tables) -> Evidence | None:
    tree = tables["tree"]
    return fact(tree["contributing"].sum() / tree["in_tree"].sum(), "%")


def alike(tables: Tables) -> Evidence | None:
    runs = tables["runs"]
    if "way" in runs.columns:
        runs = runs.filter(pl.col("way") == "plain") if (runs["way"] == "plain").any() else runs
    return over(runs.group_by("unit").agg(pl.col("similarity").mean())["similarity"], "units")


def facets(tables: Tables) -> Evidence | None:
    counts = tables["facets"].group_by("unit").len()
    return share(int((counts["len"] > 1).sum()), counts.height, "units")


def formula(tables: Tables) -> Evidence | None:
    rows = tables["formulas"]
    return over(rows["f1"] - rows["single_f1"], "units")


def masks_lead(tables: Tables) -> Evidence | None:
    if "exchange_leads" not in tables:
        return None
    rows = tables["exchange_leads"].filter(pl.col("measure") == "likeness")
    if rows.is_empty():
        return None
    last = rows.filter(pl.col("layer") == rows["layer"][-1])
    row = last.sort("mean").row(0, named=True)
    low, high = min(row["images_low"], row["draws_low"]), max(row["images_high"], row["draws_high"])
    return Evidence(row["mean"], low, high, int(row["images"]))


# Stress


def kept(stress: str, column: str, value: float, less: str = "") -> Measure:
    """The share of the unstressed score that is kept; over draws where there are some, by their spread."""

    def one(tables: Tables, name: str) -> dict[str, float] | None:
        bag = name == "bag of words"
        rows = tables["scores"].filter(
            (pl.col("stress") == (stress if bag else name)) & ((pl.col("node") == "bag of words") == bag)
        )
        near = (pl.col(column) - value).abs() < 0.005 if column == "share" else pl.col(column) == value
        rows = rows.filter(near)
        return None if rows.is_empty() else rows.row(0, named=True)

    def measure(tables: Tables) -> Evidence | None:
        row = one(tables, stress)
        other = one(tables, less) if less else None
        if row is None or (less and other is None):
            return None
        # the interval of an accuracy of this size on so many images; the same images make the true one narrower
        score, images = min(row["score"], 0.999), row["images"]
        reach = 1.96 * math.sqrt(score * (1 - score) / images) / max(score / row["relative"], 1e-9)
        figure = row["relative"] - (other["relative"] if other else 0.0)
        return Evidence(figure, figure - reach, figure + reach, int(images), unit="%")

    return measure


def grid(tables: Tables) -> Evidence | None:
    rows = tables["scores"].filter((pl.col("stress") == "fc") & (pl.col("compression") >= 0.984))
    if rows.is_empty():
        return None
    row = rows.sort("relative", descending=True).row(0, named=True)
    score = min(row["score"], 0.999)
    reach = 1.96 * math.sqrt(score * (1 - score) / row["images"]) / max(score / row["relative"], 1e-9)
    return Evidence(row["relative"], row["relative"] - reach, row["relative"] + reach, int(row["images"]), unit="%")


# Interpreting


def _between(tables: Tables) -> pl.DataFrame:
    return tables["layers"].filter(pl.col("of") == "networks")


def first_layer(column: str) -> Measure:
    def measure(tables: Tables) -> Evidence | None:
        units = tables["units"].filter((pl.col("layer_a") == tables["units"]["layer_a"][0]) & ~pl.col("dead"))
        return over(units[column], "units")

    return measure


def falls(tables: Tables) -> Evidence | None:
    return trend(_between(tables)["bipartite"])


def left(which: int) -> Measure:
    def measure(tables: Tables) -> Evidence | None:
        rows = _between(tables)
        return None if rows.height < 3 else fact(rows["least_squares"][which])

    return measure


def sparse_regression(tables: Tables) -> Evidence | None:
    rows = tables["regression"].filter(
        (pl.col("of") == "networks") & (pl.col("layer_a") == tables["regression"]["layer_a"][0])
    )
    full = rows.filter(pl.col("strength") == 0)
    if full.is_empty():
        return None
    few = rows.filter(pl.col("used") <= full["used"][0] / 2).sort("used", descending=True)
    return None if few.is_empty() else fact(few["error"][0] - full["error"][0])


def stage(column: str, one: str, other: str, how: Literal["ratio", "difference"]) -> Measure:
    def measure(tables: Tables) -> Evidence | None:
        rows = {row["stage"]: row for row in tables["stages"].iter_rows(named=True)}
        if not {one, other} <= set(rows):
            return None
        if how == "ratio":
            return fact(rows[one][column] / rows[other][column])
        row = rows[other]
        return Evidence(row["drop"], row["drop_low"], row["drop_high"], int(row["images"]), unit="points")

    return measure


def gain(what: str) -> Measure:
    def measure(tables: Tables) -> Evidence | None:
        rows = {row["what"]: row for row in tables["summary"].iter_rows(named=True)}
        for name, row in rows.items():
            if what in name:
                return Evidence(row["top1"], row["low"], row["high"], int(row["seeds"]), "seeds", "points")
        return None

    return measure
