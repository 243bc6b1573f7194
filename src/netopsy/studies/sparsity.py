"""How many activations are zero (Lorieul et al., Section III.B, Figure 4), which units never or always answer, and
which channels are much larger than the others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import polars as pl
import torch

from netopsy import charts
from netopsy.engine.observe.counting import Tallies
from netopsy.engine.observe.tally import Tally
from netopsy.network.activations import activations, rectifies
from netopsy.network.network import Network
from netopsy.network.node import Node
from netopsy.result import Figure, Result
from netopsy.samples.samples import Samples
from netopsy.settings import NonNegativeFloat
from netopsy.studies.study import Allowance, ObservingStudy
from netopsy.tallies.moments import Moments
from netopsy.tallies.sparsity import Range
from netopsy.tallies.sparsity import ZeroShare as ZeroShare
from netopsy.wording import ends, listing, plural

_SPARSE = 0.8  # what the paper calls sparse
_NAMED = 5


def findings(
    layers: pl.DataFrame, extremes: pl.DataFrame, images: int, threshold: float, outliers: pl.DataFrame | None = None
) -> list[str]:
    """Plain sentences, the most important first.

    layers, extremes, outliers: the study's tables `layers`, `extreme_units`, `outliers`. images: how many were seen.
    """
    zero = "zero" if not threshold else f"at most {threshold:g} in magnitude"
    rectifying = layers.filter(pl.col("rectifies") | (pl.lit(threshold) > 0) & ~pl.col("operator").str.contains(" "))
    sentences: list[str] = []
    if layers.filter(~pl.col("operator").str.contains(" ")).is_empty():
        sentences.append(
            "The network applies no activation function that Netopsy knows (ReLU and its kin, GELU, SiLU, sigmoid, "
            "softmax and so on), so there is no sparsity to report but that of its output."
        )
    if rectifying.height:
        sentences += [_range(rectifying, images, zero), _sparse(rectifying, zero), *_depth(rectifying, zero)]
        sentences += [_dead(rectifying, extremes, images, zero), _always_on(rectifying, extremes, images, zero)]
    sentences += _never_zero(layers, threshold)
    output = layers.filter(pl.col("operator").str.contains(" "))
    if output.height:
        share = output["sparsity"][0]
        sentences.append(f"The output after its softmax is {zero} in {share:.1%} of the values.")
    return sentences + ([] if outliers is None else _outlying(outliers))


def _outlying(outliers: pl.DataFrame) -> list[str]:
    """Which channels stand out, and what to do."""
    if outliers.is_empty():
        return []
    top = outliers.sort("over_median", descending=True, maintain_order=True).head(3).to_dicts()
    names = [f"{row['node']}:{row['channel']} ({row['over_median']:.0f} times)" for row in top]
    where = plural(outliers["node"].n_unique(), "input") + " of layers"
    return [
        f"{plural(outliers.height, 'channel')} in {where} {'reaches' if outliers.height == 1 else 'reach'} over "
        f"{OUTLIER:g} times the median channel's largest value: {listing(names, 3)}. One 8-bit scale for all channels "
        "would leave the others few steps there; give each channel a scale, or keep these channels in 16 bits."
    ]


def _range(layers: pl.DataFrame, images: int, zero: str) -> str:
    low, high = layers.sort("sparsity", maintain_order=True)[[0, -1]].iter_rows(named=True)
    sizes = [math.prod(map(int, shape.split("x"))) for shape in layers["shape"]]
    overall = sum(size * share for size, share in zip(sizes, layers["sparsity"], strict=True)) / sum(sizes)
    return (
        f"Over {plural(images, 'image')}, {overall:.1%} of the values behind "
        f"{plural(layers.height, 'activation')} are {zero}; "
        f"the least sparse is {low['node']} ({low['sparsity']:.1%}), the most sparse {high['node']} "
        f"({high['sparsity']:.1%})."
    )


def _sparse(layers: pl.DataFrame, zero: str) -> str:
    above = layers.filter(pl.col("sparsity") > _SPARSE)
    if not above.height:
        return f"No activation is {zero} in more than {_SPARSE:.0%} of its values."
    return f"{above.height} of {layers.height} activations are {zero} in more than {_SPARSE:.0%}: {_names(above)}."


def _depth(layers: pl.DataFrame, zero: str) -> list[str]:
    if layers.height < 3:
        return []
    third = layers.height // 3
    early, late = _mean(layers.head(third)), _mean(layers.tail(third))
    first, last = ends(third, "activation")
    change = "rises" if late > early + 0.02 else "falls" if late < early - 0.02 else "hardly changes"
    return [f"Sparsity {change} with depth: {early:.1%} {zero} on average in {first}, {late:.1%} in {last}."]


def _dead(layers: pl.DataFrame, extremes: pl.DataFrame, images: int, zero: str) -> str:
    dead = extremes.filter(pl.col("kind") == "dead")
    units = int(layers["units"].sum())
    if not dead.height:
        return f"No unit of {units:,} is dead: each answered at least once on {plural(images, 'image')}."
    return (
        f"{dead.height:,} of {plural(units, 'unit')} never other than {zero} on {plural(images, 'image')} (dead): "
        f"{_where(dead)}. More images may still wake some."
    )


def _always_on(layers: pl.DataFrame, extremes: pl.DataFrame, images: int, zero: str) -> str:
    always = extremes.filter(pl.col("kind") == "always on")
    if not always.height:
        return f"No rectified unit is always on: each was {zero} somewhere on {plural(images, 'image')}."
    return (
        f"{plural(always.height, 'rectified unit')} never {zero} at any place on {plural(images, 'image')} "
        "(always on): "
        f"{_where(always)}. Their rectifier does nothing here."
    )


def _never_zero(layers: pl.DataFrame, threshold: float) -> list[str]:
    smooth = layers.filter(~pl.col("rectifies") & ~pl.col("operator").str.contains(" "))
    if threshold or not smooth.height:
        return []
    kinds = ", ".join(smooth["operator"].unique(maintain_order=True))
    return [
        f"{plural(smooth.height, 'activation')} ({kinds}) never exactly zero by formula, so zeros there are rounding: "
        "the setting `threshold`, for example 0.01, counts small values instead."
    ]


def _names(layers: pl.DataFrame) -> str:
    parts = [f"{node} ({share:.1%})" for node, share in layers.select("node", "sparsity").head(_NAMED).iter_rows()]
    more = layers.height - len(parts)
    return ", ".join(parts) + (f" and {more} more" if more else "")


def _where(extremes: pl.DataFrame) -> str:
    """`relu3 (2: channels 5, 7)` for the nodes that hold most."""
    groups = extremes.group_by("node", maintain_order=True).agg("channel")
    groups = groups.sort(pl.col("channel").list.len(), descending=True, maintain_order=True)
    parts = []
    for node, channels in groups.head(_NAMED).iter_rows():
        listed = ", ".join(map(str, channels[:_NAMED])) + (", ..." if len(channels) > _NAMED else "")
        parts.append(f"{node} ({len(channels)}: {'channels' if len(channels) > 1 else 'channel'} {listed})")
    more = groups.height - len(parts)
    return ", ".join(parts) + (f" and {more} more layers" if more else "")


def _mean(layers: pl.DataFrame) -> float:
    return float(layers["sparsity"].to_numpy().mean())


_SOURCE = "Lorieul et al., Figure 4"
_FACETS = 24  # more small charts than this are drawn as one map
_BINS = 20


@dataclass(frozen=True)
class Sparsity(ObservingStudy):
    """The share of zeros in the output of every activation, per layer and per unit (Lorieul et al., Figure 4).

    Named besides are the outlying channels of what the layers take: those whose largest magnitude is over 20 times
    that of the median channel (Dettmers et al., "LLM.int8()", 2022; Xiao et al., "SmoothQuant", 2023).

    threshold: values of at most this magnitude count as zeros; 0 counts exact zeros, as the paper does.
    """

    threshold: NonNegativeFloat = 0.0

    name: ClassVar[str] = "sparsity"
    allows: ClassVar[tuple[Allowance, ...]] = ("workers",)

    def tallies(self, network: Network, samples: Samples) -> Tallies:
        """Zeros and moments of every activation; of the output as well, after its softmax, where it is none."""
        nodes = activations(network)
        tallies: dict[str, tuple[str, Tally]] = {}
        for name, node in nodes.items():
            axis = node.channel_axis
            tallies[f"zeros {name}"] = (name, ZeroShare(self.threshold, axis))
            tallies[f"moments {name}"] = (name, Moments(axis=axis))
        if network.output not in nodes:
            tallies["output"] = (network.output, ZeroShare(self.threshold, softmax=True))
        for node in layer_inputs(network):
            tallies[f"range {node.name}"] = (node.name, Range(node.channel_axis))
        return tallies

    def conclude(self, network: Network, samples: Samples, results: Mapping[str, Any]) -> Result:
        """The shares of zeros by activation and by unit, and the units that never or always answer."""
        nodes = activations(network)
        layers, units = [], []
        for name, node in nodes.items():
            zeros, moments = results[f"zeros {name}"], results[f"moments {name}"]
            rows = _units(name, zeros, moments)
            units.append(rows)
            layers.append(_layer(name, node, network, rows, int(zeros.zeros.sum()), zeros.seen))
        if "output" in results:
            zeros, node = results["output"], network.nodes[network.output]
            rows = pl.DataFrame({"sparsity": zeros.share.numpy()})
            row = _layer(network.output, node, network, rows, int(zeros.zeros.sum()), zeros.seen)
            layers.append({**row, "operator": "softmax of the output", "rectifies": False})
        frame = pl.DataFrame(layers, schema=_LAYERS)
        table = pl.concat(units) if units else pl.DataFrame(schema=_UNITS)
        flagged = _extremes(frame, table)
        outliers = outlying_channels(layer_inputs(network), results)
        return self.result(
            tables={"layers": frame, "units": table, "extreme_units": flagged, "outliers": outliers},
            figures=_figures(frame, table, self.threshold),
            findings=findings(frame, flagged, len(samples), self.threshold, outliers),
        )


OUTLIER = 20.0
"""Times the median channel's largest magnitude from which on a channel is named."""
_FEWEST = 8  # channels of a value whose median says something
_OUTLIERS: dict[str, Any] = {
    "node": pl.String,
    "layers": pl.String,
    "channel": pl.Int64,
    "largest": pl.Float64,
    "median": pl.Float64,
    "over_median": pl.Float64,
}


