"""One pass over the samples, any number of tallies on any nodes."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from netopsy.engine.interpreter import plan
from netopsy.engine.observe.tally import Tally
from netopsy.engine.trials.pool import current_workers
from netopsy.engine.trials.run import bounds, outcomes, parts
from netopsy.engine.trials.trial import Outcome
from netopsy.engine.workspace.fingerprint import conditions
from netopsy.engine.workspace.workspace import Checkpoint, current_workspace
from netopsy.errors import SettingsError
from netopsy.network.graph import shape_of
from netopsy.network.network import Network
from netopsy.samples.samples import Samples

_LARGEST = 4 * 2**20  # values of the largest node that a batch may hold: more falls out of the cache


def observe(
    network: Network,
    samples: Samples,
    tallies: Mapping[str, tuple[str, Tally]],
    *,
    batch_size: int | None = None,
) -> dict[str, Any]:
    """The result of every tally, by its name, after one pass over the samples.

    tallies: name -> (node, tally); several may watch one node. The tallies themselves stay empty: copies count.
    batch_size: images a step; by default as many as keep the largest activation in the processor's cache.
    Nodes that no tally needs are not run, and memory does not grow with the number of samples. In a `workspace` a pass
    that was stopped goes on from its last checkpoint.
    Errors: UnknownLayer for a node that the network does not have, SettingsError for anything that is no tally.
    """
    counted, watched = _copies(network, tallies)
    size = default_batch_size(network) if batch_size is None else batch_size
    if size < 1:
        raise SettingsError(f"batch size {size} must be at least 1.")
    place, total = current_workspace(), len(samples)
    spec = _spec(network, samples, counted, watched, size) if place.folder else {}
    saved = place.checkpoint("observe", spec)
    done, state = saved.load()
    _restore(counted, state, network)
    pieces = [range(done, total)] if done == total or _stays(counted) else parts(done, total, size)
    if len(pieces) > 1:
        empty = {name: (entry[0], copy.deepcopy(entry[1])) for name, entry in tallies.items()}
        with outcomes(_part, (network, samples, empty, size), bounds(pieces), spec, "observe") as found:
            for outcome in found:
                _merge(counted, empty, dict(outcome.tensors), network)
            saved.save(total, partial(_state, counted), final=True)
    else:
        _pass(network, samples, counted, watched, size, range(total), done, saved)
    return {name: tally.result() for name, tally in counted.items()}


def _pass(
    network: Network,
    samples: Samples,
    counted: dict[str, Tally],
    watched: dict[str, list[Tally]],
    size: int,
    piece: range,
    done: int,
    saved: Checkpoint,
) -> None:
    """Count the samples of `piece`, all but the first `done`."""
    walk, place = plan(network, (), watched=watched), current_workspace()
    device, indices = network.device, torch.empty(0, dtype=torch.int64)

    def visit(node: str, values: Tensor) -> None:
        for tally in watched[node]:
            tally.update(values, indices)

    place.report("observe", done, len(piece))
    with torch.inference_mode():
        for batch in samples.batches(network.preprocessing, size, start=done, order=piece):
            indices = batch.indices
            walk.run({"input": batch.images.to(device)}, batch=len(indices), visit=visit)
            done += len(indices)
            saved.save(done, partial(_state, counted))
            place.report("observe", done, len(piece))
    saved.save(done, partial(_state, counted), final=True)


def _part(context: Any, spec: dict[str, Any]) -> Outcome:
    """The trial of one part of the samples: what the tallies have counted."""
    network, samples, tallies, size = context
    counted, watched = _copies(network, tallies)
    saved = current_workspace().checkpoint("observe", spec)
    done, state = saved.load()
    _restore(counted, state, network)
    _pass(network, samples, counted, watched, size, range(spec["start"], spec["stop"]), done, saved)
    return Outcome({}, _state(counted))


def _stays(counted: Mapping[str, Tally]) -> bool:
    """Whether a tally writes to a file of this machine, and the workers may be on others."""
    return current_workers().settings.address is not None and any(tally.on_disk for tally in counted.values())


def _state(counted: Mapping[str, Tally]) -> dict[str, Tensor]:
    return {f"{name}\0{key}": value for name, tally in counted.items() for key, value in tally.state().items()}


def _restore(counted: Mapping[str, Tally], state: Mapping[str, Tensor], network: Network) -> None:
    for name, tally in counted.items():
        mark = f"{name}\0"
        tally.restore({k.removeprefix(mark): v.to(network.device) for k, v in state.items() if k.startswith(mark)})


def _merge(
    counted: Mapping[str, Tally],
    empty: Mapping[str, tuple[str, Tally]],
    state: Mapping[str, Tensor],
    network: Network,
) -> None:
    """Add the counts of one part."""
    more = {name: copy.deepcopy(tally) for name, (_, tally) in empty.items()}
    _restore(more, state, network)
    for name, tally in counted.items():
        tally.merge(more[name])


def default_batch_size(network: Network) -> int:
    """Images a step: the largest activation stays in the processor's cache; 1 to 32."""
    largest = max(torch.Size(shape_of(node)).numel() for node in network.nodes.values())
    return max(1, min(32, _LARGEST // largest))


def _copies(
    network: Network, tallies: Mapping[str, tuple[str, Tally]]
) -> tuple[dict[str, Tally], dict[str, list[Tally]]]:
    """Copies of the tallies by name, and by the node that they watch."""
    counted: dict[str, Tally] = {}
    watched: dict[str, list[Tally]] = {}
    for name, entry in tallies.items():
        if not (isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[1], Tally)):
            raise SettingsError(f"tally '{name}' is {entry!r}; give (node name, tally), e.g. ('relu', Sparsity()).")
        counted[name] = copy.deepcopy(entry[1])
        watched.setdefault(network.node(entry[0]).meta["name"], []).append(counted[name])
    if not counted:
        raise SettingsError("there is no tally to count; give at least one as {name: (node name, tally)}.")
    return counted, watched


def _spec(
    network: Network, samples: Samples, counted: dict[str, Tally], watched: dict[str, list[Tally]], size: int
) -> dict[str, Any]:
    """All that the outcome depends on."""
    nodes = {id(tally): node for node, tallies in watched.items() for tally in tallies}
    return {
        **conditions(network, samples),
        "tallies": {name: [nodes[id(tally)], *_description(tally)] for name, tally in counted.items()},
        "batch_size": size,
    }


def _description(tally: Tally) -> tuple[str, dict[str, str]]:
    """Kind and settings of a tally that has counted nothing yet."""
    kind = type(tally)
    return f"{kind.__module__}.{kind.__qualname__}", {name: _text(value) for name, value in vars(tally).items()}


def _text(value: Any) -> str:
    if isinstance(value, Tensor):
        content = value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
        return hashlib.sha256(content).hexdigest()
    return repr(value)
