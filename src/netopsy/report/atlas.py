"""An atlas as plain data for its page, and how charts look on a light and on a dark page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import polars as pl

from netopsy.result import Atlas, Passage, Sheet

# Okabe and Ito's colours, told apart with any kind of colour vision; black becomes the ink of the page
_LIGHT = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#8C8C00", "#444444"]
_DARK = ["#56B4E9", "#E69F00", "#2FC79A", "#E39AC0", "#7FA7FF", "#F4C95D", "#D5D54A", "#BBBBBB"]
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif"


def theme(*, dark: bool) -> dict[str, Any]:
    """A Vega-Lite configuration without a background of its own."""
    ink, faint, grid = ("#e4e8ec", "#a3adb7", "#343c45") if dark else ("#1d252d", "#5b6771", "#e6e9ec")
    accent = (_DARK if dark else _LIGHT)[0]
    return {
        "background": "transparent",
        "font": _FONT,
        "view": {"stroke": "transparent"},
        "range": {"category": _DARK if dark else _LIGHT},
        "title": {"color": ink},
        "axis": {
            "labelColor": faint,
            "titleColor": faint,
            "titleFontWeight": "normal",
            "gridColor": grid,
            "domainColor": faint,
            "tickColor": grid,
            "labelFontSize": 11,
            "titleFontSize": 12,
            "labelLimit": 260,
        },
        "legend": {"labelColor": ink, "titleColor": faint, "titleFontWeight": "normal", "labelLimit": 260},
        "header": {"labelColor": ink, "titleColor": faint},
        "text": {"color": ink},
        "rule": {"color": faint},
        "line": {"strokeWidth": 2, "color": accent},
        "bar": {"color": accent},
        "point": {"color": accent},
        "area": {"color": accent},
    }


THEMES = {"light": theme(dark=False), "dark": theme(dark=True)}


_WORDS = ("node", "layer", "channel", "class")


def atlas_words(study: str, name: str, atlas: Atlas) -> dict[str, Any]:
    """What a page says of an atlas before it is opened."""
    return {
        "page": f"{study}-{name}",
        "title": atlas.title,
        "reading": atlas.reading,
        "source": atlas.source,
        "units": atlas.units.height,
        "layers": len(atlas.sheets) + len(atlas.texts),
        "classes": atlas.stimuli["class"].is_not_null().any(),
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
    for node in [*atlas.sheets, *atlas.texts]:
        node_sheets, texts = atlas.sheets.get(node, ()), atlas.texts.get(node, ())
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
                **_sheet_words(node_sheets, atlas.top * (2 if back else 1)),
                "texts": [[_pieces(passage) for passage in unit] for unit in texts],
                "sheets": list(range(len(sheets), len(sheets) + len(node_sheets))),
                "units": units,
                "stimuli": [by_unit.get((node, row[0]), []) for row in units],
            }
        )
        sheets += [base64.b64encode(sheet.data).decode() for sheet in node_sheets]
    data = {"top": atlas.top, "noun": atlas.noun, "classes": list(classes), "figures": figures, "layers": layers}
    return data, sheets


def shade_style(shade: float) -> str:
    """The name of a shade's style: `w1` to `w9` above zero, `c1` to `c9` below, empty where there is none."""
    level = round(9 * min(1.0, abs(shade)))
    return f"{'w' if shade > 0 else 'c'}{level}" if level else ""


def _sheet_words(sheets: Sequence[Sheet], pictures: int) -> dict[str, Any]:
    """The size of a node's pictures, and how many units lie on a sheet; the last may have fewer."""
    return {"tile": list(sheets[0].tile), "held": sheets[0].count // pictures} if sheets else {}


def _pieces(passage: Passage) -> list[Any]:
    return [passage.mark, [[t, shade_style(s)] for t, s in zip(passage.pieces, passage.shades, strict=True)]]


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value
