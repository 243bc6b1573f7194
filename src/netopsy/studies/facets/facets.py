"""A unit as a logical OR of patterns (Palmieri et al., Section 2; the wheel-or-face cell): the study, its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import altair as alt
import numpy as np
import polars as pl
from jaxtyping import UInt8

from netopsy.charts.parts import diverging, inline, make_figure
from netopsy.charts.passages import Entry, passages, reads_passages
from netopsy.engine.observe.counting import Tallies
from netopsy.network.network import Network
from netopsy.network.units import Unit, find_unit
from netopsy.pictures.mosaic import PAPER, below, beside, caption, resize
from netopsy.pictures.patches import patches
from netopsy.result import Figure, Group, Image, Panel, Result, Texts
from netopsy.samples.labels import strata
from netopsy.samples.samples import Samples
from netopsy.settings import Interval, Seed
from netopsy.studies.facets import report as findings
from netopsy.studies.facets import report as tables
from netopsy.studies.facets.account import VERDICTS, Account, account, gray_code, karnaugh_map, letters, split_images
from netopsy.studies.facets.contributions import AffineStep, find_affine_step
from netopsy.studies.facets.measure import (
    StrongStimuli,
    decided_by,
    find_late_step,
    finite_stimuli,
    group_stimuli,
    mixed_channels,
    record,
    stimulus_shares,
    watch_unit,
)
from netopsy.studies.facets.measure import UnitFacets as Groups
from netopsy.studies.study import ObservingStudy
from netopsy.tallies.top_images import TopImages
from netopsy.wording import listing, plural

HANDFUL = 10  # strong stimuli that a unit needs
CANDIDATES = 24  # input channels that the Boolean account may choose from
SCOUTS = 256  # training images on which the candidates are picked
MOST_INPUTS = 8


@dataclass(frozen=True)
class Facets(ObservingStudy):
    """Which different patterns make a unit fire: its strong stimuli grouped by what drove them in the layer before,
    and its firing as the shortest sum of products of the firing of its most decisive inputs (Palmieri et al.,
    Section 2: "the unit at the end is a sort of logic OR of many intermediate configurations").

    units: the units to look at, each as node:channel, node:channel:y:x or node:neuron; by default `chosen` units of the
        last layer but one whose strong stimuli are shared between two classes.
    layer: the node whose units are chosen where no units are named.
    chosen: how many units are chosen where none are named.
    stimuli: strong stimuli a unit, one an image; never more than a quarter of the images (but 20).
    min_stimuli: stimuli that a facet needs at least.
    most_facets: facets a unit at most.
    alpha: probability of splitting stimuli that form one cloud.
    patches: patches shown of each facet.
    inputs: inputs of the Boolean account at most; how many are taken is settled by cross-validation.
    images: images for the Boolean account at most, drawn at random and stratified by class.
    firing_rate: the share of images on which the unit counts as firing (0: wherever it is above 0; behind an activation
        function never below 0).
    held_out: the share of those images kept for precision and recall.
    seed: of the draw of the images, the clouds without groups and the cross-validation.
    """

    name: ClassVar[str] = "facets"
    group: ClassVar[Group] = "vision"

    units: tuple[str, ...] = ()
    layer: str | None = None
    chosen: Annotated[int, Interval(ge=1, le=64)] = 4
    stimuli: Annotated[int, Interval(ge=HANDFUL, le=1000)] = 100
    min_stimuli: Annotated[int, Interval(ge=2, le=500)] = 5
    most_facets: Annotated[int, Interval(ge=1, le=20)] = 6
    alpha: Annotated[float, Interval(ge=0, le=0.5)] = 0.05
    patches: Annotated[int, Interval(ge=1, le=50)] = 8
    inputs: Annotated[int, Interval(ge=1, le=MOST_INPUTS)] = 6
    images: Annotated[int, Interval(ge=20, le=100_000)] = 2000
    firing_rate: Annotated[float, Interval(ge=0, le=0.95)] = 0.2
    held_out: Annotated[float, Interval(ge=0.05, le=0.95)] = 0.5
    seed: Seed = 0

    def check_on(self, network: Network) -> None:
        for unit in self.units:
            find_unit(network, unit)
        if self.layer is not None:
            network.node(self.layer)

    def tallies(self, network: Network, samples: Samples) -> Tallies:
        """The strong stimuli of the units, or of those of the layer that they are chosen from."""
        most = min(self.stimuli, max(20, len(samples) // 4))
        if self.units:
            return {str(k): watch_unit(drive, most) for k, drive in enumerate(self._named_steps(network)[0])}
        first = self._first(network)
        if isinstance(first, str):
            return {}
        return {"units": (first.end.node, TopImages(most, network.nodes[first.end.node].channel_axis))}

    def conclude(self, network: Network, samples: Samples, results: Mapping[str, Any]) -> Result:
        """Group the strong stimuli of units of `network` among `samples`, and give each unit's Boolean account."""
        drives, stimuli, sentences = (self._named_units if self.units else self._choose_units)(
            network, samples, results
        )
        if not drives:
            return self.result(tables=tables.empty_tables(), findings=[*sentences])
        names = [[str(unit) for unit in drive.inputs] for drive in drives]
        shares = stimulus_shares(network, samples, drives, stimuli)
        groups = [
            group_stimuli(
                s, min_size=self.min_stimuli, max_clusters=self.most_facets, alpha=self.alpha, named=3, seed=self.seed
            )
            for s in shares
        ]
        accounts = self._accounts(network, samples, drives)
        units = [str(drive.unit) for drive in drives]
        frames = tables.make_tables(units, names, samples.classes, _class_of(samples), stimuli, groups, accounts)
        texts = reads_passages(network)
        return self.result(
            tables=frames,
            figures=_figures(units, names, accounts),
            images={} if texts else self._sheets(network, samples, drives, stimuli, groups),
            texts={"facets": _texts(network, samples, drives, stimuli, groups)} if texts else {},
            findings=[
                findings.overall_sentence(units, groups, max(len(strong.values) for strong in stimuli)),
                *tables.sentences(units, names, groups, accounts, frames),
                *sentences,
            ],
        )

    def _named_steps(self, network: Network) -> tuple[list[AffineStep], list[str]]:
        """The units asked for that can be treated, and a sentence for each that cannot."""
        steps = [find_affine_step(network, unit) for unit in dict.fromkeys(find_unit(network, u) for u in self.units)]
        return [drive for drive in steps if isinstance(drive, AffineStep)], [
            why for why in steps if isinstance(why, str)
        ]

    def _named_units(
        self, network: Network, samples: Samples, results: Mapping[str, Any]
    ) -> tuple[list[AffineStep], list[StrongStimuli], list[str]]:
        """The units asked for, their strong stimuli, and a sentence for each that cannot be treated."""
        drives, sentences = self._named_steps(network)
        usable: list[tuple[AffineStep, StrongStimuli]] = []
        for k, drive in enumerate(drives):
            strong = StrongStimuli(*finite_stimuli(results[str(k)], 0, drive.rectified))
            if len(strong.values) < HANDFUL:
                sentences.append(
                    f"{drive.unit} fires on {len(strong.values):,} of {plural(len(samples), 'image')}; its facets need "
                    f"{HANDFUL} or more."
                )
            else:
                usable.append((drive, strong))
        return [d for d, _ in usable], [s for _, s in usable], sentences

    def _first(self, network: Network) -> AffineStep | str:
        """The first unit of the layer whose units are chosen from, or why there is none."""
        if self.layer is None:
            return find_late_step(network)
        return find_affine_step(network, find_unit(network, Unit(self.layer, 0)))

    def _choose_units(
        self, network: Network, samples: Samples, results: Mapping[str, Any]
    ) -> tuple[list[AffineStep], list[StrongStimuli], list[str]]:
        """The units whose strong stimuli are shared between classes, as `_asked` gives them."""
        first = self._first(network)
        if isinstance(first, str):
            return [], [], [first]
        strongest = results["units"]
        channels = mixed_channels(strongest, _class_of(samples), HANDFUL)[: self.chosen]
        if not channels:
            why = f"No unit of {first.unit.node} is strong on {HANDFUL} or more of the {plural(len(samples), 'image')}."
            return [], [], [why]
        drives = [find_affine_step(network, Unit(first.unit.node, channel)) for channel in channels]
        stimuli = [StrongStimuli(*finite_stimuli(strongest, channel, first.rectified)) for channel in channels]
        return [d for d in drives if isinstance(d, AffineStep)], stimuli, []

    def _accounts(self, network: Network, samples: Samples, drives: Sequence[AffineStep]) -> list[Account | str]:
        labels = samples.labels if samples.classified else _class_of(samples)
        if len(samples) < 20:
            return [f"{plural(len(samples), 'image')} are too few, give 20 or more"] * len(drives)
        train, test = split_images(labels, self.images, self.held_out, self.seed)
        scouts = np.sort(np.random.default_rng(self.seed).permutation(train)[:SCOUTS])
        candidates = [np.argsort(-part)[:CANDIDATES] for part in decided_by(network, samples, drives, scouts)]
        recordings = record(network, samples, drives, np.concatenate([train, test]), candidates)
        return [
            account(
                recording.value,
                recording.inputs,
                chosen,
                len(train),
                firing_rate=self.firing_rate,
                rectified=drive.rectified,
                most=self.inputs,
                seed=self.seed,
            )
            for drive, recording, chosen in zip(drives, recordings, candidates, strict=True)
        ]

    def _sheets(
        self,
        network: Network,
        samples: Samples,
        drives: Sequence[AffineStep],
        stimuli: Sequence[StrongStimuli],
        groups: Sequence[Groups],
    ) -> dict[str, Image]:
        requests: dict[str, tuple[list[int], list[int]]] = {}
        spans: list[list[slice]] = []
        for drive, strong, facets in zip(drives, stimuli, groups, strict=True):
            images, places = requests.setdefault(drive.end.node, ([], []))
            spans.append([])
            for part in facets.parts:
                rows = part.rows[: self.patches]
                spans[-1].append(slice(len(images), len(images) + len(rows)))
                images += strong.images[rows].tolist()
                places += strong.places[rows].tolist()
        cut = patches(network, samples, requests, tile=SQUARE)
        return {
            str(drive.unit): sheet(
                str(drive.unit), [cut[drive.end.node][s] for s in strong], [len(part.rows) for part in facets.parts]
            )
            for drive, strong, facets in zip(drives, spans, groups, strict=True)
        }


