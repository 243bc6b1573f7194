"""Activation maximisation: gradient ascent to the image that excites a unit most (Palmieri et al., Section 4)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import polars as pl
import torch

from netopsy.engine.observe.counting import Tallies
from netopsy.engine.workspace.workspace import conditions, current_workspace
from netopsy.errors import SettingsError
from netopsy.network.network import Network
from netopsy.network.preprocessing import Preprocessing
from netopsy.network.units import find_unit
from netopsy.result import Group, Result
from netopsy.samples.samples import Samples
from netopsy.settings import Interval, NonNegativeFloat, PositiveFloat, PositiveInt, Seed
from netopsy.studies.maximize.ascend import AscentSettings, Climb, Stage, ascend
from netopsy.studies.maximize.drawing import figures, sheets, unit_images
from netopsy.studies.maximize.findings import findings
from netopsy.studies.maximize.parametrisation import mixing
from netopsy.studies.maximize.records import run_table, step_table
from netopsy.studies.maximize.search import run_table as found_table
from netopsy.studies.maximize.search import search, sentences, show
from netopsy.studies.maximize.target import (
    SampleStatistics,
    Target,
    Way,
    candidate_nodes,
    choose_units,
    find_targets,
    strongest_of,
    tallies,
)
from netopsy.studies.study import ObservingStudy

_RUNS = 3
_BYTES = 2**30  # of activations that a batch of images may hold on the way
_STEPS = {"plain": 100, "fourier": 128}
_SIZES = {"plain": 0.02, "fourier": 0.03}
_CONTRAST = {"plain": 0.1, "fourier": 0.02}


@dataclass(frozen=True)
class Maximize(ObservingStudy):
    """The images that excite units most, by gradient ascent from random images (Palmieri et al., Equation 10, Fig. 5).

    The value climbed is the unit's own; for a unit behind an activation function it is the operand of that function,
    because a rectifier that is off passes no gradient. `plain` is the equation by the letter: steps along the gradient
    in the pixels, kept between black and white, nothing else (Erhan et al. 2009). `fourier` is the way in which
    pictures become legible (Olah, Mordvintsev, Schubert 2017): Fourier coefficients with 1/f amplitudes, the samples'
    decorrelated colours, a sigmoid into the pixels' range, random moves each step, runs pushed apart, Adam. `both`
    shows the legible pictures first, then those of the equation.

    samples: Not needed. With them units are chosen and compared by the values that they reach there.
    units: which, as node:channel:y:x, node:channel (the centre of the map) or node:neuron; by default eight selective
        units of deep layers and a few outputs; without pictures as samples a few channels of the last map.
    way: of climbing: `plain`, `fourier` or `both`. Samples that are no images know the plain one alone.
    objective: what is climbed: `unit` for one unit, `channel` for the mean of a channel over all its places.
    runs: how many random starts a unit has in each way; by default 3, and of both ways 3 plain and 1 fourier.
    steps: how many the ascent has; by default 100 plain, 128 fourier. Of tokens 4 to 24 swaps and 8 to 60 steps of the
        embedding, fewer the larger the network.
    step_size: plain: root mean square change of the field's pixels a step, as a share of the range from black to
        white; fourier: Adam's step. By default 0.02 plain, 0.03 fourier.
    diversity: fourier: weight of the likeness of a unit's runs, which is held against them; 0 for none.
    movement: fourier: strength of the random moves, 1 for up to 5 % jitter, 10 % scale, 10 degrees; 0 for none.
    seed: of the random starts and moves.
    """

    name: ClassVar[str] = "maximize"
    group: ClassVar[Group] = "vision"

    units: tuple[str, ...] = ()
    way: Literal["both", "plain", "fourier"] = "both"
    objective: Literal["unit", "channel"] = "unit"
    runs: PositiveInt | None = None
    steps: PositiveInt | None = None
    step_size: PositiveFloat | None = None
    diversity: NonNegativeFloat = 0.5
    movement: Annotated[float, Interval(ge=0, le=5)] = 1.0
    seed: Seed = 0

    def check_on(self, network: Network) -> None:
        self._unit_names(network)

    def tallies(self, network: Network, samples: Samples) -> Tallies:
        """The strongest values of the units, or of the nodes to choose them from; the colours where they are wanted."""
        named = self._unit_names(network)
        nodes = [] if named else list(candidate_nodes(network))
        pictures = isinstance(network.preprocessing, Preprocessing)
        colours = "fourier" in self.ways(network)
        return tallies(network, named, nodes, self.objective, colours=colours, choose=pictures and not named)

    def conclude(self, network: Network, samples: Samples | None, results: Mapping[str, Any]) -> Result:
        """Climb for each unit; samples serve to choose units, to compare with, and to decorrelate colours."""
        named = self._unit_names(network)
        counts = {} if named else candidate_nodes(network)
        statistics = SampleStatistics.of(results)
        labels = samples.labels if samples is not None and samples.classified and not samples.multilabel else None
        targets = find_targets(network, named or choose_units(network, counts, statistics, labels), self.objective)
        if not isinstance(network.preprocessing, Preprocessing):
            return self._search(network, samples, targets, statistics)
        colours = mixing(statistics.covariance, network.image_preprocessing.depth)
        recipes = [self.recipe(way, colours) for way in self.ways(network)]
        climbs = self.climb(network, targets, recipes)
        recipes = [recipe for recipe in recipes if recipe.way in climbs]
        strongest = [strongest_of(target, statistics) for target in targets]
        runs = pl.concat([run_table(targets, climbs[r.way], strongest, r.steps, way=r.way) for r in recipes])
        steps = pl.concat([step_table(targets, climbs[r.way], strongest, way=r.way) for r in recipes])
        return self.result(
            tables={"runs": _with_layers(runs, network), "steps": steps},
            figures=figures(runs, steps),
            images=sheets(network, samples, targets, climbs, strongest)
            | unit_images(network, targets, climbs, strongest),
            findings=findings(runs, targets, climbs, network, samples, chosen=not named, ways=self.ways(network)),
        )

    def _search(
        self, network: Network, samples: Samples | None, targets: list[Target], statistics: SampleStatistics
    ) -> Result:
        """The same of samples that are no pictures: tokens, recordings, rows and other arrays."""
        strongest = [strongest_of(target, statistics) for target in targets]
        runs = self.runs or _RUNS
        found = search(network, samples, targets, strongest, runs=runs, steps=self.steps, seed=self.seed)
        best = {str(target.unit): value for target, value in zip(targets, strongest, strict=True)}
        table = found_table(found, best, network)
        texts, images = show(network, samples, targets, strongest, found)
        return self.result(
            tables={"runs": _with_layers(table, network)},
            texts=texts,
            images=images,
            findings=sentences(table, samples),
        )

    def ways(self, network: Network) -> tuple[Way, ...]:
        """The ways that are climbed, the legible one first."""
        if self.way != "both":
            return (self.way,)
        return ("fourier", "plain") if isinstance(network.preprocessing, Preprocessing) else ("plain",)

    def _unit_names(self, network: Network) -> list[str]:
        """The units asked for; SettingsError for one that cannot be climbed."""
        if self.way == "fourier" and not isinstance(network.preprocessing, Preprocessing):
            raise SettingsError(
                f"the way 'fourier' draws pictures, and {network.name} takes "
                f"{', '.join(map(str, network.signature.inputs))}; use the way 'plain'."
            )
        named = list(dict.fromkeys(str(find_unit(network, unit)) for unit in self.units))
        find_targets(network, named, self.objective)
        return named

    def recipe(self, way: Way, colours: torch.Tensor) -> AscentSettings:
        """The settings of one way as the ascent takes them."""
        fourier = way == "fourier"
        return AscentSettings(
            way=way,
            runs=self.runs or (1 if fourier and self.way == "both" else _RUNS),
            steps=self.steps or _STEPS[way],
            step_size=self.step_size or _SIZES[way],
            contrast=_CONTRAST[way],
            diversity=self.diversity if fourier else 0.0,
            movement=self.movement if fourier else 0.0,
            mixing=colours,
            seed=self.seed,
        )

    def climb(
        self, network: Network, targets: list[Target], recipes: Sequence[AscentSettings]
    ) -> dict[str, list[Climb]]:
        """By way the climbs of all targets in their order; what was climbed before a kill is not climbed again.

        Where time is short, the ways after the first are left out.
        """
        place, started = current_workspace(), time.monotonic()
        batches = [(recipe, batch) for recipe in recipes for batch in _batches(network, targets, recipe)]
        saved = place.checkpoint("maximize", self._spec(network, batches) if place.folder else {})
        done, state = saved.load()
        climbs: dict[tuple[str, int], Climb] = {}
        for recipe, batch in batches[:done]:
            for index in batch:
                parts = {part: state[f"{recipe.way} {index} {part}"] for part in Climb.__dataclass_fields__}
                climbs[recipe.way, index] = Climb(**parts)

        def gather() -> dict[str, torch.Tensor]:
            found = climbs.items()
            return {f"{way} {index} {part}": v for (way, index), climb in found for part, v in vars(climb).items()}

        work = [len(batch) * recipe.runs * recipe.steps for recipe, batch in batches]
        asked = place.repeat.pop(0)["ways"] if place.repeat else None
        for number, (recipe, batch) in enumerate(batches[done:], done):
            if number and recipe.way != batches[number - 1][0].way:
                each = (time.monotonic() - started) / max(1, sum(work[done:number]))
                late = place.deadline is not None and time.monotonic() + each * sum(work[number:]) > place.deadline
                if recipe.way not in asked if asked is not None else late:
                    batches = batches[:number]
                    break
            stage = Stage(network, [targets[i] for i in batch], features=recipe.diversity > 0)

            def report(steps: int, before: int = sum(work[:number]), images: int = len(batch) * recipe.runs) -> None:
                place.report("maximize", before + steps * images, sum(work))

            keys = [(recipe.way, index) for index in batch]
            climbs.update(zip(keys, ascend(stage, recipe, report), strict=True))
            saved.save(number + 1, gather, final=number + 1 == len(batches))
        ways = list(dict.fromkeys(recipe.way for recipe, _ in batches))
        if place.deadline is not None or place.repeat:
            place.record("maximize", time.monotonic() - started, ways=ways, undecided=len(recipes) - len(ways))
        return {way: [climbs[way, index] for index in range(len(targets))] for way in ways}

    def _spec(self, network: Network, batches: list[tuple[AscentSettings, list[int]]]) -> dict[str, object]:
        """All that the climbs depend on."""
        return {
            **conditions(network),
            "study": vars(self),
            "batches": [(recipe.way, batch) for recipe, batch in batches],
            "mixing": [recipe.mixing.tolist() for recipe, _ in batches[:1]],
        }


def _with_layers(runs: pl.DataFrame, network: Network) -> pl.DataFrame:
    """The table with the layer of each node, null for none."""
    layers = {name: network.nodes[name].layer or None for name in runs["node"].unique()}
    column = runs["node"].replace_strict(layers, return_dtype=pl.String) if layers else runs["node"]
    return runs.insert_column(runs.columns.index("node") + 1, column.alias("layer"))


def _batches(network: Network, targets: list[Target], recipe: AscentSettings) -> list[list[int]]:
    """Indices of targets that are climbed together: of one shape, and few enough for the memory."""
    alike: dict[tuple[object, ...], list[int]] = {}
    for index, target in enumerate(targets):
        alike.setdefault(target.signature, []).append(index)
    batches = []
    for group in alike.values():
        size = Stage(network, [targets[group[0]]]).image_bytes() * recipe.runs
        most = max(1, _BYTES // max(1, size))
        batches += [group[first : first + most] for first in range(0, len(group), most)]
    return batches
