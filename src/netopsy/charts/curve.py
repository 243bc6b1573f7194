"""Lines over an axis, with bands."""

from __future__ import annotations

import altair as alt
import polars as pl

from netopsy.charts.parts import (
    SYMBOLS,
    color_channel,
    field_name,
    inline,
    legend_channel,
    make_figure,
    position,
    reference_line,
    tip,
    unique_columns,
)
from netopsy.result import Figure


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
    """`y` over `x` as lines, one a value of `color`, with bands from `low` to `high`; a dashed line at `reference`.

    `x` may be text: its values then stand side by side in order of appearance. With more than eight series the colours
    run from dark to bright in order of appearance, so that depth can be read from them.
    """
    columns = unique_columns([x, y, color, low, high])
    keys = {
        "x": position(alt.X, frame, x, x_title, log=log_x, percent=percent_x, zero=False),
        "y": position(alt.Y, frame, y, y_title, percent=percent, zero=zero),
    }
    tooltip = [tip(frame, c, percent=(percent and c in (y, low, high)) or (percent_x and c == x)) for c in columns]
    chosen = None
    if color is not None:
        keys["color"] = color_channel(frame, color, color_title)
        chosen = alt.selection_point(fields=[color], bind="legend")
    base = alt.Chart(inline(frame, columns))
    layers: list[alt.Chart] = []
    if low is not None and high is not None:
        band = {**keys, "y": alt.Y(field=field_name(low), type="quantitative"), "y2": alt.Y2(field=field_name(high))}
        layers.append(base.mark_area(opacity=0.18, tooltip=False).encode(**band))
    line = base.mark_line(strokeWidth=2, tooltip=True).encode(**keys, tooltip=tooltip)
    if chosen is not None:
        line = line.encode(opacity=alt.condition(chosen, alt.value(1.0), alt.value(0.12))).add_params(chosen)
    layers.append(line)
    if points:
        dots = base.mark_point(size=36, filled=True, opacity=1).encode(**keys, tooltip=tooltip)
        if color is not None and frame[color].n_unique() <= SYMBOLS:
            dots = dots.encode(shape=alt.Shape(**legend_channel(frame, color, color_title)))
        if chosen is not None:
            dots = dots.encode(opacity=alt.condition(chosen, alt.value(1.0), alt.value(0.08)))
        layers.append(dots)
    if reference is not None:
        layers += reference_line(reference, reference_label, percent)
    return make_figure(alt.layer(*layers), title, reading, source, height=height)
