"""The tables of the study `correspondence`."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from netopsy.stats.hypothesis_tests import mean_interval
from netopsy.stats.matching import NOBODY, agreement
from netopsy.studies.correspondence.comoments.mutual_information import gaussian_information
from netopsy.studies.correspondence.counting import NETWORKS, UNTRAINED, Comparison, LayerComparison, Names, grid_text

_PARTNERS = {"best_partner": pl.Int64, "partner": pl.Int64}
_UNITS: dict[str, Any] = {
    "layer_a": pl.String,
    "layer_b": pl.String,
    "channel": pl.Int64,
    "best_partner": pl.Int64,
    "best_correlation": pl.Float64,
    "partner": pl.Int64,
    "correlation": pl.Float64,
    "within": pl.Float64,
    "error": pl.Float64,
    "information": pl.Float64,
    "gaussian": pl.Float64,
    "cluster": pl.Int64,
    "dead": pl.Boolean,
}
_DRAWN = ("semi", "semi_matched", "bipartite", "least_squares", "cka", "svcca", "pwcca", "procrustes")
_SPREAD = ("semi", "bipartite", "cka")
_CHOSEN = {"layer_a": pl.String, "layer_b": pl.String, "channel": pl.Int64, "choices": pl.Int64, "dead": pl.Boolean}


def tables(comparison: Comparison) -> dict[str, pl.DataFrame]:
    """`layers`, `regression`, `units`, `chosen`, `clusters`, and `map` where it was counted."""
    rows = pl.DataFrame(
        [_layer(n, c, comparison) for n, comparisons in comparison.compared.items() for c in comparisons],
        infer_schema_length=None,
    )
    regression = pl.concat(
        [_regression(n, c, comparison) for n, comparisons in comparison.compared.items() for c in comparisons]
    )
    frames = {
        "layers": _average(rows, "layer_a", "layer_b", "of").with_columns(
            **{f"{name}_std": _spread(rows, name) for name in _SPREAD},
            **{
                f"{name}_draws_{end}": _interval(rows, name, at)
                for name in _SPREAD
                for at, end in enumerate(("low", "high"))
            },
        ),
        "draws": rows.filter(pl.col("of") == UNTRAINED).select("layer_a", "layer_b", "draw", *_DRAWN),
        "regression": _average(regression, "layer_a", "layer_b", "of", "decay"),
        "units": pl.concat(
            [_units(names, comparisons[0], comparison) for names, comparisons in comparison.compared.items()]
        ),
        "chosen": pl.concat(
            [_chosen_table(names, comparisons[0]) for names, comparisons in comparison.compared.items()]
        ),
        "clusters": pl.concat([_clusters(names, comparison) for names in comparison.compared]),
    }
    if comparison.map is not None:
        frames["map"] = comparison.map
    return frames


def _average(frame: pl.DataFrame, *keys: str) -> pl.DataFrame:
    """One row for all draws of a control: the means of what was measured, the counts of the first draw."""
    measures = [pl.col(name).mean() for name in frame.columns if frame[name].dtype.is_float() and name not in keys]
    counts = [pl.col(name).first() for name in frame.columns if not frame[name].dtype.is_float() and name not in keys]
    draws = [pl.len().alias("draws")] if "draw" in frame.columns else []
    grouped = frame.group_by(*keys, maintain_order=True).agg(*measures, *counts, *draws)
    return grouped.select(*(name for name in frame.columns if name != "draw"), *(["draws"] if draws else []))


def _spread(rows: pl.DataFrame, name: str) -> pl.Series:
    """Standard deviation over the draws of each row of `layers`; null of one draw."""
    return rows.group_by("layer_a", "layer_b", "of", maintain_order=True).agg(pl.col(name).std())[name]


def _interval(rows: pl.DataFrame, name: str, at: int) -> pl.Series:
    """One end of the 95 % interval over the draws of each row of `layers`; null of fewer than three."""
    limits = (0.0 if name == "cka" else -1.0, 1.0)
    draws = rows.group_by("layer_a", "layer_b", "of", maintain_order=True).agg(pl.col(name))[name].to_list()
    return pl.Series([mean_interval(values, limits)[at] for values in draws], dtype=pl.Float64)


def _layer(names: Names, c: LayerComparison, comparison: Comparison) -> dict[str, Any]:
    """One pair of layers.

    places_a, places_b: of each unit, 1 where it has one value an image; grid: those that were compared.
    semi, bipartite: mean correlation of a unit with its partner, over all live units of A and over those with a
    one-to-one partner; semi_matched: with the best partner, over the units of `bipartite` alone, so never below it;
    same_partner: share of the units for which both
    agree; within: mean of each unit's highest correlation with another unit of its own layer; least_squares: mean
    squared error of the units of A from all of B, each of variance 1; used: units of B in it; information: mutual
    information of the best partners in nats, information_share: of the smaller entropy. Of the untrained control all
    are means over the draws, `semi_std`, `bipartite_std`, `cka_std` their spread, and `semi_draws_low`, ... the 95 %
    interval of the mean over draws.
    """
    pair, information = c.pair, c.information
    return {
        "layer_a": names[0],
        "layer_b": names[1],
        "of": c.of,
        "draw": c.draw,
        "units_a": len(pair.mean_a),
        "units_b": len(pair.mean_b),
        "dead_a": int(pair.dead_a.sum()),
        "dead_b": int(pair.dead_b.sum()),
        "places_a": comparison.places[0][names[0]],
        "places_b": comparison.places[1][names[1]],
        "grid": grid_text(pair.grid),
        "rows": pair.n,
        "semi": c.semi.mean,
        "semi_matched": _mean(c.semi.correlation[c.bipartite.matched]) or 0.0,
        "bipartite": c.bipartite.mean,
        "same_partner": agreement(c.semi, c.bipartite),
        "within": _mean(_within(c)[~pair.dead_a]) if c.of == NETWORKS else None,
        "least_squares": c.least.mean,
        "used": c.least.used,
        "cka": c.cka,
        "svcca": c.svcca,
        "pwcca": c.pwcca,
        "procrustes": c.procrustes,
        "information": None if information is None else _mean(information.information),
        "information_share": None if information is None else _mean(information.share),
    }


def _regression(names: Names, c: LayerComparison, comparison: Comparison) -> pl.DataFrame:
    """One row a decay; `decay` null is least squares.

    error: mean squared, of units of variance 1: 1 where nothing is predicted. half_error: half of it, the loss that the
    authors' code prints: 0.5 where nothing is predicted. gap: the widest.
    """
    errors = [c.least.mean, *c.lasso.mean_error]
    count = len(comparison.decays)
    return pl.DataFrame(
        {
            "layer_a": [names[0]] * (count + 1),
            "layer_b": [names[1]] * (count + 1),
            "of": [c.of] * (count + 1),
            "decay": [None, *comparison.decays],
            "strength": [0.0, *c.lasso.strengths],
            "error": errors,
            "half_error": [error / 2 for error in errors],
            "used": [float(c.least.used), *c.lasso.mean_used],
            "gap": [0.0, *c.lasso.gaps.max(1, initial=0.0)],
        },
        schema_overrides={"decay": pl.Float64},
    )


def _units(names: Names, c: LayerComparison, comparison: Comparison) -> pl.DataFrame:
    """Every unit of A: its partners, and how well the units of B together predict it."""
    p = len(c.pair.mean_a)
    dead = c.pair.dead_a
    information = np.full(p, np.nan)
    if c.information is not None:
        information[c.semi.matched] = c.information.information
    columns = {
        "layer_a": [names[0]] * p,
        "layer_b": [names[1]] * p,
        "channel": np.arange(p),
        "best_partner": c.semi.partner,
        "best_correlation": c.semi.correlation,
        "partner": c.bipartite.partner,
        "correlation": c.bipartite.correlation,
        "within": _within(c),
        "error": c.least.errors,
        "information": information,
        "gaussian": gaussian_information(c.semi.correlation),
        "cluster": comparison.clusters[names].labels_a,
        "dead": dead,
    }
    frame = pl.DataFrame(columns, schema=_UNITS).with_columns(pl.col("information").fill_nan(None))
    alone = [pl.when(pl.col(n) == NOBODY).then(None).otherwise(pl.col(n)).alias(n) for n in (*_PARTNERS, "cluster")]
    unmatched = {"best_correlation": "best_partner", "gaussian": "best_partner", "correlation": "partner"}
    frame = frame.with_columns(
        pl.when(pl.col(partner) == NOBODY).then(None).otherwise(pl.col(value)).alias(value)
        for value, partner in unmatched.items()
    )
    return frame.with_columns(alone)


def _chosen_table(names: Names, c: LayerComparison) -> pl.DataFrame:
    """Every unit of B: how many units of A have it as their best partner."""
    q = len(c.pair.mean_b)
    columns = {
        "layer_a": [names[0]] * q,
        "layer_b": [names[1]] * q,
        "channel": np.arange(q),
        "choices": c.semi.choices,
        "dead": c.pair.dead_b,
    }
    return pl.DataFrame(columns, schema=_CHOSEN)


def _clusters(names: Names, comparison: Comparison) -> pl.DataFrame:
    groups = comparison.clusters[names]
    return pl.DataFrame(
        {
            "layer_a": [names[0]] * groups.count,
            "layer_b": [names[1]] * groups.count,
            "cluster": np.arange(groups.count),
            "units_a": groups.sizes_a,
            "units_b": groups.sizes_b,
            "within": groups.within,
            "outside": groups.outside,
            "explained_a": groups.explained_a,
            "explained_b": groups.explained_b,
        }
    )


def _within(c: LayerComparison) -> np.ndarray:
    """Each unit's highest correlation with another unit of its own layer; 0 where there is no other."""
    correlation = c.pair.correlation_aa.copy()
    np.fill_diagonal(correlation, -np.inf)
    correlation[:, c.pair.dead_a] = -np.inf
    best = correlation.max(1)
    return np.where(np.isfinite(best) & ~c.pair.dead_a, best, 0.0)


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
