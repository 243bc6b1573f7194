"""The sentences of the study `transfer`."""

from __future__ import annotations

from typing import Any

import polars as pl

from netopsy.stats.hypothesis_tests import paired_difference
from netopsy.studies.transfer.figures import BAG, MEASURES
from netopsy.studies.transfer.tables import MARKERS
from netopsy.wording import plural, points

_SIGNS = ("circle", "square", "cross")
_SHORT = {"dr1": "DR-1", "dr2": "DR-2", "q1": "Q-1", "q2": "Q-2"}


def findings(
    unstressed: pl.DataFrame,
    scores: pl.DataFrame,
    minimum: pl.DataFrame,
    pareto: pl.DataFrame,
    alternatives: pl.DataFrame,
) -> list[str]:
    """Plain sentences, the most important first, node by node; the arguments are the study's tables."""
    sentences: list[str] = []
    nodes = unstressed.filter(pl.col("node") != BAG)
    for row in nodes.iter_rows(named=True):
        mine = pl.col("node") == row["node"]
        sentences.append(_unstressed_sentence(row))
        if not row["score"]:
            sentences.append(f"A score of 0 cannot fall: nothing is said of {row['node']} relative to it.")
            continue
        sentences += _dimensions(minimum.filter(mine), row["dimensions"], scores.filter(mine))
        sentences += _levels(minimum.filter(mine), scores.filter(mine))
        sentences += _compression(pareto.filter(mine), scores.filter(mine))
        sentences += _too_few_vectors(row)
        sentences += _bits(minimum.filter(mine), row["dimensions"])
        sentences += _alternatives(alternatives.filter(mine), pareto.filter(mine))
    sentences += _layers(nodes) + _bag(unstressed, scores)
    if scores.height:
        sentences.append(_certificate_sentence(scores))
    return sentences


def _unstressed_sentence(row: dict[str, Any]) -> str:
    return (
        f"{row['node']}: a linear classifier on its {plural(row['dimensions'], 'feature')} reaches {row['score']:.2%} "
        f"{MEASURES[str(row['measure'])]} on {row['images']:,} test vectors of "
        f"{plural(row['classes'], 'class', 'classes')} "
        f"({row['train_images']:,} to train on)."
    )


def _least(minimum: pl.DataFrame, stress: str, loss: float = 0.01) -> dict[str, Any] | None:
    rows = minimum.filter((pl.col("stress") == stress) & (pl.col("loss") == loss) & pl.col("value").is_not_null())
    return rows.row(0, named=True) if rows.height else None


def _dimensions(minimum: pl.DataFrame, dimensions: int, scores: pl.DataFrame) -> list[str]:
    pca, random = _least(minimum, "dr2"), _least(minimum, "dr1")
    parts = []
    if pca:
        parts.append(f"{pca['value']:,} ({pca['share']:.0%}) after a PCA")
    if random:
        parts.append(f"{random['value']:,} ({random['share']:.0%}) drawn at random")
    if not parts:
        return []
    sentences = [f"Of the {plural(dimensions, 'dimension')} {' or '.join(parts)} keep the score within 1 %."]
    fewest = scores.filter(pl.col("stress").is_in(["dr1", "dr2"])).sort("dimensions", maintain_order=True)
    last_rows = {
        row["stress"]: row for row in fewest.iter_rows(named=True) if row["dimensions"] == fewest["dimensions"][0]
    }
    if {"dr1", "dr2"} <= set(last_rows):
        sentences.append(
            f"With {plural(fewest['dimensions'][0], 'dimension')} the PCA keeps {last_rows['dr2']['relative']:.1%} of "
            f"the score, a random draw {last_rows['dr1']['relative']:.1%}."
        )
    return sentences + _uneven(pca) + _uneven(random)


def _too_few_vectors(row: dict[str, Any], loss: float = 0.01) -> list[str]:
    """That the test vectors are too few to show the loss that the sentences speak of, where they are."""
    finest = paired_difference(0, 0, row["images"])[1]  # no vector changed its verdict
    if row["measure"] != "accuracy" or finest <= loss * row["score"]:
        return []
    return [
        f"{plural(row['images'], 'test vector')} cannot show a loss of {100 * loss:g} %: where no verdict changes, "
        f"the loss on others may be {points(finest)} (95 %)."
    ]


def _uneven(row: dict[str, Any] | None) -> list[str]:
    if row is None or row["holds_above"]:
        return []
    uneven = (
        f"Not every larger number of {row['what']} does as well ({_SHORT[row['stress']]}): the curve is uneven there."
    )
    return [uneven]


