"""Which units to maximise when none are named, and how strongly the samples drive them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from netopsy.engine.ascent import ColourCovariance, Target, find_targets
from netopsy.engine.ascent.target import Objective, flat_place, operand, places
from netopsy.engine.observe import observe
from netopsy.engine.tallies import Strongest, StrongestImages
from netopsy.engine.tally import Tally
from netopsy.errors import NetopsyError
from netopsy.network.network import Network
from netopsy.network.units import channel_axis, channels, unit_nodes, weight_layer
from netopsy.samples import Samples

_CHANNELS, _OUTPUTS = 3, 2
_DEAR = 3 * 10**9  # multiply-accumulates of one image from which on one unit of each node must do


@dataclass
class Seen:
    """What one pass over the samples told.

    strongest: the strongest image of each channel, by the node where values are taken (anywhere in the map), and by
    node and place. covariance: of the input's channels. Both empty without samples.
    """

    strongest: dict[str, StrongestImages] = field(default_factory=dict)
    covariance: Tensor | None = None


class StrongestAt(Tally):
    """The image with the largest value of each channel at one place, or of its mean over all places.

    place: row-major index in the grid of places; None for the mean. axis: where the channels are.
    update: (batch, channel, *space). result: `StrongestImages` with k = 1 and no places. NaN never enters.
    """

    def __init__(self, place: int | None, axis: int = 1) -> None:
        self.place, self.axis = place, axis
        self.best: Tensor | None = None
        self.images: Tensor | None = None

    def update(self, values: Tensor, indices: Tensor) -> None:
        rows = values.movedim(self.axis, 1)
        rows = rows.reshape(*rows.shape[:2], -1).float()
        one = rows.mean(2) if self.place is None else rows[:, :, self.place]
        best, first = one.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf).max(0)
        self._take(best, indices.to(first.device)[first])

    def merge(self, other: StrongestAt) -> None:
        if other.best is not None and other.images is not None:
            self._take(other.best, other.images)

    def result(self) -> StrongestImages:
        if self.best is None or self.images is None:
            nothing = torch.zeros(0, 1)
            return StrongestImages(nothing, nothing.long(), nothing.long())
        images = self.images.cpu()[:, None]
        return StrongestImages(self.best.cpu()[:, None], images, torch.full_like(images, -1))

    def _take(self, best: Tensor, images: Tensor) -> None:
        if self.best is None or self.images is None:
            self.best, self.images = best, images
            return
        # of equal values the first image stays, in whatever order they come
        better = (best > self.best) | ((best == self.best) & (images < self.images))
        self.best, self.images = torch.where(better, best, self.best), torch.where(better, images, self.images)


def candidates(network: Network) -> dict[str, int]:
    """Nodes to choose units from, and how many: the last map before the last layer (else the last such layer), outputs.

    Where the last layer itself makes maps that are then averaged into outputs, the map before it is taken.
    """
    dear = sum(layer.macs for layer in network.layers) > _DEAR
    last = network.layers[-1].name if network.layers else ""
    chosen: dict[str, int] = {}
    names = [name for name in reversed(unit_nodes(network)) if _usable(network, name)]
    hidden = [name for name in names if name != network.output]
    before = [name for name in hidden if weight_layer(network, network.nodes[name]) != last] or hidden
    maps = [
        name for name in before if max(places(network.nodes[name], channel_axis(network.nodes[name])), default=1) > 1
    ]
    if before:
        chosen[(maps or before)[0]] = 1 if dear else _CHANNELS
    if _usable(network, network.output):
        chosen[network.output] = 1 if dear else _OUTPUTS
    return chosen


def _usable(network: Network, name: str) -> bool:
    try:
        return bool(find_targets(network, [(name, 0)]))
    except NetopsyError:
        return False


def look(
    network: Network, samples: Samples | None, units: list[str], nodes: list[str], objective: Objective, colours: bool
) -> Seen:
    """One pass over the samples: the strongest values of all channels at `units` and `nodes`; the colours if wanted."""
    if samples is None:
        return Seen()
    tallies: dict[str, tuple[str, Tally]] = {}
    for target in find_targets(network, units or [(name, 0) for name in nodes], objective):
        if objective == "unit":
            tallies[target.node] = (target.node, Strongest(1, target.axis))
        if (where := flat(target)) is not None or objective == "channel":
            tallies[_here(target)] = (target.node, StrongestAt(where, target.axis))
    if colours:
        tallies["colours"] = ("input", ColourCovariance())
    if not tallies:
        return Seen()
    found = observe(network, samples, tallies)
    covariance = found.pop("colours", None)
    return Seen(found, covariance)


def flat(target: Target) -> int | None:
    """Row-major index of the target's place; None where it has none, or is a neuron."""
    if not target.unit.place:
        return None
    return flat_place(target.unit.place, places(target.tree.trunk.target, target.axis))


def _here(target: Target) -> str:
    return f"{target.node} at {flat(target)}"


def choose(network: Network, counts: dict[str, int], seen: Seen) -> list[str]:
    """Units of each node: those that the samples drive hardest, each by another image as far as there are others.

    Without samples evenly spread ones.
    """
    chosen = []
    for name, count in counts.items():
        number = channels(network.nodes[name])
        strongest = seen.strongest.get(operand(network, network.nodes[name]).meta["name"])
        picks = torch.linspace(0, number - 1, min(count, number)).long().tolist()
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


def strongest_of(target: Target, seen: Seen) -> Best | None:
    """The samples' strongest values for the target; None without samples, or where none is a finite number."""
    here = seen.strongest.get(_here(target))
    found = seen.strongest.get(target.node, here)
    if found is None or not len(found.values):
        return None
    channel = target.unit.channel
    value, image = float(found.values[channel, 0]), int(found.images[channel, 0])
    if image < 0 or not math.isfinite(value):
        return None
    return Best(value, image, int(found.places[channel, 0]), value if here is None else float(here.values[channel, 0]))
