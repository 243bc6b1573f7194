"""Which features answer, layer by layer (Palmieri et al., Section 5, Figures 2 and 6), and how many linear regions the
samples meet (Montufar et al., 2014)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import polars as pl

from netopsy.engine.observe.counting import Tallies
from netopsy.engine.observe.tally import Tally
from netopsy.network.activations import activations, rectifies
from netopsy.network.network import Network
from netopsy.network.node import Node
from netopsy.network.units import unit_nodes
from netopsy.result import Group, Result
from netopsy.samples.samples import Samples, check_images
from netopsy.settings import FiniteFloat, Interval, Length, NonNegativeInt, PositiveInt, Seed
from netopsy.studies.activations import counts
from netopsy.studies.activations import counts as regions
from netopsy.studies.activations.heads import HeadAttention, attention_maps, study_heads
from netopsy.studies.activations.report import draw_figures, findings
from netopsy.studies.activations.slices import Slices, record_images, typical_image
from netopsy.studies.study import Allowance, ObservingStudy
from netopsy.tallies.patterns import Patterns
from netopsy.tallies.sparsity import ActiveCount

_KINKED = {"leaky_relu", "prelu"}  # linear on either side of zero, as a rectifier is


@dataclass(frozen=True)
class Activations(ObservingStudy):
    """Which features answer, layer by layer, and which patterns of active units occur (Palmieri et al., Section 5).

    A value is active if it is above `threshold`; a channel (feature) is active on an image if any place is.
    Counted are the outputs of all elementwise activation functions, in one pass over the samples.

    threshold: values above this are active.
    images: numbers of the images whose counts and maps are shown; by default the one nearest to the medians.
    maps: nodes, or single channels as node:channel, whose maps are shown; by default five nodes spread over the depth.
    shown: how many channels of a node are shown.
    order: which channels: `active` for those of the largest mean on the image, `first` for the first ones.
    remove_heads: whether each attention head is removed in turn, to see what it costs.
    places: at most so many places a layer are drawn for the patterns of single places.
    seed: of the draw of these places.
    """

    threshold: FiniteFloat = 0.0
    images: Annotated[tuple[NonNegativeInt, ...], Length(most=16)] = ()
    maps: tuple[str, ...] = ()
    shown: Annotated[int, Interval(ge=1, le=64)] = 8
    order: Literal["active", "first"] = "active"
    places: PositiveInt = 20_000
    remove_heads: bool = True
    seed: Seed = 0

    name: ClassVar[str] = "activations"
    group: ClassVar[Group] = "vision"
    allows: ClassVar[tuple[Allowance, ...]] = ("workers",)

    def check_on(self, network: Network) -> None:
        self._slices(network, _treatable(network)[0])

    def tallies(self, network: Network, samples: Samples) -> Tallies:
        """The active features of every activation, and the patterns of those that are piecewise linear."""
        check_images(samples, self.images)
        nodes, _ = _treatable(network)
        self._slices(network, nodes)
        tallies: dict[str, tuple[str, Tally]] = {
            f"heads {name}": (name, HeadAttention()) for name in attention_maps(network)
        }
        for name, node in nodes.items():
            settings: dict[str, Any] = {"threshold": self.threshold, "axis": node.channel_axis}
            tallies[f"active {name}"] = (name, ActiveCount(len(samples), **settings))
            if is_piecewise_linear(node):
                tally = Patterns(len(samples), **settings, places=self.places, seed=self.seed)
                tallies[f"patterns {name}"] = (name, tally)
        return tallies

    def conclude(self, network: Network, samples: Samples, results: Mapping[str, Any]) -> Result:
        """Which features of `network` answer on `samples`, and a close look at a few images."""
        nodes, left_out = _treatable(network)
        slices = self._slices(network, nodes)
        heads, head_charts, sentences = study_heads(network, samples, results, self.remove_heads)
        if not nodes:
            pictures = slices.pictures(
                record_images(network, samples, self.images or (0,), {}, slices.nodes, self.threshold)
            )
            nothing = findings(pl.DataFrame(), pl.DataFrame(), 0, left_out=left_out)
            return self.result(tables=heads, figures=head_charts, images=pictures, findings=nothing + sentences)
        active = {name: results[f"active {name}"] for name in nodes}
        hashes = {name: results[f"patterns {name}"] for name, node in nodes.items() if is_piecewise_linear(node)}
        patterns = regions.pattern_table(hashes)
        layers = counts.layers(network, nodes, active, patterns)
        images = self.images or (typical_image(active),)
        record = record_images(network, samples, images, nodes, slices.nodes, self.threshold)
        tables = {
            "layers": layers,
            "activity": counts.activity(active),
            "patterns": patterns,
            "image_layers": record.layers,
            "image_places": record.places,
            "image_values": record.values,
            "histograms": counts.histograms(active),
            "channels": counts.channels(active),
        }
        return self.result(
            tables=tables | heads,
            figures=draw_figures(tables, len(samples), images[0], typical=not self.images) | head_charts,
            images=slices.pictures(record),
            findings=findings(layers, patterns, len(samples), self.threshold, left_out) + sentences,
        )

    def _slices(self, network: Network, nodes: dict[str, Node]) -> Slices:
        return Slices(network, nodes or unit_nodes(network), self.maps, self.shown, self.order)


def _treatable(network: Network) -> tuple[dict[str, Node], list[str]]:
    """The activations whose rows are one an image, and the names of the others."""
    nodes = activations(network, mixing=False)
    treated = {name: node for name, node in nodes.items() if node.per_sample and node.shape}
    return treated, [name for name in nodes if name not in treated]


def is_piecewise_linear(node: Node) -> bool:
    """Whether the signs of the node's values say which linear piece of its function each one is on."""
    return rectifies(node) or node.operator.rstrip("_") in _KINKED
