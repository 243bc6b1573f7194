"""Lines over an axis, with bands."""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from netopsy.charts.parts import (
    SYMBOLS,
    color_channel,
    field_name,
    in_order,
    inline,
    legend_channel,
    make_figure,
    position,
    reference_line,
    roles,
    tip,
    unique_columns,
)
from netopsy.result import Figure
from netopsy.stats.describe import spread_indices

MULTIPLES = 24  # small charts at most
_ROLE = "kind of layer"
_CONTROL = "#8a8f94"  # gray on white and on black


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
    controls: tuple[str, ...] = (),
    facet: str | None = None,
) -> Figure:
    """`y` over `x` as lines, one a value of `color`, with bands from `low` to `high`; a dashed line at `reference`.

    `x` may be text: its values then stand side by side in order of appearance. Where they name layers of several kinds
    that take turns (conv1, conv2, downsample), and one line through all would go up and down between the kinds, each
    kind has a line of its own. `controls` names values of
    `color` that are drawn gray and dashed. `facet` draws one small chart a value of that column; so are more series
    than colours can tell apart, at most 24 of them, evenly spread.
    """
    if color is not None and facet is None and frame[color].n_unique() - len(controls) > SYMBOLS:
        facet, color = color, None
    if facet is not None:
        names = in_order(frame, facet)
        kept = [names[i] for i in spread_indices(len(names), MULTIPLES)]
        more = f" {len(kept)} of {len(names)} are shown." if len(kept) < len(names) else ""
        frame, reading = frame.filter(pl.col(facet).is_in(kept)), reading + more
    detail = None
    kinds = [] if frame[x].dtype.is_numeric() else roles([str(name) for name in frame[x]])
    series = [name for name in (color, facet) if name is not None]
    if kinds and _zigzags(split := frame.with_columns(pl.Series(_ROLE, kinds)), y, series):
        frame = split
        color, detail = (_ROLE, None) if color is None else (color, _ROLE)
    columns = unique_columns([x, y, color, low, high, facet, detail])
    keys: dict[str, Any] = {
        "x": position(alt.X, frame, x, x_title, log=log_x, percent=percent_x, zero=False),
        "y": position(alt.Y, frame, y, y_title, percent=percent, zero=zero),
    }
    if detail is not None:
        keys["detail"] = alt.Detail(field=field_name(detail), type="nominal")
    shown = [c for c in columns if c != detail]
    keys["tooltip"] = [
        tip(frame, c, percent=(percent and c in (y, low, high)) or (percent_x and c == x)) for c in shown
    ]
    data = inline(frame, columns)
    base = alt.Chart() if facet is not None else alt.Chart(data)
    layers = _controls(base, frame, keys, color, controls)
    if controls:
        frame = frame.filter(~pl.col(color or "").is_in(controls))
        base = base.transform_filter(alt.FieldOneOfPredicate(color or "", in_order(frame, color or "")))
    layers = [*_lines(base, frame, keys, color, color_title, low, high, points and facet is None), *layers]
    if reference is not None and facet is None:
        layers += reference_line(reference, reference_label, percent)
    if facet is None:
        return make_figure(alt.layer(*layers), title, reading, source, height=height)
    header = alt.Header(title=None, labelFontWeight="bold", labelOrient="top", labelLimit=150)
    wrapped = alt.Facet(field=field_name(facet), type="nominal", sort=in_order(frame, facet), header=header)
    inner = alt.layer(*layers).properties(width=150, height=90)
    return make_figure(inner.facet(facet=wrapped, columns=3, data=data), title, reading, source, height=None)


def _zigzags(frame: pl.DataFrame, y: str, series: list[str]) -> bool:
    """Whether lines through all kinds of layers go up and down by more than those through each kind alone.

    Layers that come once, as the last one, take no part.
    """
    frame = frame.filter(pl.col(_ROLE) != "other")

    def way(by: list[str]) -> float:
        steps = pl.col(y).diff().abs()
        return float(frame.select((steps.over(by) if by else steps).sum()).item() or 0.0)

    return way(series) > way([*series, _ROLE])


def _lines(
    base: alt.Chart,
    frame: pl.DataFrame,
    keys: dict[str, Any],
    color: str | None,
    color_title: str | None,
    low: str | None,
    high: str | None,
    points: bool,
) -> list[alt.Chart]:
    """Bands, lines and points; a click on the legend picks series out."""
    keys, chosen = dict(keys), None
    tooltip = keys.pop("tooltip")
    if color is not None:
        keys["color"] = color_channel(frame, color, color_title)
        chosen = alt.selection_point(fields=[color], bind="legend")
    layers = []
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
    return layers


def _controls(
    base: alt.Chart, frame: pl.DataFrame, keys: dict[str, Any], color: str | None, controls: tuple[str, ...]
) -> list[alt.Chart]:
    """The series that are there to be compared with: gray, told apart by their dashes."""
    names = [name for name in controls if color is not None and name in in_order(frame, color)]
    if not names or color is None:
        return []
    dashes = [[6, 3], [2, 3], [8, 3, 2, 3], [1, 2]]
    scale = alt.Scale(domain=names, range=[dashes[i % len(dashes)] for i in range(len(names))])
    dash = alt.StrokeDash(
        field=field_name(color),
        type="nominal",
        scale=scale,
        legend=alt.Legend(
            title="control", symbolStrokeColor=_CONTROL, symbolType="stroke", orient="top", columns=2, labelLimit=170
        ),
    )
    lines = base.transform_filter(alt.FieldOneOfPredicate(color, names))
    return [lines.mark_line(strokeWidth=1.6, color=_CONTROL, tooltip=True).encode(**keys, strokeDash=dash)]
