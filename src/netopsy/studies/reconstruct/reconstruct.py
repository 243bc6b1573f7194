"""The figure of Section 3 of Palmieri et al., and what it claims in numbers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import polars as pl
import torch
from torch import Tensor

from netopsy import charts
from netopsy.engine.backproject.rules import MASKED, RuleName
from netopsy.network.activations import activations
from netopsy.network.network import Network
from netopsy.network.units import Unit, find_unit
from netopsy.result import Figure, Image, Result
from netopsy.samples.samples import Samples, check_images, read_images
from netopsy.settings import Length, NonNegativeInt, PositiveInt, Seed, Unique
from netopsy.stats.describe import spread_indices
from netopsy.studies.reconstruct.report import findings, sheet
from netopsy.studies.reconstruct.survey import Archive, Example, default_layer, most_active, survey
from netopsy.studies.study import Study

_SOURCE = "Palmieri et al., Figure 4"

_PAPER: tuple[RuleName, ...] = ("deconvnet", "masked", "masked_random", "gradient")


@dataclass(frozen=True)
class Reconstruct(Study):
    """From single units back to the image, by several rules side by side (Palmieri et al., Section 3, Figure 4).

    units: node:channel:y:x, or node:channel for its strongest place; by default the most active ones of `layer`.
    layer: where units are taken from; by default the last activation with several places.
    images: numbers of the images drawn.
    features: how many units are taken at the most active place of an image.
    rules: the columns: gradient, deconvnet, masked, guided, masked_random; by default the paper's four, and guided
        where no activation has a binary mask.
    rectify: rectify the image too, as Equations 4-7 read at the first layer do; the exact filter keeps its sign.
    survey: over how many images, spread over the samples, the maps are measured beside those drawn.
    seed: of the random weights.

    Tables: `units`, `columns` (a unit and rule a row: whether the map lies on the image's edges), `likeness` (a unit
    and pair of rules a row: correlation of their strengths, and of the signed maps). Artifact: `maps.npz`, the maps.
    """

    name: ClassVar[str] = "reconstruct"

    units: tuple[str, ...] = ()
    layer: str | None = None
    images: Annotated[tuple[NonNegativeInt, ...], Length(1)] = (0, 1)
    features: PositiveInt = 2
    rules: Annotated[tuple[RuleName, ...], Length(1), Unique()] = _PAPER
    rectify: bool = True
    survey: NonNegativeInt = 16
    seed: Seed = 0

    def run(self, network: Network, samples: Samples) -> Result:
        """Trace units of `network` back to images of `samples`."""
        pictured = [i for i in self.images if i < len(samples)] if self.images == (0, 1) else list(self.images)
        numbers = list(dict.fromkeys([*pictured, *spread_indices(len(samples), self.survey)]))
        check_images(samples, numbers)
        rules = self._rules(network)
        path = Path(tempfile.mkdtemp(prefix="netopsy-")) / "maps.npz"
        with Archive(path) as archive:
            result = survey(
                network,
                samples,
                numbers,
                self._units(network),
                rules,
                pictured=pictured,
                rectified=[rule for rule in rules if self.rectify and rule != "gradient"],
                seed=self.seed,
                archive=archive,
            )
        tables = result.tables
        return self.result(
            tables=tables,
            figures=_figures(tables["columns"]),
            images=self._images(network, samples, result.examples),
            artifacts={"maps.npz": path},
            findings=findings(tables, result.touched, result.untreated, result.refused),
        )

    def _rules(self, network: Network) -> tuple[str, ...]:
        """The columns: where no activation has a binary mask, `guided` stands in for the rules that need one."""
        masks = any(MASKED.treats(node) for node in activations(network).values())
        return self.rules if masks or self.rules != _PAPER else (*self.rules, "guided")

    def _units(self, network: Network) -> Callable[[Tensor], list[Unit]]:
        """The units to trace on one image."""
        if self.units:
            named = [find_unit(network, unit) for unit in self.units]
            return lambda image: named
        node = network.node(self.layer or default_layer(network)).name
        return lambda image: most_active(network, node, image, self.features)

    def _images(self, network: Network, samples: Samples, examples: list[Example]) -> dict[str, Image]:
        numbers = list(dict.fromkeys(example.image for example in examples))
        titles = []
        for example in examples:
            label = "" if samples.multilabel else f" (class {samples.classes[int(samples.labels[example.image])]})"
            titles.append(f"{example.unit} at {example.value:.3g} on image {example.image}{label}")
        pixels = sheet(
            read_images(network, samples, numbers),
            [numbers.index(example.image) for example in examples],
            [example.field for example in examples],
            {
                _TITLES.get(rule, rule): torch.stack([example.maps[rule] for example in examples])
                for rule in examples[0].maps
            },
            titles,
            network.preprocessing,
        )
        return {
            "reconstructions": Image(
                pixels,
                "From single units back to the image",
                "One row a unit, one column a rule; the frame is the unit's field of view, and below it is the field "
                "alone where it is small. Mid-gray is 0; each map is scaled by itself.",
                _SOURCE,
                alt="The image and the maps of each rule, one row a unit.",
            )
        }


_TITLES = {
    "deconvnet": "deconvnet (Eqs. 4-5)",
    "masked": "masked (Eqs. 6-7)",
    "masked_random": "masks, random weights",
    "gradient": "exact filter (Eqs. 8-9)",
    "guided": "guided",
}


def _figures(columns: pl.DataFrame) -> dict[str, Figure]:
    """A bar a rule; a rule whose maps are constant has no correlation and no bar."""
    means = columns.group_by("rule", maintain_order=True).agg(pl.col("edges").fill_nan(None).mean()).drop_nulls()
    if means.is_empty():
        return {}
    return {
        "edges": charts.bars(
            means,
            "rule",
            "edges",
            title="Do the maps lie on the image's edges?",
            reading="Correlation of map and edges, relative to their local means; 0: no more than anywhere near.",
            source=_SOURCE,
            category_title="rule",
            value_title="correlation, mean over units",
        )
    }
