"""The tables, figures and sentences of the study `prescribe`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from netopsy.charts import bars, curve, heatmap
from netopsy.codec.file import sizes
from netopsy.deep_compression.save import ALL, HEADER, OTHER
from netopsy.network.layers import Layer
from netopsy.network.network import Network
from netopsy.result import Figure, Finding
from netopsy.studies.prescribe.cells import Groups
from netopsy.studies.prescribe.knapsack import Budget
from netopsy.studies.prescribe.plan import Prescription
from netopsy.studies.sweep_report import Measure
from netopsy.wording import listing, number, percent, points, size

CURVE = 60  # points of the predicted path that the table holds besides the measured ones

_LAYERS: dict[str, Any] = {
    "layer": pl.String,
    "weights": pl.Int64,
    "how": pl.String,
    "density": pl.Float64,
    "entries": pl.Int64,
    "bits": pl.Float64,
    "bytes": pl.Int64,
    "share": pl.Float64,
    "noise": pl.Float64,
    "predicted": pl.Float64,
    "sensitivity": pl.Float64,
}


def layer_table(network: Network, layers: Sequence[Layer], prescription: Prescription, path: Path) -> pl.DataFrame:
    """A row a layer, then the other values, the header and all; `bytes` sum to the size of the file.

    how: as it is, lossless, uniform, kmeans or a format in groups such as int4_group64. density: share of weights that
    are not 0. entries: of the table. bits: in the file, positions, codes and scales of groups, a weight. share: bytes
    of float32. noise: squared error of the layer's outputs over their square. predicted: its share of the expected
    divergence, in nats. sensitivity: divergence a noise.
    """
    allocation, stored = prescription.allocation, sizes(path)
    chosen = prescription.joint.taken(allocation)
    by_name = {row["name"]: row for row in stored}
    rows = []
    for layer in layers:
        one, row = chosen[layer.name], by_name[layer.weight]
        whole = row["kind"] != "shared" or isinstance(one.cells, Groups)
        coded = row["bytes"] if whole else row["positions"] + row["codes"]
        loss = prescription.losses[layer.name][allocation.choice[layer.name]]
        rows.append(
            {
                "layer": layer.name,
                "weights": row["values"],
                "how": one.kind,
                "density": one.density,
                "entries": one.entries or None,
                "bits": 8 * coded / row["values"],
                "bytes": row["bytes"],
                "share": row["bytes"] / (4 * row["values"]),
                "noise": one.noise,
                "predicted": loss,
                "sensitivity": _sensitivity_table(prescription, layer.name),
            }
        )
    rest = [row for row in stored if row["kind"] != "header" and row["name"] not in {one.weight for one in layers}]
    values, size = sum(row["values"] for row in rest), sum(row["bytes"] for row in rest)
    header, weights = stored[-1]["bytes"], sum(row["values"] for row in stored)
    rows.append({"layer": OTHER, "weights": values, "bytes": size, "share": size / (4 * values) if values else None})
    rows.append({"layer": HEADER, "bytes": header})
    total = path.stat().st_size
    loss = sum(row.get("predicted", 0.0) for row in rows)
    rows.append({"layer": ALL, "weights": weights, "bytes": total, "share": total / (4 * weights), "predicted": loss})
    return pl.DataFrame(rows, schema=_LAYERS)


def promise_table(found: Prescription, confidence: float, path: Path) -> pl.DataFrame:
    """One row: the budget and its confidence, what was counted of the choice, the margin, the bytes and their price.

    how: `certified` by counting, or `exact`: nothing in the file differs from the network. images: that certify;
    losses, gains: those of them right before and wrong after, and the other way round. drop_low, drop_high: the 95 %
    interval of `drop`; of a budget in nats the drop is the rise of the loss. bound: on as many new images as report;
    margin: it less the drop. bytes_by_count: of the file that the count alone would choose, estimated. price: bytes
    over these, less 1. least_budget: the smallest that so many images certify, where they show no loss. Drops and
    budgets are shares, or nats (`unit`).
    """
    chosen, by_count, total = found.chosen, found.by_count, path.stat().st_size
    scores = found.trials[0].scores if chosen is None else chosen.scores
    exact = chosen is None or chosen.unchanged
    bound = 0.0 if chosen is None else chosen.bound
    nothing = dict.fromkeys(("losses", "gains"), 0) | dict.fromkeys(("drop", "drop_low", "drop_high"), 0.0)
    by = found.budget.by
    counted = nothing if exact else {key: scores[key.replace("drop", by)] for key in nothing}
    smaller = float(total)
    if by_count is not None:
        smaller = by_count.allocation.bytes + found.rest
        if chosen is not None:  # what both leave out, as the header, is added
            smaller += total - chosen.allocation.bytes - found.rest
    row = {
        "budget": found.budget.amount,
        "unit": "nats" if by == "rise" else "share",
        "confidence": confidence,
        "how": "exact" if exact else "certified",
        "images": scores["images"],
        **counted,
        "bound": bound,
        "margin": bound - counted["drop"],
        "bytes": total,
        "bytes_by_count": round(smaller),
        "price": total / smaller - 1,
        "least_budget": found.least_budget,
    }
    return pl.DataFrame([row], schema_overrides=dict.fromkeys(("losses", "gains"), pl.Int64))


def path_table(prescription: Prescription, scores: pl.DataFrame) -> pl.DataFrame:
    """The trade-off: a row a point of the path, from the largest file to the smallest.

    bytes: estimated, with all values. predicted_divergence, predicted: before all layers were rounded together;
    predicted is a drop. divergence, drop, drop_low, drop_high, expected, bound: of the certifying images, null where
    they were not counted; bound is that of the drop on new images. chosen: the point that became the file.
    """
    measured = {trial.place: trial for trial in prescription.trials}
    last = len(prescription.path) - 1
    even = {round(i * last / max(1, CURVE - 1)) for i in range(CURVE)}
    keys = ("divergence", "losses", "gains", "drop", "drop_low", "drop_high", "expected", "images")
    chosen = None if prescription.chosen is None else prescription.chosen.place
    rows = []
    for place in sorted(even | set(measured)):
        allocation, trial = prescription.path[place], measured.get(place)
        row: dict[str, Any] = {
            "bytes": allocation.bytes + prescription.rest,
            "predicted_divergence": allocation.loss,
            "predicted": prescription.exchange.drop(allocation.loss),
        }
        row |= {
            key: None if trial is None else trial.scores[key.replace("drop", prescription.budget.by)] for key in keys
        }
        row |= {"bound": None if trial is None else trial.bound, "chosen": place == chosen}
        rows.append(row)
    whole = dict.fromkeys(("losses", "gains", "images"), pl.Int64)
    floats = {name: pl.Float64 for name in rows[0] if name not in whole and name != "chosen"}
    return pl.DataFrame(rows, schema={**floats, **whole, "chosen": pl.Boolean}).select(list(rows[0]))


def _sensitivity_table(prescription: Prescription, name: str) -> float | None:
    """Divergence a noise where the noise is small: of the layer's least noise that was measured."""
    table = prescription.sensitivity
    rows = table.filter(pl.col("layer") == name).sort("noise") if table.height else table
    return float(rows["divergence"][0] / rows["noise"][0]) if rows.height else None


