"""Images to choose on and images to report on; of the former, some to learn from and some to probe with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from netopsy.samples.samples import Samples
from netopsy.samples.strata import stratified

LEARNT = 512
"""Images whose inputs the rounding sees, at most."""


@dataclass(frozen=True)
class Parts:
    """choosing, reporting: the two halves. learning, probing: two parts of the choosing half that do not overlap."""

    choosing: Samples
    reporting: Samples
    learning: Samples
    probing: Samples


def part(samples: Samples, probes: int, seed: int) -> Parts:
    """Halves of at least two samples, stratified by class; of the choosing half up to `probes`, at most half, probe.

    With fewer than four images to choose on, both parts of the choosing half are all of it.
    """
    rows = stratified(samples.labels, len(samples) // 2, seed)
    rest = np.setdiff1d(np.arange(len(samples)), rows)
    choosing = samples.select(rows, f"{samples.name}, {len(rows):,} to choose on (seed {seed})")
    reporting = samples.select(rest, f"{samples.name}, {len(rest):,} to report on (seed {seed})")
    if len(choosing) < 4:
        return Parts(choosing, reporting, choosing, choosing)
    probed = stratified(choosing.labels, min(probes, len(choosing) // 2), seed + 1)
    others = np.random.default_rng(seed).permutation(np.setdiff1d(np.arange(len(choosing)), probed))
    learnt = np.sort(others[:LEARNT])
    return Parts(
        choosing,
        reporting,
        choosing.select(learnt, f"{samples.name}, {len(learnt):,} to learn on (seed {seed})"),
        choosing.select(probed, f"{samples.name}, {len(probed):,} to probe with (seed {seed})"),
    )
