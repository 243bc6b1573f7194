"""The connections of a unit's activation tree with their weights, drawn as a network (Palmieri et al., Figure 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import altair as alt
import polars as pl
import torch
from torch import Tensor

from netopsy.charts.parts import inline, make_figure
from netopsy.engine.backproject.backproject import check_inputs, start_at
from netopsy.engine.backproject.reverse import needed_nodes, reverse
from netopsy.engine.backproject.rules import Derivative, Rule
from netopsy.engine.backproject.tree import Trunk
from netopsy.errors import NetworkError
from netopsy.network.activations import activations
from netopsy.network.network import Network
from netopsy.network.node import Node
from netopsy.network.units import Unit, place_at
from netopsy.result import Figure, Finding
from netopsy.wording import percent, plural

SHOWN, SILENT = 6, 2  # units of a layer that are followed, and silent ones that are shown next to them


def _stop(g: Tensor, derivative: Derivative) -> Tensor:
    return torch.zeros_like(g)


DIRECT = Rule("direct", _stop)
"""Nothing passes an activation: what reaches one came by weights and the switches of max-pooling alone."""

_SCHEMA: Mapping[str, type[pl.DataType]] = {
    **{"to": pl.String, "to_node": pl.String, "from": pl.String, "from_node": pl.String, "weight": pl.Float64},
    **{"value": pl.Float64, "contribution": pl.Float64, "active": pl.Boolean},
}


@dataclass(frozen=True)
class Inputs:
    """What one unit reads of one node before it, on the part that it depends on.

    weights: its derivative by each of the node's values, (channel, *place). values: of the node. corner: the place of
    the first of them.
    """

    weights: Tensor
    values: Tensor
    corner: tuple[int, ...]


@dataclass
class Connections:
    """The strongest connections on the way to a unit.

    columns: the layers drawn, in order of execution, each with its units, the silent ones last. edges: as the table
    `connections`. shares: for each unit followed, how much of all its inputs' magnitudes is shown, and of how many.
    """

    columns: dict[str, list[Unit]] = field(default_factory=dict)
    edges: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=_SCHEMA))
    shares: dict[Unit, tuple[float, int]] = field(default_factory=dict)


def find_connections(network: Network, image: Tensor | Mapping[str, Tensor], unit: Unit, depth: int) -> Connections:
    """Follow `unit` back through `depth` layers of activations, at each the units that contribute most.

    image: as `contributing` takes it. unit: with its place. The weight of a connection is the derivative of the unit's
    pre-activation by the activation before it: kernel entry times the scale of a batch norm, summed over the paths that
    meet no other activation; between rectifiers weight times value, over all connections, and the constants add up to
    the pre-activation. Empty where an operator on the way has no derivative.
    """
    inputs = {name: values[:1] for name, values in check_inputs(network, image).items()}
    functions = set(activations(network, mixing=False))
    read: dict[Unit, dict[str, Inputs]] = {}
    columns: dict[str, list[Unit]] = {unit.node: [unit]}
    trunks: dict[str, Trunk] = {}
    strengths: dict[str, dict[Unit, tuple[float, float]]] = {}
    order = list(network.nodes)
    try:
        for _ in range(depth):
            last = max(columns, key=order.index) if len(columns) == 1 else min(columns, key=order.index)
            for each in [u for u in columns[last] if u is unit or _contributes(u, strengths)]:
                read[each] = _inputs(network, inputs, each, functions, trunks)
                for node, there in read[each].items():
                    _weigh(node, there, strengths.setdefault(node, {}))
            before = [node for node in strengths if node not in columns]
            if not before:
                break
            node = max(before, key=order.index)
            columns[node] = _strongest(strengths[node])
    except NetworkError:
        return Connections()
    rows, shares = [], {}
    for to, parts in read.items():
        total = sum(float((p.weights * p.values).abs().sum()) for p in parts.values())
        shown = 0.0
        for node, there in parts.items():
            for source in columns.get(node, []):
                weight, value = _at(there, source)
                if weight:
                    rows.append((str(to), to.node, str(source), node, weight, value, weight * value + 0.0, value > 0))
                    shown += abs(weight * value)
        count = sum(int((p.weights * p.values != 0).sum()) for p in parts.values())
        shares[to] = (shown / total if total else 0.0, count)
    ordered = {node: columns[node] for node in sorted(columns, key=order.index)}
    return Connections(ordered, pl.DataFrame(rows, schema=_SCHEMA, orient="row"), shares)


def _inputs(
    network: Network, inputs: Mapping[str, Tensor], unit: Unit, functions: set[str], trunks: dict[str, Trunk]
) -> dict[str, Inputs]:
    """What the unit's pre-activation reads, by node: the activations before it, or the input."""
    node = network.nodes[unit.node]
    start_node = node.inputs[0].name if unit.node in functions else unit.node
    trunk = trunks.setdefault(start_node, Trunk(network, start_node))
    with torch.no_grad():
        tree = trunk.tree(unit.place)
        sources = {n for n in trunk.data if n.name in functions and n is not trunk.target} | {trunk.source}
        values = tree.forward(tree.cut(inputs), needed_nodes(tree, DIRECT) | sources)
        start, _ = start_at([tree], [Unit(start_node, unit.channel, unit.place)], values[trunk.target], "one")
        flow: dict[Node, Tensor] = {}
        constants = trunk.constants(1, trunk.own_weights)
        flow[trunk.source] = reverse(tree, values, constants, start, DIRECT, flow.__setitem__)
        parts = {}
        for source in sources:
            if source in flow and source.is_floating_point and bool(flow[source].any()):
                box = tree.box(source) if len(source.full_shape) == 4 and source.channel_axis == 1 else None
                weights, own = (t.movedim(source.channel_axis, 1)[0].float() for t in (flow[source], values[source]))
                parts[source.name] = Inputs(weights, own, (0, 0) if box is None else box[:2])
    return parts