_SOURCE = "after Han et al., ICLR 2016"
ENDS = ("low", "high")
BITS = (0.5, 1, 1.5, 2, 2.5, 3, 4, 5, 6)


def figures(tables: dict[str, pl.DataFrame], prescription: Prescription) -> dict[str, Figure]:
    """trade_off: size against drop. layers: bits a weight. sensitivity: what fewer bits in each layer do."""
    charts = {
        "trade_off": _trade_off(tables["path"], tables["scores"], prescription.budget),
        "layers": _layers(tables["layers"]),
    }
    if tables["sensitivity"].height:
        charts["sensitivity"] = _sensitivity_figure(prescription)
    return charts


def _trade_off(path: pl.DataFrame, scores: pl.DataFrame, budget: Budget) -> Figure:
    kilo = (pl.col("bytes") / 1000).alias("kB")
    far = max(4 * budget.amount, 0.02)
    file = scores.filter(pl.col("version") == "prescribed")
    near = path.filter((pl.col("predicted") <= far) & (pl.col("bytes") <= 3 * file["bytes"][0]))
    parts = [near.select(kilo, pl.col("predicted").alias("drop"), what=pl.lit("predicted, one layer at a time"))]
    tried = path.drop_nulls("drop").filter(pl.col("bytes") <= 3 * file["bytes"][0])
    for name, what in (("drop", "counted, all layers together"), ("bound", "bound on new samples")):
        parts.append(tried.filter(pl.col(name) <= 2 * far).select(kilo, drop=name, what=pl.lit(what)))
    parts.append(file.select(kilo, drop=budget.by, what=pl.lit("the file, on the other half")))
    return curve(
        pl.concat(parts),
        "kB",
        "drop",
        color="what",
        title="Size against accuracy" if budget.unit == "top-1 accuracy" else f"Size against {budget.unit}",
        reading=f"Left: a smaller file. Up: more {budget.unit} is {'lost' if budget.by == 'drop' else 'added'}. The "
        "dashed line is the budget.",
        source=_SOURCE,
        percent=budget.by == "drop" and budget.measure.share,
        log_x=True,
        x_title="size in kB",
        y_title="drop of top-1" if budget.unit == "top-1 accuracy" else f"{budget.by} of {budget.unit}",
        color_title="drop",
        reference=budget.amount,
        reference_label="budget",
    )


