"""The tables of the study `transfer`, from the rows of its chains."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from netopsy.stats.hypothesis_tests import mean_interval
from netopsy.studies.transfer.bench import Bench, ScoreRow
from netopsy.studies.transfer.chains import WORD
from netopsy.transform.fit.levels import bits_per_vector, compression
from netopsy.transform.fit.training import Quantizer
from netopsy.wording import plural

LOSSES = (0.01, 0.02, 0.03, 0.04, 0.05)
MARKERS = (0.991, 0.984, 0.969)  # the compression rates that the paper's Figure 5 marks
SCORES: dict[str, Any] = {
    "node": pl.String,
    "stress": pl.String,
    "dimensions": pl.Int64,
    "share": pl.Float64,
    "levels": pl.Int64,
    "removed_bits": pl.Int64,
    "repeats": pl.Int64,
    "bits": pl.Int64,
    "compression": pl.Float64,
    "score": pl.Float64,
    "std": pl.Float64,
    "draws_low": pl.Float64,
    "draws_high": pl.Float64,
    "relative": pl.Float64,
    "accuracy": pl.Float64,
    "map": pl.Float64,
    "map11": pl.Float64,
    "train_score": pl.Float64,
    "gap": pl.Float64,
    "refits": pl.Int64,
    "images": pl.Int64,
}
UNSTRESSED: dict[str, Any] = {
    "node": pl.String,
    "dimensions": pl.Int64,
    "classes": pl.Int64,
    "train_images": pl.Int64,
    "images": pl.Int64,
    "measure": pl.String,
    "score": pl.Float64,
    "accuracy": pl.Float64,
    "map": pl.Float64,
    "map11": pl.Float64,
    "train_score": pl.Float64,
    "gap": pl.Float64,
    "refits": pl.Int64,
}
MINIMUM: dict[str, Any] = {
    "node": pl.String,
    "stress": pl.String,
    "loss": pl.Float64,
    "what": pl.String,
    "value": pl.Int64,
    "share": pl.Float64,
    "bits": pl.Int64,
    "compression": pl.Float64,
    "score": pl.Float64,
    "relative": pl.Float64,
    "holds_above": pl.Boolean,
}
# what a stress leaves less and less of
WHAT = {"dr1": "dimensions", "dr2": "dimensions", "q1": "levels", "q2": "levels", "fc": "bits", "qb": "bits"}


def score_table(bench: Bench, rows_by_stress: Mapping[str, Sequence[Sequence[ScoreRow]]]) -> pl.DataFrame:
    """The table `scores` of one node.

    rows_by_stress: by stress, the rows of each of its chains; `none` has the one row of the unstressed features. The
    random drops' repeats become one row a size, with their mean, their sample standard deviation and the 95 %
    interval of the mean over draws.
    """
    (unstressed,) = rows_by_stress["none"][0]
    rows = [_line(bench, "none", [unstressed], unstressed.score)]
    for stress, chains in rows_by_stress.items():
        if not chains:  # nothing to drop from one dimension
            continue
        if stress == "dr1":
            full = [[unstressed] * len(chains)]
            steps = [*zip(*chains, strict=True), *full]
            rows += [_line(bench, stress, step, unstressed.score) for step in steps]
        elif stress != "none":
            ordered = sorted((row for chain in chains for row in chain), key=_order)
            rows += [_line(bench, stress, [row], unstressed.score) for row in ordered]
    return pl.DataFrame(rows, schema=SCORES)


def _order(row: ScoreRow) -> tuple[float, ...]:
    return tuple(-1.0 if math.isnan(part) else part for part in (row.levels, row.removed_bits, row.dimensions))


def _line(bench: Bench, stress: str, repeats: Sequence[ScoreRow], unstressed: float) -> dict[str, Any]:
    """A line of `scores`: one row, or the mean of several that differ in a draw only."""
    mean = ScoreRow(*np.mean(np.array(repeats, np.float64), axis=0).tolist())
    dimensions, levels, removed = (None if math.isnan(n) else int(n) for n in mean[:3])
    assert dimensions is not None
    word = WORD - (removed or 0)
    bits = bits_per_vector(dimensions, levels) if levels is not None else dimensions * word
    several = len(repeats) > 1
    draws_low, draws_high = mean_interval([row.score for row in repeats], (0.0, 1.0))
    return {
        "node": bench.node,
        "stress": stress,
        "dimensions": dimensions,
        "share": dimensions / bench.dimensions,
        "levels": levels,
        "removed_bits": removed,
        "repeats": len(repeats),
        "bits": bits,
        "compression": compression(bits, bench.dimensions, WORD),
        "score": mean.score,
        "std": statistics.stdev(row.score for row in repeats) if several else None,
        "draws_low": draws_low,
        "draws_high": draws_high,
        "relative": mean.score / unstressed if unstressed > 0 else None,
        "accuracy": _number(mean.accuracy),
        "map": _number(mean.map),
        "map11": _number(mean.map11),
        "train_score": mean.train_score,
        "gap": max(row.gap for row in repeats),
        "refits": int(sum(row.refits for row in repeats)),
        "images": len(bench.features.x_test),
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def unstressed_table(benches: Sequence[Bench], scores: pl.DataFrame) -> pl.DataFrame:
    """The table `unstressed` (the paper's Table 2): one row a source of features."""
    rows = []
    for bench in benches:
        row = scores.filter((pl.col("node") == bench.node) & (pl.col("stress") == "none")).row(0, named=True)
        facts = {"classes": bench.classes, "train_images": len(bench.features.x_train), "measure": bench.measure}
        rows.append({key: row[key] for key in UNSTRESSED if key in row} | facts)
    return pl.DataFrame(rows, schema=UNSTRESSED)


def minimum_table(scores: pl.DataFrame) -> pl.DataFrame:
    """The table `minimum` (the paper's Table 3): the smallest value that loses at most 1 to 5 % of the score.

    value: the smallest at which the loss is within the bound, null where none is. holds_above: whether it also is at
    every larger value that was tried; null for the grid, where one number of bits has many cells.
    """
    rows = []
    for (node, stress), rows_here in scores.group_by("node", "stress", maintain_order=True):
        what = WHAT.get(str(stress))
        if what is None or rows_here["relative"].null_count():
            continue
        rows_here = rows_here.sort(what, "score", descending=[False, True])
        for loss in LOSSES:
            close = rows_here.filter(pl.col("relative") >= 1 - loss)
            line: dict[str, Any] = {"node": node, "stress": stress, "loss": loss, "what": what}
            if close.height:
                first = close.row(0, named=True)
                also_above = (rows_here.filter(pl.col(what) > first[what])["relative"] >= 1 - loss).all()
                line |= {key: first[key] for key in ("share", "bits", "compression", "score", "relative")}
                line |= {"value": first[what], "holds_above": None if stress == "fc" else bool(also_above)}
            rows.append(line)
    return pl.DataFrame(rows, schema=MINIMUM)


PRINTED = (("dr1", 0.02), ("dr1", 0.05), ("dr2", 0.01), ("q1", 0.01), ("q1", 0.04), ("q2", 0.01), ("q2", 0.03))
"""The columns of the paper's Table 3: a stress, and the loss that it may cost."""


def printed_minimum(minimum: pl.DataFrame, scores: pl.DataFrame) -> pl.DataFrame:
    """The table `minimum_as_printed`: the paper's Table 3, a row a node: `10 %` of the dimensions or `6 values`.

    A dash stands where nothing that was tried is within the loss, or the stress was not asked for.
    """
    rows = []
    for node in scores["node"].unique(maintain_order=True):
        unstressed = scores.filter(pl.col("node") == node, stress="none")["score"][0]
        row = {"node": node, "original score": f"{100 * unstressed:.2f} %"}
        for stress, loss in PRINTED:
            least = minimum.filter(pl.col("node") == node, pl.col("loss") == loss, stress=stress).drop_nulls("value")
            cell = "–"
            if least.height:
                value, share = least["value"][0], least["share"][0]
                cell = (
                    f"{100 * share:.{0 if share > 0.095 else 1}f} %"
                    if stress.startswith("dr")
                    else plural(value, "value")
                )
            row[f"{stress[:-1].upper()}-{stress[-1]} – {loss:.0%}"] = cell
        rows.append(row)
    return pl.DataFrame(rows, schema=PRINTED_SCHEMA)


PRINTED_SCHEMA = {
    "node": pl.String,
    "original score": pl.String,
    **{f"{stress[:-1].upper()}-{stress[-1]} – {loss:.0%}": pl.String for stress, loss in PRINTED},
}


def pareto_table(scores: pl.DataFrame) -> pl.DataFrame:
    """The table `pareto`: cells of the grid (FC) that no other cell beats with as few bits or fewer.

    marker: `circle`, `square`, `cross` for the best cells at about 99.1, 98.4 and 96.9 % compression, as in Figure 5.
    """
    columns = ["node", "dimensions", "share", "levels", "bits", "compression", "score", "relative"]
    front = scores.filter(pl.col("stress") == "fc").select(columns)
    nodes = front["node"].unique(maintain_order=True).to_list()
    order = front["node"].replace_strict(nodes, list(range(len(nodes))), return_dtype=pl.Int64)
    front = front.with_columns(order.alias("order")).sort("order", "bits", "score", descending=[False, False, True])
    front = front.drop("order")
    before = pl.col("score").cum_max().shift(1).over("node")
    front = front.filter(before.is_null() | (pl.col("score") > before))
    marks = []
    for row in front.iter_rows(named=True):
        node_front = front.filter(pl.col("node") == row["node"])
        marks.append(next((name for name, best in _markers(node_front).items() if best == row["bits"]), None))
    return front.with_columns(pl.Series("marker", marks, dtype=pl.String))


def _markers(front: pl.DataFrame) -> dict[str, int]:
    """Marker -> bits of the front's best cell at its compression rate (in per cent, to one decimal) or above."""
    bits_of: dict[str, int] = {}
    for name, rate in zip(("circle", "square", "cross"), MARKERS, strict=True):
        near = front.filter(pl.col("compression") >= rate - 0.0005)
        if near.height:
            bits_of[name] = int(near["bits"].to_list()[-1])
    return bits_of


def empty_tables() -> dict[str, pl.DataFrame]:
    """The tables of a study that had nothing to work on."""
    schemas = {"scores": SCORES, "unstressed": UNSTRESSED, "minimum": MINIMUM, "minimum_as_printed": PRINTED_SCHEMA}
    return {name: pl.DataFrame(schema=schema) for name, schema in schemas.items()}


def code_line(bench: Bench, quantizer: Quantizer, row: ScoreRow, unstressed: float) -> dict[str, Any]:
    """A code's line in the tables `alternatives` and `candidates`."""
    return {
        "node": bench.node,
        "method": quantizer.method,
        "recipe": quantizer.label,
        "bits": quantizer.bits,
        "compression": compression(quantizer.bits, bench.dimensions, WORD),
        "relative": row.score / unstressed if unstressed > 0 else None,
        "refits": int(row.refits),
        "gap": row.gap,
        **{name: _number(getattr(row, name)) for name in _MEASURED},
    }


_MEASURED = ("score", "accuracy", "map", "map11", "train_score", "recall_1", "recall_10", "same_class")
