"""The sentences of the study `sparsity`."""

from __future__ import annotations

import math

import polars as pl

from netopsy.wording import plural

_SPARSE = 0.8  # what the paper calls sparse
_NAMED = 5


def findings(layers: pl.DataFrame, extremes: pl.DataFrame, images: int, threshold: float) -> list[str]:
    """Plain sentences, the most important first.

    layers, extremes: the study's tables `layers` and `extreme_units`. images: how many were seen.
    """
    zero = "zero" if not threshold else f"at most {threshold:g} in magnitude"
    counted = layers.filter(pl.col("rectifies") | (pl.lit(threshold) > 0) & ~pl.col("operator").str.contains(" "))
    found: list[str] = []
    if layers.filter(~pl.col("operator").str.contains(" ")).is_empty():
        found.append(
            "The network applies no activation function that Netopsy knows (ReLU and its kin, GELU, SiLU, sigmoid, "
            "softmax and so on), so there is no sparsity to report but that of its output."
        )
    if counted.height:
        found += [_range(counted, images, zero), _sparse(counted, zero), *_depth(counted, zero)]
        found += [_dead(counted, extremes, images, zero), _always_on(counted, extremes, images, zero)]
    found += _never_zero(layers, threshold)
    output = layers.filter(pl.col("operator").str.contains(" "))
    if output.height:
        share = output["sparsity"][0]
        found.append(f"The output after its softmax is {zero} in {share:.1%} of the values.")
    return found


def _range(layers: pl.DataFrame, images: int, zero: str) -> str:
    low, high = layers.sort("sparsity", maintain_order=True)[[0, -1]].iter_rows(named=True)
    sizes = [math.prod(map(int, shape.split("x"))) for shape in layers["shape"]]
    overall = sum(size * share for size, share in zip(sizes, layers["sparsity"], strict=True)) / sum(sizes)
    return (
        f"Over {images:,} images, {overall:.1%} of the values behind {layers.height} activations are {zero}; "
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
    change = "rises" if late > early + 0.02 else "falls" if late < early - 0.02 else "hardly changes"
    return [
        f"Sparsity {change} with depth: the first {third} activations average {early:.1%} {zero}, "
        f"the last {third} {late:.1%}."
    ]


def _dead(layers: pl.DataFrame, extremes: pl.DataFrame, images: int, zero: str) -> str:
    dead = extremes.filter(pl.col("kind") == "dead")
    units = layers["units"].sum()
    if not dead.height:
        return f"No unit of {units:,} is dead: each answered at least once on these {images:,} images."
    return (
        f"{dead.height:,} of {units:,} units never other than {zero} on these {images:,} images (dead): "
        f"{_where(dead)}. More images may still wake some."
    )


def _always_on(layers: pl.DataFrame, extremes: pl.DataFrame, images: int, zero: str) -> str:
    always = extremes.filter(pl.col("kind") == "always on")
    if not always.height:
        return f"No rectified unit is always on: each was {zero} somewhere on these {images:,} images."
    return (
        f"{plural(always.height, 'rectified unit')} never {zero} at any place on these {images:,} images (always on): "
        f"{_where(always)}. Their rectifier does nothing here."
    )


def _never_zero(layers: pl.DataFrame, threshold: float) -> list[str]:
    smooth = layers.filter(~pl.col("rectifies") & ~pl.col("operator").str.contains(" "))
    if threshold or not smooth.height:
        return []
    kinds = ", ".join(smooth["operator"].unique(maintain_order=True))
    return [
        f"{smooth.height} activations ({kinds}) are never exactly zero by their formula, so zeros there are rounding: "
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
