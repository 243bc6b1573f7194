"""Which units to maximise when none are named, and how strongly the samples drive them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from netopsy.engine.ascent import ColourCovariance, Target, find_targets
from netopsy.engine.ascent.target import Objective, operand, places
from netopsy.engine.observe import observe
from netopsy.engine.tallies import Strongest, StrongestImages
from netopsy.engine.tally import Tally
from netopsy.errors import NetopsyError
from netopsy.network.network import Network
from netopsy.network.units import channel_axis, channels, unit_nodes, weight_layer
from netopsy.samples import Samples

_CHANNELS, _OUTPUTS = 3, 2


@dataclass
class Seen:
    """What one pass over the samples told.

    strongest: per node where values are taken, the strongest image of each channel. covariance: of the input's
    channels. Both empty without samples.
    """

    strongest: dict[str, StrongestImages] = field(default_factory=dict)
    covariance: Tensor | None = None


class StrongestMean(Tally):
    """The image with the largest mean over each channel's places; result: `StrongestImages` with k = 1, no places.

    update: (batch, channel, *space), the channels at `axis`. NaN never enters.
    """

    def __init__(self, axis: int = 1) -> None:
        self.axis = axis
        self.best: Tensor | None = None
        self.images: Tensor | None = None

    def update(self, values: Tensor, indices: Tensor) -> None:
        means = values.movedim(self.axis, 1).flatten(2).mean(2) if values.ndim > 2 else values
        means = means.float().nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
        best, rows = means.max(0)
        self._take(best, indices.to(rows.device)[rows])

    def merge(self, other: StrongestMean) -> None:
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
    last = network.layers[-1].name if network.layers else ""
    chosen: dict[str, int] = {}
    names = [name for name in reversed(unit_nodes(network)) if _usable(network, name)]
    hidden = [name for name in names if name != network.output]
    before = [name for name in hidden if weight_layer(network, network.nodes[name]) != last] or hidden
    maps = [name for name in before if max(places(network.nodes[name], channel_axis(network.nodes[name])), default=1) > 1]
    if before:
        chosen[(maps or before)[0]] = _CHANNELS
    if _usable(network, network.output):
        chosen[network.output] = _OUTPUTS
    return chosen


def _usable(network: Network, name: str) -> bool:
    try:
        return bool(find_targets(network, [(name, 0)]))
    except NetopsyError:
        return False


def look(network: Network, samples: Samples | None, nodes: list[str], objective: Objective, colours: bool) -> Seen:
    """One pass over the samples: the strongest value of every channel of `nodes`, and the colours if wanted."""
    if samples is None:
        return Seen()
    tallies: dict[str, tuple[str, Tally]] = {}
    for name in nodes:
        taken, axis = operand(network, network.nodes[name]).meta["name"], channel_axis(network.nodes[name])
        tallies[taken] = (taken, Strongest(1, axis) if objective == "unit" else StrongestMean(axis))
    if colours:
        tallies["colours\0"] = ("input", ColourCovariance())
    if not tallies:
        return Seen()
    found = observe(network, samples, tallies)
    covariance = found.pop("colours\0", None)
    return Seen(found, covariance)


def choose(network: Network, counts: dict[str, int], seen: Seen) -> list[str]:
    """Units of each node: those that the samples drive hardest, or, without samples, evenly spread ones."""
    chosen = []
    for name, count in counts.items():
        number = channels(network.nodes[name])
        strongest = seen.strongest.get(operand(network, network.nodes[name]).meta["name"])
        picks = torch.linspace(0, number - 1, min(count, number)).long()
        if strongest is not None and len(strongest.values) == number:
            picks = strongest.values[:, 0].argsort(descending=True, stable=True)[:count]
        chosen += [f"{name}:{channel}" for channel in sorted(picks.tolist())]
    return chosen


def strongest_of(target: Target, seen: Seen) -> tuple[float, int, int] | None:
    """The strongest value of the target's channel in the samples, its image and flat place; None where there is none."""
    found = seen.strongest.get(target.node)
    if found is None or not len(found.values):
        return None
    channel = target.unit.channel
    image = int(found.images[channel, 0])
    value = float(found.values[channel, 0])
    return None if image < 0 or value == -torch.inf else (value, image, int(found.places[channel, 0]))
