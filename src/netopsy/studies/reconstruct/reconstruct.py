"""The figure of Section 3 of Palmieri et al., and what it claims in numbers."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
from torch import Tensor

from netopsy import charts
from netopsy.engine.backward import Trace, trace
from netopsy.engine.backward.rules import RULES
from netopsy.engine.words import listing
from netopsy.engine.workspace import current_workspace
from netopsy.errors import SettingsError
from netopsy.network.network import Network
from netopsy.network.units import Unit, find_unit
from netopsy.result import Figure, Image, Result
from netopsy.samples import Samples
from netopsy.studies.reconstruct.choice import default_layer, most_active, read_images
from netopsy.studies.reconstruct.figure import sheet
from netopsy.studies.reconstruct.findings import findings
from netopsy.studies.reconstruct.likeness import correlation, edges, inside, on_edges, strength
from netopsy.studies.study import Study

_SOURCE = "Palmieri et al., Figure 4"


@dataclass(frozen=True)
class Reconstruct(Study):
    """From single units back to the image, by several rules side by side (Palmieri et al., Section 3, Figure 4).

    units: node:channel:y:x, or node:channel for its strongest place; by default the most active ones of `layer`.
    layer: where units are taken from; by default the activation behind the last convolution.
    images: numbers of the images drawn.
    features: how many units are taken at the most active place of an image.
    rules: the columns: gradient, deconvnet, masked, guided, masked_random.
    rectify: rectify the image too, as Equations 4-7 read at the first layer do; the exact filter keeps its sign.
    survey: over how many images, spread over the samples, the maps are measured beside those drawn.
    seed: of the random weights.

    Tables: `units`, `columns` (a unit and rule a row: whether the map lies on the image's edges), `likeness` (a unit
    and pair of rules a row: correlation of their strengths, and of the signed maps). Artifact: `maps.npz`, the maps.
    """

    name: ClassVar[str] = "reconstruct"

    units: tuple[str, ...] = ()
    layer: str | None = None
    images: tuple[int, ...] = (0, 1)
    features: int = 2
    rules: tuple[str, ...] = ("deconvnet", "masked", "masked_random", "gradient")
    rectify: bool = True
    survey: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [rule for rule in self.rules if rule not in RULES]
        if unknown or not self.rules:
            raise SettingsError(f"no rule '{', '.join(unknown)}'; choose from {', '.join(RULES)}.")
        if self.features < 1 or self.survey < 0 or not self.images:
            raise SettingsError(
                f"features {self.features} must be at least 1, survey {self.survey} at least 0, and one image be drawn."
            )

    def run(self, network: Network, samples: Samples | None) -> Result:
        """Trace units of `network` back to images of `samples`."""
        assert samples is not None
        drawn = [i for i in self.images if i < len(samples)] if self.images == (0, 1) else list(self.images)
        spread = np.linspace(0, len(samples) - 1, min(self.survey, len(samples))).round().astype(int).tolist()
        numbers = list(dict.fromkeys([*drawn, *spread]))
        images = read_images(network, samples, numbers)
        units, of = self._units(network, images)
        traces, refused = self._traces(network, images, units, of)
        if not traces:
            raise SettingsError(f"no rule can be applied: {' '.join(refused)}")
        shown = [i for i, image in enumerate(of) if numbers[image] in drawn]
        first = next(iter(traces.values()))
        tables = self._tables(network, samples, images, numbers, traces)
        layer = listing(list(dict.fromkeys(unit.node for unit in units)))
        silent = [str(unit) for unit, value in zip(first.units, first.values, strict=True) if value <= 0]
        sentences = findings(tables["columns"], tables["likeness"], layer, len(first.touched))
        for name, found in traces.items():
            if found.untreated:
                kinds = listing(sorted(set(found.untreated.values())))
                nodes = len(found.untreated)
                sentences.append(
                    f"The rule {name} does not know {kinds} ({nodes} nodes): there the flow met the derivative."
                )
        if silent:
            sentences.append(f"Not active on their image, so that their maps say little: {listing(silent)}.")
        return self.result(
            tables=tables,
            figures=_figures(tables["columns"]),
            images=self._images(network, images, numbers, traces, shown, samples),
            artifacts={"maps.npz": _saved(first, traces, numbers)},
            findings=[*sentences, *refused],
        )

    def _units(self, network: Network, images: Tensor) -> tuple[list[Unit], list[int]]:
        """The units and the image of each."""
        found: list[Unit] = []
        of: list[int] = []
        node = None if self.units else network.node(self.layer or default_layer(network)).meta["name"]
        for i, image in enumerate(images):
            chosen = [find_unit(network, u) for u in self.units]
            chosen = chosen or most_active(network, str(node), image, self.features)
            found += chosen
            of += [i] * len(chosen)
        return found, of

    def _traces(
        self, network: Network, images: Tensor, units: list[Unit], of: list[int]
    ) -> tuple[dict[str, Trace], list[str]]:
        """Each rule's trace, and why a rule could not act."""
        traces, refused = {}, []
        place, total = current_workspace(), len(self.rules)
        for done, rule in enumerate(self.rules):
            place.report("reconstruct", done, total)
            try:
                traces[rule] = trace(network, images, units, rule, of=of, seed=self.seed)  # type: ignore[arg-type]
            except SettingsError as error:
                refused.append(f"Left out: {error}")
        place.report("reconstruct", total, total)
        return traces, refused

    def _map(self, rule: str, crop: Tensor) -> Tensor:
        """The map as the study shows and measures it."""
        return crop if rule == "gradient" or not self.rectify else crop.clamp(min=0)

    def _tables(
        self, network: Network, samples: Samples, images: Tensor, numbers: list[int], traces: Mapping[str, Trace]
    ) -> dict[str, pl.DataFrame]:
        first = next(iter(traces.values()))
        outlines = [edges(image) for image in images.cpu().numpy()]
        units, columns, likeness = [], [], []
        for i, unit in enumerate(first.units):
            image, box = first.of[i], first.fields[i]
            label = None if samples.multilabel else int(samples.labels[numbers[image]])
            units.append(
                {
                    "unit": str(unit),
                    "image": numbers[image],
                    "label": None if label is None else samples.classes[label],
                    "value": float(first.values[i]),
                    **dict(zip(("top", "left", "bottom", "right"), box, strict=True)),
                }
            )
            maps = {rule: self._map(rule, found.crops[i]).cpu().numpy() for rule, found in traces.items()}
            lengths = {rule: strength(map_) for rule, map_ in maps.items()}
            own, other = (inside(outlines[k], box) for k in (image, (image + 1) % len(outlines)))
            for rule, length in lengths.items():
                row = {"unit": str(unit), "image": numbers[image], "rule": rule, "edges": on_edges(length, own)}
                row |= {"other_edges": on_edges(length, other) if len(outlines) > 1 else float("nan")}
                columns.append(row | {"largest": float(np.abs(maps[rule]).max(initial=0))})
            names = list(maps)
            for a, one in enumerate(names):
                for two in names[a + 1 :]:
                    row = {"unit": str(unit), "image": numbers[image], "one": one, "other": two}
                    row |= {"correlation": correlation(lengths[one], lengths[two])}
                    likeness.append(row | {"signed": correlation(maps[one], maps[two])})
        pair = {"unit": pl.String, "image": pl.Int64, "one": pl.String, "other": pl.String}
        return {
            "units": pl.DataFrame(units, schema_overrides={"label": pl.String}),
            "columns": pl.DataFrame(columns),
            "likeness": pl.DataFrame(likeness, schema={**pair, "correlation": pl.Float64, "signed": pl.Float64}),
        }

    def _images(
        self,
        network: Network,
        images: Tensor,
        numbers: list[int],
        traces: Mapping[str, Trace],
        shown: list[int],
        samples: Samples,
    ) -> dict[str, Image]:
        first = next(iter(traces.values()))
        maps = {}
        for rule, found in traces.items():
            few = Trace(
                found.shape, [found.units[i] for i in shown], [], found.values[shown],
                [self._map(rule, found.crops[i]) for i in shown], [found.fields[i] for i in shown], {}, {},
            )  # fmt: skip
            maps[_TITLES.get(rule, rule)] = few.maps
        titles = []
        for i in shown:
            number = numbers[first.of[i]]
            label = "" if samples.multilabel else f" ({samples.classes[int(samples.labels[number])]})"
            titles.append(f"{first.units[i]} at {float(first.values[i]):.3g} on image {number}{label}")
        pixels = sheet(
            images, [first.of[i] for i in shown], [first.fields[i] for i in shown], maps, titles, network.preprocessing
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


def _saved(first: Trace, traces: Mapping[str, Trace], numbers: list[int]) -> Path:
    """An .npz with the unrectified maps of each rule as `RULE_UNIT`, cut to `fields`, beside units and images."""
    path = Path(tempfile.mkdtemp(prefix="netopsy-")) / "maps.npz"
    arrays: dict[str, Any] = {
        "units": np.array([str(unit) for unit in first.units]),
        "images": np.array([numbers[i] for i in first.of]),
        "fields": np.array(first.fields),
        "values": first.values.cpu().numpy(),
    }
    for rule, found in traces.items():
        arrays |= {f"{rule}_{i}": crop.cpu().numpy() for i, crop in enumerate(found.crops)}
    np.savez_compressed(path, **arrays)
    return path


def _figures(columns: pl.DataFrame) -> dict[str, Figure]:
    means = columns.group_by("rule", maintain_order=True).agg(pl.col("edges").fill_nan(None).mean().fill_null(0.0))
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
