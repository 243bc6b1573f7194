"""The sentences of the study `dsd`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from netopsy.studies.dsd.branches import DSD, PRUNED, RESTORED, SPARSE
from netopsy.wording import plural, points

_SAID = {"phases": "the same phases and rates without masks", "single": "one schedule over all of them"}


def findings(
    tables: Mapping[str, pl.DataFrame],
    shares: Mapping[str, float],
    layers: int,
    baseline: str,
    start: str,
    images: int,
    where: str,
) -> list[str]:
    """Plain sentences, the most important first."""
    rows = {row["what"]: row for row in tables["summary"].iter_rows(named=True)}
    steps = tables["steps"].filter(pl.col("branch") == DSD)
    mean = {name: _mean(steps, name) for name in (PRUNED, SPARSE, RESTORED)}
    epochs = int(steps["epochs"].max())  # type: ignore[arg-type]
    return [
        _gain(rows, baseline, epochs, images),
        _start(rows, start),
        f"On the way, pruning {_pruned(shares, layers)} takes the mean accuracy from {rows['start']['top1']:.2%} to "
        f"{mean[PRUNED]:.2%}, retraining with the masks held gives {mean[SPARSE]:.2%}, and training all weights again "
        f"{rows['dsd']['top1']:.2%}.",
        f"The network of the first seed is in {where}: load_network(path) reads it.",
    ]


def _gain(rows: Mapping[str, dict[str, Any]], baseline: str, epochs: int, images: int) -> str:
    gain, dsd, base = rows["dsd - baseline"], rows["dsd"], rows["baseline"]
    seeds = gain["seeds"]
    text = (
        f"After {plural(epochs, 'epoch')} dense-sparse-dense training gives {_with(dsd)} on {images:,} images, "
        f"conventional training ({_SAID[baseline]}) {_with(base)}: a difference of {points(gain['top1'])}"
    )
    if seeds < 2:
        return f"{text}. One seed says nothing of the spread; give repeats of 3 or more."
    low, high = gain["low"], gain["high"]
    if low > 0:
        verdict = "a gain, and more than the seeds vary"
    elif high < 0:
        verdict = "a loss, and more than the seeds vary"
    else:
        verdict = "no more than the seeds vary"
    return (
        f"{text} over {seeds} seeds (95 % interval {100 * low:.2f} to {100 * high:.2f}, paired t over the seeds, on "
        f"these images): {verdict}."
    )


def _start(rows: Mapping[str, dict[str, Any]], start: str) -> str:
    dsd, base = rows["dsd - start"], rows["baseline - start"]
    what = "the network as it came" if start == "trained" else "the dense networks that both ways began with"
    return (
        f"Against {what} ({rows['start']['top1']:.2%}), dense-sparse-dense training changes the accuracy by "
        f"{points(dsd['top1'])}, training on without masks by {points(base['top1'])}."
    )


def _with(row: dict[str, Any]) -> str:
    spread = "" if row["spread"] is None else f" (standard deviation {100 * row['spread']:.2f})"
    return f"{row['top1']:.2%}{spread}"


def _pruned(shares: Mapping[str, float], layers: int) -> str:
    few, many = min(shares.values()), max(shares.values())
    share = f"{many:.0%}" if few == many else f"{few:.0%} to {many:.0%}"
    return f"{share} of the weights of {plural(len(shares), 'layer')} of {layers}"


def _mean(steps: pl.DataFrame, name: str) -> float:
    return float(steps.filter(pl.col("step") == name)["top1"].to_numpy().mean())
