"""The tables and sentences of the study `facets`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
import polars as pl
from jaxtyping import Int64, UInt8

from netopsy.charts.parts import inline, make_figure
from netopsy.pictures.mosaic import PAPER, below, beside, caption, resize
from netopsy.result import Figure, Finding, Image
from netopsy.studies.facets.account import VERDICTS, Account, gray_code, karnaugh_map, letters
from netopsy.studies.facets.measure import StrongStimuli, UnitFacets
from netopsy.wording import chance, listing, percent, plural

_FACETS: dict[str, Any] = {
    **{"unit": pl.String, "facet": pl.Int64, "stimuli": pl.Int64, "share": pl.Float64, "top_class": pl.String},
    **{"top_class_share": pl.Float64, "classes": pl.Int64, "inputs": pl.String, "silhouette": pl.Float64},
}
_DRIVERS: dict[str, Any] = {
    **{"unit": pl.String, "facet": pl.Int64, "rank": pl.Int64, "input": pl.String},
    **{"push": pl.Float64, "elsewhere": pl.Float64},
}
_CUTS: dict[str, Any] = {
    **{"unit": pl.String, "stimuli": pl.Int64, "larger": pl.Int64, "smaller": pl.Int64, "dip": pl.Float64},
    **{"expected": pl.Float64, "p": pl.Float64, "taken": pl.Boolean},
}
_STIMULI: dict[str, Any] = {
    **{"unit": pl.String, "rank": pl.Int64, "image": pl.Int64, "place": pl.Int64, "value": pl.Float64},
    **{"facet": pl.Int64, "class": pl.String},
}
_FORMULAS: dict[str, Any] = {
    **{"unit": pl.String, "expression": pl.String, "inputs": pl.String, "products": pl.Int64, "literals": pl.Int64},
    **{"firing": pl.Float64, "images": pl.Int64, "fires": pl.Float64, "precision": pl.Float64, "recall": pl.Float64},
    **{"f1": pl.Float64, "single": pl.String, "single_precision": pl.Float64, "single_recall": pl.Float64},
    **{"single_f1": pl.Float64, "always_precision": pl.Float64, "always_recall": pl.Float64, "always_f1": pl.Float64},
}
_INPUTS: dict[str, Any] = {
    **{"unit": pl.String, "letter": pl.String, "input": pl.String, "threshold": pl.Float64, "bits": pl.Float64},
}
_TRUTH: dict[str, Any] = {
    **{"unit": pl.String, "cell": pl.String, "on": pl.String, "fired": pl.Int64, "rested": pl.Int64},
    **{"majority": pl.String, "expression": pl.Boolean},
}
_SCHEMAS = {
    **{"facets": _FACETS, "drivers": _DRIVERS, "cuts": _CUTS, "stimuli": _STIMULI, "formulas": _FORMULAS},
    **{"inputs": _INPUTS, "truth_tables": _TRUTH},
}


def empty_tables() -> dict[str, pl.DataFrame]:
    """All tables, without rows."""
    return {name: pl.DataFrame(schema=schema) for name, schema in _SCHEMAS.items()}


def make_tables(
    units: Sequence[str],
    names: Sequence[Sequence[str]],
    classes: Sequence[str],
    labels: Int64[np.ndarray, " images"],
    stimuli: Sequence[StrongStimuli],
    groups: Sequence[UnitFacets],
    accounts: Sequence[Account | str],
) -> dict[str, pl.DataFrame]:
    """All tables. names: of each unit's input channels. labels: the class of every image, -1 for none."""
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in _SCHEMAS}
    for unit, input_names, strong, group, account in zip(units, names, stimuli, groups, accounts, strict=True):
        kinds = [_class(classes, int(labels[image])) for image in strong.images]
        for k, part in enumerate(group.parts, 1):
            rows["facets"].append(_facet(unit, k, part, [kinds[r] for r in part.rows], len(kinds), input_names))
            rows["drivers"] += [
                {"unit": unit, "facet": k, "rank": r, "input": input_names[i], "push": push, "elsewhere": there}
                for r, (i, push, there) in enumerate(zip(part.inputs, part.pushes, part.elsewhere, strict=True), 1)
            ]
        rows["cuts"] += [
            {"unit": unit, "stimuli": c.size, "larger": c.parts[0], "smaller": c.parts[1]}
            | {"dip": c.dip, "expected": c.expected, "p": c.p, "taken": c.accepted}
            for c in group.division.cuts
        ]
        facet = group.division.labels + 1
        rows["stimuli"] += [
            {"unit": unit, "rank": r + 1, "image": int(strong.images[r]), "place": int(strong.places[r])}
            | {"value": float(strong.values[r]), "facet": int(facet[r]), "class": kinds[r]}
            for r in range(len(kinds))
        ]
        if isinstance(account, Account):
            rows["formulas"].append(_formula(unit, account, input_names))
            rows["inputs"] += [
                {"unit": unit, "letter": letter, "input": input_names[i], "threshold": cut, "bits": bits}
                for letter, i, cut, bits in zip(
                    letters(len(account.inputs)), account.inputs, account.cuts, account.bits, strict=True
                )
            ]
            rows["truth_tables"] += _truth(unit, account, input_names)
    return {name: pl.DataFrame(rows[name], schema=schema) for name, schema in _SCHEMAS.items()}


