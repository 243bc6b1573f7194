"""What charts share: channels, axes, tips, and the step from an altair chart to a Figure."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import altair as alt
import polars as pl

from netopsy.result import Figure

SYMBOLS = 8  # colours (Okabe-Ito) and point shapes that can be told apart; more series take a sequential ramp

_TICKS = 12  # whole numbers that are all written
_ROLES = 6  # kinds of layers that are drawn apart

_ENDS = ("#085aa6", "#ebebeb", "#91421e")  # of a diverging scale: as dark at either end, and as far from its middle

NAMES = 45  # names that fit side by side along an axis


def make_figure(chart: Any, title: str, reading: str, source: str, *, height: Any) -> Figure:
    """The chart as a Figure: as wide as its place, described, and without a theme of its own."""
    if height is not None:
        chart = chart.properties(width="container", height=height)
    described = chart.properties(description=f"{title}. {reading}")
    with alt.data_transformers.enable("default", consolidate_datasets=False, max_rows=None):
        spec = described.to_dict()
    spec.pop("config", None)
    return Figure(spec=spec, title=title, reading=reading, source=source)


def inline(frame: pl.DataFrame, columns: list[str]) -> alt.InlineData:
    """The rows of `columns` inside the chart: six significant digits, nothing that JSON cannot hold."""
    return alt.InlineData(
        values=[{k: json_value(v) for k, v in row.items()} for row in frame.select(columns).to_dicts()]
    )


def json_value(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def position(kind: Any, frame: pl.DataFrame, column: str, title: str | None, **how: bool) -> Any:
    """An axis for `column`: text stands in order of appearance, numbers on a linear or logarithmic scale."""
    if not frame[column].dtype.is_numeric():
        order = in_order(frame, column)
        # of very many names every so-many-th is written
        labelled = order[:: -(-len(order) // NAMES)] if len(order) > NAMES else alt.Undefined
        axis = alt.Axis(labelAngle=0 if are_short(frame, column) else -40, values=labelled)
        return kind(field=field_name(column), type="ordinal", sort=order, title=title or column, axis=axis)
    axis = value_axis(how.get("percent", False))
    if frame[column].dtype.is_integer():  # no half epochs
        ticks = sorted(frame[column].drop_nulls().unique().to_list())
        axis = alt.Axis(format=",d", tickMinStep=1) if len(ticks) > _TICKS else alt.Axis(format=",d", values=ticks)
    # `apart` keeps marks and their intervals off the axis
    scale = alt.Scale(zero=how.get("zero", False), nice=True, padding=8 if how.get("apart") else alt.Undefined)
    if how.get("log"):
        scale = alt.Scale(type="log", nice=False)
        ticks = sorted(frame[column].drop_nulls().unique().to_list())
        few = ticks if len(ticks) <= 16 else alt.Undefined
        axis = alt.Axis(format=",.6~g", labelOverlap=True, values=few, tickCount=4)
    return kind(field=field_name(column), type="quantitative", title=title or column, axis=axis, scale=scale)


def roles(names: list[str]) -> list[str]:
    """The part that each name's layer plays in its block: its last word, as `conv1` of `layer2.0.conv1`.

    Parts that come once only are `other`. Empty where there are not two to six parts that come again and again.
    """
    words = {name: next((w for w in reversed(name.split(".")) if not w.isdigit()), name) for name in names}
    counts = Counter(words.values())
    repeated = {word for word, count in counts.items() if count > 1}
    if not 2 <= len(repeated) <= _ROLES:
        return []
    return [words[name] if words[name] in repeated else "other" for name in names]


def value_axis(percent: bool) -> Any:
    return alt.Axis(format=".2~%") if percent else alt.Axis()


def whole_labels() -> alt.Axis:
    return alt.Axis(labelLimit=220, labelOverlap=False, ticks=False, domain=False)


def are_short(frame: pl.DataFrame, column: str) -> bool:
    """Whether the values of `column` fit side by side without turning them."""
    names = [str(v) for v in frame[column].unique().to_list()]
    return sum(len(n) + 2 for n in names) <= 72


def legend_channel(frame: pl.DataFrame, column: str, title: str | None) -> dict[str, Any]:
    order = in_order(frame, column)
    # above the chart, which keeps its width on a narrow screen
    legend = alt.Legend(title=title or column, symbolLimit=0, symbolOpacity=1, orient="top", columns=2, labelLimit=170)
    return {
        "field": field_name(column),
        "type": "nominal",
        "sort": order,
        "legend": legend,
        "scale": alt.Scale(domain=order),
    }


def color_channel(frame: pl.DataFrame, column: str, title: str | None) -> alt.Color:
    keys = legend_channel(frame, column, title)
    order = keys["sort"]
    if len(order) > SYMBOLS:
        keys["scale"] = alt.Scale(domain=order, scheme=alt.SchemeParams(name="viridis", extent=[0.1, 0.85]))
        keys["type"] = "ordinal"
    return alt.Color(**keys)


def reference_line(at: float, label: str, percent: bool, axis: str = "y") -> list[alt.Chart]:
    """A dashed line right across the chart at the value `at`, with its label."""
    text = f"{label} {at:.2%}" if percent else f"{label} {at:.4g}"
    base = alt.Chart(alt.InlineData(values=[{"at": json_value(float(at)), "label": text}]))
    channel = alt.Y if axis == "y" else alt.X
    keys = {axis: channel(field="at", type="quantitative")}
    rule = base.mark_rule(strokeDash=[5, 4], strokeWidth=1.2).encode(**keys)
    if axis == "x":
        return [rule.encode(tooltip=alt.Tooltip(field="label", type="nominal"))]
    words = base.mark_text(align="right", baseline="bottom", dy=-3, dx=-2, fontSize=10)
    return [rule, words.encode(**keys, x=alt.value("width"), text=alt.Text(field="label", type="nominal"))]


def sequential(lowest: float, highest: float, reverse: bool = False) -> alt.Scale:
    """Colours from dark to bright in even steps, told apart in gray and with any kind of colour vision (viridis)."""
    return alt.Scale(scheme="viridis", domain=[lowest, highest], reverse=reverse, clamp=True)


def diverging(middle: float, reach: float, reverse: bool = False) -> alt.Scale:
    """Blue below `middle`, orange above, light at it; a straight line in CIELAB on either side, so steps are even.

    In gray both sides darken alike: what is printed in the cells says which.
    """
    ends = _ENDS[::-1] if reverse else _ENDS
    domain = [middle - reach, middle, middle + reach]
    return alt.Scale(domain=domain, range=list(ends), interpolate="lab", clamp=True)


def label_ink(
    value: str, lowest: float, highest: float, middle: float | None, reverse: bool, muted: str | None = None
) -> Any:
    """Black on bright cells and white on dark ones, for either scheme; black on muted ones."""
    field = f"datum[{value!r}]"
    if middle is not None:
        reach = 0.79 * (max(highest - middle, middle - lowest) or 1.0)
        dark = f"abs({field} - {middle}) > {reach}" + (f" && !datum[{muted!r}]" if muted else "")
        return alt.condition(dark, alt.value("white"), alt.value("black"))
    share = 0.57 if reverse else 0.43  # where black and white are as easy to read
    edge = lowest + share * (highest - lowest)
    return alt.condition(f"{field} {'>' if reverse else '<'} {edge}", alt.value("white"), alt.value("black"))


def tip(frame: pl.DataFrame, column: str, *, percent: bool = False) -> alt.Tooltip:
    if not frame[column].dtype.is_numeric():
        return alt.Tooltip(field=field_name(column), type="nominal", title=column)
    form = ".2%" if percent else (",d" if frame[column].dtype.is_integer() else ",.4~g")
    return alt.Tooltip(field=field_name(column), type="quantitative", title=column, format=form)


def in_order(frame: pl.DataFrame, column: str) -> list[Any]:
    """The values of `column` in order of first appearance."""
    return [json_value(v) for v in frame[column].drop_nulls().unique(maintain_order=True).to_list()]


def unique_columns(columns: list[str | None]) -> list[str]:
    return list(dict.fromkeys(c for c in columns if c is not None))


def field_name(column: str) -> str:
    """A column's name as Vega-Lite reads it: dots and brackets are part of the name, not a path."""
    for sign in ("\\", ".", "[", "]"):
        column = column.replace(sign, "\\" + sign)
    return column


def to_float(value: Any) -> float:
    return float(value)
