"""What K shared filters a layer cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any, ClassVar, Literal

import polars as pl
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from netopsy.engine.observe.observe import observe
from netopsy.engine.observe.tally import Tally
from netopsy.engine.sweep.edits import Replace
from netopsy.engine.sweep.sweep import Scope, scopes
from netopsy.engine.workspace.workspace import current_workspace
from netopsy.network.layers import CONVOLUTION_KINDS, Layer, filter_shape, filters_of, weight_of
from netopsy.network.network import Network
from netopsy.network.node import Node
from netopsy.result import Finding, Group, Result
from netopsy.samples.samples import Samples
from netopsy.settings import HalfWidth, Length, PositiveInt, Seed, Share, Unique, stream
from netopsy.stats.clustering import kmeans
from netopsy.studies.draws import bounds, over_draws
from netopsy.studies.study import Allowance, Study
from netopsy.studies.sweep_report import (
    Describe,
    Measure,
    fragile,
    score_edits,
    setting_figures,
    unchanged_settings,
    verdict,
)
from netopsy.wording import listing, percent

IMAGES = 256
"""Samples, without their labels, on which the filters' responses are compared."""

Weighting = Literal["none", "response"]
Codes = dict[tuple[str, Weighting, int, int], Int64[Tensor, " filters"]]
"""The cluster of each filter, by weight, weighting, draw and number of clusters."""


