"""Run a protocol: load what it names and examine it."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import polars as pl

from netopsy.case import Case
from netopsy.engine.workspace.workspace import Progress
from netopsy.errors import NetopsyError, SettingsError
from netopsy.examination import examine
from netopsy.network.network import Network
from netopsy.network.sources.load import load_network
from netopsy.network.sources.sources import FactorySource, find_source, is_weights_path
from netopsy.result import Finding, Result
from netopsy.samples.load import load_samples
from netopsy.samples.samples import Samples
from netopsy.studies.study import Study, check_other, takes
from netopsy.studies.table import STUDIES, study_class


def run_protocol(
    path: str | Path,
    *,
    out: str | Path,
    weights: str | None = None,
    samples: str | None = None,
    count: int | None = None,
    sets: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Case:
    """Run the protocol at `path`; `weights`, `samples` and `count` take the place of the protocol's own.

    sets: the names of those to run, of a protocol with sets; all by default. Each becomes a case in a folder of its
    name in `out`, and what the studies say of all of them together is the case in `out` itself.
    """
    protocol = read_protocol(path)
    replaced = {"weights": weights, "samples": samples, "count": count}
    if "sets" not in protocol:
        if sets:
            raise SettingsError(f"'{path}' has no sets, so there is no '{sets[0]}' to choose; leave sets out.")
        return _run(path, protocol, out, replaced, progress)
    for name in ("weights", "samples"):
        if replaced[name] is not None:
            raise SettingsError(
                f"{name} cannot take the place of those of '{path}', whose sets each have their own; name it there."
            )
    chosen = _choose_sets(protocol["sets"], sets, path)
    for entry in chosen:
        _studies(entry)  # a mistake in the last set is reported before the first is run
    return run_sets(chosen, Path(out), lambda entry, folder, show: _run(path, entry, folder, replaced, show), progress)


def _choose_sets(all_sets: list[dict[str, Any]], names: Sequence[str] | None, path: str | Path) -> list[dict[str, Any]]:
    all_names = [entry["name"] for entry in all_sets]
    wrong = [name for name in names or () if name not in all_names]
    if wrong:
        raise SettingsError(f"no set '{wrong[0]}' in '{path}'; it has: {', '.join(all_names)}.")
    return [entry for entry in all_sets if names is None or entry["name"] in names]


def _studies(protocol: dict[str, Any]) -> list[Any]:
    studies = [make_study(name, settings) for name, settings in protocol["studies"].items()]
    for study in studies:
        check_other(type(study), protocol.get("other"))
    return studies


def _run(
    path: str | Path,
    protocol: dict[str, Any],
    out: str | Path,
    replaced: dict[str, Any],
    progress: Progress | None,
) -> Case:
    """Run a protocol without sets, or one of its sets."""
    weights, samples, count = (replaced[name] for name in ("weights", "samples", "count"))
    network_options = _network_options(path, protocol["network"])
    other_options = _network_options(path, protocol["other"]) if "other" in protocol else None
    sample_options: dict[str, Any] = dict(protocol["samples"])
    if weights is not None:
        network_options["weights"] = weights
    if samples is not None:
        # with images to train on that are another part of the same source, the source given has these parts too
        parts = {"split"} if "source" not in protocol.get("train", {"source": ""}) else set()
        sample_options = {k: v for k, v in sample_options.items() if k in parts} | {"source": samples}
    else:
        sample_options["source"] = _beside(path, sample_options["source"])
    if count is not None:
        sample_options["count"] = count
    train_options: dict[str, Any] | None = protocol.get("train")
    if train_options is not None:
        if "source" in train_options:
            train_options = {**train_options, "source": _beside(path, train_options["source"])}
        train_options = further_options(sample_options, train_options)
    studies = _studies(protocol)
    images = load_samples(sample_options.pop("source"), **sample_options)
    network = load_for(images, **network_options)
    train = None if train_options is None else load_like(images, **train_options)
    other = None if other_options is None else load_for(images, **other_options)
    return examine(network, images, train=train, other=other, studies=studies, out=out, minutes=None, progress=progress)


def load_for(samples: Samples | None, source: str, **options: Any) -> Network:
    """A network; where the samples are no images they say what inputs the module of a factory takes."""
    shaped = samples is not None and samples.kind != "image" and hasattr(samples.records, "signature")
    if shaped and not is_weights_path(source) and isinstance(find_source(source), FactorySource):
        options["example"] = samples
    return load_network(source, **options)


def load_like(samples: Samples | None, source: Any, **options: Any) -> Samples:
    """Further samples; of a table with the coding of its categories that the first samples have."""
    if samples is not None and getattr(samples.records, "coding", None) is not None:
        options["like"] = samples
    return load_samples(source, **options)


CARRIED = {"root", "seed", "task", "label", "text", "columns", "categorical", "categories", "encoding", "kind", "range"}
CARRIED |= {"rate", "length", "mono", "outside", "empty", "classes"}
"""Options of samples that hold for further ones of another source too."""


def further_options(samples: dict[str, Any], further: dict[str, Any]) -> dict[str, Any]:
    """The options of load_samples for further images: of a `source` of their own, or another part of the samples'."""
    left = ("split", "count") if "source" not in further else set(samples) - CARRIED
    return {key: value for key, value in samples.items() if key not in left} | further


