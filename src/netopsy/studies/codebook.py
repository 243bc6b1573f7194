"""What K shared weights a layer cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any, ClassVar

import polars as pl
import torch
from torch import Tensor

from netopsy.engine.sweep.edits import Replace
from netopsy.engine.sweep.sweep import scopes
from netopsy.network.layers import Layer
from netopsy.network.network import Network
from netopsy.result import Finding, Group, Result
from netopsy.samples.samples import Samples
from netopsy.settings import HalfWidth, Interval, Length, PositiveInt, Seed, Unique, stream
from netopsy.stats.kmeans1d.codebook import Codebook as Codes
from netopsy.stats.kmeans1d.kmeans1d import LARGEST_K, SortedValues, Start
from netopsy.studies.draws import over_draws
from netopsy.studies.study import Allowance, Study
from netopsy.studies.sweep_report import (
    Measure,
    fragile,
    score_edits,
    setting_figures,
    unchanged_settings,
    verdict,
    with_left_out,
)
from netopsy.wording import percent, size

SIZES = (2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True)
class WeightCodebook(Study):
    """Accuracy with K shared weights a layer, from 1-D k-means (Lorieul et al., Section III.D, Figure 6).

    Each layer has a codebook of its own, learned on its weights, with `biases` on all its parameters; each of these
    becomes the nearest centroid. Norms are left alone.

    sizes: the values of K.
    biases: whether a layer's biases take part in its codebook and are replaced too, as in the paper.
    start: of the k-means: `dp` (a dynamic programme, the optimum to about 1e-5), `linear`, `density` or `random`.
    draws: of random starts; of fewer than 3 nothing is concluded. Other starts are the same each time.
    one_layer_at_a_time: also share the weights of one layer at a time.
    layers: names of the layers to edit; all by default.
    precision: None scores on all images; else stop each score at +- so many points.
    seed: of random starts, and of the order of the images where `precision` is given.

    Tables: `scores` (by k; of random starts a row a draw, and `summary`, the means over the draws with an interval over
    samples and one over draws), `codebooks` (distortion, a row a layer and k), `sizes` (bits a weight, by k).
    """

    name: ClassVar[str] = "codebook"
    group: ClassVar[Group] = "losses"
    allows: ClassVar[tuple[Allowance, ...]] = ("workers",)

    sizes: Annotated[tuple[int, ...], Interval(ge=1, le=LARGEST_K), Length(1), Unique()] = SIZES
    start: Start = "dp"
    draws: PositiveInt = 5
    one_layer_at_a_time: bool = True
    biases: bool = False
    layers: tuple[str, ...] | None = None
    precision: HalfWidth | None = None
    seed: Seed = 0

    def check_on(self, network: Network) -> None:
        network.select(self.layers)

    def run(self, network: Network, samples: Samples) -> Result:
        """Score `network` with shared weights."""
        chosen = network.select(self.layers)
        if not chosen:
            return self.result(
                findings=[Finding(f"{network.name} has no convolution or linear layer whose weights to share.", 0.0)]
            )
        shared = _shared_tensors(chosen, self.biases)
        seeds = [stream("random start", self.seed, draw) for draw in range(self.draws)]
        drawn = {}  # codebooks by draw
        for draw, seed in enumerate(seeds if self.start == "random" else [self.seed]):
            drawn[draw] = {weight: self._codebooks(network, names, seed) for weight, names in shared.items()}
        column: Callable[[int], dict[str, int]] = lambda draw: {"draw": draw} if self.start == "random" else {}  # noqa: E731
        edits: list[tuple[dict[str, Any], Replace | None]] = [({"layer": "all", "k": None} | column(0), None)]
        for scope in scopes(chosen, self.one_layer_at_a_time):
            tensors = {layer.weight: shared[layer.weight] for layer in scope.layers}
            for k, (draw, codebooks) in product(self.sizes, drawn.items()):
                key = f"codebook {self.start} {self.seed} {draw} {k} {scope.name}{' biases' if self.biases else ''}"
                edits.append(({"layer": scope.name, "k": k} | column(draw), _share(tensors, k, codebooks, key)))
        scores, measure = score_edits(network, samples, edits, precision=self.precision, seed=self.seed)
        scores = scores.with_columns(pl.col("k").cast(pl.Int64))
        summary = scores
        if self.start == "random":
            summary = over_draws(scores, ["layer", "k"], measure.column, share=measure.share)
        quality = pl.DataFrame(
            [
                _quality(layer, k, _values(network, shared[layer.weight]), codebooks[layer.weight][k]) | column(draw)
                for layer, k, (draw, codebooks) in product(chosen, self.sizes, drawn.items())
            ]
        )
        sizes = _sizes(self.sizes, drawn[0])
        return self.result(
            tables={"scores": scores, "codebooks": quality, "sizes": sizes}
            | ({} if summary is scores else {"summary": summary}),
            figures=setting_figures(
                summary,
                "k",
                unedited=float(summary[measure.column][0]),
                titles=("Shared weights, all layers", "Shared weights, one layer at a time"),
                sources=("Lorieul et al., Figure 6", "after Lorieul et al., Figure 6"),
                axis="log",
                axis_title="weights that differ in each layer (K)",
                band=None if summary is scores else ("lowest", "highest"),
                measure=measure,
            ),
            findings=with_left_out(_findings(summary, scores, sizes, measure), network),
        )

    def _codebooks(self, network: Network, names: tuple[str, ...], seed: int) -> dict[int, Codes]:
        """A codebook for every K from one sort of the values of some tensors together."""
        values = SortedValues(_values(network, names).numpy())
        return {k: values.kmeans(k, start=self.start, seed=seed) for k in self.sizes}


def _shared_tensors(layers: Sequence[Layer], biases: bool) -> dict[str, tuple[str, ...]]:
    """The tensors of each codebook, by its layer's weight: that, and the biases of all layers that use it."""
    names: dict[str, dict[str, None]] = {}
    for layer in layers:
        names.setdefault(layer.weight, {layer.weight: None})
        if biases and layer.bias is not None:
            names[layer.weight][layer.bias] = None
    return {weight: tuple(tensors) for weight, tensors in names.items()}


