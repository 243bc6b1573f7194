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
from netopsy.network.listing import other_parameters
from netopsy.network.network import Network
from netopsy.result import Figure, Finding
from netopsy.samples.samples import NOUNS, Samples
from netopsy.samples.tasks import MASKED_TOKEN, NEXT_TOKEN, Task, find_task
from netopsy.stats.hypothesis_tests import LEAST
from netopsy.studies.draws import half_width, with_bounds
from netopsy.wording import capital, hundredths, listing, number, percent, plural, points

THRESHOLDS = (0.005, 0.01)
"""Losses of score that count as small: half a point and 1 point. Named where the samples suffice to tell."""
PERPLEXITY = 0.01
"""Rise of perplexity that counts as small: 1 %."""
_ROUNDING = 1e-12
_BLIND = 0.1  # of the score: samples that cannot show so large a loss say nothing of any setting

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
        return points(difference) if self.share else number(difference)

    def score(self, value: float) -> str:
        """A score: `91.7 %`, or `0.917` where it is no share."""
        return percent(value) if self.share else number(value)

    def samples(self, count: int) -> str:
        """`17 texts`."""
        return plural(count, self.noun)

    def interval(self, row: Row, name: str = "drop") -> str:
        """A 95 % interval of a drop: over samples, or with `drop_draws` over draws."""
        spell = (lambda value: hundredths(100 * value)) if self.share else number
        return f"{spell(row[f'{name}_low'])} to {spell(row[f'{name}_high'])}"

    def span(self, row: Row) -> str:
        """`95 % interval 0.80 to 1.60`, and where something is drawn `over images`, and that over draws."""
        if not math.isfinite(row["drop_high"] - row["drop_low"]):
            return "too few samples for an interval"
        if row.get("drop_draws_low") is None:
            return f"95 % interval {self.interval(row)}"
        draws = f"{self.interval(row, 'drop_draws')} over {plural(row['draws'], 'draw')}"
        return f"95 % intervals {self.interval(row)} over {self.noun}s, {draws}"

    def loss(self, row: Row) -> str:
        """A drop with its interval: `1.23 points (95 % interval 0.80 to 1.60)`."""
        return f"{self.amount(row['drop'])} ({self.span(row)})"


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


def with_perplexity(scores: pl.DataFrame, measure: Measure) -> pl.DataFrame:
    """`scores` with a column `perplexity` behind the loss, of language models."""
    if not measure.tokens or "loss" not in scores:
        return scores
    return scores.insert_column(scores.columns.index("loss") + 1, scores["loss"].exp().alias("perplexity"))


def perplexity_sentences(rows: pl.DataFrame, describe: Describe, superlative: str, measure: Measure) -> list[Finding]:
    """Which is the harshest setting that raises the perplexity by less than 1 %, where the texts can tell.

    rows: as `verdict` has them, of a language model, with loss, rise, rise_low and rise_high.
    """
    if not measure.tokens or rows.is_empty():
        return []
    limit, rows = math.log1p(PERPLEXITY), with_bounds(rows, "rise")
    row = _harshest(rows, pl.col("high") < limit)
    if row is not None:
        text = f"{describe(row)} is the {superlative} that raises the perplexity by less than {percent(PERPLEXITY)}"
        return [Finding(capital(f"{text}: {_rise(row)}."), limit / half_width(row, "rise"))]
    if (rows["low"] < limit).any():
        return []
    least = rows.sort("rise", maintain_order=True).row(0, named=True)
    text = f"Every setting tried raises the perplexity by {percent(PERPLEXITY)} or more; the least is"
    return [Finding(f"{text} {describe(least)}: {_rise(least)}.", least["rise"] / half_width(least, "rise"))]


def _rise(row: Row) -> str:
    """`to 5.02, 0.0031 nats per token more (95 % interval 0.001 to 0.005)`."""
    span = f"95 % interval {number(row['rise_low'])} to {number(row['rise_high'])}"
    if row.get("rise_draws_low") is not None:
        draws = f"{number(row['rise_draws_low'])} to {number(row['rise_draws_high'])}"
        span = f"{span.replace('interval', 'intervals')} over texts, {draws} over {plural(row['draws'], 'draw')}"
    return f"to {number(math.exp(min(row['loss'], 700)))}, {number(row['rise'])} nats per token more ({span})"