def _layers(layers: pl.DataFrame) -> Figure:
    rows = layers.filter(~pl.col("layer").is_in([OTHER, HEADER, ALL]))
    return bars(
        rows,
        "layer",
        "bits",
        title="Bits per weight of each layer",
        reading="Of 32 in float32; a short bar is a layer that compresses well. Layers run from the input (top) down.",
        source=_SOURCE,
        value_title="bits per weight in the file",
    )


def _sensitivity_figure(prescription: Prescription) -> Figure:
    rows = []
    for name, choices in prescription.choices.items():
        noisy = [(one, loss) for one, loss in zip(choices, prescription.losses[name], strict=True) if one.noise > 0]
        for bits in BITS if noisy else ():
            one, loss = min(noisy, key=lambda pair: abs(pair[0].bits - bits))
            if abs(one.bits - bits) <= 0.5:
                cell = {"layer": name, "bits per weight, about": f"{bits:g}", "nats": math.log10(max(loss, 1e-6))}
                rows.append({**cell, "order": bits})
    frame = pl.DataFrame(rows).sort("order", maintain_order=True)
    return heatmap(
        frame,
        "bits per weight, about",
        "layer",
        "nats",
        title="What fewer bits in each layer do to the outputs",
        reading="Each layer is rounded alone, to fewer bits on the left. Bright: the network's outputs diverge more "
        "(log10 of nats per image; -2 is little, 0 is much). White: no table has so many bits.",
        source=_SOURCE,
        value_title="log10 of divergence",
        labels=False,
    )


_NAMED = 3


def findings(
    network: Network, tables: dict[str, pl.DataFrame], prescription: Prescription, where: str
) -> list[Finding]:
    """Plain sentences, the most important first. where: the file, as a reader finds it."""
    before, after = tables["scores"].to_dicts()
    layers, promise = tables["layers"], tables["promise"].row(0, named=True)
    budget = prescription.budget
    total = layers.filter(pl.col("layer") == ALL).row(0, named=True)
    return [
        Finding(_head(network, total, after, promise, budget), min(5.0, 0.25 / total["share"])),
        *(
            _promise_sentences(promise, budget)
            if prescription.chosen
            else _refusal_sentences(prescription, promise, after["images"])
        ),
        *_verdict(after, promise, budget),
        *(_most_and_least(layers) if prescription.chosen else ()),
        *_prediction_sentence(prescription),
        _scores_sentence(before, after, budget.measure),
        *(_exceptions(layers) if prescription.chosen else ()),
        Finding(f"The file is saved as {where}; it was read back, and these are its scores.", 0.0),
    ]


