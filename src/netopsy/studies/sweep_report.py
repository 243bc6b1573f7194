"""What a sweep's scores show: the score against the setting in figures, and in sentences which edits cost little."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import polars as pl

from netopsy.charts import curve, heatmap
from netopsy.engine.sweep.edits import Edit
from netopsy.engine.sweep.sweep import sweep_edits
from netopsy.errors import SettingsError
from netopsy.network.listing import other_parameters
from netopsy.network.network import Network
from netopsy.result import Figure
from netopsy.samples.samples import NOUNS, Samples
from netopsy.samples.tasks import MASKED_TOKEN, NEXT_TOKEN, Task, find_task
from netopsy.wording import capital, listing, plural, points

THRESHOLDS = (0.001, 0.005, 0.01)
"""Losses of score that count as small: 0.1, 0.5 and 1 point. Told where the samples suffice to tell."""
PERPLEXITY = 0.01
"""Rise of perplexity that counts as small: 1 %."""
_ROUNDING = 1e-12
FRAGILE = 3

Row = dict[str, Any]
Describe = Callable[[Row], str]
TextPair = tuple[str, str]


@dataclass(frozen=True)
class Measure:
    """What the scores of a sweep are called: in tables `column`, in sentences `unit`, and a sample `noun`.

    share: whether the score is a share, whose differences are points. tokens: whether the loss is that of the next
    token, so that its exponential is the perplexity.
    """

    column: str = "top1"
    unit: str = "top-1 accuracy"
    noun: str = "image"
    share: bool = True
    tokens: bool = False

    @property
    def band(self) -> TextPair:
        """The columns of the score's interval."""
        return f"{self.column}_low", f"{self.column}_high"

    def amount(self, difference: float) -> str:
        """A difference of scores: `1.23 points`, or `0.0123` where the score is no share."""
        return points(difference) if self.share else f"{difference + 0.0:.4g}"

    def score(self, value: float) -> str:
        """A score: `91.73%`, or `0.9173` where it is no share."""
        return f"{value:.2%}" if self.share else f"{value:.4f}"

    def samples(self, count: int) -> str:
        """`17 texts`."""
        return plural(count, self.noun)

    def interval(self, row: Row) -> str:
        """The 95 % interval of a drop."""
        low, high = (row[name] for name in ("drop_low", "drop_high"))
        return f"{100 * low + 0.0:.2f} to {100 * high + 0.0:.2f}" if self.share else f"{low + 0.0:.4g} to {high:.4g}"


_NO_SHARES = ("r2", "cosine", "score")


def measure_of(network: Network, samples: Samples, task: Task | None = None) -> Measure:
    """What the scores of `network` on `samples` are called, by their task."""
    task = task or find_task(network, samples)
    return Measure(
        column=task.column,
        unit=task.unit,
        noun=NOUNS.get(samples.kind, "sample"),
        share=task.column not in _NO_SHARES,
        tokens=task.name in (NEXT_TOKEN.name, MASKED_TOKEN.name),
    )


TOLERANCE = 0.5
"""Loss of score, in points, that sweeps decide on where time is short."""


def score_edits(
    network: Network,
    samples: Samples,
    edits: Sequence[tuple[dict[str, Any], Edit | None]],
    *,
    precision: float | None = None,
    seed: int = 0,
) -> tuple[pl.DataFrame, Measure]:
    """`sweep_edits` of a study, and what the scores are called.

    Inside `workspace(minutes=...)` samples go only to edits of which it is not clear yet whether they lose more than
    `TOLERANCE`, of a language model also whether they raise the perplexity by more than `PERPLEXITY`.
    """
    measure = measure_of(network, samples)
    rise = math.log1p(PERPLEXITY) if measure.tokens else None
    scores = sweep_edits(network, samples, edits, precision=precision, tolerance=TOLERANCE, rise=rise, seed=seed)
    return with_perplexity(scores, measure), measure


IMAGES = Measure()
"""Top-1 accuracy on images."""


