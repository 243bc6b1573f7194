"""Which units to look at where none are named, and the facets of each: strong stimuli grouped by what drove them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from sklearn.metrics import silhouette_samples
from torch import Tensor

from netopsy.network.network import Network
from netopsy.network.units import Unit, channels, hidden_nodes
from netopsy.stats.clustering import Clustering, split_clusters
from netopsy.studies.facets.contributions import AffineStep, find_affine_step
from netopsy.tallies.top_images import TopImages, TopImagesResult


def watch_unit(drive: AffineStep, count: int) -> tuple[str, TopImages]:
    """The node to watch and the tally for the `count` strong stimuli of one unit."""
    axis = drive.network.nodes[drive.end.node].channel_axis
    return drive.end.node, TopImages(count, axis, channel=drive.end.channel, place=drive.place)


def find_late_step(network: Network) -> AffineStep | str:
    """The first unit of the last hidden node whose units can be taken apart, or why there is none.

    With or without places: the claim is of the unit at the end, of which later ones are better instances.
    """
    for name in reversed(hidden_nodes(network)):
        drive = find_affine_step(network, Unit(name, 0))
        if isinstance(drive, AffineStep) and channels(network.nodes[name]) > 1:
            return drive
    return f"{network.name} has no layer whose units have input channels in a layer before."


def mixed_channels(stimuli: TopImagesResult, labels: Int64[np.ndarray, " n"], least: int) -> list[int]:
    """Channels, the likeliest to have several facets first: those whose strong stimuli are shared by two classes.

    The share of the second most common class decides, then the mean of the strong stimuli. least: stimuli at least.
    """
    rows: list[tuple[float, float, int]] = []
    for channel, images in enumerate(stimuli.images.numpy()):
        values: Float64[np.ndarray, " k"] = stimuli.values[channel].double().numpy()
        good = (images >= 0) & (values > 0)
        if good.sum() < least:
            continue
        counts = np.sort(np.bincount(np.unique(labels[images[good]], return_inverse=True)[1]))[::-1]
        second = counts[1] / good.sum() if len(counts) > 1 else 0.0
        rows.append((-second, -float(values[good].mean()), channel))
    return [channel for *_, channel in sorted(rows)]


def finite_stimuli(
    stimuli: TopImagesResult, row: int, rectified: bool
) -> tuple[Float64[np.ndarray, " n"], Tensor, Tensor]:
    """Values, images and places of one channel's stimuli, without empty entries and, behind a function, silent ones."""
    values, images, places = stimuli.values[row], stimuli.images[row], stimuli.places[row]
    good = (images >= 0) & torch.isfinite(values)
    if rectified:
        good &= values > 0
    return values[good].double().numpy(), images[good], places[good]


@dataclass(frozen=True)
class Facet:
    """One pattern that makes a unit fire.

    rows: its stimuli, strongest first. silhouette: their mean, -1..1; NaN where there is one facet only.
    inputs: numbers of its most decisive input channels, first the most decisive. pushes: the part of the unit's
    positive drive that each brings, on average. elsewhere: the same over the stimuli of the other facets; 0 if none.
    """

    rows: Int64[np.ndarray, " stimuli"]
    silhouette: float
    inputs: tuple[int, ...]
    pushes: tuple[float, ...]
    elsewhere: tuple[float, ...]


@dataclass(frozen=True)
class UnitFacets:
    """The facets of a unit, the largest first, and the tests that found them."""

    parts: tuple[Facet, ...]
    division: Clustering


def group_stimuli(
    shares: Float32[np.ndarray, "stimuli input"],
    *,
    min_size: int,
    max_clusters: int,
    alpha: float,
    named: int,
    seed: int,
) -> UnitFacets:
    """Group the stimuli of a unit by what each input channel added to it.

    min_size, max_clusters, alpha: as in `split_clusters`. named: decisive inputs of a facet.
    """
    vectors = patterns(shares)
    division = split_clusters(vectors, min_size=min_size, max_clusters=max_clusters, alpha=alpha, seed=seed)
    labels = division.labels
    silhouettes = silhouette_samples(vectors, labels) if division.groups > 1 else np.full(len(labels), np.nan)
    push = np.maximum(shares.astype(np.float64), 0)
    push /= np.maximum(push.sum(1, keepdims=True), 1e-300)
    parts = []
    for k in range(division.groups):
        members = labels == k
        push_inside = push[members].mean(0)
        push_outside = push[~members].mean(0) if not members.all() else np.zeros_like(push_inside)
        # what this facet has and the others lack
        order = np.argsort(push_outside - push_inside, kind="stable")[:named]
        chosen = [int(i) for i in order if push_inside[i] > push_outside[i]]
        parts.append(
            Facet(
                np.flatnonzero(members),
                float(silhouettes[members].mean()),
                tuple(chosen),
                tuple(float(push_inside[i]) for i in chosen),
                tuple(float(push_outside[i]) for i in chosen),
            )
        )
    return UnitFacets(tuple(parts), division)


def patterns(shares: Float32[np.ndarray, "stimuli input"]) -> Float64[np.ndarray, "stimuli input"]:
    """The shares of each stimulus at length 1, so that strength plays no part, then every input channel standardised.

    Without the second step a few strong channels, such as a shortcut's, hide how the others differ.
    """
    values = shares.astype(np.float64)
    values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-300)
    centred = values - values.mean(0)
    spread = values.std(0)
    # a channel that hardly varies is not blown up
    return centred / (spread + 1e-6 * max(float(values.std()), 1e-300))