def _figures(
    units: Sequence[str], names: Sequence[Sequence[str]], accounts: Sequence[Account | str]
) -> dict[str, Figure]:
    return {
        f"karnaugh {unit}": karnaugh(unit, result, [input_names[i] for i in result.inputs])
        for unit, input_names, result in zip(units, names, accounts, strict=True)
        if isinstance(result, Account) and 0 < result.table.inputs <= 6
    }


def _class_of(samples: Samples) -> np.ndarray:
    """The class of every sample, -1 where they have none."""
    return strata(samples.labels) if samples.classified else np.full(len(samples), -1)


def _texts(
    network: Network,
    samples: Samples,
    drives: Sequence[AffineStep],
    stimuli: Sequence[StrongStimuli],
    groups: Sequence[Groups],
) -> Texts:
    """The strongest stimuli of each facet as text."""
    shown = {}
    for drive, strong, facets in zip(drives, stimuli, groups, strict=True):
        for k, part in enumerate(facets.parts, 1):
            entries = [
                Entry(drive.end.channel, int(strong.images[r]), int(strong.places[r]), f"{strong.values[r]:.3g}")
                for r in part.rows[:_LINES]
            ]
            shown[f"{drive.unit}, facet {k}"] = tuple(
                passages(network, samples, {drive.end.node: entries})[drive.end.node]
            )
    return Texts(
        shown,
        "The facets of each unit",
        "One block per facet, its strongest stimuli first; the stimulus is framed and shaded by the unit's value.",
    )


