"""What each rule brings back from each unit, and how it lies on the image: a few images at a time."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from netopsy.engine.backproject.backproject import Trace, check_inputs, trace
from netopsy.engine.backproject.rules import MASKED, random_weights
from netopsy.engine.interpreter import plan
from netopsy.engine.observe.tally import real_places
from netopsy.engine.workspace.workspace import current_workspace
from netopsy.errors import SettingsError
from netopsy.network.network import Network
from netopsy.network.units import Unit, activation_nodes, last_map, place_at
from netopsy.network.windows.field import Box
from netopsy.samples.samples import Batch, Samples, read_images, read_inputs
from netopsy.studies.reconstruct.report import RANDOM, correlation, edges, inside, on_edges, strength


class Archive:
    """An .npz that is written array by array, so that it never lies in memory whole. A context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED)

    def add(self, name: str, values: ArrayLike) -> None:
        """Write one array under a name of its own."""
        with self._file.open(f"{name}.npy", "w", force_zip64=True) as entry:
            np.lib.format.write_array(entry, np.asarray(values), allow_pickle=False)

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


Inputs = Tensor | Mapping[str, Tensor]


def default_layer(network: Network) -> str:
    """The last activation with several places, since rules act on activations; else the last one, or the last layer.

    (Palmieri et al. take layer 13 of VGG-16, its last convolution.)
    Raises SettingsError for a network without units.
    """
    name = last_map(activation_nodes(network))
    if name is None:
        raise SettingsError(f"{network.name} has no node whose units could be traced back.")
    return name


def most_active(network: Network, node: str, image: Inputs, count: int, batch: Batch | None = None) -> list[Unit]:
    """The `count` most active channels at the place of the node's strongest value on one sample.

    image: (channel, height, width), or the network's inputs by name. batch: of this sample, which says what is
    padding.
    Fewer where fewer are above zero; always at least one.
    """
    maps = _real_values(network, node, image, batch)
    columns = maps.reshape(len(maps), -1)  # (channel, places)
    place = int(columns.amax(0).argmax())
    strongest = columns[:, place].topk(min(count, len(columns)))
    chosen = [int(c) for c, v in zip(strongest.indices, strongest.values, strict=True) if v > 0]
    position = place_at(place, maps.shape[1:])
    return [Unit(node, channel, position) for channel in chosen or [int(strongest.indices[0])]]


def strongest_place(network: Network, unit: Unit, image: Inputs, batch: Batch | None) -> Unit:
    """The unit with its place: the strongest that is no padding where it has none."""
    if unit.place is not None:
        return unit
    channel = _real_values(network, unit.node, image, batch)[unit.channel]
    return Unit(unit.node, unit.channel, place_at(int(channel.argmax()), channel.shape))


def _real_values(network: Network, name: str, image: Inputs, batch: Batch | None) -> Float[Tensor, "channel *places"]:
    """A node's values on one sample, -inf at padding."""
    node = network.nodes[name]
    with torch.no_grad():
        value = plan(network, [name]).run(check_inputs(network, image), batch=1)[name]
    if batch is not None and (masks := batch.masks_along(node)):
        value = value.masked_fill(~real_places(node.length_axes, value, masks), -torch.inf)
    return value.movedim(node.channel_axis, 1)[0]


_IMAGES = 32  # traced at a time
_UNITS: dict[str, Any] = {
    **{"unit": pl.String, "image": pl.Int64, "label": pl.String, "value": pl.Float64},
    **{"top": pl.Int64, "left": pl.Int64, "bottom": pl.Int64, "right": pl.Int64},
}
_COLUMNS: dict[str, Any] = {
    **{"map": pl.Int64, "draw": pl.Int64},
    **{"unit": pl.String, "image": pl.Int64, "rule": pl.String, "edges": pl.Float64, "other_edges": pl.Float64},
    **{"largest": pl.Float64},
}
_LIKENESS: dict[str, Any] = {
    **{"map": pl.Int64, "draw": pl.Int64},
    **{"unit": pl.String, "image": pl.Int64, "one": pl.String, "other": pl.String},
    **{"correlation": pl.Float64, "signed": pl.Float64},
}


@dataclass(frozen=True)
class Example:
    """A unit for the figure. field: its pixels. maps: by rule, each whole map, zero outside the field."""

    unit: Unit
    image: int
    value: float
    field: Box
    maps: dict[str, Float[Tensor, "channel height width"]]


