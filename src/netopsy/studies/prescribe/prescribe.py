"""How small the network can be stored within a budget of accuracy, without any training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

import polars as pl

from netopsy.codec.file import SUFFIX
from netopsy.deep_compression.save import OtherDtype, expand, save_shared
from netopsy.engine.sweep.edits import Variant, replacement
from netopsy.engine.sweep.sweep import newly_wrong
from netopsy.errors import SamplesError, SettingsError
from netopsy.network.network import Network
from netopsy.result import Finding, Group, Result
from netopsy.samples.samples import Samples
from netopsy.samples.tasks import AGREEMENT, EMBEDDING, REGRESSION, Task, find_task
from netopsy.settings import Interval, PositiveInt, Seed
from netopsy.studies.prescribe.candidates import Tables
from netopsy.studies.prescribe.divergence import effects
from netopsy.studies.prescribe.knapsack import Budget, parse_budget
from netopsy.studies.prescribe.plan import Parts, Prescription, part, prescribe, reported
from netopsy.studies.prescribe.report import (
    figures,
    findings,
    layer_table,
    path_table,
    promise_table,
)
from netopsy.studies.study import Study, file_for, layer_measures, stem_of, whereabouts
from netopsy.studies.sweep_report import measure_of, with_left_out


@dataclass(frozen=True)
class Prescribe(Study):
    """The smallest file of a network within a budget of accuracy, without training (after Han et al., ICLR 2016).

    One half of the samples chooses what each layer gives up, the other half reports what the file then scores. No
    label is needed for the sensitivity map; the drop that the budget limits is counted, and kept away from the budget
    by the margin that the confidence takes. Where no smaller file is sure to keep it, the network is stored exactly.

    budget: how much may be lost, on as many other samples as report: points of the score, as top-1 accuracy (0.5);
        for what is scored by places, as language models, also a rise of perplexity (`1%`) or nats (`0.02 nats`).
    confidence: the probability with which the budget is kept, from 0 to 0.9999; 0 takes the count without a margin.
    tables: of shared weights: `uniform` (steps with a dead zone, for the fewest bits) or `kmeans` (density x entries);
        beside them matrices may become int8 or int4 in groups of 32, 64 or 128 inputs. `groups`: these formats alone.
    compensate: let later weights of a layer make good what rounding the earlier ones does to its outputs.
    other_dtype: how biases, norms and what is not shared are stored: `float16` or `exact`.
    layers: names of the layers to compress; all by default.
    probes: images that the sensitivity map is measured on; at most a sixth of those that choose.
    seed: of the halves.

    Tables: `promise` (the budget, how it is kept, what that costs), `layers` (what each gives up), `sensitivity`,
    `path` (size against drop), `scores` (on the other half); of classifiers `newly_wrong` (what the file gets wrong of
    that half and the network right, at most 36).
    """

    name: ClassVar[str] = "prescribe"
    group: ClassVar[Group] = "size"

    budget: float | str = 0.5
    confidence: Annotated[float, Interval(ge=0, le=0.9999)] = 0.95
    tables: Tables = "uniform"
    compensate: bool = True
    other_dtype: OtherDtype = "float16"
    layers: tuple[str, ...] | None = None
    probes: PositiveInt = 128
    seed: Seed = 0

    def check(self) -> None:
        parse_budget(self.budget)

    def check_on(self, network: Network) -> None:
        network.select(self.layers)

    def run(self, network: Network, samples: Samples) -> Result:
        """Choose on one half of `samples`, write the file, and score it on the other half."""
        layers = network.select(self.layers)
        if not layers:
            return self.result(
                findings=[Finding(f"{network.name} has no convolution or linear layer to store in less.", 0.0)]
            )
        task = find_task(network, samples)
        samples = task.prepare(network, samples)
        measure = measure_of(network, samples, task)
        budget = _in_unit(replace(parse_budget(self.budget), measure=measure), task)
        if len(samples) < 2:
            raise SamplesError(
                f"{samples.name} has 1 {measure.noun}; give at least 2: one half chooses, the other reports."
            )
        parts = part(samples, self.probes, self.seed)
        prescription = prescribe(
            network,
            parts,
            layers,
            budget=budget,
            task=task,
            confidence=self.confidence,
            tables=self.tables,
            compensate=self.compensate,
            other_dtype=self.other_dtype,
        )
        path = self._write(network, prescription, parts)
        scores = _verify(network, parts, path, prescription.heat, task)
        tables = {
            "promise": promise_table(prescription, self.confidence, path),
            "layers": layer_table(network, layers, prescription, path),
            "sensitivity": prescription.sensitivity,
            "path": path_table(prescription, scores),
            "scores": scores,
        }
        lost = newly_wrong(network, samples, expand(path), reported(samples, self.seed))
        tables |= {} if lost is None else {"newly_wrong": lost}
        where = whereabouts(self.name, path)
        return self.result(
            tables=tables,
            figures=figures(tables, prescription),
            artifacts={path.name: path},
            measures=_prunable(tables["layers"]),
            findings=with_left_out(findings(network, tables, prescription, where), network),
        )

    def _write(self, network: Network, prescription: Prescription, parts: Parts) -> Path:
        """The file of the choice; where nothing is sure to keep the budget, of the network exactly as it is."""
        path = file_for(self.name, f"{stem_of(network)}{SUFFIX}")
        settings = {
            "study": self.name,
            "budget": self.budget,
            "confidence": self.confidence,
            "tables": self.tables,
            "compensate": self.compensate,
            "seed": self.seed,
            "choosing": parts.choosing.digest,
        }
        shared = prescription.joint.shared(prescription.allocation)
        return save_shared(network, shared, path, other_dtype=prescription.other_dtype, settings=settings)


def _prunable(layers: pl.DataFrame) -> pl.DataFrame:
    """The share of each layer's weights that the choice prunes within the budget."""
    rows = layers.drop_nulls("density").select("layer", "density").iter_rows()
    return layer_measures(
        "prunable", [(layer, 1 - density, None, None, "within the budget") for layer, density in rows]
    )


def _in_unit(budget: Budget, task: Task) -> Budget:
    """The budget itself; SettingsError where the task has no such unit."""
    in_nats = not task.binary and task.name not in (AGREEMENT.name, EMBEDDING.name, REGRESSION.name)
    if budget.by == "rise" and not (in_nats and not task.name.startswith("custom")):
        raise SettingsError(
            "a budget in nats or of perplexity is for tasks that are scored by places, as next token, and this task "
            f"is '{task.name}'; give points of its score, as 0.5."
        )
    return budget


def _verify(network: Network, parts: Parts, path: Path, heat: float, task: Task) -> pl.DataFrame:
    """The unedited network and what the file gives back, on the reporting half."""
    state = {name: value for name, value in expand(path).items() if name in network.tensors}
    variants = [
        Variant({"version": "unedited", "bytes": 4 * sum(v.numel() for v in state.values())}, None),
        Variant({"version": "prescribed", "bytes": path.stat().st_size}, replacement(network, state)),
    ]
    return effects(network, parts.reporting, variants, "verify", heat, task)
