"""One experiment on several image sets: a case a set, and one over all of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from netopsy.case import Case
from netopsy.engine.workspace.workspace import Progress
from netopsy.errors import NetopsyError, SettingsError
from netopsy.result import Result
from netopsy.studies.table import study_class

SHOWN = 3
"""Findings of a set that a study without words of its own for several sets repeats."""

RunOne = Callable[[dict[str, Any], Path, Progress | None], Case]


def run_sets(sets: Sequence[dict[str, Any]], out: Path, run: RunOne, progress: Progress | None) -> Case:
    """Run each set into the folder of its name in `out`; returns the case in `out`, over all of them.

    A set that cannot be run does not keep the others from it: they are run and reported, then its error is raised.
    """
    case = Case(out)
    results_of: dict[str, dict[str, Result]] = {}
    failed: tuple[str, NetopsyError] | None = None
    for entry in sets:
        name = entry["name"]
        try:
            set_case = run(entry, out / name, _name_progress(name, progress))
        except NetopsyError as error:
            failed = failed or (name, error)
            continue
        for study in entry["studies"]:
            results_of.setdefault(study, {})[name] = set_case.load(study)
    for study, results in results_of.items():
        case.add(combine(study, results))
    if case.names:
        case.write_report()
    if failed is not None:
        done = f" The other sets are in '{out}'." if results_of else ""
        raise SettingsError(f"set '{failed[0]}' was not run: {failed[1]}{done} Run again, only it is.") from failed[1]
    return case


def combine(study: str, results: Mapping[str, Result]) -> Result:
    """The results of one study on several sets as one: by the study's own `combine` where it has one.

    Else its tables are one below the other, with the column `set` ahead, and its findings begin with the set's name.
    """
    combine_own = getattr(study_class(study), "combine", None)
    result = (
        combine_own(results)
        if combine_own is not None
        else Result(study, tables=stack_tables(results), findings=_stack_findings(results))
    )
    result.settings = _settings(results)
    result.provenance = _provenance(results)
    return result


def stack_tables(results: Mapping[str, Result]) -> dict[str, pl.DataFrame]:
    """The tables of all sets, each name's one below the other, with the column `set` ahead."""
    names = dict.fromkeys(name for result in results.values() for name in result.tables)
    return {
        name: pl.concat(
            [
                result.tables[name].select(pl.lit(key).alias("set"), pl.exclude("set"))
                for key, result in results.items()
                if name in result.tables
            ],
            how="diagonal_relaxed",
        )
        for name in names
    }


def _stack_findings(results: Mapping[str, Result]) -> list[str]:
    return [f"{key}: {finding}" for key, result in results.items() for finding in result.findings[:SHOWN]]


def _settings(results: Mapping[str, Result]) -> dict[str, Any]:
    """What is alike in all sets as it is; what is not, by set."""
    shared: dict[str, Any] = {}
    for name in dict.fromkeys(name for result in results.values() for name in result.settings):
        values = {key: result.settings.get(name) for key, result in results.items()}
        texts = {json.dumps(value, sort_keys=True, default=str) for value in values.values()}
        shared[name] = next(iter(values.values())) if len(texts) == 1 else values
    return shared


def _provenance(results: Mapping[str, Result]) -> dict[str, Any]:
    """Where the results came from: `sets` says where the report of each lies, from the combined one."""
    origins = [result.provenance for result in results.values()]
    first = origins[0]
    network = dict(first.get("network") or {})
    names = list(dict.fromkeys(str((origin.get("network") or {}).get("name")) for origin in origins))
    counts = [(origin.get("samples") or {}).get("count", 0) for origin in origins]
    facts = {key: network[key] for key in ("parameters", "weights", "seed") if key in network}
    return {
        "network": {"name": ", ".join(names), **facts},
        "samples": {"name": ", ".join(results), "count": sum(counts)},
        "sets": {key: f"{key}/index.html" for key in results},
        "versions": first.get("versions", {}),
        "device": first.get("device"),
        "finished": max(str(origin.get("finished", "")) for origin in origins),
        "seconds": round(sum(float(origin.get("seconds", 0.0)) for origin in origins), 3),
    }


def _name_progress(name: str, progress: Progress | None) -> Progress | None:
    if progress is None:
        return None
    return lambda label, done, total: progress(f"{name}: {label}", done, total)