def sentences(
    units: Sequence[str],
    names: Sequence[Sequence[str]],
    groups: Sequence[UnitFacets],
    accounts: Sequence[Account | str],
    tables: dict[str, pl.DataFrame],
) -> list[Finding]:
    """The facets of the first units that have several, then the Boolean accounts; what is more stands in the tables."""
    lines = [
        facets_sentence(unit, group, tables["facets"].filter(pl.col("unit") == unit))
        for unit, group in zip(units, groups, strict=True)
        if len(group.parts) > 1
    ][:_SEVERAL]
    accounted = []
    for unit, input_names, account in zip(units, names, accounts, strict=True):
        chosen = [input_names[i] for i in account.inputs] if isinstance(account, Account) else []
        single = _single(account, input_names) if isinstance(account, Account) else ""
        accounted.append(account_sentence(unit, account, chosen, single))
    without = [line for line in accounted if not line.weight]
    return [*lines, *[line for line in accounted if line.weight][:_ACCOUNTS], *without]


_SEVERAL, _ACCOUNTS = 2, 3  # units of whose facets and of whose accounts a sentence speaks


def _facet(
    unit: str, number: int, part: Any, kinds: list[str], stimuli: int, input_names: Sequence[str]
) -> dict[str, Any]:
    names, counts = np.unique(kinds, return_counts=True)
    return {
        "unit": unit,
        "facet": number,
        "stimuli": len(kinds),
        "share": len(kinds) / stimuli,
        "top_class": str(names[counts.argmax()]),
        "top_class_share": float(counts.max() / len(kinds)),
        "classes": len(names),
        "inputs": ", ".join(input_names[i] for i in part.inputs),
        "silhouette": None if math.isnan(part.silhouette) else part.silhouette,
    }


def _formula(unit: str, account: Account, input_names: Sequence[str]) -> dict[str, Any]:
    return {
        "unit": unit,
        "expression": account.expression.text([input_names[i] for i in account.inputs]),
        "inputs": ", ".join(input_names[i] for i in account.inputs),
        "products": len(account.expression.products),
        "literals": account.expression.literals,
        "firing": account.firing,
        "images": account.images,
        "fires": account.fires,
        "single": _single(account, input_names),
        **{
            f"{prefix}{what}": None if math.isnan(value) else value
            for prefix, score in (("", account.score), ("single_", account.single_score), ("always_", account.always))
            for what, value in (("precision", score.precision), ("recall", score.recall), ("f1", score.f1))
        },
    }


def _truth(unit: str, account: Account, input_names: Sequence[str]) -> list[dict[str, Any]]:
    inputs = account.table.inputs
    majority, true = account.table.majority, account.expression.cells
    rows = []
    for cell in range(2**inputs):
        bits = f"{cell:0{inputs}b}" if inputs else ""
        on = [input_names[i] for i, bit in zip(account.inputs, bits, strict=True) if bit == "1"]
        counts = {"fired": int(account.table.fired[cell]), "rested": int(account.table.rested[cell])}
        rows.append(
            {"unit": unit, "cell": bits, "on": ", ".join(on), **counts}
            | {"majority": VERDICTS[int(majority[cell])], "expression": bool(true[cell])}
        )
    return rows


def _single(account: Account, input_names: Sequence[str]) -> str:
    return f"NOT {input_names[account.single]}" if account.inverse else input_names[account.single]


_NO_CLASS = "none"


def _class(classes: Sequence[str], label: int) -> str:
    return classes[label] if 0 <= label < len(classes) else _NO_CLASS


_SPELT = 3  # literals; longer expressions are written with letters
_LETTERED = 12  # still longer ones are left to the table


