"""The network with every layer as an allocation has it, as an edit and as the tensors of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from netopsy.codec.shared import SharedTensor
from netopsy.deep_compression.measure import Kept, others
from netopsy.engine.sweep.edits import Replace, Variant
from netopsy.network.layers import Layer
from netopsy.network.network import Network
from netopsy.studies.prescribe.allocation.candidates import Candidate
from netopsy.studies.prescribe.allocation.compensate import Rounder
from netopsy.studies.prescribe.allocation.knapsack import Allocation


class Joint:
    """Turns an allocation into shared tensors, and into a variant of the network.

    rounders, choices: of each layer, by its name. kept: how the values that are not shared are held. how: plain text
    that tells these candidates from others.
    """

    def __init__(
        self,
        network: Network,
        layers: Sequence[Layer],
        rounders: Mapping[str, Rounder],
        choices: Mapping[str, Sequence[Candidate]],
        kept: Kept,
        how: str,
    ) -> None:
        self.network, self.layers, self.rounders = network, layers, rounders
        self.choices, self.kept, self.how = choices, kept, how

    def taken(self, allocation: Allocation) -> dict[str, Candidate]:
        """The candidate of each layer, by its name."""
        return {layer.name: self.choices[layer.name][allocation.choice[layer.name]] for layer in self.layers}

    def shared(self, allocation: Allocation) -> dict[str, SharedTensor]:
        """By weight name; layers that are kept as they are are left out."""
        taken = self.taken(allocation)
        found = {layer.weight: taken[layer.name].share(self.rounders[layer.name]) for layer in self.layers}
        return {name: one for name, one in found.items() if one is not None}

    def variant(self, allocation: Allocation, settings: dict[str, Any]) -> Variant:
        """The network as its file would give it back; no edit where nothing changes."""
        taken = self.taken(allocation)
        shared = tuple(layer.weight for layer in self.layers if taken[layer.name].kind != "as it is")
        held = {name: value for name, value in self._kept.items() if name not in shared}
        if not held and all(one.noise == 0 for one in taken.values()):
            return Variant(settings, None)

        def edit(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return held | {name: torch.from_numpy(one.decode()) for name, one in self.shared(allocation).items()}

        picked = ",".join(f"{name}={i}" for name, i in sorted(allocation.choice.items()))
        return Variant(settings, Replace((*held, *shared), edit, f"prescribe {self.how} {self.kept} {picked}"))

    @cached_property
    def _kept(self) -> dict[str, Tensor]:
        """The tensors that `kept` gives another value where they are not shared."""
        tensors, arrays = self.network.tensors, others(self.network, {}, self.kept)
        held = {name: torch.from_numpy(array) for name, array in arrays.items() if name in tensors}
        return {name: value for name, value in held.items() if not torch.equal(value.to(tensors[name]), tensors[name])}
