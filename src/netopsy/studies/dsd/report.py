"""The tables, figures and sentences of the study `dsd`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import torch

from netopsy.charts import curve, histogram
from netopsy.network.layers import Layer
from netopsy.result import Figure, Finding
from netopsy.samples.tasks import Task
from netopsy.stats.describe import spread_indices
from netopsy.stats.hypothesis_tests import LEAST, mean_interval
from netopsy.studies.draws import bounds, half_width
from netopsy.studies.dsd.branches import BASELINE, DENSE, DIFFERENCES, DSD, LAST, PRUNED, SPARSE, START, Snapshot
from netopsy.studies.sweep_report import IMAGES, Measure
from netopsy.wording import hundredths, number, percent, plural

BINS = 61  # odd, so that zero is the middle of a bin
_REACH = 0.9995  # of the weights at each end are shown


def steps_frame(
    steps: Sequence[Snapshot], layers: Sequence[Layer], scored: Mapping[str, Mapping[str, Any]]
) -> pl.DataFrame:
    """A row a step; layers: of every one of the networks; scored: the scores of a network by its digest."""
    rows = []
    for step in steps:
        weights = [step.network.tensors[layer.weight] for layer in layers]
        zeros = sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)
        score = scored[step.network.digest]
        names = ("top1", "top1_low", "top1_high", "top5", "loss", "images")
        columns = {name: score[name] for name in names if name in score}
        rows.append(
            {"seed": step.seed, "branch": step.branch, "step": step.name, "epochs": step.epochs, "zeros": zeros}
            | columns
        )
    return pl.DataFrame(rows)


def summary(steps: pl.DataFrame, ends: Mapping[str, Sequence[tuple[float, float]]]) -> pl.DataFrame:
    """Mean and spread over the seeds of where each way ends, and of what it gains.

    ends: by difference, its interval over samples for each seed (`ends_over_samples`).
    what: `start`, `baseline`, `dsd`, and the differences `dsd - baseline`, `dsd - start`, `baseline - start`; top1 and
    loss: means; spread: standard deviation of top1 over the seeds; low, high: 95 % interval of the mean of top1 over
    seeds, by Student's t, of a difference by the paired t, null of fewer than three; images_low, images_high: that over
    samples, with these trainings: the means of the seeds' own ends.
    """
    last = steps.filter(pl.col("step").is_in(LAST)).sort("seed")
    frames = {branch: last.filter(pl.col("branch") == branch) for branch in (BASELINE, DSD)}
    frames[START] = steps.filter((pl.col("branch") == DSD) & (pl.col("step") == DENSE)).sort("seed")
    top1 = {name: frame["top1"].to_numpy() for name, frame in frames.items()}
    loss = {name: frame["loss"].to_numpy() for name, frame in frames.items()}
    least = 0.0 if min(values.min() for values in top1.values()) >= 0 else -math.inf  # R² has no least
    rows = []
    for name in (START, BASELINE, DSD):
        own = frames[name].select("top1_low", "top1_high").rows() if "top1_low" in steps else []
        rows.append(_row(name, top1[name], loss[name], own, (least, 1.0)))
    for a, b in DIFFERENCES:
        name = f"{a} - {b}"
        rows.append(_row(name, top1[a] - top1[b], loss[a] - loss[b], ends.get(name, []), (least - 1, 1 - least)))
    return pl.DataFrame(rows, infer_schema_length=None)


def _row(
    what: str,
    top1: np.ndarray,
    loss: np.ndarray,
    ends: Sequence[tuple[float, float]],
    limits: tuple[float, float],
) -> dict[str, Any]:
    low, high = mean_interval(top1.tolist(), limits)
    images_low, images_high = np.mean(ends, 0).tolist() if len(ends) else (None, None)
    return {
        "what": what,
        "top1": float(top1.mean()),
        "spread": float(top1.std(ddof=1)) if len(top1) > 1 else None,
        "low": low,
        "high": high,
        "images_low": images_low,
        "images_high": images_high,
        "loss": float(loss.mean()),
        "seeds": len(top1),
    }


def histograms(steps: Sequence[Snapshot], layers: Sequence[Layer]) -> pl.DataFrame:
    """Counts of each layer's weights at each step, in bins of one width a layer; pruned weights do not count.

    Weights beyond the range are counted in the outermost bins.
    """
    parts = []
    for layer in layers:
        values = [_values(step, layer.weight) for step in steps]
        reach = max(float(np.quantile(np.abs(v), _REACH)) if len(v) else 0.0 for v in values) or 1.0
        edges = np.linspace(-reach, reach, BINS + 1)
        for step, step_values in zip(steps, values, strict=True):
            counts, _ = np.histogram(np.clip(step_values, -reach, reach), edges)
            parts.append(
                pl.DataFrame({"left": edges[:-1], "right": edges[1:], "count": counts}).select(
                    pl.lit(layer.name).alias("layer"), pl.lit(step.name).alias("step"), pl.all()
                )
            )
    return pl.concat(parts)


def _values(step: Snapshot, name: str) -> np.ndarray:
    weight = step.network.tensors[name].detach().cpu()
    if name in step.masks:
        weight = weight[step.masks[name].to(torch.device("cpu"))]
    return weight.reshape(-1).double().numpy()


_LAYERS = 4  # whose weights are drawn; the table has all
_SOURCE = "Han et al., DSD, ICLR 2017"


def figures(tables: Mapping[str, pl.DataFrame], layers: Sequence[Layer], task: Task) -> dict[str, Figure]:
    """The score over the epochs, and five panels of weights for some layers."""
    charts = {"epochs": _epochs(tables["history"], task)}
    for index in spread_indices(len(layers), _LAYERS):
        name = layers[index].name
        charts[f"weights {name}"] = histogram(
            tables["histograms"].filter(pl.col("layer") == name),
            "left",
            "right",
            "count",
            facet="step",
            title=f"The weights of {name} at the five steps",
            reading="Pruning cuts the middle out; restored weights come back as zeros (the spike) and spread. Heights "
            "differ between panels; the outermost bins hold all beyond them. First seed.",
            source=_SOURCE,
            x_title="weight",
            y_title="weights",
            shared_x=True,
        )
    return charts


def _epochs(history: pl.DataFrame, task: Task) -> Figure:
    top1 = pl.col(f"validation_{task.column}")
    both = history.filter(pl.col("branch") == "both")
    ways = [
        history.filter(pl.col("branch") == way).vstack(both.with_columns(pl.lit(way).alias("branch")))
        for way in ("dsd", "baseline")
    ]
    frame = (
        pl.concat(ways)
        .group_by("branch", "epoch", maintain_order=True)
        .agg(top1.mean().alias("top1"), top1.min().alias("low"), top1.max().alias("high"))
        .sort("branch", "epoch", descending=[True, False])
    )
    return curve(
        frame,
        "epoch",
        "top1",
        color="branch",
        low="low",
        high="high",
        percent=True,
        x_title="epochs of training",
        y_title=task.unit,
        color_title="way",
        title=f"{word_of(task).capitalize()} on the samples scored, epoch by epoch",
        reading="Lines are means over the seeds, bands run from the worst to the best of them.",
        source=_SOURCE,
    )


def word_of(task: Task) -> str:
    """The score in a sentence: accuracy, or the task's own."""
    return "accuracy" if "accuracy" in task.unit else task.unit


