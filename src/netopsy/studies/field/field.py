"""The fields of view of units: theoretical, effective (Luo et al., 2016), and the activation tree of one unit (Palmieri
et al., Figure 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import polars as pl
import torch

from netopsy import charts
from netopsy.errors import NotApplicable
from netopsy.network.network import Network
from netopsy.network.units import find_unit
from netopsy.result import Group, Image, Result
from netopsy.samples.samples import Samples, check_images, read_inputs
from netopsy.settings import Interval, Length, NonNegativeInt, PositiveInt, Seed
from netopsy.studies.field import connections as drawn
from netopsy.studies.field import drawings
from netopsy.studies.field import report as figures
from netopsy.studies.field.effective import (
    Effective,
    Probe,
    along_length,
    averages,
    distances,
    fields,
    find_probe,
    over_depth,
)
from netopsy.studies.field.report import far, findings
from netopsy.studies.field.tree import ActivationTree, grow_tree, tree_table
from netopsy.studies.study import Study


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
        names = [find_unit(network, unit).node for unit in self.units] + along_length(network, self.layers)
        names = [name for name in dict.fromkeys(names) if network.nodes[name].length_axes]
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
            tables={"fields": fields(network), "distances": away}, figures=chart, findings=far(away, samples.noun)
        )

    def _images(
        self, network: Network, image: torch.Tensor, measured: list[Effective], grown: ActivationTree
    ) -> dict[str, Image]:
        picture = drawings.picture_of(network, image)
        images = {}
        if measured:
            images["effective"] = drawings.effective(picture, measured, self.energy)
        if grown.rows:
            images["tree"] = drawings.tree(picture, grown, self.image)
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
