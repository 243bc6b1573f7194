"""The figure of Section 3 of Palmieri et al., and what it claims in numbers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
import polars as pl
import torch
from jaxtyping import UInt8
from torch import Tensor

from netopsy import charts
from netopsy.engine.backproject.rules import MASKED, RuleName
from netopsy.errors import NotApplicable, SettingsError
from netopsy.network.activations import activations
from netopsy.network.macs import RECURRENT
from netopsy.network.network import Network
from netopsy.network.preprocessing import Preprocessing
from netopsy.network.signature import Signature
from netopsy.network.units import Unit, find_unit
from netopsy.network.windows.field import Box
from netopsy.pictures.mosaic import NEUTRAL, PAPER, below, beside, caption, draw_frame, map_pictures, pictures, resize
from netopsy.result import Figure, Finding, Group, Image, Panel, Result
from netopsy.samples.samples import Samples, check_images, read_images
from netopsy.settings import Length, NonNegativeInt, PositiveInt, Seed, Unique
from netopsy.stats.describe import spread_indices
from netopsy.studies.reconstruct.attribution import (
    attribute,
    attribution_findings,
    attribution_tables,
    check_parts,
    passages_of,
    waveforms,
)
from netopsy.studies.reconstruct.exchange import (
    Depth,
    exchange,
    exchange_findings,
    exchange_tables,
    spread_layers,
)
from netopsy.studies.reconstruct.report import findings, means_table
from netopsy.studies.reconstruct.survey import Archive, Example, default_layer, most_active, strongest_place, survey
from netopsy.studies.study import Study
from netopsy.wording import of_samples

_SOURCE = "Palmieri et al., Figure 4"

_PAPER: tuple[RuleName, ...] = ("deconvnet", "masked", "masked_random", "gradient")


@dataclass(frozen=True)
class Reconstruct(Study):
    """From single units back to the image, by several rules side by side (Palmieri et al., Section 3, Figure 4).

    units: node:channel:y:x, or node:channel for its strongest place; by default the most active ones of `layer`.
    layer: where units are taken from; by default the last activation with several places.
    images: numbers of the images drawn.
    features: how many units are taken at the most active place of an image.
    rules: the columns: gradient, deconvnet, masked, guided, masked_random, gated; by default the paper's four, guided
        where no activation has a binary mask, and gated where there are an LSTM's or GRU's gates.
    rectify: rectify the image too, as Equations 4-7 read at the first layer do; the exact filter keeps its sign.
    survey: over how many images, spread over the samples, the maps are measured beside those drawn.
    draws: how often the random weights are drawn; below 3 nothing is concluded of them.
    experiment: at how many layers, spread up to `layer`, masks and weights are each replaced while the other stays; 0
        for none. It takes 9 traces a draw and layer.
    seed: of the random weights.

    On texts, recordings and rows the study gives attributions instead, gradient x input: what each token, place or
    column adds to the unit by each rule (tables `units` and `attributions`); padding has none.

    Tables: `units`, `columns` (a unit and rule a row: whether the map lies on the image's edges), `likeness` (a unit
    and pair of rules a row: correlation of their strengths, and of the signed maps), both with the mean over the draws
    for random weights; `draws` (a draw a row), `means` (a rule and measure a row, with intervals over images and over
    draws). Artifact: `maps.npz`, the maps; of random weights those of draw 0, as in the pictures.
    With `experiment`, for masks own, other or shuffled and weights learned, permuted or gaussian: `exchange` (a map and
    draw a row), `exchange_means`, and `exchange_leads` (what keeping the masks leaves less what keeping the weights
    leaves).
    """

    name: ClassVar[str] = "reconstruct"
    group: ClassVar[Group] = "vision"

    units: tuple[str, ...] = ()
    layer: str | None = None
    images: Annotated[tuple[NonNegativeInt, ...], Length(1)] = (0, 1)
    features: PositiveInt = 2
    rules: Annotated[tuple[RuleName, ...], Length(1), Unique()] = _PAPER
    rectify: bool = True
    survey: NonNegativeInt = 16
    draws: PositiveInt = 5
    experiment: NonNegativeInt = 0
    seed: Seed = 0

    def check_on(self, network: Network) -> None:
        for unit in self.units:
            find_unit(network, unit)
        if self.layer is not None:
            network.node(self.layer)

    def run(self, network: Network, samples: Samples) -> Result:
        """Trace units of `network` back to images of `samples`."""
        pictured = [i for i in self.images if i < len(samples)] if self.images == (0, 1) else list(self.images)
        numbers = list(dict.fromkeys([*pictured, *spread_indices(len(samples), self.survey)]))
        check_images(samples, numbers)
        if self.experiment and len(samples) < 2:
            raise SettingsError("experiment takes the masks of another image: give at least 2 images, or 0 for none.")
        rules = self._rules(network)
        if network.signature.inputs[0].kind != "image":
            return self._attributions(network, samples, numbers, pictured, rules)
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
                draws=self.draws,
                seed=self.seed,
                archive=archive,
            )
        tables = result.tables
        tables["means"] = means_table(tables["columns"], tables["likeness"], tables["draws"])
        figures = _figures(tables["means"])
        sentences = findings(tables, result.touched, result.untreated, result.refused)
        if self.experiment:
            depths = self._exchange(network, samples, numbers)
            tables |= exchange_tables(depths)
            figures |= _exchange_figures(tables["exchange_means"])
            sentences += exchange_findings(depths)
        return self.result(
            tables=tables,
            figures=figures,
            images=self._images(network, samples, result.examples),
            artifacts={"maps.npz": path},
            findings=sentences,
        )

    def _attributions(
        self, network: Network, samples: Samples, numbers: list[int], pictured: list[int], rules: tuple[str, ...]
    ) -> Result:
        """What the tokens of a text, the places of a recording or the columns of a row add to units."""
        check_parts(network)
        if self.experiment:
            raise NotApplicable(f"experiment exchanges masks on images; {samples.name} holds {samples.noun}s.")
        result = attribute(network, samples, numbers, self._units(network), rules, self.seed)
        series = result.kind == "series"
        return self.result(
            tables=attribution_tables(result, samples),
            images={"reconstructions": waveforms(result, pictured)} if series else {},
            texts={} if series else {"reconstructions": passages_of(result, pictured, samples.noun)},
            findings=[
                Finding(of_samples(sentence, samples.noun), sentence.weight)
                for sentence in attribution_findings(result, pictured, samples.noun)
            ],
        )

    def _exchange(self, network: Network, samples: Samples, numbers: list[int]) -> list[Depth]:
        """Masks and weights replaced: at the layers of `units`, or at layers up to `layer`."""
        units = [find_unit(network, unit) for unit in self.units]
        units_at: dict[str, Callable[[Tensor], list[Unit]]] = {}
        for node in dict.fromkeys(unit.node for unit in units):
            members = [unit for unit in units if unit.node == node]
            units_at[node] = lambda image, members=members: members  # type: ignore[misc]
        last = network.node(self.layer or default_layer(network)).name
        for node in () if units else spread_layers(network, last, self.experiment):
            units_at[node] = lambda image, node=node: most_active(network, node, image, self.features)  # type: ignore[misc]
        return exchange(network, samples, numbers, units_at, draws=self.draws, rectify=self.rectify, seed=self.seed)

    def _rules(self, network: Network) -> tuple[str, ...]:
        """The columns: `guided` where no activation has a binary mask, `gated` where a recurrent layer has gates."""
        masks = any(MASKED.treats(node) for node in activations(network).values())
        gates = any(node.operator in RECURRENT for node in network.program.nodes)
        more = ("guided",) * (not masks) + ("gated",) * gates
        return self.rules if self.rules != _PAPER else (*self.rules, *more)

    def _units(self, network: Network) -> Callable[..., list[Unit]]:
        """The units to trace on one image, or on one other sample with its batch, which says what is padding."""
        if self.units:
            named = [find_unit(network, unit) for unit in self.units]
            return lambda image, batch=None: [
                unit if batch is None else strongest_place(network, unit, image, batch) for unit in named
            ]
        node = network.node(self.layer or default_layer(network)).name
        return lambda image, batch=None: most_active(network, node, image, self.features, batch)

    def _images(self, network: Network, samples: Samples, examples: list[Example]) -> dict[str, Image]:
        numbers = list(dict.fromkeys(example.image for example in examples))
        titles = []
        for example in examples:
            one = samples.classified and not samples.multilabel
            label = f" (class {samples.classes[int(samples.labels[example.image])]})" if one else ""
            titles.append(f"{example.unit} at {example.value:.3g} on image {example.image}{label}")
        images = read_images(network, samples, numbers)
        of = [numbers.index(example.image) for example in examples]
        fields = [example.field for example in examples]
        maps = {
            _TITLES.get(rule, rule): torch.stack([example.maps[rule] for example in examples])
            for rule in examples[0].maps
        }
        pixels = sheet(images, of, fields, maps, titles, network.preprocessing)
        panels = _panels(images, of, fields, maps, titles, network.preprocessing)
        return {
            "reconstructions": Image(
                pixels,
                "From single units back to the image",
                "One row a unit, one column a rule; the frame is the unit's field of view, and below it is the field "
                "alone where it is small. Mid-gray is 0; each map is scaled by itself.",
                _SOURCE,
                alt="The image and the maps of each rule, one row a unit.",
                panels=panels,
            )
        }


_TITLES = {
    "deconvnet": "deconvnet (Eqs. 4-5)",
    "masked": "masked (Eqs. 6-7)",
    "masked_random": "masks, random weights",
    "gradient": "exact filter (Eqs. 8-9)",
    "guided": "guided",
}


def _figures(means: pl.DataFrame) -> dict[str, Figure]:
    """Each rule's mean with both intervals; a rule whose maps are constant has no correlation and no mark."""
    edges = means.filter(pl.col("measure") == "edges")
    if edges.is_empty():
        return {}
    over = [
        rows.select("rule", "mean", low=f"{name}_low", high=f"{name}_high", over=pl.lit(name))
        for name, rows in (("images", edges), ("draws", edges.filter(pl.col("draws").is_not_null())))
    ]
    return {
        "edges": charts.dots(
            pl.concat(over),
            "rule",
            "mean",
            color="over",
            low="low",
            high="high",
            title="How well do the maps align with the image's edges?",
            reading="Correlation of map and edges, relative to their local means; 0: no more than anywhere near. "
            "Whiskers: 95 % intervals over images, and over draws of the random weights.",
            source=_SOURCE,
            category_title="rule",
            value_title="correlation, mean over maps",
            color_title="interval over",
            reference=0.0,
            reference_label="no relation",
        )
    }


