"""How much one unit of a pair says about the other: mutual information, in nats.

The Gaussian figure comes from the correlation alone and sees straight-line dependence only. The binned figure comes
from a second pass over the chosen pairs and sees every dependence that its bins can show: whatever the bins, what it
converges to is at most the true information.

The mutual information of chosen pairs of units, over some of the images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from netopsy.engine.observe.counting import PLACES, NodeRefs
from netopsy.engine.observe.observe import default_batch_size, observe
from netopsy.engine.observe.tally import Tally, real_places
from netopsy.errors import SettingsError
from netopsy.network.network import Network
from netopsy.network.node import Node
from netopsy.samples.samples import Samples
from netopsy.studies.correspondence.comoments.column_layout import any_padded
from netopsy.studies.correspondence.comoments.pair import common_grid, pool, real_rows

WARMUP = 16_384  # rows that fix the bins


def gaussian_information(correlation: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    """-log(1 - r^2) / 2: the mutual information of two normal variables with the correlation r, in nats.

    A copy would carry infinitely much; r^2 is held below 1 - 1e-12, which is 13.8 nats.
    Source: Cover, Thomas, "Elements of information theory", 2nd edition, Example 8.5.1.
    """
    return -0.5 * np.log(np.maximum(1 - np.square(correlation), 1e-12))


@dataclass(frozen=True)
class Information:
    """Of m pairs, float64 (m,), in nats. information: corrected for the bias. plugin: uncorrected, never below 0.

    entropy_a, entropy_b: of the binned units, corrected: the most that there is to share. rows: counted.
    The correction takes the rows as independent; those of one image are not, so that what it leaves is still a little
    too high. Compare with the same tally on permuted images. A corrected value may fall a little below 0.
    """

    information: Float64[np.ndarray, " m"]
    plugin: Float64[np.ndarray, " m"]
    entropy_a: Float64[np.ndarray, " m"]
    entropy_b: Float64[np.ndarray, " m"]
    rows: int

    @property
    def share(self) -> Float64[np.ndarray, " m"]:
        """Information as a share of the smaller entropy, 0..1; 0 where a unit has one value only."""
        least = np.minimum(self.entropy_a, self.entropy_b)
        return np.clip(self.information / np.where(least > 0, least, np.inf), 0, 1)


class PairInformation:
    """Joint counts of the binned values of chosen pairs of units, batch by batch.

    pairs: (m, 2), the unit of A and the unit of B. bins: of each unit beside the bin of exact zeros, 2 to 256. The bins
    hold equally many of the values other than 0 among the first `warmup` rows; until then the values are kept.
    Tensors, ints and floats among the attributes are the state; `state` and `restore` serve a checkpoint.
    Source of the correction: Miller, "Note on the bias of information estimates", 1955.
    """

    def __init__(self, pairs: Int64[np.ndarray, "m 2"], bins: int = 16, warmup: int = WARMUP) -> None:
        if not 2 <= bins <= 256:
            raise SettingsError(f"bins {bins} must be 2 to 256: intervals for the values of a unit other than zero.")
        self.pairs, self.bins, self.warmup = np.asarray(pairs, np.int64).reshape(-1, 2), bins, warmup
        self.rows = 0
        self.held: Tensor | None = None  # (2, m, rows) until the bins are fixed
        self.edges: Tensor | None = None  # (2, m, bins - 1), ascending
        self.counts: Tensor | None = None  # int64 (m, bins + 1, bins + 1)

    def update(self, a: Tensor, b: Tensor) -> None:
        """Add rows. a: (rows, p), b: (rows, q): all units of the two layers at the same images and places."""
        chosen = torch.from_numpy(self.pairs).to(a.device)
        values = torch.stack([a[:, chosen[:, 0]].T, b[:, chosen[:, 1]].T])
        self.rows += values.shape[2]
        if self.edges is not None:
            self._count(values)
            return
        self.held = values.clone() if self.held is None else torch.cat([self.held, values], 2)
        if self.held.shape[2] >= self.warmup:
            self._fix()

    def result(self) -> Information:
        if self.held is not None:
            self._fix()
        m = len(self.pairs)
        if self.counts is None:
            return Information(np.zeros(m), np.zeros(m), np.zeros(m), np.zeros(m), 0)
        joint = self.counts.cpu().numpy()
        together = joint.reshape(m, (self.bins + 1) ** 2)
        (ha, ca), (hb, cb), (hab, cab) = map(_entropy, (joint.sum(2), joint.sum(1), together))
        plugin = np.maximum(ha + hb - hab, 0.0)
        return Information(plugin + ca + cb - cab, plugin, ha + ca, hb + cb, self.rows)

    def state(self) -> dict[str, Tensor]:
        """All that has been counted, for a checkpoint."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return {"rows": torch.tensor(self.rows), **tensors}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up a `state`."""
        self.rows = int(state.get("rows", torch.tensor(0)))
        self.held, self.edges, self.counts = (state.get(name) for name in ("held", "edges", "counts"))

    def _fix(self) -> None:
        """Set the bins by the values held, and count them."""
        assert self.held is not None
        values, self.held = self.held, None
        self.edges = _edges(values, self.bins)
        self._count(values)

    def _count(self, values: Tensor) -> None:
        assert self.edges is not None
        codes = torch.searchsorted(self.edges, values.contiguous(), right=True).add_(1)
        codes *= values != 0
        m, wide = len(self.pairs), self.bins + 1
        cells = codes[0].mul_(wide).add_(codes[1])
        cells += torch.arange(m, device=cells.device)[:, None] * wide**2
        counts = torch.bincount(cells.flatten(), minlength=m * wide**2).view(m, wide, wide)
        self.counts = counts if self.counts is None else self.counts + counts


