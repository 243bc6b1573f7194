"""Units on samples that are no images: what each token, place of a recording or column of a row adds to a unit.

An attribution is gradient x input: what a rule brings back from the unit to the input, times the input (Shrikumar et
al., arXiv:1605.01713), summed over the embedding where the input is a token. With the rule `gradient` that is each
part's share in the unit's linear map around the sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from netopsy.charts.passages import pieces_of, position_of
from netopsy.engine.backproject.backproject import trace
from netopsy.engine.backproject.tree import Trunk
from netopsy.engine.interpreter import plan
from netopsy.engine.workspace.workspace import current_workspace
from netopsy.errors import NotApplicable, SettingsError
from netopsy.network.network import Network
from netopsy.network.node import Node
from netopsy.network.units import Unit
from netopsy.pictures.mosaic import below, caption, normalise_maps, resize, waveform
from netopsy.result import Finding, Image, Panel, Passage, Texts
from netopsy.samples.samples import Batch, Samples
from netopsy.stats.hypothesis_tests import Estimate
from netopsy.studies.reconstruct.report import (
    refusal_sentences,
    silent_sentences,
    spell_briefly,
    untreated_sentences,
    weight_of,
)
from netopsy.wording import listing, plural

KINDS = ("tokens", "series", "vector")
"""What an input must be for its parts to have attributions; images have maps instead."""

_SAMPLES = 8  # traced at a time
_BEFORE, _BEHIND = 120, 40  # pieces of a long text that are shown around the unit's place
_WIDTH, _HEIGHT = 640, 96  # pixels of a recording
_STRIP = 14  # pixels of a channel's attributions below it
_NAMED = 4  # units with a sentence of their own


@dataclass(frozen=True)
class Attribution:
    """The attributions of one unit on one sample by one rule.

    place: of the input that the unit lies at, None for none, or for one in another sequence. sequence: of an encoder
    and a decoder the one that the input is. span: of the input that the unit sees, half open.
    sample: the input's values, (channel, length) of a recording. values: (length,), (channel, length) of a recording,
    (columns,); no padding.
    """

    unit: Unit
    number: int
    rule: str
    activation: float
    place: int | None
    span: tuple[int, int]
    values: Float[np.ndarray, "*places"]
    sample: Float[np.ndarray, "*places"]
    sequence: str = ""


@dataclass
class Attributions:
    """All parts, in the order of the samples. kind: of the input that they are of; first: of its columns in a row.
    pieces: the tokens or columns of each sample, by its number and the sequence.

    untreated, refused: as in `Survey`. left: the network's inputs that have no attribution.
    """

    kind: str
    parts: list[Attribution] = field(default_factory=list)
    pieces: dict[tuple[int, str], list[str]] = field(default_factory=dict)
    first: int = 0
    untreated: dict[str, dict[str, str]] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def attribute(
    network: Network,
    samples: Samples,
    numbers: Sequence[int],
    units_on: Callable[..., list[Unit]],
    rules: Sequence[str],
    seed: int,
) -> Attributions:
    """The attributions of the units on the samples of these numbers by every rule.

    units_on: the units to trace, given one sample's inputs and its batch. Padding has no attribution.
    Raises SettingsError where no rule can act, NotApplicable where the input has no parts of a kind of `KINDS`.
    """
    result, usable, done = Attributions(network.signature.inputs[0].kind), list(rules), 0
    for batch in samples.batches(network.preprocessing, _SAMPLES, order=numbers):
        inputs = batch.to(network.device)
        chosen = [units_on(*_one(inputs, batch, row)) for row in range(len(batch.indices))]
        entries = sorted(((u, row) for row, units in enumerate(chosen) for u in units), key=lambda entry: entry[0].node)
        for node, group in groupby(entries, key=lambda entry: entry[0].node):
            _trace_node(network, batch, inputs, node, list(group), usable, result, seed)
        done += len(batch.indices)
        current_workspace().report("attributions", done, len(numbers))
    if not result.parts:
        raise SettingsError(f"no rule can be applied: {' '.join(result.refused)}")
    order = {number: i for i, number in enumerate(numbers)}
    result.parts.sort(key=lambda part: order[part.number])
    for number, sequence in dict.fromkeys((part.number, part.sequence) for part in result.parts):
        result.pieces[number, sequence] = (
            pieces_of(network, samples, number, sequence) if result.kind != "series" else []
        )
    if result.kind == "vector":
        result.first = _first_column(network, samples.read(numbers[0]))
    return result


def _one(inputs: Mapping[str, Tensor], batch: Batch, row: int) -> tuple[dict[str, Tensor], Batch | None]:
    part = slice(row, row + 1)
    return {name: values[part] for name, values in inputs.items()}, None if batch.mask is None else batch.part(part)


def _trace_node(
    network: Network,
    batch: Batch,
    inputs: Mapping[str, Tensor],
    node: str,
    entries: Sequence[tuple[Unit, int]],
    usable: list[str],
    result: Attributions,
    seed: int,
) -> None:
    """The parts of one node's units, each with the row of its sample; a rule that cannot act is struck off."""
    trunk = Trunk(network, node)
    source = trunk.source
    result.kind = _kind(network, source)
    reached = {part.name for part in Trunk(network, source.name).data}
    read = {part.name for part in trunk.data} - reached
    names = network.signature.names
    result.left += [
        entry.name
        for name, entry in zip(names, network.signature.inputs, strict=True)
        if name in read and entry.kind in KINDS and entry.name not in result.left
    ]
    masks = batch.masks_along(source)
    along = network.nodes[node].sequence == source.sequence
    with torch.no_grad():
        value = plan(network, [source.name]).run(inputs, batch=len(batch.indices))[source.name]
    axis = source.length_axes[0] if source.length_axes else value.ndim - 1 if result.kind != "tokens" else 1
    of = [row for _, row in entries]
    for rule in list(usable):
        try:
            traced = trace(network, inputs, [unit for unit, _ in entries], rule, of=of, seed=seed)  # type: ignore[arg-type]
        except SettingsError as error:
            usable.remove(rule)
            result.refused.append(f"Left out: {error}")
            continue
        if rule != "gradient":  # which is the derivative everywhere
            known = result.untreated.setdefault(rule, {})
            known |= {name: kind for name, kind in traced.untreated.items() if kind != "embedding"}
        flows = _by_place(traced.maps * value[of], axis, result.kind)
        contents = _by_place(value[of], axis, result.kind)
        for i, (_, row) in enumerate(entries):
            real = int(masks[0][row].sum()) if masks else flows.shape[-1]
            span = traced.fields[i][1], traced.fields[i][3]
            place = traced.units[i].place or ()
            result.parts.append(
                Attribution(
                    traced.units[i],
                    int(batch.indices[row]),
                    rule,
                    float(traced.values[i]),
                    position_of(network, network.nodes[node], place) if along else None,
                    span if result.kind == "series" and span[1] > span[0] else (0, real),
                    flows[i][..., :real],
                    contents[i][..., :real],
                    source.sequence,
                )
            )