def _exchange_figures(means: pl.DataFrame) -> dict[str, Figure]:
    """What is left of the masked map with masks and weights replaced; the wider of the two intervals is drawn."""
    rows = means.filter((pl.col("measure") == "likeness") & pl.col("mean").is_not_null())
    if rows.is_empty():
        return {}
    rows = rows.with_columns(
        low=pl.min_horizontal("images_low", "draws_low"), high=pl.max_horizontal("images_high", "draws_high")
    )
    return {
        "exchange": charts.dots(
            rows,
            "masks",
            "mean",
            color="weights",
            low="low",
            high="high",
            facet="layer",
            title="What is left of the masked maps when masks or weights are replaced?",
            reading="Correlation of strengths with the map of the own masks and learned weights. Whiskers: 95 % "
            "interval, over images or over draws, whichever is wider.",
            source="Palmieri et al., Section 3",
            category_title="masks and switches",
            value_title="correlation with the masked map",
            color_title="weights",
        )
    }


Picture = UInt8[np.ndarray, "height width 3"]
SIDE = 224  # pixels of a column on the sheet
_CLIP = 0.005  # share of a map's non-zero values drawn at full strength: a few peaks would darken all else
_CLOSE = 0.7  # a field wider than this share of the image needs no close-up


def sheet(
    images: Tensor,
    of: Sequence[int],
    fields: Sequence[Box],
    maps: Mapping[str, Tensor],
    titles: Sequence[str],
    preprocessing: Preprocessing | Signature,
) -> Picture:
    """One row a unit: the image with its field of view framed, then each rule's map over a faded image.

    images: (n, channel, height, width). of: each unit's image. maps: rule -> (units, channel, height, width).
    titles: what stands above each row. Where fields are small, each row shows the field alone below.
    """
    height, width = images.shape[-2:]
    size = _column_size((height, width))
    originals = pictures(images, preprocessing)
    map_sheets = {rule: map_pictures(values, preprocessing, clip=_CLIP) for rule, values in maps.items()}
    head = beside([caption(text, size[1]) for text in ("image", *maps)], 4)
    rows = [head]
    for row, (image, field) in enumerate(zip(of, fields, strict=True)):
        rows.append(caption(titles[row], head.shape[1]))
        squares = [originals[image], *(_over(originals[image], d[row], field) for d in map_sheets.values())]
        zoom = max(1, size[0] // height)
        box = tuple(zoom * n for n in field)
        rows.append(beside([draw_frame(resize(p, size, smooth=zoom == 1), box) for p in squares], 4))  # type: ignore[arg-type]
        if max((field[2] - field[0]) / height, (field[3] - field[1]) / width) < _CLOSE:
            parts = [originals[image], *(d[row] for d in map_sheets.values())]
            rows.append(beside([_close(part, field, size) for part in parts], 4))
    return below(rows, 4)


def _panels(
    images: Tensor,
    of: Sequence[int],
    fields: Sequence[Box],
    maps: Mapping[str, Tensor],
    titles: Sequence[str],
    preprocessing: Preprocessing | Signature,
) -> tuple[Panel, ...]:
    """What `sheet` draws, a panel a unit: the image, then each rule's map, with the field of view framed."""
    originals = pictures(images, preprocessing)
    drawn = [map_pictures(values, preprocessing, clip=_CLIP) for values in maps.values()]
    return tuple(
        Panel(
            f"{titles[row].split(' at ')[0]} image {row}",
            [originals[image], *(values[row] for values in drawn)],
            titles[row],
            ("image", *maps),
            (field,) * (1 + len(drawn)),
        )
        for row, (image, field) in enumerate(zip(of, fields, strict=True))
    )


def _column_size(size: tuple[int, int]) -> tuple[int, int]:
    """Size of a column: a whole multiple of a small image, or the image itself."""
    zoom = max(1, SIDE // max(size))
    return size[0] * zoom, size[1] * zoom


def _over(image: Picture, map_: Picture, field: Box) -> Picture:
    """The map inside its field; outside the image, faded."""
    gray = image.mean(2, keepdims=True)
    faded = np.repeat((0.35 * gray + 0.65 * NEUTRAL * 1.4).clip(0, 255).astype(np.uint8), 3, 2)
    top, left, bottom, right = field
    faded[top:bottom, left:right] = map_[top:bottom, left:right]
    return faded


def _close(picture: Picture, field: Box, size: tuple[int, int]) -> Picture:
    """The field alone, enlarged to the column."""
    top, left, bottom, right = field
    part = np.ascontiguousarray(picture[top:bottom, left:right])
    scale = min(size[0] / part.shape[0], size[1] / part.shape[1])
    enlarged = resize(part, (max(1, round(part.shape[0] * scale)), max(1, round(part.shape[1] * scale))), smooth=False)
    return np.pad(enlarged, ((0, 0), (0, size[1] - enlarged.shape[1]), (0, 0)), constant_values=PAPER)
