"""The whole prescription: from a network and images to the measured path and the choice on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from netopsy.deep_compression.measure import Kept, others
from netopsy.engine.workspace.workspace import current_workspace
from netopsy.network.layers import Layer
from netopsy.network.network import Network
from netopsy.studies.prescribe.allocation.calibration import temperature
from netopsy.studies.prescribe.allocation.candidates import Candidate, Tables, candidates
from netopsy.studies.prescribe.allocation.compensate import Rounder, input_products
from netopsy.studies.prescribe.allocation.curve import Exchange
from netopsy.studies.prescribe.allocation.divergence import effects
from netopsy.studies.prescribe.allocation.joint import Joint
from netopsy.studies.prescribe.allocation.knapsack import Allocation, allocations
from netopsy.studies.prescribe.allocation.sensitivity import losses, sensitivity
from netopsy.studies.prescribe.allocation.settle import Trial, choice, settle
from netopsy.studies.prescribe.allocation.sharding import Parts


@dataclass(frozen=True)
class Prescription:
    """sensitivity: the map, see `sensitivity.py`. losses: the expected divergence of each candidate of
    each layer. path: all optimal allocations. exchange: from divergence to drop, as predicted from the map. trials:
    what was measured of the path; chosen: the smallest within the budget, or None. rest: bytes of the values that are
    not weights of the layers. heat: the temperature of the outputs.
    """

    joint: Joint
    choices: Mapping[str, Sequence[Candidate]]
    sensitivity: pl.DataFrame
    losses: Mapping[str, Sequence[float]]
    path: Sequence[Allocation]
    exchange: Exchange
    trials: Sequence[Trial]
    chosen: Trial | None
    rest: int
    heat: float


def prescribe(
    network: Network,
    parts: Parts,
    layers: Sequence[Layer],
    *,
    budget: float,
    tables: Tables,
    compensate: bool,
    kept: Kept,
) -> Prescription:
    """Choose what each of `layers` gives up on `parts.choosing`; the reporting half is not looked at.

    budget: the drop of top-1 accuracy that is allowed, a share. The rest as in the study.
    """
    how = f"{tables} {'compensated' if compensate else 'plain'} {parts.learning.digest[:12] if compensate else ''}"
    heat = temperature(network, parts.choosing)
    rounders = _rounders(network, parts, layers, compensate)
    choices = _choices(network, layers, rounders, tables, kept)
    measured = sensitivity(network, parts.probing, layers, rounders, choices, how=how, heat=heat)
    expected = losses(choices, measured)
    points = {
        name: [(one.bytes, loss) for one, loss in zip(own, expected[name], strict=True)]
        for name, own in choices.items()
    }
    path = allocations(points)
    exchange = _exchange(measured)
    joint = Joint(network, layers, rounders, choices, kept, how)

    def measure(wanted: Sequence[Allocation]) -> list[dict[str, Any]]:
        variants = [joint.variant(allocation, {"bytes": allocation.bytes}) for allocation in wanted]
        return effects(network, parts.choosing, variants, "all layers together", heat).to_dicts()

    trials = settle(path, exchange, budget, measure)
    weights = {layer.weight for layer in layers}
    rest = sum(array.nbytes for name, array in others(network, {}, kept).items() if name not in weights)
    chosen = choice(trials, budget)
    return Prescription(joint, choices, measured, expected, path, exchange, trials, chosen, rest, heat)


def _rounders(network: Network, parts: Parts, layers: Sequence[Layer], compensate: bool) -> dict[str, Rounder]:
    products = input_products(network, parts.learning, layers) if compensate else {}
    tensors = network.tensors
    weights = {layer.name: tensors[layer.weight].detach().float().cpu().numpy() for layer in layers}
    return {name: Rounder(weight, products.get(name)) for name, weight in weights.items()}


def _choices(
    network: Network, layers: Sequence[Layer], rounders: Mapping[str, Rounder], tables: Tables, kept: Kept
) -> dict[str, list[Candidate]]:
    arrays, found = others(network, {}, kept), {}
    for number, layer in enumerate(layers):
        current_workspace().report("candidates", number, len(layers))
        found[layer.name] = candidates(rounders[layer.name], tables, arrays[layer.weight].itemsize)
    current_workspace().report("candidates", len(layers), len(layers))
    return found


def _exchange(measured: pl.DataFrame) -> Exchange:
    if measured.is_empty():
        return Exchange([], [])
    return Exchange(measured["divergence"].to_list(), measured["estimate"].to_list())
