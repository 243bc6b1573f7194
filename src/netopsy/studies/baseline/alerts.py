"""What is wrong with the network: its weights, its units and its outputs; and all checks together."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import polars as pl
import torch
from scipy.stats import kstest
from torch import Tensor

from netopsy.network.preprocessing import Preprocessing
from netopsy.result import LEVELS, Alert, Level
from netopsy.stats.describe import levels_of
from netopsy.studies.baseline.mistakes import (
    few_samples,
    how_classes_stand,
    miscalibrated,
    repeated_samples,
    seen_in_training,
    what_loading_left_out,
)
from netopsy.studies.baseline.trials import (
    MOST,
    Evidence,
    foreign_labels,
    relabelled,
    share_text,
    wrong_preprocessing,
)
from netopsy.wording import capital, listing, plural, size

_LEAST = 256  # weights of a layer, of which fewer are not tested
_TESTED = 4096  # weights of a layer that are tested
_LEVEL = 1e-3  # of the test for drawn weights, over all layers
_SEEN = 16  # samples, before a unit that did not change counts as constant
_SPARSE = 0.3  # share of zeros from which a layer counts as pruned
_MANY = 0.5  # of units, outputs or weights: from here on more than a detail


_FOLLOWS = ("miscalibrated", "class-never-predicted")  # from a network that guesses


def find_alerts(evidence: Evidence) -> list[Alert]:
    """All alerts, the worst first."""
    alerts = [alert for check in CHECKS for alert in check(evidence)]
    if any(alert.name == "near-chance" and alert.level == "error" for alert in alerts):
        alerts = [alert for alert in alerts if alert.name not in _FOLLOWS]
    return sorted(alerts, key=lambda alert: LEVELS.index(alert.level))


def random_weights(evidence: Evidence) -> list[Alert]:
    """Weights that were drawn and not learned: the record says so, or no layer differs from random numbers."""
    network, score = evidence.network, evidence.score
    task = evidence.task
    if score is not None and task is not None and not task.reference and score["score_low"] > 0.5:
        return []  # whatever they look like
    advice = "Give the trained ones with --weights FILE (in Python weights=)."
    if network.provenance.get("weights") == "random" and "seed" in network.provenance:
        return [Alert("random-weights", "error", "The weights are random: none were given.", advice)]
    tested = [w for _, w in evidence.weights.values() if w.numel() >= _LEAST and float(w.std()) > 0]
    if not tested or any(_drawn(weights) < _LEVEL / len(tested) for weights in tested):
        return []
    message = f"The weights look freshly drawn: none of {plural(len(tested), 'layer')} differs from random numbers."
    return [Alert("random-weights", "error", message, advice)]


def _drawn(weights: Tensor) -> float:
    """The p of the hypothesis that weights were drawn from a uniform or a normal distribution (Kolmogorov-Smirnov)."""
    flat = weights.flatten()
    values = flat[:: max(1, len(flat) // _TESTED)].double().numpy()
    if not np.isfinite(values).all() or not values.std():
        return 0.0
    reach = float(np.abs(values).max())
    uniform = kstest(values, "uniform", args=(-reach, 2 * reach)).pvalue
    return float(max(uniform, kstest(values, "norm", args=(0.0, float(values.std()))).pvalue))


def not_finite(evidence: Evidence) -> list[Alert]:
    """NaN or infinity among the weights, the activations or the outputs."""
    network, alerts = evidence.network, []
    tensors = {name: t for name, t in network.tensors.items() if t.is_floating_point()}
    bad = {name: int((~t.isfinite()).sum()) for name, t in tensors.items() if not bool(t.isfinite().all())}
    if bad:
        first = next(iter(bad))
        where = next((x.name for x in network.layers if first in (x.weight, x.bias)), first.rpartition(".")[0])
        message = f"{plural(sum(bad.values()), 'weight')} of {listing(list(bad), 3)} are NaN or infinite."
        advice = "Load the weights again from a checkpoint before training diverged."
        alerts.append(Alert("not-finite-weights", "error", message, advice, where, {"tensors": bad}))
    wild = [name for name, r in evidence.ranges.items() if not bool((r.low.isfinite() & r.high.isfinite()).all())]
    if evidence.answers is not None:
        without = int(evidence.answers.unanswered.sum())
    else:
        score = evidence.score
        without = int(score is not None and not np.isfinite([score["score"], score["loss"]]).all()) * evidence.images
    if without:
        what = f"{without:,} of {plural(evidence.images, evidence.noun)} give outputs that are NaN or infinite"
        layer = network.nodes[wild[0]].layer if wild else ""
        where = f"; the first activations that are so lie behind {layer}" if layer else ""
        advice = "Check the weights of that layer and the scale of the inputs (--scale, --mean, --std)."
        alerts.append(Alert("not-finite-outputs", "error", f"{what}{where}.", advice, layer, {"samples": without}))
    return alerts


def chance_levels(evidence: Evidence) -> tuple[float, float]:
    """What guessing scores, and what one answer for all samples scores that knows the labels; NaN where unknown."""
    network, samples, task = evidence.network, evidence.samples, evidence.task
    unknown = float("nan")
    if samples is None or task is None or task.reference or task.name.startswith("custom"):
        return unknown, unknown
    if task.column == "r2":
        return 0.0, 0.0
    if evidence.labels is not None:
        counts = np.bincount(evidence.labels)
        return 1 / network.classes, float(counts.max() / counts.sum()) if (counts > 0).sum() > 1 else unknown
    if samples.multilabel:
        return float(samples.labels.mean()), float(samples.labels.mean(0).max())
    classes = network.nodes[network.output].full_shape[task.axis]
    places = torch.zeros(classes, dtype=torch.int64)
    some = samples.subset(min(len(samples), MOST))
    prepare = getattr(task, "prepare", None)  # of tasks that show the network something else, as masked tokens
    for batch in (prepare(network, some) if prepare else some).batches(network.preprocessing, 32):
        targets = task.targets(batch, None).flatten()
        places += torch.bincount(targets[targets >= 0], minlength=classes)[:classes]
    return 1 / classes, float(places.max() / places.sum().clamp_min(1))


def near_chance(evidence: Evidence) -> list[Alert]:
    """A score that guessing reaches, or one answer for all samples."""
    guess, same = chance_levels(evidence)
    row = evidence.score
    if row is None or not np.isfinite(guess):
        return []
    low, high = row["score_low"], row["score_high"]
    chance = float(np.nanmax([guess, same]))
    unit, on = row["unit"], f"on {plural(evidence.images, evidence.noun)}"
    whole = f"{capital(unit)} is {share_text(row['score'])} {on}"
    advice = (
        "Check the weights (--weights), the preprocessing (--mean, --std, --channels, --scale) and the class order."
    )
    if evidence.samples is not None and evidence.samples.kind == "tokens":
        advice = "Check the weights, the class order, and that the tokenizer is this network's own."
    figures = {"score": row["score"], "low": low, "high": high, "guess": guess, "commonest": same}
    if row["task"] == "regression":
        if low > 0:
            return []
        message = f"R² is {row['score']:.2f} {on}, no better than always answering the mean of the labels."
        return [Alert("near-chance", "error", message, advice, "", figures)]
    if low <= guess:
        message = f"{whole}, no better than guessing ({share_text(guess)})."
        return [Alert("near-chance", "error", message, advice, "", figures)]
    if low <= chance:
        message = f"{whole}, no better than always answering the commonest class ({share_text(chance)})."
        return [Alert("near-chance", "warning", message, advice, "", figures)]
    if (high - chance) / max(1e-9, 1 - chance) < 0.1:
        message = f"{whole}, barely above chance ({share_text(chance)})."
        return [Alert("near-chance", "warning", message, advice, "", figures)]
    return []


def assumed_preprocessing(evidence: Evidence) -> list[Alert]:
    """A preprocessing that nobody gave: a note where no other that is usual does better, else a warning."""
    given = evidence.network.preprocessing
    said = str(evidence.network.provenance.get("preprocessing", {}).get("from", ""))
    known = {"mean", "std", "scale"} & set(re.findall(r"\w+", said.partition(";")[2]))  # given, or in the file
    guessed = said.startswith(("assumed", "the inputs of", "the example that"))
    if not isinstance(given, Preprocessing) or known or not guessed:
        return []
    settled = bool(evidence.trials) and evidence.trials[0].p > 0.05 and not near_chance(evidence)
    settled = settled and not evidence.unlike_training
    message = "The preprocessing is assumed, not known: pixels from 0 to 1, no mean and no std."
    if settled:
        message += " No other that is usual does better on these images."
    advice = "Give what the network was trained with: --mean, --std, --channels and --scale."
    return [Alert("preprocessing-assumed", "note" if settled else "warning", message, advice)]


def dead_units(evidence: Evidence) -> list[Alert]:
    """Units that never fire, and those whose weights are all zero, with what they cost."""
    layers = {row["layer"]: row for row in evidence.tables["layers"].iter_rows(named=True)}
    found: dict[str, tuple[int, int]] = {}
    for name, row in layers.items():
        zero = 0
        if name in evidence.weights:
            layer, weights = evidence.weights[name]
            zero = int((weights == 0).all(1).sum()) if layer.kind in ("conv", "linear") else 0
            zero = 0 if zero == len(weights) else zero  # a layer of zeros has an alert of its own
        shares = [(row["dead"], row["units"]), (zero, row["outputs"])]
        dead, units = max(shares, key=lambda pair: pair[0] / max(1, pair[1]))
        if dead and evidence.images >= _SEEN:
            found[name] = (dead, units)
    if not found:
        return []
    cost = round(sum(_bytes_of(name, dead / units, layers) for name, (dead, units) in found.items()))
    total = sum(dead for dead, _ in found.values())
    every = sum(row["units"] or (row["outputs"] if name in found else 0) for name, row in layers.items())
    whole = sum(row["bytes"] for row in layers.values())
    worst = max(found, key=lambda name: found[name][0] / found[name][1])
    dead, units = found[worst]
    verb, most, they = ("fires", "", "it costs") if total == 1 else ("fire", "most of them ", "they cost")
    message = (
        f"{total:,} of {every:,} units never {verb} on these {plural(evidence.images, evidence.noun)}, {most}in "
        f"{worst} ({dead:,} of {units:,}); {they} {size(cost)}, {100 * cost / max(1, whole):.1f} % of the weights."
    )
    level: Level = "warning" if dead / units >= _MANY and units >= 4 else "note"
    advice = "Remove them with their weights in and out: no output here changes. The study sparsity names them."
    figures = {
        "dead": total,
        "units": every,
        "bytes": cost,
        "layers": {name: list(pair) for name, pair in found.items()},
    }
    return [Alert("dead-units", level, message, advice, worst, figures)]


def _bytes_of(name: str, share: float, layers: Mapping[str, dict[str, Any]]) -> float:
    """Bytes of the weights into and out of a share of a layer's units."""
    after = [row for row in layers.values() if name in row["inputs"]]
    out = sum(row["bytes"] / max(1, len(row["inputs"])) for row in after)
    return share * (float(layers[name]["bytes"]) + out)


