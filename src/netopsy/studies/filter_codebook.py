"""What K shared filters a layer cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import polars as pl
from torch import Tensor

from netopsy.engine.sweep.edits import Replace
from netopsy.engine.sweep.sweep import Scope, scopes
from netopsy.network.layers import CONVOLUTION_KINDS, Layer, filter_shape, filters_of, weight_of
from netopsy.network.network import Network
from netopsy.result import Finding, Group, Result
from netopsy.samples.samples import Samples
from netopsy.settings import HalfWidth, Length, PositiveInt, Seed, Share, Unique
from netopsy.stats.kmeans import Clusters, kmeans
from netopsy.studies.study import Allowance, Study
from netopsy.studies.sweep_report import (
    Measure,
    fragile,
    score_edits,
    setting_figures,
    unchanged_settings,
    verdict,
)
from netopsy.wording import percent


@dataclass(frozen=True)
class FilterCodebook(Study):
    """Accuracy with each filter replaced by the centroid of its cluster (Lorieul et al., Section III.D, Figure 7).

    The filters of each convolution, as vectors, are clustered by k-means; the number of clusters goes from 2 to all.
    Layers differ in their number of filters n, so it is given as a share: max(2, round(share * n)) clusters.

    shares: clusters as shares of each layer's filters; 0 stands for 2 clusters, 1 for all filters.
    one_layer_at_a_time: also share the filters of one layer at a time.
    starts: runs of the k-means, of which the best is kept.
    layers: names of the convolutions to edit; all by default.
    precision: None scores on all images; else stop each score at +- so many points.
    seed: of the k-means, and of the order of the images where `precision` is given.

    Tables: `scores` (by share; `k` is the number of clusters of a layer alone), `clusters` (distortion by layer).
    """

    name: ClassVar[str] = "filter_codebook"
    group: ClassVar[Group] = "losses"
    allows: ClassVar[tuple[Allowance, ...]] = ("workers",)

    shares: Annotated[tuple[Share, ...], Length(1), Unique()] = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
    one_layer_at_a_time: bool = True
    starts: PositiveInt = 1
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
        clusters = {layer.weight: self._clusters(network, layer) for layer in chosen}
        edits: list[tuple[dict[str, Any], Replace | None]] = [({"layer": "all", "share": None, "k": None}, None)]
        for scope in scopes(chosen, self.one_layer_at_a_time):
            for share in self.shares:
                k = clusters_for(scope.layers[0], share) if len(scope.layers) == 1 else None
                settings = {"layer": scope.name, "share": share, "k": k}
                edits.append((settings, _share(scope, share, clusters, f"{self.starts} {self.seed}")))
        scores, measure = score_edits(network, samples, edits, precision=self.precision, seed=self.seed)
        scores = scores.with_columns(pl.col("share").cast(pl.Float64), pl.col("k").cast(pl.Int64))
        # all filters kept change nothing, by definition, and need no word
        scores = scores.with_columns(changed=pl.col("changed") | (pl.col("share") == 1.0).fill_null(False))
        return self.result(
            tables={"scores": scores, "clusters": _quality(chosen, self.shares, clusters)},
            figures=setting_figures(
                scores,
                "share",
                unedited=float(scores[measure.column][0]),
                titles=("Shared filters, all convolutions", "Shared filters, one convolution at a time"),
                sources=("Lorieul et al., Figure 7", "after Lorieul et al., Figure 7"),
                axis="share",
                axis_title="clusters, as a share of each layer's filters",
                measure=measure,
            ),
            findings=_findings(scores, measure),
        )

    def _clusters(self, network: Network, layer: Layer) -> dict[int, Clusters]:
        """The clusters of a layer's filters for each number of them that the shares ask for."""
        filters = filters_of(layer, network.tensors[layer.weight].detach()).flatten(1).float()
        counts = {clusters_for(layer, share) for share in self.shares}
        return {k: kmeans(filters, k, seed=self.seed, starts=self.starts) for k in sorted(counts)}


def clusters_for(layer: Layer, share: float) -> int:
    """Number of clusters: `share` of the layer's filters, at least 2, at most all."""
    filters = filter_shape(layer)[0]
    return min(filters, max(2, round(share * filters)))


def _share(scope: Scope, share: float, clusters: dict[str, dict[int, Clusters]], how: str) -> Replace:
    def edit(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        edited = {}
        for layer in scope.layers:
            k, weight = clusters_for(layer, share), tensors[layer.weight]
            shared = clusters[layer.weight][k].decode() if k < filter_shape(layer)[0] else None
            filters = filters_of(layer, weight)
            edited[layer.weight] = (
                weight if shared is None else weight_of(layer, shared.reshape(filters.shape)).to(weight)
            )
        return edited

    return Replace(scope.tensors(), edit, f"filter codebook {how} {share} {scope.name}")


def _quality(
    layers: tuple[Layer, ...], shares: tuple[float, ...], clusters: dict[str, dict[int, Clusters]]
) -> pl.DataFrame:
    """Mean squared distance of a filter to its centroid, a row a layer and share."""
    return pl.DataFrame(
        [
            {
                "layer": layer.name,
                "share": share,
                "filters": filter_shape(layer)[0],
                "k": (k := clusters_for(layer, share)),
                "distortion": clusters[layer.weight][k].distortion,
            }
            for layer in layers
            for share in shares
        ]
    )


def _findings(scores: pl.DataFrame, measure: Measure) -> list[Finding]:
    def describe(row: dict[str, Any]) -> str:
        return f"{percent(row['share'])} of the filters" if row["share"] else "2 filters per layer"

    edited = scores.filter(pl.col("share").is_not_null())
    together = edited.filter((pl.col("layer") == "all") & (pl.col("share") < 1)).sort("share", descending=True)
    alone = edited.filter(pl.col("layer") != "all")
    findings = verdict(together, describe, "smallest set of shared filters", measure)
    findings += fragile(alone, describe, "given shared filters", measure, "Keep all its filters.")
    return findings + unchanged_settings(edited, describe)