@dataclass
class Survey:
    """What was found.

    units, columns, likeness: rows of the tables, the last two with the number of the draw. examples: the units for the
    figure. touched: number of activations that the first rule acted on. untreated: by rule, the activations that it
    does not know, by node with their operator. refused: a sentence for each rule that could not act.
    """

    units: list[dict[str, Any]] = field(default_factory=list)
    columns: list[dict[str, Any]] = field(default_factory=list)
    likeness: list[dict[str, Any]] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    touched: int = 0
    untreated: dict[str, dict[str, str]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)

    @property
    def tables(self) -> dict[str, pl.DataFrame]:
        """The study's tables: of what was measured in several draws the mean over them, and each draw's own."""
        columns = pl.DataFrame(self.columns, schema=_COLUMNS)
        likeness = pl.DataFrame(self.likeness, schema=_LIKENESS)
        return {
            "units": pl.DataFrame(self.units, schema=_UNITS),
            "columns": _over_draws(columns, ["rule"], ["edges", "other_edges"], pl.col("largest").max()),
            "likeness": _over_draws(likeness, ["one", "other"], ["correlation", "signed"]),
            "draws": _each_draw(columns, likeness),
        }


def _over_draws(rows: pl.DataFrame, key: list[str], measures: list[str], *more: pl.Expr) -> pl.DataFrame:
    """One row a map and `key`, with the means over the draws."""
    grouped = rows.group_by("map", "unit", "image", *key, maintain_order=True)
    return grouped.agg(*map(_mean, measures), *more).drop("map")


def _each_draw(columns: pl.DataFrame, likeness: pl.DataFrame) -> pl.DataFrame:
    """One row a draw of random weights, with the means over the maps; likeness and signed: to the maps of `masked`."""
    drawn = columns.filter(pl.col("rule") == RANDOM).group_by("draw", "rule", maintain_order=True)
    pairs = likeness.filter(pl.any_horizontal(pl.col("one", "other") == RANDOM))
    pairs = pairs.filter(pl.any_horizontal(pl.col("one", "other") == "masked"))
    alike = pairs.rename({"correlation": "likeness"}).group_by("draw").agg(_mean("likeness"), _mean("signed"))
    return drawn.agg(_mean("edges"), _mean("other_edges")).join(alike, on="draw", how="left", maintain_order="left")


def _mean(column: str) -> pl.Expr:
    """The mean of the numbers of a column; NaN where there is none."""
    return pl.col(column).fill_nan(None).mean().fill_null(float("nan"))


