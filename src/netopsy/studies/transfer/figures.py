"""The figures of the study `transfer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from netopsy import charts
from netopsy.result import Figure
from netopsy.wording import plural

NAMES = {
    "none": "unstressed",
    "dr1": "DR-1: random drops",
    "dr2": "DR-2: PCA",
    "q1": "Q-1: one range",
    "q2": "Q-2: a range per dimension",
    "fc": "FC: PCA and Q-2",
    "qb": "Q-B: bits erased",
}
MEASURES = {"accuracy": "accuracy", "map": "mean average precision", "map11": "mean average precision (11 points)"}
SIGNS = {"circle": "●", "square": "■", "cross": "✕"}
_PAPER = "Carvalho et al., Figure"
_TABLES = "Carvalho et al., supplementary tables"
BAG = "bag of words"


def figures(
    scores: pl.DataFrame,
    pareto: pl.DataFrame,
    alternatives: pl.DataFrame,
    candidates: pl.DataFrame,
    measures: Mapping[str, str],
) -> dict[str, Figure]:
    """Curves, grid and front of the last node; with several nodes each stress with a curve a node.

    scores, pareto, alternatives, candidates: the study's tables. measures: what `score` means for each node.
    """
    nodes = [node for node in measures if node != BAG]
    last = nodes[-1]
    score = MEASURES[measures[last]]
    of = f" of {last}" if len(nodes) > 1 else ""
    last_scores = scores.filter(pl.col("node") == last)
    charts_by_name = _dimensions(scores.filter(pl.col("node").is_in([last, BAG])), last, score, of)
    charts_by_name |= _levels(last_scores, score, of) | _bits(last_scores, score, of)
    for node in nodes:
        charts_by_name |= _grid(
            scores.filter(pl.col("node") == node), pareto.filter(pl.col("node") == node), node, nodes
        )
    if last_scores.height > 1:
        charts_by_name["front"] = _front(last_scores, pareto.filter(pl.col("node") == last), score, of)
    if alternatives.height:
        charts_by_name |= _alternatives(alternatives.filter(pl.col("node") == last), last_scores, score, of)
    if len(nodes) > 1:
        charts_by_name |= _layers(scores, nodes, score)
    for node in candidates["node"].unique(maintain_order=True):
        name = "candidates" if len(nodes) == 1 else f"candidates {node}"
        charts_by_name[name] = _candidates(
            candidates.filter(pl.col("node") == node), score, f" for {node}" if of else ""
        )
    return charts_by_name


def _dimensions(scores: pl.DataFrame, node: str, score: str, of: str) -> dict[str, Figure]:
    """Figures 2 and 3: score over the dimensions kept, relative to the unstressed score and as it is."""
    drops = scores.filter(pl.col("stress").is_in(["dr1", "dr2"]))
    if drops.is_empty():
        return {}
    name = pl.col("stress").replace_strict({"dr1": NAMES["dr1"], "dr2": NAMES["dr2"]}, default=pl.col("stress"))
    bag = pl.col("node") == BAG
    spread = pl.col("std").fill_null(0.0)
    unstressed = pl.col("score") / pl.col("relative")
    drops = drops.with_columns(
        pl.when(bag).then(pl.lit(f"{BAG}, ") + name).otherwise(name).alias("features"),
        (pl.col("score") - spread).alias("low"),
        (pl.col("score") + spread).alias("high"),
        (pl.col("relative") - spread / unstressed).alias("relative_low"),
        (pl.col("relative") + spread / unstressed).alias("relative_high"),
    )
    relative = charts.curve(
        drops,
        "share",
        "relative",
        low="relative_low",
        high="relative_high",
        color="features",
        percent=True,
        percent_x=True,
        reference=1.0,
        reference_label="unstressed",
        x_title="dimensions kept",
        y_title=f"{score}, relative",
        title=f"Score with fewer dimensions{of}, relative",
        reading="The flatter a line stays to the left, the more redundant the features; the band of the random drops "
        "is one standard deviation.",
        source=f"{_PAPER}s 2 and 3",
    )
    absolute = charts.curve(
        drops,
        "dimensions",
        "score",
        low="low",
        high="high",
        color="features",
        percent=True,
        log_x=True,
        x_title="dimensions",
        y_title=score,
        title=f"Score with fewer dimensions{of}",
        reading="Features are compared at equal numbers of dimensions; the axis is logarithmic.",
        source=f"{_PAPER}s 2 and 3",
    )
    return {"dimensions": relative, "dimensions_absolute": absolute}


def _levels(scores: pl.DataFrame, score: str, of: str) -> dict[str, Figure]:
    """Figure 4: score over the levels of a number."""
    levels = _without_constant_levels(_name_column(scores.filter(pl.col("stress").is_in(["q1", "q2"]))))
    if levels.is_empty():
        return {}
    charts_by_name = {}
    for name, column, title in (
        ("levels", "relative", f"{score}, relative"),
        ("levels_absolute", "score", score),
    ):
        charts_by_name[name] = charts.curve(
            levels,
            "levels",
            column,
            color="quantization",
            percent=True,
            reference=1.0 if column == "relative" else float(scores["score"][0]),
            reference_label="unstressed",
            x_title="levels h of a number",
            y_title=title,
            title=f"Score with fewer levels{of}" + (", relative" if column == "relative" else ""),
            reading="Each number is replaced by the nearest of h bin centres; left is coarser.",
            source=f"{_PAPER} 4",
        )
    return charts_by_name


def _without_constant_levels(scores: pl.DataFrame) -> pl.DataFrame:
    """Without the rows of one level, a constant, beside which all others would look alike."""
    varied = scores.filter(pl.col("levels") > 1)
    return varied if varied.height else scores


def _name_column(scores: pl.DataFrame, column: str = "quantization") -> pl.DataFrame:
    return scores.with_columns(pl.col("stress").replace_strict(NAMES, default=pl.col("stress")).alias(column))


def _bits(scores: pl.DataFrame, score: str, of: str) -> dict[str, Figure]:
    bits = scores.filter(pl.col("stress") == "qb")
    if bits.is_empty():
        return {}
    figure = charts.curve(
        bits,
        "removed_bits",
        "score",
        percent=True,
        reference=float(scores["score"][0]),
        reference_label="unstressed",
        x_title="bits erased of 32, from the right",
        y_title=score,
        title=f"Score with bits erased{of}",
        reading="The first 23 bits are the fraction's, the next 8 the exponent's, the last the sign's.",
        source=f"{_TABLES}, Q-B",
    )
    return {"bits_erased": figure}


def _grid(scores: pl.DataFrame, pareto: pl.DataFrame, node: str, nodes: Sequence[str]) -> dict[str, Figure]:
    """Figure 5: the grid of dimensions and levels, with the cells of the front marked."""
    cells = _without_constant_levels(scores.filter(pl.col("stress") == "fc"))
    if cells.is_empty():
        return {}
    marks = pareto.select("dimensions", "levels", pl.col("marker").replace_strict(SIGNS, default="·").alias("front"))
    cells = cells.join(marks, on=["dimensions", "levels"], how="left").sort(
        ["levels", "dimensions"], descending=[True, False]
    )
    named = [f"{SIGNS[m]} {c:.1%}" for m, c in pareto.select("marker", "compression").drop_nulls().iter_rows()]
    rates = f"; compression rates: {', '.join(named)}" if named else ""
    relative = cells["relative"].drop_nulls()
    if relative.is_empty():
        return {}
    lowest, highest = min(0.9, float(relative.quantile(0.1) or 0.0)), float(relative.max())  # type: ignore[arg-type]
    figure = charts.heatmap(
        cells,
        "dimensions",
        "levels",
        "relative",
        percent=True,
        labels=False,
        marks="front",
        domain=(lowest, max(1.0, highest)),
        x_title="dimensions kept by the PCA",
        y_title="levels",
        value_title="relative score",
        title="Fewer dimensions and fewer levels" + (f" of {node}" if len(nodes) > 1 else ""),
        reading=f"Bright cells keep the score, the darkest {lowest:.0%} of it or less. "
        f"Signs mark cells that none with as few bits beats{rates}.",
        source=f"{_PAPER} 5",
    )
    return {"grid" if len(nodes) == 1 else f"grid {node}": figure}


def _front(scores: pl.DataFrame, pareto: pl.DataFrame, score: str, of: str) -> Figure:
    half = float(scores["score"][0]) / 2
    points = _name_column(
        scores.filter((pl.col("bits") > 0) & (pl.col("stress") != "none") & (pl.col("score") >= half)), "how"
    )
    return charts.scatter(
        points,
        "bits",
        "score",
        color="how",
        tips=("dimensions", "levels", "compression"),
        front=pareto.filter((pl.col("bits") > 0) & (pl.col("score") >= half)).sort("bits"),
        log_x=True,
        percent=True,
        reference=float(scores["score"][0]),
        reference_label="unstressed",
        x_title="bits per vector",
        y_title=score,
        color_title="stress",
        title=f"Score by the size of a vector{of}",
        reading="Up and left is better. The thin line is the front of the grid (FC); a name in the legend picks its "
        "points out. Points below half of the unstressed score are in the table alone.",
        source="after Carvalho et al., Figures 2 to 5",
    )


def _alternatives(alternatives: pl.DataFrame, scores: pl.DataFrame, score: str, of: str) -> dict[str, Figure]:
    alternatives = alternatives.filter(pl.col("method") != "Q-2")  # one size only, and among the levels already
    best = alternatives.group_by("method", "budget", maintain_order=True).agg(pl.col("score").max())
    by_score = charts.curve(
        best.sort("budget", maintain_order=True),
        "budget",
        "score",
        color="method",
        log_x=True,
        percent=True,
        reference=float(scores["score"][0]),
        reference_label="unstressed",
        x_title="bits per vector, at most",
        y_title=score,
        color_title="code",
        title=f"Ways to store a vector at equal bits{of}",
        reading="Up and left is better: the score of a linear classifier on what each code gives back. "
        "PCA x Q-2 is the paper's grid.",
        source="beyond the paper",
    )
    charts_by_name = {"alternatives": by_score}
    if alternatives["recall_10"].null_count() < alternatives.height:
        best = alternatives.group_by("method", "budget", maintain_order=True).agg(pl.col("recall_10").max())
        charts_by_name["retrieval"] = charts.curve(
            best.sort("budget", maintain_order=True),
            "budget",
            "recall_10",
            color="method",
            log_x=True,
            percent=True,
            x_title="bits per vector, at most",
            y_title="recall@10",
            color_title="code",
            title=f"Finding the nearest neighbour at equal bits{of}",
            reading="Of the ten training vectors nearest to a test vector, the share among the ten of nearest codes.",
            source="beyond the paper",
        )
    return charts_by_name


def _layers(scores: pl.DataFrame, nodes: Sequence[str], score: str) -> dict[str, Figure]:
    """The authors' tables of several layers: one chart a stress, one curve a node."""
    charts_by_name = {}
    for stress, x, x_title in (
        ("dr1", "share", "dimensions kept"),
        ("dr2", "share", "dimensions kept"),
        ("q1", "levels", "levels h of a number"),
        ("q2", "levels", "levels h of a number"),
        ("qb", "removed_bits", "bits erased of 32, from the right"),
    ):
        stress_scores = scores.filter((pl.col("stress") == stress) & pl.col("node").is_in(nodes))
        stress_scores = _without_constant_levels(stress_scores) if x == "levels" else stress_scores
        if stress_scores.height:
            charts_by_name[f"layers_{stress}"] = charts.curve(
                stress_scores,
                x,
                "score",
                color="node",
                percent=True,
                percent_x=x == "share",
                x_title=x_title,
                y_title=score,
                title=f"{NAMES[stress]}, layer by layer",
                reading="One line per layer of the network.",
                source=f"{_TABLES}, MULTILAYER",
            )
    return charts_by_name


