"""Charts that every study draws: polars frames in, `Figure` out. Imports no torch.

A chart holds its data, its reading and a description for screen readers, and no colours of the page: the report lays
a light or a dark theme over it (`netopsy.report.theme`). Categories keep the order in which they first appear, so
layers stay in the order of execution. Shares run from 0 to 1 and are shown in per cent with `percent=True`.
"""

from __future__ import annotations

import math
from typing import Any

import altair as alt
import polars as pl

from netopsy.result import Figure

SYMBOLS = 8  # colours (Okabe-Ito) and point shapes that can be told apart; more series take a sequential ramp
LABELLED_CELLS = 400  # a heat map of at most this many cells prints its values
ROW = 22  # pixels of a row of a heat map or of a bar


def curve(
    frame: pl.DataFrame,
    x: str,
    y: str,
    *,
    title: str,
    reading: str,
    source: str = "",
    color: str | None = None,
    low: str | None = None,
    high: str | None = None,
    x_title: str | None = None,
    y_title: str | None = None,
    color_title: str | None = None,
    log_x: bool = False,
    percent: bool = False,
    percent_x: bool = False,
    zero: bool = False,
    reference: float | None = None,
    reference_label: str = "unedited",
    points: bool = True,
    height: int = 300,
) -> Figure:
    """`y` over `x` as a line, one a value of `color`, with a band from `low` to `high` and a dashed line at `reference`.

    `x` may be text: its values then stand side by side in order of appearance. With more than eight series the colours
    run from dark to bright in order of appearance, so that depth can be read from them.
    """
    columns = _unique([x, y, color, low, high])
    keys = {
        "x": _position(alt.X, frame, x, x_title, log=log_x, percent=percent_x, zero=False),
        "y": _position(alt.Y, frame, y, y_title, percent=percent, zero=zero),
    }
    tooltip = [_tip(frame, c, percent=(percent and c in (y, low, high)) or (percent_x and c == x)) for c in columns]
    chosen = None
    if color is not None:
        keys["color"] = _color(frame, color, color_title)
        chosen = alt.selection_point(fields=[color], bind="legend")
    base = alt.Chart(_data(frame, columns))
    layers: list[alt.Chart] = []
    if low is not None and high is not None:
        band = {**keys, "y": alt.Y(field=_name(low), type="quantitative"), "y2": alt.Y2(field=_name(high))}
        layers.append(base.mark_area(opacity=0.18, tooltip=False).encode(**band))
    line = base.mark_line(strokeWidth=2, tooltip=True).encode(**keys, tooltip=tooltip)
    if chosen is not None:
        line = line.encode(opacity=alt.condition(chosen, alt.value(1.0), alt.value(0.12))).add_params(chosen)
    layers.append(line)
    if points:
        dots = base.mark_point(size=36, filled=True, opacity=1).encode(**keys, tooltip=tooltip)
        if color is not None and frame[color].n_unique() <= SYMBOLS:
            dots = dots.encode(shape=alt.Shape(**_legend(frame, color, color_title)))
        if chosen is not None:
            dots = dots.encode(opacity=alt.condition(chosen, alt.value(1.0), alt.value(0.08)))
        layers.append(dots)
    if reference is not None:
        layers += _reference(reference, reference_label, percent)
    return _figure(alt.layer(*layers), title, reading, source, height=height)