@dataclass(frozen=True)
class FilterCodebook(Study):
    """Accuracy with each filter replaced by the centroid of its cluster (Lorieul et al., Section III.D, Figure 7).

    The filters of each convolution, as vectors, are clustered by k-means; the number of clusters goes from 2 to all.
    Layers differ in their number of filters n, so it is given as a share: max(2, round(share * n)) clusters.

    shares: clusters as shares of each layer's filters; 0 stands for 2 clusters, 1 for all filters.
    weighting: the distance of two filters. `none`: that of their weights, as in the paper; `response`: the root mean
        square of the difference of their outputs on some of the samples, sqrt(E|Δw·x|²), which is the distance of the
        weights weighted by the second moments of the layer's inputs; `both`: one next to the other for all layers
        together, `none` for each layer alone.
    starts: runs of a k-means, of which the one of least distortion is kept.
    draws: independent clusterings with all layers together; of fewer than 3 nothing is concluded.
    layer_draws: independent clusterings of each layer alone, likewise.
    one_layer_at_a_time: also share the filters of one layer at a time.
    layers: names of the convolutions to edit; all by default.
    precision: None scores on all images; else stop each score at +- so many points.
    seed: of the k-means, of the samples whose responses count, and of the order of the images where `precision` is
        given.

    Tables: `scores` (a row a draw; `k` is the number of clusters of a layer alone), `summary` (means over the draws,
    with an interval over samples and one over draws), `clusters` (what each clustering leaves, by layer).
    """

    name: ClassVar[str] = "filter_codebook"
    group: ClassVar[Group] = "losses"
    allows: ClassVar[tuple[Allowance, ...]] = ("workers",)

    shares: Annotated[tuple[Share, ...], Length(1), Unique()] = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
    weighting: Literal["none", "response", "both"] = "both"
    starts: PositiveInt = 3
    draws: PositiveInt = 5
    layer_draws: PositiveInt = 3
    one_layer_at_a_time: bool = True
    layers: tuple[str, ...] | None = None
    precision: HalfWidth | None = None
    seed: Seed = 0

    def check_on(self, network: Network) -> None:
        network.select(self.layers)

    def run(self, network: Network, samples: Samples) -> Result:
        """Score `network` with shared filters."""
        chosen = tuple(layer for layer in network.select(self.layers) if layer.kind in CONVOLUTION_KINDS)
        if not chosen:
            return self.result(
                findings=[
                    Finding(f"{network.name} has no convolution among the chosen layers: no filters to share.", 0.0)
                ]
            )
        compared: dict[str, Tensor] = {}
        if "response" in self.weightings:
            compared = responses(network, samples.subset(min(IMAGES, len(samples)), self.seed), chosen)
        codes = self._cluster(network, chosen, compared)
        edits: list[tuple[dict[str, Any], Replace | None]] = [(_settings("all", None, None, None, 0), None)]
        for scope in scopes(chosen, self.one_layer_at_a_time):
            together = scope.name == "all"
            ways = self.weightings if together else self.weightings[:1]
            for weighting, share, draw in product(
                ways, self.shares, range(self.draws if together else self.layer_draws)
            ):
                k = clusters_for(scope.layers[0], share) if len(scope.layers) == 1 else None
                how = f"{self.starts} {self.seed} {weighting} {draw}"
                edit = _share(scope, share, codes, weighting, draw, how)
                edits.append((_settings(scope.name, share, k, weighting, draw), edit))
        scores, measure = score_edits(network, samples, edits, precision=self.precision, seed=self.seed)
        scores = scores.with_columns(
            pl.col("share").cast(pl.Float64), pl.col("k").cast(pl.Int64), pl.col("weighting").cast(pl.String)
        )
        # all filters kept change nothing, by definition, and need no word
        scores = scores.with_columns(changed=pl.col("changed") | (pl.col("share") == 1.0).fill_null(False))
        keys = ("layer", "share", "k", "weighting")
        summary = over_draws(scores, keys, measure.column, share=measure.share)
        return self.result(
            tables={
                "scores": scores,
                "summary": summary,
                "clusters": _quality(network, chosen, self.shares, codes, compared),
            },
            figures=setting_figures(
                summary,
                "share",
                unedited=float(summary[measure.column][0]),
                titles=("Shared filters, all convolutions", "Shared filters, one convolution at a time"),
                sources=("Lorieul et al., Figure 7", "after Lorieul et al., Figure 7"),
                axis="share",
                axis_title="clusters, as a share of each layer's filters",
                band=("lowest", "highest"),
                color="weighting" if len(self.weightings) > 1 else None,
                reading="Lines are means over the clusterings drawn, bands from the lowest to the highest.",
                measure=measure,
            ),
            findings=_findings(summary, scores, measure) + self._left_out(chosen, compared),
        )

    @property
    def weightings(self) -> tuple[Weighting, ...]:
        """Those of all layers together; the first is that of each layer alone."""
        return ("none", "response") if self.weighting == "both" else (self.weighting,)

    def _cluster(self, network: Network, layers: Sequence[Layer], compared: Mapping[str, Tensor]) -> Codes:
        """The clusters of every layer for each number of them that the shares ask for, drawn anew for each draw."""
        codes: Codes = {}
        draws = max(self.draws, self.layer_draws)
        for done, layer in enumerate(layers):
            current_workspace().report("clusters of filters", done, len(layers))
            filters = filters_of(layer, network.tensors[layer.weight].detach()).flatten(1).float()
            counts = sorted({clusters_for(layer, share) for share in self.shares})
            for weighting in self.weightings:
                vectors = compared.get(layer.weight, filters) if weighting == "response" else filters
                for draw, k in product(range(draws), counts):
                    seed = stream("clusters of filters", self.seed, draw) % 2**32
                    clusters = kmeans(vectors, k, seed=seed, starts=self.starts)
                    codes[layer.weight, weighting, draw, k] = clusters.codes
        current_workspace().report("clusters of filters", len(layers), len(layers))
        return codes

    def _left_out(self, layers: Sequence[Layer], compared: Mapping[str, Tensor]) -> list[Finding]:
        """Layers whose filters have no responses that could be compared."""
        names = [layer.name for layer in layers if layer.weight not in compared]
        if "response" not in self.weightings or not names:
            return []
        text = f"Clustered by their weights in either way, as their filters see different inputs: {listing(names)}."
        return [Finding(text, 0.0)]


