"""The whole prescription: from a network and images to the measured path and the choice on it.

Some images are to choose on, others to report on; of the former, some to learn from and some to probe with. A few
points of the predicted path are measured with all layers together, and the smallest that holds is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from netopsy.deep_compression.save import OtherDtype, others
from netopsy.engine.workspace.workspace import current_workspace
from netopsy.network.layers import Layer
from netopsy.network.network import Network
from netopsy.samples.labels import stratify
from netopsy.samples.samples import Samples
from netopsy.studies.prescribe.candidates import Candidate, Joint, Tables, candidates
from netopsy.studies.prescribe.compensate import Rounder, input_products
from netopsy.studies.prescribe.divergence import Exchange, effects, temperature
from netopsy.studies.prescribe.knapsack import Allocation, allocations
from netopsy.studies.prescribe.sensitivity import losses, sensitivity

LADDER = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Points of the path that are measured first, as multiples of the divergence that the budget is predicted to buy."""
ROUNDS = 3
BETWEEN = 3
CLOSE = 0.02
"""Two points of the path whose sizes differ by less, as a share, are not parted further."""


@dataclass(frozen=True)
class MeasuredAllocation:
    """A point of the path, measured: its place, its allocation, its row of `effects`, its drop evened out."""

    place: int
    allocation: Allocation
    scores: dict[str, Any]
    drop: float = float("nan")


Measure = Callable[[Sequence[Allocation]], list[dict[str, Any]]]


def settle(
    path: Sequence[Allocation], predicted: Exchange, budget: float, measure: Measure
) -> list[MeasuredAllocation]:
    """The trials by falling size; the last whose `drop` is within `budget` (a share) and all before it is the choice.

    path: by rising loss, from `allocations`. predicted: from loss to drop. measure: the rows of `effects` of some
    allocations. Each trial's `drop` is its `estimate` pooled with those of its neighbours, so that it rises along the
    path: one lucky point does not decide.
    """
    aim = max(predicted.divergence(budget), 1e-9)
    trials: list[MeasuredAllocation] = []
    wanted = [_place(path, aim * step) for step in LADDER]
    for _ in range(1 + ROUNDS):
        new = sorted(set(wanted) - {trial.place for trial in trials})
        if not new:
            break
        rows = measure([path[place] for place in new])
        trials += [MeasuredAllocation(place, path[place], row) for place, row in zip(new, rows, strict=True)]
        trials = _smooth_drops(sorted(trials, key=lambda trial: trial.place))
        wanted = _next(path, trials, budget)
    return trials


def choice(trials: Sequence[MeasuredAllocation], budget: float) -> MeasuredAllocation | None:
    """The smallest trial within the budget, or None."""
    within = [trial for trial in trials if trial.drop <= budget + 1e-12]
    return within[-1] if within else None


