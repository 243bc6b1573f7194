"""The run of a sweep's plan on one block of images: only the part of the network that edits can change.

One walk of the unedited network over the block visits the layers in order. As soon as the values that a group of
variants starts from are there, the group runs, and what no later group needs is let go. So there are never more
activations in memory than the unedited walk's own, the values that groups still to come start from (the plan's `block`
bounds both), and those of one group's pieces (`FOLD_BYTES`, `HEAD_BYTES`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor

from netopsy.engine.sweep.edits import EditedWeights, Shift
from netopsy.engine.sweep.plan import EditGroup, SweepPlan, last_use
from netopsy.engine.sweep.score import near_ties

TakeOutputs = Callable[[int, dict[int, Tensor]], None]


class Rerun:
    """The run of a sweep's plan. settle: whether what rounding might decide is repeated in the plain arithmetic."""

    def __init__(self, plan: SweepPlan, settle: bool = True) -> None:
        self.settle = settle
        self.plan, self.network, self.variants = plan, plan.network, plan.variants
        self.weights = EditedWeights(plan.network, plan.variants)
        for position, variant in enumerate(plan.variants):
            if variant.edit is not None and position not in plan.members:
                self.weights.check(position)  # it cannot reach the output, or names no parameter
        self.rank = {name: i for i, name in enumerate(plan.network.nodes)}
        self.settled = 0

    def plain(self, inputs: Mapping[str, Tensor], overrides: Mapping[str, Tensor] | None = None) -> Tensor:
        """Outputs (n, ...) of the network, in the plain arithmetic: no folding, no sharing."""
        run = self.plan.walk.run(inputs, batch=_count(inputs), overrides=overrides, tensors=self.weights.tensors)
        return run[self.network.output]

    def run(
        self,
        inputs: Mapping[str, Tensor],
        take: TakeOutputs,
        *,
        active: Collection[int],
        skip: Collection[int] = (),
    ) -> Tensor:
        """Outputs (n, ...) of the unedited network for its inputs, by name, each (n, ...).

        take: called with a group's number and the outputs (n, classes) of its active variants by position.
        active: positions of variants to run. skip: numbers of groups to leave out.
        """
        groups = self.plan.groups
        running = {
            g: members
            for g, group in enumerate(groups)
            if g not in skip and (members := [p for p in group.members if p in active])
        }
        last = last_use(groups[g] for g in running)
        waiting: dict[str, list[int]] = {}
        for g in running:
            waiting.setdefault(groups[g].start, []).append(g)
        stored: dict[str, Tensor] = {}

        def visit(name: str, value: Tensor) -> None:
            if name in last:
                stored[name] = _copy(value)
            for g in waiting.get(name, ()):
                outputs = self._outputs(groups[g], running[g], stored, _count(inputs))
                take(g, {p: self._settle(p, out, inputs) for p, out in outputs.items()})
            for other in [other for other in stored if self.rank[last[other]] <= self.rank[name]]:
                del stored[other]

        run = self.plan.walk.run(inputs, batch=_count(inputs), tensors=self.weights.tensors, visit=visit)
        return run[self.network.output]

    def _outputs(self, group: EditGroup, members: list[int], stored: Mapping[str, Tensor], n: int) -> dict[int, Tensor]:
        """Outputs (n, classes) of the members."""
        parts: dict[int, list[Tensor]] = {p: [] for p in members}
        step, images, count = self.plan.pieces(group, len(members))
        for start in range(0, n, step):
            stop = min(n, start + step)
            cuts = self._cuts(group, members, {name: stored[name][start:stop] for name in group.needs}, stop - start)
            if group.tail is None:
                for p in members:
                    parts[p].append(cuts([p], self.network.output, 0, stop - start))
                continue
            for i in range(0, stop - start, images):
                j = min(stop - start, i + images)
                for first in range(0, len(members), count):
                    folded = members[first : first + count]
                    tail_inputs = {name: cuts(folded, name, i, j) for name in group.cut}
                    tail_inputs |= {
                        name: torch.cat([stored[name][start + i : start + j]] * len(folded)) for name in group.beside
                    }
                    size, tensors = (j - i) * len(folded), self.weights.tensors
                    out = group.tail.run(tail_inputs, batch=size, tensors=tensors)[self.network.output]
                    for p, part in zip(folded, out.split(j - i), strict=True):
                        parts[p].append(part)
        return {p: torch.cat(part) for p, part in parts.items()}

    def _cuts(
        self, group: EditGroup, members: list[int], inputs: Mapping[str, Tensor], n: int
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
                    deltas[edit.key] = group.linear.deltas(inputs, self.weights.compute(edit), batch=n)
            keys = {p: self.variants[p].edit.key for p in members}  # type: ignore[union-attr]

            def shifted(folded: list[int], name: str, i: int, j: int) -> Tensor:
                base = inputs[name][i:j]
                last = base.ndim == 4 and base.is_contiguous(memory_format=torch.channels_last)
                value = torch.empty(
                    (len(folded) * (j - i), *base.shape[1:]),
                    dtype=base.dtype,
                    device=base.device,
                    memory_format=torch.channels_last if last else torch.contiguous_format,
                )
                for p, target in zip(folded, value.split(j - i), strict=True):
                    torch.add(base, deltas[keys[p]][name][i:j], alpha=scales[p], out=target)
                return value

            return shifted
        assert group.head is not None
        edges = {node.name: inputs[node.name] for node in group.head.given}
        values = {
            p: group.head.run(edges, batch=n, overrides=self.weights.weights_of(p), tensors=self.weights.tensors)
            for p in members
        }
        return lambda folded, name, i, j: torch.cat([values[p][name][i:j] for p in folded])

    def _settle(self, position: int, outputs: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """Repeat in the plain arithmetic (no folding, no sharing) what rounding might decide."""
        if not self.settle:
            return outputs
        rows = near_ties(outputs).nonzero()[:, 0]
        if len(rows):
            self.settled += len(rows)
            weights = self.weights.weights_of(position)
            for part in rows.split(64):
                outputs[part] = self.plain({name: values[part] for name, values in inputs.items()}, weights)
        return outputs


def _count(inputs: Mapping[str, Tensor]) -> int:
    """How many samples the inputs are of."""
    return len(next(iter(inputs.values())))


def _copy(value: Tensor) -> Tensor:
    """A copy that no later step overwrites; on a CPU with the channels last, as its convolutions like it."""
    if value.ndim == 4 and value.device.type == "cpu":
        return value.clone(memory_format=torch.channels_last)
    return value.clone(memory_format=torch.contiguous_format)
