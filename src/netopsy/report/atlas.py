"""An atlas as plain data for its page."""

from __future__ import annotations

import base64
from typing import Any

import polars as pl

from netopsy.result import Atlas

_WORDS = ("node", "layer", "channel", "class")


def atlas_words(study: str, name: str, atlas: Atlas) -> dict[str, Any]:
    """What a page says of an atlas before it is opened."""
    return {
        "page": f"{study}-{name}",
        "title": atlas.title,
        "reading": atlas.reading,
        "source": atlas.source,
        "units": atlas.units.height,
        "layers": len(atlas.sheets),
        "reconstructed": any(atlas.rules.values()),
    }


def atlas_data(atlas: Atlas) -> tuple[dict[str, Any], list[str]]:
    """What the page's script reads, and its sheets as base64; units and sheets are told apart by their positions."""
    classes: dict[str, int] = {}

    def number(name: str | None) -> int:
        return -1 if not name else classes.setdefault(name, len(classes))

    figures = [name for name in atlas.units.columns if name not in _WORDS]
    by_unit: dict[tuple[str, int], list[list[Any]]] = {}
    columns = ("node", "channel", "value", "image", "class")
    for node, channel, value, image, name in atlas.stimuli.select(columns).iter_rows():
        by_unit.setdefault((node, channel), []).append([_short(value), image, number(name)])
    layers: list[dict[str, Any]] = []
    sheets: list[str] = []
    for node, own in atlas.sheets.items():
        rows = atlas.units.filter(pl.col("node") == node)
        back = bool(atlas.rules.get(node))
        units = [
            [row["channel"], number(row["class"]), *(_short(row[figure]) for figure in figures)]
            for row in rows.iter_rows(named=True)
        ]
        layers.append(
            {
                "node": node,
                "back": back,
                "tile": list(own[0].tile),
                "held": own[0].count // (atlas.top * (2 if back else 1)),  # units on a sheet; the last may have fewer
                "sheets": list(range(len(sheets), len(sheets) + len(own))),
                "units": units,
                "stimuli": [by_unit.get((node, row[0]), []) for row in units],
            }
        )
        sheets += [base64.b64encode(sheet.data).decode() for sheet in own]
    data = {"top": atlas.top, "classes": list(classes), "figures": figures, "layers": layers}
    return data, sheets


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value