def _contributes(unit: Unit, strengths: Mapping[str, Mapping[Unit, tuple[float, float]]]) -> bool:
    return strengths[unit.node][unit][0] > 0


def _weigh(node: str, there: Inputs, strengths: dict[Unit, tuple[float, float]]) -> None:
    """Add up, over the units that read them, |weight x value| and |weight| of the strongest units of a node."""
    flows = (there.weights * there.values).abs(), there.weights.abs() * (there.values == 0)
    for k, flow in enumerate(flows):
        top = flow.flatten().topk(min(4 * SHOWN, flow.numel()))
        for size, index in zip(top.values.tolist(), top.indices.tolist(), strict=True):
            if size > 0:
                channel, *place = place_at(index, flow.shape)
                at = tuple(p + c for p, c in zip(place, there.corner, strict=False))
                unit = Unit(node, channel, at)
                old = strengths.get(unit, (0.0, 0.0))
                strengths[unit] = (old[0] + size, old[1]) if k == 0 else (old[0], old[1] + size)


def _strongest(strengths: Mapping[Unit, tuple[float, float]]) -> list[Unit]:
    """The units that contribute most, then the silent ones with the largest weights."""
    on = sorted((u for u, s in strengths.items() if s[0] > 0), key=lambda u: -strengths[u][0])[:SHOWN]
    off = sorted((u for u, s in strengths.items() if s[0] == 0), key=lambda u: -strengths[u][1])[:SILENT]
    return on + off


def _at(there: Inputs, unit: Unit) -> tuple[float, float]:
    """Weight and value of one unit; 0 and 0 where it is out of reach."""
    place = [p - c for p, c in zip(unit.place or (), there.corner, strict=False)]
    if any(not 0 <= p < size for p, size in zip(place, there.weights.shape[1:], strict=True)):
        return 0.0, 0.0
    at = (unit.channel, *place)
    return float(there.weights[at]), float(there.values[at])


def finding(connections: Connections, unit: Unit) -> list[Finding]:
    """How much of what drives the unit its strongest connections carry."""
    if unit not in connections.shares:
        return []
    share, count = connections.shares[unit]
    shown = connections.edges.filter((pl.col("to") == str(unit)) & (pl.col("contribution") != 0)).height
    text = (
        f"{plural(shown, 'connection')} of the {count:,} that contribute to {unit} carry {percent(share)} of what they "
        "bring (by magnitude)."
    )
    return [Finding(text if shown != 1 else text.replace(" carry ", " carries "), 0.5)]


_ROW = 46  # pixels
_GREEN, _BLUE, _RED, _GRAY = "#7fb98a", "#2467b3", "#c8502d", "#8a8f94"
_MARKED = 1  # connections of a unit whose weight is written; of the unit itself all


