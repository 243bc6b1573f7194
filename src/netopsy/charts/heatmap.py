"""A map of cells, for example strength by layer."""

from __future__ import annotations

import altair as alt
import polars as pl

from netopsy.charts.parts import (
    are_short,
    diverging,
    field_name,
    in_order,
    inline,
    label_ink,
    make_figure,
    sequential,
    tip,
    to_float,
    unique_columns,
    whole_labels,
)
from netopsy.result import Figure

LABELLED_CELLS = 400  # a map of at most this many cells prints its values

MUTED = "#b4b4b4"  # of cells that say nothing, on white and on black

ROW = 22  # pixels of a row of a heat map or of a bar


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
    marks: str | None = None,
    muted: str | None = None,
) -> Figure:
    """`value` as the colour of the cell at column `x` and row `y`, for example strength by layer.

    Columns and rows stand in order of appearance, numbers too. `middle` takes a diverging scale around that value;
    else dark is low and bright is high (`reverse` turns it round). `labels` prints the values; by default in maps of
    at most 400 cells with at most 12 columns. `marks` names a column of signs that stand in their cells (null: none),
    in place of the values. `muted` names a column that is true in cells to be drawn gray: no different from `middle`.
    """
    values = frame[value].cast(pl.Float64).fill_nan(None).drop_nulls()
    lowest, highest = domain or ((to_float(values.min()), to_float(values.max())) if len(values) else (0.0, 1.0))
    columns, rows = frame[x].n_unique(), frame[y].n_unique()
    if labels is None:
        labels = marks is None and columns <= 12 and columns * rows <= LABELLED_CELLS
    scale = sequential(lowest, highest, reverse)
    if middle is not None:
        scale = diverging(middle, max(highest - middle, middle - lowest) or 1.0, reverse)
    form = ".1%" if percent else ".2f" if muted is not None else ".3~g"
    length = min(160, max(44, rows * ROW - 22))  # of the legend's bar, which stands beside the map under a title
    color = alt.Color(
        field=field_name(value),
        type="quantitative",
        scale=scale,
        legend=alt.Legend(title=value_title or value, format=".2~%" if percent else ",.3~g", gradientLength=length),
    )
    if muted is not None:
        color = alt.condition(f"datum[{muted!r}]", alt.value(MUTED), color)
    across = alt.X(
        field=field_name(x),
        type="ordinal",
        sort=in_order(frame, x),
        title=x_title or x,
        axis=alt.Axis(orient="top", labelAngle=0 if are_short(frame, x) else -40, format=".3~%", labelOverlap=True)
        if percent_x
        else alt.Axis(orient="top", labelAngle=0 if are_short(frame, x) else -40, labelOverlap=True),
    )
    down = alt.Y(field=field_name(y), type="ordinal", sort=in_order(frame, y), title=y_title or y, axis=whole_labels())
    tooltip = [tip(frame, x, percent=percent_x), tip(frame, y), tip(frame, value, percent=percent)]
    base = alt.Chart(inline(frame, unique_columns([x, y, value, marks, muted]))).encode(
        x=across, y=down, tooltip=tooltip
    )
    layers = [base.mark_rect().encode(color=color)]
    if labels:
        ink = label_ink(value, lowest, highest, middle, reverse, muted)
        text = alt.Text(field=field_name(value), type="quantitative", format=form)
        layers.append(base.mark_text(fontSize=10, tooltip=True).encode(text=text, color=ink))
    if marks is not None:
        ink = label_ink(value, lowest, highest, middle, reverse)
        signs = base.transform_filter(f"datum[{marks!r}] != null").mark_text(fontSize=12, tooltip=True)
        layers.append(signs.encode(text=alt.Text(field=field_name(marks), type="nominal"), color=ink))
    return make_figure(alt.layer(*layers), title, reading, source, height=rows * ROW)