def layer_inputs(network: Network) -> dict[Node, list[str]]:
    """What convolutions, linear and recurrent layers take, with the names of the layers, in order of execution."""
    taken: dict[Node, list[str]] = {}
    for layer in network.layers:
        for call in layer.nodes if layer.kind != "embedding" or layer.macs else ():
            node = network.nodes[call]
            sources = [
                one for one in node.inputs if one.from_input and one.is_floating_point and one.name in network.nodes
            ]
            if sources and sources[0].per_sample and len(sources[0].full_shape) > 1:
                axis = 1 if "conv" in node.operator else len(sources[0].full_shape) - 1
                if sources[0].channel_axis % len(sources[0].full_shape) == axis:
                    taken.setdefault(sources[0], []).append(layer.name)
    order = list(network.nodes)
    return dict(sorted(taken.items(), key=lambda item: order.index(item[0].name)))


def outlying_channels(inputs: Mapping[Node, list[str]], results: Mapping[str, Any]) -> pl.DataFrame:
    """A row a channel whose largest magnitude is over OUTLIER times the median channel's, the largest of a node first.

    median: of the largest magnitudes of the node's channels that are ever other than zero; nodes with fewer than 8 of
    these are left out.
    """
    frames = [pl.DataFrame(schema=_OUTLIERS)]
    for node, layers in inputs.items():
        ranges = results[f"range {node.name}"]
        largest = torch.maximum(ranges.low.abs(), ranges.high.abs()).numpy()
        used = largest[(largest > 0) & np.isfinite(largest)]
        if len(used) < _FEWEST:
            continue
        median = float(np.median(used))
        (beyond,) = np.nonzero(largest > OUTLIER * median)
        rows = {
            "node": [node.name] * len(beyond),
            "layers": [", ".join(layers)] * len(beyond),
            "channel": beyond.tolist(),
            "largest": largest[beyond].tolist(),
            "median": [median] * len(beyond),
            "over_median": (largest[beyond] / median).tolist(),
        }
        frames.append(pl.DataFrame(rows, schema=_OUTLIERS).sort("largest", descending=True, maintain_order=True))
    return pl.concat(frames)


