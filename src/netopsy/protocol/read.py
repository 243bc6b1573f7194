"""Read a protocol and check what it says."""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

from netopsy.errors import SettingsError
from netopsy.studies.study import Study, takes
from netopsy.studies.table import STUDIES, study_class

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
