"""The layers on the first page: their figures, the network as a strip, and the table of what to do with each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from netopsy.report.summary import file_stem, number
from netopsy.result import MEASURES, LayerMeasure, Result

WIDTH, LANE, GAP, TURN, LEAST = 1000, 38, 2, 14, 4  # of the strip, in its own units
PRUNABLE = 0.2  # a smaller share is not worth the advice
KEPT = 32  # bits of a layer that stays as it is
_COLOURS = ("fragility", "bits", "cost", "sparsity", "variance", "dead", "prunable", "macs", "parameters", "bytes")
_COLUMNS = ("parameters", "bytes", "macs", "dead", "sparsity", "bits", "prunable", "cost")


@dataclass(frozen=True)
class LayerFigure:
    """A figure of a layer with its 95 % interval, if it has one, and a word on it."""

    value: float
    low: float | None = None
    high: float | None = None
    text: str = ""


@dataclass(frozen=True)
class PageLayer:
    """A layer as the pages show it. inputs: names of the layers before it. page: the address of its page."""

    name: str
    kind: str = ""
    inputs: tuple[str, ...] = ()
    measures: dict[str, LayerFigure] = field(default_factory=dict)

    @property
    def page(self) -> str:
        return f"layers/{file_stem(self.name)}.html"


def collect_layers(results: Sequence[Result]) -> list[PageLayer]:
    """All layers in order of execution, with the figures that the studies measured.

    Of several studies that give one measure, that of `LayerMeasure.first` counts, else the last.
    """
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for result in results:
        if result.study == "baseline" and "layers" in result.tables:
            rows = result.tables["layers"].select("layer", "kind", "inputs").iter_rows()
            found |= {layer: (kind, tuple(inputs)) for layer, kind, inputs in rows}
    measures: dict[str, dict[str, LayerFigure]] = {name: {} for name in found}
    settled = set()
    for result in results:
        for layer, measure, *figures in result.measures.iter_rows():
            known = measure in MEASURES and figures[0] is not None and math.isfinite(figures[0])
            if known and (layer, measure) not in settled:
                measures.setdefault(layer, {})[measure] = LayerFigure(*figures)
                if result.study == MEASURES[measure].first:
                    settled.add((layer, measure))
    for result in results if not found else ():
        for frame in result.tables.values():
            if frame.schema.get("layer") == pl.String:
                for layer in frame["layer"].drop_nulls().unique(maintain_order=True):
                    measures.setdefault(layer, {})
    measures.pop("all", None)  # every layer at once
    return [PageLayer(name, *found.get(name, ("", ())), figures) for name, figures in measures.items() if name]


def measures_of(layers: Sequence[PageLayer]) -> list[str]:
    """The measures that at least one layer has, as `MEASURES` orders them."""
    return [name for name in MEASURES if any(name in layer.measures for layer in layers)]


def measure_text(name: str, value: float) -> str:
    """A measure's value without its unit: shares in per cent, differences of scores in points."""
    unit = MEASURES[name].unit
    if unit in ("share", "points"):
        return number(100 * value)
    return f"{value:,.0f}" if unit in ("count", "bytes") else number(value)


def unit_text(measure: LayerMeasure) -> str:
    """A measure's unit as the heads of columns have it."""
    return {"share": "%", "points": "points", "bits": "bits", "bytes": "bytes"}.get(measure.unit, "")


def measured_text(name: str, measured: LayerFigure) -> str:
    """A measure with its unit and its interval, as `1.2 points (0.3 to 2.1)`."""
    unit = unit_text(MEASURES[name])
    text = f"{measure_text(name, measured.value)} {unit}".rstrip()
    if measured.low is not None and measured.high is not None:
        text += f" ({measure_text(name, measured.low)} to {measure_text(name, measured.high)})"
    return text


def decision_table(layers: Sequence[PageLayer], *, trusted: bool) -> dict[str, Any]:
    """Columns and rows of the table, as text and, for the file, as a frame.

    trusted: whether the score means anything; if not, what hangs on a loss of it is left out, and advice with it.
    """
    names = [name for name in _COLUMNS if any(name in layer.measures for layer in layers)]
    if not trusted:
        names = [name for name in names if name not in ("bits", "prunable", "cost")]
    advised = {layer.name: advice(layer) if trusted else "" for layer in layers}
    columns = [{"name": "layer", "number": False}]
    for name in names:
        unit = unit_text(MEASURES[name])
        title = _HEADS.get(name, name)
        columns.append({"name": title + (f", {unit}" if unit and unit != title else ""), "number": True})
    if any(advised.values()):
        columns.append({"name": "advice", "number": False})
    rows: list[dict[str, Any]] = []
    for layer in layers:
        cells = [_cell(name, layer.measures.get(name)) for name in names]
        rows.append({"layer": layer, "cells": cells, "advice": advised[layer.name]})
    return {
        "columns": columns,
        "rows": rows,
        "advised": any(advised.values()),
        "intervals": any(one["interval"] for row in rows for one in row["cells"]),
        "frame": _frame(layers, names, advised),
        "worth": bool(names),
    }


