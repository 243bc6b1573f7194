"""Attention heads: where each looks, and what the network loses without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import polars as pl
import torch
from torch import Tensor

from netopsy import charts
from netopsy.engine.observe.tally import Tally
from netopsy.engine.sweep.edits import Replace
from netopsy.engine.sweep.sweep import sweep_edits
from netopsy.errors import NetworkError
from netopsy.network.layers import Layer
from netopsy.network.network import Network
from netopsy.network.node import Node
from netopsy.result import Figure, Finding
from netopsy.samples.samples import Samples
from netopsy.studies.draws import half_width
from netopsy.studies.sweep_report import Measure, loss_map, measure_of
from netopsy.wording import alike, listing, percent, plural

_PASSING = {
    *("matmul", "bmm", "dropout", "transpose", "permute", "clone", "contiguous", "view", "reshape", "unsafe_view"),
    *("expand", "to", "flatten", "alias"),
}
"""What lies between a head's weights of attention and the projection of its output."""
FOCUS = 0.5
"""Share of attention from which on a head is said to look at one place."""
_WORDS = {"self": "the token itself", "previous": "the token before", "first": "the first token"}

HEADS: dict[str, Any] = {
    "node": pl.String,
    "head": pl.Int64,
    **dict.fromkeys(("self", "previous", "first", "entropy"), pl.Float64),
    "projection": pl.String,
    "key_value_head": pl.Int64,
}


class HeadAttention(Tally):
    """Where each head of an attention looks, over the places that belong to samples.

    update: attention (batch, head, query, key), each row summing to 1, NaN where padding is. result: float64
    (4, head): mean share of attention on the query's own place, on the one before it (of queries that have one), on
    the first, and mean entropy of a row in nats.
    """

    by_sample = True

    def __init__(self) -> None:
        self.queries = self.later = 0
        self.total: Tensor | None = None

    def update(self, values: Tensor, indices: Tensor) -> None:
        real = ~values.isnan().all(-1)
        maps = values.double().nan_to_num(0.0)
        parts = [maps.diagonal(dim1=-2, dim2=-1), maps[..., 0], -torch.special.xlogy(maps, maps).sum(-1)]
        own, first, entropy = ((part * real).sum((0, 2)) for part in parts)
        previous = (maps.diagonal(-1, -2, -1) * real[..., 1:]).sum((0, 2))
        total = torch.stack([own, previous, first, entropy])
        self.total = total if self.total is None else self.total + total
        self.queries += int(real[:, 0].sum())
        self.later += int(real[:, 0, 1:].sum())

    def merge(self, other: HeadAttention) -> None:
        self.queries, self.later = self.queries + other.queries, self.later + other.later
        if other.total is not None:
            self.total = other.total if self.total is None else self.total + other.total

    def result(self) -> Tensor:
        assert self.total is not None
        counts = [self.queries, self.later, self.queries, self.queries]
        return self.total.cpu() / torch.tensor(counts, dtype=torch.float64).clamp_min(1)[:, None]


def attention_maps(network: Network) -> dict[str, Node]:
    """The nodes whose values are weights of attention, (batch, head, query, key) with as many keys as queries."""
    return {
        name: node
        for name, node in network.nodes.items()
        if node.operator in ("softmax", "_softmax")
        and len(node.full_shape) == 4
        and node.per_sample
        and node.full_shape[2] == node.full_shape[3] > 1
        and node.length_axes in ((), (2, 3))
    }


def projection_of(network: Network, node: Node) -> Layer | None:
    """The layer that joins the outputs of the heads of the attention `node`; None where it is not seen to."""
    heads, current, parted = node.full_shape[1], node, 0
    for _ in range(16):
        users = [user for user in current.users if user.op != "output"]
        if len(users) != 1:
            return None
        before, current = current, users[0]
        if current.weights:
            break
        if current.operator not in _PASSING:
            return None
        if len(current.full_shape) == 4 and current.full_shape[2] == heads:
            parted = current.full_shape[3]  # (batch, query, head, value), which a view makes one axis of
    else:
        return None
    layer = next(each for each in network.layers if each.weight == current.weights[0])
    joined = len(layer.weight_shape) == 2 and before.full_shape[-1] == heads * parted
    return layer if joined and layer.weight_shape[1 - layer.output_axis] == heads * parted else None


