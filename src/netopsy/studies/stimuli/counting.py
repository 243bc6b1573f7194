"""What the study counts, the strongest images of every unit and its means by class, and their tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from netopsy.charts import passages
from netopsy.engine.observe.counting import Tallies
from netopsy.engine.observe.tally import Tally
from netopsy.errors import SettingsError
from netopsy.network.activations import activations, rectifies
from netopsy.network.network import Network
from netopsy.network.node import Node
from netopsy.network.units import place_at, places, unit_nodes
from netopsy.pictures import patches
from netopsy.samples.samples import Samples
from netopsy.tallies.moments import ClassMeans, ClassMeansResult
from netopsy.tallies.top_images import TopImages, TopImagesResult


@dataclass(frozen=True)
class NodeStimuli:
    """What the pass found at one node.

    values, images, places: (channel, top) as in `TopImagesResult`. stimuli: which entries excite the unit at all: above
    zero where the node rectifies. grid: the node's places, () for neurons. axis: of the node's value that holds the
    channels, the samples' being 0. selectivity: float64 (channel,), NaN where
    there is none.
    """

    node: str
    layer: str
    values: np.ndarray
    images: np.ndarray
    places: np.ndarray
    stimuli: np.ndarray
    grid: tuple[int, ...]
    axis: int
    selectivity: np.ndarray

    @property
    def alive(self) -> np.ndarray:
        """The channels that any image excites."""
        return np.flatnonzero(self.stimuli.any(1))


def choose_nodes(network: Network, layers: tuple[str, ...]) -> tuple[dict[str, Node], list[str]]:
    """The nodes to look at by name, in order of execution, and the names of those that cannot be.

    layers: nodes, or layers, which stand for the nodes that hold what they say; all by default. A node whose rows are
    not one an image cannot be: the tally would not know whose a row is.
    """
    every = unit_nodes(network)
    named: dict[str, Node] = {}
    for name in layers:
        record = network.node(name)
        behind = {n: node for n, node in every.items() if node.layer == name}
        named |= {record.name: record} if record.name in every or not behind else behind
    requested = named or {n: network.nodes[n] for layer in network.layers for n in layer.nodes} | activations(network)
    chosen = {name: node for name, node in network.nodes.items() if name in (named or every)}
    usable = {name: node for name, node in chosen.items() if len(node.full_shape) > 1 and node.per_sample}
    left = [name for name, node in network.nodes.items() if name in requested and not node.per_sample]
    if layers and not usable:
        raise SettingsError(f"no unit of {', '.join(named)} belongs to one image; choose other layers.")
    return usable, left


def tallies(samples: Samples, nodes: Mapping[str, Node], top: int, most_classes: int) -> Tallies:
    """The strongest images of the nodes' channels; class means for up to `most_classes` classes."""
    by_class = samples.classified and not samples.multilabel and 2 <= len(samples.classes) <= most_classes
    labels = samples.labels.astype(np.int64) if by_class else np.zeros(0, np.int64)
    chosen: dict[str, tuple[str, Tally]] = {}
    for name, node in nodes.items():
        chosen[f"strongest {name}"] = (name, TopImages(top, node.channel_axis))
        if by_class and rectifies(node):  # the index is for activations that are never negative
            chosen[f"means {name}"] = (name, ClassMeans(labels, len(samples.classes), node.channel_axis))
    return chosen


def strongest(network: Network, nodes: Mapping[str, Node], results: Mapping[str, Any]) -> dict[str, NodeStimuli]:
    """What the `tallies` counted, by node."""
    return {
        name: _count(network, node, results[f"strongest {name}"], results.get(f"means {name}"))
        for name, node in nodes.items()
    }


def _count(network: Network, node: Node, best: TopImagesResult, means: ClassMeansResult | None) -> NodeStimuli:
    values, images = best.values.numpy(), best.images.numpy()
    stimuli = images >= 0
    if rectifies(node):
        stimuli &= values > 0
    nothing = np.full(len(values), np.nan)
    return NodeStimuli(
        node=node.name,
        layer=node.layer,
        values=values,
        images=images,
        places=best.places.numpy(),
        stimuli=stimuli,
        grid=places(node),
        axis=node.channel_axis % len(node.full_shape),
        selectivity=nothing if means is None else means.selectivity.numpy(),
    )