def _scores_sentence(before: dict[str, Any], after: dict[str, Any], measure: Measure) -> Finding:
    scores = f"{measure.score(after[measure.column])}, the unedited network {measure.score(before[measure.column])}"
    text = f"On the {measure.samples(after['images'])} that report, the file scores {scores}"
    text += "" if measure.unit == "top-1 accuracy" else f" ({measure.unit})"
    if measure.tokens:
        text += f", with a loss of {number(after['loss'])} and {number(before['loss'])} nats per token"
    if measure.column != "agreement" and after.get("agreement") is not None:
        text += f"; they agree on {percent(after['agreement'])} of the predictions"
    return Finding(f"{text}.", 0.5)


def _head(
    network: Network, total: dict[str, Any], after: dict[str, Any], promise: dict[str, Any], budget: Budget
) -> str:
    smaller = f"1/{1 / total['share']:.1f} of float32 ({size(4 * total['weights'])})"
    fits = f"{network.name} fits into {size(total['bytes'])}, {smaller}, without training"
    if promise["how"] == "exact":
        return f"{fits} and without any loss."
    return (
        f"{fits}: it loses {budget.words(after[budget.by])} of {budget.unit} (95 % interval {budget.interval(after)}) "
        f"on {budget.measure.samples(after['images'])} that were not used to choose, with a budget of "
        f"{budget.words(promise['budget'])}."
    )


def _promise_sentences(promise: dict[str, Any], budget: Budget) -> list[Finding]:
    """What is promised, from what was counted, and what the confidence costs."""
    if promise["how"] == "exact":
        return [Finding("The file changes no weight, so it keeps any budget.", 1.0)]
    noun, words, images = budget.measure.noun, budget.words, budget.measure.samples(promise["images"])
    interval = budget.interval(promise if budget.by == "drop" else {f"rise_{k}": promise[f"drop_{k}"] for k in ENDS})
    lost = f"{words(promise['drop'])} (95 % interval {interval})"
    counted = f"On {images} kept apart it loses {lost} on average."
    if promise["losses"] is not None:
        changed = f"{promise['losses']:,} predictions become wrong and {promise['gains']:,} right"
        counted = f"On {images} kept apart {changed}: a drop of {lost}."
    if promise["confidence"] == 0:
        return [Finding(f"{counted} This count alone decided; other {noun}s may lose more.", 0.9)]
    text = (
        f"With {percent(promise['confidence'])} confidence it loses at most {words(promise['bound'])} on as many new "
        f"{noun}s as report, a margin of {words(promise['margin'])}. {counted}"
    )
    findings = [Finding(text, min(5.0, promise["budget"] / max(promise["bound"], 1e-9)))]
    if (price := promise["bytes"] - promise["bytes_by_count"]) > 0:
        text = f"This confidence costs {size(price)} ({percent(promise['price'])}): the count alone would choose about "
        findings.append(Finding(f"{text}{size(promise['bytes_by_count'])}.", 0.5))
    return findings