_HEADS = {"macs": "MACs", "dead": "dead units", "bits": "needs", "prunable": "prunable", "sparsity": "zeros"}


def _cell(name: str, measured: LayerFigure | None) -> dict[str, Any]:
    if measured is None:
        return {"text": "", "interval": "", "value": ""}
    interval = ""
    if measured.low is not None and measured.high is not None:
        interval = f"{measure_text(name, measured.low)} to {measure_text(name, measured.high)}"
    return {"text": measure_text(name, measured.value), "interval": interval, "value": f"{measured.value:.6g}"}


def _frame(layers: Sequence[PageLayer], names: Sequence[str], advised: dict[str, str]) -> pl.DataFrame:
    """The table with plain values: shares from 0 to 1, intervals in columns of their own."""
    columns: dict[str, list[Any]] = {"layer": [layer.name for layer in layers], "kind": [v.kind for v in layers]}
    for name in names:
        found = [layer.measures.get(name) for layer in layers]
        columns[name] = [one and one.value for one in found]
        if any(one and one.low is not None for one in found):
            columns[f"{name}_low"] = [one and one.low for one in found]
            columns[f"{name}_high"] = [one and one.high for one in found]
    return pl.DataFrame({**columns, "advice": [advised[layer.name] for layer in layers]}, strict=False)


def advice(layer: PageLayer) -> str:
    """What to do with a layer: the format it can be stored in, how much can be pruned, which units can go."""
    bits, prunable, dead = (layer.measures.get(name) for name in ("bits", "prunable", "dead"))
    parts = []
    if bits is not None:
        parts.append("keep" if bits.value >= KEPT else bits.text or f"{bits.value:.0f} bits")
    if prunable is not None and prunable.value >= PRUNABLE:
        how = f" {prunable.text}" if prunable.text.startswith("with ") else ""
        parts.append(f"prune {100 * prunable.value:.0f} %{how}")
    if dead is not None and dead.value >= 1:
        parts.append(f"drop {dead.value:,.0f} dead {'unit' if dead.value == 1 else 'units'}")
    return ", ".join(parts)


def strip(layers: Sequence[PageLayer], *, trusted: bool) -> dict[str, Any]:
    """The network as blocks and lines: see `place_blocks`. Two sets of places, one for each width."""
    present = [name for name in measures_of(layers) if trusted or name not in ("fragility", "bits", "prunable", "cost")]
    lanes = assign_lanes(layers)
    widths = [name for name in ("parameters", "macs", "") if name in present or not name]
    widths = widths[:-1] or widths
    places = {name: place_blocks(layers, lanes, _sizes(layers, name)) for name in widths}
    colours = [name for name in _COLOURS if name in present]
    # what is the same everywhere, as far as it can be measured, comes last
    colours.sort(key=lambda name: len({_measurable(v.measures[name]) for v in layers if name in v.measures}) == 1)
    scales = {name: _scale(layers, name) for name in colours}
    first = places[widths[0]]
    blocks = []
    for k, layer in enumerate(layers):
        figures = [f"{MEASURES[name].title}: {measured_text(name, one)}" for name, one in layer.measures.items()]
        blocks.append(
            {
                "layer": layer,
                "y": lanes[k] * (LANE + 10),
                "x": first.left[k],
                "width": first.right[k] - first.left[k],
                "places": {name: [place.left[k], place.right[k] - place.left[k]] for name, place in places.items()},
                "shades": {
                    name: scales[name][1](_measurable(layer.measures[name]))
                    for name in colours
                    if name in layer.measures
                },
                "words": " · ".join([layer.kind, *figures]) if layer.kind else " · ".join(figures),
            }
        )
    return {
        "blocks": blocks,
        "lines": {name: place.lines for name, place in places.items()},
        "widths": [(name, MEASURES[name].title) for name in widths if name],
        "colours": [(name, MEASURES[name].title, MEASURES[name].worse, *scales[name][0]) for name in colours],
        "width": max(WIDTH, first.width, *(place.width for place in places.values())),
        "lane": LANE,
        "height": (max(lanes, default=0) + 1) * (LANE + 10) - 10,
        "line_count": len(first.lines),
    }


def _sizes(layers: Sequence[PageLayer], name: str) -> list[float]:
    return [layer.measures[name].value if name in layer.measures else float(not name) for layer in layers]