_DRAWS = 1000

STIMULI: dict[str, Any] = {
    "node": pl.String,
    "layer": pl.String,
    "channel": pl.Int64,
    "rank": pl.Int64,
    "value": pl.Float64,
    "image": pl.Int64,
    "y": pl.Int64,
    "x": pl.Int64,
    "place": pl.String,
    "label": pl.Int64,
    "class": pl.String,
}
TOKENS: dict[str, Any] = {"position": pl.Int64, "token": pl.String, "before": pl.String, "after": pl.String}
WINDOW: dict[str, Any] = {"start": pl.Int64, "end": pl.Int64}
UNITS: dict[str, Any] = {
    "node": pl.String,
    "layer": pl.String,
    "channel": pl.Int64,
    "value": pl.Float64,
    "stimuli": pl.Int64,
    "class": pl.String,
    "share": pl.Float64,
    "entropy": pl.Float64,
    "selectivity": pl.Float64,
    "axis": pl.Int64,
}


def stimuli_table(network: Network, node_stimuli: NodeStimuli, samples: Samples, texts: SampleTexts) -> pl.DataFrame:
    """One row an entry, strongest first: `STIMULI`; a token's place is in `y`, of more axes the last two.

    place: as a unit's name ends, `y:x`. Of text also `TOKENS`: the number of the token, itself, and what stands around
    it. Of recordings `WINDOW`: the part that the unit sees, half open.
    """
    channel, rank = np.nonzero(node_stimuli.stimuli)
    image, place = node_stimuli.images[channel, rank], node_stimuli.places[channel, rank]
    at = np.unravel_index(place, node_stimuli.grid) if node_stimuli.grid else ()
    y, x = (*at[-2:], None, None)[:2]
    labels, names = _labels(samples, image)
    rows = {
        "node": [node_stimuli.node] * len(image),
        "layer": [node_stimuli.layer] * len(image),
        "channel": channel,
        "rank": rank + 1,
        "value": node_stimuli.values[channel, rank].astype(np.float64),
        "image": image,
        "y": [None] * len(image) if y is None else y,
        "x": [None] * len(image) if x is None else x,
        "place": [":".join(map(str, place_at(p, node_stimuli.grid))) or None for p in place.tolist()],
        "label": labels,
        "class": names,
    }
    frame = pl.DataFrame(rows, schema=STIMULI)
    if samples.kind == "tokens":
        return frame.hstack(_token_columns(network, node_stimuli, texts, image.tolist(), place.tolist()))
    if network.signature.inputs[0].kind == "series":
        cut = patches.window(network, node_stimuli.node)
        return frame.hstack(pl.DataFrame([cut.along(p) for p in place.tolist()], schema=WINDOW, orient="row"))
    return frame


class SampleTexts:
    """The samples as lists of tokens, each read once."""

    def __init__(self, network: Network, samples: Samples) -> None:
        self.network, self.samples = network, samples
        self.pieces: dict[tuple[int, str], list[str]] = {}

    def read(self, index: int, sequence: str) -> list[str]:
        """The tokens of a sample; of an encoder and a decoder those of the `sequence`."""
        key = index, sequence
        if key not in self.pieces:
            self.pieces[key] = passages.pieces_of(self.network, self.samples, index, sequence)
        return self.pieces[key]


_AROUND = 6  # tokens before and after in the table


