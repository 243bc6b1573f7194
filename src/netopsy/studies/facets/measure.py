"""The passes that measure what drives the chosen units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from netopsy.engine.observe.observe import observe
from netopsy.engine.observe.tally import Tally
from netopsy.network.network import Network
from netopsy.samples.samples import Samples
from netopsy.studies.facets.contributions import AffineStep

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
