"""The figure of Section 3 (a unit a row, a rule a column), how much of the image is in each map, and the sentences."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl
from jaxtyping import Float, UInt8
from scipy import ndimage
from torch import Tensor

from netopsy.engine.backproject.backproject import count_kinds
from netopsy.network.preprocessing import Preprocessing
from netopsy.network.windows.field import Box
from netopsy.pictures.mosaic import NEUTRAL, PAPER, below, beside, caption, draw_frame, map_pictures, pictures, resize
from netopsy.wording import listing, plural


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
    preprocessing: Preprocessing,
) -> Picture:
    """One row a unit: the image with its field of view framed, then each rule's map over a faded image.

    images: (n, channel, height, width). of: each unit's image. maps: rule -> (units, channel, height, width).
    titles: what stands above each row. Where fields are small, each row shows the field alone below.
    """
    size = _column_size(preprocessing.size)
    originals = pictures(images, preprocessing)
    map_sheets = {rule: map_pictures(values, preprocessing, clip=_CLIP) for rule, values in maps.items()}
    head = beside([caption(text, size[1]) for text in ("image", *maps)], 4)
    rows = [head]
    for row, (image, field) in enumerate(zip(of, fields, strict=True)):
        rows.append(caption(titles[row], head.shape[1]))
        squares = [originals[image], *(_over(originals[image], d[row], field) for d in map_sheets.values())]
        zoom = max(1, size[0] // preprocessing.size[0])
        box = tuple(zoom * n for n in field)
        rows.append(beside([draw_frame(resize(p, size, smooth=zoom == 1), box) for p in squares], 4))  # type: ignore[arg-type]
        if max((field[2] - field[0]) / preprocessing.size[0], (field[3] - field[1]) / preprocessing.size[1]) < _CLOSE:
            parts = [originals[image], *(d[row] for d in map_sheets.values())]
            rows.append(beside([_close(part, field, size) for part in parts], 4))
    return below(rows, 4)


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


_FAINT = 0.05  # correlations below are no more than chance gives


def findings(
    tables: dict[str, pl.DataFrame], touched: int, untreated: dict[str, dict[str, str]], refused: list[str]
) -> list[str]:
    """Sentences: whose maps look like the image, what makes two maps alike, and where a rule could not act.

    touched, untreated, refused: as in `Survey`.
    """
    units, columns, likeness = (tables[name] for name in ("units", "columns", "likeness"))
    nodes = units["unit"].str.split(":").list.first().unique(maintain_order=True).to_list()
    sentences = _means(columns, units.height, listing(nodes)) + _masks_or_weights(likeness)
    sentences += _empty(columns)
    if touched:
        sentences.append(f"The flow back met {plural(touched, 'activation')} between the image and {listing(nodes)}.")
    for rule, left in untreated.items():
        if left:
            kinds = count_kinds(left.values())
            sentences.append(f"The rule {rule} does not know {kinds}: there the flow met the derivative.")
    silent = units.filter(pl.col("value") <= 0)["unit"].unique(maintain_order=True).to_list()
    if silent:
        sentences.append(f"Not active on their image, so that their maps say little: {listing(silent)}.")
    return sentences + _refusal_sentences(refused)


def _refusal_sentences(refused: list[str]) -> list[str]:
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
    return sentences


def _means(columns: pl.DataFrame, maps: int, layer: str) -> list[str]:
    """Whether the maps lie on edges, and what brings them there. maps: how many of each rule there are."""
    sentences = []
    units = columns["unit"].n_unique()
    means = columns.group_by("rule", maintain_order=True).agg(
        pl.col("edges", "other_edges").fill_nan(None).mean().fill_null(float("nan"))
    )
    finite = means.filter(pl.col("edges").is_not_nan())
    if finite.height:
        compared = finite["other_edges"].is_not_nan().all()
        parts = [f"{rule} {edge:.2f}" + f" ({other:.2f})" * compared for rule, edge, other in finite.iter_rows()]
        over = (
            f"{plural(units, 'unit')} of {layer}"
            if maps == units
            else f"{plural(maps, 'map')} of {plural(units, 'unit')} of {layer}"
        )
        beside = " (in brackets with the edges of another image)" if compared else ""
        sentences.append(
            f"Do the maps lie on the image's edges? Local correlation, mean over {over}{beside}: "
            f"{listing(parts, most=9)}."
        )
    return sentences + _effects(dict(zip(finite["rule"], finite["edges"], strict=True)))


def _empty(columns: pl.DataFrame) -> list[str]:
    """Rules by which nothing came back at all."""
    largest = columns.group_by("rule", maintain_order=True).agg(pl.col("largest").max())
    rules = largest.filter(pl.col("largest") == 0)["rule"].to_list()
    return [f"Nothing but zeros came back to the images by {listing(rules)}."] if rules else []


def _effects(edges: dict[str, float]) -> list[str]:
    """What the masks add to the learned weights, and the learned weights to the masks."""
    if not {"masked", "deconvnet", "masked_random"} <= edges.keys():
        return []
    masks, weights = (edges["masked"] - edges[other] for other in ("deconvnet", "masked_random"))
    if edges["masked"] < _FAINT:
        how = "here the masked maps do not lie on edges"
    elif edges["masked_random"] < _FAINT:
        how = "the edges come through masks and learned weights together, and not through masks with random weights"
    else:
        how = "the edges come through the masks even with random weights"
    return [
        f"With the learned weights the masks add {masks:+.2f} to that correlation; with the masks the learned weights, "
        f"in place of random ones, add {weights:+.2f}: {how}."
    ]


def _masks_or_weights(likeness: pl.DataFrame) -> list[str]:
    """The paper's claim: the activations, and not so much the parameters, hold what is reconstructed."""
    masks, weights = _pair(likeness, "masked", "masked_random"), _pair(likeness, "masked", "deconvnet")
    if not len(masks) or not len(weights):
        return []
    same_masks, same_weights = (float(pair["correlation"].mean()) for pair in (masks, weights))  # type: ignore[arg-type]
    if same_masks > same_weights + 0.05:
        verdict = "the masks matter more than the weights, as Palmieri et al. say"
    elif same_weights > same_masks + 0.05:
        verdict = "the weights matter more than the masks, unlike what Palmieri et al. say"
    else:
        verdict = "masks and weights matter alike here"
    signed = [float(pair["signed"].mean()) for pair in (masks, weights)]  # type: ignore[arg-type]
    return [
        f"How alike are two maps (correlation of their strengths)? The masked one and the one with the same masks and "
        f"random weights {same_masks:.2f}, the masked one and the one with the same weights and no masks "
        f"{same_weights:.2f}: {verdict}. Pixel for pixel with their signs: {signed[0]:.2f} and {signed[1]:.2f}."
    ]


def _pair(likeness: pl.DataFrame, a: str, b: str) -> pl.DataFrame:
    """Rows that compare rule `a` with rule `b`, where both maps vary."""
    rows = likeness.filter(pl.col("one").is_in([a, b]) & pl.col("other").is_in([a, b]))
    return rows.filter(pl.col("correlation").is_not_nan() & pl.col("signed").is_not_nan())