_LAYERS: dict[str, Any] = {
    "node": pl.String,
    "layer": pl.String,
    "operator": pl.String,
    "shape": pl.String,
    "units": pl.Int64,
    "sparsity": pl.Float64,
    "dead": pl.Int64,
    "always_on": pl.Int64,
    "rectifies": pl.Boolean,
}
_UNITS: dict[str, Any] = {
    "node": pl.String,
    "channel": pl.Int64,
    "sparsity": pl.Float64,
    "mean": pl.Float64,
    "max": pl.Float64,
}


def _units(name: str, zeros: Any, moments: Any) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "node": [name] * len(zeros.share),
            "channel": range(len(zeros.share)),
            "sparsity": zeros.share.numpy(),
            "mean": moments.mean.numpy(),
            "max": moments.max.numpy(),
        },
        schema=_UNITS,
    )


def _layer(name: str, node: Node, network: Network, units: pl.DataFrame, zeros: int, seen: int) -> dict[str, Any]:
    share = units["sparsity"]
    return {
        "node": name,
        "layer": node.layer,
        "operator": node.operator,
        "shape": "x".join(map(str, node.shape)),
        "units": len(share),
        "sparsity": zeros / max(1, seen * len(share)),
        "dead": int((share == 1).sum()),
        "always_on": int((share == 0).sum()),
        "rectifies": rectifies(node),
    }


