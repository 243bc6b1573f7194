"""What trials measure and what they share.

They measure which images a network gets right and how like the parent's its new layer is, and share activations that
are computed once and kept on disk while the trials run.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from numpy.typing import NDArray
from torch import Tensor, nn

from netopsy.blocks.activation_cache import bytes_needed, cache, side_values
from netopsy.blocks.block import Block
from netopsy.blocks.flow import side_inputs
from netopsy.blocks.section import cut_before
from netopsy.engine.train.activations import ActivationSet
from netopsy.engine.train.loop import main_output
from netopsy.engine.train.recipe import Recipe
from netopsy.engine.workspace.workspace import current_workspace
from netopsy.network.capture import call
from netopsy.network.network import Network
from netopsy.samples.samples import Batch, Samples
from netopsy.samples.tasks import TASKS, Task
from netopsy.stats.matching import bipartite_matching

_VALUES = 2**20  # of the images of one step
PICTURED = 0  # the image whose activation maps are drawn


def right(
    module: nn.Module, parent: Network, samples: Samples, task: Task
) -> tuple[dict[str, Tensor], float, dict[str, int]]:
    """What the task says of each sample, in evaluation mode and float32: (tensors, mean loss, counts).

    tensors: `right`, bits, where a sample is right or wrong; else `score` and `weight`, as `Verdicts` has them. counts:
    images, and the lowest score that there can be, where 1 is the highest.
    """
    parts = []
    with torch.inference_mode():
        for batch in _batches(samples, parent, np.arange(len(samples))):
            outputs = _value(module, parent, batch)
            before = _value(parent.module, parent, batch).cpu() if task.reference else None
            mask = batch.mask_of(parent.output_sequence)
            parts.append(task.judge(outputs.cpu(), task.targets(batch, before), mask).cpu())
    score = torch.cat([part.score for part in parts])
    loss = torch.cat([part.loss for part in parts])
    counts = {"images": len(score)}
    if task.binary:
        return {"right": torch.from_numpy(np.packbits(score.numpy()))}, float(loss.numpy().mean()), counts
    ones = torch.ones(1, dtype=torch.float64)
    weight = torch.cat([ones.expand(len(p.score)) if p.weight is None else p.weight for p in parts])
    mean = float((loss * weight).masked_fill(weight == 0, 0).sum() / weight.sum().clamp_min(1e-300))
    bounded = task.column != "r2" and task.name in TASKS
    floor = {} if not bounded else {"lowest": -1 if task.column == "cosine" else 0}
    return {"score": score.double(), "weight": weight}, mean, counts | floor


def _value(module: nn.Module, parent: Network, batch: Batch) -> Tensor:
    """What a section of the parent, or its own module, gives for a batch."""
    return main_output(call(module, batch.to(parent.device)), parent.returned if module is parent.module else None)


def match_channels(
    teacher: nn.Module, student: nn.Module, block: Block, parent: Network, samples: Samples, count: int
) -> tuple[dict[str, Any], Int64[np.ndarray, " channel"], Float64[np.ndarray, " channel"]]:
    """How like the parent's the new layer's activations are: values, for each parent's channel its partner, and the
    correlation of the two.

    Partners are found by the correlations over half of `count` images (spread evenly over the samples), and
    `matched_correlation` is the partners' mean correlation over the other half: among many channels some correlate by
    chance. `same_index_correlation` is the mean of channel i with channel i over that half. Channels in which the
    parent is constant do not count (None where all are), those in which the new layer is count as 0. Nor does padding.
    """
    rows = np.linspace(0, len(samples) - 1, min(count, len(samples))).round().astype(np.int64)
    axis, sequence = -1 if block.kind == "tokens" else 1, parent.node(block.output).sequence
    halves = []
    with torch.inference_mode():
        for half in (rows[::2], rows[1::2]):
            correlation = Correlation(axis)
            for batch in _batches(samples, parent, half):
                a, b = (_value(module, parent, batch) for module in (teacher, student))
                mask = batch.mask_of(sequence)
                if mask is not None and block.kind == "tokens" and a.ndim > 2 and a.shape[1] == mask.shape[1]:
                    real = mask.to(a.device)
                    a, b = a[real], b[real]
                correlation.update(a, b)
            halves.append(correlation.result())
    everyone = np.zeros(len(halves[0]), bool)  # constant channels too: every parent's channel has its picture
    order = bipartite_matching(halves[0], everyone, everyone).partner
    live = np.flatnonzero(halves[1].any(1))
    values = {
        name: float(halves[1][live, other[live]].mean()) if len(live) else None
        for name, other in (("matched_correlation", order), ("same_index_correlation", np.arange(len(order))))
    }
    return values, order, halves[1][np.arange(len(order)), order]


def maps(
    module: nn.Module, parent: Network, samples: Samples, channels: Int64[np.ndarray, " channel"]
) -> Float32[Tensor, "channel height width"]:
    """The activation maps of some channels of `module`'s value on one image."""
    with torch.inference_mode():
        batch = next(_batches(samples, parent, np.array([PICTURED])))
        return _value(module, parent, batch)[0, torch.from_numpy(channels)].float().cpu().clone()