def _values(network: Network, names: Sequence[str]) -> Tensor:
    """The values of some tensors, one after the other, float32."""
    return torch.cat([network.tensors[name].detach().float().cpu().flatten() for name in names])


def _share(
    shared: Mapping[str, tuple[str, ...]], k: int, codebooks: Mapping[str, Mapping[int, Codes]], key: str
) -> Replace:
    """The edit that gives some layers shared weights. shared: the tensors of each layer's codebook, by its weight."""

    def edit(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        edited = {}
        for weight, names in shared.items():
            decoded = torch.from_numpy(codebooks[weight][k].decode())
            parts = decoded.flatten().split([tensors[name].numel() for name in names])
            for name, part in zip(names, parts, strict=True):
                edited[name] = part.reshape(tensors[name].shape).to(tensors[name])
        return edited

    return Replace(tuple(name for names in shared.values() for name in names), edit, key)


def _quality(layer: Layer, k: int, values: Tensor, codebook: Codes) -> dict[str, Any]:
    """How near a codebook comes to its values; noise-to-signal is distortion over variance."""
    variance = float(values.double().var(correction=0))
    return {
        "layer": layer.name,
        "k": k,
        "centroids": len(codebook.centroids),
        "distortion": codebook.distortion,
        "noise_to_signal": codebook.distortion / variance if variance > 0 else 0.0,
    }


def _sizes(counts: tuple[int, ...], codebooks: Mapping[str, Mapping[int, Codes]]) -> pl.DataFrame:
    """Bytes of the shared parameters as codes of whole bits and float32 centroids, without entropy coding."""
    rows = []
    for k in counts:
        books = [by_size[k] for by_size in codebooks.values()]
        weights = sum(book.codes.size for book in books)
        bits = sum(
            book.codes.size * max(1, (len(book.centroids) - 1).bit_length()) + 32 * len(book.centroids)
            for book in books
        )
        rows.append(
            {"k": k, "bytes": bits / 8, "bits_per_weight": bits / weights, "share_of_float32": bits / (32 * weights)}
        )
    return pl.DataFrame(rows)


def _findings(summary: pl.DataFrame, scores: pl.DataFrame, sizes: pl.DataFrame, measure: Measure) -> list[Finding]:
    share = dict(sizes.select("k", "share_of_float32").iter_rows())
    total = dict(sizes.select("k", "bytes").iter_rows())

    def describe_size(row: dict[str, Any]) -> str:
        k = row["k"]
        return f"K = {k} ({size(total[k])}, {percent(share[k])} of float32)"

    short: Callable[[dict[str, Any]], str] = lambda row: f"K = {row['k']}"  # noqa: E731
    edited = summary.filter(pl.col("k").is_not_null())
    settings = scores.filter(pl.col("k").is_not_null()).unique(["layer", "k"], maintain_order=True)
    together = edited.filter(pl.col("layer") == "all").sort("k", descending=True)
    alone = edited.filter(pl.col("layer") != "all")
    findings = verdict(together, describe_size, "smallest codebook per layer", measure)
    findings += fragile(alone, short, "given a codebook", measure, "Give it more centroids than the others.")
    return findings + unchanged_settings(settings, short)
