"""Edits of a network's weights: what a variant changes, computed when it is needed and never written to the network.

Edited weights are computed once and kept while there is room.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from netopsy.errors import EditError, nearest
from netopsy.network.network import Network, digest_of

Tensors = Mapping[str, Tensor]
Function = Callable[[Tensors], dict[str, Tensor]]


@dataclass(frozen=True)
class Replace:
    """Other values for some parameters.

    tensors: names of the parameters or buffers that change.
    function: from all tensors of the network, by name, to the new values of `tensors`, of the same shapes.
    key: plain text that tells this edit from any other, for going on after an interruption.
    """

    tensors: tuple[str, ...]
    function: Function = field(compare=False)
    key: str


@dataclass(frozen=True)
class Shift:
    """`weight + scale * direction`. Shifts of the same tensors with the same key share their direction.

    direction: from all tensors of the network, by name, to the direction of each of `tensors`, of the same shapes.
    """

    tensors: tuple[str, ...]
    direction: Function = field(compare=False)
    scale: float
    key: str


Edit = Replace | Shift


def replacement(network: Network, tensors: Tensors) -> Replace | None:
    """The edit that gives the network the values `tensors`, by name; None where none of them differs from its own.

    Names that the network has not are passed over: a state dict may hold tied weights under several.
    """
    current = network.tensors
    values = {name: value.detach().to(current[name]) for name, value in tensors.items() if name in current}
    changed = {name: value for name, value in values.items() if not torch.equal(value, current[name])}
    return Replace(tuple(changed), lambda _: dict(changed), digest_of(changed)) if changed else None


@dataclass(frozen=True)
class Variant:
    """One version of the network: `settings` are the columns of its row; an edit of None leaves it as it is."""

    settings: dict[str, Any]
    edit: Edit | None


def identity(variant: Variant) -> list[Any]:
    """Plain data that tells this variant from others, for a checkpoint's name."""
    edit = variant.edit
    if edit is None:
        return [variant.settings, None]
    kind = type(edit).__name__
    return [variant.settings, kind, list(edit.tensors), edit.key, edit.scale if isinstance(edit, Shift) else None]


def compute_values(edit: Edit, tensors: Tensors) -> dict[str, Tensor]:
    """The values that the edit's function gives: new weights of a Replace, the direction of a Shift.

    The function sees copies of the tensors that it changes, so that it may work in place.
    Errors: EditError where a name is unknown, missing in the answer, or a shape differs.
    """
    for name in edit.tensors:
        if name not in tensors:
            raise EditError(f"no parameter '{name}' to edit; nearest: {nearest(name, tensors)}.")
    if not edit.tensors:
        raise EditError(f"the edit '{edit.key}' names no tensors; name the parameters that it changes.")
    copies = {name: tensor.detach() for name, tensor in tensors.items()}
    copies |= {name: copies[name].clone() for name in edit.tensors}
    function = edit.function if isinstance(edit, Replace) else edit.direction
    values = function(copies)
    if set(values) != set(edit.tensors):
        raise EditError(f"the edit '{edit.key}' gave {sorted(values)}; it must give {sorted(edit.tensors)}.")
    for name, value in values.items():
        if value.shape != tensors[name].shape:
            raise EditError(
                f"the edit '{edit.key}' gave {name} the shape {tuple(value.shape)}; "
                f"it must stay {tuple(tensors[name].shape)}."
            )
    return {name: value.detach().to(tensors[name]) for name, value in values.items()}


def apply_edit(edit: Edit, values: Mapping[str, Tensor], tensors: Tensors) -> dict[str, Tensor]:
    """The edited weights, from what `compute_values` gave."""
    if isinstance(edit, Replace):
        return dict(values)
    return {name: tensors[name].detach() + edit.scale * values[name] for name in edit.tensors}


def check_change(variant: Variant, weights: Mapping[str, Tensor], tensors: Tensors) -> None:
    """Raise EditError where no weight differs from the network's own, or one is no longer a number.

    What such weights cost says nothing of the network, so it is an error and never a loss.
    """
    settings = ", ".join(f"{name}={value}" for name, value in variant.settings.items()) or "no settings"
    if all(torch.equal(weights[name], tensors[name]) for name in weights):
        raise EditError(f"the variant with {settings} changes no weight; leave it out or choose a stronger one.")
    for name, weight in weights.items():
        if weight.is_floating_point() and not weight.isfinite().all() and tensors[name].isfinite().all():
            raise EditError(f"the variant with {settings} makes {name} NaN or infinite; choose a weaker one.")


CACHE_BYTES = 1 << 30


class EditedWeights:
    """What the edits' functions give. The first CACHE_BYTES of it stay; the rest is computed again for every block."""

    def __init__(self, network: Network, variants: Sequence[Variant]) -> None:
        self.network, self.variants, self.tensors = network, variants, network.tensors
        self._cache: dict[tuple[object, ...], dict[str, Tensor]] = {}
        self._recent: tuple[tuple[object, ...], dict[str, Tensor]] | None = None
        self._bytes, self._checked = 0, set[int]()

    def compute(self, edit: Edit) -> dict[str, Tensor]:
        """New values of a Replace, direction of a Shift."""
        key = (type(edit), edit.tensors, edit.key)
        if key in self._cache:
            return self._cache[key]
        if self._recent is not None and self._recent[0] == key:
            return self._recent[1]
        values = compute_values(edit, self.tensors)
        size = sum(value.nbytes for value in values.values())
        if self._bytes + size <= CACHE_BYTES:
            self._cache[key] = values
            self._bytes += size
        else:
            self._recent = key, values
        return values

    def weights_of(self, position: int) -> dict[str, Tensor]:
        """The weights of the variant at `position`; EditError where they are the network's own."""
        variant = self.variants[position]
        assert variant.edit is not None
        weights = apply_edit(variant.edit, self.compute(variant.edit), self.tensors)
        if position not in self._checked:
            check_change(variant, weights, self.tensors)
            self._checked.add(position)
        return weights

    def check(self, position: int) -> None:
        """Raise EditError where the variant changes no weight."""
        if position not in self._checked:
            self.weights_of(position)
