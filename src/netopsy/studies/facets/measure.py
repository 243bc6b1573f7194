"""The passes that measure what drives the chosen units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from torch import Tensor

from netopsy.engine.interpreter import plan
from netopsy.engine.observe.observe import default_batch_size
from netopsy.engine.workspace.workspace import current_workspace
from netopsy.network.network import Network
from netopsy.samples.samples import Samples
from netopsy.studies.facets.contributions import AffineStep


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


def stimulus_shares(
    network: Network, samples: Samples, drives: Sequence[AffineStep], stimuli: Sequence[StrongStimuli]
) -> list[Float32[np.ndarray, "n input"]]:
    """For each unit what every input channel added to it, on each of its strong stimuli."""
    rows = [{int(image): row for row, image in enumerate(s.images)} for s in stimuli]
    shares = [
        np.zeros((len(s.images), len(drive.inputs)), np.float32) for drive, s in zip(drives, stimuli, strict=True)
    ]
    visited = np.unique(np.concatenate([s.images.numpy() for s in stimuli])) if stimuli else np.zeros(0, np.int64)
    for indices, values in _walk(network, samples, drives, visited, "facets: strong stimuli"):
        for drive, strong, table, unit_shares in zip(drives, stimuli, rows, shares, strict=True):
            batch_rows = [k for k, image in enumerate(indices.tolist()) if image in table]
            if batch_rows:
                at = [table[int(indices[k])] for k in batch_rows]
                driven = drive.measure({name: values[name][batch_rows] for name in drive.sources}, strong.places[at])
                unit_shares[at] = driven.shares.float().cpu().numpy()
    return shares


def decided_by(
    network: Network, samples: Samples, drives: Sequence[AffineStep], images: Int64[np.ndarray, " n"]
) -> list[Float64[np.ndarray, " input"]]:
    """For each unit the share of each input channel in the variance of its pre-activation over the images.

    The pre-activation is a sum of the channels' shares, so its variance is the sum of their covariances with it.
    """
    parts_of: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in drives]
    for _, values in _walk(network, samples, drives, images, "facets: decisive inputs"):
        for drive, parts in zip(drives, parts_of, strict=True):
            driven = drive.measure(values)
            parts.append((driven.value.float().cpu().numpy(), driven.shares.float().cpu().numpy()))
    shares_of = []
    for parts in parts_of:
        value, shares = (np.concatenate(p).astype(np.float64) for p in zip(*parts, strict=True))
        good = np.isfinite(value) & np.isfinite(shares).all(1)
        value, shares = value[good], shares[good]
        if len(value) < 2 or not value.var():
            shares_of.append(np.zeros(shares.shape[1]))
        else:
            shares_of.append((value - value.mean()) @ (shares - shares.mean(0)) / (len(value) * value.var()))
    return shares_of


def record(
    network: Network,
    samples: Samples,
    drives: Sequence[AffineStep],
    images: Int64[np.ndarray, " n"],
    candidates: Sequence[Int64[np.ndarray, " kept"]],
) -> list[Recording]:
    """For each unit its pre-activation and the strength of its candidate inputs on every image, in order."""
    values_of: list[list[np.ndarray]] = [[] for _ in drives]
    inputs_of: list[list[np.ndarray]] = [[] for _ in drives]
    for _, values in _walk(network, samples, drives, images, "facets: Boolean account"):
        for k, drive in enumerate(drives):
            driven = drive.measure(values)
            values_of[k].append(driven.value.double().cpu().numpy())
            chosen = torch.as_tensor(candidates[k], device=driven.strength.device)
            inputs_of[k].append(driven.strength[:, chosen].float().cpu().numpy())
    return [Recording(np.concatenate(v), np.concatenate(x)) for v, x in zip(values_of, inputs_of, strict=True)]


def _walk(
    network: Network, samples: Samples, drives: Sequence[AffineStep], visited: Int64[np.ndarray, " n"], label: str
) -> Iterator[tuple[Int64[Tensor, " batch"], Mapping[str, Tensor]]]:
    """Batches of the visited images: their indices, and the values of all nodes that the units read."""
    needed = dict.fromkeys(name for drive in drives for name in drive.sources)
    walk = plan(network, tuple(needed))
    done, place = 0, current_workspace()
    place.report(label, 0, len(visited))
    for batch in samples.batches(network.preprocessing, default_batch_size(network), order=visited):
        with torch.no_grad():
            values = walk.run({"input": batch.images.to(network.device)}, batch=len(batch.indices))
        yield batch.indices, values
        done += len(batch.indices)
        place.report(label, done, len(visited))
