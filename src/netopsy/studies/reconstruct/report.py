"""How much of the image is in each map, the means with their intervals, and the sentences."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import polars as pl
from jaxtyping import Float, Int
from scipy import ndimage

from netopsy.engine.backproject.backproject import count_kinds
from netopsy.network.windows.field import Box
from netopsy.result import Finding
from netopsy.stats.hypothesis_tests import INTERVALS, Estimate, interval_row, reach
from netopsy.wording import capital, listing, plural, two


def edges(image: Float[np.ndarray, "channel height width"]) -> Float[np.ndarray, "height width"]:
    """Magnitude of the gradient of the channels' mean, after a Gaussian blur of one pixel."""
    return ndimage.gaussian_gradient_magnitude(image.mean(0), 1.0)


def strength(map_: Float[np.ndarray, "channel height width"]) -> Float[np.ndarray, "height width"]:
    """How much of the map lies at each pixel: the Euclidean length over the channels, blurred as the edges are."""
    return ndimage.gaussian_filter(np.sqrt((map_.astype(np.float64) ** 2).sum(0)), 1.0)


def on_edges(length: Float[np.ndarray, "height width"], outline: Float[np.ndarray, "height width"]) -> float:
    """Whether the map, where it lies, lies on the image's edges: -1 to 1; NaN where one of the two is constant.

    Both are divided by their own local mean (Gaussian, a sixteenth of the field wide), so that it does not count in
    which region the map lies, and correlated with that region as the weight.
    """
    sigma = max(2.0, max(length.shape) / 16)
    near, around = (ndimage.gaussian_filter(v, sigma) for v in (length, outline))
    weight = near * (around > 1e-6 * around.max(initial=0)) * (near > 1e-3 * near.max(initial=0))
    ratios = [np.divide(v, m, out=np.zeros_like(m), where=weight > 0) for v, m in ((length, near), (outline, around))]
    return correlation(ratios[0], ratios[1], weight)


def correlation(
    a: Float[np.ndarray, "*shape"], b: Float[np.ndarray, "*shape"], weight: Float[np.ndarray, "*shape"] | None = None
) -> float:
    """Pearson's correlation of two arrays, weighted; NaN where one is constant."""
    w = np.ones(a.size) if weight is None else weight.astype(np.float64).ravel()
    if not w.sum() > 0:
        return float("nan")
    a, b = (v.astype(np.float64).ravel() - np.average(v.ravel(), weights=w) for v in (a, b))
    scale = np.sqrt((w * a**2).sum() * (w * b**2).sum())
    return float((w * a * b).sum() / scale) if scale > 0 else float("nan")


def inside(values: Float[np.ndarray, "*rest height width"], box: Box) -> Float[np.ndarray, "*rest h w"]:
    """The part of a map or image within (top, left, bottom, right)."""
    top, left, bottom, right = box
    return values[..., top:bottom, left:right]


FAINT = 0.05  # correlations below are no more than chance gives
_ALIKE = 0.05  # likenesses nearer than this count as alike
RANDOM = "masked_random"


def spell(mean: Estimate) -> str:
    """`0.31 ± 0.04 over images, ± 0.08 over draws`, as far as there are intervals."""
    halves = (("images", mean.images), ("draws", mean.draws))
    parts = [f"± {two(half)} over {over}" for over, half in halves if math.isfinite(half) and half > 0]
    return " ".join([two(mean.mean), ", ".join(parts)]).rstrip()


def spell_briefly(mean: Estimate) -> str:
    """`0.31 (± 0.04, ± 0.08)`: the intervals over images and over draws, as far as there are any."""
    parts = [f"± {two(half)}" for half in (mean.images, mean.draws) if math.isfinite(half) and half > 0]
    return two(mean.mean) + (f" ({', '.join(parts)})" if parts else "")


def means_table(columns: pl.DataFrame, likeness: pl.DataFrame, draws: pl.DataFrame) -> pl.DataFrame:
    """Each rule's mean of each measure, with the intervals over images and over draws and the spread over both.

    columns, likeness, draws: the study's tables. measure: `edges`, and against the map of `masked` its `likeness` and
    `signed` correlation. spread_maps, spread_draws: standard deviations over the single maps and the single draws.
    """
    rows = []
    for rule in columns["rule"].unique(maintain_order=True):
        drawn = draws if rule == RANDOM else None
        measured = [("edges", columns.filter(pl.col("rule") == rule), "edges")]
        pair = _pair(likeness, "masked", rule) if rule != "masked" else likeness.clear()
        measured += [(name, pair, column) for name, column in (("likeness", "correlation"), ("signed", "signed"))]
        for measure, maps, column in measured:
            single = None if drawn is None else drawn[measure].fill_null(math.nan).to_list()
            figures = interval_row(maps[column].to_numpy(), maps["image"].to_numpy(), single)
            if figures:
                rows.append({"rule": rule, "measure": measure} | figures)
    return pl.DataFrame(rows, schema={"rule": pl.String, "measure": pl.String, **INTERVALS})


