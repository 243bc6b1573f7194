"""Protocols: a paper's whole experiment as a TOML file.

[network]
source = "netopsy:alexnet"
weights = "bvlcalexnet-12.onnx"      # paths are relative to the protocol

[samples]
source = "imagenet/val"

[train]                              # images to train on, for the studies that train; not needed
split = "train"                      # its source is that of [samples] unless it has its own

[studies.noise]                      # one table a study, in the order they run
strengths = [0.1, 0.2]
"""

from __future__ import annotations

import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

from netopsy.case import Case
from netopsy.engine.workspace import Progress
from netopsy.errors import SettingsError
from netopsy.examination import examine
from netopsy.network.load import load_network
from netopsy.samples import load_samples
from netopsy.studies import study_class
from netopsy.studies.study import Study, image_fields


def run_protocol(
    path: str | Path,
    *,
    out: str | Path,
    weights: str | None = None,
    samples: str | None = None,
    count: int | None = None,
    progress: Progress | None = None,
) -> Case:
    """Run the protocol at `path`; `weights`, `samples` and `count` take the place of the protocol's own."""
    protocol = read_protocol(path)
    network_options: dict[str, Any] = dict(protocol["network"])
    sample_options: dict[str, Any] = dict(protocol["samples"])
    if weights is not None:
        network_options["weights"] = weights
    elif "weights" in network_options:
        network_options["weights"] = _beside(path, network_options["weights"])
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
    studies = [make_study(name, settings) for name, settings in protocol["studies"].items()]
    network = load_network(network_options.pop("source"), **network_options)
    images = load_samples(sample_options.pop("source"), **sample_options)
    train = None if train_options is None else load_samples(train_options.pop("source"), **train_options)
    return examine(network, images, train=train, studies=studies, out=out, progress=progress)


def further_options(samples: dict[str, Any], further: dict[str, Any]) -> dict[str, Any]:
    """The options of load_samples for further images: of a `source` of their own, or another part of the samples'."""
    left = ("split", "count") if "source" not in further else set(samples) - {"root", "seed"}
    return {key: value for key, value in samples.items() if key not in left} | further


def read_protocol(path: str | Path) -> dict[str, Any]:
    """The tables `network`, `samples`, `studies` and, where there is one, `train` of a protocol."""
    try:
        protocol = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"no protocol at '{path}': give the path of a TOML file.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"'{path}' is not a TOML file: {error}.") from error
    for table in ("network", "samples", "studies"):
        if not isinstance(protocol.get(table), dict) or not protocol[table]:
            raise SettingsError(
                f"'{path}' has no table [{table}]; a protocol needs [network], [samples] and [studies.NAME]."
            )
    for table in ("network", "samples"):
        if not isinstance(protocol[table].get("source"), str):
            raise SettingsError(f"[{table}] of '{path}' has no source: add `source = \"...\"`.")
    train = protocol.get("train", {"split": "train"})
    if not isinstance(train, dict) or not {"source", "split"} & set(train):
        raise SettingsError(f'[train] of \'{path}\' says no images: add `source = "..."` or `split = "..."`.')
    if not all(isinstance(train.get(key, ""), str) for key in ("source", "split")):
        raise SettingsError(f"source and split in [train] of '{path}' are names: write them in quotes.")
    return protocol


def make_study(name: str, settings: dict[str, Any]) -> Study:
    """A study from plain settings; lists become tuples, unknown settings are an error."""
    cls = study_class(name)
    known = [f.name for f in fields(cls)]
    unknown = [setting for setting in settings if setting not in known]
    if unknown:
        raise SettingsError(f"the study '{name}' has no setting '{unknown[0]}'; it has: {', '.join(known)}.")
    images = [setting for setting in settings if setting in image_fields(cls)]
    if images:
        raise SettingsError(f"'{images[0]}' of the study '{name}' is a table of its own: write it as [{images[0]}].")
    return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()})


def _beside(path: str | Path, name: str) -> str:
    """`name` as a path beside the protocol where such a file or folder is there, else as it is."""
    beside = Path(path).parent / name
    return str(beside) if beside.exists() else name
