"""The sentences of the study `stimuli`."""

from __future__ import annotations

import polars as pl

from netopsy.samples.samples import Samples
from netopsy.wording import listing, plural


def findings(
    units: pl.DataFrame, random: float, samples: Samples, top: int, left: list[str], rules: dict[str, str]
) -> list[str]:
    """Plain sentences, the most important first.

    units: the table. random: the share that chance gives. left: nodes that could not be treated. rules: rule by node.
    """
    live = units.filter(pl.col("stimuli") > 0)
    sparse = samples.labels.ndim == 1 and len(samples) < 2 * len(samples.classes)
    found = []
    if live.height and not sparse:
        found += [*_depth(live, random, top), _single(live, random, top), *_index(live)]
    found.append(_dead(units, len(samples)))
    if len(samples) < 10 * top:
        found.append(
            f"With {plural(len(samples), 'image')} in all, the {top} strongest of a unit are many of them: give more."
        )
    if sparse:
        found.append(
            f"With {len(samples):,} images of {len(samples.classes):,} classes most have one or none, so the class "
            "make-up says little."
        )
    for rule, why in (("guided", "no rectifier that `masked` knows"), ("gradient", "no activation"), ("", "no rule")):
        nodes = [node for node, used in rules.items() if used == rule]
        if nodes and rule:
            found.append(f"Reconstructed by the rule `{rule}`, since {why} lies before them: {listing(nodes)}.")
        elif nodes:
            found.append(f"No rule brings the units of {listing(nodes)} back to the image.")
    if left:
        found.append(f"Left out, since their rows are not one an image: {listing(left)}.")
    return found


def _depth(live: pl.DataFrame, random: float, top: int) -> list[str]:
    means = live.drop_nulls("share").group_by("node", maintain_order=True).agg(pl.col("share").mean())
    if means.height < 3:
        return []
    third = means.height // 3
    early, late = _mean(means.head(third), "share"), _mean(means.tail(third), "share")
    word = "grow more selective with depth" if late > early + 0.02 else "do not grow more selective with depth"
    first, last = ("first layer", "last") if third == 1 else (f"first {third} layers", f"last {third}")
    return [
        f"Units {word}: among the {top} strongest images of a unit {early:.0%} are of the commonest class in the "
        f"{first} and {late:.0%} in the {last}; images drawn at random give {random:.0%}."
    ]


def _single(live: pl.DataFrame, random: float, top: int) -> str:
    pure = live.filter((pl.col("share") == 1) & (pl.col("stimuli") == top))
    if not pure.height or random == 1:
        best = live.sort("share", descending=True, nulls_last=True, maintain_order=True).head(3)
        return f"No unit's {top} strongest images are all of one class; nearest come {_names(best)}."
    order = pure.sort("selectivity", descending=True, nulls_last=True, maintain_order=True).head(3)
    return (
        f"{pure.height:,} of {live.height:,} units have all their {top} strongest images in one class, "
        f"for instance {_names(order)}."
    )


def _index(live: pl.DataFrame) -> list[str]:
    known = live.drop_nulls("selectivity").group_by("node", maintain_order=True).agg(pl.col("selectivity").mean())
    if known.height < 2:
        return []
    low, high = known.sort("selectivity", maintain_order=True)[[0, -1]].iter_rows(named=True)
    return [
        f"The class-selectivity index is lowest in {low['node']} ({low['selectivity']:.2f} on average) and highest in "
        f"{high['node']} ({high['selectivity']:.2f})."
    ]


def _dead(units: pl.DataFrame, images: int) -> str:
    dead = units.filter(pl.col("stimuli") == 0)
    if not dead.height:
        return f"Each of {plural(units.height, 'unit')} answers to at least one of the {plural(images, 'image')}."
    by_node = dead.group_by("node", maintain_order=True).len()
    where = listing([f"{row['node']} ({row['len']})" for row in by_node.iter_rows(named=True)])
    return (
        f"{dead.height:,} of {plural(units.height, 'unit')} {'answers' if dead.height == 1 else 'answer'} to none of "
        f"the {plural(images, 'image')}: {where}."
    )


def _names(units: pl.DataFrame) -> str:
    return listing(
        [f"{row['node']}:{row['channel']} ({row['class']}, {row['share']:.0%})" for row in units.iter_rows(named=True)]
    )


def _mean(frame: pl.DataFrame, column: str) -> float:
    return float(frame[column].mean())  # type: ignore[arg-type]
