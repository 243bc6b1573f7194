"""The fields of view of units: theoretical, effective (Luo et al., 2016), and the activation tree of one unit (Palmieri
et al., Figure 3). The study and its pictures."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import polars as pl
import torch
from torch import Tensor

from netopsy import charts
from netopsy.errors import NotApplicable
from netopsy.network.network import Network
from netopsy.network.units import find_unit
from netopsy.network.windows.field import Box
from netopsy.pictures.mosaic import PAPER, below, beside, caption, draw_frame, fit_side, pictures
from netopsy.result import Group, Image, Panel, Result
from netopsy.samples.samples import Samples, check_images, read_inputs
from netopsy.settings import Interval, Length, NonNegativeInt, PositiveInt, Seed
from netopsy.stats.describe import spread_indices
from netopsy.studies.field import connections as drawn
from netopsy.studies.field import report as figures
from netopsy.studies.field.effective import (
    Effective,
    Probe,
    along_length,
    averages,
    distances,
    fields,
    find_probe,
    looks_along,
    over_depth,
)
from netopsy.studies.field.report import far, findings
from netopsy.studies.field.tree import ActivationTree, TreeLevel, grow_tree, tree_table
from netopsy.studies.study import Study
from netopsy.wording import plural


def check_view(network: Network) -> None:
    """Raise NotApplicable for a network of neither images nor samples that have a length."""
    signature = network.signature
    if signature.length is None and signature.inputs[0].kind != "image":
        raise NotApplicable(
            f"{network.name} takes {', '.join(map(str, signature.inputs))}; fields of view are measured on images, and "
            "on texts and recordings whose inputs have a `length_axis`."
        )


@dataclass(frozen=True)
class Field(Study):
    """What units see of the image: theoretical and effective receptive fields, and one unit's activation tree.

    units: units whose fields are drawn first, as node:channel:y:x, or node:channel for the one in the middle.
    layers: of so many nodes, spread over the depth, the effective field of the middle units is measured.
    averaged: over so many images, drawn from the samples; each has another channel of the node.
    energy: the effective area holds this share of the squared gradient.
    tree: the unit whose activation tree is drawn; by default the strongest of the last activation that has places.
    image: number of the image for drawings and the tree.
    connections: through so many layers before the unit of the tree its strongest connections are drawn; 0 draws none.
    seed: of the draw of images and channels.
    """

    units: Annotated[tuple[str, ...], Length(most=24)] = ()
    layers: NonNegativeInt = 12
    averaged: PositiveInt = 32
    energy: Annotated[float, Interval(gt=0, lt=1)] = 0.95
    tree: str | None = None
    image: NonNegativeInt = 0
    connections: Annotated[int, Interval(ge=0, le=12)] = 3
    seed: Seed = 0

    name: ClassVar[str] = "field"
    group: ClassVar[Group] = "vision"

    def check_on(self, network: Network) -> None:
        for unit in (*self.units, *filter(None, [self.tree])):
            find_unit(network, unit)

    def run(self, network: Network, samples: Samples) -> Result:
        """Measure the fields of view of units of `network` on `samples`, and grow one unit's tree."""
        check_images(samples, [self.image])
        named = [find_probe(network, unit) for unit in self.units]
        unit = None if self.tree is None else find_unit(network, self.tree)
        generator = torch.Generator().manual_seed(self.seed)
        rows = torch.randperm(len(samples), generator=generator)[: self.averaged].sort().values
        if network.signature.length is not None:
            return self._along_length(network, samples, rows.tolist(), generator)
        check_view(network)
        probes: list[Probe] = [*named, *over_depth(network, self.layers)]
        measured = averages(network, samples, probes, rows.tolist(), self.energy, generator)
        inputs = read_inputs(network, samples, [self.image])
        grown = grow_tree(network, inputs, unit)
        theory = fields(network)
        tables = {"fields": theory, "effective": effective_table(measured, len(rows)), "tree": tree_table(grown)}
        charts_by_name = figures.draw_figures(tables, grown)
        sentences = findings(network, tables, grown, self.image, self.energy, len(rows))
        if grown.rows and grown.unit is not None and self.connections:
            found = drawn.find_connections(network, inputs, grown.unit, self.connections)
            tables["connections"] = found.edges
            sentences += drawn.finding(found, grown.unit)
            if found.edges.height:
                charts_by_name["connections"] = drawn.connection_figure(found, grown.unit, self.image)
        return self.result(
            tables=tables,
            figures=charts_by_name,
            images=self._images(network, next(iter(inputs.values())), measured, grown),
            findings=sentences,
        )

    def _along_length(self, network: Network, samples: Samples, rows: list[int], generator: torch.Generator) -> Result:
        """How far back units of texts and recordings look; they have no pictures to draw fields on."""
        spread, apart = along_length(network, self.layers)
        names = [find_unit(network, unit).node for unit in self.units] + spread
        names = [name for name in dict.fromkeys(names) if looks_along(network, name)]
        away = distances(network, samples, names, rows, generator)
        chart = {}
        if away.height:
            chart["distances"] = charts.curve(
                away,
                "node",
                "mean",
                low="mean_low",
                high="mean_high",
                zero=True,
                title="How far units look, by depth",
                reading="Distance in places between a unit and what its squared gradient lies on, mean over samples "
                "with its 95 % interval.",
                source="after Luo et al., 2016",
                x_title="node",
                y_title="places",
            )
        return self.result(
            tables={"fields": fields(network), "distances": away},
            figures=chart,
            findings=far(away, samples.noun, apart),
        )

    def _images(
        self, network: Network, image: torch.Tensor, measured: list[Effective], grown: ActivationTree
    ) -> dict[str, Image]:
        picture = picture_of(network, image)
        images = {}
        if measured:
            images["effective"] = draw_effective(picture, measured, self.energy)
        if grown.rows:
            images["tree"] = draw_tree(picture, grown, self.image)
        return images


