"""The tables of the study `maximize`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import polars as pl
import torch
from torch import Tensor

from netopsy.studies.maximize.ascend import Climb
from netopsy.studies.maximize.target import Best, Target

_OTHERS = 8

_RUNS: dict[str, Any] = {
    "unit": pl.String,
    "node": pl.String,
    "channel": pl.Int64,
    "climbed_at": pl.String,
    "way": pl.String,
    "run": pl.Int64,
    "state": pl.String,
    "start": pl.Float64,
    "reached": pl.Float64,
    "strongest": pl.Float64,
    "strongest_image": pl.Int64,
    "ratio": pl.Float64,
    "strongest_here": pl.Float64,
    "ratio_here": pl.Float64,
    "steps": pl.Int64,
    "similarity": pl.Float64,
    "similarity_others": pl.Float64,
    "start_kept": pl.Float64,
    "at_limits": pl.Float64,
}
_STEPS: dict[str, Any] = {
    "unit": pl.String,
    "way": pl.String,
    "run": pl.Int64,
    "step": pl.Int64,
    "value": pl.Float64,
    "share": pl.Float64,
}


def run_table(
    targets: Sequence[Target],
    climbs: Sequence[Climb],
    strongest: Sequence[Best | None],
    steps: int,
    *,
    way: str = "plain",
) -> pl.DataFrame:
    """A row a run of one way.

    climbed_at: the node where the value is taken. state: `risen`, `not risen` (no better than its start),
    `no gradient` (none came to the start, nor later) or `not finite`. start, reached: the value on the first and the
    last picture, in whole pixel values. strongest: the largest value of the channel in the samples, anywhere in its
    map, in image `strongest_image`; strongest_here: at the unit's own place. ratio, ratio_here: reached over these,
    null unless both are above 0. similarity: mean correlation of the picture with those of the unit's other runs.
    similarity_others: with those of other units whose fields are as large, at most 8. start_kept: correlation of the
    picture with its own start. at_limits: share of black and white values.
    """
    rows: list[dict[str, Any]] = []
    for target, climb, best in zip(targets, climbs, strongest, strict=True):
        runs = len(climb.pictures)
        same = [c.pictures for c in climbs if c is not climb and c.pictures.shape == climb.pictures.shape][:_OTHERS]
        alike = correlations(torch.cat([climb.pictures, *same]))
        for run in range(runs):
            reached, start = float(climb.reached[run]), float(climb.start[run])
            limits = (climb.pictures[run] == 0) | (climb.pictures[run] == 255)
            others = [float(alike[run, other]) for other in range(runs) if other != run]
            rows.append(
                {
                    "unit": str(target.unit),
                    "node": target.unit.node,
                    "channel": target.unit.channel,
                    "climbed_at": target.node,
                    "way": way,
                    "run": run,
                    "state": state(start, reached, bool(climb.woken[run])),
                    "start": _finite(start),
                    "reached": _finite(reached),
                    "strongest": None if best is None else best.value,
                    "strongest_image": None if best is None else best.image,
                    "ratio": None if best is None else _ratio(reached, best.value),
                    "strongest_here": None if best is None else _finite(best.here),
                    "ratio_here": None if best is None else _ratio(reached, best.here),
                    "steps": steps,
                    "similarity": _finite(sum(others) / len(others)) if others else None,
                    "similarity_others": _finite(float(alike[run, runs:].mean())) if same else None,
                    "start_kept": _finite(
                        float(correlations(torch.stack([climb.starts[run], climb.pictures[run]]))[0, 1])
                    ),
                    "at_limits": float(limits.float().mean()),
                }
            )
    return pl.DataFrame(rows, schema=_RUNS)


def state(start: float, reached: float, woken: bool) -> str:
    """What became of one run."""
    if not (math.isfinite(start) and math.isfinite(reached)):
        return "not finite"
    if not woken:
        return "no gradient"
    return "risen" if reached > start else "not risen"


def step_table(
    targets: Sequence[Target], climbs: Sequence[Climb], strongest: Sequence[Best | None], *, way: str = "plain"
) -> pl.DataFrame:
    """A row a run of one way and step: the value before the step (on the moved image, where images are moved).

    share: the value over the strongest in the samples, or, where there is none above 0, over the best of the unit's
    runs; null where that is not above 0 either.
    """
    parts = [pl.DataFrame(schema=_STEPS)]
    for target, climb, best in zip(targets, climbs, strongest, strict=True):
        runs, steps = climb.curve.shape
        values = climb.curve.double().flatten()
        scale = best.value if best is not None and best.value > 0 else float(climb.reached.max())
        frame = pl.DataFrame(
            {
                "unit": [str(target.unit)] * (runs * steps),
                "way": [way] * (runs * steps),
                "run": torch.arange(runs).repeat_interleave(steps).numpy(),
                "step": torch.arange(steps).repeat(runs).numpy(),
                "value": values.numpy(),
            }
        )
        share = pl.col("value") / scale if scale > 0 and math.isfinite(scale) else pl.lit(None, dtype=pl.Float64)
        parts.append(
            frame.with_columns(share.alias("share")).select(pl.col(name).cast(kind) for name, kind in _STEPS.items())
        )
    return pl.concat(parts).with_columns(pl.col("value", "share").fill_nan(None))


def correlations(pictures: Tensor) -> Tensor:
    """Pearson correlation of every two pictures over all their values, (n, n); NaN for a constant picture."""
    flat = pictures.flatten(1).double()
    flat = flat - flat.mean(1, keepdim=True)
    norms = flat.norm(dim=1)
    return flat @ flat.T / (norms[:, None] * norms)


def _ratio(reached: float, strongest: float) -> float | None:
    return _finite(reached / strongest) if strongest > 0 and reached > 0 else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