def _network_options(path: str | Path, table: dict[str, Any]) -> dict[str, Any]:
    """The table of a network as options of load_network, its weights beside the protocol where they are there."""
    weights = table.get("weights")
    return table | ({"weights": _beside(path, weights)} if isinstance(weights, str) else {})


def _beside(path: str | Path, name: str) -> str:
    """`name` as a path beside the protocol where such a file or folder is there, else as it is."""
    beside = Path(path).parent / name
    return str(beside) if beside.exists() else name


TABLES = ("network", "samples", "studies")


def read_protocol(path: str | Path) -> dict[str, Any]:
    """The tables `network`, `samples`, `studies` and, where they are there, `train` and `other` of a protocol.

    Of a protocol with sets these are what holds for all, and `sets` is a list of whole protocols, each with a `name`.
    """
    try:
        protocol = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"no protocol at '{path}': give the path of a TOML file.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"'{path}' is not a TOML file: {error}.") from error
    if "sets" not in protocol:
        _check(protocol, f"'{path}'")
        return protocol
    shared = {key: value for key, value in protocol.items() if key != "sets"}
    return {"studies": {}, **shared, "sets": _sets(protocol["sets"], shared, path)}


def _sets(sets: Any, shared: dict[str, Any], path: str | Path) -> list[dict[str, Any]]:
    """Each set with what holds for all."""
    if not isinstance(sets, list) or not sets or not all(isinstance(entry, dict) for entry in sets):
        raise SettingsError(f"sets of '{path}' is no list of tables: write each as [[sets]] with a name.")
    merged: list[dict[str, Any]] = []
    for entry in sets:
        name = entry.get("name")
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name in STUDIES:
            raise SettingsError(
                f"a set of '{path}' has the name {name!r}; give letters, digits, - and _, and no study's name."
            )
        if name in [other["name"] for other in merged]:
            raise SettingsError(f"two sets of '{path}' are called '{name}'; give each a name of its own.")
        merged_set = merge_tables(shared, entry)
        _check(merged_set, f"set '{name}' of '{path}'")
        merged.append(merged_set)
    return merged


def merge_tables(shared: dict[str, Any], table: dict[str, Any]) -> dict[str, Any]:
    """`shared` with the entries of `table` in their place, table by table."""
    both = dict(shared)
    for key, value in table.items():
        before = both.get(key)
        both[key] = merge_tables(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return both


def _check(protocol: dict[str, Any], what: str) -> None:
    for table in TABLES:
        if not isinstance(protocol.get(table), dict) or not protocol[table]:
            raise SettingsError(
                f"{what} has no table [{table}]; a protocol needs [network], [samples] and [studies.NAME]."
            )
    if not isinstance(protocol.get("other", {}), dict):
        raise SettingsError(f"other of {what} is no table: write it as [other], like [network].")
    for table in ("network", "samples", *(["other"] if "other" in protocol else [])):
        if not isinstance(protocol[table].get("source"), str):
            raise SettingsError(f'[{table}] of {what} has no source: add `source = "..."`.')
    train = protocol.get("train", {"split": "train"})
    if not isinstance(train, dict) or not {"source", "split"} & set(train):
        raise SettingsError(f'[train] of {what} says no images: add `source = "..."` or `split = "..."`.')
    if not all(isinstance(train.get(key, ""), str) for key in ("source", "split")):
        raise SettingsError(f"source and split in [train] of {what} are names: write them in quotes.")


def make_study(name: str, settings: dict[str, Any]) -> Study:
    """A study from plain settings; lists become tuples, unknown settings are an error."""
    cls = study_class(name)
    settings_of_study = [f.name for f in fields(cls)]
    unknown = [setting for setting in settings if setting not in settings_of_study]
    if unknown:
        raise SettingsError(
            f"the study '{name}' has no setting '{unknown[0]}'; it has: {', '.join(settings_of_study)}."
        )
    tables = [setting for setting in settings if setting in (*takes(cls).images, *takes(cls).networks)]
    if tables:
        raise SettingsError(f"'{tables[0]}' of the study '{name}' is a table of its own: write it as [{tables[0]}].")
    return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()})


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
    first = next(iter(results.values()))
    result.question, result.group = first.question, first.group
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
    return [
        Finding(f"{key}: {finding}", getattr(finding, "weight", 1.0))
        for key, result in results.items()
        for finding in result.findings[:SHOWN]
    ]


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
