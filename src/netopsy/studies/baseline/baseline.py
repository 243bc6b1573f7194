"""The score of the network as it is, where it is wrong, and alerts: what comes before every other study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import polars as pl

from netopsy.engine.observe.counting import LABELS, Tallies
from netopsy.engine.observe.tally import Tally
from netopsy.engine.sweep.sweep import score
from netopsy.errors import NetopsyError
from netopsy.network.activations import activations, rectifies
from netopsy.network.network import Network
from netopsy.result import MEASURE_SCHEMA, Finding, Group, Result, Texts
from netopsy.samples.samples import Samples
from netopsy.samples.tasks import CLASSIFICATION, Task, find_task
from netopsy.settings import PositiveInt
from netopsy.stats.hypothesis_tests import wilson
from netopsy.studies.baseline.alerts import find_alerts
from netopsy.studies.baseline.mistakes import answer_figures, mistake_pictures
from netopsy.studies.baseline.trials import Evidence
from netopsy.studies.study import Allowance, ObservingStudy
from netopsy.tallies.answers import Answers, AnswersResult
from netopsy.tallies.collect import Digests
from netopsy.tallies.sparsity import Range, RangeResult
from netopsy.wording import plural

_CLASSES = 2048  # beyond, the table of confusions is not kept


@dataclass(frozen=True)
class Baseline(ObservingStudy):
    """How good is the network, where is it wrong, and is it loaded right?

    One pass gives the score with its interval, the confusions, the calibration (Guo et al., "On Calibration of Modern
    Neural Networks", ICML 2017) and the units that never fire; checks of these and of the weights give the alerts.

    mistakes: how many of the surest wrong answers to show.
    train: images that the network was trained on: none of them should be among the samples.

    Tables: `score`, `layers` (parameters, bytes, multiply-accumulates, the layers before it, dead and constant units),
    `alerts`; of classifiers `classes` (accuracy by class), `confusion`, `calibration` and `mistakes`.
    """

    mistakes: PositiveInt = 36
    train: Samples | None = None

    name: ClassVar[str] = "baseline"
    group: ClassVar[Group] = "contents"
    allows: ClassVar[tuple[Allowance, ...]] = ("workers", "any classes")

    def tallies(self, network: Network, samples: Samples) -> Tallies:
        """The answers of a classifier, the range of every unit behind an activation function, the samples' digests."""
        tallies: dict[str, tuple[Any, Tally]] = {
            f"range {name}": (name, Range(node.channel_axis))
            for name, node in activations(network, mixing=False).items()
        }
        tallies["digests"] = (tuple(network.signature.names), Digests())
        if _is_classifier(network, samples):
            tallies["answers"] = ((network.output, LABELS), Answers(network.classes, self.mistakes))
        return tallies

    def conclude(self, network: Network, samples: Samples | None, results: Mapping[str, Any]) -> Result:
        """The score, the tables of mistakes, and the alerts."""
        answers: AnswersResult | None = results.get("answers")
        ranges = {name.removeprefix("range "): found for name, found in results.items() if name.startswith("range ")}
        task = _task(network, samples)
        layers = layer_table(network, ranges)
        tables = {"layers": layers}
        if task is not None and samples is not None:
            tables = {"score": _score(network, samples, task, answers), **tables}
        shown: dict[str, Any] = {}
        if answers is not None and samples is not None:
            tables |= answer_tables(answers, samples)
            pictures = mistake_pictures(tables["mistakes"], samples)
            shown = {"figures": answer_figures(tables, samples.noun)}
            shown |= {"texts" if isinstance(value, Texts) else "images": pictures for value in pictures.values()}
        evidence = Evidence(network, samples, task, tables, answers, ranges, results.get("digests"), self.train)
        alerts = find_alerts(evidence)
        tables["alerts"] = pl.DataFrame(
            [(a.level, a.name, a.layer, a.message, a.advice) for a in alerts],
            schema={name: pl.String for name in ("level", "alert", "layer", "message", "advice")},
            orient="row",
        )
        findings = _findings(tables, samples, task)
        return self.result(tables=tables, alerts=alerts, measures=_measures(layers), findings=findings, **shown)


def _task(network: Network, samples: Samples | None) -> Task | None:
    """What right means; None where the samples cannot be scored."""
    if samples is None:
        return None
    try:
        return find_task(network, samples)
    except NetopsyError:
        return None


def _is_classifier(network: Network, samples: Samples) -> bool:
    """Whether each sample has one class."""
    task = _task(network, samples)
    return task is CLASSIFICATION and samples.labels.ndim == 1 and network.classes <= _CLASSES


def _score(network: Network, samples: Samples, task: Task, answers: AnswersResult | None) -> pl.DataFrame:
    """One row: the score with its interval, in the task's column and in `score`, `score_low`, `score_high`."""
    if answers is None:
        row = score(network, samples).row(0, named=True)
    else:
        low, high = wilson(answers.right, answers.images)
        row = {
            "top1": answers.right / answers.images,
            "top1_low": low,
            "top1_high": high,
            "top5": answers.top5 / answers.images,
            "loss": float(answers.loss[answers.at_one]),
            "images": answers.images,
        }
    plain = {f"score{end}": row[f"{task.column}{end}"] for end in ("", "_low", "_high")}
    facts = {"task": task.name, "unit": task.unit, **plain}
    kept = {k: v for k, v in row.items() if not k.startswith(("drop", "rise")) and k != "agreement"}
    weights = sum(layer_bytes(network).values())
    return pl.DataFrame(
        [
            {
                **facts,
                **kept,
                "parameters": network.parameters,
                "bytes": weights,
                "macs": sum(layer.macs for layer in network.layers),
            }
        ]
    )


def layer_bytes(network: Network) -> dict[str, int]:
    """Bytes of each parameter and buffer, by name."""
    return {name: tensor.numel() * tensor.element_size() for name, tensor in network.tensors.items()}


def layer_table(network: Network, ranges: Mapping[str, RangeResult]) -> pl.DataFrame:
    """A row a layer in order of execution: its size, the layers before it, and its units that never change.

    inputs: see `layers_before`. units: of the activation functions
    behind it; dead: always 0; constant: always another value; always_on: never at or below 0, behind a rectifier.
    """
    sizes = layer_bytes(network)
    before = layers_before(network)
    units: dict[str, list[int]] = {}
    for name, found in ranges.items():
        node = network.nodes[name]
        low, high = found.low, found.high
        counts = units.setdefault(node.layer, [0, 0, 0, 0])
        counts[0] += len(low)
        counts[1] += int(((low == 0) & (high == 0)).sum())
        counts[2] += int(((low == high) & (high != 0)).sum())
        counts[3] += int((low > 0).sum()) if rectifies(node) else 0
    rows = []
    for layer in network.layers:
        count, dead, constant, always = units.get(layer.name, [0, 0, 0, 0])
        names = [name for name in (layer.weight, layer.bias) if name is not None]
        rows.append(
            {
                "layer": layer.name,
                "kind": layer.kind,
                "inputs": before[layer.name],
                "outputs": layer.weight_shape[layer.output_axis],
                "parameters": layer.parameters,
                "bytes": sum(sizes[name] for name in names),
                "macs": layer.macs,
                "units": count,
                "dead": dead,
                "constant": constant,
                "always_on": always,
            }
        )
    return pl.DataFrame(rows, schema=_LAYERS)


_LAYERS: dict[str, Any] = {
    "layer": pl.String,
    "kind": pl.String,
    "inputs": pl.List(pl.String),
    **dict.fromkeys(("outputs", "parameters", "bytes", "macs", "units", "dead", "constant", "always_on"), pl.Int64),
}


def layers_before(network: Network) -> dict[str, list[str]]:
    """For each layer the last ones before it on every way to it, in order of execution.

    A way round some layers, as the identity of a residual block, adds none: those of the block come later on the way.
    """
    applies = {node: layer.name for layer in network.layers for node in layer.nodes}
    order = {layer.name: number for number, layer in enumerate(network.layers)}
    sources: dict[str, frozenset[str]] = {}
    before: dict[str, set[str]] = {layer.name: set() for layer in network.layers}
    for node in network.program.nodes:
        reached = frozenset().union(*(sources.get(entry.name, frozenset()) for entry in node.inputs))
        if node.name in applies:
            before[applies[node.name]] |= reached
            reached = frozenset({applies[node.name]})
        sources[node.name] = reached
    ancestors: dict[str, set[str]] = {}
    nearest: dict[str, list[str]] = {}
    for name in order:
        direct = {other for other in before[name] if order[other] < order[name]}
        further = set().union(*(ancestors[other] for other in direct))
        ancestors[name] = direct | further
        nearest[name] = sorted(direct - further, key=order.__getitem__)
    return nearest


def answer_tables(answers: AnswersResult, samples: Samples) -> dict[str, pl.DataFrame]:
    """Accuracy by class, confusions, calibration, and the surest mistakes of a classifier."""
    confusion = answers.confusion.sum(0)
    names = [_class_name(samples, number) for number in range(len(confusion))]
    counts = confusion.sum(1) + answers.unanswered
    right = confusion.diagonal()
    intervals = [wilson(int(r), int(n)) if n else (None, None) for r, n in zip(right, counts, strict=True)]
    classes = pl.DataFrame(
        {
            "class": names,
            "images": counts,
            "right": right,
            "accuracy": [r / n if n else None for r, n in zip(right.tolist(), counts.tolist(), strict=True)],
            "accuracy_low": [low for low, _ in intervals],
            "accuracy_high": [high for _, high in intervals],
            "predicted": confusion.sum(0),
        },
        strict=False,
    )
    true, predicted = np.nonzero(confusion)
    table = pl.DataFrame(
        {
            "class": [names[k] for k in true],
            "predicted": [names[k] for k in predicted],
            "images": confusion[true, predicted],
        },
        schema={"class": pl.String, "predicted": pl.String, "images": pl.Int64},
    )
    bins = answers.bins
    calibration = pl.DataFrame(
        {
            "from": np.arange(len(bins)) / len(bins),
            "to": np.arange(1, len(bins) + 1) / len(bins),
            "images": bins[:, 0].astype(np.int64),
            "confidence": bins[:, 1] / np.maximum(bins[:, 0], 1),
            "accuracy": bins[:, 2] / np.maximum(bins[:, 0], 1),
        }
    ).filter(pl.col("images") > 0)
    rows = [
        (int(sample), names[int(label)], names[int(answer)], float(confidence))
        for confidence, sample, label, answer in answers.mistakes
    ]
    mistakes = pl.DataFrame(
        rows,
        schema={"image": pl.Int64, "class": pl.String, "predicted": pl.String, "confidence": pl.Float64},
        orient="row",
    )
    return {"classes": classes, "confusion": table, "calibration": calibration, "mistakes": mistakes}


def _class_name(samples: Samples, number: int) -> str:
    return samples.classes[number] if number < len(samples.classes) else str(number)


def _measures(layers: pl.DataFrame) -> pl.DataFrame:
    """Parameters, bytes, multiply-accumulates and dead units of each layer."""
    rows = [
        (row["layer"], measure, float(row[measure]), None, None, "")
        for row in layers.iter_rows(named=True)
        for measure in ("parameters", "bytes", "macs", "dead")
        if measure != "dead" or row["units"]
    ]
    return pl.DataFrame(rows, schema=MEASURE_SCHEMA, orient="row")


def _findings(tables: dict[str, pl.DataFrame], samples: Samples | None, task: Task | None) -> list[str]:
    if samples is None or task is None:
        return [Finding("The samples have no labels that fit the network's outputs, so there is no score.", 0.0)]
    row = tables["score"].row(0, named=True)
    half = (row["score_high"] - row["score_low"]) / 2
    share = task.column in ("top1", "agreement")
    scale, sign = (100, " %") if share else (1, "")
    sentence = (
        f"{task.unit[:1].upper()}{task.unit[1:]} is {scale * row['score']:.{1 if share else 3}f}{sign} "
        f"± {scale * half:.{1 if share else 3}f} on {plural(row['images'], samples.noun)}."
    )
    return [Finding(sentence, 0.5)]  # it heads the page
