"""Where the parameters of a network are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import polars as pl

from netopsy import charts
from netopsy.network.layers import CONVOLUTION_KINDS, filter_shape
from netopsy.network.network import Network
from netopsy.result import Figure, Finding, Result
from netopsy.samples.samples import Samples
from netopsy.studies.study import Study
from netopsy.wording import capital, listing, percent, plural, size

OTHER = "norms, embeddings and others"


@dataclass(frozen=True)
class Parameters(Study):
    """How many parameters each layer holds, and what its filters look like (Lorieul et al., Tables I and II).

    A layer's count is its weights and its biases. The paper's Table I prints 16,777,216 for fc7, which leaves out the
    4,096 biases of that layer; its total, 60,965,224, counts them. So does this study, in every layer.

    In Table II the depth of a filter is that of one group. The paper's row for conv2 says 96, which is the depth of the
    layer's input (`input_depth` here); the 307,456 parameters of its Table I fit a depth of 48 in each of two groups.

    Tables: `layers` (Table I; parameters outside the layers stand in one row at the end), `filters` (Table II) and
    `kinds` (convolutions, linear layers, recurrent weights, embeddings, others).
    """

    name: ClassVar[str] = "parameters"

    def run(self, network: Network, samples: Samples | None) -> Result:
        """Count the parameters of `network`; needs no images."""
        layers = layer_table(network)
        kinds = kind_table(layers)
        return self.result(
            tables={"layers": layers, "filters": filter_table(network), "kinds": kinds},
            figures={"parameters": _figure(layers)},
            findings=_findings(network, layers, kinds),
        )


def layer_table(network: Network) -> pl.DataFrame:
    """A row a layer: layer, kind, parameters, share (0..1), weights, biases, bytes. The counts add up to the total."""
    total = network.parameters
    rows: list[dict[str, Any]] = []
    assigned: set[str] = set()
    for layer in network.layers:
        # a bias that two layers share is counted with the first
        names = {name for name in (layer.weight, layer.bias) if name and name not in assigned}
        assigned |= names
        rows.append(_row(network, layer.name, layer.kind, names, {layer.weight}))
    others = {name for name, _ in network.module.named_parameters()} - assigned
    if others:
        rows.append(_row(network, OTHER, "other", others, set()))
    frame = pl.DataFrame(rows, schema={**_COLUMNS})
    return frame.with_columns(share=pl.col("parameters") / max(total, 1))


_COLUMNS = {
    "layer": pl.String,
    "kind": pl.String,
    "parameters": pl.Int64,
    "share": pl.Float64,
    "weights": pl.Int64,
    "biases": pl.Int64,
    "bytes": pl.Int64,
}


def _row(network: Network, layer: str, kind: str, names: set[str], weights: set[str]) -> dict[str, Any]:
    tensors = {name: network.tensors[name] for name in names}
    count = sum(t.numel() for t in tensors.values())
    weight_count = sum(t.numel() for name, t in tensors.items() if name in weights)
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    biases = None if kind == "other" else count - weight_count
    return {
        "layer": layer,
        "kind": kind,
        "parameters": count,
        "share": 0.0,
        "weights": None if kind == "other" else weight_count,
        "biases": biases,
        "bytes": size,
    }


def filter_table(network: Network) -> pl.DataFrame:
    """Table II: one row a convolution: layer, filters, extent (as 11x11), depth (per group), groups, input_depth."""
    rows = []
    for layer in network.layers:
        if layer.kind in CONVOLUTION_KINDS:
            filters, depth, *kernel = filter_shape(layer)
            extent = "x".join(map(str, kernel))
            rows.append((layer.name, filters, extent, depth, layer.groups, depth * layer.groups))
    numbers = dict.fromkeys(("depth", "groups", "input_depth"), pl.Int64)
    columns = {"layer": pl.String, "filters": pl.Int64, "extent": pl.String, **numbers}
    return pl.DataFrame(rows, schema=columns, orient="row")


def kind_table(layers: pl.DataFrame) -> pl.DataFrame:
    """One row a kind: kind, layers, parameters, share, bytes."""
    return layers.group_by("kind", maintain_order=True).agg(
        pl.when(pl.col("kind").first() == "other").then(None).otherwise(pl.len()).cast(pl.Int64).alias("layers"),
        pl.col("parameters", "share", "bytes").sum(),
    )


def _figure(layers: pl.DataFrame) -> Figure:
    return charts.bars(
        layers,
        "layer",
        "share",
        color="kind",
        stack=True,
        percent=True,
        title="Where the parameters are",
        reading="One bar per layer, in order of execution; its length is the layer's share of all parameters.",
        source="Lorieul et al., Table I",
        value_title="share of all parameters",
    )


def _findings(network: Network, layers: pl.DataFrame, kinds: pl.DataFrame) -> list[Finding]:
    if not network.layers:
        return [
            Finding(f"{network.name} has no convolution and no linear layer, and {network.parameters:,} parameters.")
        ]
    largest = layers.filter(pl.col("kind") != "other").sort("parameters", descending=True, maintain_order=True)
    count, share = largest.select("parameters", "share").row(0)
    names = largest.filter(pl.col("parameters") == count)["layer"].to_list()
    total = (
        f"{network.name} has {plural(network.parameters, 'parameter')} ({size(int(layers['bytes'].sum()))} as loaded)"
    )
    held = f"holds {percent(share)} of them ({count:,})"
    if len(names) > 1:
        held = f"tie with {percent(share)} each ({count:,})"
    which = "the largest layer" if len(names) == 1 else f"its {len(names)} largest layers"
    where = names[0] if len(names) == 1 else listing(names)
    findings = [Finding(f"{total}; {which}, {where}, {held}.", min(5.0, share * largest.height / 2))]
    findings.append(Finding(capital("; ".join(map(_kind_share, kinds.to_dicts()))) + ".", 0.5))
    return findings + _few(largest)


def _kind_share(row: dict[str, Any]) -> str:
    nouns = {
        "conv": "convolution",
        "conv_transpose": "transposed convolution",
        "linear": "linear layer",
        "recurrent": "recurrent weight",
        "embedding": "table of embeddings",
    }
    share = percent(row["share"])
    if row["kind"] not in nouns:
        return f"norms, embeddings and other parameters hold {share}"
    several = "tables of embeddings" if row["kind"] == "embedding" else ""
    return f"{plural(row['layers'], nouns[row['kind']], several)} hold{'s' * (row['layers'] == 1)} {share}"


def _few(largest: pl.DataFrame) -> list[Finding]:
    """How many of the largest layers hold half of all parameters, where one does not; named unless a tie is cut."""
    needed = int((largest["share"].cum_sum() < 0.5).sum()) + 1
    if needed < 2 or needed > largest.height:
        return []
    counts = largest["parameters"].to_list()
    cut = needed < len(counts) and counts[needed] == counts[needed - 1]
    names = "" if cut else f": {listing(largest['layer'][:needed].to_list())}"
    text = f"Half of all parameters are in {needed} of {plural(largest.height, 'layer')}{names}."
    return [Finding(text, min(5.0, max(0.0, largest.height / (2 * needed) - 1)))]
