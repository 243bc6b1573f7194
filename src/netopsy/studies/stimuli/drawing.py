"""The pictures of the drawn units: patches beside reconstructions, as sheets for the atlas.

A node's units are drawn in parts that the memory holds. In a workspace a part that is done is kept, so that a study
that was stopped goes on with the next one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from netopsy.charts.passages import Entry, passages
from netopsy.engine.workspace.checkpoint import Checkpoint
from netopsy.engine.workspace.workspace import conditions, current_workspace
from netopsy.network.network import Network
from netopsy.network.units import Unit, place_at
from netopsy.pictures.mosaic import NEUTRAL
from netopsy.pictures.patches import RULES, PatchWindow, patches, reconstructions, usable_rule, window
from netopsy.result import Passage, Sheet
from netopsy.samples.samples import Samples
from netopsy.stats.describe import spread_indices
from netopsy.studies.stimuli.counting import NodeStimuli

_BUDGET = 2**28  # bytes of patches held at a time
_SHEET = 2**22  # pixels of one sheet: what a browser decodes at once
SHOWN = 9  # units of a layer in the figure

Tiles = UInt8[np.ndarray, "unit tile height width 3"]


@dataclass(frozen=True)
class NodePictures:
    """The pictures of a node's drawn units.

    channels: which units. sheets: of their tiles, for each unit `top` patches, then as many reconstructions if there
    are any. shown: the tiles of the first units of a node that is in the figure. rule: of the reconstructions, empty
    where there are none.
    """

    strongest: NodeStimuli
    channels: Int64[np.ndarray, " unit"]
    sheets: tuple[Sheet, ...]
    examples: Tiles
    rule: str


@dataclass(frozen=True)
class _Part:
    """Some of a node's units, whole sheets of them, and how their patches are cut."""

    strongest: NodeStimuli
    channels: Int64[np.ndarray, " unit"]
    window: PatchWindow

    @property
    def node(self) -> str:
        return self.strongest.node

    @property
    def entries(self) -> tuple[list[int], list[int]]:
        """Images and flat places of all entries of the units; -1 where an entry is no stimulus."""
        keep = self.strongest.stimuli[self.channels]
        images, places = (
            np.where(keep, v[self.channels], -1).ravel() for v in (self.strongest.images, self.strongest.places)
        )
        return images.tolist(), places.tolist()

    @property
    def stimuli(self) -> int:
        return int(self.strongest.stimuli[self.channels].sum())

    @property
    def nbytes(self) -> int:
        return len(self.channels) * _unit_pixels(self.strongest, self.window) * 3


