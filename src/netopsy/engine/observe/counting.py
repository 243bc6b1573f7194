"""A set of tallies while they count, and the checkpoint that they share."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from netopsy.engine.observe.tally import Tally
from netopsy.engine.workspace.checkpoint import Checkpoint
from netopsy.engine.workspace.workspace import conditions, current_workspace
from netopsy.errors import SettingsError
from netopsy.network.network import Network
from netopsy.samples.samples import Samples


@dataclass(frozen=True)
class Pass:
    """What is run: `network` on the `samples` at `visited`, int64 (n,), or on all; `size` of them at a time.

    folded: with each batch norm folded into its convolution. label: how the progress is called.
    """

    network: Network
    samples: Samples
    size: int
    visited: Int64[np.ndarray, " n"] | None = None
    folded: bool = False
    label: str = "observe"

    def __len__(self) -> int:
        return len(self.samples) if self.visited is None else len(self.visited)

    def order(self, piece: range) -> Any:
        """The samples at the positions of `piece`."""
        return piece if self.visited is None else self.visited[piece.start : piece.stop]

    @cached_property
    def conditions(self) -> dict[str, Any]:
        """All that the values depend on."""
        spec = {**conditions(self.network, self.samples), "batch_size": self.size, "folded": self.folded}
        return spec if self.visited is None else {**spec, "visited": text_of(self.visited)}


class TallySet:
    """Tallies that have counted the first `done` positions of a pass; `failed` where one of them raised an error.

    The tallies that were given stay empty: copies count.
    """

    def __init__(self, run: Pass, tallies: Tallies) -> None:
        self.run, self.tallies_given = run, tallies
        self.tallies: dict[str, Tally] = {}
        self.watched: dict[str, WatchedNodes] = {}
        for name, entry in tallies.items():
            self.watched[name], tally = find_watched(name, entry, run.network)
            self.tallies[name] = copy.deepcopy(tally)
        if not self.tallies:
            raise SettingsError("there is no tally to count; give at least one as {name: (node name, tally)}.")
        self.done = 0
        self.failed = False
        self.checkpoint = Checkpoint(None)

    @property
    def networks(self) -> list[Network]:
        """The networks that are run, the first of the pass in front."""
        every = [self.run.network, *(network for watched in self.watched.values() for network, _ in watched.nodes)]
        return list({id(network): network for network in every}.values())

    @cached_property
    def spec(self) -> dict[str, Any]:
        """All that the results depend on."""
        tallies = {
            name: [*self.watched[name].describe(self.run.network), *_description(tally)]
            for name, (_, tally) in self.tallies_given.items()
        }
        others = [conditions(network) for network in self.networks[1:]]
        return {**self.run.conditions, "tallies": tallies, **({"others": others} if others else {})}

    def resume(self, spec: dict[str, Any]) -> None:
        """Go on from the checkpoint of `spec` in the workspace, if there is one."""
        self.checkpoint = current_workspace().checkpoint("observe", spec)
        self.done, state = self.checkpoint.load()
        self.restore(state)

    def begin(self) -> None:
        """Count again."""
        self.done, self.tallies = 0, {name: copy.deepcopy(entry[1]) for name, entry in self.tallies_given.items()}

    def advance(self, done: int, *, final: bool = False) -> None:
        """Say that `done` positions are counted, and save a checkpoint where it is due."""
        self.done = done
        self.checkpoint.save(done, self.state, final=final)

    def state(self) -> dict[str, Tensor]:
        """All that has been counted."""
        return {f"{name}\0{key}": value for name, tally in self.tallies.items() for key, value in tally.state().items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up a `state`."""
        device = self.run.network.device
        for name, tally in self.tallies.items():
            mark = f"{name}\0"
            tally.restore({k.removeprefix(mark): v.to(device) for k, v in state.items() if k.startswith(mark)})

    def merge(self, state: Mapping[str, Tensor]) -> None:
        """Add what the part that follows has counted."""
        part = TallySet(self.run, self.tallies_given)
        part.restore(state)
        for name, tally in self.tallies.items():
            tally.merge(part.tallies[name])

    def results(self) -> dict[str, Any]:
        """The result of each tally."""
        return {name: tally.result() for name, tally in self.tallies.items()}


def _description(tally: Tally) -> tuple[str, dict[str, str]]:
    """Kind and settings of a tally that has counted nothing yet."""
    kind = type(tally)
    return f"{kind.__module__}.{kind.__qualname__}", {name: text_of(value) for name, value in vars(tally).items()}


def text_of(value: Any) -> str:
    """A text that differs where values do; of tensors and arrays their digest."""
    if isinstance(value, Tensor):
        content = value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
        return hashlib.sha256(content).hexdigest()
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape} {hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()}"
    return repr(value)


LABELS = "<labels>"
"""Stands among the nodes of a tally for the labels of the samples, as `Batch.labels` has them."""

PLACES = "<places>"
"""Stands among the nodes of a tally for the places that belong to a sample, bool (batch, length): those that all its
networks have, see `align_places`; a single true one where no network pads its samples."""

NOT_NODES = (LABELS, PLACES)

NodeRef = str | tuple[Network, str]
NodeRefs = NodeRef | tuple[NodeRef, ...]
Tallies = Mapping[str, tuple[NodeRefs, Tally]]
_FORM = "give (node name, tally), e.g. ('relu', ZeroShare()), or ((node, node), tally) for several at once"


@dataclass(frozen=True)
class WatchedNodes:
    """The nodes of one tally.

    nodes: (network, full name) of each; labels and places belong to the first network of the observation.
    together: whether the tally gets the tuple of all values, also where it is a tuple of one.
    """

    nodes: tuple[tuple[Network, str], ...]
    together: bool

    @property
    def networks(self) -> list[Network]:
        """Those whose nodes are watched, each once."""
        named = [network for network, node in self.nodes if node not in NOT_NODES]
        return list({id(network): network for network in named}.values())

    def describe(self, network: Network) -> list[object]:
        """Plain data that tells these nodes from others; `network`: the first of the observation."""
        names: list[object] = [
            name if owner is network else [owner.name, owner.digest, name] for owner, name in self.nodes
        ]
        return [names] if self.together else names


def find_watched(name: str, entry: object, network: Network) -> tuple[WatchedNodes, Tally]:
    """The nodes and the tally of one entry of `Tallies`, called `name`; node names alone are those of `network`.

    Errors: SettingsError for anything else, UnknownLayer for a node that there is not.
    """
    if not (isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[1], Tally)):
        raise SettingsError(f"tally '{name}' is {entry!r}; {_FORM}.")
    nodes, tally = entry
    together = not _is_node(nodes)
    listed = nodes if together else (nodes,)
    if not isinstance(listed, tuple) or not listed or not all(map(_is_node, listed)):
        raise SettingsError(f"tally '{name}' watches {nodes!r}; {_FORM}; (network, node) is a node of another network.")
    pairs = [(network, node) if isinstance(node, str) else node for node in listed]
    full_names = [(owner, text if text in NOT_NODES else owner.node(text).name) for owner, text in pairs]
    return WatchedNodes(tuple(full_names), together), tally


def _is_node(value: object) -> bool:
    if isinstance(value, str):
        return True
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], Network) and isinstance(value[1], str)
