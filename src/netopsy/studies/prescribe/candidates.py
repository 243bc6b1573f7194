"""What a layer's weights can become: candidates with their bytes and their error, from the gentlest to the harshest.

And the network with every layer as an allocation has it, as an edit and as the tensors of a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from netopsy.codec.shared import LARGEST_TABLE, SharedTensor
from netopsy.deep_compression.save import OtherDtype, others
from netopsy.engine.sweep.edits import Replace, Variant
from netopsy.network.layers import Layer
from netopsy.network.network import Network
from netopsy.studies.prescribe.cells import Cells, Groups, Line
from netopsy.studies.prescribe.compensate import Rounder
from netopsy.studies.prescribe.knapsack import Allocation

Tables = Literal["uniform", "kmeans", "groups"]
PULL = 0.1155
"""Where error and bits trade evenly at small steps: ln 2 / 6."""
STEPS = 2.0 ** np.arange(-4, 2.01, 0.25)
"""Of a uniform table, in units of the root mean square of the layer's non-zero weights."""
DENSITIES = (1.0, 0.8, 0.6, 0.45, 0.3, 0.2, 0.1)
ENTRIES = (4, 6, 8, 12, 16, 24, 32, 64, 128, 256)
WIDTHS, GROUPS = (8, 4), (128, 64, 32)
"""Bits and values a scale of the group-wise formats."""


@dataclass(frozen=True)
class Candidate:
    """kind: `as it is` (not shared), `lossless` (its own few values), `uniform`, `kmeans`, or a format in groups.

    bytes: estimated, of positions, codes, table and scales, from the order-0 entropy of the codes. noise: of the
    layer's outputs, squared error over square. bits: of positions, codes and scales, a weight.
    """

    kind: str
    bytes: float
    noise: float
    density: float
    entries: int
    bits: float
    cells: Cells | Groups | None = None

    def share(self, rounder: Rounder) -> SharedTensor | None:
        """The layer's weights as this candidate has them; None where they are kept as they are."""
        if self.kind == "as it is":
            return None
        return SharedTensor.of(rounder.weight) if self.cells is None else rounder.round(self.cells)


def candidates(rounder: Rounder, tables: Tables, kept_bytes: int) -> list[Candidate]:
    """The candidates of one layer, by rising noise; those that cost more than one with less noise are left out.

    kept_bytes: of a value that is kept as it is: 4, or 2 in float16.
    """
    flat = rounder.weight.reshape(-1)
    density = float(np.count_nonzero(flat)) / max(1, len(flat))
    choices = [Candidate("as it is", kept_bytes * len(flat), 0.0, density, 0, 8.0 * kept_bytes)]
    if len(np.unique(flat)) <= min(LARGEST_TABLE, len(flat) // 2):
        choices.append(_make_candidate("lossless", SharedTensor.of(rounder.weight), 0.0, None))
    line = Line(flat)
    if line.rms > 0:
        made: list[Cells | Groups] = [*_groups(rounder.weight, tables)]
        if tables != "groups":
            made += _uniform(line) if tables == "uniform" else _kmeans(line, density)
        for cells in made:
            shared = rounder.round(cells)
            kind = cells.name if isinstance(cells, Groups) else tables
            choices.append(_make_candidate(kind, shared, rounder.noise(shared.decode()), cells))
    return _worthwhile(choices)


def _make_candidate(kind: str, shared: SharedTensor, noise: float, cells: Cells | Groups | None) -> Candidate:
    counts = np.bincount(shared.codes, minlength=len(shared.table))
    share = counts[counts > 0] / counts.sum()
    bits = float(-(share * np.log2(share)).sum()) + 0.0
    size = len(shared.codes)
    bits += 0.0 if shared.scales is None else 16 * shared.scales.size / size
    total = bits * size / 8 + (4 * len(shared.table) if shared.scales is None else 0)
    return Candidate(kind, total, noise, shared.kept / size, len(shared.table), bits, cells)


def _uniform(line: Line) -> list[Cells]:
    return [line.uniform(step * line.rms, PULL) for step in STEPS if step * line.rms >= line.smallest_step()]


def _kmeans(line: Line, density: float) -> list[Cells]:
    room = [k for k in ENTRIES if 4 * k <= 2 * line.size]
    return [line.kmeans(share * density, k) for share in DENSITIES for k in room]


def _groups(weight: NDArray[np.float32], tables: Tables) -> list[Groups]:
    """The group-wise formats of a matrix whose rows fill a group; where asked for, of any weight, in whole rows."""
    width = weight[0].size if weight.ndim > 1 and len(weight) else 0
    if tables != "groups":
        sizes = [size for size in GROUPS if size <= width and weight.ndim == 2]
    else:
        sizes = [size for size in GROUPS if size <= width] or [width or weight.size]
    return [Groups.of(weight, bits, size) for bits in WIDTHS for size in sizes]


def _worthwhile(choices: Sequence[Candidate]) -> list[Candidate]:
    best: list[Candidate] = []
    for one in sorted(choices, key=lambda one: (one.noise, one.bytes)):
        if not best or one.bytes < best[-1].bytes:
            best.append(one)
    return best


class Joint:
    """Turns an allocation into shared tensors, and into a variant of the network.

    rounders, choices: of each layer, by its name. other_dtype: how values that are not shared are held. how: plain text
    that tells these candidates from others.
    """

    def __init__(
        self,
        network: Network,
        layers: Sequence[Layer],
        rounders: Mapping[str, Rounder],
        choices: Mapping[str, Sequence[Candidate]],
        other_dtype: OtherDtype,
        how: str,
    ) -> None:
        self.network, self.layers, self.rounders = network, layers, rounders
        self.choices, self.other_dtype, self.how = choices, other_dtype, how

    def taken(self, allocation: Allocation) -> dict[str, Candidate]:
        """The candidate of each layer, by its name."""
        return {layer.name: self.choices[layer.name][allocation.choice[layer.name]] for layer in self.layers}

    def shared(self, allocation: Allocation) -> dict[str, SharedTensor]:
        """By weight name; layers that are kept as they are are left out."""
        candidates_of = self.taken(allocation)
        tensors = {layer.weight: candidates_of[layer.name].share(self.rounders[layer.name]) for layer in self.layers}
        return {name: one for name, one in tensors.items() if one is not None}

    def variant(self, allocation: Allocation, settings: dict[str, Any]) -> Variant:
        """The network as its file would give it back; no edit where nothing changes."""
        candidates_of = self.taken(allocation)
        shared = tuple(layer.weight for layer in self.layers if candidates_of[layer.name].kind != "as it is")
        unshared = {name: value for name, value in self._kept.items() if name not in shared}
        if not unshared and all(one.noise == 0 for one in candidates_of.values()):
            return Variant(settings, None)

        def edit(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return unshared | {name: torch.from_numpy(one.decode()) for name, one in self.shared(allocation).items()}

        picked = ",".join(f"{name}={i}" for name, i in sorted(allocation.choice.items()))
        return Variant(
            settings, Replace((*unshared, *shared), edit, f"prescribe {self.how} {self.other_dtype} {picked}")
        )

    @cached_property
    def _kept(self) -> dict[str, Tensor]:
        """The tensors that `other_dtype` gives another value where they are not shared."""
        tensors, arrays = self.network.tensors, others(self.network, {}, self.other_dtype)
        tensors_of = {name: torch.from_numpy(array) for name, array in arrays.items() if name in tensors}
        return {
            name: value for name, value in tensors_of.items() if not torch.equal(value.to(tensors[name]), tensors[name])
        }
