"""The chains of the stresses, over the workers there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from netopsy.engine.trials.current import current_workers
from netopsy.engine.trials.record import Outcome
from netopsy.engine.trials.sharding import outcomes
from netopsy.studies.transfer.bench import Row
from netopsy.studies.transfer.chains import Stresses


def stressed(stresses: Stresses, wanted: Sequence[str], cell: Callable[[], None]) -> dict[str, list[list[Row]]]:
    """The rows of every chain of the stresses `wanted`; `cell` is called once a row.

    A chain is a trial. What several chains share is fitted once in each worker.
    """
    chains = {stress: stresses.chains(stress) for stress in wanted}
    missing = [(s, at) for s, own in chains.items() for at, chain in enumerate(own) if not chain.finished]
    if missing and not current_workers().here:
        specs = [{"stress": stress, "at": at} for stress, at in missing]
        spec = {"chains": [chains[stress][at].spec for stress, at in missing]}
        with outcomes(_chain, stresses, specs, spec, "transfer") as found:
            for (stress, at), outcome in zip(missing, found, strict=True):
                chains[stress][at].keep([Row(*row) for row in outcome.tensors["rows"].tolist()])
    return {stress: [chain.rows(cell) for chain in own] for stress, own in chains.items()}


def _chain(stresses: Stresses, spec: dict[str, Any]) -> Outcome:
    """The trial of one chain."""
    rows = stresses.chains(spec["stress"])[spec["at"]].rows(lambda: None)
    return Outcome({}, {"rows": torch.tensor(rows, dtype=torch.float64)})