def heatmap(
    frame: pl.DataFrame,
    x: str,
    y: str,
    value: str,
    *,
    title: str,
    reading: str,
    source: str = "",
    percent: bool = False,
    percent_x: bool = False,
    middle: float | None = None,
    reverse: bool = False,
    domain: tuple[float, float] | None = None,
    x_title: str | None = None,
    y_title: str | None = None,
    value_title: str | None = None,
    labels: bool | None = None,
) -> Figure:
    """`value` as the colour of the cell at column `x` and row `y`, for example strength by layer.

    Columns and rows stand in order of appearance, numbers too. `middle` takes a diverging scale around that value;
    else dark is low and bright is high (`reverse` turns it round). `labels` prints the values; by default in maps of
    at most 400 cells with at most 12 columns.
    """
    values = frame[value].cast(pl.Float64).fill_nan(None).drop_nulls()
    lowest, highest = domain or ((_float(values.min()), _float(values.max())) if len(values) else (0.0, 1.0))
    columns, rows = frame[x].n_unique(), frame[y].n_unique()
    if labels is None:
        labels = columns <= 12 and columns * rows <= LABELLED_CELLS
    scale = alt.Scale(scheme="viridis", domain=[lowest, highest], reverse=reverse, clamp=True)
    if middle is not None:
        reach = max(highest - middle, middle - lowest) or 1.0
        scale = alt.Scale(
            scheme="blueorange", domain=[middle - reach, middle, middle + reach], reverse=reverse, clamp=True
        )
    form = ".1%" if percent else ".3~g"
    color = alt.Color(
        field=_name(value),
        type="quantitative",
        scale=scale,
        legend=alt.Legend(title=value_title or value, format=".2~%" if percent else "~g", gradientLength=160),
    )
    across = alt.X(
        field=_name(x),
        type="ordinal",
        sort=_order(frame, x),
        title=x_title or x,
        axis=alt.Axis(orient="top", labelAngle=0 if _short(frame, x) else -40, format=".3~%", labelOverlap=True)
        if percent_x
        else alt.Axis(orient="top", labelAngle=0 if _short(frame, x) else -40, labelOverlap=True),
    )
    down = alt.Y(field=_name(y), type="ordinal", sort=_order(frame, y), title=y_title or y, axis=_whole_labels())
    tooltip = [_tip(frame, x, percent=percent_x), _tip(frame, y), _tip(frame, value, percent=percent)]
    base = alt.Chart(_data(frame, _unique([x, y, value]))).encode(x=across, y=down, tooltip=tooltip)
    layers = [base.mark_rect().encode(color=color)]
    if labels:
        ink = _ink(value, lowest, highest, middle, reverse)
        text = alt.Text(field=_name(value), type="quantitative", format=form)
        layers.append(base.mark_text(fontSize=10, tooltip=True).encode(text=text, color=ink))
    return _figure(alt.layer(*layers), title, reading, source, height=alt.Step(ROW))


def bars(
    frame: pl.DataFrame,
    category: str,
    value: str,
    *,
    title: str,
    reading: str,
    source: str = "",
    color: str | None = None,
    stack: bool = False,
    low: str | None = None,
    high: str | None = None,
    horizontal: bool = True,
    percent: bool = False,
    category_title: str | None = None,
    value_title: str | None = None,
    color_title: str | None = None,
    reference: float | None = None,
    reference_label: str = "unedited",
    labels: bool = True,
    height: int = 300,
) -> Figure:
    """One bar a `category`, as long as `value`; side by side by `color`, or on one another with `stack`.

    `low` and `high` draw an interval on each bar. `labels` prints the values at the ends of single bars.
    """
    columns = _unique([category, value, color, low, high])
    side = alt.Y if horizontal else alt.X
    length = alt.X if horizontal else alt.Y
    keys: dict[str, Any] = {}
    place, size = ("y", "x") if horizontal else ("x", "y")
    slant = {} if horizontal or _short(frame, category) else {"labelAngle": -40}
    keys[place] = side(
        field=_name(category),
        type="ordinal",
        sort=_order(frame, category),
        title=category_title or category,
        axis=_whole_labels() if horizontal else alt.Axis(**slant),
    )
    keys[size] = length(
        field=_name(value),
        type="quantitative",
        title=value_title or value,
        axis=_axis(percent),
        stack="zero" if stack else None,
    )
    keys["tooltip"] = [_tip(frame, c, percent=percent and c in (value, low, high)) for c in columns]
    groups = 1
    base = alt.Chart(_data(frame, columns))
    drawn = base.mark_bar(cornerRadiusEnd=1).encode(**keys)
    if color is not None:
        drawn = drawn.encode(color=_color(frame, color, color_title))
        if not stack:
            offset = alt.YOffset if horizontal else alt.XOffset
            keys[f"{place}Offset"] = offset(field=_name(color), type="nominal", sort=_order(frame, color))
            drawn = drawn.encode(**{f"{place}Offset": keys[f"{place}Offset"]})
            groups = frame[color].n_unique()
    layers = [drawn]
    if low is not None and high is not None:
        span = {**keys, size: length(field=_name(low), type="quantitative")}
        span[f"{size}2"] = (alt.X2 if horizontal else alt.Y2)(field=_name(high))
        layers.append(base.mark_rule(strokeWidth=1.5).encode(**span))
    elif labels and groups == 1 and not stack and frame.height <= 60:
        text = alt.Text(field=_name(value), type="quantitative", format=".2~%" if percent else ",.4~g")
        where = {"align": "left", "dx": 4} if horizontal else {"align": "center", "baseline": "bottom", "dy": -3}
        layers.append(base.mark_text(fontSize=10, **where).encode(**keys, text=text))
    if reference is not None:
        layers += _reference(reference, reference_label, percent, axis=size)
    step: Any = alt.Step(ROW if groups == 1 else max(ROW, 12 * groups + 6)) if horizontal else height
    return _figure(alt.layer(*layers), title, reading, source, height=step)