def survey(
    network: Network,
    samples: Samples,
    numbers: Sequence[int],
    units_on: Callable[..., list[Unit]],
    rules: Sequence[str],
    *,
    pictured: Collection[int],
    rectified: Collection[str],
    draws: int,
    seed: int,
    archive: Archive,
) -> Survey:
    """Trace the units of each image back by every rule, measure the maps, and write them into the archive.

    numbers: of the images. units_on: the units to trace, given one image. pictured: images whose
    units are kept for the figure. rectified: rules whose maps are shown and measured without their negative part.
    draws: how often random weights are drawn and measured; the archive and the figure have the first draw.
    Raises SettingsError where no rule can act.
    """
    result = Survey()
    usable_rules = list(rules)
    steps = len(rules) + (draws - 1 if RANDOM in rules else 0)
    place, done, total = current_workspace(), 0, steps * -(-len(numbers) // _IMAGES)
    for first in range(0, len(numbers), _IMAGES):
        some = list(numbers[first : first + _IMAGES])
        # the image after the last of them lends its edges for comparison
        lent = [*some, numbers[(first + len(some)) % len(numbers)]]
        images = read_images(network, samples, lent)
        several = len(network.signature.names) > 1
        inputs = read_inputs(network, samples, lent) if several else {network.signature.names[0]: images}
        outlines = [edges(image) for image in images.cpu().numpy()]
        units = [units_on({name: values[k] for name, values in inputs.items()}) for k in range(len(some))]
        unit_list, of = (
            [unit for image_units in units for unit in image_units],
            [i for i, image_units in enumerate(units) for _ in image_units],
        )
        traces: dict[str, Trace] = {}
        for rule in list(usable_rules):
            place.report("reconstruct", done, total)
            try:
                traces[rule] = trace(network, inputs, unit_list, rule, of=of, seed=seed)  # type: ignore[arg-type]
            except SettingsError as error:
                usable_rules.remove(rule)
                result.refused.append(f"Left out: {error}")
            done += 1
        if not traces:
            raise SettingsError(f"no rule can be applied: {' '.join(result.refused)}")
        if not first:
            result.touched = len(traces[usable_rules[0]].touched)
            result.untreated = {rule: rule_trace.untreated for rule, rule_trace in traces.items()}
        for i, k in enumerate(of):
            for rule, rule_trace in traces.items():
                archive.add(f"{rule}_{len(result.units)}", rule_trace.crops[i].cpu().numpy())
            result.units.append(_unit_row(samples, some[k], traces, i))
            if some[k] in pictured:
                result.examples.append(_show(traces, i, some[k], rectified))
        for draw in range(draws if RANDOM in traces else 1):
            if draw:
                place.report("reconstruct", done, total)
                traces[RANDOM] = trace(network, inputs, unit_list, random_weights(MASKED, seed, draw), of=of)
                done += 1
            for i, k in enumerate(of):
                of_map = {"map": len(result.units) - len(of) + i, "draw": draw, "image": some[k]}
                other = outlines[k + 1] if len(numbers) > 1 else None
                _measure(result, of_map, traces, i, outlines[k], other, rectified)
    place.report("reconstruct", total, total)
    _describe(archive, result)
    return result


def _map(rule_trace: Trace, i: int, rectify: bool) -> Tensor:
    """The map of unit `i` as it is shown and measured."""
    return rule_trace.crops[i].clamp(min=0) if rectify else rule_trace.crops[i]


def _unit_row(samples: Samples, number: int, traces: Mapping[str, Trace], i: int) -> dict[str, Any]:
    """The row of unit `i` in the table `units`."""
    first = next(iter(traces.values()))
    one = samples.classified and not samples.multilabel
    label = samples.classes[int(samples.labels[number])] if one else None
    sides = dict(zip(("top", "left", "bottom", "right"), first.fields[i], strict=True))
    return {"unit": str(first.units[i]), "image": number, "label": label, "value": float(first.values[i])} | sides


def _measure(
    result: Survey,
    of_map: dict[str, int],
    traces: Mapping[str, Trace],
    i: int,
    outline: Float[np.ndarray, "height width"],
    other: Float[np.ndarray, "height width"] | None,
    rectified: Collection[str],
) -> None:
    """Add the rows of unit `i` of the traces; in later draws only those of the random weights, as others stay.

    of_map: number of the map and the draw, and the image. outline, other: the edges of its image and of another one.
    """
    first = next(iter(traces.values()))
    common, box = of_map | {"unit": str(first.units[i])}, first.fields[i]
    maps = {rule: _map(rule_trace, i, rule in rectified).cpu().numpy() for rule, rule_trace in traces.items()}
    lengths = {rule: strength(map_) for rule, map_ in maps.items()}
    for rule, length in lengths.items():
        if of_map["draw"] and rule != RANDOM:
            continue
        lies = {"edges": on_edges(length, inside(outline, box))}
        lies["other_edges"] = float("nan") if other is None else on_edges(length, inside(other, box))
        result.columns.append(common | {"rule": rule} | lies | {"largest": float(np.abs(maps[rule]).max(initial=0))})
    for one, two in combinations(maps, 2):
        if of_map["draw"] and RANDOM not in (one, two):
            continue
        alike = {
            "correlation": correlation(lengths[one], lengths[two]),
            "signed": correlation(maps[one], maps[two]),
        }
        result.likeness.append(common | {"one": one, "other": two} | alike)


def _show(traces: Mapping[str, Trace], i: int, number: int, rectified: Collection[str]) -> Example:
    first = next(iter(traces.values()))
    top, left, bottom, right = first.fields[i]
    maps = {}
    for rule, rule_trace in traces.items():
        maps[rule] = rule_trace.values.new_zeros(rule_trace.shape)
        maps[rule][:, top:bottom, left:right] = _map(rule_trace, i, rule in rectified)
    return Example(first.units[i], number, float(first.values[i]), first.fields[i], maps)


def _describe(archive: Archive, result: Survey) -> None:
    """What the maps `RULE_NUMBER` in the archive are of: a unit a row."""
    archive.add("units", np.array([row["unit"] for row in result.units]))
    archive.add("images", np.array([row["image"] for row in result.units]))
    archive.add(
        "fields", np.array([[row[side] for side in ("top", "left", "bottom", "right")] for row in result.units])
    )
    archive.add("values", np.array([row["value"] for row in result.units], np.float32))