_SPREADING = {
    "expand",
    "reshape",
    "view",
    "unsafe_view",
    "clone",
    "contiguous",
    "unsqueeze",
    "transpose",
    "alias",
    "to",
}
"""What lies between a key-value head and the product that several query heads share it in."""


def key_value_heads(node: Node) -> int:
    """How many heads of keys and values the attention `node` has; fewer than of queries where these share them.

    Grouped-query attention (Ainslie et al., "GQA", 2023): query head h takes key-value head h // (heads / groups).
    """
    heads, stack = node.full_shape[1], [node, *_passing(node.users)]
    products = [user for one in stack for user in one.users if user.operator in ("matmul", "bmm")]
    for product in products:
        current = next((one for one in reversed(product.inputs) if one.from_input and one not in stack), None)
        while current is not None and current.operator in _SPREADING | {"repeat_interleave"}:
            before = next((one for one in current.inputs if one.from_input), None)
            shape = current.full_shape
            if current.operator == "expand" and len(shape) == 5 and shape[1] * shape[2] == heads:
                return shape[1]
            whole = before is not None and len(before.full_shape) == 4 and heads % before.full_shape[1] == 0
            if current.operator == "repeat_interleave" and before is not None and whole:
                return before.full_shape[1]
            current = before
    return heads


def _passing(users: Sequence[Node]) -> list[Node]:
    """What the weights of attention become before they meet the values: the same in another type or place."""
    found = []
    for user in users:
        if user.operator in _PASSING - {"matmul", "bmm"}:
            found += [user, *_passing(user.users)]
    return found


def _without(tensors: Mapping[str, Tensor], layer: Layer, removed: Sequence[int], heads: int) -> dict[str, Tensor]:
    weight = tensors[layer.weight].clone()
    columns = weight.movedim(layer.output_axis, 0)
    size = columns.shape[1] // heads
    for head in removed:
        columns[:, head * size : (head + 1) * size] = 0
    return {layer.weight: weight}