def with_score(frame: pl.DataFrame, task: Task) -> pl.DataFrame:
    """A table whose columns of the score have the task's name for it."""
    return frame.rename({name: name.replace("top1", task.column) for name in frame.columns})


_BASELINES = {"phases": "in the same phases, without masks", "single": "on one schedule of as many epochs"}


def findings(
    tables: Mapping[str, pl.DataFrame],
    shares: Mapping[str, float],
    layers: int,
    baseline: str,
    start: str,
    images: str,
    where: str,
    measure: Measure = IMAGES,
) -> list[Finding]:
    """Plain sentences, the most important first. images: how many samples were scored, in words."""
    rows = {row["what"]: row for row in tables["summary"].iter_rows(named=True)}
    steps = tables["steps"].filter(pl.col("branch") == DSD)
    pruned, sparse = (measure.score(_mean(steps, name)) for name in (PRUNED, SPARSE))
    epochs = int(steps["epochs"].max())  # type: ignore[arg-type]
    way = (
        f"Pruning {_zeros_of(shares, layers)} takes the {measure.unit} from {measure.score(rows['start']['top1'])} to "
        f"{pruned}, retraining what is left to {sparse}, and training all weights again to "
        f"{measure.score(rows[DSD]['top1'])}{', means over the seeds' if rows[DSD]['seeds'] > 1 else ''}."
    )
    return [
        _gain(rows, baseline, epochs, images, measure),
        _start(rows, start, measure),
        Finding(way, 0.5),
        Finding(f"The network of the first seed is saved as {where}; load_network(path) reads it.", 0.0),
    ]


