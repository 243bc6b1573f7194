"""What the columns say, in sentences."""

from __future__ import annotations

import re

import polars as pl

from netopsy.wording import listing, plural

_FAINT = 0.05  # correlations below are no more than chance gives


def findings(
    tables: dict[str, pl.DataFrame], touched: int, untreated: dict[str, dict[str, str]], refused: list[str]
) -> list[str]:
    """Sentences: whose maps look like the image, what makes two maps alike, and where a rule could not act.

    touched, untreated, refused: as in `Survey`.
    """
    units, columns, likeness = (tables[name] for name in ("units", "columns", "likeness"))
    nodes = units["unit"].str.split(":").list.first().unique(maintain_order=True).to_list()
    found = _means(columns, units.height, listing(nodes)) + _masks_or_weights(likeness)
    found += _empty(columns)
    if touched:
        found.append(f"The flow back met {plural(touched, 'activation')} between the image and {listing(nodes)}.")
    for rule, left in untreated.items():
        if left:
            kinds = f"{listing(sorted(set(left.values())))} ({plural(len(left), 'node')})"
            found.append(f"The rule {rule} does not know {kinds}: there the flow met the derivative.")
    silent = units.filter(pl.col("value") <= 0)["unit"].unique(maintain_order=True).to_list()
    if silent:
        found.append(f"Not active on their image, so that their maps say little: {listing(silent)}.")
    return found + _left_out(refused)


def _left_out(refused: list[str]) -> list[str]:
    """The sentences on rules that could not act; those of one reason as one."""
    by_reason: dict[str, list[str]] = {}
    for sentence in refused:
        words = re.fullmatch(r"Left out: the rule '(\w+)' acts (.*)", sentence)
        by_reason.setdefault(words[2] if words else sentence, []).append(words[1] if words else "")
    found = []
    for reason, rules in by_reason.items():
        if rules == [""]:
            found.append(reason)
        elif len(rules) == 1:
            found.append(f"Left out: the rule {rules[0]} acts {reason}")
        else:
            reason = reason.replace("which it does not know", "which they do not know")
            found.append(f"Left out: the rules {listing(rules)} act {reason}")
    return found


def _means(columns: pl.DataFrame, maps: int, layer: str) -> list[str]:
    """Whether the maps lie on edges, and what brings them there. maps: how many of each rule there are."""
    found = []
    units = columns["unit"].n_unique()
    means = columns.group_by("rule", maintain_order=True).agg(
        pl.col("edges", "other_edges").fill_nan(None).mean().fill_null(float("nan"))
    )
    known = means.filter(pl.col("edges").is_not_nan())
    if known.height:
        compared = known["other_edges"].is_not_nan().all()
        parts = [f"{rule} {edge:.2f}" + f" ({other:.2f})" * compared for rule, edge, other in known.iter_rows()]
        over = (
            f"{plural(units, 'unit')} of {layer}"
            if maps == units
            else f"{maps} maps of {plural(units, 'unit')} of {layer}"
        )
        beside = " (in brackets with the edges of another image)" if compared else ""
        found.append(
            f"Do the maps lie on the image's edges? Local correlation, mean over {over}{beside}: "
            f"{listing(parts, most=9)}."
        )
    return found + _effects(dict(zip(known["rule"], known["edges"], strict=True)))


def _empty(columns: pl.DataFrame) -> list[str]:
    """Rules by which nothing came back at all."""
    largest = columns.group_by("rule", maintain_order=True).agg(pl.col("largest").max())
    rules = largest.filter(pl.col("largest") == 0)["rule"].to_list()
    return [f"Nothing but zeros came back to the images by {listing(rules)}."] if rules else []


def _effects(edges: dict[str, float]) -> list[str]:
    """What the masks add to the learned weights, and the learned weights to the masks."""
    if not {"masked", "deconvnet", "masked_random"} <= edges.keys():
        return []
    masks, weights = (edges["masked"] - edges[other] for other in ("deconvnet", "masked_random"))
    if edges["masked"] < _FAINT:
        how = "here the masked maps do not lie on edges"
    elif edges["masked_random"] < _FAINT:
        how = "the edges come through masks and learned weights together, and not through masks with random weights"
    else:
        how = "the edges come through the masks even with random weights"
    return [
        f"With the learned weights the masks add {masks:+.2f} to that correlation; with the masks the learned weights, "
        f"in place of random ones, add {weights:+.2f}: {how}."
    ]


def _masks_or_weights(likeness: pl.DataFrame) -> list[str]:
    """The paper's claim: the activations, and not so much the parameters, hold what is reconstructed."""
    masks, weights = _pair(likeness, "masked", "masked_random"), _pair(likeness, "masked", "deconvnet")
    if not len(masks) or not len(weights):
        return []
    same_masks, same_weights = (float(pair["correlation"].mean()) for pair in (masks, weights))  # type: ignore[arg-type]
    if same_masks > same_weights + 0.05:
        verdict = "the masks matter more than the weights, as Palmieri et al. say"
    elif same_weights > same_masks + 0.05:
        verdict = "the weights matter more than the masks, unlike what Palmieri et al. say"
    else:
        verdict = "masks and weights matter alike here"
    signed = [float(pair["signed"].mean()) for pair in (masks, weights)]  # type: ignore[arg-type]
    return [
        f"How alike are two maps (correlation of their strengths)? The masked one and the one with the same masks and "
        f"random weights {same_masks:.2f}, the masked one and the one with the same weights and no masks "
        f"{same_weights:.2f}: {verdict}. Pixel for pixel with their signs: {signed[0]:.2f} and {signed[1]:.2f}."
    ]


def _pair(likeness: pl.DataFrame, a: str, b: str) -> pl.DataFrame:
    """Rows that compare rule `a` with rule `b`, where both maps vary."""
    rows = likeness.filter(pl.col("one").is_in([a, b]) & pl.col("other").is_in([a, b]))
    return rows.filter(pl.col("correlation").is_not_nan() & pl.col("signed").is_not_nan())