class SecondMoments(Tally):
    """Mean of y yᵀ over the outputs y of a layer, without their bias.

    update: (batch, filters, *space), or (places, filters). result: float64 (filters, filters).
    """

    products: Float64[Tensor, "filters filters"]
    sums: Float64[Tensor, " filters"]

    def __init__(self, bias: Tensor | None = None) -> None:
        self._bias = () if bias is None else tuple(bias.double().tolist())
        self.seen = 0

    def update(self, values: Tensor, indices: Tensor) -> None:
        rows = values.movedim(1, -1).reshape(-1, values.shape[1]).double()
        self._add(rows.T @ rows, rows.sum(0), len(rows))

    def _add(self, products: Tensor, sums: Tensor, seen: int) -> None:
        self.products = self.products + products if hasattr(self, "products") else products
        self.sums = self.sums + sums if hasattr(self, "sums") else sums
        self.seen += seen

    def merge(self, other: SecondMoments) -> None:
        if hasattr(other, "products"):
            self._add(other.products, other.sums, other.seen)

    def result(self) -> Float64[Tensor, "filters filters"]:
        moments, mean = self.products / self.seen, self.sums / self.seen
        if self._bias:
            bias = torch.tensor(self._bias, dtype=torch.float64, device=mean.device)
            cross = mean[:, None] * bias
            moments = moments - cross - cross.T + bias[:, None] * bias
        return moments


def responses(
    network: Network, samples: Samples, layers: Sequence[Layer]
) -> dict[str, Float64[Tensor, "filters filters"]]:
    """By weight, a vector a filter such that two are as far apart as the filters' outputs are on the samples.

    Their squared distance is E|Δw·x|² = Δwᵀ E[xxᵀ] Δw over the layer's inputs x, so that the mean squared distance of a
    filter to the mean of its cluster is what putting that mean in its place changes in its output. The vectors are the
    rows of a root of the outputs' second moments. Layers of several groups, whose filters see different inputs, and
    those whose weight the network computes are left out.
    """
    tallies: dict[str, Any] = {}
    calls: dict[str, tuple[str, ...]] = {}
    for layer in layers:
        nodes = [network.nodes[name] for name in layer.nodes]
        weights = [node.argument("weight") for node in nodes]
        if layer.groups == 1 and all(isinstance(w, Node) and w.op == "get_attr" for w in weights):
            calls[layer.weight] = layer.nodes
            bias = None if layer.bias is None else network.tensors[layer.bias].detach().cpu()
            tallies |= {name: (name, SecondMoments(bias)) for name in layer.nodes}
    moments = observe(network, samples, tallies) if tallies else {}
    vectors = {}
    for weight, names in calls.items():
        values, axes = torch.linalg.eigh(sum(moments[name].cpu() for name in names) / len(names))
        vectors[weight] = axes * values.clamp_min(0).sqrt()
    return vectors


def clusters_for(layer: Layer, share: float) -> int:
    """Number of clusters: `share` of the layer's filters, at least 2, at most all."""
    filters = filter_shape(layer)[0]
    return min(filters, max(2, round(share * filters)))


def merge_filters(vectors: Tensor, codes: Int64[Tensor, " n"]) -> Tensor:
    """Each of (n, ...) vectors as the mean of its cluster; those alone in theirs stay as they are to the last bit."""
    codes = codes.to(vectors.device)
    sizes = torch.bincount(codes)
    sums = vectors.new_zeros(len(sizes), *vectors.shape[1:], dtype=torch.float64).index_add_(0, codes, vectors.double())
    means = (sums / sizes.reshape(-1, *[1] * (vectors.ndim - 1)))[codes].to(vectors.dtype)
    return torch.where((sizes[codes] == 1).reshape(-1, *[1] * (vectors.ndim - 1)), vectors, means)


def _settings(layer: str, share: float | None, k: int | None, weighting: str | None, draw: int) -> dict[str, Any]:
    return {"layer": layer, "share": share, "k": k, "weighting": weighting, "draw": draw}


