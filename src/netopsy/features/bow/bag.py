"""Bags of visual words of two sets of images: words from the training images, one vector an image of both.

Where descriptors are taken, and over which parts of the image their words are pooled, follows by default from its size.
In a workspace the vectors are in a file that a stopped pass goes on with.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Float32, Int64
from numpy.lib.format import open_memmap
from torch import Tensor

from netopsy._version import __version__
from netopsy.engine.workspace.workspace import check_room, current_workspace, file_stem, open_rows
from netopsy.errors import SettingsError
from netopsy.features.bow.words import DenseSift, Pooling, RegionPooling, learn_words
from netopsy.files import finish
from netopsy.network.preprocessing import Preprocessing
from netopsy.samples.samples import Samples

Rows = Float32[np.ndarray, "n length"]


def store_rows(samples: Samples, length: int, vectors: Callable[[int], Iterator[Tensor]], spec: dict[str, Any]) -> Rows:
    """Rows (n, length) from batches of vectors; `vectors(start)` gives those from the sample `start` on.

    spec: all that the rows depend on besides the samples (plain data).
    Errors: SettingsError where the workspace's disk has no room.
    """
    place, label = current_workspace(), f"bag of words, {samples.name}"
    spec = {**spec, "samples": samples.digest} if place.folder else {}
    saved = place.checkpoint("bag-of-words", spec)
    rows, done, path = np.empty((0, length), np.float32), saved.load()[0], None
    if place.folder is None:
        rows = np.empty((len(samples), length), np.float32)
    else:
        path = place.folder / f"{file_stem('bag-of-words', spec)}.npy"
        finished = open_rows(path, (len(samples), length), np.float32)
        if finished is not None:
            return finished
        rows, done = _part(path, (len(samples), length), done)

    def flush() -> dict[str, Tensor]:
        if isinstance(rows, np.memmap):
            rows.flush()
        return {}

    place.report(label, done, len(samples))
    for batch in vectors(done):
        rows[done : done + len(batch)] = batch.cpu().numpy()
        done += len(batch)
        saved.save(done, flush)
        place.report(label, done, len(samples))
    saved.save(done, flush, final=True)
    if path is None:
        return rows
    finish(path.with_suffix(".part"), path)
    return open_memmap(path, mode="r")


def _part(path: Path, shape: tuple[int, int], done: int) -> tuple[np.memmap, int]:
    """The rows that a stopped pass left and how many of them are done, or new ones and 0."""
    part = path.with_suffix(".part")
    left = open_rows(part, shape, np.float32, "r+") if done else None
    if left is not None:
        return left, done
    check_room(path.parent, 4 * shape[0] * shape[1], "the bags of words", "take fewer words, regions or images")
    return open_memmap(part, mode="w+", dtype=np.float32, shape=shape), 0


SIDE = 224  # the side of images that are too large, or differ in size
_LARGEST, _SMALLEST = 256, 24
_BINS = (4, 6, 8)  # pixels, on a side of 224
_STEP = 6
_LOOKED_AT = 16


def image_size(samples: Samples) -> tuple[int, int]:
    """(height, width) at which images are described: their own, if it is one and its sides have 24 to 256 pixels.

    Larger images, and images of different sizes (16 of them are looked at), are resized straight to 224 x 224. Smaller
    ones are enlarged by a whole factor.
    """
    places = {round(i * (len(samples) - 1) / (_LOOKED_AT - 1)) for i in range(_LOOKED_AT)}
    sizes = {samples.image(place).shape[:2] for place in places}
    height, width = sizes.pop()
    if sizes or max(height, width) > _LARGEST:
        return SIDE, SIDE
    factor = -(-_SMALLEST // min(height, width))
    return height * factor, width * factor


def descriptors_for(size: tuple[int, int], root: bool = False) -> tuple[DenseSift, ...]:
    """Three bin sizes, 4, 6 and 8 pixels, every 6 pixels on a side of 224; in proportion on others, within limits.

    A bin is never below 2 pixels, nor is the step; bins shrink to one half at most. Sides of 32: bins of 2, 3 and 4
    pixels, every 2 pixels.
    """
    share = min(min(size) / SIDE, 1.0)
    step = max(2, round(_STEP * share))
    return tuple(DenseSift(size, round(bin * max(share, 0.5)), step, root) for bin in _BINS)


def parse_grids(pyramid: Sequence[int | str]) -> tuple[tuple[int, int], ...]:
    """(rows, columns) of each level: 2 and "2x2" part the image in 2 x 2, "3x1" in three rows.

    Errors: SettingsError for anything else.
    """
    grids = []
    for level in pyramid:
        match = re.fullmatch(r"(\d{1,2})x(\d{1,2})", str(level)) or re.fullmatch(r"(\d{1,2})", str(level))
        sides = tuple(int(side) for side in match.groups()) if match else (0,)
        if min(sides) < 1:
            raise SettingsError(
                f"level {level!r} of the pyramid is no grid; give ROWSxCOLUMNS, such as 1x1, 2x2 or 3x1."
            )
        grids.append((sides[0], sides[-1]))
    if not grids:
        raise SettingsError("the pyramid has no level; give at least 1x1.")
    return tuple(grids)


def regions(grids: Sequence[tuple[int, int]], sifts: Sequence[DenseSift]) -> list[Int64[Tensor, " descriptors"]]:
    """For each level, the region that each descriptor of an image belongs to by its centre; counted over all levels."""
    centres = torch.cat([sift.centres() for sift in sifts])
    levels, before = [], 0
    for rows, columns in grids:
        cell = (centres * torch.tensor([rows, columns])).long()
        levels.append(before + cell[:, 0] * columns + cell[:, 1])
        before += rows * columns
    return levels


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
    size, on_device = image_size(train), torch.device(device)
    sifts = descriptors_for(size, root)
    preprocessing = Preprocessing(size=size, mean=(0.0,), std=(1.0,), channels="L")
    batch_size = max(1, min(64, _AT_ONCE // sum(len(sift.centres()) for sift in sifts)))
    spec: dict[str, Any] = {"sifts": [asdict(sift) for sift in sifts], "words": words, "seed": seed}
    spec |= {"device": on_device.type, "version": __version__}
    if current_workspace().folder:
        spec["train"] = train.digest
    with torch.inference_mode():
        saved = current_workspace().checkpoint("visual-words", spec)
        centroids = saved.load()[1].get("words")
        if centroids is None:
            centroids = learn_words(
                train, preprocessing, sifts, words, seed=seed, batch_size=batch_size, device=on_device
            )
            saved.save(len(train), lambda: {"words": centroids}, final=True)
        levels = [level.to(on_device) for level in regions(grids, sifts)]
        pooled = RegionPooling(centroids.to(on_device), levels, sum(rows * columns for rows, columns in grids), pooling)

        def vectors(samples: Samples, start: int) -> Iterator[Tensor]:
            for batch in samples.batches(preprocessing, batch_size, start=start):
                gray = batch.images[:, 0].to(on_device)
                yield pooled(torch.cat([sift(gray) for sift in sifts], 1))

        spec |= {"grids": grids, "pooling": pooling}
        x_train, x_test = (
            store_rows(samples, pooled.length, partial(vectors, samples), spec) for samples in (train, test)
        )
    return x_train, x_test