def constant_units(evidence: Evidence) -> list[Alert]:
    """Units that give one value other than zero whatever they are shown."""
    if evidence.images < _SEEN:
        return []
    table = evidence.tables["layers"].filter(pl.col("constant") > 0)
    alerts = []
    rows = [row for row in table.iter_rows(named=True) if row["constant"] + row["dead"] < row["units"]]
    for row in table.iter_rows(named=True):
        if row["constant"] + row["dead"] == row["units"] and row["units"] > 1:
            message = f"All {row['units']:,} units of {row['layer']} give one value each, whatever the {evidence.noun}."
            advice = "Nothing of the input passes this layer: check its weights, or remove it."
            alerts.append(Alert("constant-layer", "warning", message, advice, row["layer"], {"units": row["units"]}))
    if rows:
        total, worst = sum(row["constant"] for row in rows), max(rows, key=lambda row: row["constant"] / row["units"])
        message = (
            f"{plural(total, 'unit')} {'gives' if total == 1 else 'give'} one value other than zero on all "
            f"{plural(evidence.images, evidence.noun)}, most in {worst['layer']} "
            f"({worst['constant']:,} of {worst['units']:,})."
        )
        advice = "Fold them into the bias of the next layer and remove them."
        level: Level = "warning" if worst["constant"] / worst["units"] >= _MANY and worst["units"] >= 8 else "note"
        alerts.append(Alert("constant-units", level, message, advice, worst["layer"], {"units": total}))
    return alerts


