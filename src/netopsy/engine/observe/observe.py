"""One pass over the samples, any number of tallies on any nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from netopsy.engine.interpreter import plan
from netopsy.engine.observe.counting import LABELS, NOT_NODES, PLACES, Pass, Tallies, TallySet, WatchedNodes
from netopsy.engine.observe.tally import AlignedPlaces, Tally, align_places, without_padding
from netopsy.engine.trials.pool import current_workers
from netopsy.engine.trials.run import run_shards, shard_specs, split_range
from netopsy.engine.trials.trial import Outcome
from netopsy.engine.workspace.workspace import current_workspace
from netopsy.errors import NotApplicable, SettingsError
from netopsy.network.network import Network, check_network
from netopsy.samples.samples import Batch, Samples

_LARGEST = 4 * 2**20  # values of the largest node that a batch may hold: more falls out of the cache


def observe(
    network: Network,
    samples: Samples,
    tallies: Tallies,
    *,
    batch_size: int | None = None,
    order: ArrayLike | None = None,
    folded: bool = False,
    label: str = "observe",
) -> dict[str, Any]:
    """The result of every tally, by its name, after one pass over the samples.

    tallies: name -> (node, tally); several may watch one node. A tuple of nodes in place of one gives the tally the
        tuple of their values: ((node, node), tally). A node of another network is (other, node); that network runs on
        the same samples with its own preprocessing, and where samples are padded the places of both are aligned, see
        `align_places`. `LABELS` in place of a node gives the labels of the samples, `PLACES` which places are theirs.
        The tallies themselves stay empty: copies count.
    batch_size: images a step; by default as many as keep the largest activation in the processor's cache.
    order: indices of the samples to visit, in any number and order; by default all in order.
    folded: fold each batch norm into its convolution: faster, and values differ by rounding.
    label: how the progress is called.
    Nodes that no tally needs are not run, and memory does not grow with the number of samples. In a `workspace` a pass
    that was stopped goes on from its last checkpoint.
    Errors: UnknownLayer for a node that a network does not have, SettingsError for anything that is no tally.
    """
    check_network(network)
    size = default_batch_size(network) if batch_size is None else batch_size
    if size < 1:
        raise SettingsError(f"batch size {size} must be at least 1.")
    visited = None if order is None else np.asarray(order, np.int64)
    run = Pass(network, samples, size, visited, folded, label)
    tally_set = TallySet(run, tallies)
    _count(run, [tally_set])
    return tally_set.results()


def observe_ahead(network: Network, samples: Samples, sets: Iterable[Tallies]) -> None:
    """Count several sets of tallies in one pass, and leave each in the workspace, where its own `observe` finds it.

    A set that is finished there takes no part, and one that a stopped pass left behind joins where it was. A set in
    which a tally fails drops out: its own `observe` will meet the error.
    """
    run = Pass(network, samples, default_batch_size(network))
    if current_workspace().folder is None:
        raise SettingsError("nothing can be counted ahead without a workspace to keep it in; give one a folder.")
    _count(run, [TallySet(run, tallies) for tallies in sets if tallies], alone=False)


def _count(run: Pass, sets: Sequence[TallySet], *, alone: bool = True) -> None:
    """Bring all sets to the end of the pass. alone: whether an error in a tally is raised, or drops its set."""
    if current_workspace().folder:
        for tally_set in sets:
            tally_set.resume(tally_set.spec)
    total = len(run)
    sets = [tally_set for tally_set in sets if tally_set.done < total]
    start = min((tally_set.done for tally_set in sets), default=total)
    if not sets:
        current_workspace().report(run.label, total, total)
        return
    pieces = [range(start, total)] if _stays(sets) else split_range(start, total, run.size)
    if len(pieces) > 1:
        _share_out(run, sets, pieces, alone)
    else:
        _visit(run, sets, range(total), alone)


def _share_out(run: Pass, sets: Sequence[TallySet], pieces: Sequence[range], alone: bool) -> None:
    """Count the pieces over the workers and put the parts together."""
    if len({tally_set.done for tally_set in sets}) > 1:  # what some have of the first pieces would be counted twice
        for tally_set in sets:
            tally_set.begin()
        pieces = split_range(0, len(run), run.size)
    spec = {"sets": [tally_set.spec for tally_set in sets]} if current_workspace().folder else {}
    context = run, [tally_set.tallies_given for tally_set in sets], alone
    with run_shards(_part, context, shard_specs(pieces), spec, "observe") as outcomes:
        for outcome in outcomes:
            for k, tally_set in enumerate(sets):
                tally_set.failed = tally_set.failed or k in outcome.values["failed"]
                if not tally_set.failed:
                    mark = f"{k}\0"
                    state = {name: value for name, value in outcome.tensors.items() if name.startswith(mark)}
                    tally_set.merge({name.removeprefix(mark): value for name, value in state.items()})
        for tally_set in sets:
            if not tally_set.failed:
                tally_set.advance(len(run), final=True)


def _part(context: Any, spec: dict[str, Any]) -> Outcome:
    """The trial of one piece: what the tallies of each set have counted."""
    run, every_tally, alone = context
    sets = [TallySet(run, tallies) for tallies in every_tally]
    for k, tally_set in enumerate(sets):
        tally_set.resume({**spec, "set": k})
    _visit(run, sets, range(spec["start"], spec["stop"]), alone)
    failed = [k for k, tally_set in enumerate(sets) if tally_set.failed]
    state = {f"{k}\0{key}": value for k, tally_set in enumerate(sets) for key, value in tally_set.state().items()}
    return Outcome({"failed": failed}, state)


def _visit(run: Pass, sets: Sequence[TallySet], piece: range, alone: bool) -> None:
    """Show the samples of `piece` to the sets, each from where it stands."""
    place = current_workspace()
    networks = list({id(network): network for tally_set in sets for network in tally_set.networks}.values())
    dispatcher = _Dispatcher(run, sets, alone)
    walks = []
    for network in networks:
        single, joint = dispatcher.nodes(network)
        walks.append(plan(network, tuple(joint), watched=single, folded=run.folded))
    done = min(tally_set.done for tally_set in sets)
    place.report(run.label, done, len(piece))
    with torch.inference_mode():
        for batches in _batches(run, networks, piece, done):
            first = batches[0]
            dispatcher.begin(done, batches, networks)
            values: dict[tuple[int, str], Tensor] = {(id(networks[0]), LABELS): first.labels}
            for network, walk, batch in zip(networks, walks, batches, strict=True):
                results = walk.run(
                    batch.to(network.device), batch=len(batch.indices), visit=dispatcher.visitor(network)
                )
                values |= {(id(network), name): value for name, value in results.items()}
            dispatcher.together({key: value.to(run.network.device) for key, value in values.items()})
            done += len(first.indices)
            for tally_set in dispatcher.active:
                tally_set.advance(done)
            place.report(run.label, done, len(piece))
            if not alone and all(tally_set.failed for tally_set in sets):
                return
    for tally_set in sets:
        if not tally_set.failed:
            tally_set.advance(done, final=True)


class _Dispatcher:
    """Hands the values of each batch to the tallies that watch them."""

    def __init__(self, run: Pass, sets: Sequence[TallySet], alone: bool) -> None:
        self.run, self.sets, self.alone = run, sets, alone
        self.single: dict[tuple[int, str], list[tuple[TallySet, Tally]]] = {}
        self.joint: list[tuple[TallySet, Tally, WatchedNodes]] = []
        for tally_set in sets:
            for name, watched in tally_set.watched.items():
                network, node = watched.nodes[0]
                if watched.together or node in NOT_NODES:
                    self.joint.append((tally_set, tally_set.tallies[name], watched))
                else:
                    self.single.setdefault((id(network), node), []).append((tally_set, tally_set.tallies[name]))

    def nodes(self, network: Network) -> tuple[list[str], list[str]]:
        """The nodes of `network` that are shown alone, as soon as they are there, and those kept for other values."""
        joint = [
            name
            for *_, watched in self.joint
            for owner, name in watched.nodes
            if owner is network and name not in NOT_NODES
        ]
        return [name for owner, name in self.single if owner == id(network)], list(dict.fromkeys(joint))

    def begin(self, done: int, batches: Sequence[Batch], networks: Sequence[Network]) -> None:
        """A batch comes, of each network; the sets that have counted all before it take part."""
        self.indices = batches[0].indices
        self.batches = {id(network): batch for network, batch in zip(networks, batches, strict=True)}
        self.aligned: dict[tuple[int, ...], dict[int, AlignedPlaces]] = {}
        self.active = [tally_set for tally_set in self.sets if tally_set.done == done and not tally_set.failed]

    def visitor(self, network: Network) -> Any:
        """What shows each node of `network` alone."""

        def visit(node: str, values: Tensor) -> None:
            for tally_set, tally in self.single[id(network), node]:

                def show(tally: Tally = tally) -> None:
                    tally.update(*self._cut(network, node, values, tally, self._places([network])))

                self._update(tally_set, show)

        return visit

    def together(self, values: dict[tuple[int, str], Tensor]) -> None:
        """Show the values that belong together."""
        for tally_set, tally, watched in self.joint:

            def show(tally: Tally = tally, watched: WatchedNodes = watched) -> None:
                places = self._places(watched.networks)
                sequence = _one_sequence(watched)
                parts = [
                    (self._real(places, sequence), self.indices)
                    if node == PLACES
                    else self._cut(network, node, values[id(network), node], tally, places)
                    for network, node in watched.nodes
                ]
                tensors = tuple(part for part, _ in parts)
                tally.update(tensors if watched.together else tensors[0], parts[0][1])

            self._update(tally_set, show)

    def _places(self, networks: Sequence[Network]) -> dict[int, AlignedPlaces]:
        """The places of networks that a tally watches, aligned with one another."""
        key = tuple(map(id, networks))
        if key not in self.aligned:
            self.aligned[key] = align_places(networks, [self.batches[k] for k in key], self.run.samples)
        return self.aligned[key]

    def _real(self, places: dict[int, AlignedPlaces], sequence: str) -> Tensor:
        """What stands for `PLACES`."""
        nothing = torch.ones(len(self.indices), 1, dtype=torch.bool)
        every = (p.masks[sequence] if sequence in p.masks and len(p.masks) > 1 else p.mask for p in places.values())
        mask = next(every, nothing)
        return mask.to(self.run.network.device)

    def _cut(
        self, network: Network, node: str, values: Tensor, tally: Tally, places: dict[int, AlignedPlaces]
    ) -> tuple[Tensor, Tensor]:
        """The values without what is padding, and the sample of each row."""
        if node == LABELS or id(network) not in places:
            return values, self.indices
        own, record = places[id(network)], network.nodes[node]
        return without_padding(record, own.align(record, values), own.mask_of(record), self.indices, tally.by_sample)

    def _update(self, tally_set: TallySet, show: Callable[[], None]) -> None:
        if tally_set not in self.active:
            return
        try:
            show()
        except Exception:
            if self.alone:
                raise
            tally_set.failed = True
            self.active.remove(tally_set)


def _one_sequence(watched: WatchedNodes) -> str:
    """The sequence that nodes which are shown together go along; NotApplicable where there are several."""
    nodes = [network.nodes[name] for network, name in watched.nodes if name not in NOT_NODES]
    along = {sequence: node.name for node in nodes for sequence in node.sequences}
    if len(along) > 1 and len(nodes) > 1:
        first, other = list(along.values())[:2]
        raise NotApplicable(
            f"'{first}' and '{other}' go along two sequences, an encoder's and a decoder's, whose places have no "
            "partners; choose nodes of one of the two."
        )
    return next(iter(along), "")


def _batches(run: Pass, networks: Sequence[Network], piece: range, done: int) -> Iterator[list[Batch]]:
    """The batches of each network; networks of the same preprocessing share one reader."""
    kinds = list(dict.fromkeys(network.preprocessing for network in networks))
    readers = [run.samples.batches(kind, run.size, start=done, order=run.order(piece)) for kind in kinds]
    for batches in zip(*readers, strict=True):
        of = dict(zip(kinds, batches, strict=True))
        yield [of[network.preprocessing] for network in networks]


def _stays(sets: Iterable[TallySet]) -> bool:
    """Whether the pass is not split: a tally goes by the order, or writes to a file here and workers are elsewhere."""
    away = current_workers().settings.address is not None
    return any(
        tally.sequential or (away and tally.on_disk) for tally_set in sets for tally in tally_set.tallies.values()
    )


def default_batch_size(network: Network) -> int:
    """Images a step: the largest activation stays in the processor's cache; 1 to 32."""
    largest = max(torch.Size(node.full_shape).numel() for node in network.nodes.values())
    return max(1, min(32, _LARGEST // largest))
