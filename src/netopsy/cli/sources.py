"""Load what a command works on: a network, samples, or features."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from netopsy.cli import options as o
from netopsy.errors import SettingsError

_FEATURES = (".npy", ".npz", ".parquet")


def is_features(source: str) -> bool:
    """Whether `source` names a file of features, by its ending."""
    return Path(source).suffix.lower() in _FEATURES


def load_subject(source: str, options: dict[str, Any], samples: Any = None) -> Any:
    """Load the network that the options describe; samples that are no images say what inputs a factory's takes."""
    for name in ("x", "y"):
        if options.get(name) is not None:
            raise SettingsError(f"--{name} belongs to a file of features; leave it out with a network.")
    names = {option.name for option in (*o.NETWORK_OPTIONS, *o.PREPROCESSING)} - {"device"}
    if not _has_length(source, options):
        names -= {"length"}
    chosen = {name: options[name] for name in sorted(names) if options.get(name) is not None}
    if chosen.pop("own_dtype", False):
        chosen["dtype"] = "own"
    if "size" in chosen:
        size = chosen["size"]
        chosen["size"] = (size[0], size[-1])
    return _load(source, chosen, options.get("device"), samples)


def load_second(name: str, options: dict[str, Any], samples: Any = None) -> Any:
    """Load the network of --NAME, --NAME-weights, --NAME-state and --NAME-num-classes; None where none is given.

    Its preprocessing is what its weights or its architecture say, its device the first network's.
    """
    words = {key: f"{name}_{key}" for key in ("weights", "state", "num_classes")}
    chosen = {key: options[word] for key, word in words.items() if options.get(word) is not None}
    if options.get(name) is None:
        for key in chosen:
            raise SettingsError(f"--{words[key].replace('_', '-')} is of no use without --{name}: give that network.")
        return None
    return _load(options[name], chosen, options.get("device"), samples)


def _load(source: str, options: dict[str, Any], device: str | None, samples: Any) -> Any:
    from netopsy.protocol.run import load_for

    if is_features(source):
        raise SettingsError(f"'{source}' is a file of features, and this command needs a network: give one.")
    network = load_for(samples, source, **options)
    if device:
        try:
            network.module.to(device)
        except (RuntimeError, AssertionError) as error:
            raise SettingsError(f"device '{device}' is not to be had here: {error}".splitlines()[0]) from error
    return network


def samples_options(network: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options without the length, where that is one of the network's."""
    return options | {"length": None} if _has_length(network, options) else options


def _has_length(source: str, options: dict[str, Any]) -> bool:
    """Whether --length is that of the samples that the network takes."""
    return source.startswith("hf:") or options.get("tokenizer") is not None


def load_images(source: str | None, options: dict[str, Any]) -> Any:
    """Load the samples that the options describe."""
    if source is None:
        return None
    from netopsy.samples.load import load_samples

    return load_samples(source, **_image_options(options))


def load_further(name: str, samples: str | None, cli_options: dict[str, Any], images: Any = None) -> Any:
    """Load the samples of --NAME, --NAME-split and --NAME-count; None where none of them is given.

    images: those of --samples, whose coding of categories a table takes.
    """
    from netopsy.protocol.run import further_options, load_like

    words = {"source": name, "split": f"{name}_split", "count": f"{name}_count"}
    further = {key: cli_options[word] for key, word in words.items() if cli_options.get(word) is not None}
    if not further:
        return None
    if not {"source", "split"} & set(further):
        raise SettingsError(f"--{name}-count says no images: give --{name} or --{name}-split too.")
    if "source" not in further and samples is None:
        raise SettingsError(f"--{name}-split is a part of --samples: give these, or --{name}.")
    options = further_options({"source": samples, **_image_options(cli_options)}, further)
    return load_like(images, **options)


def load_vectors(source: str, samples: str | None, cli_options: dict[str, Any], settings: Collection[str]) -> Any:
    """Load the features that the options describe; settings: those of the study, which it may use as it likes."""
    from netopsy.features.load import load_features

    options = ("labels", "x", "y", "split")
    foreign = [o.NETWORK_OPTIONS, o.PREPROCESSING, [p for p in o.SAMPLES_OPTIONS if p.name not in (*options, "seed")]]
    defaults = {p.name: p.default for group in foreign for p in group}
    names = [name for name in defaults if name not in settings]
    names += [f"{name}{end}" for name in settings for end in ("", "_split", "_count") if f"{name}_split" in cli_options]
    for name, value in [("samples", samples), *((name, cli_options.get(name)) for name in names)]:
        if value is not None and value != defaults.get(name):
            raise SettingsError(
                f"--{name.replace('_', '-')} has no use with features: '{source}' holds vectors and labels of its own."
            )
    chosen = {name: cli_options[name] for name in (*options, "seed", "test_share") if cli_options.get(name) is not None}
    return load_features(source, **chosen)


def _image_options(options: dict[str, Any]) -> dict[str, Any]:
    names = [option.name for option in o.SAMPLES_OPTIONS]
    chosen = {name: options[name] for name in names if options.get(name) is not None}
    if "label" in chosen:
        label = chosen["label"]
        chosen["label"] = None if label == ("none",) else label[0] if len(label) == 1 else label
    if len(chosen.get("text", ())) == 1:
        chosen["text"] = chosen["text"][0]
    return chosen