def _edges(values: Tensor, bins: int) -> Tensor:
    """Quantiles of the values other than 0 in the last dimension; of a unit without any, zeros."""
    order = values.masked_fill(values == 0, torch.inf).sort(-1).values
    count = (values != 0).sum(-1, keepdim=True)
    steps = torch.arange(1, bins, device=values.device)
    ranks = (count * steps / bins).long().minimum((count - 1).clamp_min(0))
    quantiles = order.gather(-1, ranks)
    return torch.where(count > 0, quantiles, torch.zeros_like(quantiles))


def _entropy(counts: Int64[np.ndarray, "m cells"]) -> tuple[np.ndarray, np.ndarray]:
    """Plug-in entropy of each row of counts, and Miller and Madow's correction (occupied cells - 1) / 2n; nats."""
    n = np.maximum(counts.sum(1, keepdims=True), 1)
    share = counts / n
    logs = np.log(np.where(counts > 0, share, 1.0))
    return -(share * logs).sum(1), np.maximum((counts > 0).sum(1) - 1, 0) / (2 * n[:, 0])


Names = tuple[str, str]


def pair_information(
    network_a: Network,
    network_b: Network,
    samples: Samples,
    units: Mapping[Names, Int64[np.ndarray, "m 2"]],
    *,
    bins: int = 16,
    images: int = 1000,
    seed: int = 0,
) -> dict[Names, tuple[Information, Information]]:
    """(of the pairs of units, of the same with the images of b in another order), by (layer_a, layer_b).

    units: the unit of a and the unit of b of each pair. images: how many are drawn, without repetition. Layers of
    different size meet on their common grid. In the control each image of a is paired with the one that b saw before
    it, the first of a batch with the batch's last; where samples differ in length, each row of a batch with the one
    half a batch further on. Which rows there are: see `cross_moments_of`.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(samples))[:images]
    size = min(default_batch_size(network_a), default_batch_size(network_b))
    size = max(2, min(size, len(order)))
    order = order[: len(order) - (len(order) % size == 1)]  # a batch of one image has no other order
    places: tuple[str, ...] = (PLACES,) if any_padded((network_a, network_b)) else ()
    tallies: dict[Names, tuple[NodeRefs, Tally]] = {
        (a, b): ((a, (network_b, b), *places), PairedUnits(pairs, bins, (network_a.nodes[a], network_b.nodes[b])))
        for (a, b), pairs in units.items()
        if len(pairs)
    }
    if not tallies:
        return {}
    named = {f"{a} {b}": entry for (a, b), entry in tallies.items()}
    label = "mutual information"
    results = observe(network_a, samples, named, batch_size=size, order=order, folded=True, label=label)
    return dict(zip(tallies, results.values(), strict=True))


class PairedUnits(Tally):
    """The information of pairs of units of two nodes, and the same with the images of the second in another order.

    pairs: (m, 2), see `PairInformation`. nodes: the two that are watched.
    update: the values of both nodes, (batch, channel, *space), and of padded samples `PLACES`. result: the two
    Informations. The first rows fix the bins, and the control turns each batch, so that batches are part of the result.
    """

    by_sample = True
    sequential = True

    def __init__(self, pairs: Int64[np.ndarray, "m 2"], bins: int, nodes: tuple[Node, Node]) -> None:
        self.pairs, self.bins = pairs, bins
        self.axes = tuple(node.channel_axis for node in nodes)
        self.length_axes = tuple(node.length_axes for node in nodes)
        self.counted: Tensor | None = None  # of both parts: whether there is any

    def update(self, values: tuple[Tensor, ...], indices: Tensor) -> None:
        x, y = (value.movedim(axis, -1) for value, axis in zip(values, self.axes, strict=False))
        grids = tuple(x.shape[1:-1]), tuple(y.shape[1:-1])
        grid, step = common_grid(*grids), 1
        if len(values) > 2:
            reals = [
                real_places(axes, value, values[2]).movedim(axis, -1)[..., 0]
                for axes, axis, value in zip(self.length_axes, self.axes, values, strict=False)
            ]
            grid = () if any(self.length_axes) and grids[0] != grids[1] else grid
            x, y = (rows.cpu() for rows in real_rows((x, y), reals, grid))
            step = len(y) // 2
        else:
            x, y = pool(x, grid).cpu(), pool(y, grid).cpu()
        for name, other in (("own", y), ("control", y.roll(step, 0))):
            part = self._part(name)
            part.update(x.flatten(0, -2), other.flatten(0, -2))
            sums = part.state()
            for key in _KEPT:  # attributes of its own, which a checkpoint holds
                setattr(self, f"{name} {key}", sums.get(key))
        self.counted = torch.tensor(True)

    def _part(self, name: str) -> PairInformation:
        part = PairInformation(self.pairs, self.bins)
        sums = {key: getattr(self, f"{name} {key}", None) for key in _KEPT}
        part.restore({key: value.cpu() for key, value in sums.items() if value is not None})
        return part

    def merge(self, other: PairedUnits) -> None:
        """Only with what has counted nothing: the bins of two parts differ."""
        if self.counted is not None and other.counted is not None:
            raise SettingsError("mutual information is counted in one piece; leave out the workers.")
        if other.counted is not None:
            vars(self).update(vars(other))

    def result(self) -> tuple[Information, Information]:
        return self._part("own").result(), self._part("control").result()


_KEPT = ("rows", "held", "edges", "counts")
