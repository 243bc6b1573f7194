"""Features of any nodes of a network: one pass over each set of samples, to memory-mapped files."""

from __future__ import annotations

import math
import secrets
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Int64
from numpy.lib.format import open_memmap

from netopsy.engine.observe.observe import observe
from netopsy.engine.workspace.workspace import check_room, conditions, current_workspace, file_stem, open_rows
from netopsy.errors import NetopsyError, NetworkError, SamplesError, SettingsError
from netopsy.features.features import Features, Scratch, occurring
from netopsy.files import finish
from netopsy.network.network import Network
from netopsy.network.node import Node
from netopsy.samples.labels import Labels, strata, stratify
from netopsy.samples.samples import Samples
from netopsy.samples.tasks import IGNORED
from netopsy.tallies.collect import Collect, FloatKind, Pool, pool_places

PLACES = "places"
RowNumbers = Int64[np.ndarray, " rows"]


def split_rows(
    labels: Labels, test_share: float, seed: int, name: str, classes: tuple[str, ...]
) -> tuple[RowNumbers, RowNumbers]:
    """Rows to train on and rows to test on, both rising: each class in both, its share of the test near `test_share`.

    labels: (n,) or (n, classes), where a row counts for its rarest label. The same seed parts alike.
    Raises SettingsError for a share or seed out of range, SamplesError for a class of a single row.
    """
    if isinstance(test_share, bool) or not isinstance(test_share, int | float) or not 0 < test_share < 1:
        raise SettingsError(f"test_share {test_share!r} must be above 0 and below 1: the share that is tested on.")
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise SettingsError(f"seed {seed!r} cannot seed a draw; give a whole number from 0.")
    kinds, member, sizes = np.unique(strata(labels), return_inverse=True, return_counts=True)
    if labels.ndim == 1 and len(sizes) and sizes.min() < 2:
        raise SamplesError(
            f"class '{classes[kinds[sizes.argmin()]]}' of {name} has a single item, too few to part into "
            "training and test; give two or more of each class, or both parts."
        )
    count = min(max(1, round(test_share * len(labels))), len(labels) - 1)
    if count < 1:
        raise SamplesError(f"{name} has {len(labels)} items, too few to part into training and test; give more.")
    tested = np.zeros(len(labels), bool)
    tested[stratify(labels, count, seed)] = True
    generator = np.random.default_rng(seed)
    for stratum in np.flatnonzero(sizes > 1):  # a small class that rounding left out of one part
        rows = np.flatnonzero(member == stratum)
        inside = tested[rows].sum()
        if inside in (0, len(rows)):
            tested[generator.choice(rows)] = inside == 0
    return np.flatnonzero(~tested), np.flatnonzero(tested)


def split_samples(samples: Samples, test_share: float, seed: int) -> tuple[Samples, Samples]:
    """`samples` split into a training and a test set, as `split_rows` does."""
    train, test = split_rows(samples.labels, test_share, seed, samples.name, samples.classes)
    return (
        samples.select(train, f"{samples.name}, {len(train):,} to train on (seed {seed})"),
        samples.select(test, f"{samples.name}, {len(test):,} to test on (seed {seed})"),
    )


