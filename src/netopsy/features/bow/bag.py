"""Bags of visual words of two sets of images: words from the training images, one vector an image of both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor

from netopsy._version import __version__
from netopsy.engine.workspace.workspace import current_workspace
from netopsy.errors import SettingsError
from netopsy.features.bow.codebook import learn_words
from netopsy.features.bow.coding import Pooled, Pooling
from netopsy.features.bow.layout import descriptors_for, image_size, parse_grids, regions
from netopsy.features.bow.rows import Rows, kept_rows
from netopsy.network.preprocessing import Preprocessing
from netopsy.samples.samples import Samples

_AT_ONCE = 2**16  # descriptors held at a time: 32 MB


def bag_of_words(
    train: Samples,
    test: Samples,
    *,
    words: int = 1000,
    pooling: Pooling = "average",
    pyramid: Sequence[int | str] = ("1x1", "2x2"),
    root: bool = False,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> tuple[Rows, Rows]:
    """(x_train, x_test): one float32 vector an image, all values 0 or above and not brought to any length.

    Dense SIFT, a codebook of `words`, words pooled over the regions of a `pyramid`. Both sets are brought to the size
    that suits the training images, in gray.
    pooling: average (hard assignment, the histogram) or max (localised soft assignment).
    pyramid: grids over the image, such as 1x1, 2x2 and 3x1 (Lazebnik, Schmid and Ponce, CVPR 2006), one after another.
    root: RootSIFT in place of SIFT.
    seed: of the images and descriptors that the words are learned from, and of k-means.
    In a `workspace` with a folder the rows are memory-mapped files there, a finished one is used again, and a pass that
    was stopped goes on; without one they lie in memory. Memory holds 32 MB of descriptors at a time either way.
    Errors: SettingsError for settings out of range, SamplesError for images that cannot be read.
    """
    if isinstance(words, bool) or not isinstance(words, int) or words < 1:
        raise SettingsError(f"{words!r} visual words; give a whole number from 1.")
    if pooling not in get_args(Pooling):
        raise SettingsError(f"pooling '{pooling}' is unknown; give average or max.")
    grids = parse_grids(pyramid)
    size, where = image_size(train), torch.device(device)
    sifts = descriptors_for(size, root)
    preprocessing = Preprocessing(size=size, mean=(0.0,), std=(1.0,), channels="L")
    batch_size = max(1, min(64, _AT_ONCE // sum(len(sift.centres()) for sift in sifts)))
    spec: dict[str, Any] = {"sifts": [asdict(sift) for sift in sifts], "words": words, "seed": seed}
    spec |= {"device": where.type, "version": __version__}
    if current_workspace().folder:
        spec["train"] = train.digest
    with torch.inference_mode():
        saved = current_workspace().checkpoint("visual-words", spec)
        centroids = saved.load()[1].get("words")
        if centroids is None:
            centroids = learn_words(train, preprocessing, sifts, words, seed=seed, batch_size=batch_size, device=where)
            saved.save(len(train), lambda: {"words": centroids}, final=True)
        levels = [level.to(where) for level in regions(grids, sifts)]
        pooled = Pooled(centroids.to(where), levels, sum(rows * columns for rows, columns in grids), pooling)

        def vectors(samples: Samples, start: int) -> Iterator[Tensor]:
            for batch in samples.batches(preprocessing, batch_size, start=start):
                gray = batch.images[:, 0].to(where)
                yield pooled(torch.cat([sift(gray) for sift in sifts], 1))

        spec |= {"grids": grids, "pooling": pooling}
        x_train, x_test = (
            kept_rows(samples, pooled.length, partial(vectors, samples), spec) for samples in (train, test)
        )
    return x_train, x_test
