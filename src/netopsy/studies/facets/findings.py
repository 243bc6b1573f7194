"""The sentences of the study `facets`."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from netopsy.studies.facets.account import Account, letters
from netopsy.studies.facets.choose import UnitFacets
from netopsy.wording import listing, plural

_SPELT = 3  # literals; longer expressions are written with letters
_LETTERED = 12  # still longer ones are left to the table


def overall(units: Sequence[str], groups: Sequence[UnitFacets]) -> str:
    """How many of the units have several facets."""
    several = [u for u, g in zip(units, groups, strict=True) if len(g.parts) > 1]
    if not several:
        return f"Each of {plural(len(units), 'unit')} has one facet only: {listing(list(units))}."
    counts = [f"{u} ({len(g.parts)})" for u, g in zip(units, groups, strict=True) if len(g.parts) > 1]
    rest = len(units) - len(several)
    tail = f"; {'the other has' if rest == 1 else f'the other {rest} have'} one facet only" if rest else ""
    verb = "is an OR" if len(several) == 1 else "are ORs"
    return f"{len(several)} of {plural(len(units), 'unit')} {verb} of several patterns: {listing(counts)}{tail}."


def of_facets(unit: str, found: UnitFacets, facets: pl.DataFrame) -> str:
    """What the facets of one unit are, or plainly that there is one. facets: its rows of the table `facets`."""
    stimuli = int(facets["stimuli"].sum())
    cut = found.division.cuts[0] if found.division.cuts else None
    if len(found.parts) == 1:
        why = "too few of them lie apart to form a second" if cut is None else _dip(cut.dip, cut.expected, cut.p)
        return f"{unit} has one facet only: its {stimuli} strong stimuli form one cloud ({why}), {_classes(facets)}."
    parts = [
        f"{row['stimuli']} stimuli driven by {listing(row['inputs'].split(', '))} ({_class(row)})"
        for row in facets.iter_rows(named=True)
    ]
    assert cut is not None
    return (
        f"{unit} is an OR of {len(parts)} patterns: {', or '.join(parts)}; {_dip(cut.dip, cut.expected, cut.p)}, mean "
        f"silhouette {(facets['silhouette'] * facets['stimuli']).sum() / stimuli:.2f}."
    )


def _dip(dip: float, expected: float, p: float) -> str:
    chance = f"{p:.2g}" if p >= 1e-4 else "below 0.0001"
    return f"dip {dip:.3f} where clouds without groups show {expected:.3f}, p {chance}"


def _class(row: dict[str, object]) -> str:
    if row["classes"] == row["stimuli"]:
        return "each of another class"
    if row["classes"] == 1:
        return f"all of class {row['top_class']}"
    return f"{row['top_class_share']:.0%} of class {row['top_class']}, {row['classes']} classes in all"


def _classes(facets: pl.DataFrame) -> str:
    return _class(facets.row(0, named=True))


def of_account(unit: str, found: Account | str, names: Sequence[str], single: str) -> str:
    """The unit's expression with its precision and recall. names: of its inputs; single: the best single input."""
    if isinstance(found, str):
        return f"{unit}: {found}."
    mine, alone = found.score, found.single_score
    expression = found.expression.text(names)
    head = f"{unit} fires on {found.fires:.1%} of {plural(found.images, 'held-out image')}"
    if expression in ("NEVER", "ALWAYS"):
        return (
            f"{head}, and its most decisive inputs do not say when: the majority of every combination "
            f"{'rests' if expression == 'NEVER' else 'fires'}. It listens to many inputs, not to a few."
        )
    if found.expression.literals > _SPELT:
        signs = letters(len(names))
        named = ", ".join(f"{signs[i]} = {names[i]}" for i in found.expression.named)
        expression = f"{found.expression.text(signs)} (with {named})"
    if found.expression.literals > _LETTERED:
        products = plural(len(found.expression.products), "product")
        expression = f"a sum of {products} of {plural(len(names), 'input')} (see the table `formulas`)"
    rule = (
        f"{head}; {expression} says when, with precision {mine.precision:.0%} and recall {mine.recall:.0%} "
        f"(the best single input, {single}: {alone.precision:.0%} and {alone.recall:.0%}; always: "
        f"{found.always.precision:.0%} and 100%)"
    )
    if mine.f1 <= alone.f1 and found.expression.literals > 1:
        return f"{rule}. The single input does as well or better (F1 {alone.f1:.2f} against {mine.f1:.2f})."
    if mine.f1 < 0.5:
        return f"{rule}. With F1 {mine.f1:.2f} that is a poor account: the unit listens to many inputs, not to a few."
    return f"{rule}."