def check_parts(network: Network, kind: str | None = None) -> str:
    """The kind, by default of the first input; raises NotApplicable for one that is none of `KINDS`."""
    kind = network.signature.inputs[0].kind if kind is None else kind
    if kind not in KINDS:
        raise NotApplicable(
            f"{network.name} takes {', '.join(map(str, network.signature.inputs))}; units are brought back to images, "
            "texts, recordings and rows only."
        )
    return kind


def _kind(network: Network, source: Node) -> str:
    """Of what the attributions are: what the flow back ends at, an input or the embedding of tokens."""
    kinds = {name: entry.kind for name, entry in zip(network.signature.names, network.signature.inputs, strict=True)}
    return check_parts(network, kinds.get(source.name, "tokens"))


def _by_place(values: Tensor, axis: int, kind: str) -> Float[np.ndarray, "units *places"]:
    """(units, length) of tokens, summed over the embedding, and of rows; (units, channel, length) of recordings."""
    flat = values.double().movedim(axis, -1).flatten(1, -2) if values.ndim > 2 else values.double()[:, None]
    return (flat if kind == "series" else flat.sum(1)).cpu().numpy()


def _first_column(network: Network, value: Any) -> int:
    """Where the columns of the input with attributions begin in a row."""
    source = next(entry for entry in network.signature.inputs if entry.dtype.is_floating_point).name
    if not isinstance(value, Mapping) or source not in value:
        return 0
    names = list(value)
    return sum(np.asarray(value[name]).size for name in names[: names.index(source)])