def _levels(minimum: pl.DataFrame, scores: pl.DataFrame) -> list[str]:
    shared_range, own_range = _least(minimum, "q1"), _least(minimum, "q2")
    if shared_range is None and own_range is None:
        tried = scores.filter(pl.col("stress").is_in(["q1", "q2"])).height
        return ["No number of levels that was tried keeps the score within 1 %."] if tried else []
    parts = []
    if shared_range:
        parts.append(f"{plural(shared_range['value'], 'level')} where all dimensions share one range (Q-1)")
    if own_range:
        kind = "each has its own" if shared_range else "each dimension has its own range"
        parts.append(
            f"{own_range['value'] if shared_range else plural(own_range['value'], 'level')} where {kind} (Q-2)"
        )
    text = f"A loss of at most 1 % needs {' and '.join(parts)}"
    if shared_range and own_range:
        apart = own_range["value"] - shared_range["value"]
        text += f": Q-2 is {'level with' if not apart else 'ahead of' if apart < 0 else 'behind'} Q-1"
    return [text + ".", *_uneven(shared_range), *_uneven(own_range)]


def _compression(pareto: pl.DataFrame, scores: pl.DataFrame) -> list[str]:
    if pareto.is_empty():
        return []
    sentences = []
    close = pareto.filter(pl.col("relative") >= 0.99).sort("bits")
    if close.height:
        row = close.row(0, named=True)
        sentences.append(
            f"Both together: {plural(row['dimensions'], 'dimension')} of {plural(row['levels'], 'level')} "
            f"({row['bits']:,} bits) are {row['compression']:.2%} compression at {row['relative']:.2%} of the score."
        )
    else:
        sentences.append("No cell of the grid of dimensions and levels keeps the score within 1 %.")
    named = [
        f"{row['compression']:.1%} ({row['dimensions']:,} x {row['levels']}) keeps {row['relative']:.1%}"
        for sign in _SIGNS
        for row in pareto.filter(pl.col("marker") == sign).iter_rows(named=True)
    ]
    if named:
        rates = ", ".join(f"{rate:.1%}" for rate in MARKERS)
        sentences.append(f"At the paper's compression rates ({rates}) or above the best cells are: {'; '.join(named)}.")
    return sentences


def _bits(minimum: pl.DataFrame, dimensions: int) -> list[str]:
    row = _least(minimum, "qb")
    if row is None:
        return []
    left = int(row["value"]) // dimensions
    return [f"Of the 32 bits of a number, {32 - left} can be erased from the right within 1 % of the score."]


def _alternatives(alternatives: pl.DataFrame, pareto: pl.DataFrame) -> list[str]:
    if alternatives.is_empty():
        return []
    parts = []
    for bits in sorted(alternatives["budget"].unique().to_list()):
        best = alternatives.filter(pl.col("budget") == bits).sort("score", descending=True, maintain_order=True)
        row = best.row(0, named=True)
        line = f"{row['recipe']} {row['score']:.2%}"
        grid = pareto.filter(pl.col("bits") <= bits).sort("score", descending=True)
        if grid.height:
            line += f", the grid {grid['score'][0]:.2%}"
        parts.append(f"{bits:,} bits: {line}")
    return [f"At equal bits the best are: {'; '.join(parts)}."]


def _layers(nodes: pl.DataFrame) -> list[str]:
    if nodes.height < 2:
        return []
    ordered = nodes.sort("score", descending=True, maintain_order=True)
    best, worst = ordered.row(0, named=True), ordered.row(-1, named=True)
    return [
        f"Of {plural(nodes.height, 'node')} {best['node']} transfers best ({best['score']:.2%}), {worst['node']} worst "
        f"({worst['score']:.2%})."
    ]


def _bag(unstressed: pl.DataFrame, scores: pl.DataFrame) -> list[str]:
    bag = unstressed.filter(pl.col("node") == BAG)
    if bag.is_empty():
        return []
    row, deep = bag.row(0, named=True), unstressed.filter(pl.col("node") != BAG).row(-1, named=True)
    text = (
        f"A bag of words of the classical kind ({plural(row['dimensions'], 'dimension')}) reaches "
        f"{row['score']:.2%} on the "
        f"same images, {deep['node']} {deep['score']:.2%}"
    )
    drops = scores.filter(pl.col("stress") == "dr1")
    least = {n: drops.filter(pl.col("node") == n).sort("dimensions") for n in (BAG, deep["node"])}
    if all(rows.height for rows in least.values()):
        shares = [f"{rows['relative'][0]:.1%}" for rows in least.values()]
        share = least[BAG]["share"][0]
        text += f"; with {share:.0%} of its dimensions drawn at random it keeps {shares[0]}, {deep['node']} {shares[1]}"
    return [text + "."]


def _certificate_sentence(scores: pl.DataFrame) -> str:
    gap, refits, fits = float(scores["gap"].to_numpy().max()), int(scores["refits"].sum()), int(scores["repeats"].sum())
    again = f"{plural(refits, 'fit')} solved again cold in float64" if refits else "none had to be solved again"
    return (
        f"Every fit is certified: the largest relative gap to the optimum is {gap:.1e} over {fits:,} scores; {again}."
    )
