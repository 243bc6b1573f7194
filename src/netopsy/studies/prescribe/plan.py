"""The whole prescription: from a network and images to the measured path and the choice on it.

Some images are to choose on, others to report on; of the former, some to learn from, some to probe with, and most to
certify on. Points of the predicted path are counted there one after the other, the gentlest first, and the last that
keeps the budget with the confidence asked is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from jaxtyping import Int64
from torch import Tensor

from netopsy.deep_compression.save import OtherDtype, others
from netopsy.engine.sweep.edits import Replace, Variant
from netopsy.engine.workspace.workspace import current_workspace
from netopsy.network.layers import Layer
from netopsy.network.network import Network
from netopsy.samples.labels import stratify
from netopsy.samples.samples import Samples
from netopsy.samples.tasks import Task
from netopsy.stats.hypothesis_tests import drop_bound, mean_bound
from netopsy.studies.prescribe.candidates import Candidate, Joint, Tables, candidates
from netopsy.studies.prescribe.compensate import Rounder, input_products
from netopsy.studies.prescribe.divergence import Exchange, effects, loss_at, temperature
from netopsy.studies.prescribe.knapsack import Allocation, Budget, allocations

COARSE, FINE = 1.4, 1.04
"""How many times fewer bytes the next point that is counted has, at least: far from the budget, and near it."""
NEAR = 1 / 32
"""Share of the divergence that the budget is predicted to buy from which on a point is near it."""
AT_ONCE = 4
"""Points counted in one pass."""
LEVELS = (0.003, 0.02, 0.08, 0.25, 0.6)
"""Noise-to-signal ratios at which a layer is measured, as near as its candidates come."""

Choices = Mapping[str, Sequence[Candidate]]


@dataclass(frozen=True)
class MeasuredAllocation:
    """A point of the path, counted: its place, its allocation, its row of `effects`.

    bound: of its loss on new samples, with the confidence asked. by: whether the loss is the score's drop or a rise.
    unchanged: whether it changes no value of the network; then it can lose nothing.
    """

    place: int
    allocation: Allocation
    scores: dict[str, Any]
    bound: float
    unchanged: bool = False
    by: Literal["drop", "rise"] = "drop"

    @property
    def lost(self) -> float:
        """What was counted of it, in the budget's unit."""
        return float(self.scores[self.by])


Measure = Callable[[Sequence[int]], list[MeasuredAllocation]]


def ladder(path: Sequence[Allocation], aim: float) -> list[int]:
    """The places of the path to count, in order: the gentlest, then ever smaller ones, to the end.

    aim: the divergence that the budget is predicted to buy.
    """
    places = [0]
    for place, allocation in enumerate(path):
        step = FINE if allocation.loss >= NEAR * aim else COARSE
        if path[places[-1]].bytes >= step * allocation.bytes or (place == len(path) - 1 and place):
            places.append(place)
    return places


def climb(places: Sequence[int], budget: float, measure: Measure) -> list[MeasuredAllocation]:
    """Count `places` in their order, until one of them is counted beyond the budget (a share)."""
    trials: list[MeasuredAllocation] = []
    for start in range(0, len(places), AT_ONCE):
        trials += measure(places[start : start + AT_ONCE])
        if last_within(trials, budget, "drop") is not trials[-1]:
            break
    return trials


def last_within(
    trials: Sequence[MeasuredAllocation], budget: float, by: Literal["bound", "drop"] = "bound"
) -> MeasuredAllocation | None:
    """The last trial that is within the budget with all before it, or None: by its bound, or by its count alone.

    By the bound this is a test of a fixed sequence: whatever the budget, the first point whose drop on all images is
    beyond it passes with the probability of a single test only, so that the confidence holds for the choice however
    many were counted. The order may come from other images, not from those that are counted. Source: Angelopoulos,
    Bates, Candès, Jordan & Lei, "Learn then test", Annals of Applied Statistics 19 (2025), Section 2.3.
    """
    values = ((one, one.bound if by == "bound" else one.lost) for one in trials)
    within = [one for one, _ in takewhile(lambda pair: pair[1] <= budget + 1e-12, values)]
    return within[-1] if within else None


LEARNT = 512
"""Images whose inputs the rounding sees, at most."""


@dataclass(frozen=True)
class Parts:
    """choosing, reporting: the two halves. learning, probing, certifying: parts of the choosing half, none overlapping.

    searching: learning and probing together.
    """

    choosing: Samples
    reporting: Samples
    learning: Samples
    probing: Samples
    searching: Samples
    certifying: Samples