def overall_sentence(units: Sequence[str], groups: Sequence[UnitFacets], stimuli: int) -> Finding:
    """How many of the units have several facets. stimuli: strong stimuli of each, at most."""
    several = [f"{u} ({len(g.parts)})" for u, g in zip(units, groups, strict=True) if len(g.parts) > 1]
    if several:
        many = f"{len(several)} of {plural(len(units), 'unit')}"
        verb = "responds" if len(several) == 1 else "respond"
        return Finding(f"{many} {verb} to several patterns: {listing(several)}.", 1 + 4 * len(several) / len(units))
    cuts = [g.division.cuts[0].p for g in groups if g.division.cuts]
    test = (
        f" (dip test, {chance(cuts[0])})" if len(cuts) == 1 else f" (dip tests, p >= {min(cuts):.2g})" if cuts else ""
    )
    if len(units) == 1:
        return Finding(f"{units[0]} responds to one pattern: its top {stimuli} images form one cluster{test}.", 0.5)
    text = (
        f"Every unit responds to one pattern: the top {stimuli} images of {listing(units)} form one cluster each{test}."
    )
    return Finding(text, 0.5)


def facets_sentence(unit: str, group: UnitFacets, facets: pl.DataFrame) -> Finding:
    """What the facets of one unit are. facets: its rows of the table `facets`."""
    drivers = 3 if len(group.parts) == 2 else 1
    parts = [
        f"{plural(row['stimuli'], 'image')} driven by {listing(row['inputs'].split(', ')[:drivers])}"
        f"{_in_brackets(_classes(row))}"
        for row in facets.iter_rows(named=True)
    ]
    patterns = " and ".join(parts) if len(parts) == 2 else listing(parts, len(parts))
    test = chance(group.division.cuts[0].p)
    return Finding(f"{unit} responds to {len(parts)} patterns: {patterns} (dip test, {test}).", 2.0)


def _classes(row: dict[str, Any]) -> str:
    """The make-up of a facet; nothing where samples have no classes."""
    if row["classes"] == 1:
        return "" if row["top_class"] == _NO_CLASS else f"all of class {row['top_class']}"
    if row["classes"] == row["stimuli"]:
        return "each of another class"
    return f"{percent(row['top_class_share'])} of class {row['top_class']}"


def _in_brackets(words: str) -> str:
    return f" ({words})" if words else ""


def account_sentence(unit: str, account: Account | str, names: Sequence[str], single: str) -> Finding:
    """The unit's best account with its precision and recall. names: of its inputs; single: the best single input."""
    if isinstance(account, str):
        return Finding(f"{unit} has no Boolean account: {account}.", 0.0)
    mine, alone = account.score, account.single_score
    expression = account.expression.text(names)
    images = plural(account.images, "held-out image")
    if expression in ("NEVER", "ALWAYS") or max(mine.f1, alone.f1) < _POOR:
        text = f"No few inputs predict when {unit} fires ({percent(account.fires)} of {images}): it listens to many."
        return Finding(text, 0.5)
    rates = "precision {} and recall {}"
    if mine.f1 <= alone.f1 or account.expression.literals == 1:
        best = rates.format(percent(alone.precision), percent(alone.recall))
        text = f'"{single}" predicts when {unit} fires, with {best} on {images}; more inputs add nothing.'
        return Finding(text, 2 * alone.f1)
    spelt = f'"{expression}"'
    if account.expression.literals > _LETTERED:
        products = plural(len(account.expression.products), "product")
        spelt = f"A sum of {products} of {plural(len(names), 'input')} (see the table `formulas`)"
    elif account.expression.literals > _SPELT:
        signs = letters(len(names))
        key = ", ".join(f"{signs[i]} = {names[i]}" for i in account.expression.named)
        spelt = f'"{account.expression.text(signs)}" (with {key})'
    best, other = (rates.format(percent(one.precision), percent(one.recall)) for one in (mine, alone))
    text = f"{spelt} predicts when {unit} fires, with {best} on {images}; the best single input, {single}, has {other}."
    return Finding(text, 2 * mine.f1)


_POOR = 0.5  # an F1 below says that the account is none


SQUARE = 96  # screen pixels of a patch, about
_GAP = 3
_MARGIN = 64  # room for the words in front of a row
_SOURCE = "after Zeiler and Fergus (2014), Figure 2, and the wheel-or-face cell of 'Interpreting Deep Networks'"
_UNSEEN = "#8f8f8f"


