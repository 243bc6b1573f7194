"""Points: over an axis with the line of the best, or side by side over categories with intervals."""

from __future__ import annotations

import altair as alt
import polars as pl

from netopsy.charts.parts import (
    SYMBOLS,
    are_short,
    color_channel,
    field_name,
    in_order,
    inline,
    legend_channel,
    make_figure,
    position,
    reference_line,
    tip,
    unique_columns,
    value_axis,
)
from netopsy.result import Figure


def dots(
    frame: pl.DataFrame,
    category: str,
    value: str,
    *,
    color: str,
    title: str,
    reading: str,
    source: str = "",
    low: str | None = None,
    high: str | None = None,
    category_title: str | None = None,
    value_title: str | None = None,
    color_title: str | None = None,
    percent: bool = False,
    reference: float | None = None,
    reference_label: str = "baseline",
    facet: str | None = None,
    height: int = 320,
) -> Figure:
    """One mark a row at `value` over its `category`, those of one category side by side by `color`.

    `low` and `high` draw an interval through each mark, `reference` a dashed line right across. The axis does not begin
    at zero. `facet` draws one small chart a value of that column, each on a scale of its own, without a reference.
    """
    columns = unique_columns([category, value, color, low, high, facet])
    data = inline(frame.filter(pl.col(value).is_not_null()), columns)
    keys = {
        "x": alt.X(
            field=field_name(category),
            type="ordinal",
            sort=in_order(frame, category),
            title=category_title or category,
            axis=alt.Axis(labelAngle=0 if are_short(frame, category) else -40),
        ),
        "xOffset": alt.XOffset(field=field_name(color), type="nominal", sort=in_order(frame, color)),
        "color": color_channel(frame, color, color_title),
    }
    scale = alt.Scale(zero=False, nice=True)
    upright = alt.Y(
        field=field_name(value), type="quantitative", title=value_title or value, axis=value_axis(percent), scale=scale
    )
    tips = [tip(frame, c, percent=percent and c in (value, low, high)) for c in columns]
    chosen = alt.selection_point(fields=[color], bind="legend")
    base = alt.Chart() if facet is not None else alt.Chart(data)
    layers: list[alt.Chart] = []
    if low is not None and high is not None:
        span = alt.Y(field=field_name(low), type="quantitative", title=value_title or value, scale=scale)
        rules = base.transform_filter(f"datum[{low!r}] != null").mark_rule(strokeWidth=1.5)
        layers.append(
            rules.encode(
                **keys,
                y=span,
                y2=alt.Y2(field=field_name(high)),
                opacity=alt.condition(chosen, alt.value(0.7), alt.value(0.06)),
            )
        )
    marks = base.mark_point(size=46, filled=True, opacity=1).encode(**keys, y=upright, tooltip=tips)
    marks = marks.encode(opacity=alt.condition(chosen, alt.value(1.0), alt.value(0.08))).add_params(chosen)
    if frame[color].n_unique() <= SYMBOLS:
        marks = marks.encode(shape=alt.Shape(**legend_channel(frame, color, color_title)))
    layers.append(marks)
    if facet is not None:
        header = alt.Header(title=None, labelFontWeight="bold", labelOrient="top")
        wrapped = alt.Facet(field=field_name(facet), type="nominal", sort=in_order(frame, facet), header=header)
        inner = alt.layer(*layers).properties(width=310, height=200)
        chart = inner.facet(facet=wrapped, columns=2, data=data).resolve_scale(
            y="independent", x="independent", xOffset="independent"
        )
        return make_figure(chart, title, reading, source, height=None)
    if reference is not None:
        layers += reference_line(reference, reference_label, percent)
    return make_figure(alt.layer(*layers), title, reading, source, height=height)


def scatter(
    frame: pl.DataFrame,
    x: str,
    y: str,
    *,
    title: str,
    reading: str,
    source: str = "",
    color: str | None = None,
    tips: tuple[str, ...] = (),
    low: str | None = None,
    high: str | None = None,
    front: pl.DataFrame | None = None,
    x_title: str | None = None,
    y_title: str | None = None,
    color_title: str | None = None,
    log_x: bool = False,
    percent: bool = False,
    reference: float | None = None,
    reference_label: str = "unedited",
    height: int = 340,
) -> Figure:
    """One point a row at (`x`, `y`), coloured by `color`; a click on the legend picks series out.

    `front` draws a thin line of steps through the rows of another frame with columns `x` and `y`: what is best at each
    `x` or below. `tips` are further columns for the tooltip. `low` and `high` draw an interval through each point.
    """
    columns = unique_columns([x, y, color, *tips, low, high])
    keys = {
        "x": position(alt.X, frame, x, x_title, log=log_x, zero=False, apart=not log_x),
        "y": position(alt.Y, frame, y, y_title, percent=percent, zero=False),
    }
    tooltip = [tip(frame, c, percent=percent and c in (y, low, high)) for c in columns]
    base = alt.Chart(inline(frame, columns))
    dots = base.mark_point(size=30, filled=True).encode(**keys, tooltip=tooltip, opacity=alt.value(0.75))
    if color is not None:
        chosen = alt.selection_point(fields=[color], bind="legend")
        dots = dots.encode(
            color=color_channel(frame, color, color_title),
            opacity=alt.condition(chosen, alt.value(0.75), alt.value(0.06)),
        ).add_params(chosen)
        if frame[color].n_unique() <= SYMBOLS:
            dots = dots.encode(shape=alt.Shape(**legend_channel(frame, color, color_title)))
    layers: list[alt.Chart] = []
    if low is not None and high is not None:
        span = {**keys, "y": alt.Y(field=field_name(low), type="quantitative"), "y2": alt.Y2(field=field_name(high))}
        rules = base.mark_rule(strokeWidth=1.5, opacity=0.7).encode(**span)
        if color is not None:
            rules = rules.encode(color=color_channel(frame, color, color_title))
        layers.append(rules)
    if front is not None and front.height:
        best = alt.Chart(inline(front, [x, y]))
        layers.append(
            best.mark_line(interpolate="step-after", strokeWidth=1, opacity=0.6, tooltip=False).encode(
                x=alt.X(field=field_name(x), type="quantitative"), y=alt.Y(field=field_name(y), type="quantitative")
            )
        )
    layers.append(dots)
    if reference is not None:
        layers += reference_line(reference, reference_label, percent)
    return make_figure(alt.layer(*layers), title, reading, source, height=height)
