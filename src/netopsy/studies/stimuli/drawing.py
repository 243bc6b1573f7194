"""The pictures of the study: patches beside reconstructions, as sheets for the atlas and as the paper's figure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from netopsy.engine.captions import below, beside, caption
from netopsy.engine.mosaic import PAPER
from netopsy.engine.patches import Window, patches, window
from netopsy.engine.pictures import resized
from netopsy.engine.reconstructions import reconstructions, usable_rule
from netopsy.engine.workspace import current_workspace
from netopsy.network.network import Network
from netopsy.network.units import Unit
from netopsy.result import Image, Sheet
from netopsy.samples import Samples
from netopsy.studies.stimuli.counting import Counted

_BUDGET = 2**28  # bytes of patches held at a time
_SHEET = 2**22  # pixels of one sheet: what a browser decodes at once
_SHOWN = 9  # units of a layer in the figure
_LINE = 190  # the gray between a unit's patches: some are white
_SIDE = 48  # screen pixels of a patch in the figure, about


@dataclass(frozen=True)
class Drawn:
    """The pictures of a node's drawn units.

    channels: which units. tiles: uint8 (unit, top or 2 * top, height, width, 3), patches first. rule: of the
    reconstructions, empty where there are none.
    """

    counted: Counted
    channels: np.ndarray
    tiles: np.ndarray
    rule: str


def chosen_channels(counted: Counted, most: int) -> np.ndarray:
    """At most `most` channels that something excites, evenly spaced; all of them for 0."""
    alive = counted.alive
    if not most or len(alive) <= most:
        return alive
    return alive[np.linspace(0, len(alive) - 1, most).round().astype(int)]


def draw(
    network: Network, samples: Samples, counted: dict[str, Counted], *, most: int, tile: int, reconstruct: bool
) -> Iterator[Drawn]:
    """The pictures of each node in turn; nodes without a live unit have none."""
    channels = {node: chosen_channels(c, most) for node, c in counted.items()}
    live = {node: chosen for node, chosen in channels.items() if len(chosen)}
    windows = {node: window(network, node, tile) for node in live}
    total = sum(int(counted[node].stimuli[chosen].sum()) for node, chosen in live.items()) if reconstruct else 0
    progress = _Progress(total)
    for group in _groups(live, windows, counted):
        wanted = {node: _entries(counted[node], live[node]) for node in group}
        cut = patches(network, samples, wanted, tile=tile)
        for node in group:
            c, chosen = counted[node], live[node]
            tiles = cut.pop(node).reshape(len(chosen), -1, *windows[node].tile, 3)
            rule = usable_rule(network, node, _place(c, 0)) if reconstruct else ""
            if rule:
                back = _back(network, samples, c, chosen, windows[node], rule, progress)
                tiles = np.concatenate([tiles, back], 1)
            yield Drawn(c, chosen, tiles, rule)


class _Progress:
    """Says how many reconstructions are done."""

    def __init__(self, total: int) -> None:
        self.total, self.count = total, 0

    def __call__(self, more: int) -> None:
        self.count += more
        current_workspace().report("reconstruct", self.count, self.total)


def _groups(live: dict[str, np.ndarray], windows: dict[str, Window], counted: dict[str, Counted]) -> list[list[str]]:
    """Nodes whose patches are cut in one pass over the images."""
    groups: list[list[str]] = []
    held = math.inf
    for node, chosen in live.items():
        size = len(chosen) * counted[node].images.shape[1] * math.prod(windows[node].tile) * 3
        if held + size > _BUDGET:
            groups.append([])
            held = 0
        groups[-1].append(node)
        held += size
    return groups


def _entries(c: Counted, channels: np.ndarray) -> tuple[list[int], list[int]]:
    """Images and places of the channels' entries; -1 where an entry is no stimulus."""
    keep = c.stimuli[channels]
    return (
        np.where(keep, c.images[channels], -1).ravel().tolist(),
        np.where(keep, c.places[channels], -1).ravel().tolist(),
    )


