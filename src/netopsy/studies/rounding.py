"""What fewer decimals and smaller number formats cost: floating-point formats, and integers with a scale."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import polars as pl
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from netopsy import charts
from netopsy.engine.sweep.edits import Replace
from netopsy.engine.sweep.sweep import Scope, scopes
from netopsy.errors import SettingsError
from netopsy.network.layers import filter_shape, filters_of, weight_of
from netopsy.network.network import Network
from netopsy.result import Figure, Finding, Group, Result
from netopsy.samples.samples import Samples
from netopsy.samples.tasks import token_input
from netopsy.settings import HalfWidth, Interval, Seed, Unique
from netopsy.studies.study import Allowance, Study, layer_measures
from netopsy.studies.sweep_report import (
    Measure,
    fragile,
    loss_map,
    score_edits,
    setting_figures,
    unchanged_settings,
    verdict,
    with_left_out,
)
from netopsy.wording import plural

FLOATS: dict[str, tuple[torch.dtype, int]] = {
    "bf16": (torch.bfloat16, 16),
    "fp16": (torch.float16, 16),
    "fp8_e4m3": (torch.float8_e4m3fn, 8),
    "fp8_e5m2": (torch.float8_e5m2, 8),
}


def round_decimals(values: Float[Tensor, "*shape"], decimals: int) -> Float[Tensor, "*shape"]:
    """Each value rounded to `decimals` digits after the point, half to even, in the values' own precision.

    A value that has no more digits than that stays as it is.
    """
    factor = 10.0 ** min(decimals, 300)
    scaled = values * factor
    return torch.where(scaled.isfinite(), scaled.round() / factor, values)


@dataclass(frozen=True)
class NumberFormat:
    """A format that weights can be stored in.

    name: `bf16`, `fp16`, `fp8_e4m3`, `fp8_e5m2`, `int8_tensor`, `int4_channel`, `int4_group32`, ...
    bits: of one stored weight; the scales come on top.
    scale: `none` casts the values as they are; `tensor`, `channel` or `group` first divides by a scale, one for the
        whole weight, one for each of its first axis, or one for each `group` inputs of these, in their order, so that
        the largest magnitude becomes the format's largest number.
    """

    name: str
    bits: int
    scale: Literal["none", "tensor", "channel", "group"]
    group: int = 0

    def scales(self, shape: Sequence[int]) -> int:
        """How many scales a weight of this shape, (channel, *rest), has; each is a float32."""
        channels, rest = shape[0] if len(shape) > 1 else 1, math.prod(shape[1:] if len(shape) > 1 else shape)
        counts = {"none": 0, "tensor": 1, "channel": shape[0] if shape else 1}
        return counts[self.scale] if self.scale in counts else channels * -(-rest // self.group)

    def apply(self, weight: Float[Tensor, "channel *rest"]) -> Float[Tensor, "channel *rest"]:
        """The weight as it comes back from the format, in its own precision.

        Integers are symmetric: q = round(w / s), half to even, with s = max|w| / (2^(bits - 1) - 1).
        Floats round half to even; magnitudes beyond the format's largest become the largest. Where s is below the
        smallest normal number, which is where dividing by it loses its digits, all becomes 0.
        Errors: SettingsError where a weight is not finite.
        """
        if not weight.isfinite().all():
            raise SettingsError(f"weights with NaN or infinity have no values in {self.name}; mend them first.")
        kind = re.sub("_(tensor|channel|group.*)$", "", self.name)
        top = float(torch.finfo(FLOATS[kind][0]).max) if kind in FLOATS else 2.0 ** (self.bits - 1) - 1
        scale = torch.ones_like(weight) if self.scale == "none" else self._largest(weight) / top
        reached = scale >= torch.finfo(weight.dtype).tiny
        scaled = (weight / torch.where(reached, scale, 1.0)).clamp(-top, top)
        stored = scaled.to(FLOATS[kind][0]).to(weight.dtype) if kind in FLOATS else scaled.round()
        return torch.where(reached, stored * scale, 0.0)

    def _largest(self, weight: Tensor) -> Tensor:
        """Largest magnitude of the whole, of each channel or group, shaped to divide `weight`."""
        size = weight.abs()
        if self.scale == "group" and size.numel():
            rows = size.flatten(1) if weight.ndim > 1 else size.reshape(1, -1)
            parts = F.pad(rows, (0, -rows.shape[1] % self.group)).unflatten(1, (-1, self.group))
            return parts.amax(2).repeat_interleave(self.group, 1)[:, : rows.shape[1]].reshape(weight.shape)
        if self.scale == "tensor" or not weight.ndim:
            return size.max() if size.numel() else size.new_zeros(())
        largest = size.flatten(1).amax(1) if weight.ndim > 1 and size.numel() else size.reshape(len(size), -1).sum(1)
        return largest.reshape(-1, *[1] * (weight.ndim - 1))


def number_format(name: str) -> NumberFormat:
    """The format called `name`.

    Raises SettingsError for any other than bf16, fp16, fp8_e4m3, fp8_e5m2 (these two also with `_tensor` or `_channel`)
    and int2 to int16 with `_tensor` (or nothing), `_channel` or `_group` and its size, 2 to 4096 inputs.
    """
    match = re.fullmatch(r"(bf16|fp16|fp8_e4m3|fp8_e5m2|int\d+)(?:_(tensor|channel|group(\d+)))?", name)
    if match:
        kind = match[1]
        scale: Any = match[2]
        if match[3]:
            size = int(match[3])
            if kind not in FLOATS and 2 <= int(kind[3:]) <= 16 and 2 <= size <= 4096:
                return NumberFormat(f"{kind}_group{size}", int(kind[3:]), "group", size)
            kind = "bf16"  # falls through to the error
        if kind in FLOATS and (scale is None or kind.startswith("fp8")):
            return NumberFormat(name, FLOATS[kind][1], scale or "none")
        if kind not in FLOATS and 2 <= int(kind[3:]) <= 16:
            return NumberFormat(f"{kind}_{scale or 'tensor'}", int(kind[3:]), scale or "tensor")
    raise SettingsError(
        f"no number format '{name}'; give bf16, fp16, fp8_e4m3, fp8_e5m2 (these two also with _tensor or _channel), "
        "or int2 to int16 with _tensor or _channel, as int4_channel, or with _group and its size, as int4_group32."
    )


FORMATS = (
    "fp16",
    "bf16",
    "fp8_e4m3",
    "fp8_e5m2",
    *(f"int{bits}_{scale}" for bits in (8, 6, 4, 3, 2) for scale in ("tensor", "channel")),
)
GROUPED = tuple(f"int{bits}_group{size}" for bits in (8, 4) for size in (128, 64, 32))
"""Tried by default on networks that take tokens, whose weights are usually stored so."""


@dataclass(frozen=True)
class Rounding(Study):
    """Accuracy with every parameter rounded to a number of decimals (Lorieul et al., Section III.D, Table III).

    Decimals are digits after the point, not significant ones; weights and biases of the layers are rounded, norms are
    left alone. Beside that, so that the reader can compare, the weights alone in smaller number formats: floats, and
    symmetric integers with one scale a layer (`_tensor`), one an output channel (`_channel`), or one a group of its
    inputs (`_group32`, as language models are stored).

    decimals: digits kept after the point.
    formats: number formats for all layers together, see `netopsy.studies.rounding.number_format`; by default with
        those in groups where the network takes tokens.
    layer_formats: number formats for one layer at a time; few, since each costs half a pass a layer.
    one_layer_at_a_time: also round one layer at a time.
    biases: whether biases are rounded to decimals too.
    layers: names of the layers to edit; all by default.
    precision: None scores on all images; else stop each score at +- so many points.
    seed: of the order of the images where `precision` is given.

    Tables: `scores` (by decimals; null is the unedited network), `formats` (`stored_bits`: a weight, with the scales).
    """

    name: ClassVar[str] = "rounding"
    group: ClassVar[Group] = "losses"
    allows: ClassVar[tuple[Allowance, ...]] = ("workers",)

    decimals: Annotated[tuple[int, ...], Interval(ge=0, le=30), Unique()] = (1, 2, 3, 4, 5)
    formats: Annotated[tuple[str, ...], Unique()] = FORMATS
    layer_formats: Annotated[tuple[str, ...], Unique()] = ("int4_channel", "int2_channel")
    one_layer_at_a_time: bool = True
    biases: bool = True
    layers: tuple[str, ...] | None = None
    precision: HalfWidth | None = None
    seed: Seed = 0

    def check(self) -> None:
        if not (self.decimals or self.formats):
            raise SettingsError("decimals and formats are both empty; give decimals, for instance 1,2,3, or formats.")
        for formats in (self.formats, self.layer_formats):
            names = [number_format(name).name for name in formats]
            twice = [name for i, name in enumerate(names) if name in names[:i]]
            if twice:
                raise SettingsError(f"the number format '{twice[0]}' is given twice; give it once.")

    def check_on(self, network: Network) -> None:
        network.select(self.layers)

    def run(self, network: Network, samples: Samples) -> Result:
        """Score `network` with rounded weights."""
        chosen = network.select(self.layers)
        if not chosen:
            return self.result(findings=[Finding(f"{network.name} has no convolution or linear layer to round.", 0.0)])
        grouped = GROUPED if self.formats == FORMATS and token_input(network) else ()
        formats_tried = (*self.formats, *grouped)
        covered = scopes(chosen, self.one_layer_at_a_time)
        blank = {"layer": "all", "decimals": None, "format": None}
        edits: list[tuple[dict[str, Any], Replace | None]] = [(blank, None)]
        for scope in covered:
            for count in self.decimals:
                edits.append(
                    ({**blank, "layer": scope.name, "decimals": count}, _to_decimals(scope, count, self.biases))
                )
            for name in formats_tried if scope.name == "all" else self.layer_formats:
                edits.append(({**blank, "layer": scope.name, "format": name}, _to_format(scope, name)))
        scores, measure = score_edits(network, samples, edits, precision=self.precision, seed=self.seed)
        scores = scores.with_columns(pl.col("decimals").cast(pl.Int64), pl.col("format").cast(pl.String))
        decimals = scores.filter(pl.col("format").is_null()).drop("format")
        formats = scores.filter(pl.col("format").is_not_null()).drop("decimals")
        bits = [number_format(name).bits for name in formats["format"]]
        formats = formats.insert_column(2, pl.Series("bits", bits, dtype=pl.Int64))
        shapes = {scope.name: [filter_shape(layer) for layer in scope.layers] for scope in covered}
        stored = [
            _stored_bits(number_format(name), shapes[layer]) for layer, name in formats.select("layer", "format").rows()
        ]
        formats = formats.insert_column(3, pl.Series("stored_bits", stored, dtype=pl.Float64))
        return self.result(
            tables={"scores": decimals, "formats": formats},
            figures=_figures(decimals, formats, measure),
            measures=_measures(formats),
            findings=with_left_out(_findings(decimals, formats, measure), network),
        )


def _stored_bits(kind: NumberFormat, shapes: Sequence[tuple[int, ...]]) -> float:
    """Bits a weight over layers of these shapes, with a float32 for each scale."""
    scales, weights = sum(map(kind.scales, shapes)), sum(map(math.prod, shapes))
    return kind.bits + 32 * scales / max(1, weights)


def _to_decimals(scope: Scope, count: int, biases: bool) -> Replace:
    def edit(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: round_decimals(tensors[name], count) for name in names}

    names = scope.tensors(biases)
    return Replace(names, edit, f"decimals {count} {biases} {scope.name}")


def _to_format(scope: Scope, name: str) -> Replace:
    kind = number_format(name)

    def edit(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            layer.weight: weight_of(layer, kind.apply(filters_of(layer, tensors[layer.weight])))
            for layer in scope.layers
        }

    return Replace(scope.tensors(), edit, f"format {name} {scope.name}")


_SCALES = {"none": "floats", "tensor": "one scale per layer", "channel": "one scale per channel"}


def format_name(name: str) -> str:
    """A format in words: `int8 per channel`, `int4 per group of 32`, `fp8 (e4m3)`."""
    kind = number_format(name)
    words = re.sub("_(tensor|channel|group.*)$", "", kind.name)
    words = f"fp8 ({words[4:]})" if words.startswith("fp8") else words
    per = {"none": "", "tensor": " per layer", "channel": " per channel", "group": f" per group of {kind.group}"}
    return words + per[kind.scale]


def _figures(decimals: pl.DataFrame, formats: pl.DataFrame, measure: Measure) -> dict[str, Figure]:
    unedited = float(decimals[measure.column][0])
    figures = setting_figures(
        decimals,
        "decimals",
        unedited=unedited,
        titles=("Decimals kept, all layers", "Decimals kept, one layer at a time"),
        sources=("Lorieul et al., Table III", "after Lorieul et al., Table III"),
        axis="count",
        axis_title="decimals kept",
        names=("decimals", "decimals_layers"),
        measure=measure,
    )
    source = "after Lorieul et al., Table III"
    names = [format_name(name) for name in formats["format"]]
    scales = [_scale(number_format(name)) for name in formats["format"]]
    formats = formats.with_columns(pl.Series("format", names, pl.String), pl.Series("scales", scales, pl.String))
    together, alone = formats.filter(pl.col("layer") == "all"), formats.filter(pl.col("layer") != "all")
    if together.height:
        figures["formats"] = charts.scatter(
            together,
            "stored_bits",
            measure.column,
            color="scales",
            low=measure.band[0],
            high=measure.band[1],
            tips=("format",),
            percent=measure.share,
            reference=unedited,
            x_title="bits per weight, with the scales",
            y_title=measure.unit,
            color_title="numbers",
            title="Number formats by size, all layers",
            reading="Up and left is better. A line through a point is its 95 % interval, the dashed one the unedited "
            "network; the tip names the format.",
            source=source,
        )
    if alone.height:
        title = "Number formats, one layer at a time"
        figures["formats_layers"] = loss_map(alone, "format", "layer", measure, title, source)
    return figures


def _scale(kind: NumberFormat) -> str:
    return _SCALES.get(kind.scale) or f"one scale per {kind.group} inputs"


def _findings(decimals: pl.DataFrame, formats: pl.DataFrame, measure: Measure) -> list[Finding]:
    by_format: Callable[[dict[str, Any]], str] = lambda row: format_name(row["format"])  # noqa: E731
    by_count: Callable[[dict[str, Any]], str] = lambda row: plural(row["decimals"], "decimal")  # noqa: E731
    # the fewest bits last; among formats of as many bits, the one that loses more comes first
    order = formats.filter(pl.col("layer") == "all").sort("bits", "drop", descending=[True, True])
    findings = verdict(order, by_format, "smallest number format", measure)
    edited = decimals.filter(pl.col("decimals").is_not_null())
    together = edited.filter(pl.col("layer") == "all").sort("decimals", descending=True)
    rounded: Callable[[dict[str, Any]], str] = lambda row: f"rounding to {by_count(row)}"  # noqa: E731
    findings += verdict(together, rounded, "coarsest rounding", measure)
    advice = "Keep more bits there."
    ways = ((formats, by_format, "put into a smaller format"), (edited, by_count, "rounded"))
    for scores, describe, how in ways:
        alone = scores.filter(pl.col("layer") != "all")
        findings += fragile(alone, describe, how, measure, advice if scores is formats else "")
        findings += unchanged_settings(scores, describe)
    return findings


_SAFE = (0.005, 0.01, 0.02, 0.05)  # losses that a format may cost: the least that the samples can tell from none


def _measures(formats: pl.DataFrame) -> pl.DataFrame:
    """The fewest bits of a format that surely costs a layer less than half a point, and what that one costs.

    Where the samples are too few to be sure of half a point, of 1, 2 or 5. A layer that no format tried on it alone is
    sure to suit has that of all layers together, if there is one; layers that were not tried alone have no row.
    """
    bits, costs = [], []
    alone, together = formats.filter(pl.col("layer") != "all"), formats.filter(pl.col("layer") == "all")
    least = formats["drop_high"].min() if formats.height else None
    limit = next((share for share in _SAFE if isinstance(least, float) and least < share), 0.0)
    whole = together.filter(pl.col("drop_high") < limit).sort("bits", "drop")
    for (layer,), rows in alone.group_by("layer", maintain_order=True):
        safe = rows.filter(pl.col("drop_high") < limit).sort("bits", "drop")
        if safe.height:
            row = safe.row(0, named=True)
            name = format_name(row["format"])
            costs.append((layer, row["drop"], row["drop_low"], row["drop_high"], name))
        elif whole.height:
            row = whole.row(0, named=True)
            name = format_name(row["format"])
        else:
            continue
        bits.append((layer, float(row["bits"]), None, None, name))
    return pl.concat([layer_measures("bits", bits), layer_measures("cost", costs)])