def _token_columns(
    network: Network, node_stimuli: NodeStimuli, texts: SampleTexts, samples: list[int], flat_places: list[int]
) -> pl.DataFrame:
    """`TOKENS` of each entry; null where the node has no axis of tokens."""
    node = network.nodes[node_stimuli.node]
    rows: list[tuple[int | None, str | None, str | None, str | None]] = []
    for sample, place in zip(samples, flat_places, strict=True):
        at = None if place < 0 else passages.position_of(network, node, place_at(place, node_stimuli.grid))
        pieces = texts.read(sample, node.sequence)
        if at is None or at >= len(pieces):
            rows.append((at, None, None, None))
            continue
        before, after = pieces[max(0, at - _AROUND) : at], pieces[at + 1 : at + 1 + _AROUND]
        rows.append((at, pieces[at], "".join(before), "".join(after)))
    return pl.DataFrame(rows, schema=TOKENS, orient="row")


def units_table(node_stimuli: NodeStimuli, samples: Samples) -> pl.DataFrame:
    """One row a unit: `UNITS`; a unit that no image excites has a value and 0 stimuli, and no class."""
    share, entropy, commonest = make_up(node_stimuli.images, node_stimuli.stimuli, samples)
    n = node_stimuli.stimuli.sum(1)
    rows = {
        "node": [node_stimuli.node] * len(n),
        "layer": [node_stimuli.layer] * len(n),
        "channel": np.arange(len(n)),
        "value": node_stimuli.values[:, 0].astype(np.float64),
        "stimuli": n,
        "class": [samples.classes[c] if c >= 0 else None for c in commonest.tolist()],
        "axis": [node_stimuli.axis] * len(n),
        "share": share,
        "entropy": entropy,
        "selectivity": node_stimuli.selectivity,
    }
    return pl.DataFrame(rows, schema=UNITS).with_columns(
        pl.col("value", "share", "entropy", "selectivity").fill_nan(None)
    )


def make_up(images: np.ndarray, stimuli: np.ndarray, samples: Samples) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Share of each unit's commonest class, entropy of its classes in bits, and that class; all (channel,).

    images, stimuli: (channel, top). Of equally common classes the one of the stronger image counts. NaN and -1 where
    there is no stimulus; where images may have several classes there is no entropy.
    """
    n = stimuli.sum(1)
    excited = n > 0
    share, entropy = np.full(len(n), np.nan), np.full(len(n), np.nan)
    commonest = np.full(len(n), -1)
    rows = np.arange(len(n))[excited]
    if not samples.classified:
        return share, entropy, commonest
    if samples.multilabel:
        for row in rows:
            class_counts = samples.labels[images[row][stimuli[row]]].sum(0)
            share[row], commonest[row] = (
                class_counts.max() / n[row],
                class_counts.argmax() if class_counts.any() else -1,
            )
        return share, entropy, commonest
    labels = np.where(stimuli, samples.labels[images.clip(0)], -1)
    # for every entry, how many of its unit's entries share its class
    alike = ((labels[:, :, None] == labels[:, None, :]) & stimuli[:, None, :]).sum(2) * stimuli
    share[excited] = alike.max(1)[excited] / n[excited]
    commonest[excited] = labels[rows, alike.argmax(1)[excited]]
    parts = np.where(stimuli, np.log2(np.divide(n[:, None], alike, where=stimuli, out=np.ones(alike.shape))), 0.0)
    entropy[excited] = parts.sum(1)[excited] / n[excited]
    return share, entropy, commonest


def chance(samples: Samples, top: int, seed: int) -> float:
    """The mean share of the commonest class among `top` images drawn at random, over 1,000 draws; NaN without any."""
    if not samples.classified:
        return float("nan")
    generator = np.random.default_rng(seed)
    count = min(top, len(samples))
    images = np.stack([generator.choice(len(samples), count, replace=False) for _ in range(_DRAWS)])
    return float(make_up(images, np.ones_like(images, bool), samples)[0].mean())


def _labels(samples: Samples, images: np.ndarray) -> tuple[Any, list[Any]]:
    """The label of each image (none where it may have several) and the name of its class or classes."""
    if not samples.classified:
        return [None] * len(images), [None] * len(images)
    labels = samples.labels[images]
    if samples.multilabel:
        return [None] * len(images), [", ".join(samples.classes[c] for c in np.flatnonzero(row)) for row in labels]
    return labels.astype(np.int64), [samples.classes[c] for c in labels.tolist()]