@dataclass(frozen=True)
class Budget:
    """What may be lost: `amount` of the score (by `drop`, a share) or of the loss (by `rise`, nats)."""

    amount: float
    by: Literal["drop", "rise"] = "drop"
    measure: Measure = IMAGES

    @property
    def unit(self) -> str:
        """Of what is lost: `top-1 accuracy`, `nats of loss`."""
        return self.measure.unit if self.by == "drop" else "loss"

    def words(self, value: float) -> str:
        """A loss: `0.50 points`, `0.0123 nats`."""
        return self.measure.amount(value) if self.by == "drop" else f"{value + 0.0:.4f} nats"

    def interval(self, row: Row) -> str:
        """The 95 % interval of what is lost."""
        if self.by == "drop":
            return self.measure.interval(row)
        return f"{row['rise_low'] + 0.0:.4f} to {row['rise_high'] + 0.0:.4f}"


def parse_budget(given: float | str) -> Budget:
    """The budget that a user gives: points of the score (0.5), a rise of perplexity (`1%`), or nats (`0.02 nats`).

    Errors: SettingsError for anything else.
    """
    text = str(given).strip().lower().removesuffix("of perplexity").strip()
    ending = next((unit for unit in ("%", "nats", "nat", "points", "point") if text.endswith(unit)), "")
    try:
        number = float(text.removesuffix(ending))
    except ValueError:
        number = math.nan
    most = 100.0 if ending in ("", "points", "point") else math.inf
    if isinstance(given, bool) or not (0 <= number <= most and math.isfinite(number)):
        raise SettingsError(
            f"budget {given!r} must be points of the score from 0 to 100 (0.5), a rise of perplexity (1%), or nats of "
            "loss (0.02 nats)."
        )
    if ending == "%":
        return Budget(math.log1p(number / 100), "rise")
    return Budget(number, "rise") if ending.startswith("nat") else Budget(number / 100)


def with_perplexity(scores: pl.DataFrame, measure: Measure) -> pl.DataFrame:
    """`scores` with a column `perplexity` behind the loss, of language models."""
    if not measure.tokens or "loss" not in scores:
        return scores
    return scores.insert_column(scores.columns.index("loss") + 1, scores["loss"].exp().alias("perplexity"))


def perplexity_sentences(rows: pl.DataFrame, describe: Describe, superlative: str, measure: Measure) -> list[str]:
    """Which is the harshest setting that raises the perplexity by less than 1 %, as far as the texts can tell.

    rows: as `verdict` has them, of a language model, with loss, rise, rise_low and rise_high.
    """
    if not measure.tokens or rows.is_empty():
        return []
    limit = math.log1p(PERPLEXITY)
    row = _harshest(rows, pl.col("rise_high") < limit)
    if row is None:
        least = rows.sort("rise", maintain_order=True).row(0, named=True)
        return [
            f"No setting tried is sure to raise the perplexity by less than {PERPLEXITY:.0%}; the least is "
            f"{describe(least)} with {_rise(least)}."
        ]
    return [
        f"The {superlative} that raises the perplexity by less than {PERPLEXITY:.0%} is {describe(row)}: {_rise(row)}."
    ]


def _rise(row: Row) -> str:
    """`0.0031 nats a token more (95 % interval 0.001 to 0.005), a perplexity of 5.02`."""
    low, high = row["rise_low"] + 0.0, row["rise_high"] + 0.0
    more = f"{row['rise'] + 0.0:.4f} nats a token more (95 % interval {low:.4f} to {high:.4f})"
    return f"{more}, a perplexity of {math.exp(min(row['loss'], 700)):.4g}"


