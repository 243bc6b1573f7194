"""The tables of the study `facets`, and its sentences unit by unit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int64

from netopsy.studies.facets import findings
from netopsy.studies.facets.account import VERDICTS, Account, letters
from netopsy.studies.facets.choose import Facets
from netopsy.studies.facets.measure import Stimuli

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


def empty() -> dict[str, pl.DataFrame]:
    """All tables, without rows."""
    return {name: pl.DataFrame(schema=schema) for name, schema in _SCHEMAS.items()}


def make(
    units: Sequence[str],
    names: Sequence[Sequence[str]],
    classes: Sequence[str],
    labels: Int64[np.ndarray, " images"],
    stimuli: Sequence[Stimuli],
    groups: Sequence[Facets],
    accounts: Sequence[Account | str],
) -> dict[str, pl.DataFrame]:
    """All tables. names: of each unit's input channels. labels: the class of every image, -1 for none."""
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in _SCHEMAS}
    for unit, own, strong, found, told in zip(units, names, stimuli, groups, accounts, strict=True):
        kinds = [_class(classes, int(labels[image])) for image in strong.images]
        for k, part in enumerate(found.parts, 1):
            rows["facets"].append(_facet(unit, k, part, [kinds[r] for r in part.rows], len(kinds), own))
            rows["drivers"] += [
                {"unit": unit, "facet": k, "rank": r, "input": own[i], "push": push, "elsewhere": there}
                for r, (i, push, there) in enumerate(zip(part.inputs, part.pushes, part.elsewhere, strict=True), 1)
            ]
        rows["cuts"] += [
            {"unit": unit, "stimuli": c.size, "larger": c.parts[0], "smaller": c.parts[1]}
            | {"dip": c.dip, "expected": c.expected, "p": c.p, "taken": c.taken}
            for c in found.division.cuts
        ]
        facet = found.division.labels + 1
        rows["stimuli"] += [
            {"unit": unit, "rank": r + 1, "image": int(strong.images[r]), "place": int(strong.places[r])}
            | {"value": float(strong.values[r]), "facet": int(facet[r]), "class": kinds[r]}
            for r in range(len(kinds))
        ]
        if isinstance(told, Account):
            rows["formulas"].append(_formula(unit, told, own))
            rows["inputs"] += [
                {"unit": unit, "letter": letter, "input": own[i], "threshold": cut, "bits": bits}
                for letter, i, cut, bits in zip(
                    letters(len(told.inputs)), told.inputs, told.cuts, told.bits, strict=True
                )
            ]
            rows["truth_tables"] += _truth(unit, told, own)
    return {name: pl.DataFrame(rows[name], schema=schema) for name, schema in _SCHEMAS.items()}


def sentences(
    units: Sequence[str],
    names: Sequence[Sequence[str]],
    groups: Sequence[Facets],
    accounts: Sequence[Account | str],
    tables: dict[str, pl.DataFrame],
) -> list[str]:
    """Two findings a unit: its facets, and its Boolean account."""
    said = []
    for unit, own, found, told in zip(units, names, groups, accounts, strict=True):
        said.append(findings.of_facets(unit, found, tables["facets"].filter(pl.col("unit") == unit)))
        chosen = [own[i] for i in told.inputs] if isinstance(told, Account) else []
        said.append(findings.of_account(unit, told, chosen, _single(told, own) if isinstance(told, Account) else ""))
    return said


def _facet(unit: str, number: int, part: Any, kinds: list[str], stimuli: int, own: Sequence[str]) -> dict[str, Any]:
    names, counts = np.unique(kinds, return_counts=True)
    return {
        "unit": unit,
        "facet": number,
        "stimuli": len(kinds),
        "share": len(kinds) / stimuli,
        "top_class": str(names[counts.argmax()]),
        "top_class_share": float(counts.max() / len(kinds)),
        "classes": len(names),
        "inputs": ", ".join(own[i] for i in part.inputs),
        "silhouette": None if math.isnan(part.silhouette) else part.silhouette,
    }


def _formula(unit: str, told: Account, own: Sequence[str]) -> dict[str, Any]:
    return {
        "unit": unit,
        "expression": told.expression.text([own[i] for i in told.inputs]),
        "inputs": ", ".join(own[i] for i in told.inputs),
        "products": len(told.expression.products),
        "literals": told.expression.literals,
        "firing": told.firing,
        "images": told.images,
        "fires": told.fires,
        "single": _single(told, own),
        **{
            f"{prefix}{what}": None if math.isnan(value) else value
            for prefix, score in (("", told.score), ("single_", told.single_score), ("always_", told.always))
            for what, value in (("precision", score.precision), ("recall", score.recall), ("f1", score.f1))
        },
    }


def _truth(unit: str, told: Account, own: Sequence[str]) -> list[dict[str, Any]]:
    inputs = told.table.inputs
    majority, true = told.table.majority, told.expression.cells
    rows = []
    for cell in range(2**inputs):
        bits = f"{cell:0{inputs}b}" if inputs else ""
        on = [own[i] for i, bit in zip(told.inputs, bits, strict=True) if bit == "1"]
        counts = {"fired": int(told.table.fired[cell]), "rested": int(told.table.rested[cell])}
        rows.append(
            {"unit": unit, "cell": bits, "on": ", ".join(on), **counts}
            | {"majority": VERDICTS[int(majority[cell])], "expression": bool(true[cell])}
        )
    return rows


def _single(told: Account, own: Sequence[str]) -> str:
    return f"NOT {own[told.single]}" if told.inverse else own[told.single]


def _class(classes: Sequence[str], label: int) -> str:
    return classes[label] if 0 <= label < len(classes) else "none"