def effective_table(measured: list[Effective], images: int) -> pl.DataFrame:
    """One row a probe; sizes in pixels, for a field cut to the image."""
    schema: dict[str, Any] = {
        "node": pl.String,
        "channel": pl.Int64,
        "place": pl.String,
        "images": pl.Int64,
        "top": pl.Int64,
        "left": pl.Int64,
        "bottom": pl.Int64,
        "right": pl.Int64,
        "side": pl.Float64,
        "cut": pl.Boolean,
        "area_share": pl.Float64,
        "effective_side": pl.Float64,
        "sd_y": pl.Float64,
        "sd_x": pl.Float64,
        "centre_y": pl.Float64,
        "centre_x": pl.Float64,
    }
    rows = []
    for effective in measured:
        top, left, bottom, right = effective.box
        probe = effective.probe
        place = ":".join(map(str, probe.place))
        side = ((bottom - top) * (right - left)) ** 0.5
        rows.append(
            [probe.label, probe.channel, place, images, *effective.box, side, effective.cut, *effective.measures]
        )
    return pl.DataFrame(rows, schema=schema, orient="row")


_TILE = 140  # six side by side are as wide as a page of the report
_ACROSS = 6  # probes side by side
_LEVEL = 92
_LEVELS = 7  # levels of a tree that are drawn
_THEORY, _EFFECT = (230, 60, 40), (40, 110, 230)
_ROWS = {"in the tree": (46, 125, 50), "active": (30, 100, 200), "contributing": (216, 80, 10)}
_GROUND = 243
_BRIGHT = 0.995  # the brightest pixels beyond are all white


def _name(name: str, width: int) -> np.ndarray:
    """A node's name on two lines, split at a dot where it is long; what is too long loses its beginning."""
    room, head, tail = width // 6, "", name
    if len(name) > room:
        parts = re.split(r"(?<=\.)", name)
        tail = parts.pop()
        while parts and len(parts[-1]) + len(tail) < room:
            tail = parts.pop() + tail
        head = "".join(parts)
    if len(head) > room:
        head = f"...{head[3 - room :]}"
    return below([caption(head, width, 11), caption(tail, width, 11)])


