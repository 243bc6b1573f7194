"""How charts look: on a light and a dark page, and in print, where a chart is laid out anew for its width.

In print one unit of a drawing is a point (1/72 inch), so that a font of size 8 is 8 pt on paper at any width.
"""

from __future__ import annotations

import copy
import io
import json
import math
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from netopsy.errors import SettingsError
from netopsy.files import atomic_write

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
        "legend": {
            "labelColor": ink,
            "titleColor": faint,
            "titleFontWeight": "normal",
            "labelLimit": 260,
            "layout": {"top": {"direction": "vertical", "anchor": "start", "margin": 4}},  # one below the other
        },
        "header": {"labelColor": ink, "titleColor": faint},
        "text": {"color": ink},
        "rule": {"color": faint},
        "line": {"strokeWidth": 2, "color": accent},
        "bar": {"color": accent},
        "point": {"color": accent},
        "area": {"color": accent},
    }


THEMES = {"light": theme(dark=False), "dark": theme(dark=True)}

INKS = {"light": ("#000000", "#ffffff"), "dark": ("#e4e8ec", "#14181d")}  # of text and of the ground, in print
PRINT_FONT = "Helvetica, Arial, 'Liberation Sans', sans-serif"
SMALL, LARGE = 7.0, 8.0  # points: of labels, and of titles and captions
FORMATS = ("svg", "pdf", "png")
_UNITS = {"mm": 72 / 25.4, "cm": 720 / 25.4, "in": 72.0, "pt": 1.0}
_NARROWEST, _WIDEST = 57.0, 3400.0  # points: 20 mm and 1.2 m
_CHARACTER = 0.53  # of a font's size: a letter's mean width
_ROW = 0.55  # points of a row of a map or of bars, of the pixels that it takes on a page
_GAP = 12.0  # between small charts
_TALL = 120.0  # of names below an axis; longer ones are broken
_NAMES = 0.42  # of the width that names before a row take at most; longer ones are broken


def points(width: str, dpi: float = 300) -> float:
    """A width as `85mm`, `8.5cm`, `3.3in`, `240pt` or `1000px` (pixels of a PNG at `dpi`) in points.

    Raises SettingsError for other words, and for widths that no page has.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(mm|cm|in|pt|px)\s*", str(width).lower())
    if match is None:
        raise SettingsError(f"width '{width}' is no length: give a number and its unit, as 85mm, 3.3in or 1000px.")
    value = float(match[1]) * (72 / dpi if match[2] == "px" else _UNITS[match[2]])
    if not _NARROWEST - 1 <= value <= _WIDEST:
        raise SettingsError(f"width '{width}' is {value / _UNITS['mm']:.4g} mm: a figure has 20 to 1200 mm.")
    return value


def whole_dots(width: float, dpi: float) -> float:
    """The width in points nearest to `width` that is a whole number of dots, and a trace more: a PNG's is cut off."""
    return (round(width / 72 * dpi) + 0.02) * 72 / dpi


def check_print(format: str, theme: str, dpi: float, *more: str) -> None:
    """Raises SettingsError for a format (`more` are taken too), a theme or a resolution that there is not."""
    if format not in (*FORMATS, *more):
        raise SettingsError(
            f"no format '{format}' for this figure; it can be written as {', '.join((*FORMATS, *more))}."
        )
    if theme not in INKS:
        raise SettingsError(f"no theme '{theme}'; there are {' and '.join(INKS)}.")
    if not 30 <= dpi <= 2400:
        raise SettingsError(f"{dpi:g} dots per inch: give 30 to 2400; 300 is usual in print.")


def write_svg(svg: str, path: Path, format: str, dpi: float) -> None:
    """A drawing whose unit is the point, as a file: an SVG in millimetres, a PDF, or a PNG at `dpi`."""
    import vl_convert

    data = svg.encode()
    if format == "pdf":
        data = vl_convert.svg_to_pdf(svg)
    elif format == "png":
        data = vl_convert.svg_to_png(svg, ppi=dpi)
    else:
        width, height = svg_size(svg)
        data = _resized(svg, *(f"{side / _UNITS['mm']:.4f}mm" for side in (width, height))).encode()
    _write(data, path)


