"""Masks or weights: each is replaced while the other stays, in several ways, at several depths, in many draws."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from netopsy.engine.backproject.backproject import Trace, trace
from netopsy.engine.backproject.rules import MASKED, Rule, gaussian_like, permuted_like, random_weights
from netopsy.engine.workspace.workspace import conditions, current_workspace
from netopsy.errors import SettingsError
from netopsy.network.activations import activations
from netopsy.network.network import Network
from netopsy.network.units import Unit, places
from netopsy.result import Finding
from netopsy.samples.samples import Samples, read_images
from netopsy.settings import stream
from netopsy.stats.hypothesis_tests import INTERVALS, Estimate, interval_row
from netopsy.studies.reconstruct.report import (
    FAINT,
    correlation,
    edges,
    inside,
    on_edges,
    spell_briefly,
    strength,
    weigh,
    weight_of,
)
from netopsy.wording import listing, plural

MASKS = ("own", "other", "shuffled")
"""The masks and switches that the flow meets: the image's, another image's, the image's with their places shuffled."""

WEIGHTS = ("learned", "permuted", "gaussian")
"""The weights: the network's; the same in another order within each tensor; Gaussian of its mean and variance."""

MEASURES = ("likeness", "signed", "edges", "other_edges")
"""Against the map with neither replaced: correlation of strengths, of signed pixels; on the edges of the image, and of
the draw's other image, which lends its masks where these are `other`."""

_IMAGES = 32  # traced at a time
_NEITHER = MASKS[0], WEIGHTS[0]  # is replaced
_LAWS = {"permuted": permuted_like, "gaussian": gaussian_like}


@dataclass
class Depth:
    """What was measured at one layer.

    units, images: of each map. values: float64 (map, masks, weights, draw, measure), in the order of `MASKS`, `WEIGHTS`
    and `MEASURES`; NaN where a map is constant, and beyond draw 0 where nothing is replaced. refused: why the layer was
    left out, if it was.
    """

    layer: str
    units: list[str] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    parts: list[Float[np.ndarray, "maps masks weights draws measures"]] = field(default_factory=list)
    refused: str = ""

    def cell(self, masks: str, weights: str, measure: str) -> Float[np.ndarray, "maps draws"]:
        """One measure of the maps with these masks and weights; a single column where neither is replaced."""
        values = np.concatenate(self.parts)[:, MASKS.index(masks), WEIGHTS.index(weights), :, MEASURES.index(measure)]
        return values[:, :1] if (masks, weights) == _NEITHER else values

    def lead(self, masks: str, weights: str, measure: str) -> Float[np.ndarray, "maps draws"]:
        """What the own masks with other `weights` leave of a measure, less what the own weights with `masks` do."""
        return self.cell("own", weights, measure) - self.cell(masks, "learned", measure)


Summary = tuple[Float[np.ndarray, " maps"], Int[np.ndarray, " maps"], list[float] | None]


