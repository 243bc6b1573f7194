"""Re-run of the part of a network that edits can change, for many edits at once, on one block of images.

One walk of the unedited network over the block visits the layers in order. As soon as the values that a group of
variants starts from are there, the group runs, and what no later group needs is let go. So there are never more
activations in memory than the unedited walk's own, the values that groups still to come start from (`block_size`
bounds both), and those of one group's pieces (`FOLD_BYTES`, `HEAD_BYTES`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from netopsy.engine.interpreter import plan
from netopsy.engine.sweep.edits import EditedWeights, Shift, Variant
from netopsy.engine.sweep.grouping import EditGroup, make_groups, value_bytes
from netopsy.engine.sweep.score import near_ties
from netopsy.network.network import Network

BLOCK_BYTES = 512 << 20
BLOCK_IMAGES = 512
FOLD_BYTES = {"cpu": 4 << 20}  # the largest activation of a piece: what the caches hold
HEAD_BYTES = 64 << 20
ELSEWHERE = 256 << 20

Take = Callable[[int, dict[int, Tensor]], None]


class Rerun:
    """The variants of one network, grouped by the parameters that they change.

    piece: number of images times variants that run at once; None chooses by the size of the activations.
    """

    def __init__(self, network: Network, variants: Sequence[Variant], piece: int | None = None) -> None:
        self.network, self.variants, self.piece = network, variants, piece
        self.weights = EditedWeights(network, variants)
        self.groups = make_groups(network, variants)
        grouped = {p for group in self.groups for p in group.members}
        for position, variant in enumerate(variants):
            if variant.edit is not None and position not in grouped:
                self.weights.check(position)  # it cannot reach the output, or names no parameter
        self.rank = {name: i for i, name in enumerate(network.nodes)}
        self.plain = plan(network, [network.output])
        self.settled = 0

    @property
    def block_size(self) -> int:
        """Images in a block, such that the unedited values in memory at once stay under BLOCK_BYTES; at least 1."""
        network, held, peak = self.network, 0, 0
        last = self._last_use(range(len(self.groups)))
        sizes = {name: value_bytes(network, name) for name in network.nodes}
        ends: dict[int, int] = {}
        for i, name in enumerate(network.nodes):
            if name in last:
                held += sizes[name]
                ends[last[name]] = ends.get(last[name], 0) + sizes[name]
            peak = max(peak, held + 3 * sizes[name])
            held -= ends.get(i, 0)
        return max(1, min(BLOCK_IMAGES, BLOCK_BYTES // max(peak, 1)))

    def run(self, images: Tensor, take: Take, *, active: Collection[int], skip: Collection[int] = ()) -> Tensor:
        """Outputs (n, classes) of the unedited network for images (n, channels, height, width).

        take: called with a group's number and the outputs (n, classes) of its active variants by position.
        active: positions of variants to run. skip: numbers of groups to leave out.
        """
        wanted = {
            g: members
            for g, group in enumerate(self.groups)
            if g not in skip and (members := [p for p in group.members if p in active])
        }
        last = self._last_use(wanted)
        waiting: dict[str, list[int]] = {}
        for g in wanted:
            waiting.setdefault(max(self.groups[g].needs, key=self.rank.__getitem__), []).append(g)
        held: dict[str, Tensor] = {}

        def visit(name: str, value: Tensor) -> None:
            if name in last:
                held[name] = _own(value)
            for g in waiting.get(name, ()):
                outputs = self._outputs(self.groups[g], wanted[g], held, len(images))
                take(g, {p: self._settle(p, out, images) for p, out in outputs.items()})
            for other in [other for other in held if last[other] <= self.rank[name]]:
                del held[other]

        base = plan(self.network, [self.network.output], watched=list(last))
        return base.run({"input": images}, batch=len(images), visit=visit)[self.network.output]

    def _last_use(self, groups: Collection[int]) -> dict[str, int]:
        """For each value that groups start from, the rank of the node after which it may go."""
        last: dict[str, int] = {}
        for g in groups:
            ready = max(self.rank[name] for name in self.groups[g].needs)
            for name in self.groups[g].needs:
                last[name] = max(last.get(name, 0), ready)
        return last

    def _outputs(self, group: EditGroup, members: list[int], held: Mapping[str, Tensor], n: int) -> dict[int, Tensor]:
        """Outputs (n, classes) of the members."""
        parts: dict[int, list[Tensor]] = {p: [] for p in members}
        fold = self._fold(group)
        images = max(1, fold // len(members))
        for start in range(0, n, step := self._head_images(group, len(members), images)):
            stop = min(n, start + step)
            cuts = self._cuts(group, members, {name: held[name][start:stop] for name in group.needs}, stop - start)
            if group.tail is None:
                for p in members:
                    parts[p].append(cuts([p], self.network.output, 0, stop - start))
                continue
            for i in range(0, stop - start, images):
                j, count = min(stop - start, i + images), max(1, fold // images)
                for first in range(0, len(members), count):
                    folded = members[first : first + count]
                    given = {name: cuts(folded, name, i, j) for name in group.cut}
                    given |= {
                        name: torch.cat([held[name][start + i : start + j]] * len(folded)) for name in group.beside
                    }
                    out = group.tail.run(given, batch=(j - i) * len(folded))[self.network.output]
                    for p, own in zip(folded, out.split(j - i), strict=True):
                        parts[p].append(own)
        return {p: torch.cat(own) for p, own in parts.items()}

    def _cuts(
        self, group: EditGroup, members: list[int], given: Mapping[str, Tensor], n: int
    ) -> Callable[[list[int], str, int, int], Tensor]:
        """Where runs meet: (members, node, from, to) -> the node's values, member after member, in fresh memory."""
        if group.linear is not None:
            deltas, scales = {}, {}
            for p in members:
                edit = self.variants[p].edit
                assert isinstance(edit, Shift)
                self.weights.check(p)
                scales[p] = edit.scale
                if edit.key not in deltas:
                    deltas[edit.key] = group.linear.deltas(given, self.weights.computed(edit), batch=n)
            keys = {p: self.variants[p].edit.key for p in members}  # type: ignore[union-attr]

            def shifted(folded: list[int], name: str, i: int, j: int) -> Tensor:
                base = given[name][i:j]
                last = base.ndim == 4 and base.is_contiguous(memory_format=torch.channels_last)
                value = torch.empty(
                    (len(folded) * (j - i), *base.shape[1:]),
                    dtype=base.dtype,
                    device=base.device,
                    memory_format=torch.channels_last if last else torch.contiguous_format,
                )
                for p, own in zip(folded, value.split(j - i), strict=True):
                    torch.add(base, deltas[keys[p]][name][i:j], alpha=scales[p], out=own)
                return value

            return shifted
        assert group.head is not None
        edges = {node.name: given[node.name] for node in group.head.given}
        values = {p: group.head.run(edges, batch=n, overrides=self.weights.edited(p)) for p in members}
        return lambda folded, name, i, j: torch.cat([values[p][name][i:j] for p in folded])

    def _fold(self, group: EditGroup) -> int:
        """Images times variants that a piece of the tail holds."""
        if self.piece is not None:
            return self.piece
        budget = FOLD_BYTES.get(self.network.device.type, ELSEWHERE)
        return max(8, min(256, budget // group.tail_bytes))

    def _head_images(self, group: EditGroup, members: int, images: int) -> int:
        """Images that the heads take at once; a multiple of the `images` of a piece."""
        if group.linear is None:
            inside = max(
                4, (self.piece or min(256, FOLD_BYTES.get(self.network.device.type, ELSEWHERE) // group.head_bytes))
            )
            if group.tail is None:
                return inside
        else:
            inside = 256
        room = max(1, HEAD_BYTES // (group.cut_bytes * members))
        return max(1, min(inside, room) // images) * images

    def _settle(self, position: int, outputs: Tensor, images: Tensor) -> Tensor:
        """Repeat in the plain arithmetic (no folding, no sharing) what rounding might decide."""
        rows = near_ties(outputs).nonzero()[:, 0]
        if len(rows):
            self.settled += len(rows)
            weights = self.weights.edited(position)
            for part in rows.split(64):
                run = self.plain.run({"input": images[part]}, batch=len(part), overrides=weights)
                outputs[part] = run[self.network.output]
        return outputs


def _own(value: Tensor) -> Tensor:
    """A copy that no later step overwrites; on a CPU with the channels last, as its convolutions like it."""
    if value.ndim == 4 and value.device.type == "cpu":
        return value.clone(memory_format=torch.channels_last)
    return value.clone(memory_format=torch.contiguous_format)
