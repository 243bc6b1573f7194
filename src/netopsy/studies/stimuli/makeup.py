"""The class make-up of the strongest images, as tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from netopsy.samples.samples import Samples
from netopsy.studies.stimuli.counting import Counted

_DRAWS = 1000

STIMULI: dict[str, Any] = {
    "node": pl.String,
    "layer": pl.String,
    "channel": pl.Int64,
    "rank": pl.Int64,
    "value": pl.Float64,
    "image": pl.Int64,
    "y": pl.Int64,
    "x": pl.Int64,
    "label": pl.Int64,
    "class": pl.String,
}
UNITS: dict[str, Any] = {
    "node": pl.String,
    "layer": pl.String,
    "channel": pl.Int64,
    "value": pl.Float64,
    "stimuli": pl.Int64,
    "class": pl.String,
    "share": pl.Float64,
    "entropy": pl.Float64,
    "selectivity": pl.Float64,
}


def stimuli_table(counted: Counted, samples: Samples) -> pl.DataFrame:
    """One row an entry, strongest first: `STIMULI`; a token's place is in `y`."""
    channel, rank = np.nonzero(counted.stimuli)
    image, place = counted.images[channel, rank], counted.places[channel, rank]
    y, x = (*(np.unravel_index(place, counted.grid) if counted.grid else ()), None, None)[:2]
    labels, names = _labels(samples, image)
    rows = {
        "node": [counted.node] * len(image),
        "layer": [counted.layer] * len(image),
        "channel": channel,
        "rank": rank + 1,
        "value": counted.values[channel, rank].astype(np.float64),
        "image": image,
        "y": [None] * len(image) if y is None else y,
        "x": [None] * len(image) if x is None else x,
        "label": labels,
        "class": names,
    }
    return pl.DataFrame(rows, schema=STIMULI)


def units_table(counted: Counted, samples: Samples) -> pl.DataFrame:
    """One row a unit: `UNITS`; a unit that no image excites has a value and 0 stimuli, and no class."""
    share, entropy, commonest = make_up(counted.images, counted.stimuli, samples)
    n = counted.stimuli.sum(1)
    rows = {
        "node": [counted.node] * len(n),
        "layer": [counted.layer] * len(n),
        "channel": np.arange(len(n)),
        "value": counted.values[:, 0].astype(np.float64),
        "stimuli": n,
        "class": [samples.classes[c] if c >= 0 else None for c in commonest.tolist()],
        "share": share,
        "entropy": entropy,
        "selectivity": counted.selectivity,
    }
    return pl.DataFrame(rows, schema=UNITS).with_columns(
        pl.col("value", "share", "entropy", "selectivity").fill_nan(None)
    )


def make_up(images: np.ndarray, stimuli: np.ndarray, samples: Samples) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Share of each unit's commonest class, entropy of its classes in bits, and that class; all (channel,).

    images, stimuli: (channel, top). Of equally common classes the one of the stronger image counts. NaN and -1 where
    there is no stimulus; where images may have several classes there is no entropy.
    """
    n = stimuli.sum(1)
    known = n > 0
    share, entropy = np.full(len(n), np.nan), np.full(len(n), np.nan)
    commonest = np.full(len(n), -1)
    rows = np.arange(len(n))[known]
    if samples.multilabel:
        for row in rows:
            held = samples.labels[images[row][stimuli[row]]].sum(0)
            share[row], commonest[row] = held.max() / n[row], held.argmax() if held.any() else -1
        return share, entropy, commonest
    labels = np.where(stimuli, samples.labels[images.clip(0)], -1)
    # for every entry, how many of its unit's entries share its class
    alike = ((labels[:, :, None] == labels[:, None, :]) & stimuli[:, None, :]).sum(2) * stimuli
    share[known] = alike.max(1)[known] / n[known]
    commonest[known] = labels[rows, alike.argmax(1)[known]]
    parts = np.where(stimuli, np.log2(np.divide(n[:, None], alike, where=stimuli, out=np.ones(alike.shape))), 0.0)
    entropy[known] = parts.sum(1)[known] / n[known]
    return share, entropy, commonest


def chance(samples: Samples, top: int, seed: int) -> float:
    """The mean share of the commonest class among `top` images drawn at random, over 1,000 draws."""
    generator = np.random.default_rng(seed)
    count = min(top, len(samples))
    images = np.stack([generator.choice(len(samples), count, replace=False) for _ in range(_DRAWS)])
    return float(make_up(images, np.ones_like(images, bool), samples)[0].mean())


def _labels(samples: Samples, images: np.ndarray) -> tuple[Any, list[str]]:
    """The label of each image (none where it may have several) and the name of its class or classes."""
    held = samples.labels[images]
    if samples.multilabel:
        return [None] * len(images), [", ".join(samples.classes[c] for c in np.flatnonzero(row)) for row in held]
    return held.astype(np.int64), [samples.classes[c] for c in held.tolist()]