def extract(
    network: Network,
    train: Samples,
    test: Samples,
    nodes: Sequence[str],
    *,
    pool: Pool | Literal["places"] = "none",
    dtype: FloatKind = "float32",
    folder: str | Path | None = None,
) -> dict[str, Features]:
    """The features of every node, by its full name, in the order given.

    pool: `none` flattens a node's value in the order of torch.flatten(1) (Carvalho et al.); `mean` and `max` pool each
        channel over its places, `first` and `last` take the first and the last place; `places` makes a vector of each
        place, with its own label where labels are by place, else its sample's. Padding counts nowhere.
    dtype: `float32` or `float16`, in which the vectors are kept.
    folder: where the `.npy` files lie, one a node and part; those that are there are used again. By default the
        workspace's; without one a temporary folder that goes with the last of the Features, or when one is closed.
    In a `workspace` a pass that was stopped goes on from its last checkpoint. Memory does not grow with the samples.
    Raises UnknownLayer, NetworkError for a node without one row of real numbers an image, or with NaN or infinity,
    SamplesError for parts that are the same or do not fit, SettingsError for values that float16 cannot hold and for
    features that the disk cannot.
    """
    if pool not in (*get_args(Pool), PLACES):
        raise SettingsError(f"pool '{pool}' is none; give {', '.join(get_args(Pool))} or {PLACES}.")
    if dtype not in get_args(FloatKind):
        raise SettingsError(f"dtype '{dtype}' is none; give float32 or float16.")
    chosen = {record.name: record for record in map(network.node, nodes)}
    if not chosen:
        raise SettingsError("no node is given; give at least one, or leave nodes out for the penultimate features.")
    for node in chosen.values():
        _check(network, node)
    classes = shared_classes(train, test)
    if train.digest == test.digest:
        raise SamplesError(f"{train.name} and {test.name} are the same samples; train on others than those tested on.")
    scratch = None
    place = folder if folder is not None else current_workspace().folder
    if place is None:
        scratch = Scratch(Path(tempfile.mkdtemp(prefix="netopsy-features-")))
        place = scratch.folder
    try:
        collected: Pool = "none" if pool == "places" else pool
        paths = [_collect(network, samples, chosen, collected, dtype, Path(place)) for samples in (train, test)]
        if pool == "places":
            return {
                name: _features_of_places(
                    network, (train, test), node, [part[name] for part in paths], classes, scratch
                )
                for name, node in chosen.items()
            }
    except BaseException:
        if scratch:
            scratch.close()
        raise
    for part in (train, test):
        if part.labels.ndim > 1 and not part.multilabel:
            raise SamplesError(
                f"the labels of {part.name} are by place; take the features by place too (pool 'places')."
            )
    y_train, y_test, class_names = occurring(train.labels, test.labels, classes)
    return {
        name: Features(
            f"{name} of {network.name} on {test.name}",
            open_memmap(paths[0][name], mode="r"),
            y_train,
            open_memmap(paths[1][name], mode="r"),
            y_test,
            class_names,
            scratch,
        )
        for name in chosen
    }


def _features_of_places(
    network: Network,
    parts: tuple[Samples, Samples],
    node: Node,
    paths: Sequence[Path],
    classes: tuple[str, ...],
    scratch: Scratch | None,
) -> Features:
    """A vector of each place that is no padding and has a label, from files of flattened values."""
    if len(node.full_shape) < 3:
        raise NetworkError(f"node '{node.name}' of {network.name} has one place a sample; take pool 'none'.")
    axis, vectors, labels = node.channel_axis, [], []
    for samples, path in zip(parts, paths, strict=True):
        values = np.moveaxis(np.load(path, mmap_mode="r").reshape(len(samples), *node.shape), axis, -1)
        places = math.prod(values.shape[1:-1])
        by_place = samples.labels.ndim > 1 and not samples.multilabel
        y = samples.labels.reshape(len(samples), -1) if by_place else np.repeat(samples.labels[:, None], places, 1)
        if by_place and y.shape[1] != places:
            raise SamplesError(
                f"the labels of {samples.name} are {samples.labels.shape[1:]} a sample and '{node.name}' has "
                f"{values.shape[1:-1]} places; choose a node with as many."
            )
        keep = (y != IGNORED if y.ndim == 2 else np.ones(y.shape[:2], bool)) & _real(network, samples, node, places)
        vectors.append(values.reshape(len(samples), places, -1)[keep])
        labels.append(y[keep])
    y_train, y_test, names = occurring(labels[0], labels[1], classes)
    name = f"places of {node.name} of {network.name} on {parts[1].name}"
    return Features(name, vectors[0], y_train, vectors[1], y_test, names, scratch)


def _real(network: Network, samples: Samples, node: Node, places: int) -> Bool[np.ndarray, "n places"]:
    """Which places are no padding."""
    real = np.ones((len(samples), places), bool)
    if node.length_axes and network.signature.lengths.get(node.sequence) == places:
        for batch in samples.batches(network.preprocessing, 512):
            mask = batch.mask_of(node.sequence)
            assert mask is not None
            real[batch.indices.numpy()] = mask.numpy()
    return real