def _share(scope: Scope, share: float, codes: Codes, weighting: Weighting, draw: int, how: str) -> Replace:
    def edit(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        edited = {}
        for layer in scope.layers:
            weight = tensors[layer.weight]
            clusters = codes[layer.weight, weighting, draw, clusters_for(layer, share)]
            edited[layer.weight] = weight_of(layer, merge_filters(filters_of(layer, weight), clusters)).to(weight)
        return edited

    return Replace(scope.tensors(), edit, f"filter codebook {how} {share} {scope.name}")


def _quality(
    network: Network,
    layers: Sequence[Layer],
    shares: Sequence[float],
    codes: Codes,
    compared: Mapping[str, Tensor],
) -> pl.DataFrame:
    """What clusterings leave, a row a layer, share and weighting, means over the draws.

    distortion: mean squared distance of a filter to its centroid. response: mean squared change of its output, as a
    share of the outputs' mean square; null where responses were not compared. largest: filters in the largest cluster;
    merged: share of the filters that share a centroid; norm: their mean norm over that of all filters.
    """
    rows = []
    by_layer: dict[str, list[tuple[Weighting, int, int]]] = {}
    for weight, weighting, draw, count in codes:
        by_layer.setdefault(weight, []).append((weighting, draw, count))
    for layer, share in product(layers, shares):
        filters = filters_of(layer, network.tensors[layer.weight].detach()).flatten(1).double().cpu()
        norms, outputs = filters.norm(dim=1), compared.get(layer.weight)
        k = clusters_for(layer, share)
        for weighting, draw, count in by_layer[layer.weight]:
            if count != k:
                continue
            clusters = codes[layer.weight, weighting, draw, k].cpu()
            sizes = torch.bincount(clusters)
            merged = sizes[clusters] > 1
            row: dict[str, Any] = {"layer": layer.name, "share": share, "filters": len(filters), "k": k}
            row |= {"weighting": weighting, "distortion": _error(filters, clusters), "response": None}
            if outputs is not None and (power := float(outputs.square().sum())) > 0:
                row["response"] = _error(outputs, clusters) * len(outputs) / power
            row |= {"largest": float(sizes.max()), "merged": float(merged.double().mean()), "norm": None}
            if merged.any() and norms.any():
                row["norm"] = float(norms[merged].mean() / norms.mean())
            rows.append(row)
    numbers = ("distortion", "response", "largest", "merged", "norm")
    frame = pl.DataFrame(rows, schema_overrides=dict.fromkeys(numbers, pl.Float64))
    keys = ("layer", "share", "filters", "k", "weighting")
    return frame.group_by(keys, maintain_order=True).agg(pl.col(numbers).mean(), draws=pl.len())


def _error(vectors: Tensor, clusters: Tensor) -> float:
    return float((vectors - merge_filters(vectors, clusters)).square().sum()) / len(vectors)


_WAYS = {"none": "clustered by their weights", "response": "clustered by their responses"}


def _findings(summary: pl.DataFrame, scores: pl.DataFrame, measure: Measure) -> list[Finding]:
    def describe(row: dict[str, Any]) -> str:
        return f"{percent(row['share'])} of the filters" if row["share"] else "2 filters per layer"

    edited = summary.filter(pl.col("share").is_not_null())
    together = edited.filter((pl.col("layer") == "all") & (pl.col("share") < 1)).sort("share", descending=True)
    alone = edited.filter(pl.col("layer") != "all")
    ways = together["weighting"].unique(maintain_order=True).to_list()
    findings: list[Finding] = _which_costs_less(together, describe, measure) if len(ways) > 1 else []
    for way in ways:
        named: Describe = describe if len(ways) == 1 else lambda row: f"{describe(row)} {_WAYS[row['weighting']]}"
        findings += verdict(
            together.filter(pl.col("weighting") == way), named, "smallest set of shared filters", measure
        )
    findings += fragile(alone, describe, "given shared filters", measure, "Keep all its filters.")
    drawn_once = scores.filter(pl.col("share").is_not_null() & (pl.col("draw") == 0))
    return findings + unchanged_settings(drawn_once.unique(["layer", "share"], maintain_order=True), describe)


def _which_costs_less(rows: pl.DataFrame, describe: Describe, measure: Measure) -> list[Finding]:
    """The two ways of clustering at the largest share, said to differ only where their intervals lie apart."""
    first = rows.filter(pl.col("share") == rows["share"].max()).to_dicts() if rows.height else []
    if len(first) < 2:
        return []
    less, more = sorted(first, key=lambda row: row["drop"])
    (_, top), (bottom, _) = bounds(less), bounds(more)
    costs = [f"{measure.loss(row)} {_WAYS[row['weighting']]}" for row in (less, more)]
    what = describe(less)
    if top < bottom:
        text = f"Filters {_WAYS[less['weighting']]} cost less: {what} lose {costs[0]} and {costs[1]}."
        return [Finding(text, min(5.0, 1.0 + (bottom - top) / max(1e-6, top)))]
    text = f"Which clustering costs less cannot be told: {what} lose {costs[0]} and {costs[1]}."
    return [Finding(text, 0.5)]