def write_arrays(arrays: dict[str, np.ndarray], path: Path) -> None:
    """Arrays by name as one npz file, which `numpy.load` opens."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    _write(buffer.getvalue(), path)


def _write(data: bytes, path: Path) -> None:
    try:
        with atomic_write(path) as part:
            part.write_bytes(data)
    except OSError as error:
        raise SettingsError(f"cannot write '{path}' ({error.strerror}): give another file.") from error


def text_width(text: str, size: float) -> float:
    """About how many points a line of text takes."""
    return len(text) * _CHARACTER * size


def svg_size(svg: str) -> tuple[float, float]:
    """Width and height that an SVG says of itself, without units."""
    width, height = re.findall(r'\s(?:width|height)="([0-9.]+)"', svg[: svg.index(">")])[:2]
    return float(width), float(height)


def _resized(svg: str, width: str, height: str) -> str:
    end = svg.index(">")
    head = re.sub(r'\swidth="[^"]*"', f' width="{width}"', svg[:end], count=1)
    return re.sub(r'\sheight="[^"]*"', f' height="{height}"', head, count=1) + svg[end:]


def chart_svg(spec: dict[str, Any], width: float, theme: str = "light") -> str:
    """A chart in print as an SVG, `width` points wide.

    Sizes of text are 7 to 8 points and names whole, whatever the specification asks for; the chart itself takes what
    room they leave. spec: Vega-Lite, with its data.
    """
    import vl_convert

    laid = _print_spec(spec, width)
    inner = laid["spec"] if "facet" in laid and "spec" in laid else laid
    across = laid.get("columns", 1) if inner is not laid else 1
    config = _print_theme(theme)
    svg, total = "", 0.0
    for _ in range(4):
        svg = str(vl_convert.vegalite_to_svg(laid, config=config))
        total = svg_size(svg)[0]
        room = inner.get("width")
        if abs(total - width) < 0.5 or not isinstance(room, float):
            break
        inner["width"] = max(24.0, room + (width - total) / across)
    _, height = svg_size(svg)
    return _resized(svg, f"{width:.4f}", f"{height * width / total:.4f}")


def _print_theme(name: str) -> dict[str, Any]:
    ink, ground = INKS[name]
    config = copy.deepcopy(THEMES[name])
    config |= {"background": ground, "font": PRINT_FONT, "padding": 2, "lineBreak": "\n", "facet": {"spacing": _GAP}}
    size = {"labelFontSize": SMALL, "titleFontSize": LARGE, "labelLimit": 0, "titleLimit": 0}
    config["axis"] |= size | {"labelColor": ink, "titleColor": ink, "labelOverlap": "greedy", "labelSeparation": 4}
    config["axis"] |= {
        "tickSize": 3,
        "titlePadding": 4,
        "labelPadding": 2,
        "domainColor": ink,
        "tickColor": ink,
        "gridWidth": 0.5,
    }
    config["legend"] |= size | {"titleFontSize": SMALL, "titleColor": ink, "symbolSize": 40, "symbolStrokeWidth": 1.2}
    config["legend"] |= {"rowPadding": 1, "columnPadding": 8, "titlePadding": 2, "gradientThickness": 7, "offset": 5}
    config["header"] = {"labelColor": ink, "labelFontSize": SMALL, "labelLimit": 0, "labelPadding": 3}
    config["text"] |= {"fontSize": SMALL, "color": ink}
    config["line"] |= {"strokeWidth": 1.2}
    config["point"] |= {"size": 16}
    return config


def _print_spec(spec: dict[str, Any], width: float) -> dict[str, Any]:
    """The specification with what is said of sizes in pixels said for paper."""
    laid = {key: value for key, value in copy.deepcopy(spec).items() if key not in ("config", "autosize", "title")}
    for part in _dicts(laid):
        part.pop("tooltip", None)
        part.pop("params", None) if "mark" in part else None
        for key in ("labelLimit", "titleLimit"):
            if key in part:
                part[key] = 0
        if isinstance(part.get("mark"), dict):
            _print_mark(part["mark"])
    if "facet" in laid and "spec" in laid:
        return _print_facets(laid, width)
    if "layer" not in laid and "mark" not in laid:
        return laid  # charts side by side: as they are, fitted to the width
    _print_view(laid, width)
    return laid


def _print_mark(mark: dict[str, Any]) -> None:
    if "fontSize" in mark:
        mark["fontSize"] = SMALL
    if "size" in mark:
        mark["size"] *= 0.42
    if "strokeWidth" in mark:
        mark["strokeWidth"] = max(0.5, 0.6 * mark["strokeWidth"])


def _print_facets(laid: dict[str, Any], width: float) -> dict[str, Any]:
    """Small charts in as many columns as their names and axes have room for."""
    facet = laid["facet"]
    names = [str(name) for name in _values(laid, facet.get("field", ""))]
    lines = [_break_name(name, (width - 40) / 1.15) for name in names]  # they are bold
    for part in _dicts(laid):
        for row in (part.get("data") or {}).get("values", []):
            if row.get(facet.get("field")) is not None:
                row[facet["field"]] = "\n".join(_break_name(str(row[facet["field"]]), (width - 40) / 1.15))
    if isinstance(facet.get("sort"), list):
        facet["sort"] = ["\n".join(_break_name(str(name), (width - 40) / 1.15)) for name in facet["sort"]]
    least = max(68.0, 1.15 * _longest(lines) + 8)
    columns = max(1, min(int(laid.get("columns") or 3), len(names) or 1, int((width + _GAP) / (least + _GAP))))
    laid["columns"] = columns
    _print_view(laid["spec"], (width - (columns - 1) * _GAP) / columns, legends=width, data=laid)
    return laid


def _print_view(view: dict[str, Any], width: float, *, legends: float = 0.0, data: Any = None) -> None:
    """One chart of `width` points with its axes; legends may be wider where they stand over several."""
    channels = list(_channels(view))
    shared = view if data is None else data
    down = [channel for name, channel in channels if name == "y"]
    rows = bool(down) and down[0].get("type") in ("ordinal", "nominal")
    asked = float(view["height"]) if isinstance(view.get("height"), (int, float)) else 300.0
    height = _ROW * asked if rows else min(0.75 * asked, max(90.0, 0.62 * width))
    margin = 30.0
    if rows:
        names = [str(value) for value in _order(down[0], shared)]
        axis = down[0].setdefault("axis", {})
        lines = _break_names(axis, names, _NAMES * width)
        axis["labelOffset"] = -0.55 * SMALL * (max(map(len, lines), default=1) - 1)
        margin = _longest(lines) + 16
        height = max(height, len(names) * (max(map(len, lines), default=1) * SMALL * 1.1 + 1))
    room = max(24.0, width - margin)
    view["width"], view["height"] = float(room), height
    for name, channel in channels:
        if name == "x" and channel.get("type") in ("ordinal", "nominal"):
            _print_names(channel, shared, room)
        if name in ("x", "y") and isinstance(channel.get("title"), str):
            channel["title"] = _wrap(channel["title"], height if name == "y" else room)
        if isinstance(channel.get("legend"), dict):
            _print_legend(channel, shared, legends or width)
    _drop_crowded(view, shared, room)


def _print_names(channel: dict[str, Any], shared: Any, room: float) -> None:
    """Names along an axis: upright where they do not fit side by side, every so-many-th where there are too many."""
    axis, order = channel.get("axis") or {}, _order(channel, shared)
    share = str(axis.get("format", "")).endswith("%")
    names = [f"{value:.0%}" if share and isinstance(value, float) else str(value) for value in order]
    if not names:
        return
    each = room / len(names)
    fits = all(text_width(name, SMALL) + 4 <= each for name in names)
    axis = {key: value for key, value in axis.items() if key not in ("labelAngle", "labelOverlap", "values")}
    axis["labelAngle"], axis["labelOverlap"] = 0 if fits else -90, False
    step = 1 if fits else math.ceil((SMALL + 1) / each)
    if step > 1:
        axis["values"] = order[::step]
    elif not fits:
        broken = [len(_break_name(name, _TALL)) for name in names]
        if max(broken) * SMALL * 1.1 <= each:
            _break_names(axis, names, _TALL)
            axis["labelOffset"] = -0.55 * SMALL * (max(broken) - 1)
    channel["axis"] = axis


def _print_legend(channel: dict[str, Any], shared: Any, width: float) -> None:
    legend = channel["legend"]
    if channel.get("type") == "quantitative":
        legend |= {"orient": "top", "direction": "horizontal", "gradientLength": min(150.0, 0.5 * width)}
        return
    order = _order(channel, shared)
    lines = _break_names(legend, [str(value) for value in order], width - 26)
    legend["orient"] = "top"
    legend["columns"] = max(1, min(4, len(order) or 1, int(width / (_longest(lines) + 26))))
    if isinstance(legend.get("title"), str):
        legend["title"] = _wrap(legend["title"], width)


def _drop_crowded(view: dict[str, Any], shared: Any, room: float) -> None:
    """Leave out numbers in cells that are too narrow for them: the colour says it, and the table."""
    across = next((channel for name, channel in _channels(view) if name == "x"), {})
    if across.get("type") not in ("ordinal", "nominal"):
        return
    order = _order(across, shared)
    cells = any(_mark_type(layer) == "rect" for layer in view.get("layer", []))
    if cells and order and room / len(order) < text_width("100.0%", SMALL) + 2:
        view["layer"] = [
            layer
            for layer in view["layer"]
            if _mark_type(layer) != "text" or layer.get("encoding", {}).get("text", {}).get("type") != "quantitative"
        ]


def _mark_type(view: dict[str, Any]) -> str:
    mark = view.get("mark", "")
    return str(mark.get("type", "") if isinstance(mark, dict) else mark)


def _break_names(labels: dict[str, Any], names: list[str], room: float) -> list[list[str]]:
    """The lines of each name, broken behind a dot or the like where one is too long; an axis or legend is told so."""
    lines = [_break_name(name, room) for name in names]
    if any(len(parts) > 1 for parts in lines):
        table = json.dumps(dict(zip(names, lines, strict=True)))
        labels["labelExpr"] = f"({table})[datum.label] || datum.label"
        labels["labelLineHeight"] = SMALL * 1.1
    return lines


def _longest(lines: list[list[str]]) -> float:
    """Points of the longest line of all names."""
    return max((text_width(line, SMALL) for name in lines for line in name), default=0.0)


def _break_name(name: str, room: float) -> list[str]:
    lines = [""]
    for part in re.findall(r"[^._/ :-]+[._/ :-]*|[._/ :-]+", name) or [name]:
        if lines[-1] and text_width(lines[-1] + part, SMALL) > room:
            lines.append("")
        lines[-1] += part
    return lines


def _wrap(text: str, room: float) -> str | list[str]:
    lines = textwrap.wrap(text, max(8, int(room / (_CHARACTER * LARGE))), break_long_words=False)
    return lines if len(lines) > 1 else text


def _dicts(node: Any) -> Iterator[dict[str, Any]]:
    """All dictionaries of a specification but its data."""
    if isinstance(node, dict):
        yield node
        for key, value in list(node.items()):
            if key not in ("data", "datasets"):
                yield from _dicts(value)
    elif isinstance(node, list):
        for value in node:
            yield from _dicts(value)


def _channels(view: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The channels of a view and of its layers, by name; of one that depends on a condition the condition's."""
    for name, channel in view.get("encoding", {}).items():
        if isinstance(channel, dict):
            inner = channel.get("condition")
            yield name, inner if isinstance(inner, dict) and "field" in inner else channel
    for layer in view.get("layer", []):
        yield from _channels(layer)


def _order(channel: dict[str, Any], shared: dict[str, Any]) -> list[Any]:
    """The values of a channel that holds names, in the order in which they are drawn."""
    order = channel.get("sort")
    return order if isinstance(order, list) else _values(shared, channel.get("field", ""))


def _values(node: dict[str, Any], field: str) -> list[Any]:
    """The distinct values of a field in the data of a specification, in order."""
    name = field.replace("\\", "")
    rows = [row for part in _dicts(node) for row in (part.get("data") or {}).get("values", [])]
    return list(dict.fromkeys(row[name] for row in rows if row.get(name) is not None))