def setting_figures(
    rows: pl.DataFrame,
    setting: str,
    *,
    unedited: float,
    titles: TextPair,
    sources: TextPair,
    axis: Literal["share", "log", "category"],
    axis_title: str | None = None,
    band: TextPair | None = None,
    reading: str = "The dashed line is the unedited network; the band is the 95 % interval.",
    names: TextPair = ("all", "layers"),
    measure: Measure = IMAGES,
) -> dict[str, Figure]:
    """The score against a setting: a curve of all layers edited together, and a map of one layer at a time.

    rows: scores with layer (`all` for all together), the column `setting` (null: unedited, not drawn), the score, drop
    and the two columns of `band`. unedited: the score of the unedited network, drawn as a dashed line.
    titles, sources, names: of the curve and of the map. axis: `share` shows the setting in per cent, `log` on a
    logarithmic axis, `category` side by side. A figure that has no rows is left out.
    """
    edited = rows.filter(pl.col(setting).is_not_null())
    together, alone = edited.filter(pl.col("layer") == "all"), edited.filter(pl.col("layer") != "all")
    figures = {}
    if together.height:
        if axis == "category":
            together = together.with_columns(pl.col(setting).cast(pl.String))
        figures[names[0]] = curve(
            together,
            setting,
            measure.column,
            low=(band or measure.band)[0],
            high=(band or measure.band)[1],
            log_x=axis == "log",
            percent=measure.share,
            percent_x=axis == "share",
            reference=unedited,
            x_title=axis_title,
            y_title=measure.unit,
            title=titles[0],
            reading=reading,
            source=sources[0],
        )
    if alone.height:
        figures[names[1]] = heatmap(
            alone,
            setting,
            "layer",
            "drop",
            percent=measure.share,
            percent_x=axis == "share",
            value_title="points lost" if measure.share else f"{measure.unit} lost",
            title=titles[1],
            reading=f"A row a layer, in order of execution; the brighter a cell, the more {_short(measure)} is lost.",
            source=sources[1],
        )
    return figures


def _short(measure: Measure) -> str:
    return "accuracy" if measure.column == "top1" else measure.unit


def verdict(rows: pl.DataFrame, describe: Describe, superlative: str, measure: Measure = IMAGES) -> list[str]:
    """The harshest settings that lose less than 0.1, 0.5 and 1 point, as far as the samples can tell.

    A setting counts as losing less where its whole 95 % interval lies below; of losses that the samples are too few to
    show, the harshest setting is named whose interval holds 0.

    rows: scores of all layers together, from the mildest setting to the harshest, with drop, drop_low, drop_high and
    images. describe: a row's setting in words, as `K = 32`. superlative: as `smallest codebook`.
    """
    if rows.is_empty():
        return []
    known = [(threshold, _harshest(rows, pl.col("drop_high") < threshold - _ROUNDING)) for threshold in THRESHOLDS]
    sentences, unknown = [], []
    for row, group in groupby(known, key=lambda pair: pair[1]):
        thresholds = [threshold for threshold, _ in group]
        if row is not None:
            claim = f"the {superlative} that loses less than {_limits(thresholds, measure)}"
            sentences.append(f"With all layers edited, {claim} is {_setting_sentence(rows, row, describe, measure)}.")
            continue
        exceeded = [threshold for threshold in thresholds if (rows["drop_low"] >= threshold - _ROUNDING).all()]
        unknown += [threshold for threshold in thresholds if threshold not in exceeded]
        if exceeded:
            limits = _limits(exceeded, measure)
            sentences.append(f"With all layers edited, no setting tried loses less than {limits} of {measure.unit}.")
    if unknown:
        sentences.append(_too_few_samples(rows, describe, superlative, unknown, measure))
    return sentences + perplexity_sentences(rows, describe, superlative, measure)


def _harshest(rows: pl.DataFrame, which: pl.Expr) -> Row | None:
    """The last of `rows`, ordered from the mildest setting to the harshest, of those that `which` chooses."""
    chosen = rows.filter(which)
    return chosen.row(-1, named=True) if chosen.height else None


def _limits(thresholds: list[float], measure: Measure) -> str:
    """`0.1 and 0.5 points`."""
    if not measure.share:
        return listing([f"{t:g}" for t in thresholds])
    return listing([f"{100 * t:g}" for t in thresholds]) + (" point" if thresholds == [0.01] else " points")


def _too_few_samples(
    rows: pl.DataFrame, describe: Describe, superlative: str, thresholds: list[float], measure: Measure
) -> str:
    """What can be said of losses that the samples are too few to show."""
    widths = (rows["drop_high"] - rows["drop_low"]).to_list()
    half, count = min((width for width in widths if width > 0), default=0.0) / 2, max(rows["images"].to_list())
    known = f"at best it is known to {measure.amount(half)} either way (95 %)"
    if not math.isfinite(half):
        known = "one tells nothing of others"
    limit = f"{measure.samples(count)} cannot show a loss of {_limits(thresholds, measure)}: {known}."
    row = _harshest(rows, pl.col("drop_low") <= _ROUNDING)
    if row is None:
        return f"With all layers edited, every setting tried loses measurably; {limit}"
    sentence = _setting_sentence(rows, row, describe, measure)
    return f"With all layers edited, the {superlative} without a measurable loss is {sentence}; {limit}"


