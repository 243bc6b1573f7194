"""The sentences of the study `transfer`."""

from __future__ import annotations

from typing import Any

import polars as pl

from netopsy.result import Finding
from netopsy.stats.hypothesis_tests import paired_difference, wilson
from netopsy.studies.transfer.figures import BAG, MEASURES, named_sets
from netopsy.studies.transfer.tables import LOSSES
from netopsy.wording import between, listing, number, percent, plural

_SHORT = {"dr1": "DR-1", "dr2": "DR-2", "q1": "Q-1", "q2": "Q-2"}


def findings(
    unstressed: pl.DataFrame,
    scores: pl.DataFrame,
    minimum: pl.DataFrame,
    pareto: pl.DataFrame,
    alternatives: pl.DataFrame,
) -> list[Finding]:
    """Plain sentences, the most important first; of several nodes those on codes are about the one that scores best.

    The arguments are the study's tables.
    """
    nodes = unstressed.filter(pl.col("node") != BAG)
    sentences = _layers(nodes)
    for row in nodes.sort("score", descending=True, maintain_order=True).head(1).iter_rows(named=True):
        mine = pl.col("node") == row["node"]
        sentences.append(_unstressed_sentence(row))
        if not row["score"]:
            sentences.append(
                Finding(f"A score of 0 cannot fall: nothing is said of {row['node']} relative to it.", 0.0)
            )
            continue
        loss = smallest_loss(row)
        if loss is None:
            text = (
                f"{plural(row['images'], 'test vector')} cannot show a loss of {percent(LOSSES[-1])} of the score or "
                "less: give more to see how far the features can be compressed."
            )
            sentences.append(Finding(text, 1.0))
            continue
        sentences += _dimensions(minimum.filter(mine), scores.filter(mine), row, loss)
        sentences += _levels(minimum.filter(mine), scores.filter(mine), loss)
        sentences += _compression(pareto.filter(mine), loss)
        sentences += _bits(minimum.filter(mine), row["dimensions"], loss)
        sentences += _alternatives(alternatives.filter(mine), pareto.filter(mine))
    return sentences + _bag(unstressed)


def smallest_loss(row: dict[str, Any]) -> float | None:
    """The smallest relative loss in LOSSES that the test vectors can show; None where they can show none.

    row: of the table `unstressed`. Where no verdict changes, the loss on other vectors may still be as large as the
    interval of no change, which is the resolution.
    """
    finest = paired_difference(0, 0, row["images"])[1] if row["measure"] == "accuracy" else 0.0
    return next((loss for loss in LOSSES if finest <= loss * row["score"]), None)


def _unstressed_sentence(row: dict[str, Any]) -> Finding:
    span = ""
    if row["measure"] == "accuracy":
        low, high = wilson(row["score"] * row["images"], row["images"])
        span = f" ({between(number(100 * low), number(100 * high))})"
    text = (
        f"A linear classifier on the {plural(row['dimensions'], 'feature')} of {row['node']} reaches "
        f"{percent(row['score'])} {MEASURES[str(row['measure'])]}{span} on {row['images']:,} test vectors of "
        f"{plural(row['classes'], 'class', 'classes')}."
    )
    return Finding(text, 2.0)


def _least(minimum: pl.DataFrame, stress: str, loss: float) -> dict[str, Any] | None:
    rows = minimum.filter((pl.col("stress") == stress) & (pl.col("loss") == loss) & pl.col("value").is_not_null())
    return rows.row(0, named=True) if rows.height else None


def _dimensions(minimum: pl.DataFrame, scores: pl.DataFrame, unstressed: dict[str, Any], loss: float) -> list[Finding]:
    dimensions = unstressed["dimensions"]
    pca, random = _least(minimum, "dr2", loss), _least(minimum, "dr1", loss)
    if random is not None:
        # whichever are drawn: the whole interval over draws lies within the loss
        sure = pl.col("draws_low") >= (1 - loss) * unstressed["score"]
        drawn = scores.filter((pl.col("stress") == "dr1") & sure & (pl.col("dimensions") >= random["value"]))
        random = None
        for row in drawn.sort("dimensions").head(1).iter_rows(named=True):
            above = scores.filter((pl.col("stress") == "dr1") & (pl.col("dimensions") > row["dimensions"]))
            random = row | {"value": row["dimensions"], "holds_above": bool((above["relative"] >= 1 - loss).all())}
    parts = []
    if pca:
        parts.append(f"{pca['value']:,} after a PCA ({percent(pca['share'])})")
    if random:
        parts.append(f"{random['value']:,} drawn at random ({percent(random['share'])})")
    if not parts:
        return []
    least = min(row["share"] for row in (pca, random) if row)
    text = f"Of {plural(dimensions, 'dimension')} {' or '.join(parts)} keep the score within {percent(loss)}"
    return [Finding(f"{text}{_uneven(pca, random)}.", min(5.0, 0.5 / max(0.1, least)))]


def _uneven(*rows: dict[str, Any] | None) -> str:
    """That accuracy does not rise steadily, where it does not."""
    names = [_SHORT[row["stress"]] for row in rows if row is not None and not row["holds_above"]]
    return f"; the score does not rise steadily with their number ({' and '.join(names)})" if names else ""


