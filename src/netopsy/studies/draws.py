"""What is concluded from several draws: means with an interval over samples and one over draws, kept apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from netopsy.stats.hypothesis_tests import mean_interval

Row = Mapping[str, Any]


def over_draws(scores: pl.DataFrame, settings: Sequence[str], score: str, *, share: bool = True) -> pl.DataFrame:
    """Means over the draws of each setting, with two intervals of what is lost that are kept apart.

    scores: a row a draw. settings: the columns that say what was drawn several times. score: the column of the score;
    share: whether it is one, so that a drop is at most 1.
    draws: how many. spread, lowest, highest: standard deviation, least and most of the score over them. drop_low,
    drop_high: over samples, with these draws: the means of the draws' own ends. They lie at least as far apart as the
    ends of the mean's own interval: a mean has no larger a standard error than what it is of has on average.
    drop_draws_low, drop_draws_high: over draws, on these samples: Student's t, null of fewer than three. Of a language
    model the same of `rise`.
    """
    value, losses = pl.col(score), [name for name in ("drop", "rise") if name in scores]
    means = [name for name in ("agreement", "loss", "perplexity") if name in scores and name != score]
    frame = scores.group_by(settings, maintain_order=True).agg(
        value.mean(),
        draws=pl.len(),
        spread=pl.when(pl.len() > 1).then(value.std()),
        lowest=value.min(),
        highest=value.max(),
        **{f"{name}{end}": pl.col(f"{name}{end}").mean() for name in losses for end in ("", "_low", "_high")},
        **{f"each {name}": pl.col(name) for name in losses},
        **{name: pl.col(name).mean() for name in means},
        images=pl.col("images").max(),
    )
    for name in losses:
        limits = (-1.0, 1.0) if share and name == "drop" else (-math.inf, math.inf)
        ends = [mean_interval(values, limits) for values in frame[f"each {name}"].to_list()]
        for at, end in enumerate(("low", "high")):
            column = pl.Series(f"{name}_draws_{end}", [pair[at] for pair in ends], dtype=pl.Float64)
            frame = frame.insert_column(frame.columns.index(f"{name}_high") + 1 + at, column)
    return frame.drop(f"each {name}" for name in losses)


def bounds(row: Row, name: str = "drop") -> tuple[float, float]:
    """The ends of the widest 95 % interval: over samples and, where something is drawn, over draws.

    What a finding says must hold within them. Infinite where the draws are too few for an interval.
    """
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if f"{name}_draws_low" not in row:
        return low, high
    least, most = row[f"{name}_draws_low"], row[f"{name}_draws_high"]
    return (-math.inf, math.inf) if least is None or most is None else (min(low, least), max(high, most))


def with_bounds(rows: pl.DataFrame, name: str = "drop") -> pl.DataFrame:
    """`rows` with their `bounds` as columns `low` and `high`."""
    ends = [bounds(row, name) for row in rows.iter_rows(named=True)]
    columns = {end: pl.Series([pair[at] for pair in ends], dtype=pl.Float64) for at, end in enumerate(("low", "high"))}
    return rows.with_columns(**columns)


def half_width(row: Row, name: str = "drop") -> float:
    """Half the width of the widest interval: the smallest effect that samples and draws could have shown."""
    low, high = bounds(row, name)
    half = (high - low) / 2
    return half if half > 0 and math.isfinite(half) else 1e-6 if half == 0 else math.inf
