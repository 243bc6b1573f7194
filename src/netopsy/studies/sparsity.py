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
from netopsy.result import Figure, Finding, Result
from netopsy.samples.samples import Samples
from netopsy.settings import NonNegativeFloat
from netopsy.studies.study import Allowance, ObservingStudy, layer_measures
from netopsy.tallies.moments import Moments
from netopsy.tallies.sparsity import Range
from netopsy.tallies.sparsity import ZeroShare as ZeroShare
from netopsy.wording import alike, ends, listing, number, percent, plural

_SPARSE = 0.8  # what the paper calls sparse
_NAMED = 5


def findings(
    layers: pl.DataFrame, extremes: pl.DataFrame, images: int, threshold: float, outliers: pl.DataFrame | None = None
) -> list[Finding]:
    """Plain sentences, the most important first.

    layers, extremes, outliers: the study's tables `layers`, `extreme_units`, `outliers`. images: how many were seen.
    """
    zero = "zero" if not threshold else f"at most {threshold:g} in magnitude"
    is_output = pl.col("operator").str.contains(" ")
    rectifying = layers.filter(pl.col("rectifies") | (pl.lit(threshold) > 0) & ~is_output)
    sentences: list[Finding] = []
    if layers.filter(~is_output).is_empty():
        text = (
            "The network applies no activation function that Netopsy knows (ReLU and its kin, GELU, SiLU, sigmoid, "
            "softmax and so on), so only its output is counted."
        )
        sentences.append(Finding(text, 1.0))
    if rectifying.height:
        sentences += [_dead(rectifying, extremes, images, zero), *_always_on(extremes, images, zero)]
        sentences += [_range(rectifying, images, zero), *_depth(rectifying, zero), *_sparse(rectifying, zero)]
    sentences += _never_zero(layers, threshold)
    output = layers.filter(is_output)
    if output.height and (share := output["sparsity"][0]) > 0.01:
        text = f"{percent(share)} of the outputs after the softmax are {zero}: the network's confidence saturates."
        sentences.append(Finding(text, min(5.0, 10 * share)))
    return sentences + ([] if outliers is None else _outlying(outliers))


def _outlying(outliers: pl.DataFrame) -> list[Finding]:
    """Which channels stand out, and what to do."""
    if outliers.is_empty():
        return []
    top = outliers.sort("over_median", descending=True, maintain_order=True).row(0, named=True)
    verb = "reaches" if outliers.height == 1 else "reach"
    text = (
        f"{plural(outliers.height, 'channel')} in {plural(outliers['node'].n_unique(), 'input')} of layers {verb} over "
        f"{OUTLIER:g} times the median channel's largest value, the farthest {top['node']}:{top['channel']} "
        f"({number(top['over_median'])} times). Give each channel a scale in 8 bits, or keep these in 16."
    )
    return [Finding(text, min(5.0, top["over_median"] / OUTLIER))]


def _range(layers: pl.DataFrame, images: int, zero: str) -> Finding:
    sizes = [math.prod(map(int, shape.split("x"))) for shape in layers["shape"]]
    overall = sum(size * share for size, share in zip(sizes, layers["sparsity"], strict=True)) / sum(sizes)
    text = f"{percent(overall)} of the activations are {zero} on {plural(images, 'image')}"
    names, shares = layers["node"].to_list(), layers["sparsity"].to_list()
    if layers.height > 1:
        least = listing(alike(names, [-share for share in shares]), 3)
        most = listing(alike(names, shares), 3)
        text += f", from {percent(min(shares))} ({least}) to {percent(max(shares))} ({most})"
    return Finding(f"{text}.", min(5.0, abs(overall - 0.5) * 5))


def _sparse(layers: pl.DataFrame, zero: str) -> list[Finding]:
    above = layers.filter(pl.col("sparsity") > _SPARSE)
    if not above.height:
        return []
    verb = "is" if above.height == 1 else "are"
    rows = above.select("node", "sparsity").iter_rows()
    names = listing([f"{node} ({percent(share)})" for node, share in rows], _NAMED)
    text = (
        f"{above.height} of {plural(layers.height, 'activation')} {verb} {zero} in more than {percent(_SPARSE)} of "
        f"their values: {names}."
    )
    return [Finding(text, min(5.0, 5 * above.height / layers.height))]