def connection_figure(connections: Connections, unit: Unit, image: int) -> Figure:
    """Units in columns, a column a layer, and the connections between them with their weights."""
    tall = max(len(units) for units in connections.columns.values())
    place: dict[str, tuple[float, float]] = {}
    for column, members in enumerate(connections.columns.values()):
        for k, each in enumerate(members):
            place[str(each)] = (float(column), (tall - len(members)) / 2 + k)
    lines: list[dict[str, Any]] = []
    for target in connections.edges["to"].unique(maintain_order=True):
        rows = connections.edges.filter(pl.col("to") == target).sort(pl.col("contribution").abs(), descending=True)
        most = float(rows["contribution"].abs().max() or 1.0) or 1.0  # type: ignore[arg-type]
        for k, row in enumerate(rows.iter_rows(named=True)):
            (left, top), (right, bottom) = place[row["from"]], place[target]
            at = 0.32 + 0.16 * (k % 2)
            written = bool(row["contribution"]) and (k < _MARKED or target == str(unit))
            kind = "silent" if not row["contribution"] else "positive" if row["contribution"] > 0 else "negative"
            lines.append(
                {"x": left, "y": top, "x2": right, "y2": bottom, "kind": kind, "width": abs(row["contribution"]) / most}
                | {
                    "at_x": left + at * (right - left),
                    "at_y": top + at * (bottom - top),
                    "from": row["from"],
                    "to": target,
                }
                | {name: row[name] for name in ("weight", "value", "contribution")}
                | {"text": f"{row['weight']:+.2g}" if written else ""}
            )
    contributing = set(connections.edges.filter(pl.col("contribution") != 0)["from"]) | {str(unit)}
    dots = [
        {"x": column, "y": row, "unit": name, "state": "contributes" if name in contributing else "silent"}
        | {"label": name.split(":", 1)[1]}
        for name, (column, row) in place.items()
    ]
    names = list(connections.columns)
    label = f"{[_short(name) for name in names]!r}[round(datum.value)]"
    axis = alt.Axis(
        orient="top", values=list(range(len(names))), labelExpr=label, grid=False, labelLimit=130, domain=False
    )
    x = alt.X("x:Q", title=None, scale=alt.Scale(domain=[-0.35, len(names) - 0.65], nice=False), axis=axis)
    y = alt.Y("y:Q", title=None, axis=None, scale=alt.Scale(domain=[-0.6, tall - 0.4], reverse=True, nice=False))
    kinds = ["positive", "negative", "silent"]
    shades = alt.Scale(domain=kinds, range=[_BLUE, _RED, _GREEN])
    colour = alt.Color("kind:N", title="contribution", scale=shades, legend=alt.Legend(orient="bottom"))
    rings = alt.Stroke("kind:N", scale=shades, legend=None)
    tips = ["from:N", "to:N", "weight:Q", "value:Q", "contribution:Q"]
    edges = alt.Chart(inline(pl.DataFrame(lines), list(lines[0])))
    units = alt.Chart(inline(pl.DataFrame(dots), list(dots[0])))
    width = alt.StrokeWidth("width:Q", scale=alt.Scale(domain=[0, 1], range=[0.6, 3.6]), legend=None)
    ends = {"x": x, "y": y, "x2": "x2:Q", "y2": "y2:Q"}
    here = {"x": alt.X("at_x:Q", axis=axis, title=None), "y": alt.Y("at_y:Q", axis=None)}
    marked = edges.transform_filter("datum.text != ''")
    fill = alt.Fill(
        "state:N",
        title="unit",
        scale=alt.Scale(domain=["contributes", "silent"], range=["#f0a53a", "#ffffff"]),
        legend=alt.Legend(orient="bottom", symbolStrokeWidth=1.2),
    )
    chart = alt.layer(
        edges.mark_rule(opacity=0.75).encode(**ends, color=colour, strokeWidth=width, tooltip=tips),
        edges.transform_filter("datum.kind != 'silent'")
        .mark_point(size=34, filled=True, fill="#ffffff", strokeWidth=1.4, opacity=1)
        .encode(**here, stroke=rings, tooltip=tips),
        marked.mark_text(fontSize=10, dy=-9, stroke="#ffffff", strokeWidth=3).encode(**here, text="text:N"),
        marked.mark_text(fontSize=10, dy=-9, color="#222222").encode(**here, text="text:N"),
        units.mark_point(size=190, stroke=_GRAY, strokeWidth=1.2, opacity=1, filled=True).encode(
            x=x, y=y, fill=fill, tooltip=["unit:N", "state:N"]
        ),
        units.mark_text(fontSize=9, dy=17, color=_GRAY).encode(x=x, y=y, text="label:N"),
    )  # fmt: skip
    return make_figure(
        chart,
        f"The connections of {unit} on image {image}",
        f"A column is a layer, a circle a unit (channel:y:x): of each layer the {SHOWN} that contribute most to the "
        f"units drawn after it, and up to {SILENT} connected ones that are silent on this image. The wider a line, the "
        "more of the unit's drive it carries (weight times activation); ringed are the weights that contribute, in "
        "figures those of the last unit and the strongest of each other.",
        "Palmieri et al., Figure 3",
        height=_ROW * tall + 20,
    )


def _short(name: str) -> str:
    return name if len(name) <= 22 else f"...{name[-19:]}"