def _back(
    network: Network,
    samples: Samples,
    c: Counted,
    channels: np.ndarray,
    cut: Window,
    rule: str,
    progress: _Progress,
) -> np.ndarray:
    images, places = (np.array(v) for v in _entries(c, channels))
    top = c.images.shape[1]
    tiles = np.full((len(images), *cut.tile, 3), 128, np.uint8)
    filled = np.flatnonzero(images >= 0)
    units = [Unit(c.node, int(channels[i // top]), _place(c, int(places[i]))) for i in filled]
    tiles[filled] = reconstructions(network, samples, units, images[filled].tolist(), cut, rule, progress)
    return tiles.reshape(len(channels), top, *cut.tile, 3)


def _place(c: Counted, flat: int) -> tuple[int, ...]:
    return tuple(int(p) for p in np.unravel_index(flat, c.grid)) if c.grid else ()


def sheets(drawn: Drawn) -> tuple[Sheet, ...]:
    """All tiles of a node, whole units to a sheet."""
    units, per, height, width, _ = drawn.tiles.shape
    step = max(1, _SHEET // (per * height * width))
    return tuple(
        Sheet.of(drawn.tiles[start : start + step].reshape(-1, height, width, 3)) for start in range(0, units, step)
    )


def few(drawn: Drawn) -> Drawn:
    """The units that the figure shows, without the others' memory."""
    return replace(drawn, channels=drawn.channels[:_SHOWN], tiles=drawn.tiles[:_SHOWN].copy())


def figure(drawn: list[Drawn], top: int) -> Image:
    """Zeiler and Fergus' Figure 2 for a few nodes: each unit's patches, and beside them what comes back from it."""
    parts = []
    for one in drawn:
        blocks = [_block(tiles, top) for tiles in one.tiles]
        words = f"{one.counted.node}: units {', '.join(map(str, one.channels))}"
        parts += [caption(words), _rows(blocks, 3)]
    names = ", ".join(one.counted.node for one in drawn)
    back = any(one.rule for one in drawn)
    sides = "left the patches of the images that excite it most, right what is projected back from it to each"
    return Image(
        below(parts, gap=6),
        "The strongest stimuli of some units",
        f"One block a unit: {sides if back else 'the patches of the images that excite it most'}; strongest first, "
        "row by row. A patch is the unit's receptive field; gray is beyond the image, and in a reconstruction zero.",
        "after Zeiler and Fergus, Figure 2",
        alt=f"Patches and reconstructions of units of {names}",
    )


def _block(tiles: np.ndarray, top: int) -> np.ndarray:
    """One unit: its patches in a square, and its reconstructions in another to the right."""
    height, width = tiles.shape[1:3]
    zoom = max(1, round(_SIDE / max(height, width)))
    large = [resized(tile, (height * zoom, width * zoom), smooth=False) for tile in tiles]
    columns = math.ceil(math.sqrt(top))
    halves = [_rows(large[start : start + top], columns, 1, _LINE) for start in range(0, len(large), top)]
    return beside([np.pad(half, ((1, 1), (1, 1), (0, 0)), constant_values=_LINE) for half in halves], gap=4)


def _rows(squares: list[np.ndarray], columns: int, gap: int = 14, ground: int = PAPER) -> np.ndarray:
    """Pictures of one size row by row, `gap` pixels of `ground` between them and none around."""
    height, width, _ = squares[0].shape
    rows, columns = math.ceil(len(squares) / columns), min(columns, len(squares))
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), ground, np.uint8)
    for i, square in enumerate(squares):
        y, x = i // columns * (height + gap), i % columns * (width + gap)
        sheet[y : y + height, x : x + width] = square
    return sheet


def shown_nodes(nodes: list[str], most: int) -> list[str]:
    """At most `most` of the nodes, from the first to the last, evenly spaced."""
    if len(nodes) <= most:
        return nodes
    return [nodes[i] for i in np.linspace(0, len(nodes) - 1, most).round().astype(int)]


def captions(stimuli: pl.DataFrame, units: pl.DataFrame) -> pl.DataFrame:
    """The rows of the table `stimuli` that belong to `units`."""
    return stimuli.join(units.select("node", "channel"), on=["node", "channel"], how="semi", maintain_order="left")
