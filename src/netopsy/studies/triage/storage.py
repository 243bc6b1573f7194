"""Activations that many trials share, computed once and kept on disk while they run."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from netopsy.blocks import activation_cache as cache
from netopsy.blocks.activation_cache import bytes_needed
from netopsy.blocks.block import Block
from netopsy.blocks.cut import cut_before
from netopsy.engine.train.activations import Activations
from netopsy.engine.train.recipe import Recipe
from netopsy.engine.workspace.workspace import current_workspace
from netopsy.network.network import Network
from netopsy.samples.samples import Samples

INPUT = "input"
PLAIN = ("none", "flip")
"""Augmentations whose every variant of an image can be stored."""


@dataclass(frozen=True)
class Stored:
    """Files of the activations of one network, by node: of the images to train on, and of the samples."""

    train: Mapping[str, Path] = field(default_factory=dict)
    samples: Mapping[str, Path] = field(default_factory=dict)
    flips: bool = False

    def training(
        self, cut: str, train: Samples, recipe: Recipe, target: str | None = None
    ) -> tuple[Samples | Activations, str]:
        """What to train on, and the node that its values are of: stored values, else the images."""
        usable = cut in self.train and recipe.augment in PLAIN and (target is None or target in self.train)
        if not usable or (cut == INPUT and target is None):
            return train, INPUT
        targets = None if target is None else self.train[target]
        return Activations(self.train[cut], train.labels, targets, self.flips), cut

    def validation(self, cut: str, samples: Samples) -> Activations:
        """The samples from the node `cut` on."""
        return Activations(self.samples[cut], samples.labels, None, False)


@contextmanager
def stored(
    network: Network,
    blocks: Sequence[Block],
    train: Samples,
    samples: Samples,
    *,
    taught: bool,
    frozen: bool,
    flips: bool,
    limit: float,
) -> Iterator[Stored]:
    """The activations before the blocks (`frozen`) and behind them (`taught`: for STN), as long as the context lasts.

    limit: bytes that they may take, and at most half of what is free; the nodes that come last in the network, which
    cost most to compute and least to keep, are stored first. Left by an error or a kill, the files stay in the
    workspace, where the same run finds them again.
    """
    place = current_workspace().folder
    folder = Path(tempfile.mkdtemp(prefix="netopsy-triage-")) if place is None else place / "triage-stored"
    folder.mkdir(exist_ok=True)
    limit = min(limit, shutil.disk_usage(folder).free / 2)
    chosen: dict[str, None] = {}
    tested: dict[str, None] = {}
    for block in reversed(blocks):
        cut = cut_before(network, block)
        wanted = {**chosen, cut: None, **({block.after: None} if taught else {})}
        scored = {**tested, cut: None} if frozen and cut != INPUT else tested
        if cut == INPUT and not taught:
            continue
        needed = bytes_needed(network, len(train), list(wanted), flips)
        needed += bytes_needed(network, len(samples), list(scored), False) if scored else 0
        if needed > limit:
            break
        chosen, tested = wanted, scored
    try:
        yield Stored(
            cache(network, train, list(chosen), folder, flips=flips) if chosen else {},
            cache(network, samples, list(tested), folder, flips=False) if tested else {},
            flips,
        )
    except BaseException:
        if place is None:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
