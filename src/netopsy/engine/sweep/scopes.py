"""What the sweeping studies share: which layers an edit covers, and edits that change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import torch

from netopsy.engine.sweep.edits import Edit, Replace, Variant
from netopsy.engine.sweep.sweep import sweep
from netopsy.network.layers import Layer
from netopsy.network.network import Network
from netopsy.samples.samples import Samples


@dataclass(frozen=True)
class Scope:
    """The layers that one edit covers: `all` together, or one under its own name."""

    name: str
    layers: tuple[Layer, ...]

    def tensors(self, biases: bool = False) -> tuple[str, ...]:
        """Names of the weights, and of the biases too if wanted."""
        names = [layer.weight for layer in self.layers]
        return tuple(names + [layer.bias for layer in self.layers if biases and layer.bias is not None])


def scopes(layers: Sequence[Layer], one_layer_at_a_time: bool) -> list[Scope]:
    """All layers together, then, if wanted, each alone; one layer is not listed twice."""
    together = [Scope("all", tuple(layers))] if layers else []
    return together + [Scope(layer.name, (layer,)) for layer in layers if one_layer_at_a_time]


def changes(network: Network, edit: Edit) -> bool:
    """Whether `edit` gives any weight another value."""
    tensors = network.tensors
    if not isinstance(edit, Replace):
        return edit.scale != 0 and any(bool(d.any()) for d in edit.direction(tensors).values())
    return any(not torch.equal(value, tensors[name]) for name, value in edit.function(tensors).items())


def sweep_edits(
    network: Network, samples: Samples, edits: Sequence[tuple[dict[str, Any], Edit | None]], **options: Any
) -> pl.DataFrame:
    """`sweep`, with a column `changed`; an edit that changes no weight takes the unedited network's scores.

    edits: (settings, edit) pairs; no edit is the unedited network itself. options: of `sweep`.
    """
    variants = [
        Variant(settings, edit if edit is not None and changes(network, edit) else None) for settings, edit in edits
    ]
    changed = [variant.edit is not None or edit is None for variant, (_, edit) in zip(variants, edits, strict=True)]
    scores = sweep(network, samples, variants, **options)
    return scores.with_columns(changed=pl.Series(changed, dtype=pl.Boolean)) if scores.height else scores