def setting_figures(
    rows: pl.DataFrame,
    setting: str,
    *,
    unedited: float,
    titles: TextPair,
    sources: TextPair,
    axis: Literal["share", "log", "count"],
    axis_title: str | None = None,
    band: TextPair | None = None,
    reading: str = "The dashed line is the unedited network; the band is the 95 % interval.",
    names: TextPair = ("all", "layers"),
    color: str | None = None,
    measure: Measure = IMAGES,
) -> dict[str, Figure]:
    """The score against a setting: a curve of all layers edited together, and a map of one layer at a time.

    rows: scores with layer (`all` for all together), the column `setting` (null: unedited, not drawn), the score, drop
    and the two columns of `band`. unedited: the score of the unedited network, drawn as a dashed line.
    titles, sources, names: of the curve and of the map. axis: `share` shows the setting in per cent, `log` on a
    logarithmic axis, `count` on one of whole numbers. color: a column with a line for each value. A figure
    that has no rows is left out.
    """
    edited = rows.filter(pl.col(setting).is_not_null())
    together, alone = edited.filter(pl.col("layer") == "all"), edited.filter(pl.col("layer") != "all")
    figures = {}
    if together.height:
        figures[names[0]] = curve(
            together,
            setting,
            measure.column,
            color=color,
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
        figures[names[1]] = loss_map(
            alone, setting, "layer", measure, titles[1], sources[1], percent_x=axis == "share", x_title=axis_title
        )
    return figures


def loss_map(rows: pl.DataFrame, x: str, y: str, measure: Measure, title: str, source: str, **axis: Any) -> Figure:
    """What is lost as a map of cells on a scale about 0; cells whose 95 % interval holds 0 are gray.

    rows: x, y, drop, drop_low and drop_high, a row a cell. axis: as `heatmap` takes it of x.
    """
    scale = 100 if measure.share else 1
    within = (pl.col("low") <= _ROUNDING) & (pl.col("high") >= -_ROUNDING)
    holds = f"a 95 % interval, over {measure.noun}s or draws," if "drop_draws_low" in rows else "the 95 % interval"
    lost = "points lost" if measure.share else f"{measure.unit} lost"
    unit = "accuracy" if measure.column == "top1" else measure.unit
    return heatmap(
        with_bounds(rows).with_columns((pl.col("drop") * scale).alias(lost), within=within),
        x,
        y,
        lost,
        middle=0.0,
        muted="within",
        **axis,
        title=title,
        reading=f"{capital(y)}s in order of execution. Orange loses {unit}, blue gains; in gray cells {holds} holds 0.",
        source=source,
    )


def verdict(rows: pl.DataFrame, describe: Describe, superlative: str, measure: Measure = IMAGES) -> list[Finding]:
    """The harshest settings that lose less than 0.5 and 1 point, or, where the samples cannot tell, nothing measurable.

    A setting counts as losing less where its whole 95 % interval lies below, of draws the wider one of its two. A
    threshold that samples or draws are too few for is not named: then it is the harshest setting whose interval holds
    0. Of fewer than three draws nothing is concluded.

    rows: scores of all layers together, from the mildest setting to the harshest, with drop, drop_low, drop_high and
    images, of draws as `over_draws` gives them. describe: a row's setting in words, as `K = 32`. superlative: as
    `smallest codebook`.
    """
    if rows.is_empty():
        return []
    rows = with_bounds(rows)
    if not (rows["high"] - rows["low"]).is_finite().any():
        return [_too_few(rows, describe, measure)]
    known = [(t, _harshest(rows, pl.col("high") < t - _ROUNDING)) for t in THRESHOLDS]
    findings = []
    for row, group in groupby(known, key=lambda pair: pair[1]):
        if row is not None:
            threshold = next(t for t, _ in group)
            limit = f"{threshold:g}" if not measure.share else plural(1, "point") if threshold == 0.01 else "0.5 points"
            claim = f"{describe(row)} is the {superlative} that costs less than {limit}"
            text = f"{claim} of {measure.unit}: {_cost(rows, row, describe, measure)}."
            findings.append(Finding(capital(text), threshold / half_width(row)))
    findings = findings or [_without_threshold(rows, describe, superlative, measure)]
    return findings + perplexity_sentences(rows, describe, superlative, measure)


def _harshest(rows: pl.DataFrame, which: pl.Expr) -> Row | None:
    """The last of `rows`, ordered from the mildest setting to the harshest, of those that `which` chooses."""
    chosen = rows.filter(which)
    return chosen.row(-1, named=True) if chosen.height else None


def _too_few(rows: pl.DataFrame, describe: Describe, measure: Measure) -> Finding:
    """What was lost where draws or samples are too few to say what others would lose."""
    first, last = rows.row(0, named=True), rows.row(-1, named=True)
    drawn = "drop_draws_low" in rows and math.isfinite(first["drop_high"] - first["drop_low"])
    few = plural(first["draws"], "draw") if drawn else measure.samples(first["images"])
    ends = f"{measure.loss(first)} with {describe(first)}"
    if rows.height > 1:
        ends = f"from {ends} to {measure.loss(last)} with {describe(last)}"
    text = f"{few} cannot show what others would cost: give {LEAST} or more. The loss of {measure.unit} is {ends}."
    return Finding(text, 0.5)


def _without_threshold(rows: pl.DataFrame, describe: Describe, superlative: str, measure: Measure) -> Finding:
    """Where none surely stays below a threshold: the harshest whose loss is within what can be told at best."""
    widths = (rows["high"] - rows["low"]).drop_nulls().to_list()
    reach = max(min(widths, default=0.0) / 2, _ROUNDING)
    row = _harshest(rows, (pl.col("low") <= _ROUNDING) & (pl.col("drop") <= reach))
    if measure.share and reach > _BLIND:
        few = measure.samples(rows["images"][0])
        return Finding(f"{few} cannot show a loss of {measure.unit} below {measure.amount(reach)}: give more.", 0.5)
    if row is None:
        least = rows.sort("drop", maintain_order=True).row(0, named=True)
        sure = (rows["low"] > _ROUNDING).all()
        text = (
            f"Every setting tried costs {measure.unit}" if sure else f"No setting is sure to cost little {measure.unit}"
        )
        weight = least["drop"] / half_width(least)
        text = f"{text}; the least is {describe(least)}: {_cost(rows, least, describe, measure)}."
        return Finding(text, weight if sure else min(0.99, weight))
    text = f"{describe(row)} is the {superlative} without a measurable loss of {measure.unit}: "
    weight = min(0.99, abs(row["drop"]) / half_width(row))
    return Finding(capital(f"{text}{_cost(rows, row, describe, measure)}."), weight)


def _cost(rows: pl.DataFrame, row: Row, describe: Describe, measure: Measure) -> str:
    """The loss with its interval, and the last milder setting that loses more, if there is one."""
    text = f"{measure.loss(row)} on {measure.samples(row['images'])}"
    every = rows.to_dicts()
    worse = [milder for milder in every[: every.index(row)] if milder["low"] > row["high"]]
    if worse:
        text += f", though the milder {describe(worse[-1])} costs {measure.amount(worse[-1]['drop'])}"
    return text


def fragile(
    rows: pl.DataFrame, describe: Describe, how: str = "edited", measure: Measure = IMAGES, advice: str = ""
) -> list[Finding]:
    """The layer that loses most when it alone is edited, by its mean loss over the settings.

    Layers whose intervals reach into the largest one's are named with it, since the samples cannot rank them. Where no
    setting hurts any layer measurably, that is said.

    rows: scores of one layer at a time, with layer, drop, drop_low, drop_high and images, of draws as `over_draws`
    gives them. how: what was done to the layers, as `rounded`. advice: what to do about it.
    """
    layers = rows["layer"].n_unique()
    if layers < 2:
        return []
    over = [pl.col("^drop.*$").mean(), pl.col("^images|draws$").max()]
    hurts = (pl.col("low") > _ROUNDING).any()
    rows = with_bounds(rows)
    means = with_bounds(rows.group_by("layer", maintain_order=True).agg(*over, hurt=hurts))
    if "drop_draws_low" in means and means["drop_draws_low"].is_null().all():
        top = means.sort("drop", maintain_order=True).row(-1, named=True)
        text = f"{plural(top['draws'], 'draw')} of each layer alone cannot rank them: give {LEAST} or more. The largest"
        return [Finding(f"{text} loss is {measure.loss(top)} on average over the settings, of {top['layer']}.", 0.5)]
    hurt = means.filter("hurt").sort("drop", descending=True, maintain_order=True)
    if hurt.is_empty():
        worst = rows.sort("drop", maintain_order=True).row(-1, named=True)
        text = (
            f"No layer {how} alone loses measurably: of {layers:,} the most is {measure.loss(worst)} on "
            f"{measure.samples(worst['images'])}, for {worst['layer']} with {describe(worst)}."
        )
        return [Finding(text, min(0.99, abs(worst["drop"]) / half_width(worst)))]
    top = hurt.row(0, named=True)
    near = hurt.filter(pl.col("high") >= top["low"])
    worst = rows.filter(pl.col("layer") == top["layer"]).sort("drop", maintain_order=True).row(-1, named=True)
    settings = rows.filter(pl.col("layer") == top["layer"]).height
    cost = f"{measure.amount(top['drop'])} of {measure.unit} ({measure.span(top)})"
    most = f", and {measure.amount(worst['drop'])} with {describe(worst)}" if settings > 1 else ""
    average = " on average over the settings" if settings > 1 else f" with {describe(worst)}"
    if near.height == 1:
        text = f"{top['layer']} is the most fragile layer: {how} alone it costs {cost}{average}{most}."
    else:
        names = listing(near["layer"].to_list())
        cannot = f"{measure.samples(top['images'])} cannot"
        if "draws" in top:
            cannot = f"{measure.samples(top['images'])} and {plural(top['draws'], 'draw')} cannot"
        text = (
            f"{names} are the most fragile layers, and {cannot} rank them: {how} alone "
            f"{top['layer']} costs {cost}{average}."
        )
    if unhurt := layers - hurt.height:
        text += f" {unhurt:,} of {plural(layers, 'layer')} lose nothing measurable."
    return [Finding(text + (f" {advice}" if advice else ""), top["drop"] / half_width(top))]


NEGLIGIBLE = 0.01
"""Share of the parameters that may belong to no layer without a word: norms."""


def with_left_out(findings: Sequence[str], network: Network) -> list[str]:
    """`findings`, and what share of the parameters "all layers" leave out: first where it is a tenth or more."""
    others = other_parameters(network)
    total, count = max(1, network.parameters), sum(others.values())
    if count < NEGLIGIBLE * total:
        return list(findings)
    largest, size = max(others.items(), key=lambda item: item[1])
    most = f", most of them in {largest} ({percent(size / total)})" if size > count / 2 else ""
    sentence = Finding(
        f"The layers hold {percent(1 - count / total)} of the parameters; norms, embeddings and others, "
        f"{percent(count / total)}, stay as they are{most}.",
        10 * count / total,
    )
    return [sentence, *findings] if count >= total / 10 else [*findings, sentence]


def unchanged_settings(rows: pl.DataFrame, describe: Describe) -> list[Finding]:
    """Names the settings that changed no weight and so have the unedited network's score."""
    same = rows.filter(~pl.col("changed"))
    if same.is_empty():
        return []
    parts = listing([f"{describe(row)} ({row['layer']})" for row in same.to_dicts()], 4)
    return [Finding(f"No weight changes, and so no score, with {parts}.", 0.0)]