def attribution_tables(result: Attributions, samples: Samples) -> dict[str, pl.DataFrame]:
    """`units`: a unit and sample a row; `attributions`: a unit, rule and token (place, column) a row."""
    noun = samples.noun
    word = {"tokens": "token", "series": "channel", "vector": "column"}[result.kind]
    units, rows = {}, []
    for part in result.parts:
        label = samples.classes[int(samples.labels[part.number])] if _has_class(samples) else None
        units[part.unit, part.number] = [str(part.unit), part.number, label, part.activation, part.place]
        for index in np.ndindex(part.values.shape):
            value = float(part.values[index])
            what = index[0] if result.kind == "series" else _piece(result, part, index[0]).strip("; ")
            rows.append([str(part.unit), part.number, index[-1], what, part.rule, value])
    schema: dict[str, Any] = {"unit": pl.String, noun: pl.Int64}
    named = {word: pl.Int64 if result.kind == "series" else pl.String}
    return {
        "units": pl.DataFrame(
            list(units.values()),
            schema=schema | {"label": pl.String, "value": pl.Float64, "position": pl.Int64},
            orient="row",
        ),
        "attributions": pl.DataFrame(
            rows,
            schema=schema | {"position": pl.Int64} | named | {"rule": pl.String, "attribution": pl.Float64},
            orient="row",
        ),
    }


def _has_class(samples: Samples) -> bool:
    return samples.classified and not samples.multilabel


def _piece(result: Attributions, part: Attribution, position: int) -> str:
    """The token at a position, or the column with its value."""
    pieces = result.pieces[part.number, part.sequence]
    at = result.first + position
    return pieces[at] if at < len(pieces) else ""


def passages_of(result: Attributions, pictured: Collection[int], noun: str) -> Texts:
    """Each unit's texts, a line a rule: tokens (or columns) shaded by their attributions."""
    groups: dict[str, tuple[Passage, ...]] = {}
    for part in _distinct(result, pictured):
        name = f"{part.unit} at {part.activation:.3g} on {noun} {part.number}"
        groups[name] = (*groups.get(name, ()), _passage(result, part))
    what = "column" if noun == "row" else "token"
    return Texts(
        groups,
        f"What each {what} adds to some units",
        f"One block per unit, one line per rule; rules that give the same share one. Warm {what}s raise the unit and "
        f"cool ones lower it (gradient x input, "
        f"each line scaled by itself){'' if noun == 'row' else '; the frame is the place of the unit'}.",
        "after Shrikumar et al., 2016",
    )


def _distinct(result: Attributions, pictured: Collection[int]) -> list[Attribution]:
    """The parts on the samples to show; rules that give a unit the same up to a factor are one, named by them all.

    On a network of rectifiers the gradient and the masked flow are the same.
    """
    groups: dict[tuple[Unit, int], list[Attribution]] = {}
    for part in (part for part in result.parts if part.number in pictured):
        known = groups.setdefault((part.unit, part.number), [])
        scaled = part.values / max(float(np.abs(part.values).max(initial=0.0)), 1e-300)
        for i, one in enumerate(known):
            if np.allclose(scaled, one.values / max(float(np.abs(one.values).max(initial=0.0)), 1e-300), 0, 1e-4):
                known[i] = replace(one, rule=f"{one.rule}, {part.rule}")
                break
        else:
            known.append(part)
    return [part for parts in groups.values() for part in parts]


def _passage(result: Attributions, part: Attribution) -> Passage:
    pieces = result.pieces[part.number, part.sequence]
    top = float(np.abs(part.values).max(initial=0.0))
    shades = [0.0] * len(pieces)
    for position, value in enumerate(part.values.tolist()):
        if result.first + position < len(pieces) and top and math.isfinite(value):
            shades[result.first + position] = value / top
    mark = -1 if part.place is None else part.place
    start, end = max(0, mark - _BEFORE), max(mark, 0) + _BEHIND if mark >= 0 else _BEFORE
    return Passage(tuple(pieces[start:end]), tuple(shades[start:end]), mark - start if mark >= 0 else -1, part.rule)