def _measurable(measured: LayerFigure) -> float:
    """The value, or 0 where its interval holds 0: what is within the noise has no colour."""
    low, high = measured.low, measured.high
    return 0.0 if low is not None and high is not None and low <= 0 <= high else measured.value


def _scale(layers: Sequence[PageLayer], name: str) -> tuple[tuple[str, str], Callable[[float], int]]:
    """The ends of a measure's scale in words, and its shade from 0 to 100; counts and bytes by their logarithm."""
    values = [max(0.0, _measurable(layer.measures[name])) for layer in layers if name in layer.measures]
    large = MEASURES[name].unit in ("count", "bytes") and name != "dead"
    turn: Callable[[float], float] = (lambda v: math.log1p(max(0.0, v))) if large else (lambda v: max(0.0, v))
    low, high = min(values), max(values)
    low = low if large else 0.0
    span = turn(high) - turn(low)
    unit = unit_text(MEASURES[name])
    ends = (measure_text(name, low), f"{measure_text(name, high)} {unit}".rstrip())
    return ends, lambda value: round(100 * (turn(value) - turn(low)) / span) if span > 0 else 0


def assign_lanes(layers: Sequence[PageLayer]) -> list[int]:
    """The lane of each layer: that of the layer it continues, or one of its own for a further branch."""
    places = {layer.name: k for k, layer in enumerate(layers)}
    waiting = [0] * len(layers)  # layers that a layer still leads to
    for layer in layers:
        for name in layer.inputs:
            if name in places:
                waiting[places[name]] += 1
    last: list[int] = []  # of each lane
    lanes = []
    for k, layer in enumerate(layers):
        inputs = [places[name] for name in layer.inputs if name in places]
        for i in inputs:
            waiting[i] -= 1
        continued = [lane for lane, i in enumerate(last) if i in inputs]
        free = [lane for lane, i in enumerate(last) if waiting[i] == 0]
        lane = min(continued or free, default=len(last))
        if lane == len(last):
            last.append(k)
        last[lane] = k
        lanes.append(lane)
    return lanes


@dataclass(frozen=True)
class BlockPlaces:
    """Left and right end of each block, the lines between them as SVG paths, and the width of it all."""

    left: list[float]
    right: list[float]
    lines: list[str]
    width: float


def place_blocks(layers: Sequence[PageLayer], lanes: Sequence[int], sizes: Sequence[float]) -> BlockPlaces:
    """Blocks in order of execution, each behind all that lead to it and as wide as its size, but never invisible.

    Blocks of one lane touch; where a branch leaves or joins there is room for its line. The strip is as wide as
    `WIDTH`, or wider where so many layers lie behind one another that they would be too narrow.
    """
    numbers = {layer.name: k for k, layer in enumerate(layers)}
    inputs = [[numbers[name] for name in layer.inputs if name in numbers] for layer in layers]

    def extent(scale: float) -> tuple[list[float], list[float]]:
        left: list[float] = []
        right: list[float] = []
        ends = [-float(GAP)] * (max(lanes, default=0) + 1)
        for k in range(len(layers)):
            straight = all(lanes[i] == lanes[k] for i in inputs[k])
            start = max((right[i] for i in inputs[k]), default=-float(GAP)) + (GAP if straight else TURN)
            left.append(max(0.0, start, ends[lanes[k]] + GAP))
            right.append(left[k] + LEAST + scale * sizes[k])
            ends[lanes[k]] = right[k]
        return left, right

    widest = max(WIDTH, max(extent(0.0)[1], default=0.0) * 1.5)
    low, high = 0.0, widest / max([*sizes, 1e-9])
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if max(extent(middle)[1], default=0.0) <= widest else (low, middle)
    left, right = extent(low)
    lines = []
    for k, before in enumerate(inputs):
        for i in before:
            y0, y1 = (lane * (LANE + 10) + LANE / 2 for lane in (lanes[i], lanes[k]))
            if lanes[i] == lanes[k] and left[k] - right[i] <= GAP + 0.01:
                continue
            turn = left[k] - TURN / 2
            path = f"M{right[i]:.1f} {y0:g}" + (f"H{left[k]:.1f}" if y0 == y1 else f"H{turn:.1f}V{y1:g}H{left[k]:.1f}")
            if (
                i != k
                and y0 != y1
                and any(lanes[j] == lanes[i] and right[i] <= left[j] < turn for j in range(len(layers)))
            ):  # the lane goes on: turn at once, behind the block it leaves
                turn = right[i] + TURN / 2
                path = f"M{right[i]:.1f} {y0:g}H{turn:.1f}V{y1:g}H{left[k]:.1f}"
            lines.append(path)
    rounded = [[round(x, 1) for x in ends] for ends in (left, right)]
    return BlockPlaces(rounded[0], rounded[1], lines, round(max(right, default=float(WIDTH)), 1))