def _extremes(layers: pl.DataFrame, units: pl.DataFrame) -> pl.DataFrame:
    """Units that were zero on every image, and units of rectifiers that were never zero."""
    joined = units.join(layers.select("node", "layer", "rectifies"), on="node", how="left", maintain_order="left")
    dead, on = pl.col("sparsity") == 1, (pl.col("sparsity") == 0) & pl.col("rectifies")
    kind = pl.when(dead).then(pl.lit("dead")).otherwise(pl.lit("always on")).alias("kind")
    return joined.filter(dead | on).select(kind, "node", "layer", "channel", "mean", "max")


def _figures(layers: pl.DataFrame, units: pl.DataFrame, threshold: float) -> dict[str, Figure]:
    what = "zeros" if not threshold else f"values of magnitude up to {threshold:g}"
    figures = {
        "sparsity": charts.bars(
            layers,
            "node",
            "sparsity",
            title=f"Share of {what} in the output of each activation",
            reading="Each bar is the share over all images and units; layers run from the input (top) to the output.",
            source=_SOURCE,
            percent=True,
            reference=0.8,
            reference_label="80 %",
            category_title="activation",
            value_title=f"share of {what}",
        )
    }
    if not units.height:
        return figures
    bins = _bin_units(units)
    if layers.height <= _FACETS:
        figures["units"] = charts.histogram(
            bins,
            "left",
            "right",
            "units",
            title="How sparse the units of each activation are",
            reading="Each chart counts a layer's units by their own share of zeros; dead units are at the far right.",
            facet="node",
            x_title="share of zeros",
            y_title="units",
            shared_x=True,
        )
    else:
        figures["units"] = charts.heatmap(
            bins.with_columns(pl.col("left").alias("share of zeros, from")),
            "share of zeros, from",
            "node",
            "share",
            title="How sparse the units of each activation are",
            reading="Each row is a layer: a bright cell holds many of its units; the far right holds dead units.",
            percent=True,
            percent_x=True,
            y_title="activation",
            value_title="share of units",
            labels=False,
        )
    return figures


def _bin_units(units: pl.DataFrame) -> pl.DataFrame:
    """Units counted by their share of zeros: node, left, right, units, share."""
    bin_ = (pl.col("sparsity") * _BINS).floor().clip(0, _BINS - 1).cast(pl.Int64).alias("bin")
    counts = units.group_by("node", bin_, maintain_order=True).agg(pl.len().cast(pl.Int64).alias("units"))
    every = units.select(pl.col("node").unique(maintain_order=True)).join(
        pl.DataFrame({"bin": range(_BINS)}), how="cross", maintain_order="left_right"
    )
    full = every.join(counts, on=["node", "bin"], how="left", maintain_order="left").with_columns(
        pl.col("units").fill_null(0)
    )
    return full.select(
        "node",
        (pl.col("bin") / _BINS).alias("left"),
        ((pl.col("bin") + 1) / _BINS).alias("right"),
        "units",
        (pl.col("units") / pl.col("units").sum().over("node")).alias("share"),
    )