def head_table(network: Network, results: Mapping[str, Any]) -> pl.DataFrame:
    """A row a head: node, head, the shares and the entropy of `HeadAttention`, the layer that takes its output, and the
    head whose keys and values it takes.
    """
    rows = []
    for name, node in attention_maps(network).items():
        layer, shares = projection_of(network, node), results[f"heads {name}"]
        heads = node.full_shape[1]
        each = heads // key_value_heads(node)
        for head in range(heads):
            own, previous, first, entropy = shares[:, head].tolist()
            rows.append(
                (name, head, own, previous, first, entropy, None if layer is None else layer.name, head // each)
            )
    return pl.DataFrame(rows, schema=HEADS, orient="row")


def removal_table(network: Network, samples: Samples, heads: pl.DataFrame, unit: str = "head") -> pl.DataFrame:
    """The scores with one head removed at a time, its columns of the projection set to 0: node, head, `sweep`'s.

    unit: `head`, or `key_value_head`: each with all the query heads that share it, where some do.
    """
    edits: list[tuple[dict[str, Any], Replace | None]] = []
    known = heads.drop_nulls("projection")
    if unit != "head":
        known = known.filter((pl.col("head") != pl.col(unit)).any().over("node"))
    for (node, number), rows in known.group_by("node", unit, maintain_order=True):
        layer, removed = network.layer(rows["projection"][0]), tuple(rows["head"])
        count = known.filter(pl.col("node") == node).height
        edit = partial(_without, layer=layer, removed=removed, heads=count)
        replace = Replace((layer.weight,), edit, f"head {node} {', '.join(map(str, removed))}")
        edits.append(({"node": node, unit: number}, replace))
    return sweep_edits(network, samples, edits).drop("changed") if edits else pl.DataFrame()


def head_figures(heads: pl.DataFrame, removal: pl.DataFrame, measure: Measure | None) -> dict[str, Figure]:
    """Where the heads look, and what each costs."""
    long = heads.unpivot(["self", "previous", "first"], index=["node", "head"], variable_name="at", value_name="share")
    named = long.with_columns(pl.format("{} {}", "node", "head").alias("head of"))
    figures = {
        "heads": charts.heatmap(
            named,
            "at",
            "head of",
            "share",
            percent=True,
            value_title="share of attention",
            title="Where each head looks",
            reading="A row a head; bright: it looks at the token itself, the one before or the first.",
            source="after Clark et al., 2019",
            labels=False,
        )
    }
    if measure is not None and removal.height:
        figures["heads_removed"] = loss_map(
            removal.with_columns(pl.col("head").cast(pl.String)),
            "head",
            "node",
            measure,
            "What removing each head costs",
            "after Michel, Levy & Neubig, 2019",
        )
    return figures


def head_findings(
    heads: pl.DataFrame, removal: pl.DataFrame, measure: Measure | None, shared: pl.DataFrame | None = None
) -> list[Finding]:
    """Which heads look at one place, and how many can be removed; shared: what removing key-value heads costs."""
    sentences = []
    for column, words in _WORDS.items():
        focused = heads.filter(pl.col(column) > FOCUS).sort(column, descending=True, maintain_order=True)
        if focused.height:
            names = [f"{row['node']}:{row['head']} ({percent(row[column])})" for row in focused.iter_rows(named=True)]
            text = (
                f"{focused.height} of {plural(heads.height, 'attention head')} "
                f"{'looks' if focused.height == 1 else 'look'} mostly at {words}: {listing(names, 3)}."
            )
            sentences.append(Finding(text, min(5.0, 5 * focused.height / heads.height)))
    if measure is None or removal.is_empty():
        return sentences
    sentences.append(_removable(removal, "head", "head", f" on {measure.samples(removal['images'][0])}", measure))
    if shared is not None and shared.height:
        each = heads.group_by("node", "key_value_head", maintain_order=True).len()["len"].to_list()
        most = max(each)
        count = plural(most, "query head") if min(each) == most else f"{min(each)} to {most} query heads"
        sentences.append(_removable(shared, "key_value_head", "key-value head", f", each with its {count},", measure))
    unseen = heads.filter(pl.col("projection").is_null())["node"].unique(maintain_order=True).to_list()
    if unseen:
        text = f"Heads are not removed where no layer is seen to join their outputs: {listing(unseen)}."
        sentences.append(Finding(text, 0.0))
    return sentences


def _removable(removal: pl.DataFrame, column: str, noun: str, how: str, measure: Measure) -> Finding:
    """How many heads cost nothing, and which costs most; of a tie all."""
    free = removal.filter(pl.col("drop_low") <= 0).height
    worst = removal.sort("drop", descending=True, maintain_order=True).row(0, named=True)
    names = [f"{row['node']}:{row[column]}" for row in removal.iter_rows(named=True)]
    most = alike(names, removal["drop"].to_list())
    text = f"{free} of {plural(removal.height, noun)} can be removed alone{how} without a measurable loss of "
    text += measure.unit
    if free == removal.height:
        text += f"; none costs more than {measure.loss(worst)}"
    else:
        text += f"; {listing(most)} {'costs' if len(most) == 1 else 'cost'} most: {measure.loss(worst)}"
    weight = min(5.0, worst["drop"] / half_width(worst)) if worst["drop"] > 0 else 0.5
    return Finding(f"{text}.", weight)


def study_heads(
    network: Network, samples: Samples, results: Mapping[str, Any], remove: bool
) -> tuple[dict[str, pl.DataFrame], dict[str, Figure], list[Finding]]:
    """Tables, charts and sentences about the attention heads; empty where there are none."""
    if not attention_maps(network):
        fused = [node.name for node in network.nodes.values() if node.operator == "scaled_dot_product_attention"]
        hint = "load the network with attn_implementation='eager', or write the softmax out, to see its heads"
        text = f"The weights of attention are inside fused operators ({listing(fused, 2)}): {hint}."
        return {}, {}, [Finding(text, 0.0)] if fused else []
    heads = head_table(network, results)
    removal, shared, unscored = pl.DataFrame(), pl.DataFrame(), []
    if remove:
        try:
            removal = removal_table(network, samples, heads)
            shared = removal_table(network, samples, heads, "key_value_head")
        except NetworkError as error:  # where the heads look is known all the same
            unscored = [Finding(f"What each head costs is not measured: {error}", 0.0)]
    measure = measure_of(network, samples) if removal.height else None
    tables = {"heads": heads, "heads_removed": removal, "key_value_heads_removed": shared}
    tables = {name: table for name, table in tables.items() if name == "heads" or table.height}
    return tables, head_figures(heads, removal, measure), head_findings(heads, removal, measure, shared) + unscored