def _batches(samples: Samples, parent: Network, rows: Int64[np.ndarray, " rows"]) -> Iterator[Batch]:
    """Batches of bounded inputs and outputs."""
    values = max(math.prod(parent.signature.input_shape), math.prod(parent.nodes[parent.output].shape))
    yield from samples.batches(parent.preprocessing, max(1, min(256, _VALUES // values)), order=rows)


INPUT = "input"
PLAIN = ("none", "flip")
"""Augmentations whose every variant of an image can be stored."""


@dataclass(frozen=True)
class ActivationFiles:
    """Files of the activations of one network, by node: of the images to train on, and of the samples.

    beside: of each of the two, the mask of its places and what the network reads besides, see `side_values`.
    """

    train: Mapping[str, Path] = field(default_factory=dict)
    samples: Mapping[str, Path] = field(default_factory=dict)
    flips: bool = False
    beside: Mapping[str, tuple[NDArray[np.bool_] | None, Mapping[str, NDArray[Any]]]] = field(default_factory=dict)

    def training(
        self, cut: str, train: Samples, recipe: Recipe, target: str | None = None
    ) -> tuple[Samples | ActivationSet, str]:
        """What to train on, and the node that its values are of: stored values, else the images."""
        usable = cut in self.train and recipe.augment in PLAIN and (target is None or target in self.train)
        if not usable or (cut == INPUT and target is None):
            return train, INPUT
        targets = None if target is None else self.train[target]
        # the targets say all that is learned
        labels = train.labels if target is None else np.zeros(len(train), np.int64)
        return ActivationSet(self.train[cut], labels, targets, self.flips, *self.beside["train"]), cut

    def validation(self, cut: str, samples: Samples) -> ActivationSet:
        """The samples from the node `cut` on."""
        return ActivationSet(self.samples[cut], samples.labels, None, False, *self.beside["samples"])


def storable(network: Network) -> bool:
    """Whether a training can read stored values: of one input, with the masks and segments that go with it."""
    return len(network.signature.inputs) - len(side_inputs(network)) == 1


def labelled_whole(task: Task) -> bool:
    """Whether what is learned are labels of whole samples, so that they can go with stored values."""
    return task.learns in ("classes", "numbers")


@contextmanager
def store_activations(
    network: Network,
    blocks: Sequence[Block],
    train: Samples,
    samples: Samples,
    *,
    taught: bool,
    frozen: bool,
    flips: bool,
    limit: float,
) -> Iterator[ActivationFiles]:
    """The activations before the blocks (`frozen`) and behind them (`taught`: for STN), as long as the context lasts.

    limit: bytes that they may take, and at most half of what is free; the nodes that come last in the network, which
    cost most to compute and least to keep, are stored first. Left by an error or a kill, the files stay in the
    workspace, where the same run finds them again.
    """
    if limit <= 0:
        yield ActivationFiles()
        return
    place = current_workspace().folder
    folder = Path(tempfile.mkdtemp(prefix="netopsy-triage-")) if place is None else place / "triage-stored"
    folder.mkdir(exist_ok=True)
    limit = min(limit, shutil.disk_usage(folder).free / 2)
    chosen: dict[str, None] = {}
    tested: dict[str, None] = {}
    for block in reversed(blocks):
        cut = cut_before(network, block)
        with_block = {**chosen, cut: None, **({block.after: None} if taught else {})}
        scored = {**tested, cut: None} if frozen and cut != INPUT else tested
        if (cut == INPUT and not taught) or not _keepable(network, cut):
            continue
        needed = bytes_needed(network, len(train), list(with_block), flips)
        needed += bytes_needed(network, len(samples), list(scored), False) if scored else 0
        if needed > limit:
            break
        chosen, tested = with_block, scored
    try:
        yield ActivationFiles(
            cache(network, train, list(chosen), folder, flips=flips) if chosen else {},
            cache(network, samples, list(tested), folder, flips=False) if tested else {},
            flips,
            {name: side_values(network, each) for name, each in (("train", train), ("samples", samples))},
        )
    except BaseException:
        if place is None:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _keepable(network: Network, name: str) -> bool:
    """Whether the node is there under this name, with real numbers for each sample."""
    node = network.nodes.get(name)
    return node is not None and node.is_floating_point and node.per_sample


class Correlation:
    """Pearson's correlation between the channels of two activations, over images and positions, batch by batch.

    axis: where the channels are: 1 of (batch, channel, *space), -1 of (batch, token, feature).
    A channel that is constant correlates 0 with all.
    """

    def __init__(self, axis: int = 1) -> None:
        self.axis, self.count = axis, 0
        self.shift: tuple[Tensor, Tensor] | None = None
        self.sums: tuple[Tensor, ...] = ()

    def update(self, a: Float64[Tensor, "batch *rest"], b: Float64[Tensor, "batch *rest"]) -> None:
        """Add the activations of some images, on one device."""
        x, y = (v.detach().movedim(self.axis, -1).flatten(0, -2).double() for v in (a, b))
        if self.shift is None:  # sums of squares about a value near the mean keep their digits
            self.shift = (x.mean(0), y.mean(0))
        x, y = x - self.shift[0], y - self.shift[1]
        parts = (x.sum(0), y.sum(0), (x * x).sum(0), (y * y).sum(0), x.T @ y)
        self.sums = tuple(map(torch.add, self.sums, parts)) if self.sums else parts
        self.count += len(x)

    def result(self) -> Float64[np.ndarray, "first second"]:
        """The correlation of each channel of the first with each of the second, -1 to 1."""
        sx, sy, sxx, syy, sxy = (part.cpu().numpy() for part in self.sums)
        n = self.count
        vx, vy = sxx / n - (sx / n) ** 2, syy / n - (sy / n) ** 2
        flat_x, flat_y = vx <= 1e-12 * np.maximum(sxx / n, 1e-300), vy <= 1e-12 * np.maximum(syy / n, 1e-300)
        scale = np.sqrt(np.where(flat_x, 1.0, vx))[:, None] * np.sqrt(np.where(flat_y, 1.0, vy))[None]
        correlation = (sxy / n - np.outer(sx / n, sy / n)) / scale
        correlation[flat_x, :] = 0.0
        correlation[:, flat_y] = 0.0
        correlation[~np.isfinite(correlation)] = 0.0  # of values that overflow
        return np.clip(correlation, -1.0, 1.0)