def over_both(depth: Depth, values: Float[np.ndarray, "maps draws"], *, drawn: bool = True) -> Summary:
    """(each map's mean over the draws, its image, each draw's mean over the maps), as `Estimate.of` takes them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of maps that are constant in every draw
        maps, draws = np.nanmean(values, 1), np.nanmean(values, 0).tolist()
    return maps, np.array(depth.images), draws if drawn else None


def exchange_tables(depths: Sequence[Depth]) -> dict[str, pl.DataFrame]:
    """`exchange`: a map and draw a row; `exchange_means`: masks, weights and a measure a row; `exchange_leads`."""
    rows, means, leads = [], [], []
    for depth in depths:
        for masks, weights in product(MASKS, WEIGHTS) if depth.parts else ():
            measured = [depth.cell(masks, weights, measure) for measure in MEASURES]
            drawn = (masks, weights) != _NEITHER
            head = {"layer": depth.layer, "masks": masks, "weights": weights}
            for i, draw in np.ndindex(measured[0].shape):
                figures = dict(zip(MEASURES, (float(values[i, draw]) for values in measured), strict=True))
                of = {"unit": depth.units[i], "image": depth.images[i], "draw": draw if drawn else None}
                rows.append(head | of | figures)
            for measure, values in zip(MEASURES, measured, strict=True):
                means.append(head | {"measure": measure} | interval_row(*over_both(depth, values, drawn=drawn)))
            for measure in MEASURES[:3] if masks != MASKS[0] and weights != WEIGHTS[0] else ():
                lead = interval_row(*over_both(depth, depth.lead(masks, weights, measure)), limit=2.0)
                leads.append(head | {"measure": measure} | lead)
    words = dict.fromkeys(("layer", "masks", "weights"), pl.String)
    numbers = {"unit": pl.String, "image": pl.Int64, "draw": pl.Int64, **dict.fromkeys(MEASURES, pl.Float64)}
    return {
        "exchange": pl.DataFrame(rows, schema={**words, **numbers}),
        "exchange_means": pl.DataFrame(means, schema={**words, "measure": pl.String, **INTERVALS}),
        "exchange_leads": pl.DataFrame(leads, schema={**words, "measure": pl.String, **INTERVALS}),
    }


_OTHERS = {"other": "another image's masks", "shuffled": "shuffled masks"}
_RANDOM = {"permuted": "permuted weights", "gaussian": "Gaussian weights"}
_VERDICTS = (
    "the masks matter more than the weights",
    "the weights matter more than the masks",
    "masks and weights matter alike",
)
_PAIRS = list(product(_OTHERS, _RANDOM))


def exchange_findings(depths: Sequence[Depth]) -> list[Finding]:
    """At each layer what is left of the masked map with either replaced, and where the edges come from."""
    sentences: list[Finding] = []
    for depth in depths:
        if depth.refused:
            sentences.append(Finding(f"Left out of the exchange of masks and weights: {depth.refused}", 0.0))
        elif depth.parts:
            sentences += [*_left(depth), *_edges(depth)]
    return sentences


def _left(depth: Depth) -> list[Finding]:
    """Which replacement leaves less of the masked maps, with what either leaves of them."""
    leads: dict[tuple[str, str], Estimate | None] = {}
    verdicts: dict[str, list[str]] = {}
    for at in _PAIRS:
        lead = leads[at] = Estimate.of(*over_both(depth, depth.lead(*at, "likeness")))
        words = (weigh(lead, *_VERDICTS) if lead else "") or f"which matters more cannot be told from {_counts(depth)}"
        verdicts.setdefault(words, []).append(f"{_OTHERS[at[0]]} against {_RANDOM[at[1]]}")
    if not any(leads.values()):
        return []
    if len(verdicts) > 1:
        parts = [f"{words} ({listing(pairs)})" for words, pairs in verdicts.items()]
        return [Finding(f"At {depth.layer} it depends on what stands in: {'; '.join(parts)}.", 1.0)]
    (verdict,) = verdicts
    text = (
        f"At {depth.layer}, {verdict}: with {_RANDOM['permuted']} the strength of the maps still correlates by "
        f"{_spell(_mean(depth, 'own', 'permuted', 'likeness'))} with the original, with {_OTHERS['other']} by "
        f"{_spell(_mean(depth, 'other', 'learned', 'likeness'))}."
    )
    return [Finding(text, min(map(weight_of, leads.values())))]


def _edges(depth: Depth) -> list[Finding]:
    """Where the edges of the image come from."""
    whole = _mean(depth, *_NEITHER, "edges")
    leads = [lead for at in _PAIRS if (lead := Estimate.of(*over_both(depth, depth.lead(*at, "edges"))))]
    by_masks = [mean for weights in _RANDOM if (mean := _mean(depth, "own", weights, "edges"))]
    by_weights = [mean for masks in _OTHERS if (mean := _mean(depth, masks, "learned", "edges"))]
    if whole is None or len(leads) < len(_PAIRS):
        return []
    if whole.below(FAINT):
        how = "the masked maps do not lie on edges"
    elif not whole.above(0):
        how = f"whether the masked maps lie on edges cannot be told from {_counts(depth)}"
    elif all(mean.below(FAINT) for mean in by_masks + by_weights):
        how = "neither alone brings the edges back"
    elif all(lead.above(0) for lead in leads) and all(mean.above(0) for mean in by_masks):
        how = "the edges go with the masks"
    elif all(lead.below(0) for lead in leads) and all(mean.above(0) for mean in by_weights):
        how = "the edges go with the weights"
    else:
        how = f"whether the edges go with masks or weights cannot be told from {_counts(depth)}"
    text = (
        f"At {depth.layer}, {how}: the alignment with image edges is {_spell(whole)}, with {_RANDOM['permuted']} "
        f"{_spell(_mean(depth, 'own', 'permuted', 'edges'))}, with {_OTHERS['other']} "
        f"{_spell(_mean(depth, 'other', 'learned', 'edges'))}."
    )
    return [Finding(text, min(weight_of(whole), *map(weight_of, leads)))]


def _mean(depth: Depth, masks: str, weights: str, measure: str) -> Estimate | None:
    drawn = (masks, weights) != _NEITHER
    return Estimate.of(*over_both(depth, depth.cell(masks, weights, measure), drawn=drawn))


def _spell(mean: Estimate | None) -> str:
    return spell_briefly(mean) if mean else "nothing"


def _counts(depth: Depth) -> str:
    draws = depth.parts[0].shape[3]
    return f"{plural(len(set(depth.images)), 'image')} and {plural(draws, 'draw')}"


def spread_layers(network: Network, last: str, count: int) -> list[str]:
    """`count` rectifying maps at even distances up to `last`, which is one of them; fewer where there are fewer.

    The first one is left out: between it and the image there are no masks.
    """
    names = list(network.nodes)
    before = [
        name
        for name, node in activations(network).items()
        if MASKED.treats(node) and max(places(node), default=1) > 1 and names.index(name) < names.index(last)
    ]
    candidates = [*before[1:], last]
    steps = [round((i + 1) * len(candidates) / count) - 1 for i in range(count)]
    return [candidates[i] for i in dict.fromkeys(max(0, step) for step in steps)]


def exchange(
    network: Network,
    samples: Samples,
    numbers: Sequence[int],
    units_at: Mapping[str, Callable[[Tensor], list[Unit]]],
    *,
    draws: int,
    rectify: bool,
    seed: int,
) -> list[Depth]:
    """Maps of Equations 6-7 with masks and weights replaced, measured against the map with neither, at each layer.

    numbers: of the images. units_at: by layer, the units to trace, given one image. rectify: measure maps without
    their negative part.

    A draw is another image of `samples` for each image, a shuffling for each unit, and new weights; all masks of a draw
    meet the same weights. A map of zeros has likeness 0. Resumes after the last draw that was finished.
    """
    place, depths = current_workspace(), {layer: Depth(layer) for layer in units_at}
    parts = [list(numbers[first : first + _IMAGES]) for first in range(0, len(numbers), _IMAGES)]
    spec = {"layers": list(units_at), "images": list(numbers), "draws": draws, "rectify": rectify, "seed": seed}
    saved = place.checkpoint("exchange", spec | conditions(network, samples) if place.folder else {})
    done, state = saved.load()
    total = len(parts) * draws
    for number, some in enumerate(parts):
        images = read_images(network, samples, some)
        stages = _stages(network, images, some, units_at, depths, draws, rectify)
        for stage in stages:
            kept = state.setdefault(f"{number} {stage.depth.layer}", torch.from_numpy(stage.values))
            stage.values = kept.numpy()
        for step in range(max(done, number * draws), (number + 1) * draws):
            draw = step - number * draws
            place.report("masks or weights", step, total)
            others = _other_images(len(samples), some, stream("another image", seed, draw))
            both = torch.cat([images, read_images(network, samples, others)])
            outlines = [edges(image) for image in both.cpu().numpy()]
            for weights in WEIGHTS:
                rule = _with_weights(network, weights, seed, draw)
                for stage in stages:
                    stage.measure(network, both, outlines, rule, weights, draw, seed)
            saved.save(step + 1, lambda: state, final=step + 1 == total)
        for stage in stages:
            stage.depth.units += [str(unit) for unit in stage.reference.units]
            stage.depth.images += stage.numbers
            stage.depth.parts.append(stage.values)
    place.report("masks or weights", total, total)
    return list(depths.values())


def _with_weights(network: Network, weights: str, seed: int, draw: int) -> Rule:
    """The rule `masked` with these weights, which are made once for all that it is used on."""
    if weights == "learned":
        return MASKED
    values = random_weights(MASKED, seed, draw, _LAWS[weights]).weights(network)
    return replace(MASKED, weights=lambda _: values)


def _other_images(count: int, numbers: Sequence[int], seed: int) -> list[int]:
    """For each image the number of another one of `count`."""
    steps = np.random.default_rng(seed).integers(1, count, len(numbers))
    return [(number + int(step)) % count for number, step in zip(numbers, steps, strict=True)]


@dataclass
class _Stage:
    """The units of one layer on some images. of, numbers: each unit's image, as a row of them and in the samples."""

    depth: Depth
    of: list[int]
    numbers: list[int]
    reference: Trace
    rectify: bool
    values: Float[np.ndarray, "maps masks weights draws measures"]

    def map_of(self, traced: Trace, i: int) -> Float[np.ndarray, "channel height width"]:
        """The map of unit `i` as it is measured."""
        crop = traced.crops[i].clamp(min=0) if self.rectify else traced.crops[i]
        return crop.cpu().numpy()

    def measure(
        self,
        network: Network,
        images: Tensor,
        outlines: Sequence[Float[np.ndarray, "height width"]],
        rule: Rule,
        weights: str,
        draw: int,
        seed: int,
    ) -> None:
        """Fill in one draw of `weights` with all masks. images, outlines: the own ones, then another for each."""
        others = [len(images) // 2 + i for i in self.of]
        units = self.reference.units
        shuffle = [stream(f"{unit} {number}", seed, draw) for unit, number in zip(units, self.numbers, strict=True)]
        ways: dict[str, dict[str, Any]] = {"own": {}, "other": {"masks_of": others}, "shuffled": {"shuffle": shuffle}}
        for masks, replaced in ways.items():
            if masks == "own" and weights == "learned" and draw:
                continue  # nothing is replaced
            traced = trace(network, images, units, rule, of=self.of, **replaced)
            for i, box in enumerate(traced.fields):
                map_, whole = self.map_of(traced, i), self.map_of(self.reference, i)
                length, empty = strength(map_), whole.any() and not map_.any()
                self.values[i, MASKS.index(masks), WEIGHTS.index(weights), draw] = (
                    0.0 if empty else correlation(length, strength(whole)),
                    0.0 if empty else correlation(map_, whole),
                    on_edges(length, inside(outlines[self.of[i]], box)),
                    on_edges(length, inside(outlines[others[i]], box)),
                )


def _stages(
    network: Network,
    images: Tensor,
    numbers: Sequence[int],
    units_at: Mapping[str, Callable[[Tensor], list[Unit]]],
    depths: Mapping[str, Depth],
    draws: int,
    rectify: bool,
) -> list[_Stage]:
    """The layers at which masks can be replaced; of the others `depths` learns why not."""
    stages = []
    for layer, units_on in units_at.items():
        if depths[layer].refused:
            continue
        chosen = [units_on(image) for image in images]
        units = [unit for some in chosen for unit in some]
        of = [i for i, some in enumerate(chosen) for _ in some]
        try:
            reference = trace(network, images, units, MASKED, of=of)
            trace(network, images, units, MASKED, of=of, shuffle=[0] * len(units))
        except SettingsError as error:
            depths[layer].refused = str(error)
            continue
        values = np.full((len(of), len(MASKS), len(WEIGHTS), draws, len(MEASURES)), np.nan)
        stages.append(_Stage(depths[layer], of, [numbers[i] for i in of], reference, rectify, values))
    return stages