_LINES = 5  # stimuli of a facet that are shown


SQUARE = 96  # screen pixels of a patch, about
_GAP = 3
_MARGIN = 64  # room for the words in front of a row
_SOURCE = "after Zeiler and Fergus (2014), Figure 2, and the wheel-or-face cell of 'Interpreting Deep Networks'"
_UNSEEN = "#8f8f8f"


def sheet(unit: str, rows: Sequence[UInt8[np.ndarray, "n height width 3"]], sizes: Sequence[int]) -> Image:
    """One row per facet: its strongest patches. sizes: how many stimuli each facet has."""
    height, width = rows[0].shape[1:3]
    enlarge = max(1, round(SQUARE / max(height, width)))
    size = (height * enlarge, width * enlarge)
    lines = []
    for k, (row, count) in enumerate(zip(rows, sizes, strict=True), 1):
        words = below([caption(f"facet {k}", _MARGIN), caption(f"of {count}", _MARGIN)])
        words = np.pad(words, ((max(0, size[0] - len(words)) // 2, 0), (0, 0), (0, 0)), constant_values=PAPER)
        lines.append(beside([words, *(resize(patch, size, smooth=False) for patch in row)], _GAP))
    columns = max(len(row) for row in rows)
    several = len(rows) > 1
    title = f"{plural(len(rows), 'facet')} of {unit}"
    reading = (
        "One row per facet, its strongest stimuli from left to right, each cut out at the unit's receptive field; the "
        "number of stimuli in the facet stands in front."
        if several
        else "The unit's strongest stimuli from left to right, each cut out at its receptive field: one pattern only."
    )
    alt_text = f"{title}: rows of {listing([str(s) for s in sizes])} stimuli, {columns} patches shown of each."
    panels = tuple(
        Panel(f"facet {k}", tuple(row), f"facet {k}: {plural(count, 'stimulus', 'stimuli')}", columns=columns)
        for k, (row, count) in enumerate(zip(rows, sizes, strict=True), 1)
    )
    return Image(below(lines, _GAP), title, reading, _SOURCE, alt=alt_text, panels=panels)


def karnaugh(unit: str, account: Account, names: Sequence[str]) -> Figure:
    """The truth table of a unit as a Karnaugh map. names: of its input channels, in the order A, B, C, ..."""
    inputs = account.table.inputs
    signs = letters(inputs)
    down = inputs // 2
    majority, true = account.table.majority, account.expression.cells
    rows = []
    for cells, left in zip(karnaugh_map(inputs), _labels(down), strict=True):
        for cell, top in zip(cells, _labels(inputs - down), strict=True):
            fired, rested = int(account.table.fired[cell]), int(account.table.rested[cell])
            total = fired + rested
            on = [n for sign, n in zip(f"{cell:0{inputs}b}", names, strict=True) if sign == "1"]
            rows.append(
                {
                    "row": left,
                    "column": top,
                    "fires": fired / total if total else None,
                    "text": f"{fired}/{total}" if total else "–",
                    "true": bool(true[cell]),
                    "majority": VERDICTS[int(majority[cell])],
                    "on": ", ".join(on) or "none",
                }
            )
    frame = pl.DataFrame(rows, schema_overrides={"fires": pl.Float64})
    across, along = " ".join(signs[down:]), " ".join(signs[:down])
    base = alt.Chart(inline(frame, list(frame.columns))).encode(
        x=alt.X("column:O", sort=_labels(inputs - down), title=across, axis=alt.Axis(orient="top", labelAngle=0)),
        y=alt.Y("row:O", sort=_labels(down), title=along or None, axis=alt.Axis(labels=bool(down), ticks=False)),
        tooltip=[
            alt.Tooltip("text:N", title="fired / images"),
            alt.Tooltip("majority:N"),
            alt.Tooltip("true:N", title="expression"),
            alt.Tooltip("on:N", title="inputs on"),
        ],
    )
    scale = diverging(0.5, 0.5)
    legend = alt.Legend(
        title="share that fired", format=".0%", values=[0, 0.5, 1], orient="bottom", direction="horizontal"
    )  # a map of two rows has no room for one at its side
    seen = base.transform_filter("datum.fires !== null").mark_rect()
    unseen = base.transform_filter("datum.fires === null").mark_rect(color=_UNSEEN)
    ink = alt.condition(
        "datum.fires === null || datum.fires < 0.105 || datum.fires > 0.895", alt.value("white"), alt.value("black")
    )
    cells = seen.encode(color=alt.Color("fires:Q", scale=scale, legend=legend))
    frames = (
        base.transform_filter("datum.true").mark_rect(fillOpacity=0, strokeWidth=3).encode(stroke=alt.value("#009e73"))
    )
    words = base.mark_text(fontSize=12).encode(text="text:N", color=ink)
    key = "; ".join(f"{s} = {n} > {c:.3g}" for s, n, c in zip(signs, names, account.cuts, strict=True))
    sums = f"As a product of sums: {account.sums.text(signs)}. " if account.sums else ""
    return make_figure(
        alt.layer(unseen, cells, frames, words),
        f"Karnaugh map of {unit}: {account.expression.text(signs)}",
        "A cell is a combination of the inputs (1: on), and neighbours differ in one. It counts the training images in "
        "which the unit fired, of those seen; gray cells were never seen: they, and ties, are free. "
        f"Framed: where the expression is true. {sums}{key}.",
        "Interpreting Deep Networks, 'Karnaugh Maps'",
        height=max(2, 2**down) * 34,
    )


def _labels(bits: int) -> list[str]:
    return [f"{n:0{bits}b}" if bits else "" for n in gray_code(bits)]