def histogram(
    frame: pl.DataFrame,
    left: str,
    right: str,
    count: str,
    *,
    title: str,
    reading: str,
    source: str = "",
    facet: str | None = None,
    fits: pl.DataFrame | None = None,
    fit_x: str = "x",
    fit_y: str = "y",
    fit_name: str = "fit",
    x_title: str | None = None,
    y_title: str | None = None,
    shared_x: bool = False,
    shared_y: bool = False,
    height: int | None = None,
) -> Figure:
    """Bins from `left` to `right` as high as `count` (a count or a density), one small chart a value of `facet`.

    `fits` draws lines over them: a long frame with `fit_x`, `fit_y` in the units of `count`, `fit_name`, and `facet`.
    Bins are counted beforehand: raw values never enter a chart.
    """
    bins = frame.select(_unique([left, right, count, facet])).with_columns(pl.lit("bin").alias("part"))
    columns = bins.columns
    if fits is not None:
        lines = fits.select(_unique([fit_x, fit_y, fit_name, facet])).with_columns(pl.lit("fit").alias("part"))
        bins = pl.concat([bins, lines], how="diagonal_relaxed")
        columns = bins.columns
    base = alt.Chart() if facet is not None else alt.Chart(_data(bins, columns))
    value = alt.Y(
        field=_name(count), type="quantitative", title=y_title or count, axis=alt.Axis(format="~s", tickCount=4)
    )
    tips = [_tip(frame, c) for c in (left, right, count)]
    drawn = base.transform_filter("datum.part === 'bin'")
    drawn = drawn.mark_bar(opacity=0.55, binSpacing=0).encode(
        x=alt.X(
            field=_name(left), type="quantitative", title=x_title or left, bin="binned", axis=alt.Axis(tickCount=4)
        ),
        x2=alt.X2(field=_name(right)),
        y=value,
        tooltip=tips,
    )
    layers = [drawn]
    if fits is not None:
        over = (
            base.transform_filter("datum.part === 'fit'")
            .mark_line(strokeWidth=1.6)
            .encode(
                x=alt.X(field=_name(fit_x), type="quantitative"),
                y=alt.Y(field=_name(fit_y), type="quantitative"),
                color=_color(fits, fit_name, "fit"),
                strokeDash=alt.StrokeDash(**_legend(fits, fit_name, "fit")),
            )
        )
        layers.append(over)
    if facet is None:
        return _figure(alt.layer(*layers), title, reading, source, height=height or 300)
    header = alt.Header(title=None, labelFontWeight="bold", labelOrient="top")
    inner = alt.layer(*layers).properties(width=200, height=height or 120)
    wrapped = alt.Facet(field=_name(facet), type="nominal", sort=_order(frame, facet), header=header)
    chart = inner.facet(facet=wrapped, columns=3, data=_data(bins, columns)).resolve_scale(
        x="shared" if shared_x else "independent", y="shared" if shared_y else "independent"
    )
    return _figure(chart, title, reading, source, height=None)


def _figure(chart: Any, title: str, reading: str, source: str, *, height: Any) -> Figure:
    """The chart as a Figure: as wide as its place, described, and without a theme of its own."""
    if height is not None:
        fit = alt.AutoSizeParams(type="fit-x", contains="padding")
        chart = chart.properties(width="container", height=height, autosize=fit)
    described = chart.properties(description=f"{title}. {reading}")
    with alt.data_transformers.enable("default", consolidate_datasets=False, max_rows=None):
        spec = described.to_dict()
    spec.pop("config", None)
    return Figure(spec=spec, title=title, reading=reading, source=source)


def _data(frame: pl.DataFrame, columns: list[str]) -> alt.InlineData:
    """The rows of `columns` inside the chart: six significant digits, nothing that JSON cannot hold."""
    return alt.InlineData(values=[{k: _json(v) for k, v in row.items()} for row in frame.select(columns).to_dicts()])