def _candidates(candidates: pl.DataFrame, score: str, of: str) -> Figure:
    return charts.bars(
        candidates.sort("score", descending=True, maintain_order=True),
        "recipe",
        "score",
        percent=True,
        value_title=f"{score} on the held-out part of the training set",
        title=f"Codes within the budget{of}",
        reading="Fitted on four fifths of the training set and scored on the rest; the best comes first.",
        source="beyond the paper",
    )


def named_sets(nodes: pl.DataFrame) -> dict[str, str]:
    """Each set with the number of its classes, as the legend has it."""
    return {row["set"]: f"{row['set']} ({plural(row['classes'], 'class', 'classes')})" for row in nodes.to_dicts()}


def figures_of_sets(scores: pl.DataFrame, nodes: pl.DataFrame, score: str) -> dict[str, Figure]:
    spread = pl.col("std").fill_null(0.0) * pl.col("relative") / pl.col("score")
    scores = scores.with_columns(
        pl.col("set").replace_strict(named_sets(nodes)).alias("data set"),
        pl.col("stress").replace_strict(NAMES, default=pl.col("stress")).alias("how"),
        low=pl.col("relative") - spread,
        high=pl.col("relative") + spread,
    )
    figures: dict[str, Figure] = {}
    common: dict[str, Any] = {"color": "data set", "facet": "how", "percent": True, "y_title": f"{score}, relative"}
    dimensions = scores.filter(pl.col("stress").is_in(["dr1", "dr2"]), pl.col("relative").is_not_null())
    if dimensions.height:
        figures["dimensions"] = charts.curve(
            dimensions,
            "share",
            "relative",
            low="low",
            high="high",
            percent_x=True,
            x_title="dimensions kept",
            title="Score with fewer dimensions on each data set",
            reading="The flatter a line stays to the left, the more redundant the features are for that data set; the "
            "band of the random drops is one standard deviation.",
            source="Carvalho et al., Figure 3",
            **common,
        )
    levels = scores.filter(pl.col("stress").is_in(["q1", "q2"]), pl.col("relative").is_not_null(), pl.col("levels") > 1)
    if levels.height:
        figures["levels"] = charts.curve(
            levels,
            "levels",
            "relative",
            x_title="levels h of a number",
            title="Score with fewer levels on each data set",
            reading="Each number is replaced by the nearest of h bin centres; left is coarser.",
            source="after Carvalho et al., Figure 4",
            **common,
        )
    return figures