class _Study:
    """What is the same for all parts. pictured: nodes of which some tiles are kept for the figure."""

    def __init__(
        self, network: Network, samples: Samples, tile: int, reconstruct: bool, pictured: Collection[str]
    ) -> None:
        self.network, self.samples, self.tile = network, samples, tile
        self.reconstruct, self.pictured = reconstruct, pictured
        self.place = current_workspace()
        self.done = self.total = 0
        self._rules: dict[str, str] = {}
        self._common = conditions(network, samples) if self.place.folder else {}

    def checkpoint(self, part: _Part) -> Checkpoint:
        """Where the part's pictures are kept."""
        if not self._common:
            return self.place.checkpoint("stimuli", {})
        settings = {"tile": self.tile, "reconstruct": self.reconstruct, "pictured": part.node in self.pictured}
        entries = hashlib.sha256(repr(part.entries).encode()).hexdigest()
        spec = {"node": part.node, "channels": part.channels.tolist(), "entries": entries}
        return self.place.checkpoint("stimuli", self._common | settings | spec)

    def progress(self, more: int) -> None:
        """Say that so many more reconstructions are done."""
        self.done += more
        self.place.report("reconstruct", self.done, self.total)

    def draw(self, part: _Part, cut: UInt8[np.ndarray, "n height width 3"]) -> NodePictures:
        """The part's pictures. cut: the patches of its entries."""
        tiles = cut.reshape(len(part.channels), -1, *part.window.tile, 3)
        rule = self._rule(part) if self.reconstruct else ""
        if rule:
            tiles = np.concatenate([tiles, self._back(part, rule)], 1)
        examples = tiles[: SHOWN if part.node in self.pictured else 0].copy()
        return NodePictures(
            part.strongest, part.channels, _sheets(tiles, part.strongest.images.shape[1]), examples, rule
        )

    def _rule(self, part: _Part) -> str:
        if part.node not in self._rules:
            self._rules[part.node] = usable_rule(self.network, part.node, place_at(0, part.strongest.grid))
        return self._rules[part.node]

    def _back(self, part: _Part, rule: str) -> Tiles:
        """What comes back from each unit to each of its images, gray where an entry is no stimulus."""
        images, places = (np.array(v) for v in part.entries)
        top = part.strongest.images.shape[1]
        tiles = np.full((len(images), *part.window.tile, 3), NEUTRAL, np.uint8)
        filled = np.flatnonzero(images >= 0)
        grid, channels = part.strongest.grid, part.channels
        units = [Unit(part.node, int(channels[i // top]), place_at(int(places[i]), grid)) for i in filled]
        chosen = images[filled].tolist()
        tiles[filled] = reconstructions(self.network, self.samples, units, chosen, part.window, rule, self.progress)
        return tiles.reshape(len(channels), top, *part.window.tile, 3)


@dataclass(frozen=True)
class UnitPassages:
    """The stimuli of one unit as passages, strongest first."""

    channel: int
    passages: tuple[Passage, ...]


def draw_passages(
    network: Network, samples: Samples, node_stimuli: Mapping[str, NodeStimuli], most: int
) -> dict[str, list[UnitPassages]]:
    """The stimuli of each node's drawn units as text, shaded by the unit's value over its largest; by node."""
    entries: dict[str, list[Entry]] = {}
    largest: dict[tuple[str, int], float] = {}
    for node, c in node_stimuli.items():
        for channel in chosen_channels(c, most).tolist():
            largest[node, channel] = float(np.abs(c.values[channel][c.stimuli[channel]]).max())
            for rank in np.flatnonzero(c.stimuli[channel]).tolist():
                image, place = int(c.images[channel, rank]), int(c.places[channel, rank])
                note = f"{c.values[channel, rank]:.3g}"
                entries.setdefault(node, []).append(Entry(channel, image, place, note))
    shown: dict[str, list[UnitPassages]] = {}
    for node, part in passages(network, samples, entries, largest).items():
        for channel, rows in groupby(zip(entries[node], part, strict=True), key=lambda row: row[0].channel):
            shown.setdefault(node, []).append(UnitPassages(channel, tuple(passage for _, passage in rows)))
    return shown


def chosen_channels(node_stimuli: NodeStimuli, most: int, also: Collection[int] = ()) -> Int64[np.ndarray, " unit"]:
    """At most `most` channels that something excites, evenly spaced, and those of `also`; all of them for 0."""
    alive = node_stimuli.alive
    spread = alive[spread_indices(len(alive), most or len(alive))]
    return np.union1d(spread, np.intersect1d(alive, np.array([*also], np.int64)))


def draw_pictures(
    network: Network,
    samples: Samples,
    node_stimuli: Mapping[str, NodeStimuli],
    *,
    most: int,
    also: Mapping[str, Collection[int]],
    tile: int,
    reconstruct: bool,
    pictured: Collection[str],
) -> Iterator[NodePictures]:
    """The pictures of each node in turn; nodes without a live unit have none.

    most: units of a node, 0 for all. also: further channels of a node. tile: pixels on the longer side of a patch at
    most. pictured: nodes of which some tiles are kept for the figure.
    """
    chosen = {node: chosen_channels(c, most, also.get(node, ())) for node, c in node_stimuli.items()}
    parts = [part for node, c in node_stimuli.items() for part in _parts(c, chosen[node], network, tile)]
    study = _Study(network, samples, tile, reconstruct, pictured)
    study.total = sum(part.stimuli for part in parts) if reconstruct else 0
    for node, pieces in groupby(_pieces(study, parts), key=lambda piece: piece.strongest.node):
        first, *more = pieces
        every = [first, *more]
        yield NodePictures(
            node_stimuli[node],
            np.concatenate([piece.channels for piece in every]),
            tuple(sheet for piece in every for sheet in piece.sheets),
            np.concatenate([piece.examples for piece in every])[:SHOWN],
            first.rule,
        )


def _parts(
    node_stimuli: NodeStimuli, channels: Int64[np.ndarray, " unit"], network: Network, tile: int
) -> Iterator[_Part]:
    """The units in parts that fill whole sheets and stay within the budget."""
    if not len(channels):
        return
    cut = window(network, node_stimuli.node, tile)
    pixels = _unit_pixels(node_stimuli, cut)
    sheet = 2 * _sheet_units(pixels)
    size = max(1, _BUDGET // (3 * pixels * sheet)) * sheet
    for first in range(0, len(channels), size):
        yield _Part(node_stimuli, channels[first : first + size], cut)


def _pieces(study: _Study, parts: list[_Part]) -> Iterator[NodePictures]:
    """The pictures of each part: those that were kept, and those that are drawn now."""
    for group in _groups(parts):
        checkpoints = [study.checkpoint(part) for part in group]
        states = [saved.load() for saved in checkpoints]
        requests = {part.node: part.entries for part, (done, _) in zip(group, states, strict=True) if not done}
        cut = patches(study.network, study.samples, requests, tile=study.tile)
        for part, saved, (done, state) in zip(group, checkpoints, states, strict=True):
            if done:
                study.progress(part.stimuli if study.reconstruct else 0)
                yield _restore(part, state)
                continue
            pictures = study.draw(part, cut.pop(part.node))
            saved.save(1, lambda pictures=pictures: _state(pictures), final=True)  # type: ignore[misc]
            yield pictures


def _groups(parts: list[_Part]) -> list[list[_Part]]:
    """Parts, of other nodes each, whose patches are cut in one pass over the images."""
    groups: list[list[_Part]] = []
    nbytes = math.inf
    for part in parts:
        if nbytes + part.nbytes > _BUDGET or part.node == groups[-1][-1].node:
            groups.append([])
            nbytes = 0
        groups[-1].append(part)
        nbytes += part.nbytes
    return groups


def _unit_pixels(node_stimuli: NodeStimuli, cut: PatchWindow) -> int:
    """Pixels of a unit's patches."""
    return node_stimuli.images.shape[1] * math.prod(cut.tile)


def _sheet_units(pixels: int) -> int:
    """Units on a sheet of patches and reconstructions; twice as many without these. pixels: of a unit's patches."""
    return max(1, _SHEET // (2 * pixels))


def _sheets(tiles: Tiles, top: int) -> tuple[Sheet, ...]:
    """All tiles, whole units to a sheet, on each but the last as many. top: patches a unit."""
    units, per, height, width, _ = tiles.shape
    step = _sheet_units(top * height * width) * (1 if per > top else 2)
    return tuple(Sheet.of(tiles[first : first + step].reshape(-1, height, width, 3)) for first in range(0, units, step))


def _state(pictures: NodePictures) -> dict[str, Tensor]:
    """The pictures as tensors, for a checkpoint."""
    state = {
        "shown": torch.from_numpy(pictures.examples),
        "rule": torch.tensor(RULES.index(pictures.rule) if pictures.rule else -1),
    }
    for k, sheet in enumerate(pictures.sheets):
        state[f"data {k}"] = torch.frombuffer(bytearray(sheet.data), dtype=torch.uint8)
        state[f"shape {k}"] = torch.tensor([*sheet.tile, sheet.columns, sheet.count])
    return state


def _restore(part: _Part, state: dict[str, Any]) -> NodePictures:
    """The pictures of a `_state`."""
    sheets = []
    for k in range(sum(name.startswith("data ") for name in state)):
        height, width, columns, count = state[f"shape {k}"].tolist()
        sheets.append(Sheet(state[f"data {k}"].numpy().tobytes(), (height, width), columns, count))
    rule = int(state["rule"])
    return NodePictures(
        part.strongest, part.channels, tuple(sheets), state["shown"].numpy(), RULES[rule] if rule >= 0 else ""
    )