def picture_of(network: Network, image: Tensor) -> np.ndarray:
    """uint8 (height, width, 3) of one preprocessed image (1, channel, height, width); other inputs as a gray row."""
    if image.ndim == 4 and network.signature.inputs[0].kind == "image":
        return pictures(image, network.preprocessing)[0]
    rows = image.reshape(-1, image.shape[-1]).float()
    low, high = rows.min(), rows.max()
    shades = ((rows - low) / (high - low if high > low else 1) * 255).to(torch.uint8).cpu().numpy()
    return np.repeat(shades[:, :, None], 3, 2)


def draw_effective(picture: np.ndarray, measured: Sequence[Effective], energy: float) -> Image:
    """For each probe the image with its fields, and the energy inside the theoretical one."""
    blocks, names = [], []
    for probe_effect in measured:
        probe = probe_effect.probe
        top, left, bottom, right = probe_effect.box
        name = probe.label if probe.channel is None else ":".join(map(str, (probe.label, probe.channel, *probe.place)))
        words = (
            "no gradient"
            if probe_effect.side is None
            else f"in effect {probe_effect.side:.0f} ({probe_effect.area_share:.0%})"
        )
        names.append(f"{name} {words}")
        rows = [
            _name(name, _TILE),
            caption(f"{bottom - top} x {right - left} pixels", _TILE, 11),
            caption(words, _TILE, 11),
            _mark_fields(picture, probe_effect),
            _inside(probe_effect),
        ]
        blocks.append(below(rows, 2))
    rows = [beside(blocks[k : k + _ACROSS], 10) for k in range(0, len(blocks), _ACROSS)]
    return Image(
        below(rows, 12),
        title="Theoretical and effective fields of view",
        reading="Red: the pixels that a unit in the middle of the layer can depend on (the theoretical field). Below: "
        "that field enlarged, bright where the gradient is (square root of its mean energy). Blue: two standard "
        "deviations about its centre. In figures: the field, and the side of a square as large as the pixels that "
        f"hold {energy:.0%} of the energy.",
        source="after Luo et al., 2016",
        alt=f"The fields of view of {plural(len(measured), 'unit')}, framed on an image, and the gradient inside each.",
        panels=(
            Panel(
                "fields",
                [picture] * len(measured),
                "Theoretical fields",
                tuple(names),
                tuple(probe_effect.box for probe_effect in measured),
            ),
            Panel("energy", [_energy(one) for one in measured], "Gradient inside each field", tuple(names)),
        ),
    )


def draw_tree(picture: np.ndarray, grown: ActivationTree, image: int) -> Image:
    """Layers as columns: at each place the number of channels in the tree, active, and contributing."""
    image_tile, _ = _tile(picture, grown.field, _LEVEL, _THEORY)
    labels = [_name("", 84), *(caption(words, 84) for words in _ROWS)]
    columns = [below([_name("image", _LEVEL), image_tile], 2)]
    for index in spread_indices(len(grown.rows), _LEVELS):
        level = grown.rows[index]
        parts = [_name(level.node, _LEVEL)]
        for words, counts in zip(_ROWS, (level.in_tree, level.active, level.contributing), strict=True):
            parts += [_level(level, counts, words), caption(f"{int(counts.sum()):,}", _LEVEL, 11)]
        columns.append(below(parts, 2))
    height = _LEVEL + 19  # a square, the gap, and the number below it
    side = [labels[0], *(np.pad(p, ((0, height - len(p)), (0, 0), (0, 0)), constant_values=PAPER) for p in labels[1:])]
    return Image(
        beside([columns[0], below(side, 2), *columns[1:]], 8),
        title=f"The activation tree of {grown.unit} on image {image}",
        reading="Each column is a layer, from the image to the unit. A square is all places of the layer, the frame "
        "those that the unit depends on; the darker a place, the more of its features are connected to the unit (top), "
        "of these active (middle), and on a path of active units and chosen maxima to it (bottom). Numbers: units.",
        source="after Palmieri et al., Figure 3",
        alt=f"Maps of the units in the tree of {grown.unit}, those active and those contributing, layer by layer.",
        panels=(Panel("image", (picture,), "Image", frames=(grown.field,)), *_panels(grown)),
    )


