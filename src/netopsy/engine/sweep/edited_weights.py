"""The edited weights of the variants, computed once and kept while there is room."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from netopsy.engine.sweep.edits import Edit, Variant, check_change, computed, edited
from netopsy.network.network import Network

CACHE_BYTES = 1 << 30


class Weights:
    """What the edits' functions give. The first CACHE_BYTES of it stay; the rest is computed anew for every block."""

    def __init__(self, network: Network, variants: Sequence[Variant]) -> None:
        self.network, self.variants, self.tensors = network, variants, network.tensors
        self._cache: dict[tuple[object, ...], dict[str, Tensor]] = {}
        self._recent: tuple[tuple[object, ...], dict[str, Tensor]] | None = None
        self._bytes, self._checked = 0, set[int]()

    def computed(self, edit: Edit) -> dict[str, Tensor]:
        """New values of a Replace, direction of a Shift."""
        key = (type(edit), edit.tensors, edit.key)
        if key in self._cache:
            return self._cache[key]
        if self._recent is not None and self._recent[0] == key:
            return self._recent[1]
        values = computed(edit, self.tensors)
        size = sum(value.nbytes for value in values.values())
        if self._bytes + size <= CACHE_BYTES:
            self._cache[key] = values
            self._bytes += size
        else:
            self._recent = key, values
        return values

    def edited(self, position: int) -> dict[str, Tensor]:
        """The weights of the variant at `position`; EditError where they are the network's own."""
        variant = self.variants[position]
        assert variant.edit is not None
        weights = edited(variant.edit, self.computed(variant.edit), self.tensors)
        if position not in self._checked:
            check_change(variant, weights, self.tensors)
            self._checked.add(position)
        return weights

    def check(self, position: int) -> None:
        """Raise EditError where the variant changes no weight."""
        if position not in self._checked:
            self.edited(position)