def default_node(network: Network) -> str:
    """The node of the penultimate features: what the last weight-bearing layer in front of the output reads.

    Of a network that gives features itself, an output with a name of its own such as `last_hidden_state`, that output.
    Raises NetworkError for a network without such a layer.
    """
    if network.output_name.rpartition(".")[2] not in ("", "logits"):
        return network.output
    name = network.nodes[network.output].layer
    if not name:
        raise NetworkError(f"{network.name} has no weight-bearing layer, so no features in front of it; give a node.")
    node = network.nodes[network.layer(name).nodes[-1]]
    while True:
        node = next(operand for operand in node.inputs if operand.from_input)
        if node.is_tensor:
            return node.name


def shared_classes(train: Samples, test: Samples) -> tuple[str, ...]:
    """The class names of both; SamplesError where they differ."""
    longer, shorter = sorted((train.classes, test.classes), key=len, reverse=True)
    if train.multilabel != test.multilabel or longer[: len(shorter)] != shorter:
        raise SamplesError(
            f"{train.name} and {test.name} have different classes ({_some(train.classes)}; {_some(test.classes)}); "
            "train and test on images of the same classes."
        )
    if train.multilabel and len(longer) != len(shorter):
        raise SamplesError(
            f"{train.name} has {len(train.classes)} labels an image and {test.name} {len(test.classes)}; give both the "
            "same columns."
        )
    return longer


def dimensions(node: Node, pool: Pool = "none") -> int:
    """Length of the feature vectors of `node`."""
    value = torch.empty(node.full_shape, device="meta")
    return pool_places(value, pool, node.channel_axis).shape[1]


def _check(network: Network, node: Node) -> None:
    if not node.per_sample or not node.is_floating_point:
        kind = str(node.dtype or "no tensor").removeprefix("torch.")
        raise NetworkError(
            f"node '{node.name}' of {network.name} has no row of real numbers an image ({kind}, shape "
            f"{node.full_shape} for one image); choose a node before or behind it."
        )


def _collect(
    network: Network, samples: Samples, nodes: dict[str, Node], pool: Pool, dtype: FloatKind, folder: Path
) -> dict[str, Path]:
    """The finished file of each node; those that are not there yet come from one pass."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = {**conditions(network, samples), "pool": pool, "dtype": dtype}
    finished = {name: folder / f"{file_stem('features', {**spec, 'node': name})}.npy" for name in nodes}
    sizes = {name: (len(samples), dimensions(node, pool)) for name, node in nodes.items()}
    missing = {name: path for name, path in finished.items() if open_rows(path, sizes[name], dtype) is None}
    if not missing:
        return finished
    parts = {name: _part(path, sizes[name], dtype) for name, path in missing.items()}
    needed = sum(math.prod(sizes[name]) for name in parts) * np.dtype(dtype).itemsize
    needed -= sum(path.stat().st_blocks * 512 for path in parts.values() if path.exists())  # what is written of it
    check_room(folder, needed, "the features", "pool them, keep them as float16, take fewer nodes or images")
    tallies = {
        name: (name, Collect(path, len(samples), name, pool=pool, axis=nodes[name].channel_axis, dtype=dtype))
        for name, path in parts.items()
    }
    try:
        observe(network, samples, tallies)
    except NetopsyError:  # what cannot be collected once need not be resumed
        for path in parts.values():
            path.unlink(missing_ok=True)
        raise
    for name, path in parts.items():
        finish(path, missing[name])
    return finished


def _part(path: Path, size: tuple[int, int], dtype: str) -> Path:
    """The file that a stopped pass left, or a new name.

    The name enters the checkpoint of the pass: without this very file the pass begins at the first sample.
    """
    for part in sorted(path.parent.glob(f"{path.stem}.*.part")):
        if open_rows(part, size, dtype) is not None:
            return part
        part.unlink()
    return path.with_name(f"{path.stem}.{secrets.token_hex(4)}.part")


def _some(classes: tuple[str, ...]) -> str:
    return ", ".join(classes[:3]) + (", ..." if len(classes) > 3 else "")
