"""Bags of visual words of two sets of images: words from the training images, one vector an image of both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor

from netopsy._version import __version__
from netopsy.engine.bow.codebook import learn_words
from netopsy.engine.bow.coding import Pooled, Pooling
from netopsy.engine.bow.dense_sift import DenseSift
from netopsy.engine.bow.layout import descriptors_for, image_size, parse_grids, regions
from netopsy.engine.bow.rows import Rows, kept_rows
from netopsy.engine.workspace import current_workspace
from netopsy.errors import SettingsError
from netopsy.network.preprocessing import Preprocessing
from netopsy.samples import Samples

WORDS = 1000
PYRAMID: tuple[int | str, ...] = ("1x1", "2x2")
_AT_ONCE = 2**16  # descriptors held at a time: 32 MB


@dataclass(frozen=True)
class BagOfWords:
    """The classical features: dense SIFT, a codebook of `words`, words pooled over the regions of a `pyramid`.

    pooling: average (hard assignment, the histogram) or max (localised soft assignment).
    pyramid: grids over the image, such as 1x1, 2x2 and 3x1 (Lazebnik, Schmid and Ponce, CVPR 2006), one after another.
    root: RootSIFT in place of SIFT.
    seed: of the images and descriptors that the words are learned from, and of k-means.
    """

    words: int = WORDS
    pooling: Pooling = "average"
    pyramid: tuple[int | str, ...] = PYRAMID
    root: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.words, bool) or not isinstance(self.words, int) or self.words < 1:
            raise SettingsError(f"{self.words!r} visual words; give a whole number from 1.")
        if self.pooling not in get_args(Pooling):
            raise SettingsError(f"pooling '{self.pooling}' is unknown; give average or max.")
        parse_grids(self.pyramid)

    @property
    def length(self) -> int:
        """Values of an image's vector."""
        return self.words * sum(rows * columns for rows, columns in parse_grids(self.pyramid))

    def describe(self) -> str:
        """One clause for findings."""
        coding = "the histogram of nearest words" if self.pooling == "average" else "max pooling of soft words"
        grids = " + ".join(f"{rows}x{columns}" for rows, columns in parse_grids(self.pyramid))
        sift = "RootSIFT" if self.root else "SIFT"
        return f"a bag of {self.words:,} visual words (dense {sift}, {coding}, regions {grids}: {self.length:,} values)"


def bag_of_words(
    train: Samples,
    test: Samples,
    *,
    words: int = WORDS,
    pooling: Pooling = "average",
    pyramid: Sequence[int | str] = PYRAMID,
    root: bool = False,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> tuple[Rows, Rows]:
    """(x_train, x_test): one float32 vector an image, all values 0 or above and not brought to any length.

    The settings are those of `BagOfWords`. Both sets are brought to the size that suits the training images, in gray.
    In a `workspace` with a folder the rows are memory-mapped files there, a finished one is used again, and a pass that
    was stopped goes on; without one they lie in memory. Memory holds 32 MB of descriptors at a time either way.
    Errors: SettingsError for settings out of range, SamplesError for images that cannot be read.
    """
    how = BagOfWords(words, pooling, tuple(pyramid), root, seed)
    size, where = image_size(train), torch.device(device)
    sifts = descriptors_for(size, root)
    preprocessing = Preprocessing(size=size, mean=(0.0,), std=(1.0,), channels="L")
    batch_size = max(1, min(64, _AT_ONCE // sum(len(sift.centres()) for sift in sifts)))
    spec = {"bag": asdict(how), "sifts": [asdict(sift) for sift in sifts], "device": where.type, "version": __version__}
    with torch.inference_mode():
        centroids = _words(train, preprocessing, sifts, how, batch_size, where, spec)
        grids = parse_grids(how.pyramid)
        levels = [level.to(where) for level in regions(grids, sifts)]
        pooled = Pooled(centroids, levels, sum(rows * columns for rows, columns in grids), how.pooling)

        def vectors(samples: Samples, start: int) -> Iterator[Tensor]:
            for batch in samples.batches(preprocessing, batch_size, start=start):
                gray = batch.images[:, 0].to(where)
                yield pooled(torch.cat([sift(gray) for sift in sifts], 1))

        if current_workspace().folder:
            spec["train"] = train.digest
        x_train, x_test = (
            kept_rows(samples, pooled.length, partial(vectors, samples), spec) for samples in (train, test)
        )
    return x_train, x_test


def _words(
    train: Samples,
    preprocessing: Preprocessing,
    sifts: Sequence[DenseSift],
    how: BagOfWords,
    batch_size: int,
    device: torch.device,
    spec: dict[str, Any],
) -> Tensor:
    """The words of an earlier run in the same workspace, or new ones."""
    place = current_workspace()
    saved = place.checkpoint("visual-words", {**spec, "train": train.digest} if place.folder else {})
    held = saved.load()[1].get("words")
    if held is None:
        held = learn_words(train, preprocessing, sifts, how.words, seed=how.seed, batch_size=batch_size, device=device)
        words = held
        saved.save(len(train), lambda: {"words": words}, final=True)
    return held.to(device)