def _levels(minimum: pl.DataFrame, scores: pl.DataFrame, loss: float) -> list[Finding]:
    shared, single = _least(minimum, "q1", loss), _least(minimum, "q2", loss)
    if shared is None and single is None:
        tried = scores.filter(pl.col("stress").is_in(["q1", "q2"])).height
        text = f"No number of levels that was tried keeps the score within {percent(loss)}."
        return [Finding(text, 1.0)] if tried else []
    ways = ((shared, "one range for all dimensions (Q-1)"), (single, "one range per dimension (Q-2)"))
    parts = [f"{row['value']} with {way}" for row, way in ways if row]
    least = min(int(row["value"]) for row in (shared, single) if row)
    text = (
        f"The score stays within {percent(loss)} with so many levels per number: {' or '.join(parts)}"
        f"{_uneven(shared, single)}."
    )
    return [Finding(text, min(5.0, 8 / least))]


def _compression(pareto: pl.DataFrame, loss: float) -> list[Finding]:
    if pareto.is_empty():
        return []
    close = pareto.filter(pl.col("relative") >= 1 - loss).sort("bits")
    if not close.height:
        text = f"No combination of fewer dimensions and levels keeps the score within {percent(loss)}."
        return [Finding(text, 1.0)]
    row = close.row(0, named=True)
    text = (
        f"{row['bits']:,} bits per vector keep {percent(row['relative'])} of the score: "
        f"{plural(row['dimensions'], 'dimension')} of {plural(row['levels'], 'level')}, {percent(row['compression'])} "
        "less than float32."
    )
    return [Finding(text, 2.0)]


def _bits(minimum: pl.DataFrame, dimensions: int, loss: float) -> list[Finding]:
    row = _least(minimum, "qb", loss)
    if row is None:
        return []
    left = int(row["value"]) // dimensions
    text = f"{32 - left} of the 32 bits of a number can be erased from the right within {percent(loss)} of the score."
    return [Finding(text, 1.0)]


def _alternatives(alternatives: pl.DataFrame, pareto: pl.DataFrame) -> list[Finding]:
    """The best code at the fewest bits compared, next to the grid."""
    if alternatives.is_empty():
        return []
    bits = min(alternatives["budget"].unique().to_list())
    rows = alternatives.filter(pl.col("budget") == bits)
    best = rows.filter(pl.col("score") == pl.col("score").max())
    names = listing(best["recipe"].to_list(), 3)
    text = (
        f"With {bits:,} bits per vector {names} {'is' if best.height == 1 else 'are'} best ({percent(best['score'][0])}"
    )
    grid = pareto.filter(pl.col("bits") <= bits).sort("score", descending=True)
    if grid.height:
        text += f"; the grid of dimensions and levels: {percent(grid['score'][0])}"
    return [Finding(f"{text}).", 1.0)]


def _layers(nodes: pl.DataFrame) -> list[Finding]:
    if nodes.height < 2:
        return []
    top, low = float(nodes["score"].to_numpy().max()), float(nodes["score"].to_numpy().min())
    best, worst = (nodes.filter(pl.col("score") == score)["node"].to_list() for score in (top, low))
    verb = "transfers" if len(best) == 1 else "transfer"
    text = (
        f"Of {plural(nodes.height, 'node')} {listing(best, 3)} {verb} best ({percent(top)}) and {listing(worst, 3)} "
        f"worst ({percent(low)})."
    )
    return [Finding(text, min(5.0, (top - low) / 0.05))]


def _bag(unstressed: pl.DataFrame) -> list[Finding]:
    bag = unstressed.filter(pl.col("node") == BAG)
    if bag.is_empty():
        return []
    row, deep = bag.row(0, named=True), unstressed.filter(pl.col("node") != BAG).row(-1, named=True)
    text = (
        f"{deep['node']} reaches {percent(deep['score'])} where a bag of visual words of the same images reaches "
        f"{percent(row['score'])}."
    )
    return [Finding(text, min(5.0, abs(deep["score"] - row["score"]) / 0.05))]


_TENTH = 0.1  # of the dimensions, at which data sets are compared


def dimensions_of_sets(scores: pl.DataFrame, nodes: pl.DataFrame) -> list[Finding]:
    """What a tenth of the dimensions keeps, set by set, those of most classes first."""
    named = named_sets(nodes)
    sentences = []
    for stress, words in (("dr2", "the principal directions"), ("dr1", "the dimensions, drawn at random,")):
        parts, kept = [], []
        for row in nodes.sort("classes", descending=True, maintain_order=True).to_dicts():
            rows = scores.filter(pl.col("relative").is_not_null(), set=row["set"], stress=stress)
            rows = rows.filter(pl.col("share") <= _TENTH + 1e-9).sort("share", descending=True)
            if rows.height:
                kept.append(float(rows["relative"][0]))
                parts.append(f"{named[row['set']]} {percent(kept[-1])}")
        if len(parts) > 1:
            text = f"Of its score, a tenth of {words} keeps: {listing(parts, 9)}."
            sentences.append(Finding(text, min(5.0, (max(kept) - min(kept)) / 0.02)))
    return sentences


def levels_of_sets(minimum: pl.DataFrame, nodes: pl.DataFrame) -> list[Finding]:
    """The fewest levels with a range a dimension, at the smallest loss that every set can show."""
    losses = [smallest_loss(row) if row["score"] else None for row in nodes.to_dicts()]
    if None in losses:
        return []
    loss = max(value for value in losses if value is not None)
    parts = []
    for row in nodes.to_dicts():
        least = minimum.filter(pl.col("loss") == loss, set=row["set"], node=row["node"], stress="q2").drop_nulls(
            "value"
        )
        if least.height:
            parts.append(f"{row['set']} {plural(least['value'][0], 'level')}")
    if len(parts) < 2:
        return []
    text = f"Levels per number that keep the score within {percent(loss)}, with one range per dimension (Q-2): "
    return [Finding(f"{text}{listing(parts, 9)}.", 1.0)]