def reported(samples: Samples, seed: int) -> Int64[np.ndarray, " half"]:
    """Which samples report: those of the half that does not choose."""
    return np.setdiff1d(np.arange(len(samples)), stratify(samples.strata, len(samples) // 2, seed))


def part(samples: Samples, probes: int, seed: int) -> Parts:
    """Halves of at least two samples, stratified by class; of the choosing half up to `probes`, at most a sixth, probe.

    As many again, up to `LEARNT`, are learnt from, and all others certify. With fewer than four images to choose on,
    all parts of the choosing half are all of it.
    """
    rest = reported(samples, seed)
    rows = np.setdiff1d(np.arange(len(samples)), rest)
    choosing = samples.select(rows, f"{samples.name}, {len(rows):,} to choose on (seed {seed})")
    reporting = samples.select(rest, f"{samples.name}, {len(rest):,} to report on (seed {seed})")
    if len(choosing) < 4:
        return Parts(choosing, reporting, choosing, choosing, choosing, choosing)
    most = max(1, len(choosing) // 6)
    probed = stratify(choosing.strata, min(probes, most), seed + 1)
    others = np.random.default_rng(seed).permutation(np.setdiff1d(np.arange(len(choosing)), probed))
    learnt, counted = (np.sort(rows) for rows in np.split(others, [min(LEARNT, most)]))
    searched = np.sort(np.concatenate([probed, learnt]))
    named = {"learn on": learnt, "probe with": probed, "search with": searched, "certify on": counted}
    parts = [
        choosing.select(rows, f"{samples.name}, {len(rows):,} to {what} (seed {seed})") for what, rows in named.items()
    ]
    return Parts(choosing, reporting, *parts)


@dataclass(frozen=True)
class Prescription:
    """sensitivity: the map, see `sensitivity` below. losses: the expected divergence of each candidate of
    each layer. path: all optimal allocations. exchange: from divergence to drop, as predicted from the map. trials:
    what was counted of the path; chosen: the smallest that keeps the budget with the confidence asked, or None: then
    the network is stored exactly. by_count: the smallest within the budget by its count alone, or None. least_budget:
    what so many images certify where they show no loss. rest: bytes of the values that are not weights of the layers.
    heat: the temperature of the outputs, of a classification. budget: what was asked.
    """

    joint: Joint
    choices: Mapping[str, Sequence[Candidate]]
    sensitivity: pl.DataFrame
    losses: Mapping[str, Sequence[float]]
    path: Sequence[Allocation]
    exchange: Exchange
    trials: Sequence[MeasuredAllocation]
    chosen: MeasuredAllocation | None
    by_count: MeasuredAllocation | None
    least_budget: float
    rest: int
    heat: float
    budget: Budget

    @property
    def allocation(self) -> Allocation:
        """What the file holds: the choice, or the weights as they are."""
        return self.path[0] if self.chosen is None else self.chosen.allocation

    @property
    def other_dtype(self) -> OtherDtype:
        """How the file holds what is not shared."""
        return "exact" if self.chosen is None else self.joint.other_dtype


def prescribe(
    network: Network,
    parts: Parts,
    layers: Sequence[Layer],
    *,
    budget: Budget,
    task: Task,
    confidence: float,
    tables: Tables,
    compensate: bool,
    other_dtype: OtherDtype,
) -> Prescription:
    """Choose what each of `layers` gives up on `parts.choosing`; the reporting half is not looked at.

    budget: what may be lost on as many new samples as report. confidence: the probability with which it is kept. The
    rest as in the study. Where a sample is right or wrong, the bound on new ones is of counts (`drop_bound`); else it
    is Student's, one-sided, of the paired mean over samples.
    """
    how = f"{tables} {'compensated' if compensate else 'plain'} {parts.learning.digest[:12] if compensate else ''}"
    heat = temperature(network, parts.searching) if task.binary else 1.0
    rounders = _rounders(network, parts, layers, compensate)
    choices = _choices(network, layers, rounders, tables, other_dtype)
    measured = sensitivity(network, parts.probing, layers, rounders, choices, how=how, heat=heat, task=task)
    expected = losses(choices, measured)
    points = {
        name: [(one.bytes, loss) for one, loss in zip(layer_choices, expected[name], strict=True)]
        for name, layer_choices in choices.items()
    }
    path = allocations(points)
    exchange = _exchange(measured, budget)
    joint = Joint(network, layers, rounders, choices, other_dtype, how)
    counts = (len(parts.certifying), len(parts.reporting), confidence)

    def measure(places: Sequence[int]) -> list[MeasuredAllocation]:
        variants = [joint.variant(path[place], {"bytes": path[place].bytes}) for place in places]
        rows = effects(network, parts.certifying, variants, "all layers together", heat, task).to_dicts()
        trials = []
        for place, variant, row in zip(places, variants, rows, strict=True):
            unchanged = variant.edit is None
            bound = 0.0 if unchanged else _bound(row, budget, task, *counts)
            trials.append(MeasuredAllocation(place, path[place], row, bound, unchanged, budget.by))
        return trials

    trials = climb(ladder(path, max(exchange.divergence(budget.amount), 1e-9)), budget.amount, measure)
    weights = {layer.weight for layer in layers}
    rest = sum(array.nbytes for name, array in others(network, {}, other_dtype).items() if name not in weights)
    return Prescription(
        joint=joint,
        choices=choices,
        sensitivity=measured,
        losses=expected,
        path=path,
        exchange=exchange,
        trials=trials,
        chosen=last_within(trials, budget.amount),
        by_count=last_within(trials, budget.amount, "drop"),
        least_budget=drop_bound(0, 0, *counts) if task.binary else 0.0,
        rest=rest,
        heat=heat,
        budget=budget,
    )


def _rounders(network: Network, parts: Parts, layers: Sequence[Layer], compensate: bool) -> dict[str, Rounder]:
    products = input_products(network, parts.learning, layers) if compensate else {}
    tensors = network.tensors
    weights = {layer.name: tensors[layer.weight].detach().float().cpu().numpy() for layer in layers}
    return {name: Rounder(weight, products.get(name)) for name, weight in weights.items()}


def _choices(
    network: Network, layers: Sequence[Layer], rounders: Mapping[str, Rounder], tables: Tables, other_dtype: OtherDtype
) -> dict[str, list[Candidate]]:
    arrays, choices = others(network, {}, other_dtype), {}
    for number, layer in enumerate(layers):
        current_workspace().report("candidates", number, len(layers))
        choices[layer.name] = candidates(rounders[layer.name], tables, arrays[layer.weight].itemsize)
    current_workspace().report("candidates", len(layers), len(layers))
    return choices


def _bound(row: Mapping[str, Any], budget: Budget, task: Task, n: int, new: int, confidence: float) -> float:
    """The loss on `new` other samples that is exceeded with probability 1 - confidence at most."""
    if task.binary:
        return drop_bound(row["losses"], row["gains"], n, new, confidence)
    return mean_bound(row[budget.by], row[f"{budget.by}_error"], n, new, confidence)


def _exchange(measured: pl.DataFrame, budget: Budget) -> Exchange:
    if measured.is_empty():
        return Exchange([], [])
    return Exchange(measured["divergence"].to_list(), measured["estimate" if budget.by == "drop" else "rise"].to_list())


def sensitivity(
    network: Network,
    samples: Samples,
    layers: Sequence[Layer],
    rounders: Mapping[str, Rounder],
    choices: Choices,
    *,
    how: str,
    heat: float = 1.0,
    task: Task | None = None,
) -> pl.DataFrame:
    """A row a layer and measured candidate: layer, noise, density, entries, bits, and the columns of `effects`.

    rounders, choices: the weights and the candidates of each layer, by its name. how: plain text that tells these
    candidates from others. heat: of the outputs, see `effects`.
    """
    variants = [
        variant(layer, rounders[layer.name], one, how, {"layer": layer.name, **traits(one), "bytes": one.bytes})
        for layer in layers
        for one in spread_over_noise(choices[layer.name])
    ]
    return effects(network, samples, variants, "sensitivity", heat, task) if variants else pl.DataFrame()


def spread_over_noise(choices: Sequence[Candidate]) -> list[Candidate]:
    """The candidates to measure: those nearest to the LEVELS of noise."""
    noisy = [one for one in choices if one.noise > 0]
    if not noisy:
        return []
    picked = {min(range(len(noisy)), key=lambda i: abs(np.log(noisy[i].noise / level))) for level in LEVELS}
    return [noisy[i] for i in sorted(picked)]


def losses(choices: Choices, measured: pl.DataFrame) -> dict[str, list[float]]:
    """The expected divergence of every candidate of every layer."""
    expected = {}
    for name, some in choices.items():
        rows = measured.filter(pl.col("layer") == name) if measured.height else measured
        pairs = list(zip(rows["noise"], rows["divergence"], strict=True)) if rows.height else []
        expected[name] = loss_at([one.noise for one in some], pairs).tolist()
    return expected


def traits(one: Candidate) -> dict[str, Any]:
    """The columns that describe a candidate."""
    return {"noise": one.noise, "density": one.density, "entries": one.entries, "bits": one.bits}


def variant(layer: Layer, rounder: Rounder, one: Candidate, how: str, settings: dict[str, Any]) -> Variant:
    """The network with one layer as a candidate has it."""

    def edit(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        values = tensors[layer.weight]
        shared = one.share(rounder)
        assert shared is not None
        return {layer.weight: torch.from_numpy(shared.decode()).to(values)}

    return Variant(settings, Replace((layer.weight,), edit, f"prescribe {how} {layer.name} {one.noise:.9g}"))
