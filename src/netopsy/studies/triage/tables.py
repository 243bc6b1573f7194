"""The tables of the study `triage`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import polars as pl

from netopsy.engine.train.fit import history_columns
from netopsy.stats.hypothesis_tests import mean_interval, paired_difference, weighted_interval, wilson
from netopsy.studies.triage.design import TriageRun, Trial

REACHED = 0.99
"""Of the best accuracy: what counts as converged (the paper's Figure 4)."""

_CELL: dict[str, Any] = {
    "seed": pl.Int64,
    "block": pl.String,
    "start": pl.String,
    "training": pl.String,
    "best": pl.Float64,
    "best_low": pl.Float64,
    "best_high": pl.Float64,
    "top1": pl.Float64,
    "top1_low": pl.Float64,
    "top1_high": pl.Float64,
    "drop": pl.Float64,
    "drop_low": pl.Float64,
    "drop_high": pl.Float64,
    "epochs_to_99": pl.Int64,
    "parameters": pl.Int64,
    "share": pl.Float64,
    "macs": pl.Int64,
    "loss": pl.Float64,
    "matched_correlation": pl.Float64,
    "same_index_correlation": pl.Float64,
    "seconds": pl.Float64,
    "status": pl.String,
    "reason": pl.String,
}
_HISTORY: dict[str, Any] = {
    "seed": pl.Int64,
    "block": pl.String,
    "start": pl.String,
    "training": pl.String,
    **history_columns(),
}


def epochs_to_99(accuracy: Sequence[float]) -> int:
    """The first epoch, from 1, whose accuracy is at least 99 % of the highest (the paper's Figure 4)."""
    best = max(accuracy)
    edge = REACHED * best if best >= 0 else best / REACHED  # a score such as R² may lie below 0
    return next(at for at, value in enumerate(accuracy, start=1) if value >= edge)


def cells(run: TriageRun) -> pl.DataFrame:
    """A row a compressed network, the failed ones too."""
    base = {trial.spec["seed"]: trial for trial in run.baselines if trial.values is not None}
    rows = [cell_row(trial, base[trial.spec["seed"]]) for trial in run.cells]
    return pl.DataFrame(rows, schema=_CELL)


def cell_row(trial: Trial, base: Trial) -> dict[str, Any]:
    """One network's row; what is not known of a failed one is null."""
    spec = trial.spec
    row: dict[str, Any] = dict.fromkeys(_CELL) | {
        "seed": spec["seed"],
        "block": " + ".join(spec["blocks"]),
        "start": spec["start"],
        "training": spec["training"],
        "status": trial.status,
        "reason": trial.reason,
    }
    values = trial.values
    if values is None or base.values is None:
        return row
    accuracy = [epoch["validation_top1"] for epoch in values["history"]]
    best = max(accuracy, default=trial.score)
    for name, (low, high) in _ends(trial, base, best).items():
        row |= {f"{name}_low": low, f"{name}_high": high}
    return row | {
        "best": best,
        "top1": trial.score,
        "drop": _drop(trial, base),
        "epochs_to_99": epochs_to_99(accuracy) if accuracy else None,
        "parameters": values["parameters"],
        "share": values["parameters"] / base.values["parameters"],
        "macs": values["macs"],
        "loss": values["loss"],
        "matched_correlation": values.get("matched_correlation"),
        "same_index_correlation": values.get("same_index_correlation"),
        "seconds": trial.seconds,
    }


def _drop(trial: Trial, base: Trial) -> float:
    if not trial.binary:
        return base.score - trial.score
    return (int((base.right & ~trial.right).sum()) - int((trial.right & ~base.right).sum())) / len(trial.right)


def _ends(trial: Trial, base: Trial, best: float) -> dict[str, tuple[float | None, float | None]]:
    """The intervals over the samples; none of the best epoch where a sample is not right or wrong."""
    right, n = trial.right, len(trial.right)
    if not trial.binary:
        assert trial.values is not None
        lowest = trial.values.get("lowest")
        limits = (-math.inf if lowest is None else float(lowest), math.inf if lowest is None else 1.0)
        span = limits[1] - limits[0]
        return {
            "top1": weighted_interval(right, trial.weight, limits),
            "drop": weighted_interval(base.right - right, trial.weight, (-span, span)),
        }
    losses, gains = int((base.right & ~right).sum()), int((right & ~base.right).sum())
    return {
        "best": wilson(round(best * n), n),
        "top1": wilson(int(right.sum()), n),
        "drop": paired_difference(losses, gains, n),
    }


def history(run: TriageRun) -> pl.DataFrame:
    """A row an epoch of every training: block `all` is the whole network, training `start` that of a start."""
    rows = []
    for trial in (*run.baselines, *run.controls, *run.starts, *run.cells, *run.deeper):
        if trial.values is None or (trial in run.baselines and not trial.spec["fresh"]):
            continue
        spec = trial.spec
        blocks = spec.get("blocks", [spec["block"]] if "block" in spec else [])
        about = {
            "seed": spec["seed"],
            "block": " + ".join(blocks) or "all",
            "start": spec.get("start", "random"),
            "training": spec.get("training", "start" if spec["what"] == "start" else "baseline"),
        }
        rows += [about | epoch for epoch in trial.values["history"]]
    return pl.DataFrame(rows, schema=_HISTORY).unique(maintain_order=True)


def blocks(run: TriageRun) -> pl.DataFrame:
    """What each block was, and what became of it."""
    values_of = {trial.spec["blocks"][0]: trial.values for trial in run.cells if trial.values is not None}
    base = next((trial.values for trial in run.baselines if trial.values is not None), None)
    rows = []
    for block in (*run.blocks, *run.left_out):
        values = values_of.get(block.name)
        left = values["parameters"] / base["parameters"] if values and base else None
        rows.append(
            {
                "block": block.name,
                "kind": block.kind,
                "layers": len(block.layers),
                "first": block.layers[0] if block.layers else None,
                "last": block.layers[-1] if block.layers else None,
                "input": "x".join(map(str, block.input_shape)),
                "output": "x".join(map(str, block.output_shape)),
                "parameters": block.parameters,
                "macs": block.macs,
                "new_parameters": block.parameters + values["parameters"] - base["parameters"]
                if values and base
                else None,
                "saved": None if left is None else 1 - left,
                "saved_macs": None if not values or not base else 1 - values["macs"] / base["macs"],
                "obstacle": block.obstacle,
            }
        )
    return pl.DataFrame(rows, infer_schema_length=None)


_OVER_IMAGES = ("drop_images_low", "drop_images_high")
_SUMMARY = ("best", "top1", "top1_low", "top1_high", "lowest", "highest")


def _over_seeds(rows: pl.DataFrame) -> dict[str, Any]:
    """Accuracy and drop: over seeds by Student's t, null of fewer than three, and over samples, kept apart.

    drop_images_low, drop_images_high: the means of the seeds' own ends. A score is 1 at most, a share 0 at least; R²
    has no least.
    """
    scores, drops = rows["top1"].to_list(), rows["drop"].to_list()
    least = 0.0 if min(scores, default=0.0) >= 0 else -math.inf
    low, high = mean_interval(scores, (least, 1.0))
    drop_low, drop_high = mean_interval(drops, (least - 1, 1 - least))
    return {
        "top1": rows["top1"].mean(),
        "top1_low": low,
        "top1_high": high,
        "lowest": rows["top1"].min(),
        "highest": rows["top1"].max(),
        "drop": rows["drop"].mean(),
        "drop_low": drop_low,
        "drop_high": drop_high,
        "drop_images_low": rows["drop_low"].mean(),
        "drop_images_high": rows["drop_high"].mean(),
    }


def summary(cells: pl.DataFrame) -> pl.DataFrame:
    """Block x start x training over the seeds that came through: means, and 95 % intervals over seeds and samples.

    lowest, highest: top1 of the worst and of the best seed. See `_over_seeds`.
    """
    rows = []
    keys = ["block", "start", "training"]
    for key, seeds in cells.filter(pl.col("top1").is_not_null()).group_by(keys, maintain_order=True):
        names = ("best", "epochs_to_99", "matched_correlation", "same_index_correlation")
        means = {name: seeds[name].mean() for name in names}
        rows.append(
            {
                **dict(zip(keys, key, strict=True)),
                "best": means["best"],
                **_over_seeds(seeds),
                "epochs_to_99": means["epochs_to_99"],
                "share": seeds["share"][0],
                "matched_correlation": means["matched_correlation"],
                "same_index_correlation": means["same_index_correlation"],
                "seeds": seeds.height,
            }
        )
    schema: dict[str, Any] = dict.fromkeys(keys, pl.String) | dict.fromkeys(
        (*_SUMMARY, "drop", "drop_low", "drop_high", *_OVER_IMAGES, "epochs_to_99", "share"), pl.Float64
    )
    schema |= {"matched_correlation": pl.Float64, "same_index_correlation": pl.Float64, "seeds": pl.Int64}
    return pl.DataFrame(rows, schema=schema)


def baselines(run: TriageRun) -> pl.DataFrame:
    """The network before compression, by seed; `further`: trained on for as long as the compressed ones."""
    controls = {trial.spec["seed"]: trial for trial in run.controls if trial.values is not None}
    rows = []
    for trial in run.baselines:
        row: dict[str, Any] = {"seed": trial.spec["seed"], "status": trial.status, "reason": trial.reason}
        if trial.values is not None:
            low, high = _ends(trial, trial, trial.score)["top1"]
            accuracy = [epoch["validation_top1"] for epoch in trial.values["history"]]
            further = controls.get(trial.spec["seed"])
            row |= {
                "epochs": len(accuracy),
                "best": max(accuracy, default=trial.score),
                "top1": trial.score,
                "top1_low": low,
                "top1_high": high,
                "loss": trial.values["loss"],
                "parameters": trial.values["parameters"],
                "macs": trial.values["macs"],
                "images": trial.values["images"],
            }
            if further is not None:
                epoch = cell_row(further, trial)
                row |= {"further_best": epoch["best"], "further": epoch["top1"], "gain": 0.0 - epoch["drop"]}
                row |= {"gain_low": -epoch["drop_high"], "gain_high": -epoch["drop_low"]}
        rows.append(row)
    schema: dict[str, Any] = {"seed": pl.Int64, "epochs": pl.Int64}
    schema |= dict.fromkeys(("best", "top1", "top1_low", "top1_high", "loss"), pl.Float64)
    schema |= {"parameters": pl.Int64, "macs": pl.Int64, "images": pl.Int64}
    schema |= dict.fromkeys(("further_best", "further", "gain", "gain_low", "gain_high"), pl.Float64)
    return pl.DataFrame(rows, schema=schema | {"status": pl.String, "reason": pl.String})


def deeper(run: TriageRun) -> pl.DataFrame:
    """A row a number of blocks compressed at once: means over the seeds, as in `summary`."""
    base = {trial.spec["seed"]: trial for trial in run.baselines if trial.values is not None}
    rows = []
    counts = sorted({len(trial.spec["blocks"]) for trial in run.deeper})
    for count in counts:
        trials = [trial for trial in run.deeper if len(trial.spec["blocks"]) == count]
        frame = pl.DataFrame([cell_row(trial, base[trial.spec["seed"]]) for trial in trials], schema=_CELL)
        scored = frame.filter(pl.col("top1").is_not_null())
        first = scored.row(0, named=True) if scored.height else {}
        rows.append(
            {
                "compressed": count,
                "blocks": " + ".join(trials[0].spec["blocks"]),
                "start": trials[0].spec["start"],
                "training": trials[0].spec["training"],
                "parameters": first.get("parameters"),
                "share": first.get("share"),
                "macs": first.get("macs"),
                "best": scored["best"].mean(),
                **_over_seeds(scored),
                "seeds": scored.height,
                "failed": frame.height - scored.height,
            }
        )
    return pl.DataFrame(rows, infer_schema_length=None)