def uniform_layers(evidence: Evidence) -> list[Alert]:
    """Layers whose weights are all zero, or whose units all have the same weights."""
    zero, alike = [], []
    for name, (layer, weights) in evidence.weights.items():
        if not bool(weights.isfinite().all()):
            continue
        if not bool(weights.any()):
            zero.append(name)
        elif len(weights) > 1 and layer.kind != "recurrent":
            apart = float((weights - weights[:1]).abs().max())
            if apart <= 1e-6 * float(weights.abs().max()):
                alike.append(name)
    scales = {n: t for n, t in evidence.network.tensors.items() if n.endswith("weight") and t.ndim == 1 and len(t) > 1}
    zero += [name.removesuffix(".weight") for name, scale in scales.items() if not bool(scale.any())]  # of norms
    alerts = []
    if zero:
        message = f"All weights of {listing(zero, 3)} are zero: nothing of the input passes there."
        advice = "Check that the file of weights holds this layer, or remove it."
        alerts.append(Alert("zero-layer", "warning", message, advice, zero[0], {"layers": zero}))
    if alike:
        message = f"All units of {listing(alike, 3)} have the same weights, so that they give the same values."
        advice = "Check that the file of weights holds this layer: it looks as if a constant had been put there."
        alerts.append(Alert("alike-layer", "warning", message, advice, alike[0], {"layers": alike}))
    return alerts


