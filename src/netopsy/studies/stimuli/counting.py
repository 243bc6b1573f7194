"""The one pass over the samples: the strongest images of every unit, and its mean on each class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import fx

from netopsy.engine.observe.observe import observe
from netopsy.engine.observe.tally import Tally
from netopsy.errors import SettingsError
from netopsy.network.activations import activations, rectifies
from netopsy.network.graph import batch_first, shape_of
from netopsy.network.network import Network
from netopsy.network.units import channel_axis, places, unit_nodes, weight_layer
from netopsy.samples.samples import Samples
from netopsy.tallies.class_means import ClassMeans, ClassMeansResult
from netopsy.tallies.top_images import Strongest, StrongestImages


@dataclass(frozen=True)
class Counted:
    """What the pass found at one node.

    values, images, places: (channel, top) as in `StrongestImages`. stimuli: which entries excite the unit at all: above
    zero where the node rectifies. grid: the node's places, () for neurons. selectivity: float64 (channel,), NaN where
    there is none.
    """

    node: str
    layer: str
    values: np.ndarray
    images: np.ndarray
    places: np.ndarray
    stimuli: np.ndarray
    grid: tuple[int, ...]
    selectivity: np.ndarray

    @property
    def alive(self) -> np.ndarray:
        """The channels that any image excites."""
        return np.flatnonzero(self.stimuli.any(1))


def choose(network: Network, layers: tuple[str, ...]) -> tuple[dict[str, fx.Node], list[str]]:
    """The nodes to look at by name, in order of execution, and the names of those that cannot be.

    layers: nodes, or layers, which stand for the nodes that hold what they say; all by default. A node whose rows are
    not one an image cannot be: the tally would not know whose a row is.
    """
    every = unit_nodes(network)
    wanted: dict[str, fx.Node] = {}
    for name in layers:
        found = network.node(name)
        behind = {n: node for n, node in every.items() if weight_layer(network, node) == name}
        wanted |= {found.meta["name"]: found} if found.meta["name"] in every or not behind else behind
    asked = wanted or {n: network.nodes[n] for layer in network.layers for n in layer.nodes} | activations(network)
    chosen = {name: node for name, node in network.nodes.items() if name in (wanted or every)}
    usable = {name: node for name, node in chosen.items() if len(shape_of(node)) > 1 and batch_first(node)}
    left = [name for name, node in network.nodes.items() if name in asked and not batch_first(node)]
    if layers and not usable:
        raise SettingsError(f"no unit of {', '.join(wanted)} belongs to one image; choose other layers.")
    return usable, left


def count(
    network: Network, samples: Samples, nodes: dict[str, fx.Node], top: int, most_classes: int
) -> dict[str, Counted]:
    """One pass over the samples; class means for up to `most_classes` classes."""
    by_class = not samples.multilabel and 2 <= len(samples.classes) <= most_classes
    labels = samples.labels.astype(np.int64)
    tallies: dict[str, tuple[str, Tally]] = {}
    for name, node in nodes.items():
        tallies[f"strongest {name}"] = (name, Strongest(top, channel_axis(node)))
        if by_class and rectifies(node):  # the index is for activations that are never negative
            tallies[f"means {name}"] = (name, ClassMeans(labels, len(samples.classes), channel_axis(node)))
    found = observe(network, samples, tallies)
    return {
        name: _counted(network, node, found[f"strongest {name}"], found.get(f"means {name}"))
        for name, node in nodes.items()
    }


def _counted(network: Network, node: fx.Node, best: StrongestImages, means: ClassMeansResult | None) -> Counted:
    values, images = best.values.numpy(), best.images.numpy()
    stimuli = images >= 0
    if rectifies(node):
        stimuli &= values > 0
    nothing = np.full(len(values), np.nan)
    return Counted(
        node=node.meta["name"],
        layer=weight_layer(network, node),
        values=values,
        images=images,
        places=best.places.numpy(),
        stimuli=stimuli,
        grid=places(node),
        selectivity=nothing if means is None else means.selectivity.numpy(),
    )
