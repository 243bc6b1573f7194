"""Which units to look at where none are named, the passes that measure what drives them, and the facets of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from sklearn.metrics import silhouette_samples
from torch import Tensor

from netopsy.engine.observe.observe import observe
from netopsy.engine.observe.tally import Tally
from netopsy.network.network import Network
from netopsy.network.units import Unit, channels, hidden_nodes
from netopsy.samples.samples import Samples
from netopsy.stats.clustering import Clustering, split_clusters
from netopsy.studies.facets.contributions import AffineStep, find_affine_step
from netopsy.tallies.top_images import TopImages, TopImagesResult

Measure = Literal["value", "shares", "strength"]


@dataclass(frozen=True)
class StrongStimuli:
    """A unit's strong stimuli, strongest first.

    values, images, places: pre-activation, index of the image and flat place, each (n,).
    """

    values: Float64[np.ndarray, " n"]
    images: Int64[Tensor, " n"]
    places: Int64[Tensor, " n"]


@dataclass(frozen=True)
class Recording:
    """A unit on n images, each at its own place. value (n,); inputs: what was kept of its input channels (n, kept)."""

    value: Float64[np.ndarray, " n"]
    inputs: Float32[np.ndarray, "n kept"]


class Contributions(Tally):
    """What drives one unit: measures of `AffineStep.measure`, a row an image, in the order in which they come.

    measures: those that are kept. inputs: the numbers of the inputs whose strength is kept; by default all.
    places: the flat place that counts on each image, by its index; other images are passed over. None: all images, at
        the places that `AffineStep.measure` chooses.
    update: the values of the step's sources. result: the measures by name, (n,) or (n, input).
    """

    by_sample = True

    def __init__(
        self,
        step: AffineStep,
        measures: tuple[Measure, ...],
        *,
        inputs: Int64[np.ndarray, " kept"] | None = None,
        places: Mapping[int, int] | None = None,
    ) -> None:
        self.step, self.measures, self.inputs = step, measures, inputs
        self.places = None if places is None else dict(places)
        self.value: Tensor | None = None
        self.shares: Tensor | None = None
        self.strength: Tensor | None = None

    def update(self, values: tuple[Tensor, ...], indices: Tensor) -> None:
        images = indices.tolist()
        rows = [k for k, image in enumerate(images) if self.places is None or image in self.places]
        if not rows:
            return
        with torch.inference_mode(False):  # the shares are gradients, of copies that may have some
            at = None if self.places is None else torch.tensor([self.places[images[k]] for k in rows])
            copies = {name: value[rows].clone() for name, value in zip(self.step.sources, values, strict=True)}
            measured = self.step.measure(copies, at)
        self._add({name: getattr(measured, name) for name in self.measures})

    def _add(self, more: Mapping[str, Tensor]) -> None:
        for name, rows in more.items():
            if name == "strength" and self.inputs is not None:
                rows = rows[:, torch.as_tensor(self.inputs, device=rows.device)]
            before = getattr(self, name)
            setattr(self, name, rows if before is None else torch.cat([before, rows]))

    def merge(self, other: Contributions) -> None:
        for name in self.measures:
            more, before = getattr(other, name), getattr(self, name)
            if more is not None:
                setattr(self, name, more.clone() if before is None else torch.cat([before, more]))

    def result(self) -> dict[str, np.ndarray]:
        rows = {name: getattr(self, name) for name in self.measures}
        return {name: np.zeros((0, 0), np.float32) if x is None else x.cpu().numpy() for name, x in rows.items()}


def stimulus_shares(
    network: Network, samples: Samples, drives: Sequence[AffineStep], stimuli: Sequence[StrongStimuli]
) -> list[Float32[np.ndarray, "n input"]]:
    """For each unit what every input channel added to it, on each of its strong stimuli."""
    tallies = [
        Contributions(drive, ("shares",), places=dict(zip(s.images.tolist(), s.places.tolist(), strict=True)))
        for drive, s in zip(drives, stimuli, strict=True)
    ]
    visited = np.unique(np.concatenate([s.images.numpy() for s in stimuli]))
    measured = _observe(network, samples, tallies, visited, "facets: strong stimuli")
    # a row an image, in ascending order of the images
    return [
        rows["shares"].astype(np.float32)[np.searchsorted(np.sort(s.images), s.images)]
        for rows, s in zip(measured, stimuli, strict=True)
    ]


def decided_by(
    network: Network, samples: Samples, drives: Sequence[AffineStep], images: Int64[np.ndarray, " n"]
) -> list[Float64[np.ndarray, " input"]]:
    """For each unit the share of each input channel in the variance of its pre-activation over the images.

    The pre-activation is a sum of the channels' shares, so its variance is the sum of their covariances with it.
    """
    tallies = [Contributions(drive, ("value", "shares")) for drive in drives]
    parts = []
    for rows in _observe(network, samples, tallies, images, "facets: decisive inputs"):
        value, shares = (rows[name].astype(np.float64) for name in ("value", "shares"))
        good = np.isfinite(value) & np.isfinite(shares).all(1)
        value, shares = value[good], shares[good]
        if len(value) < 2 or not value.var():
            parts.append(np.zeros(shares.shape[1]))
        else:
            parts.append((value - value.mean()) @ (shares - shares.mean(0)) / (len(value) * value.var()))
    return parts


def record(
    network: Network,
    samples: Samples,
    drives: Sequence[AffineStep],
    images: Int64[np.ndarray, " n"],
    candidates: Sequence[Int64[np.ndarray, " kept"]],
) -> list[Recording]:
    """For each unit its pre-activation and the strength of its candidate inputs on every image, in order."""
    tallies = [
        Contributions(drive, ("value", "strength"), inputs=chosen)
        for drive, chosen in zip(drives, candidates, strict=True)
    ]
    measured = _observe(network, samples, tallies, images, "facets: Boolean account")
    return [Recording(rows["value"].astype(np.float64), rows["strength"].astype(np.float32)) for rows in measured]


def _observe(
    network: Network, samples: Samples, tallies: Sequence[Contributions], images: Int64[np.ndarray, " n"], label: str
) -> list[dict[str, np.ndarray]]:
    """The measures of each unit on the images, in order."""
    named = {str(k): (tally.step.sources, tally) for k, tally in enumerate(tallies)}
    return list(observe(network, samples, named, order=images, label=label).values())


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
