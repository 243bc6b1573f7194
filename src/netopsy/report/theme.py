"""How charts look on a light and on a dark page, as Vega configurations."""

from __future__ import annotations

from typing import Any

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
