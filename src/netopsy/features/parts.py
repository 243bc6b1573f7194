"""One set of labelled things parted into a training and a test set."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64

from netopsy.errors import SamplesError, SettingsError
from netopsy.samples.samples import Samples
from netopsy.samples.strata import Labels, strata, stratified

Rows = Int64[np.ndarray, " rows"]


def part_rows(labels: Labels, test_share: float, seed: int, name: str, classes: tuple[str, ...]) -> tuple[Rows, Rows]:
    """Rows to train on and rows to test on, both rising: each class in both, its share of the test near `test_share`.

    labels: (n,) or (n, classes), where a row counts for its rarest label. The same seed parts alike.
    Raises SettingsError for a share or seed out of range, SamplesError for a class of a single row.
    """
    if isinstance(test_share, bool) or not isinstance(test_share, int | float) or not 0 < test_share < 1:
        raise SettingsError(f"test_share {test_share!r} must be above 0 and below 1: the share that is tested on.")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise SettingsError(f"seed {seed!r} cannot seed a draw; give a whole number from 0.")
    kinds, member, sizes = np.unique(strata(labels), return_inverse=True, return_counts=True)
    if labels.ndim == 1 and len(sizes) and sizes.min() < 2:
        raise SamplesError(
            f"class '{classes[kinds[sizes.argmin()]]}' of {name} has a single item, too few to part into "
            "training and test; give two or more of each class, or both parts."
        )
    count = min(max(1, round(test_share * len(labels))), len(labels) - 1)
    if count < 1:
        raise SamplesError(f"{name} has {len(labels)} items, too few to part into training and test; give more.")
    tested = np.zeros(len(labels), bool)
    tested[stratified(labels, count, seed)] = True
    lot = np.random.default_rng(seed)
    for stratum in np.flatnonzero(sizes > 1):  # a small class that rounding left out of one part
        rows = np.flatnonzero(member == stratum)
        inside = tested[rows].sum()
        if inside in (0, len(rows)):
            tested[lot.choice(rows)] = inside == 0
    return np.flatnonzero(~tested), np.flatnonzero(tested)


def part_samples(samples: Samples, test_share: float, seed: int) -> tuple[Samples, Samples]:
    """`samples` parted into a training and a test set, as `part_rows` does."""
    train, test = part_rows(samples.labels, test_share, seed, samples.name, samples.classes)
    return (
        samples.select(train, f"{samples.name}, {len(train):,} to train on (seed {seed})"),
        samples.select(test, f"{samples.name}, {len(test):,} to test on (seed {seed})"),
    )
