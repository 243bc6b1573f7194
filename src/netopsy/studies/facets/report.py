"""The tables and sentences of the study `facets`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int64

from netopsy.result import Finding
from netopsy.stats.hypothesis_tests import wilson
from netopsy.studies.facets.account import VERDICTS, Account, letters
from netopsy.studies.facets.circuits import CONFIDENCE, Counted
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
_CIRCUITS: dict[str, Any] = {
    **{"unit": pl.String, "form": pl.String, "expression": pl.String, "terms": pl.Int64, "literals": pl.Int64},
    **{"precision": pl.Float64, "recall": pl.Float64, "f1": pl.Float64, "shortest": pl.Int64},
    **{
        "minimal": pl.Float64,
        "as_good": pl.Float64,
        "exact": pl.Boolean,
        "f1_lowest": pl.Float64,
        "f1_highest": pl.Float64,
    },
    **{"input_sets": pl.Int64, "sets_tried": pl.Int64, "sets_as_good": pl.Int64},
    **{"sets_share_low": pl.Float64, "sets_share_high": pl.Float64},
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
    **{"circuits": _CIRCUITS, "inputs": _INPUTS, "truth_tables": _TRUTH},
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
            rows["circuits"] += _circuits(unit, account, input_names)
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
    told = [line for line in accounted if line.weight][:_ACCOUNTS]
    return [*lines, *told, *circuits_sentence(units, accounts, tables["circuits"]), *without]


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


def _circuits(unit: str, account: Account, input_names: Sequence[str]) -> list[dict[str, Any]]:
    """The shortest sum of products, with the circuits that do as well, then the shortest product of sums.

    shortest, minimal, as_good: numbers of circuits, see `Circuits`; where not `exact`, at least so many.
    sets_share_low, sets_share_high: 95 % interval of the share of other sets of inputs that are as good; no width
    where all were tried.
    """
    names = [input_names[i] for i in account.inputs]
    rows = []
    for form, expression, terms, score in (
        ("sum of products", account.expression, len(account.expression.products), account.score),
        ("product of sums", account.sums, account.sums.terms if account.sums else 0, account.sums_score),
    ):
        if expression is None or score is None:
            continue
        row = {"unit": unit, "form": form, "expression": expression.text(names), "terms": terms}
        row |= {"literals": expression.literals, "f1": score.f1}
        rates = {"precision": score.precision, "recall": score.recall}
        rows.append(row | {name: None if math.isnan(rate) else rate for name, rate in rates.items()})
    if account.circuits and account.other_sets:
        circuits, others = account.circuits, account.other_sets
        counts = {"shortest": circuits.shortest, "minimal": circuits.minimal, "as_good": circuits.as_good}
        rows[0] |= {
            name: counted.number if name == "shortest" else float(counted.number) for name, counted in counts.items()
        }
        rows[0] |= {"exact": all(counted.exact for counted in counts.values())}
        rows[0] |= {"f1_lowest": circuits.lowest, "f1_highest": circuits.highest}
        rows[0] |= {"input_sets": others.sets, "sets_tried": others.tried, "sets_as_good": others.as_good}
        if others.tried:
            share = others.as_good / others.tried
            low, high = (share, share) if others.tried == others.sets else wilson(others.as_good, others.tried)
            rows[0] |= {"sets_share_low": low, "sets_share_high": high}
    return rows


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


def circuits_sentence(units: Sequence[str], accounts: Sequence[Account | str], circuits: pl.DataFrame) -> list[Finding]:
    """Is the shortest circuit the only one? Of the unit with the best account."""
    told = [
        (account.score.f1, unit, account)
        for unit, account in zip(units, accounts, strict=True)
        if isinstance(account, Account) and account.circuits and account.score.f1 >= _POOR
    ]
    if not told:
        return []
    _, unit, account = max(told, key=lambda row: row[0])
    counts, others = account.circuits, account.other_sets
    assert counts is not None
    row = circuits.filter((pl.col("unit") == unit) & (pl.col("form") == "sum of products")).row(0, named=True)
    products = plural(row["terms"], "product")
    if counts.minimal.number == 1 and counts.minimal.exact:
        text = f"The expression of {unit} ({products}) is the only sum of products from which nothing can be left out"
    else:
        text = (
            f"The expression of {unit} ({products}, proven shortest) is one of {_many(counts.shortest)} as short, and "
            f"of {_many(counts.minimal)} from which nothing can be left out, of which {_many(counts.as_good)} "
            f"{'score' if counts.as_good.number != 1 else 'scores'} at least as high on the held-out images"
        )
        text += "" if counts.minimal.exact else f" (lower bounds with {percent(CONFIDENCE)} confidence)"
    if others and others.tried:
        share = percent(others.as_good / others.tried)
        if others.tried < others.sets:
            share += f", 95 % interval {percent(row['sets_share_low'])} to {percent(row['sets_share_high'])}"
        text += f". Of {plural(others.tried, 'other set')} of as many inputs {others.as_good:,} do ({share})"
    return [Finding(f"{text}.", 1.0)]


def _many(counted: Counted) -> str:
    """`12`, `at least 340`, `at least 4.2e18`."""
    text = f"{counted.number:,}" if counted.number < 1e6 else f"{float(f'{counted.number:.1e}'):.2g}".replace("+", "")
    return text if counted.exact else f"at least {text}"


_POOR = 0.5  # an F1 below says that the account is none
