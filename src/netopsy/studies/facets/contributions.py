"""What drives a unit: the share of each input channel in its pre-activation, exactly.

Between a unit's pre-activation and the nonlinear operations before it a network computes an affine function (Palmieri
et al., Equation 1: W x + b), so the pre-activation is a constant plus one summand for each input channel:
weight times activation, summed over the window. Batch norms, sums, joins and average pools on the way are part of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from netopsy.engine.interpreter import Plan, plan
from netopsy.network.activations import ELEMENTWISE, SAME, is_affine
from netopsy.network.network import Network
from netopsy.network.node import Node
from netopsy.network.units import Unit, channels, flat_place, places

_POOLS = {"max_pool1d", "max_pool2d", "max_pool3d"}


@dataclass(frozen=True)
class ChannelContributions:
    """How each of n images drives a unit.

    value: the pre-activation at the unit's place, float (n,). place: that place, flat, int64 (n,).
    shares: what each input channel adds to it, float (n, input); value - shares.sum(1) is the same for all images
    with the same place. strength: the largest activation of each input channel in the window that the unit reads,
    float (n, input); 0 where it reads none of that channel.
    """

    value: Float[Tensor, " n"]
    place: Int64[Tensor, " n"]
    shares: Float[Tensor, "n input"]
    strength: Float[Tensor, "n input"]


@dataclass(frozen=True, repr=False)
class AffineStep:
    """The affine step that ends in a unit.

    unit: as it was asked for. end: the unit of the same channel whose value is the pre-activation, in an earlier node.
    sources: the nodes that the step reads, in order of execution. rectified: whether a function follows the step.
    """

    network: Network
    unit: Unit
    end: Unit
    sources: tuple[str, ...]
    rectified: bool
    step: Plan

    def __reduce__(self) -> tuple[Any, ...]:
        return find_affine_step, (self.network, self.unit)

    def __deepcopy__(self, memo: object) -> AffineStep:
        return self  # nothing in it changes

    def __repr__(self) -> str:
        return f"AffineStep({self.unit})"

    @property
    def inputs(self) -> list[Unit]:
        """The channels of the sources, in the order of `ChannelContributions`."""
        return [Unit(name, c) for name in self.sources for c in range(channels(self.network.nodes[name]))]

    def measure(self, values: Mapping[str, Tensor], places: Int64[Tensor, " n"] | None = None) -> ChannelContributions:
        """The drive of the unit on n images.

        values: the values of the sources by name, (n, ...). places: flat place of each image; by default the unit's own
        place, or where it has none its strongest one on each image.
        """
        padded = {name: _by_channel(values[name], self.network.nodes[name]).isnan().all(1) for name in self.sources}
        inputs = {
            name: values[name].detach().nan_to_num() if padded[name].any() else values[name].detach()
            for name in self.sources
        }
        inputs = {name: value.requires_grad_() for name, value in inputs.items()}
        n = len(next(iter(inputs.values())))
        with torch.enable_grad():
            end = self.step.run(inputs, batch=n)[self.end.node]
            axis = self.network.nodes[self.end.node].channel_axis
            space = end.select(axis, self.end.channel).reshape(n, -1)
            for blank in padded.values():  # no place of padding is the strongest
                if blank.any() and blank.shape == space.shape:
                    space = space.masked_fill(blank, -torch.inf)
            at = self.flat(space) if places is None else places.to(space.device)
            value = space.gather(1, at[:, None])[:, 0]
            slopes = torch.autograd.grad(value.sum(), list(inputs.values()), allow_unused=True)
        parts, strengths = [], []
        for (name, x), slope in zip(inputs.items(), slopes, strict=True):
            x, slope = (_by_channel(v, self.network.nodes[name]) for v in (x.detach(), _or_zero(slope, x)))
            parts.append((x * slope).sum(2))
            heard = x.masked_fill(slope == 0, -torch.inf).amax(2)
            strengths.append(heard.masked_fill(heard == -torch.inf, 0))
        return ChannelContributions(value.detach(), at, torch.cat(parts, 1), torch.cat(strengths, 1))

    def flat(self, space: Float[Tensor, "n places"]) -> Int64[Tensor, " n"]:
        """The unit's place on each image, flat."""
        place = self.place
        if place is None:
            return space.detach().nan_to_num(nan=-torch.inf).argmax(1)
        return torch.full((len(space),), place, device=space.device)

    @property
    def place(self) -> int | None:
        """The flat place of a unit that has one of its own."""
        return None if self.end.place is None else flat_place(self.end.place, self.grid)

    @property
    def grid(self) -> tuple[int, ...]:
        """The sizes of the places of the pre-activation: (height, width), (tokens,) or ()."""
        return places(self.network.nodes[self.end.node])


def find_affine_step(network: Network, unit: Unit) -> AffineStep | str:
    """The affine step that ends in `unit`, or one sentence why there is none.

    From the unit's node one goes back over its activation function, over a max-pool (where the unit has no place of its
    own: the strongest place before is the strongest behind) and over a join of channels.
    """
    node, channel = network.nodes[unit.node], unit.channel
    rectified = False
    while True:
        kind = _kind(node)
        before = [p for p in node.inputs if p.from_input]
        if kind in ELEMENTWISE and len(before) == 1:
            rectified = True
        elif kind == "cat" and (branch := _branch(node, channel)) is not None:
            node, channel = branch
            continue
        elif not (kind in SAME or (kind in _POOLS and unit.place is None)):
            break
        node = before[0]
    if not is_affine(node):
        return (
            f"{unit} comes out of '{kind}' and not of a convolution, linear map, norm or sum (or the activation "
            "function behind one), so its input channels have no shares that add up; choose another node."
        )
    sources = _sources(node)
    names = tuple(name for name in network.nodes if network.nodes[name] in sources)
    if names == ("input",):
        return f"{unit} reads the image itself, not the channels of a layer before; choose a later layer."
    end = Unit(node.name, channel, unit.place)
    return AffineStep(network, unit, end, names, rectified, plan(network, (end.node,), given=names))


def _branch(node: Node, channel: int) -> tuple[Node, int] | None:
    """The operand of a join of channels that holds `channel`, and its number there."""
    axis = node.channel_axis
    dim: Any = node.args[1] if len(node.args) > 1 else 0
    rank = len(node.full_shape)
    if dim % rank != axis % rank:
        return None
    for operand in node.args[0]:
        size = operand.full_shape[axis]
        if channel < size:
            return operand, channel
        channel -= size
    return None


def _sources(end: Node) -> set[Node]:
    """The nearest nodes before `end` that are not affine in what they read."""
    sources, visited, stack = set(), {end}, [end]
    while stack:
        for parent in stack.pop().inputs:
            if not parent.from_input or parent in visited:
                continue
            visited.add(parent)
            if is_affine(parent):
                stack.append(parent)
            else:
                sources.add(parent)
    return sources


def _kind(node: Node) -> str:
    return node.operator.rstrip("_")


def _or_zero(slope: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if slope is None else slope


def _by_channel(values: Tensor, node: Node) -> Tensor:
    """(n, channel, places)."""
    values = values.movedim(node.channel_axis, 1)
    return values.flatten(2) if values.ndim > 2 else values[..., None]