def findings(
    tables: dict[str, pl.DataFrame], touched: int, untreated: dict[str, dict[str, str]], refused: list[str]
) -> list[Finding]:
    """Sentences: whose maps look like the image, what makes two maps alike, and where a rule could not act.

    touched, untreated, refused: as in `Survey`.
    """
    units, columns, likeness, draws = (tables[name] for name in ("units", "columns", "likeness", "draws"))
    nodes = units["unit"].str.split(":").list.first().unique(maintain_order=True).to_list()
    sentences = _on_edges(columns, draws, units.height, listing(nodes)) + _masks_or_weights(likeness, draws)
    sentences += _empty(columns)
    if touched:
        verb = "lies" if touched == 1 else "lie"
        text = f"{plural(touched, 'activation layer')} {verb} between the image and {listing(nodes)}."
        sentences.append(Finding(text, 0.0))
    sentences += untreated_sentences(untreated)
    silent = units.filter(pl.col("value") <= 0)["unit"].unique(maintain_order=True).to_list()
    return sentences + silent_sentences(silent, "image") + refusal_sentences(refused)


def silent_sentences(units: Sequence[str], noun: str) -> list[Finding]:
    """Names the units that do not fire on the samples that they are traced back to."""
    text = f"Not active on their {noun}, so their maps say little: {listing(units)}."
    return [Finding(text, 0.0)] if units else []


def untreated_sentences(untreated: dict[str, dict[str, str]]) -> list[Finding]:
    """By rule, what it does not know on the way. untreated: as in `Survey`."""
    rules: dict[str, list[str]] = {}
    for rule, left in untreated.items():
        if left:
            rules.setdefault(count_kinds(left.values()), []).append(rule)
    sentences = []
    for kinds, names in rules.items():
        one = len(names) == 1
        who = f"The rule {names[0]} does" if one else f"The rules {listing(names)} do"
        sentences.append(f"{who} not know {kinds} and {'takes' if one else 'take'} the plain derivative there.")
    return [Finding(sentence, 0.0) for sentence in sentences]


def refusal_sentences(refused: list[str]) -> list[Finding]:
    """The sentences on rules that could not act; those of one reason as one."""
    by_reason: dict[str, list[str]] = {}
    for sentence in refused:
        words = re.fullmatch(r"Left out: the rule '(\w+)' acts (.*)", sentence)
        by_reason.setdefault(words[2] if words else sentence, []).append(words[1] if words else "")
    sentences = []
    for reason, rules in by_reason.items():
        if rules == [""]:
            sentences.append(reason)
        elif len(rules) == 1:
            sentences.append(f"Left out: the rule {rules[0]} acts {reason}")
        else:
            reason = reason.replace("which it does not know", "which they do not know")
            sentences.append(f"Left out: the rules {listing(rules)} act {reason}")
    return [Finding(sentence, 0.0) for sentence in sentences]


def weight_of(mean: Estimate | None) -> float:
    """Over the wider of its intervals; 0 without one."""
    if mean is None:
        return 0.0
    half = max(mean.images, mean.draws)
    return min(5.0, abs(mean.mean) / half) if half > 0 else 0.5


def _on_edges(columns: pl.DataFrame, draws: pl.DataFrame, maps: int, layer: str) -> list[Finding]:
    """How well the maps align with edges, and what brings them there. maps: how many of each rule there are."""
    edges, others = {}, {}
    for (rule,), rows in columns.group_by("rule", maintain_order=True):
        edge = Estimate.of(rows["edges"].to_numpy(), rows["image"].to_numpy())
        if edge is not None:
            other = rows["other_edges"].to_numpy()
            edges[str(rule)], others[str(rule)] = edge, other[np.isfinite(other)]
    sentences = []
    if edges:
        best, least = (choose(edges, key=lambda rule: edges[rule].mean) for choose in (max, min))
        text = (
            f"The maps of {layer} align with image edges by {spell_briefly(edges[best])} ({best})"
            + (f" to {spell_briefly(edges[least])} ({least})" if least != best else "")
            + ", as a local correlation"
            + (f"; with another image's edges by {two(others[best].mean())}" if len(others[best]) else "")
            + f": mean over {plural(maps, 'map')}."
        )
        sentences.append(Finding(text, max(map(weight_of, edges.values()))))
    single = [edge for edge in draws["edges"].to_list() if edge is not None and math.isfinite(edge)]
    if len(single) > 1:
        within = f" ± {reach(single):.2f} (95 %)" * math.isfinite(reach(single))
        text = (
            f"masked_random averages {two(np.mean(single))}{within} over {len(single)} draws of its weights, single "
            f"draws between {two(min(single))} and {two(max(single))}."
        )
        sentences.append(Finding(text, 0.5))
    return sentences + _effects(columns, draws)


