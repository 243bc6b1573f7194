"""The workers that the options describe."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any


def crew(given: dict[str, Any]) -> AbstractContextManager[Any]:
    """`workers` with the values of --workers, --cluster, --address, --trial-cpus and --trial-gpus, where there are."""
    if "workers" not in given:
        return nullcontext()
    from netopsy.engine.trials.current import workers

    named = {name: given[name] for name in ("cluster", "address")}
    return workers(given["workers"], **named, cpus=given["trial_cpus"], gpus=given["trial_gpus"])
