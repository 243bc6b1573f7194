"""What excites each unit most: the strongest images of every unit (Zeiler and Fergus 2014; the lecture's slides)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import polars as pl

from netopsy.charts.passages import reads_passages
from netopsy.engine.observe.counting import Tallies
from netopsy.network.network import Network
from netopsy.network.units import hidden_nodes
from netopsy.result import Atlas, Finding, Group, Result
from netopsy.samples.samples import Samples
from netopsy.settings import Interval, NonNegativeInt, Seed
from netopsy.stats.describe import spread_indices
from netopsy.studies.stimuli.counting import (
    STIMULI,
    UNITS,
    SampleTexts,
    chance,
    choose_nodes,
    stimuli_table,
    strongest,
    tallies,
    units_table,
)
from netopsy.studies.stimuli.drawing import NodePictures, UnitPassages, draw_passages, draw_pictures
from netopsy.studies.stimuli.report import READING, figure, figures, findings, lines
from netopsy.studies.study import ObservingStudy
from netopsy.tallies.top_images import DEEP, telling_units

_PICTURED = 4  # layers in the figure of the paper's kind
_DRAWN = 12  # units a layer
_TELLING = 8  # selective units that are drawn in any case
_WORK = 1e13  # multiply-accumulates of all reconstructions: some two minutes on one core
_BACK = 4  # of one, over those of the forward pass: there and back, where nothing can be cut away
_NO_UNITS = "has no units whose values belong to one image each, so no image can be named as a unit's stimulus."


@dataclass(frozen=True)
class Stimuli(ObservingStudy):
    """The strongest images of every unit in one pass, as patches next to reconstructions; how selective each unit is.

    top: how many images are kept for each unit, one place an image.
    layers: the layers or nodes to look at; by default every activation, and every layer that none follows.
    most_units: units drawn a layer, evenly spaced among those that answer at all; 0 draws them all. By default 12, and
        as few as 2 where the reconstructions would take long, with the most telling ones of deep layers. The tables
        hold every unit in any case.
    reconstruct: whether to project each unit back to its images (the rule `masked`; `guided` or `gradient` where
        there is no rectifier on the way).
    tile: pixels on the longer side of a patch in the atlas, at most.
    most_classes: up to how many classes the class-selectivity index is counted; its memory grows with them.
    seed: of the draws that say what share of one class chance alone would give.
    """

    top: Annotated[int, Interval(ge=1, le=100)] = 9
    layers: tuple[str, ...] = ()
    most_units: NonNegativeInt | None = None
    reconstruct: bool = True
    tile: Annotated[int, Interval(ge=8, le=512)] = 48
    most_classes: NonNegativeInt = 100
    seed: Seed = 0

    name: ClassVar[str] = "stimuli"
    group: ClassVar[Group] = "vision"

    def check_on(self, network: Network) -> None:
        choose_nodes(network, self.layers)

    def tallies(self, network: Network, samples: Samples) -> Tallies:
        """The strongest images of every unit, and its means by class."""
        return tallies(samples, choose_nodes(network, self.layers)[0], self.top, self.most_classes)

    def conclude(self, network: Network, samples: Samples, results: Mapping[str, Any]) -> Result:
        """The images of `samples` that excite each unit of `network` most, and pictures of some units."""
        nodes, left = choose_nodes(network, self.layers)
        if not nodes:
            tables = {"stimuli": pl.DataFrame(schema=STIMULI), "units": pl.DataFrame(schema=UNITS)}
            return self.result(tables=tables, findings=[Finding(f"{network.name} {_NO_UNITS}", 0.0)])
        best_of = strongest(network, nodes, results)
        texts = SampleTexts(network, samples)
        stimuli = pl.concat([stimuli_table(network, c, samples, texts) for c in best_of.values()])
        units = pl.concat([units_table(c, samples) for c in best_of.values()])
        random = chance(samples, self.top, self.seed)
        live = [node for node, c in best_of.items() if len(c.alive)]
        pictured = [live[i] for i in spread_indices(len(live), _PICTURED)]
        if reads_passages(network):
            drawn = draw_passages(network, samples, best_of, self._most(network, len(live)))
            return self.result(
                tables={"stimuli": stimuli, "units": units},
                figures=figures(units, random, self.top),
                texts={"stimuli": lines(drawn, pictured, samples.noun)} if drawn else {},
                atlases={"atlas": self._atlas_of_texts(units, stimuli, drawn, samples.noun)} if drawn else {},
                findings=findings(units, random, samples, self.top, left, {}),
            )
        back = self.reconstruct and network.signature.inputs[0].kind == "image"
        pictures = list(
            draw_pictures(
                network,
                samples,
                best_of,
                most=self._most(network, len(live)),
                also=self._telling(network, samples, results),
                tile=self.tile,
                reconstruct=back,
                pictured=pictured,
            )
        )
        examples = [node_pictures for node_pictures in pictures if node_pictures.strongest.node in pictured]
        rules = {node_pictures.strongest.node: node_pictures.rule for node_pictures in pictures}
        return self.result(
            tables={"stimuli": stimuli, "units": units},
            figures=figures(units, random, self.top),
            images={"stimuli": figure(examples, self.top)} if examples else {},
            atlases={"atlas": self._atlas(units, stimuli, pictures)} if pictures else {},
            findings=findings(units, random, samples, self.top, left, rules if back else {}),
        )

    def _telling(self, network: Network, samples: Samples, results: Mapping[str, Any]) -> dict[str, list[int]]:
        """By node the selective units of deep layers, which `maximize` shows too; none where the units are chosen."""
        if self.layers or self.most_units is not None:
            return {}
        labels = samples.labels if samples.classified and not samples.multilabel else None
        nodes = [name for name in list(hidden_nodes(network))[-DEEP:] if f"strongest {name}" in results]
        found: dict[str, list[int]] = {}
        for node, channel in telling_units({name: results[f"strongest {name}"] for name in nodes}, labels, _TELLING):
            found.setdefault(node, []).append(channel)
        return found

    def _most(self, network: Network, nodes: int) -> int:
        """Units to draw a layer."""
        if self.most_units is not None or not self.reconstruct or reads_passages(network):
            return _DRAWN if self.most_units is None else self.most_units
        macs = _BACK * sum(layer.macs for layer in network.layers)
        return max(2, min(_DRAWN, int(_WORK / max(1, macs * max(1, nodes) * self.top))))

    def _atlas_of_texts(
        self, units: pl.DataFrame, stimuli: pl.DataFrame, drawn: dict[str, list[UnitPassages]], noun: str
    ) -> Atlas:
        """The drawn units' rows of both tables, with their passages."""
        rows, entries = _drawn_rows(units, stimuli, {node: [u.channel for u in part] for node, part in drawn.items()})
        return Atlas(
            units=rows.rename({"value": "activation"}).drop("stimuli", "axis"),
            stimuli=entries,
            sheets={},
            top=self.top,
            rules={},
            title="Atlas of units",
            reading=READING[noun == "row"],
            source="after Zeiler and Fergus, Figure 2",
            texts={node: tuple(unit.passages for unit in part) for node, part in drawn.items()},
            noun=noun,
        )

    def _atlas(self, units: pl.DataFrame, stimuli: pl.DataFrame, pictures: list[NodePictures]) -> Atlas:
        """The drawn units' rows of both tables, with their pictures."""
        rules = {node_pictures.strongest.node: node_pictures.rule for node_pictures in pictures}
        back = any(rules.values())
        reading = (
            "One card per unit: the patches of the images that excite it most, strongest first, row by row"
            f"{', next to what is projected back from the unit to each of them' if back else ''}. A patch is the part "
            "of the image that the unit sees; gray lies beyond the image's edge."
        )
        drawn = {node_pictures.strongest.node: node_pictures.channels for node_pictures in pictures}
        rows, entries = _drawn_rows(units, stimuli, drawn)
        return Atlas(
            units=rows.rename({"value": "activation"}).drop("stimuli", "axis"),
            stimuli=entries,
            sheets={node_pictures.strongest.node: node_pictures.sheets for node_pictures in pictures},
            top=self.top,
            rules=rules,
            title="Atlas of units",
            reading=reading,
            source="after Zeiler and Fergus, Figure 2",
        )


def _drawn_rows(
    units: pl.DataFrame, stimuli: pl.DataFrame, drawn: Mapping[str, Any]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows of both tables of the drawn channels of each node."""
    keys = pl.concat([pl.DataFrame({"node": [node] * len(part), "channel": part}) for node, part in drawn.items()])
    one, other = (
        frame.join(keys, on=["node", "channel"], how="semi", maintain_order="left") for frame in (units, stimuli)
    )
    return one, other