def _empty(columns: pl.DataFrame) -> list[Finding]:
    """Rules by which nothing came back at all."""
    largest = columns.group_by("rule", maintain_order=True).agg(pl.col("largest").max())
    rules = largest.filter(pl.col("largest") == 0)["rule"].to_list()
    return [Finding(f"The maps are all zero by {listing(rules)}.", 2.0)] if rules else []


def _effects(columns: pl.DataFrame, draws: pl.DataFrame) -> list[Finding]:
    """What the masks add to the learned weights, and the learned weights to the masks."""
    rows = {rule: columns.filter(pl.col("rule") == rule) for rule in ("masked", "deconvnet", RANDOM)}
    edges = {rule: frame["edges"].to_numpy() for rule, frame in rows.items()}
    if not all(map(len, edges.values())):
        return []
    images, single = rows["masked"]["image"].to_numpy(), draws["edges"].to_list()
    masked, drawn = Estimate.of(edges["masked"], images), Estimate.of(edges[RANDOM], images, single)
    masks = Estimate.of(edges["masked"] - edges["deconvnet"], images)
    # the masked maps are the same in every draw: the difference varies as the random ones do
    weights = Estimate.of(edges["masked"] - edges[RANDOM], images, single)
    if masked is None or drawn is None or masks is None or weights is None:
        return []
    if masked.below(FAINT):
        how = "the masked maps do not lie on edges"
    elif masked.above(0) and drawn.below(FAINT):
        how = "the edges come through masks and learned weights together, not through masks with random weights"
    elif masked.above(0) and drawn.above(0):
        how = "the edges come through the masks even with random weights"
    else:
        how = f"whether the masks suffice for the edges cannot be told from {_counts(images, single)}"
    text = (
        f"{capital(how)}: to the alignment the masks add {spell_briefly(masks)}, learned weights in place of "
        f"random ones {spell_briefly(weights)}."
    )
    return [Finding(text, max(weight_of(masks), weight_of(weights)))]


def _masks_or_weights(likeness: pl.DataFrame, draws: pl.DataFrame) -> list[Finding]:
    """What random weights change and what leaving the masks out does: no even comparison, which `exchange` makes."""
    masks, weights = _pair(likeness, "masked", RANDOM), _pair(likeness, "masked", "deconvnet")
    images, single = masks["image"].to_numpy(), draws["likeness"].to_list()
    if masks.height != weights.height:
        return []
    same_masks = Estimate.of(masks["correlation"].to_numpy(), images, single)
    same_weights = Estimate.of(weights["correlation"].to_numpy(), images)
    lead = Estimate.of(masks["correlation"].to_numpy() - weights["correlation"].to_numpy(), images, single)
    if same_masks is None or same_weights is None or lead is None:
        return []
    verdict = weigh(
        lead,
        "leaving the masks out changes the maps more than random weights do",
        "random weights change the maps more than leaving the masks out does",
        "random weights and leaving the masks out change the maps alike",
    )
    verdict = verdict or f"which changes the maps more cannot be told from {_counts(images, single)}"
    text = (
        f"{capital(verdict)}: the masked maps correlate by {spell_briefly(same_masks)} with those of random weights, "
        f"by {spell_briefly(same_weights)} with those without masks. An even comparison: `--experiment 3`."
    )
    return [Finding(text, weight_of(lead))]


def weigh(lead: Estimate, positive: str, negative: str, alike: str) -> str:
    """Which of the three the difference of two likenesses allows; empty where one of its intervals leaves it open."""
    if lead.above(-_ALIKE) and lead.below(_ALIKE):
        return alike
    if lead.above(0):
        return positive
    return negative if lead.below(0) else ""


def _counts(images: Int[np.ndarray, " maps"], draws: Sequence[object]) -> str:
    return f"{plural(len(np.unique(images)), 'image')} and {plural(len(draws), 'draw')} of the random weights"


def _pair(likeness: pl.DataFrame, a: str, b: str) -> pl.DataFrame:
    """Rows that compare rule `a` with rule `b`."""
    return likeness.filter(pl.col("one").is_in([a, b]) & pl.col("other").is_in([a, b]))
