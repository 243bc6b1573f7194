"""Labelled images, their batches (read ahead by a few threads), and single images by number."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float32, Int64, UInt8
from numpy.typing import ArrayLike
from torch import Tensor

from netopsy.errors import SamplesError, SettingsError
from netopsy.network.network import Network
from netopsy.network.preprocessing import Preprocessing
from netopsy.samples.images import ArrayImages, Images
from netopsy.samples.labels import Labels, stratify
from netopsy.samples.pixels import normalise
from netopsy.wording import plural

T = TypeVar("T")

Job = tuple[T, Sequence[Callable[[], object]]]


def prefetch(jobs: Iterable[Job[T]], workers: int, ahead: int = 2) -> Iterator[T]:
    """The value of each job, in order, once all its tasks have run.

    jobs: (value, tasks); drawn lazily, at most `ahead` beyond the one that the consumer holds.
    workers: threads; 0 runs the tasks where the consumer waits.
    A task's exception comes out at its job's turn. On any exit (end, exception, interrupt, `close`) tasks not yet begun
    are dropped and the threads are joined.
    """
    if not workers:
        for value, tasks in jobs:
            for task in tasks:
                task()
            yield value
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="netopsy-samples")
    waiting: deque[tuple[T, list[Future[object]]]] = deque()
    try:
        for value, tasks in jobs:
            waiting.append((value, [pool.submit(task) for task in tasks]))
            if len(waiting) > ahead:
                yield _finish(*waiting.popleft())
        while waiting:
            yield _finish(*waiting.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _finish(value: T, futures: list[Future[object]]) -> T:
    for future in futures:
        future.result()
    return value


CHUNK = 4  # pictures a task decodes: few, so that threads share a batch evenly and an interrupt waits briefly


class Batch(NamedTuple):
    """A few samples, ready for the network.

    labels: int64 class indices, or float32 rows of 0 and 1 where an image may have several.
    indices: positions in the Samples that gave the batch.
    """

    images: Float32[Tensor, "batch channel height width"]
    labels: Int64[Tensor, " batch"] | Float32[Tensor, "batch classes"]
    indices: Int64[Tensor, " batch"]


class Samples:
    """Images with labels.

    name: where they came from, for people.
    classes: the classes' names, by index, as the source spells them.
    labels: int64 (n,) class indices; or float32 (n, classes) of 0 and 1, where an image may have several.
    """

    def __init__(
        self,
        name: str,
        images: Images,
        labels: Labels,
        classes: tuple[str, ...],
        rows: Int64[np.ndarray, " n"] | None = None,
    ) -> None:
        self.name = name
        self.classes = classes
        self.labels = labels
        self._images = images
        self._rows = np.arange(len(images)) if rows is None else rows
        if len(labels) != len(self._rows):
            raise SamplesError(
                f"{name} has {plural(len(self._rows), 'image')} and {len(labels):,} labels; give one label each."
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Samples({self.name}, {plural(len(self), 'image')}, {plural(len(self.classes), 'class', 'classes')})"

    @property
    def multilabel(self) -> bool:
        """Whether an image may have several labels."""
        return self.labels.ndim == 2

    @cached_property
    def digest(self) -> str:
        """BLAKE2b (32 bytes, hexadecimal) over classes, labels and images in order; reads every file once."""
        total = hashlib.blake2b(digest_size=32)
        total.update(repr(self.classes).encode(errors="surrogatepass"))
        total.update(f"{self.labels.dtype} {self.labels.shape};".encode() + self.labels.tobytes())
        for part in self._images.digest(self._rows):
            total.update(part)
        return total.hexdigest()

    def subset(self, count: int, seed: int = 0) -> Samples:
        """`count` of these samples, stratified by class, in their order; the same seed draws the same samples.

        Errors: SamplesError for a count below 1 or above their number.
        """
        if not isinstance(count, int | np.integer) or isinstance(count, bool) or not 1 <= count <= len(self):
            raise SamplesError(
                f"count {count!r} cannot be drawn from {self.name}; give a whole number from 1 to {len(self):,}."
            )
        if not isinstance(seed, int | np.integer) or seed < 0:
            raise SamplesError(f"seed {seed!r} cannot seed a draw; give a whole number from 0.")
        if count == len(self):
            return self
        rows = stratify(self.labels, int(count), seed)
        return self.select(rows, f"{self.name}, {count:,} of {len(self):,} (seed {seed})")

    def select(self, rows: Int64[np.ndarray, " rows"], name: str) -> Samples:
        """The samples at the positions `rows`, 0 to n - 1, in that order, under a name of their own."""
        return Samples(name, self._images, self.labels[rows], self.classes, self._rows[rows])

    def check(self, classes_out: int) -> None:
        """Raise SamplesError unless a network with `classes_out` outputs can be scored on these labels."""
        if self.multilabel:
            if self.labels.shape[1] != classes_out:
                raise SamplesError(
                    f"{self.name} has {self.labels.shape[1]} labels an image and the network {classes_out} outputs; "
                    "choose a network with one output a label, or the label columns that it knows."
                )
        elif (largest := int(self.labels.max())) >= classes_out:
            raise SamplesError(
                f"{self.name} has label {largest} and the network {classes_out} outputs (labels 0 to "
                f"{classes_out - 1}); choose samples or a network with the same classes."
            )

    def image(self, index: int) -> UInt8[np.ndarray, "height width channel"]:
        """The picture at `index` as it came, before any resizing: 1 (gray), 3 or 4 channels."""
        if not -len(self) <= index < len(self):
            raise SamplesError(f"no image {index} in {self.name}; give 0 to {len(self) - 1}.")
        pixels = self._images.read(int(self._rows[index]))
        return pixels if pixels.dtype == np.uint8 else np.rint(pixels).astype(np.uint8)

    def batches(
        self,
        preprocessing: Preprocessing,
        batch_size: int,
        *,
        start: int = 0,
        order: ArrayLike | None = None,
        workers: int | None = None,
        ahead: int = 2,
    ) -> Iterator[Batch]:
        """The samples in batches, read and normalised in threads while the caller computes.

        order: indices to visit, 0 to n - 1, in any number and order; None visits all in order.
        start: position in `order` to begin at, for a pass that goes on where another stopped.
        workers: threads; None is one for arrays that need no resizing, else one a core up to 8; 0 is the caller's.
        ahead: batches kept ready or in the making besides the one that the caller holds.
        Errors: SamplesError, at the turn of its batch, for an image that cannot be read.
        """
        visited = np.arange(len(self)) if order is None else np.asarray(order)
        if (visited.size and not np.issubdtype(visited.dtype, np.integer)) or visited.ndim != 1:
            raise SamplesError(f"order is {visited.dtype} of shape {visited.shape}; give a list of whole numbers.")
        if visited.size and not 0 <= visited.min() <= visited.max() < len(self):
            raise SamplesError(
                f"order visits {visited.min()} to {visited.max()}; {self.name} has images 0 to {len(self) - 1}."
            )
        if batch_size < 1 or not 0 <= start <= len(visited):
            raise SamplesError(
                f"batch size {batch_size} and start {start} must be at least 1 and within 0 to {len(visited):,}."
            )
        ready = isinstance(self._images, ArrayImages) and self._images.array.shape[1:3] == preprocessing.size
        if workers is None:
            workers = 1 if ready else self._images.workers or min(8, os.cpu_count() or 1)
        jobs = self._jobs(visited[start:].astype(np.int64), preprocessing, batch_size, batch_size if ready else CHUNK)
        return prefetch(jobs, workers, ahead)

    def _jobs(
        self, visited: Int64[np.ndarray, " visits"], preprocessing: Preprocessing, batch_size: int, chunk: int
    ) -> Iterator[Job[Batch]]:
        """Each batch over a fresh buffer, with the tasks that fill it."""
        labels = torch.from_numpy(self.labels)
        for first in range(0, len(visited), batch_size):
            indices = visited[first : first + batch_size]
            rows = self._rows[indices]
            buffer = np.empty((len(rows), *preprocessing.input_shape), np.float32)
            tasks: list[Callable[[], object]] = [
                partial(self._fill, buffer[part : part + chunk], rows[part : part + chunk], preprocessing)
                for part in range(0, len(rows), chunk)
            ]
            yield Batch(torch.from_numpy(buffer), labels[indices], torch.from_numpy(indices)), tasks

    def _fill(
        self,
        out: Float32[np.ndarray, "batch channel height width"],
        rows: Int64[np.ndarray, " batch"],
        preprocessing: Preprocessing,
    ) -> None:
        normalise(self._images.load(rows, preprocessing), preprocessing, out)


def check_images(samples: Samples, numbers: Sequence[int]) -> None:
    """Raise SettingsError for a number that is none of the samples'."""
    outside = [str(number) for number in numbers if not 0 <= number < len(samples)]
    if outside:
        raise SettingsError(f"no image {', '.join(outside)} in {samples.name}; give 0 to {len(samples) - 1}.")


def read_images(
    network: Network, samples: Samples, numbers: Sequence[int]
) -> Float32[Tensor, "n channel height width"]:
    """The preprocessed images of these numbers, in their order, on the network's device.

    Raises SettingsError for a number that is none of the samples', SamplesError for an image that cannot be read.
    """
    check_images(samples, numbers)
    (batch,) = samples.batches(network.preprocessing, len(numbers), order=list(numbers))
    return batch.images.to(network.device)
