"""Where a classifier is wrong, in charts and pictures; and what the samples themselves have that is wrong."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float64, Int64

from netopsy.charts import bars, curve, heatmap
from netopsy.engine.observe.tally import without_padding
from netopsy.pictures.mosaic import below, beside, caption, fit_side
from netopsy.result import Alert, Figure, Image, Level, Panel, Passage, Texts
from netopsy.samples.samples import Samples
from netopsy.stats.hypothesis_tests import paired_difference, wilson
from netopsy.studies.baseline.trials import Evidence
from netopsy.tallies.collect import digest_rows
from netopsy.wording import capital, listing, plural

_MAPPED = 20  # classes up to which their confusions are a map, and pairs of more that are shown
_SHOWN = 40  # classes whose accuracy is shown
_TILE, _ACROSS = 112, 6  # pixels of a picture, and pictures in a row
_LEVEL, _CALIBRATED = 1e-3, 0.01  # of the tests
_DRAWS = 2000  # of the outcomes that a calibrated network would have
_FAR, _HOT, _OFTEN = 0.1, 3.3, 10  # calibration error, temperature and share of errors unforeseen: more than usual
_MOST = 50_000  # images of the training set that are looked at
_NEAR = 3.0  # mean difference of pixels 0..255 between two pictures that count as one
_GUESSES = 12  # pictures of one outline that are compared


def answer_figures(tables: Mapping[str, pl.DataFrame], noun: str) -> dict[str, Figure]:
    """Confusions, calibration, and accuracy by class."""
    figures = {}
    classes = tables["classes"].filter((pl.col("images") > 0) | (pl.col("predicted") > 0))
    confusion = tables["confusion"].join(tables["classes"].select("class", of="images"), on="class")
    confusion = confusion.with_columns(share=pl.col("images") / pl.col("of"))
    wrong = confusion.filter(pl.col("class") != pl.col("predicted"))
    if classes.height <= _MAPPED:
        names = classes["class"].to_list()
        cells = pl.DataFrame([(a, b) for a in names for b in names], schema=["class", "predicted"], orient="row")
        cells = cells.join(confusion, on=["class", "predicted"], how="left", maintain_order="left")
        cells = cells.with_columns(pl.col("share", "images").fill_null(0))
        words = [_share_label(share) for share in cells["share"]]
        figures["confusion"] = heatmap(
            cells.with_columns(label=pl.Series(words, dtype=pl.String)), "predicted", "class", "share",
            title="Confusions", percent=True, marks="label" if len(names) <= 12 else None,
            reading=f"A row is a class, a cell the share of its {noun}s predicted so, in %; the diagonal is right.",
        )  # fmt: skip
    elif wrong.height:
        pairs = wrong.sort("images", "share", descending=True, maintain_order=True).head(_MAPPED)
        pairs = pairs.with_columns(pair=pl.col("class") + pl.lit(", taken for ") + pl.col("predicted"))
        figures["confusion"] = bars(
            pairs, "pair", "images", title="The most confused classes", category_title="", value_title=f"{noun}s",
            reading=f"How many {noun}s of the first class are taken for the second.",
        )  # fmt: skip
    calibration = tables["calibration"]
    if calibration.height:
        spans = [wilson(round(a * n), n) for a, n in calibration.select("accuracy", "images").iter_rows()]
        measured = calibration.with_columns(
            low=pl.Series([low for low, _ in spans]),
            high=pl.Series([high for _, high in spans]),
            line=pl.lit("network"),
        ).select("confidence", "accuracy", "low", "high", "line")
        ideal = pl.DataFrame({"confidence": [0.0, 1.0], "accuracy": [0.0, 1.0]}).with_columns(
            low=pl.col("accuracy"), high=pl.col("accuracy"), line=pl.lit("calibrated")
        )
        figures["reliability"] = curve(
            pl.concat([measured, ideal]), "confidence", "accuracy", color="line", low="low", high="high", percent=True,
            percent_x=True, title="Calibration", color_title="",
            reading="Accuracy against the probability of the prediction. Below the diagonal the network is too sure.",
            source="Guo et al., On Calibration of Modern Neural Networks, ICML 2017, Figure 1",
        )  # fmt: skip
    by_class = tables["classes"].filter(pl.col("images") > 0).sort("accuracy", "class", maintain_order=True)
    if by_class.height > 1:
        some = f"the {_SHOWN} lowest of {by_class.height:,}" if by_class.height > _SHOWN else "lowest first"
        figures["classes"] = bars(
            by_class.head(_SHOWN), "class", "accuracy", low="accuracy_low", high="accuracy_high", percent=True,
            title="Accuracy by class", category_title="",
            reading=f"Share of each class's {noun}s that are right, with its 95 % interval; {some}.",
        )  # fmt: skip
    return figures


def _share_label(share: float) -> str | None:
    """What stands in a cell: whole per cent, `<1` for less, nothing for none."""
    return None if not share else "<1" if share < 0.005 else f"{100 * share:.0f}"


def mistake_pictures(mistakes: pl.DataFrame, samples: Samples) -> dict[str, Image] | dict[str, Texts]:
    """The surest mistakes: pictures under captions, or words where a sample has no picture."""
    if not mistakes.height:
        return {}
    rows = list(mistakes.iter_rows(named=True))
    words = [f"{row['class']}, taken for {row['predicted']}, {row['confidence']:.2f}" for row in rows]
    pictures = [samples.thumbnail(row["image"]) for row in rows]
    title = "The surest mistakes"
    reading = f"Each {samples.noun} with its class, the prediction, and the probability of that."
    if any(picture is None for picture in pictures):
        passages = tuple(
            Passage((samples.title(row["image"]),), (0.0,), note=word) for row, word in zip(rows, words, strict=True)
        )
        return {"mistakes": Texts({"": passages}, title, reading)}
    tiles = [_tile(picture, word) for picture, word in zip(pictures, words, strict=True) if picture is not None]
    lines = [beside(tiles[start : start + _ACROSS], 6) for start in range(0, len(tiles), _ACROSS)]
    alt = f"{plural(len(tiles), samples.noun)} that the network gets wrong: {listing(words, 3)}"
    panel = Panel("mistakes", [picture for picture in pictures if picture is not None], notes=tuple(words))
    return {"mistakes": Image(below(lines, 6), title, reading, alt=alt, panels=(panel,))}


def _tile(picture: np.ndarray, words: str) -> np.ndarray:
    """A picture on a square of white, with a caption of two lines under it."""
    small = fit_side(picture, _TILE)
    square = np.full((_TILE, _TILE, 3), 255, np.uint8)
    top, left = ((_TILE - side) // 2 for side in small.shape[:2])
    square[top : top + small.shape[0], left : left + small.shape[1]] = small
    first, _, second = words.partition(", ")
    return below([square, caption(first, _TILE, 11), caption(second, _TILE, 11)])


def few_samples(evidence: Evidence) -> list[Alert]:
    """Too few samples for small losses: the smallest that can be claimed, where every changed answer is a loss."""
    n, row = evidence.images, evidence.score
    if row is None or evidence.task is None:
        return []
    if evidence.task.binary:
        losses = next((k for k in range(1, n + 1) if paired_difference(k, 0, n)[0] > 0), n)
        least = losses / n
    elif evidence.task.column in ("r2", "score", "cosine"):
        return []
    else:
        least = (row["score_high"] - row["score_low"]) / 2
    if not least > 0.01:
        return []
    needed = math.ceil(n * least / 0.01) if evidence.task.binary else math.ceil(n * (least / 0.01) ** 2)
    message = f"On {plural(n, evidence.noun)} no loss below {100 * least:.1f} points can be told from none."
    advice = (
        f"Give {10 ** math.floor(math.log10(needed)) * math.ceil(needed / 10 ** math.floor(math.log10(needed))):,} "
    )
    advice += f"{evidence.noun}s or more for losses of one point."
    level: Level = "warning" if least > 0.05 else "note"
    return [Alert("few-samples", level, message, advice, "", {"samples": n, "smallest_loss": least})]


def how_classes_stand(evidence: Evidence) -> list[Alert]:
    """Classes without samples, a single class, very uneven ones, and those that are never predicted."""
    labels, answers, network = evidence.labels, evidence.answers, evidence.network
    if labels is None or answers is None or not len(labels):
        return []
    counts = np.bincount(labels, minlength=network.classes)[: network.classes]
    present, noun = np.flatnonzero(counts), evidence.noun
    alerts = []
    if len(present) == 1 and network.classes > 1:
        message = f"All {plural(len(labels), noun)} are of one class, {evidence.named(int(present[0]))}."
        advice = (
            f"Give {noun}s of all {network.classes:,} classes: an accuracy over one class says nothing of the others."
        )
        return [Alert("one-class", "error", message, advice, "", {"class": int(present[0])})]
    if len(present) < network.classes:
        absent = [evidence.named(int(k)) for k in np.flatnonzero(counts == 0)]
        message = f"{len(absent):,} of {network.classes:,} classes have no {noun}s: {listing(absent, 3)}."
        advice = "No figure here says anything of them."
        alerts.append(Alert("classes-without-samples", "note", message, advice, "", {"classes": len(absent)}))
    largest, share = int(counts.argmax()), counts.max() / counts.sum()
    if (len(labels) >= 5 * len(present) and counts.max() >= 5 * np.median(counts[present])) or share >= 0.9:
        message = f"{evidence.named(largest)} has {100 * share:.0f} % of the {noun}s."
        advice = "Read the accuracy by class: the overall accuracy is mostly that class's."
        level: Level = "warning" if share >= 0.9 else "note"
        alerts.append(Alert("uneven-classes", level, capital(message), advice, "", {"share": float(share)}))
    predicted, accuracy = answers.confusion.sum((0, 1)), answers.right / max(1, answers.images)
    never = [
        int(k)
        for k in present
        if not predicted[k] and min(accuracy, 0.9) > 0 and (1 - min(accuracy, 0.9)) ** counts[k] < _LEVEL / len(present)
    ]
    if never:
        names = [f"{evidence.named(k)} ({plural(int(counts[k]), noun)})" for k in never]
        message = f"{plural(len(never), 'class is', 'classes are')} never predicted: {listing(names, 3)}."
        advice = "Check that the class is among those that the network learned, and the order of the classes."
        alerts.append(Alert("class-never-predicted", "warning", message, advice, "", {"classes": never}))
    return alerts


def calibration_test(bins: Float64[np.ndarray, "bins 3"], seed: int = 0) -> tuple[float, float, float]:
    """(expected calibration error, its mean if the network were calibrated, p) by consistency resampling.

    bins: samples, sum of their confidence, and how many are right. In each draw a sample of a bin is right with the
    bin's mean confidence. Source: Broecker & Smith, "Increasing the reliability of reliability diagrams", Weather and
    Forecasting 22 (2007).
    """
    counts, confidence, right = bins[bins[:, 0] > 0].T
    total = counts.sum()
    if not total:
        return 0.0, 0.0, 1.0
    error = float(np.abs(confidence - right).sum() / total)
    draws = np.random.default_rng(seed).binomial(
        counts.astype(np.int64), (confidence / counts).clip(0, 1), (_DRAWS, len(counts))
    )
    errors = np.abs(confidence - draws).sum(1) / total
    return error, float(errors.mean()), float((1 + (errors >= error - 1e-12).sum()) / (1 + _DRAWS))


def miscalibrated(evidence: Evidence) -> list[Alert]:
    """Probabilities that are surer, or less sure, than the network is right."""
    answers = evidence.answers
    if answers is None:
        return []
    error, usual, p = calibration_test(answers.bins)
    counted, confidence, right = answers.bins.sum(0)
    over, temperature = bool(confidence > right), answers.temperature
    wrong, foreseen = counted - right, counted - confidence
    hot = over and ((temperature >= _HOT and wrong >= 3) or wrong >= _OFTEN * foreseen)
    if p > _CALIBRATED or (error - usual < 0.02 and not hot):
        return []
    message = (
        f"The network is {'over' if over else 'under'}confident: its mean probability is "
        f"{100 * confidence / counted:.1f} % and its accuracy {100 * right / counted:.1f} % "
        f"(expected calibration error {100 * error:.1f} %)."
    )
    advice = f"Divide the outputs by {temperature:.2g} before using them as probabilities; the predictions stay."
    level: Level = "warning" if error - usual >= _FAR or hot else "note"
    figures = {"error": error, "by_chance": usual, "p": p, "temperature": temperature}
    return [Alert("miscalibrated", level, message, advice, "", figures)]


def repeated_samples(evidence: Evidence) -> list[Alert]:
    """Samples that are there more than once, and those of them that have different labels."""
    digests, samples = evidence.digests, evidence.samples
    if digests is None or samples is None or len(digests) < 2:
        return []
    groups = _groups(digests, samples)
    copies = sum(len(group) - 1 for group in groups)
    if not copies:
        return []
    labels = samples.labels if samples.labelled else None
    clash = [g for g in groups if labels is not None and len(np.unique(labels[g], axis=0)) > 1]
    many = samples.kind in ("image", "series") and copies > 0.01 * len(samples)
    noun, (one, two) = samples.noun, groups[0][:2]
    message = f"{copies:,} of {plural(len(samples), noun)} are copies of others, as {noun} {two} is of {noun} {one}."
    advice = "Remove them: intervals are narrower than they should be, and mistakes count twice."
    figures = {"copies": copies, "groups": [list(map(int, group)) for group in groups[:20]]}
    alerts = [Alert("repeated-samples", "warning" if many else "note", message, advice, "", figures)]
    if clash:
        one, two = clash[0][:2]
        message = (
            f"{plural(len(clash), f'{noun} is', f'{noun}s are')} there with different labels, as {noun} {one} and "
            f"{noun} {two}."
        )
        level: Level = "warning" if samples.kind == "image" and len(clash) > 0.002 * len(samples) else "note"
        figures = {"groups": [list(map(int, group)) for group in clash[:20]]}
        alerts.append(
            Alert("conflicting-labels", level, message, "Correct the labels; one of them is wrong.", "", figures)
        )
    return alerts


def _groups(digests: Int64[np.ndarray, "samples 3"], samples: Samples) -> list[Int64[np.ndarray, " members"]]:
    """Samples that are the same, or pictures that are nearly so: each group in order, of two or more."""
    index, exact, outline = digests.T
    parent = {int(k): int(k) for k in index}

    def root(k: int) -> int:
        while parent[k] != k:
            parent[k] = parent[parent[k]]
            k = parent[k]
        return k

    def join(one: int, two: int) -> None:
        parent[max(root(one), root(two))] = min(root(one), root(two))

    for group in _equal(exact, index):
        for two in group[1:]:
            join(group[0], two)
    for half in (outline >> 32, outline & 0xFFFFFFFF) if samples.kind == "image" else ():
        for group in _equal(half, index):
            pairs = itertools.combinations(group, 2) if len(group) <= _GUESSES else ()
            for one, two in pairs:
                if root(one) != root(two) and _alike(samples, one, samples, two):
                    join(one, two)
    members: dict[int, list[int]] = {}
    for k in sorted(parent):
        members.setdefault(root(k), []).append(k)
    return [np.array(group) for group in members.values() if len(group) > 1]


def _equal(keys: Int64[np.ndarray, " n"], index: Int64[np.ndarray, " n"]) -> Iterator[list[int]]:
    """The samples that share a key, two or more."""
    order = np.lexsort((index, keys))
    for group in np.split(index[order], np.flatnonzero(np.diff(keys[order])) + 1):
        if len(group) > 1:
            yield group.tolist()


def _alike(first: Samples, one: int, second: Samples, two: int) -> bool:
    """Whether two pictures differ by no more than a new encoding would."""
    small = [torch.from_numpy(np.array(s.image(k), np.float32)) for s, k in ((first, one), (second, two))]
    if small[0].shape[2] != small[1].shape[2]:
        return False
    size = (min(s.shape[0] for s in small), min(s.shape[1] for s in small))
    fields = [torch.nn.functional.adaptive_avg_pool2d(s.permute(2, 0, 1), size) for s in small]
    return float((fields[0] - fields[1]).abs().mean()) <= _NEAR


def seen_in_training(evidence: Evidence) -> list[Alert]:
    """Samples that are in the training set too; without one, samples that are called so."""
    samples, train, digests = evidence.samples, evidence.train, evidence.digests
    if samples is None:
        return []
    if train is None or digests is None:
        if not re.search(r"(?<![a-z])train(ing)?(?![a-z])", samples.name.lower()):
            return []
        message = f"The score is of '{samples.name}', which by its name the network was trained on."
        return [Alert("scored-on-train", "note", message, f"Give {samples.noun}s that it has not seen: --split test.")]
    chosen = train.subset(min(len(train), _MOST))
    network = evidence.network
    rows = [
        digest_rows(
            tuple(
                without_padding(network.node(name), values, masks, batch.indices, True)[0]
                if (masks := batch.masks_along(network.node(name)))
                else values
                for name, values in batch.inputs.items()
            )
        )
        for batch in chosen.batches(network.preprocessing, 64)
    ]
    table = torch.cat(rows).numpy()
    same = np.isin(digests[:, 1], table[:, 0])
    if samples.kind == "image":
        places: dict[int, list[int]] = {}
        for shift in (32, 0):  # either half of the outline
            places.clear()
            for place, half in enumerate((table[:, 1] >> shift & 0xFFFFFFFF).tolist()):
                places.setdefault(half, []).append(place)
            for row in np.flatnonzero(~same):
                near = places.get(int(digests[row, 2] >> shift & 0xFFFFFFFF), [])
                alike = (_alike(samples, int(digests[row, 0]), chosen, k) for k in near)
                same[row] = len(near) <= _GUESSES and any(alike)
    seen = digests[same, 0]
    if not len(seen):
        return []
    share = len(seen) / len(digests)
    message = (
        f"{len(seen):,} of {plural(len(digests), samples.noun)} ({100 * share:.1f} %) are in the training set too, as "
        f"{samples.noun} {seen[0]}."
    )
    level: Level = "error" if share > 0.05 else "warning" if share > 0.01 else "note"
    advice = "Score on others: on what it has seen, a network is better than it is."
    return [Alert("seen-in-training", level, message, advice, "", {"samples": len(seen), "share": share})]


def what_loading_left_out(evidence: Evidence) -> list[Alert]:
    """What was cut off the samples, and what loading the network chose or left out."""
    alerts = []
    for note in getattr(evidence.samples.records, "notes", ()) if evidence.samples is not None else ():
        numbers = [int(n.replace(",", "")) for n in re.findall(r"\d[\d,]*", note)][:2]
        most = len(numbers) == 2 and "longer" in note and numbers[0] > numbers[1] / 2
        advice = "Give a greater --length, where the network takes it." if "longer" in note else ""
        alerts.append(Alert("samples-cut", "warning" if most else "note", f"{capital(note)}.", advice))
    notes: Any = evidence.network.provenance.get("notes", ())
    return [*alerts, *(Alert("loading-note", "note", f"{capital(str(note))}.") for note in notes)]
