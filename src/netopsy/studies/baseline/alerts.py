"""What is wrong with the network, the samples, or how they were put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import polars as pl

from netopsy.network.network import Network
from netopsy.result import LEVELS, Alert
from netopsy.samples.samples import Samples
from netopsy.samples.tasks import Task
from netopsy.tallies.answers import AnswersResult
from netopsy.tallies.sparsity import RangeResult


@dataclass(frozen=True)
class Evidence:
    """What the checks may ask.

    task: what right means, None where the samples cannot be scored. tables: of the study `baseline`.
    answers: of a classifier. ranges: of the units behind each activation function, by node.
    """

    network: Network
    samples: Samples | None
    task: Task | None
    tables: Mapping[str, pl.DataFrame]
    answers: AnswersResult | None
    ranges: Mapping[str, RangeResult]


def find_alerts(evidence: Evidence) -> list[Alert]:
    """All alerts, the worst first."""
    alerts = [alert for check in CHECKS for alert in check(evidence)]
    return sorted(alerts, key=lambda alert: LEVELS.index(alert.level))


def random_weights(evidence: Evidence) -> list[Alert]:
    """Weights that were drawn and not learned."""
    if evidence.network.provenance.get("weights") not in (None, "random"):
        return []
    if "seed" not in evidence.network.provenance:
        return []
    return [
        Alert(
            "random-weights",
            "error",
            "The weights are random: none were given.",
            "Give the trained ones with --weights FILE (in Python weights=).",
        )
    ]


CHECKS: tuple[Callable[[Evidence], list[Alert]], ...] = (random_weights,)
"""The checks, in the order in which alerts of one level are shown."""