def _next(path: Sequence[Allocation], trials: Sequence[MeasuredAllocation], budget: float) -> list[int]:
    """Places to measure next: beyond the trials where all or none are within the budget, else between two."""
    best = choice(trials, budget)
    if best is None:
        first = trials[0].place
        return [0, first // 4, first // 2] if first else []
    beyond = [trial for trial in trials if trial.place > best.place]
    if not beyond:
        last, end = best.place, len(path) - 1
        return [last + (end - last + 3) // 4, last + (end - last + 1) // 2] if last < end else []
    low, high = best.place, beyond[0].place
    if path[low].bytes - path[high].bytes <= CLOSE * path[high].bytes:
        return []
    sizes = np.linspace(path[low].bytes, path[high].bytes, BETWEEN + 2)[1:-1]
    inner = range(low + 1, high)
    return [min(inner, key=lambda i: abs(path[i].bytes - size)) for size in sizes] if inner else []


def _smooth_drops(trials: Sequence[MeasuredAllocation]) -> list[MeasuredAllocation]:
    finite = [trial.scores["estimate"] if np.isfinite(trial.scores["divergence"]) else 1.0 for trial in trials]
    curve = Exchange([float(trial.place + 1) for trial in trials], finite)
    return [replace(trial, drop=curve.drop(trial.place + 1)) for trial in trials]


def _place(path: Sequence[Allocation], loss: float) -> int:
    """The last place of the path whose loss is at most `loss`."""
    within = [i for i, allocation in enumerate(path) if allocation.loss <= loss]
    return within[-1] if within else 0


LEARNT = 512
"""Images whose inputs the rounding sees, at most."""


@dataclass(frozen=True)
class Parts:
    """choosing, reporting: the two halves. learning, probing: two parts of the choosing half that do not overlap."""

    choosing: Samples
    reporting: Samples
    learning: Samples
    probing: Samples


def part(samples: Samples, probes: int, seed: int) -> Parts:
    """Halves of at least two samples, stratified by class; of the choosing half up to `probes`, at most half, probe.

    With fewer than four images to choose on, both parts of the choosing half are all of it.
    """
    rows = stratify(samples.labels, len(samples) // 2, seed)
    rest = np.setdiff1d(np.arange(len(samples)), rows)
    choosing = samples.select(rows, f"{samples.name}, {len(rows):,} to choose on (seed {seed})")
    reporting = samples.select(rest, f"{samples.name}, {len(rest):,} to report on (seed {seed})")
    if len(choosing) < 4:
        return Parts(choosing, reporting, choosing, choosing)
    probed = stratify(choosing.labels, min(probes, len(choosing) // 2), seed + 1)
    others = np.random.default_rng(seed).permutation(np.setdiff1d(np.arange(len(choosing)), probed))
    learnt = np.sort(others[:LEARNT])
    return Parts(
        choosing,
        reporting,
        choosing.select(learnt, f"{samples.name}, {len(learnt):,} to learn on (seed {seed})"),
        choosing.select(probed, f"{samples.name}, {len(probed):,} to probe with (seed {seed})"),
    )


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
    trials: Sequence[MeasuredAllocation]
    chosen: MeasuredAllocation | None
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
    other_dtype: OtherDtype,
) -> Prescription:
    """Choose what each of `layers` gives up on `parts.choosing`; the reporting half is not looked at.

    budget: the drop of top-1 accuracy that is allowed, a share. The rest as in the study.
    """
    how = f"{tables} {'compensated' if compensate else 'plain'} {parts.learning.digest[:12] if compensate else ''}"
    heat = temperature(network, parts.choosing)
    rounders = _rounders(network, parts, layers, compensate)
    choices = _choices(network, layers, rounders, tables, other_dtype)
    measured = sensitivity(network, parts.probing, layers, rounders, choices, how=how, heat=heat)
    expected = losses(choices, measured)
    points = {
        name: [(one.bytes, loss) for one, loss in zip(own, expected[name], strict=True)]
        for name, own in choices.items()
    }
    path = allocations(points)
    exchange = _exchange(measured)
    joint = Joint(network, layers, rounders, choices, other_dtype, how)

    def measure(wanted: Sequence[Allocation]) -> list[dict[str, Any]]:
        variants = [joint.variant(allocation, {"bytes": allocation.bytes}) for allocation in wanted]
        return effects(network, parts.choosing, variants, "all layers together", heat).to_dicts()

    trials = settle(path, exchange, budget, measure)
    weights = {layer.weight for layer in layers}
    rest = sum(array.nbytes for name, array in others(network, {}, other_dtype).items() if name not in weights)
    chosen = choice(trials, budget)
    return Prescription(joint, choices, measured, expected, path, exchange, trials, chosen, rest, heat)


def _rounders(network: Network, parts: Parts, layers: Sequence[Layer], compensate: bool) -> dict[str, Rounder]:
    products = input_products(network, parts.learning, layers) if compensate else {}
    tensors = network.tensors
    weights = {layer.name: tensors[layer.weight].detach().float().cpu().numpy() for layer in layers}
    return {name: Rounder(weight, products.get(name)) for name, weight in weights.items()}


def _choices(
    network: Network, layers: Sequence[Layer], rounders: Mapping[str, Rounder], tables: Tables, other_dtype: OtherDtype
) -> dict[str, list[Candidate]]:
    arrays, found = others(network, {}, other_dtype), {}
    for number, layer in enumerate(layers):
        current_workspace().report("candidates", number, len(layers))
        found[layer.name] = candidates(rounders[layer.name], tables, arrays[layer.weight].itemsize)
    current_workspace().report("candidates", len(layers), len(layers))
    return found


def _exchange(measured: pl.DataFrame) -> Exchange:
    if measured.is_empty():
        return Exchange([], [])
    return Exchange(measured["divergence"].to_list(), measured["estimate"].to_list())