def _setting_sentence(rows: pl.DataFrame, row: Row, describe: Describe, measure: Measure) -> str:
    """The setting with its loss and interval, and the last milder one that loses more, if there is one."""
    lost = measure.amount(row["drop"]).removesuffix(" points")
    text = f"{describe(row)} (it loses {lost}, 95 % interval {measure.interval(row)}"
    every = rows.to_dicts()
    worse = [milder for milder in every[: every.index(row)] if milder["drop_low"] > row["drop_high"]]
    if worse:
        text += f"; the milder {describe(worse[-1])} loses {measure.amount(worse[-1]['drop']).removesuffix(' points')}"
    return text + ")"


def fragile(rows: pl.DataFrame, describe: Describe, how: str = "edited", measure: Measure = IMAGES) -> list[str]:
    """The layers that lose most when they alone are edited, by their mean loss over the settings.

    A layer that no setting hurts measurably (its intervals hold 0) is not named.

    rows: scores of one layer at a time, with layer, drop, drop_low, drop_high and images. how: what was done to the
    layers, as `rounded`.
    """
    layers = rows["layer"].unique(maintain_order=True).to_list()
    if len(layers) < 2:
        return []
    means = rows.group_by("layer", maintain_order=True).agg(
        mean=pl.col("drop").mean(), hurt=(pl.col("drop_low") > _ROUNDING).any()
    )
    hurt = means.filter("hurt").sort("mean", descending=True, maintain_order=True)
    if hurt.is_empty():
        worst, images = rows.sort("drop", maintain_order=True).row(-1, named=True), rows["images"].max()
        return [
            f"{capital(how)} one at a time, no layer of {len(layers)} loses measurably in any setting tried: the "
            "most is "
            f"{measure.amount(worst['drop'])} (95 % interval {measure.interval(worst)}) on "
            f"{measure.samples(images)}."  # type: ignore[arg-type]
        ]
    parts = []
    for row in hurt.head(FRAGILE).to_dicts():
        worst = rows.filter(pl.col("layer") == row["layer"]).sort("drop", maintain_order=True).row(-1, named=True)
        loss = f"loses {measure.amount(row['mean'])} on average, {measure.amount(worst['drop'])} with {describe(worst)}"
        parts.append(f"{row['layer']} ({loss})")
    sentence = f"Most fragile, {how} one at a time: {listing(parts)}."
    if unhurt := len(layers) - hurt.height:
        sentence += f" {unhurt} of {plural(len(layers), 'layer')} lose nothing measurable in any setting tried."
    return [sentence]


NEGLIGIBLE = 0.01
"""Share of the parameters that may belong to no layer without a word: norms."""


def with_left_out(findings: list[str], network: Network) -> list[str]:
    """`findings`, and what share of the parameters "all layers" leave out: first where it is a tenth or more."""
    others = other_parameters(network)
    total, count = max(1, network.parameters), sum(others.values())
    if count < NEGLIGIBLE * total:
        return findings
    largest = max(others, key=others.__getitem__)
    most = f"most of them in {largest} ({others[largest] / total:.1%})" if others[largest] > count / 2 else ""
    sentence = (
        f"All layers together hold {1 - count / total:.1%} of the parameters; norms, embeddings and others, "
        f"{count / total:.1%}, stay as they are{most and ', ' + most}."
    )
    return [sentence, *findings] if count >= total / 10 else [*findings, sentence]


def unchanged_settings(rows: pl.DataFrame, describe: Describe) -> list[str]:
    """Names the settings that changed no weight and so have the unedited network's score."""
    same = rows.filter(~pl.col("changed"))
    if same.is_empty():
        return []
    parts = [f"{row['layer']} with {describe(row)}" for row in same.to_dicts()]
    return [f"No weight changes, so the score is that of the unedited network: {listing(parts, 4)}."]