def _panels(grown: ActivationTree) -> list[Panel]:
    """The tree's maps, a row of layers for each of what is in the tree, active and contributing."""
    levels = [grown.rows[index] for index in spread_indices(len(grown.rows), _LEVELS)]
    panels = []
    for row, words in enumerate(_ROWS):
        counts = [(level.in_tree, level.active, level.contributing)[row] for level in levels]
        panels.append(
            Panel(
                words,
                [_shades(level, count, words) for level, count in zip(levels, counts, strict=True)],
                words.capitalize(),
                tuple(f"{level.node}: {int(n.sum()):,}" for level, n in zip(levels, counts, strict=True)),
                tuple(level.box if level.cells is None else None for level in levels),
            )
        )
    return panels


def _level(level: TreeLevel, counts: Tensor, words: str) -> np.ndarray:
    """One square of a tree, with the places that the unit depends on framed."""
    box = level.box if level.cells is None else None
    tile, _ = _tile(_shades(level, counts, words), box, _LEVEL, (90, 90, 90))
    return tile


def _shades(level: TreeLevel, counts: Tensor, words: str) -> np.ndarray:
    """Shades of the row's colour by the share of channels, uint8 (height, width, 3)."""
    if level.cells is not None and level.channels > 1:
        across = math.ceil(level.channels**0.5)
        cells = level.cells[list(_ROWS).index(words)].float()
        strength = torch.nn.functional.pad(cells, (0, -level.channels % across), value=-1).view(-1, across)
    else:
        strength = (counts / max(1, int(level.in_tree.max()))).sqrt()
    colour = np.array(_ROWS[words], float)
    share = strength.clamp(min=0).numpy()[:, :, None]
    shades = _GROUND + (colour - _GROUND) * share
    shades[strength.numpy() < 0] = PAPER
    return shades.round().astype(np.uint8)


def _mark_fields(picture: np.ndarray, effective: Effective) -> np.ndarray:
    """The image with the theoretical and the effective field."""
    tile, scale = _tile(picture, effective.box, _TILE, _THEORY)
    return tile if effective.sd is None else _ellipse_box(tile, effective, scale, (0, 0))


def _energy(effective: Effective) -> np.ndarray:
    """The energy inside the theoretical field, uint8 (height, width): the brighter, the more."""
    top, left, bottom, right = effective.box
    energy = effective.energy[top:bottom, left:right]
    peak = float(np.quantile(energy.numpy(), _BRIGHT)) if energy.numel() else 0.0
    shades: np.ndarray = ((energy / (peak or 1)).sqrt().clamp(max=1) * 255).round().to(torch.uint8).numpy()
    return shades


def _inside(effective: Effective) -> np.ndarray:
    """`_energy` as a square, with the effective field."""
    top, left = effective.box[:2]
    shades = _energy(effective)
    tile, scale = _tile(np.repeat(shades[:, :, None], 3, 2), None, _TILE, _THEORY)
    return tile if effective.sd is None else _ellipse_box(tile, effective, scale, (top, left))


def _ellipse_box(tile: np.ndarray, effective: Effective, scale: float, corner: tuple[int, int]) -> np.ndarray:
    """Frame two standard deviations about the centre of the energy."""
    assert effective.sd is not None and effective.centre is not None
    ends = []
    for k in (0, 1):
        middle = effective.centre[k] + 0.5 - corner[k]
        reach = max(2 * effective.sd[k], 0.5)
        low, high = (round(scale * (middle + sign * reach)) for sign in (-1, 1))
        ends.append((max(0, low), min(tile.shape[k], max(high, low + 1))))
    return draw_frame(tile, (ends[0][0], ends[1][0], ends[0][1], ends[1][1]), _EFFECT)


def _tile(picture: np.ndarray, box: Box | None, side: int, colour: tuple[int, int, int]) -> tuple[np.ndarray, float]:
    """The picture in a square of `side` pixels with `box` framed, and its scale."""
    tile, scale = fit_side(picture, side), side / max(picture.shape[:2])
    if box is not None:
        top, left, bottom, right = (round(scale * edge) for edge in box)
        tile = draw_frame(tile, (top, left, max(bottom, top + 2), max(right, left + 2)), colour)
    padding = ((0, side - tile.shape[0]), (0, side - tile.shape[1]), (0, 0))
    return np.pad(tile, padding, constant_values=PAPER), scale