def saturated_outputs(evidence: Evidence) -> list[Alert]:
    """A classifier whose highest probability is one, to a millionth, of most samples."""
    answers = evidence.answers
    if answers is None or not answers.images:
        return []
    share = answers.sure / answers.images
    if share < _MANY:
        return []
    high = evidence.tables["score"]["score_high"].item()
    message = f"The highest probability is 1 to a millionth on {100 * share:.0f} % of the {evidence.noun}s."
    advice = "Divide the outputs by a temperature before using them as probabilities; losses say little there."
    return [Alert("saturated-outputs", "warning" if share > high else "note", message, advice, "", {"share": share})]


def softmax_outputs(evidence: Evidence) -> list[Alert]:
    """Outputs that are probabilities, or their logarithms, and no logits."""
    answers, network = evidence.answers, evidence.network
    if answers is None or network.classes < 2:
        return []
    last = network.nodes[network.output].operator.rstrip("_")
    answered = max(1, answers.images - int(answers.unanswered.sum()))
    kinds = {
        "probabilities": last == "softmax" or answers.probabilities >= 0.99 * answered,
        "log-probabilities": last == "log_softmax" or answers.log_probabilities >= 0.99 * answered,
    }
    for kind, there in kinds.items():
        if there:
            message = f"The outputs are {kind}: they come after a {'log-' * kind.startswith('log')}softmax."
            advice = (
                "Take the layer before it as the output (--output NAME, or a model without it): losses, temperatures "
                "and maximised images are meant for logits."
            )
            return [Alert("softmax-outputs", "warning", message, advice, "", {"outputs": kind})]
    return []


def compressed_already(evidence: Evidence) -> list[Alert]:
    """Layers that are quantized (few values, or a grid of few levels for each unit), and those that are pruned."""
    counts: dict[str, int] = {}
    zeros: dict[str, float] = {}
    total = sum(weights.numel() for _, weights in evidence.weights.values())
    for name, (_, weights) in evidence.weights.items():
        if weights.numel() < _LEAST or not bool(weights.isfinite().all()) or not bool(weights.any()):
            continue
        share = float((weights == 0).double().mean())
        if share > _SPARSE:
            zeros[name] = share
        values = levels_of(weights.numpy())
        if values is not None and values > 1:
            counts[name] = values
    alerts = []
    if counts:
        part = sum(evidence.weights[name][1].numel() for name in counts) / total
        most = max(counts.values())
        bits = max(1, int(np.ceil(np.log2(most))))
        message = (
            f"{plural(len(counts), 'layer')} with {100 * part:.0f} % of the weights "
            f"{'is' if len(counts) == 1 else 'are'} quantized already: at most {most} values, {bits} bits."
        )
        advice = "Compress the network as it was before: rounding it again to the same grid shows no loss."
        level: Level = "warning" if part >= _MANY else "note"
        alerts.append(Alert("quantized-already", level, message, advice, "", {"layers": counts, "share": part}))
    if zeros:
        part = sum(evidence.weights[name][1].numel() * share for name, share in zeros.items()) / total
        message = (
            f"{plural(len(zeros), 'layer is', 'layers are')} over 30 % zeros, {100 * part:.0f} % of all weights: the "
            "network is pruned already."
        )
        advice = "Compare compressed sizes with the size without these zeros."
        level = "warning" if part >= _MANY else "note"
        alerts.append(Alert("pruned-already", level, message, advice, "", {"layers": zeros, "share": part}))
    return alerts


CHECKS: tuple[Callable[[Evidence], list[Alert]], ...] = (
    not_finite,
    random_weights,
    foreign_labels,
    relabelled,
    wrong_preprocessing,
    near_chance,
    seen_in_training,
    assumed_preprocessing,
    repeated_samples,
    few_samples,
    how_classes_stand,
    uniform_layers,
    dead_units,
    constant_units,
    softmax_outputs,
    saturated_outputs,
    miscalibrated,
    compressed_already,
    what_loading_left_out,
)
"""The checks, in the order in which alerts of one level are shown."""