def _depth(layers: pl.DataFrame, zero: str) -> list[Finding]:
    """Whether zeros grow more or fewer with depth."""
    if layers.height < 3:
        return []
    third = layers.height // 3
    early, late = (float(part["sparsity"].to_numpy().mean()) for part in (layers.head(third), layers.tail(third)))
    if abs(late - early) < 0.02:
        return []
    first, last = ends(third, "activation")
    what = "Zeros" if zero == "zero" else "Small values"
    verb = "rise" if late > early else "fall"
    text = f"{what} {verb} with depth, from {percent(early)} ({first}) to {percent(late)} ({last})."
    return [Finding(text, min(5.0, abs(late - early) / 0.1))]


def _dead(layers: pl.DataFrame, extremes: pl.DataFrame, images: int, zero: str) -> Finding:
    dead = extremes.filter(pl.col("kind") == "dead")
    units = int(layers["units"].sum())
    if not dead.height:
        return Finding(f"No unit is dead: each of {units:,} fires on at least one of {plural(images, 'image')}.", 0.5)
    verb = "is dead: it is" if dead.height == 1 else "are dead: they are"
    text = (
        f"{dead.height:,} of {plural(units, 'unit')} {verb} {zero} on all of {plural(images, 'image')}, in "
        f"{_where(dead)}. Remove them to save space; more images may still wake some."
    )
    return Finding(text, min(5.0, 1 + 20 * dead.height / max(1, units)))


def _always_on(extremes: pl.DataFrame, images: int, zero: str) -> list[Finding]:
    always = extremes.filter(pl.col("kind") == "always on")
    if not always.height:
        return []
    verb, their = ("is", "its ReLU is") if always.height == 1 else ("are", "their ReLUs are")
    never = f"never {zero} on {plural(images, 'image')}, so {their} effectively linear"
    text = f"{plural(always.height, 'unit')} {verb} always on: {never} ({_where(always)})."
    return [Finding(text, 1.0)]


def _never_zero(layers: pl.DataFrame, threshold: float) -> list[Finding]:
    smooth = layers.filter(~pl.col("rectifies") & ~pl.col("operator").str.contains(" "))
    if threshold or not smooth.height:
        return []
    kinds = ", ".join(smooth["operator"].unique(maintain_order=True))
    text = (
        f"{plural(smooth.height, 'activation')} ({kinds}) {'is' if smooth.height == 1 else 'are'} never exactly zero; "
        "set `threshold`, for example to 0.01, to count small values."
    )
    return [Finding(text, 0.5)]


def _where(extremes: pl.DataFrame) -> str:
    """`relu3 (2: channels 5, 7)` for the nodes that hold most."""
    groups = extremes.group_by("node", maintain_order=True).agg("channel")
    groups = groups.sort(pl.col("channel").list.len(), descending=True, maintain_order=True)
    parts = []
    for node, channels in groups.iter_rows():
        listed = ", ".join(map(str, channels[:_NAMED])) + (", ..." if len(channels) > _NAMED else "")
        parts.append(f"{node} ({len(channels)}: {'channels' if len(channels) > 1 else 'channel'} {listed})")
    return listing(parts, _NAMED) + (" layers" if len(parts) > _NAMED else "")


def _measures(layers: pl.DataFrame) -> pl.DataFrame:
    """The share of zeros behind each layer; of a layer with several activations their mean."""
    behind = layers.filter(~pl.col("operator").str.contains(" ")).drop_nulls("layer")
    means = behind.group_by("layer", maintain_order=True).agg(pl.col("sparsity").mean(), pl.col("node"))
    rows = means.iter_rows(named=True)
    return layer_measures("sparsity", [(r["layer"], r["sparsity"], None, None, listing(r["node"], 2)) for r in rows])


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
            measures=_measures(frame),
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


_LAYERS: dict[str, Any] = dict.fromkeys(("node", "layer", "operator", "shape"), pl.String) | {
    **{"units": pl.Int64, "sparsity": pl.Float64, "dead": pl.Int64, "always_on": pl.Int64, "rectifies": pl.Boolean},
}
_UNITS: dict[str, Any] = {"node": pl.String, "channel": pl.Int64} | dict.fromkeys(
    ("sparsity", "mean", "max"), pl.Float64
)


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