def waveforms(result: Attributions, pictured: Collection[int]) -> Image:
    """Each unit's recording, and below it the attributions of every rule."""
    blocks, panels, last = [], [], None
    for part in _distinct(result, pictured):
        length = part.values.shape[-1]
        if (part.unit, part.number) != last:
            last = part.unit, part.number
            words = f"{part.unit} at {part.activation:.3g} on recording {part.number}"
            at = (part.span[0] + part.span[1] - 1) // 2 if part.place is None else part.place
            line = waveform(part.sample, length, part.span, at, (_HEIGHT, _WIDTH))
            blocks += [caption(words, _WIDTH), line]
            panels.append(Panel(f"{part.unit} {part.number}", (line,), words))
        strip = np.repeat(normalise_maps(_strongest(part.values, _WIDTH)[None])[0][..., None], 3, 2)
        long = resize(np.ascontiguousarray(strip), (_STRIP * len(strip), _WIDTH), smooth=False)
        blocks += [caption(part.rule, _WIDTH, 11), long]
        panels.append(Panel(f"{part.unit} {part.number} {part.rule}", (long,), part.rule))
    return Image(
        below(blocks, 2),
        "What each place of a recording adds to some units",
        "The shaded part of the recording is the unit's field of view, the line its place. Below, one strip per rule "
        "(rules that give the same share one) and one row per channel: light places raise the unit, dark ones lower it "
        "(gradient x input; mid-gray is 0).",
        "after Shrikumar et al., 2016",
        alt="Recordings with the attributions of each rule below them.",
        panels=tuple(panels),
    )


def _strongest(values: Float[np.ndarray, "channel length"], most: int) -> Float[np.ndarray, "channel columns"]:
    """At most so many columns: of the places that share one the largest magnitude, with its sign."""
    parts = np.array_split(np.arange(values.shape[1]), min(most, values.shape[1]))
    rows = np.arange(len(values))
    return np.stack([values[rows, part[0] + np.abs(values[:, part]).argmax(1)] for part in parts], 1)


def attribution_findings(result: Attributions, pictured: Collection[int], noun: str) -> list[Finding]:
    """Where the attributions lie, the strongest of some units, and which rules and inputs have none."""
    sentences = _where(result, noun)
    shown = [part for part in result.parts if part.number in pictured and part.rule == result.parts[0].rule]
    for part in shown[:_NAMED] if result.kind != "series" else ():
        order = np.argsort(-np.abs(part.values), kind="stable")[:3]
        names = [f"'{_piece(result, part, int(i)).strip('; ')}' ({part.values[i]:+.2g})" for i in order]
        text = (
            f"On {noun} {part.number}, {part.unit} (at {part.activation:.3g}) is driven most by {listing(names)}, "
            f"by the rule {part.rule}."
        )
        sentences.append(Finding(text, 1.0))
    silent = list(dict.fromkeys(str(part.unit) for part in result.parts if part.activation <= 0))
    sentences += silent_sentences(silent, noun)
    sentences += untreated_sentences(result.untreated)
    if result.left:
        why = "a unit is traced back to one input alone: the first of real numbers, else the first tokens"
        sentences.append(Finding(f"Without attributions: {listing(result.left)}; {why}.", 0.0))
    return sentences + refusal_sentences(result.refused)


def _where(result: Attributions, noun: str) -> list[Finding]:
    """How much of the attribution lies at the unit's place, before and after it; rules alike in that together."""
    rules: dict[str, list[str]] = {}
    weights_of: dict[str, float] = {}
    for rule in dict.fromkeys(part.rule for part in result.parts):
        parts = [part for part in result.parts if part.rule == rule and part.place is not None]
        lies, numbers = [], []
        for part in parts:
            weights = np.abs(part.values).reshape(-1, part.values.shape[-1]).sum(0)
            if weights.sum() > 0 and part.place is not None:
                weights = weights / weights.sum()
                at = part.place
                lies.append([weights[at : at + 1].sum(), weights[:at].sum(), weights[at + 1 :].sum()])
                numbers.append(part.number)
        means = [Estimate.of(column, np.array(numbers)) for column in np.array(lies).T] if lies else []
        here, before, after = (spell_briefly(mean) if mean else "0.00" for mean in means or (None,) * 3)
        if means:
            sentence = (
                f"{here} of the attribution lies at the unit's own place, {before} before and {after} after it "
                f"(shares of its magnitude, mean over {plural(len(lies), 'unit')} on "
                f"{plural(len(set(numbers)), noun)})."
            )
            rules.setdefault(sentence, []).append(rule)
            weights_of[sentence] = weight_of(means[0])
    return [Finding(f"By {listing(names)}, {sentence}", weights_of[sentence]) for sentence, names in rules.items()]