def _refusal_sentences(found: Prescription, promise: dict[str, Any], reporting: int) -> list[Finding]:
    """Why no smaller file can be certified, and what would help."""
    least, asked, budget = found.least_budget, promise["budget"], found.budget
    noun, words = budget.measure.noun, budget.words
    images = budget.measure.samples(promise["images"])
    if asked < least - 1e-12:
        wanted = "" if asked <= 0 else f"about {math.ceil(least / asked) * 2 * reporting:,} {noun}s, "
        why = f"{images} without a single lost prediction still leave a drop of {words(least)} possible"
        advice = f"Give {wanted}a budget of at least {words(least)}"
    else:
        gentlest = found.trials[0]
        why = (
            f"on {images} the gentlest file {'loses' if budget.by == 'drop' else 'adds'} {words(gentlest.lost)}, and "
            f"at most {words(gentlest.bound)} on new ones"
        )
        advice = f"Give more {noun}s, a larger budget"
    text = (
        f"No smaller file can be certified to keep a budget of {words(asked)} with {percent(promise['confidence'])} "
        f"confidence: {why}. The file therefore holds the network exactly as it is."
    )
    findings = [Finding(text, 2.0), Finding(f"{advice} or a lower confidence (0 takes the count alone).", 2.0)]
    if found.by_count is not None:
        text = f"The count alone would choose about {size(promise['bytes_by_count'])}, without any confidence."
        findings.append(Finding(text, 0.5))
    return findings


def _verdict(after: dict[str, Any], promise: dict[str, Any], asked: Budget) -> list[Finding]:
    """What the interval says of the budget; and of few images, what they could show at all."""
    findings, budget = [], promise["budget"]
    if promise["how"] == "exact":
        return []
    low, high = after[f"{asked.by}_low"], after[f"{asked.by}_high"]
    if low > budget:
        text = f"That is more than the budget: the {asked.by} is at least {asked.words(low)} (95 %)."
        findings.append(Finding(text, 5.0))
    if (half := (high - low) / 2) > budget:
        one = "" if promise["losses"] is None else f", and one {asked.measure.noun} is {points(1 / after['images'])}"
        text = (
            f"{asked.measure.samples(after['images'])} cannot show a {asked.by} of {asked.words(budget)}: the interval "
            f"is {asked.words(half)} either way{one}. Give more {asked.measure.noun}s."
        )
        findings.append(Finding(text, 0.5))
    return findings


def _prediction_sentence(prescription: Prescription) -> list[Finding]:
    if prescription.chosen is None:
        return []
    loss, scores = prescription.chosen.allocation.loss, prescription.chosen.scores
    budget = prescription.budget
    drop, nats = budget.words(prescription.exchange.drop(loss)), " nats" if budget.measure.share else ""
    text = (
        f"The layers measured one at a time predict a {budget.by} of {drop} and a divergence of {number(loss)}{nats}; "
        f"all layers together give {budget.words(scores[budget.by])} and {number(scores['divergence'])}{nats} on the "
        f"{budget.measure.samples(scores['images'])} that certify."
    )
    return [Finding(text, 0.5)]


def _most_and_least(layers: pl.DataFrame) -> list[Finding]:
    """Which layers need fewest and most bits; none where all need as many."""
    rows = layers.filter(~pl.col("layer").is_in([OTHER, HEADER, ALL])).sort("bits", maintain_order=True)
    count = min(_NAMED, rows.height // 2)
    if not count or f"{rows['bits'][0]:.1f}" == f"{rows['bits'][-1]:.1f}":
        return []
    most = [_bits(row) for row in rows.head(count).to_dicts()]
    least = [_bits(row) for row in rows.tail(count).reverse().to_dicts()]
    verb, spread = "compresses" if count == 1 else "compress", rows["bits"][-1] / max(rows["bits"][0], 0.1)
    return [Finding(f"{listing(most)} {verb} most; {listing(least)} {verb} least.", min(5.0, spread / 2))]


def _exceptions(layers: pl.DataFrame) -> list[Finding]:
    ways = layers.select("layer", "how").drop_nulls().rows()
    groups = listing([f"{name} ({how})" for name, how in ways if "_group" in how])
    kept = listing([name for name, how in ways if how == "as it is"])
    texts = [f"Stored in groups with one scale each: {groups}."] if groups else []
    texts += [f"Kept unchanged: {kept}; no table is smaller and as good."] if kept else []
    return [Finding(text, 0.3) for text in texts]


def _bits(row: dict[str, Any]) -> str:
    return f"{row['layer']} ({row['bits']:.1f} bits per weight, {percent(row['density'])} nonzero)"
