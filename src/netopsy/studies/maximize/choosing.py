"""Which units to maximise when none are named, and how strongly the samples drive them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from netopsy.engine.observe.counting import Tallies
from netopsy.engine.observe.tally import Tally
from netopsy.errors import UnknownLayer
from netopsy.network.activations import operand
from netopsy.network.network import Network
from netopsy.network.units import channels, find_unit, flat_place, hidden_nodes, last_map, places, unit_nodes
from netopsy.samples.tasks import token_input
from netopsy.stats.describe import spread_indices
from netopsy.studies.maximize.parametrisation import ColourCovariance
from netopsy.studies.maximize.target import Objective, Target, find_targets
from netopsy.tallies.top_images import TopImages, TopImagesResult

_CHANNELS, _OUTPUTS = 3, 2
_WORDS = 2, 1  # of a network that takes tokens, each of whose units is searched for far longer
_COLOURS = "colours"
_DEAR, _DEAR_TEXT = 3 * 10**9, 2 * 10**8
"""Multiply-accumulates of an image, or of a text, from which on one unit of each node must do."""

Way = Literal["plain", "fourier"]


@dataclass
class SampleStatistics:
    """What one pass over the samples measures.

    strongest: the strongest image of each channel, by the node where values are taken (anywhere in the map), and by
    node and place. covariance: of the input's channels. Both empty without samples.
    """

    strongest: dict[str, TopImagesResult] = field(default_factory=dict)
    covariance: Tensor | None = None

    @classmethod
    def of(cls, results: Mapping[str, Any]) -> SampleStatistics:
        """What the `tallies` counted."""
        return cls({key: value for key, value in results.items() if key != _COLOURS}, results.get(_COLOURS))


def candidate_nodes(network: Network) -> dict[str, int]:
    """Nodes to choose units from, and how many of each: the last hidden map, and the outputs.

    Of a single layer the last map that is not the output itself. One unit of each where the network is large.
    """
    words = token_input(network) is not None
    dear = sum(layer.macs for layer in network.layers) > (_DEAR_TEXT if words else _DEAR)
    hidden_units, outputs = (1, 1) if dear else _WORDS if words else (_CHANNELS, _OUTPUTS)
    nodes = hidden_nodes(network) or unit_nodes(network)
    nodes.pop(network.output, None)
    hidden = last_map(nodes)
    chosen = {} if hidden is None else {hidden: hidden_units}
    try:
        find_unit(network, (network.output, 0))
    except UnknownLayer:
        return chosen
    return chosen | {network.output: outputs}


_WORK = 1.5 * 10**11  # multiply-accumulates that all swaps may take by default: half a minute of one core
_MOST, _LEAST = (24, 60), (4, 8)  # default steps of swapping and of climbing the embedding


def token_steps(network: Network, runs: int, tried: int) -> tuple[int, int]:
    """Default steps of swapping tokens and of climbing their embedding, for `runs` in all: the fewer, the larger.

    tried: texts that are run in each step of swapping.
    """
    macs = max(1, runs * sum(layer.macs for layer in network.layers))
    steps = _WORK / (macs * tried), _WORK / (9 * macs)  # a step of the climb goes forth and back
    swaps, climbs = (int(min(max(s, least), most)) for s, least, most in zip(steps, _LEAST, _MOST, strict=True))
    return swaps, climbs


def tallies(
    network: Network, units: list[str], nodes: list[str], objective: Objective, *, colours: bool = False
) -> Tallies:
    """The strongest values of all channels at `units` and `nodes`, and the covariance of the `colours`."""
    chosen: dict[str, tuple[str, Tally]] = {}
    for target in find_targets(network, units or [(name, 0) for name in nodes], objective):
        if objective == "unit":
            chosen[target.node] = (target.node, TopImages(1, target.axis))
        place = flat_index(target)
        if place is not None or objective == "channel":
            chosen[_here(target)] = (target.node, TopImages(1, target.axis, place=place, mean=place is None))
    if colours:
        chosen[_COLOURS] = ("input", ColourCovariance())
    return chosen


def flat_index(target: Target) -> int | None:
    """Row-major index of the target's place; None where it has none, or is a neuron."""
    if not target.unit.place:
        return None
    return flat_place(target.unit.place, places(target.tree.trunk.target))


def _here(target: Target) -> str:
    return f"{target.node} at {flat_index(target)}"


def choose_units(network: Network, counts: dict[str, int], statistics: SampleStatistics) -> list[str]:
    """Units of each node: those that the samples drive hardest, each by another image as far as there are others.

    Without samples evenly spread ones.
    """
    chosen = []
    for name, count in counts.items():
        number = channels(network.nodes[name])
        strongest = statistics.strongest.get(operand(network, network.nodes[name]).name)
        picks = spread_indices(number, count)
        if strongest is not None and len(strongest.values) == number:
            order = strongest.values[:, 0].argsort(descending=True, stable=True).tolist()
            first: dict[int, int] = {}
            for channel in order:
                first.setdefault(int(strongest.images[channel, 0]), channel)
            picks = (list(first.values()) + [channel for channel in order if channel not in first.values()])[:count]
        chosen += [f"{name}:{channel}" for channel in sorted(picks)]
    return chosen


@dataclass(frozen=True)
class Best:
    """What the samples do to one target.

    value: the strongest of its channel anywhere in a map (of the mean, where that is climbed), in `image` at the flat
    `place` (-1 for none). here: the strongest at the target's own place.
    """

    value: float
    image: int
    place: int
    here: float


def strongest_of(target: Target, statistics: SampleStatistics) -> Best | None:
    """The samples' strongest values for the target; None without samples, or where none is a finite number."""
    at_place = statistics.strongest.get(_here(target))
    best = statistics.strongest.get(target.node, at_place)
    if best is None or not len(best.values):
        return None
    channel = target.unit.channel
    value, image = float(best.values[channel, 0]), int(best.images[channel, 0])
    if image < 0 or not math.isfinite(value):
        return None
    return Best(
        value, image, int(best.places[channel, 0]), value if at_place is None else float(at_place.values[channel, 0])
    )