def _gain(rows: Mapping[str, dict[str, Any]], baseline: str, epochs: int, images: str, measure: Measure) -> Finding:
    gain, seeds = rows[f"{DSD} - {BASELINE}"], rows[DSD]["seeds"]
    other = f"conventional training ({_BASELINES[baseline]})"
    dsd, base = (_with(rows[way], measure) for way in (DSD, BASELINE))
    ends = f"{dsd} against {base} after {plural(epochs, 'epoch')} on {images}"
    difference = measure.amount(abs(gain["top1"]))
    sign = "less" if gain["top1"] < 0 else "more"
    if seeds < LEAST:
        text = f"Dense-sparse-dense training ends with {difference} {sign} {measure.unit} than {other}: {ends}"
        few = "One seed says nothing" if seeds == 1 else "Two seeds say too little"
        return Finding(f"{text}. {few} of the spread; give repeats of {LEAST} or more.", 0.5)
    row = {"drop_low": gain["images_low"], "drop_high": gain["images_high"]}
    row |= {"drop_draws_low": gain["low"], "drop_draws_high": gain["high"]}
    low, high = bounds(row)
    over = f"{measure.interval(row, 'drop_draws')} over {plural(seeds, 'seed')}"
    within = f"(95 % intervals {measure.interval(row)} over {measure.noun}s, {over})"
    weight = abs(gain["top1"]) / half_width(row)
    if low > 0 or high < 0:
        text = (
            f"Dense-sparse-dense training ends with {difference} {sign} {measure.unit} {within} than {other}: {ends}."
        )
        return Finding(text, min(5.0, weight))
    text = f"Dense-sparse-dense training gains nothing measurable over {other}: {measure.amount(gain['top1'])} of "
    return Finding(f"{text}{measure.unit} {within}, {ends}.", min(0.99, weight))


def _start(rows: Mapping[str, dict[str, Any]], start: str, measure: Measure) -> Finding:
    dsd, base = rows[f"{DSD} - start"], rows[f"{BASELINE} - start"]
    what = "the network before training" if start == "trained" else "the dense networks that both begin with"
    text = (
        f"Compared with {what} ({measure.score(rows['start']['top1'])}), dense-sparse-dense training changes the "
        f"{measure.unit} by {measure.amount(dsd['top1'])}, conventional training by {measure.amount(base['top1'])}."
    )
    return Finding(text, 0.5)


def _with(row: dict[str, Any], measure: Measure) -> str:
    spread = row["spread"]
    if spread is None:
        return measure.score(row["top1"])
    deviation = hundredths(100 * spread) if measure.share else number(spread)
    return f"{measure.score(row['top1'])} (standard deviation {deviation})"


def _zeros_of(shares: Mapping[str, float], layers: int) -> str:
    few, many = percent(min(shares.values())), percent(max(shares.values()))
    every = f"all {layers} layers" if len(shares) == layers > 1 else f"{len(shares)} of {plural(layers, 'layer')}"
    return f"{many if few == many else few + ' to ' + many} of the weights of {every}"


def _mean(steps: pl.DataFrame, name: str) -> float:
    return float(steps.filter(pl.col("step") == name)["top1"].to_numpy().mean())