def _json(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def _position(kind: Any, frame: pl.DataFrame, column: str, title: str | None, **how: bool) -> Any:
    """An axis for `column`: text stands in order of appearance, numbers on a linear or logarithmic scale."""
    if not frame[column].dtype.is_numeric():
        axis = alt.Axis(labelAngle=0 if _short(frame, column) else -40)
        return kind(field=_name(column), type="ordinal", sort=_order(frame, column), title=title or column, axis=axis)
    axis = _axis(how.get("percent", False))
    scale = alt.Scale(zero=how.get("zero", False), nice=True)
    if how.get("log"):
        scale = alt.Scale(type="log", nice=False)
        ticks = sorted(frame[column].drop_nulls().unique().to_list())
        if len(ticks) <= 16:
            axis = alt.Axis(values=ticks, format="~g", labelOverlap=True)
    return kind(field=_name(column), type="quantitative", title=title or column, axis=axis, scale=scale)


def _axis(percent: bool) -> Any:
    return alt.Axis(format=".2~%") if percent else alt.Axis()


def _whole_labels() -> alt.Axis:
    return alt.Axis(labelLimit=220, labelOverlap=False, ticks=False, domain=False)


def _short(frame: pl.DataFrame, column: str) -> bool:
    """Whether the values of `column` fit side by side without turning them."""
    names = [str(v) for v in frame[column].unique().to_list()]
    return sum(len(n) + 2 for n in names) <= 72


def _legend(frame: pl.DataFrame, column: str, title: str | None) -> dict[str, Any]:
    order = _order(frame, column)
    legend = alt.Legend(title=title or column, symbolLimit=0, labelLimit=220)
    return {
        "field": _name(column),
        "type": "nominal",
        "sort": order,
        "legend": legend,
        "scale": alt.Scale(domain=order),
    }


def _color(frame: pl.DataFrame, column: str, title: str | None) -> alt.Color:
    keys = _legend(frame, column, title)
    order = keys["sort"]
    if len(order) > SYMBOLS:
        keys["scale"] = alt.Scale(domain=order, scheme=alt.SchemeParams(name="viridis", extent=[0.1, 0.85]))
        keys["type"] = "ordinal"
    return alt.Color(**keys)


def _reference(at: float, label: str, percent: bool, axis: str = "y") -> list[alt.Chart]:
    """A dashed line right across the chart at the value `at`, with its label."""
    shown = f"{label} {at:.2%}" if percent else f"{label} {at:.4g}"
    base = alt.Chart(alt.InlineData(values=[{"at": _json(float(at)), "label": shown}]))
    channel = alt.Y if axis == "y" else alt.X
    keys = {axis: channel(field="at", type="quantitative")}
    rule = base.mark_rule(strokeDash=[5, 4], strokeWidth=1.2).encode(**keys)
    if axis == "x":
        return [rule.encode(tooltip=alt.Tooltip(field="label", type="nominal"))]
    words = base.mark_text(align="right", baseline="bottom", dy=-3, dx=-2, fontSize=10)
    return [rule, words.encode(**keys, x=alt.value("width"), text=alt.Text(field="label", type="nominal"))]


def _ink(value: str, lowest: float, highest: float, middle: float | None, reverse: bool) -> Any:
    """Black on bright cells and white on dark ones, for either scheme."""
    field = f"datum[{value!r}]"
    if middle is not None:
        reach = 0.7 * (max(highest - middle, middle - lowest) or 1.0)
        return alt.condition(f"abs({field} - {middle}) > {reach}", alt.value("white"), alt.value("black"))
    share = 0.4 if reverse else 0.6
    edge = lowest + share * (highest - lowest)
    return alt.condition(f"{field} {'>' if reverse else '<'} {edge}", alt.value("white"), alt.value("black"))


def _tip(frame: pl.DataFrame, column: str, *, percent: bool = False) -> alt.Tooltip:
    if not frame[column].dtype.is_numeric():
        return alt.Tooltip(field=_name(column), type="nominal", title=column)
    form = ".2%" if percent else (",d" if frame[column].dtype.is_integer() else ",.4~g")
    return alt.Tooltip(field=_name(column), type="quantitative", title=column, format=form)


def _order(frame: pl.DataFrame, column: str) -> list[Any]:
    """The values of `column` in order of first appearance."""
    return [_json(v) for v in frame[column].drop_nulls().unique(maintain_order=True).to_list()]


def _unique(columns: list[str | None]) -> list[str]:
    return list(dict.fromkeys(c for c in columns if c is not None))


def _name(column: str) -> str:
    """A column's name as Vega-Lite reads it: dots and brackets are part of the name, not a path."""
    for sign in ("\\", ".", "[", "]"):
        column = column.replace(sign, "\\" + sign)
    return column


def _float(value: Any) -> float:
    return float(value)