def sheet(unit: str, rows: Sequence[UInt8[np.ndarray, "n height width 3"]], sizes: Sequence[int]) -> Image:
    """One row per facet: its strongest patches. sizes: how many stimuli each facet has."""
    height, width = rows[0].shape[1:3]
    enlarge = max(1, round(SQUARE / max(height, width)))
    size = (height * enlarge, width * enlarge)
    lines = []
    for k, (row, count) in enumerate(zip(rows, sizes, strict=True), 1):
        words = below([caption(f"facet {k}", _MARGIN), caption(f"of {count}", _MARGIN)])
        words = np.pad(words, ((max(0, size[0] - len(words)) // 2, 0), (0, 0), (0, 0)), constant_values=PAPER)
        lines.append(beside([words, *(resize(patch, size, smooth=False) for patch in row)], _GAP))
    columns = max(len(row) for row in rows)
    several = len(rows) > 1
    title = f"{plural(len(rows), 'facet')} of {unit}"
    reading = (
        "One row per facet, its strongest stimuli from left to right, each cut out at the unit's receptive field; the "
        "number of stimuli in the facet stands in front."
        if several
        else "The unit's strongest stimuli from left to right, each cut out at its receptive field: one pattern only."
    )
    alt_text = f"{title}: rows of {listing([str(s) for s in sizes])} stimuli, {columns} patches shown of each."
    return Image(below(lines, _GAP), title, reading, _SOURCE, alt=alt_text)


def karnaugh(unit: str, account: Account, names: Sequence[str]) -> Figure:
    """The truth table of a unit as a Karnaugh map. names: of its input channels, in the order A, B, C, ..."""
    inputs = account.table.inputs
    signs = letters(inputs)
    down = inputs // 2
    majority, true = account.table.majority, account.expression.cells
    rows = []
    for cells, left in zip(karnaugh_map(inputs), _labels(down), strict=True):
        for cell, top in zip(cells, _labels(inputs - down), strict=True):
            fired, rested = int(account.table.fired[cell]), int(account.table.rested[cell])
            total = fired + rested
            on = [n for sign, n in zip(f"{cell:0{inputs}b}", names, strict=True) if sign == "1"]
            rows.append(
                {
                    "row": left,
                    "column": top,
                    "fires": fired / total if total else None,
                    "text": f"{fired}/{total}" if total else "–",
                    "true": bool(true[cell]),
                    "majority": VERDICTS[int(majority[cell])],
                    "on": ", ".join(on) or "none",
                }
            )
    frame = pl.DataFrame(rows, schema_overrides={"fires": pl.Float64})
    across, along = " ".join(signs[down:]), " ".join(signs[:down])
    base = alt.Chart(inline(frame, list(frame.columns))).encode(
        x=alt.X("column:O", sort=_labels(inputs - down), title=across, axis=alt.Axis(orient="top", labelAngle=0)),
        y=alt.Y("row:O", sort=_labels(down), title=along or None, axis=alt.Axis(labels=bool(down), ticks=False)),
        tooltip=[
            alt.Tooltip("text:N", title="fired / images"),
            alt.Tooltip("majority:N"),
            alt.Tooltip("true:N", title="expression"),
            alt.Tooltip("on:N", title="inputs on"),
        ],
    )
    scale = alt.Scale(scheme="blueorange", domain=[0, 0.5, 1])
    legend = alt.Legend(
        title="share that fired", format=".0%", values=[0, 0.5, 1], orient="bottom", direction="horizontal"
    )  # a map of two rows has no room for one at its side
    seen = base.transform_filter("datum.fires !== null").mark_rect()
    unseen = base.transform_filter("datum.fires === null").mark_rect(color=_UNSEEN)
    ink = alt.condition(
        "datum.fires === null || datum.fires < 0.2 || datum.fires > 0.85", alt.value("white"), alt.value("black")
    )
    cells = seen.encode(color=alt.Color("fires:Q", scale=scale, legend=legend))
    frames = (
        base.transform_filter("datum.true").mark_rect(fillOpacity=0, strokeWidth=3).encode(stroke=alt.value("#009e73"))
    )
    words = base.mark_text(fontSize=12).encode(text="text:N", color=ink)
    key = "; ".join(f"{s} = {n} > {c:.3g}" for s, n, c in zip(signs, names, account.cuts, strict=True))
    return make_figure(
        alt.layer(unseen, cells, frames, words),
        f"Karnaugh map of {unit}: {account.expression.text(signs)}",
        "A cell is a combination of the inputs (1: on), and neighbours differ in one. It counts the training images in "
        "which the unit fired, of those seen; gray cells were never seen: they, and ties, are free. "
        f"Framed: where the expression is true. {key}.",
        "Interpreting Deep Networks, 'Karnaugh Maps'",
        height=max(2, 2**down) * 34,
    )


def _labels(bits: int) -> list[str]:
    return [f"{n:0{bits}b}" if bits else "" for n in gray_code(bits)]
