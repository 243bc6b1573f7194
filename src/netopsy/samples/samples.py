"""Samples, their batches (read ahead by a few threads), and single samples by number."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor

from netopsy.errors import NotApplicable, SamplesError, SettingsError
from netopsy.network.network import Network
from netopsy.network.node import Node
from netopsy.network.preprocessing import Preprocessing
from netopsy.network.signature import MASK, Kind, Signature
from netopsy.samples.images import PlainImages
from netopsy.samples.labels import name_classes, stratify
from netopsy.samples.records import Records
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


NOUNS = {"image": "image", "tokens": "text", "series": "recording", "vector": "row"}
"""What a sample of each kind is called; any other is a sample."""


CHUNK = 4  # pictures a task decodes: few, so that threads share a batch evenly and an interrupt waits briefly


class Batch(NamedTuple):
    """A few samples, ready for the network.

    inputs: by the names that the network has for them, each (batch, ...).
    labels: what the samples' `labels` hold; -1 where they have none.
    indices: positions in the Samples that gave the batch.
    mask: which places belong to a sample, where samples differ in length and are padded; else None. Of an encoder and a
        decoder those of the decoder, which the outputs go along. masks: then those of each sequence, by its name.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    indices: Int64[Tensor, " batch"]
    mask: Bool[Tensor, "batch length"] | None = None
    masks: Mapping[str, Bool[Tensor, "batch length"]] = MappingProxyType({})

    def mask_of(self, sequence: str) -> Bool[Tensor, "batch length"] | None:
        """Which places of a sequence, as a node or an input names it, belong to a sample; None where all do."""
        return self.masks.get(sequence) if self.masks else self.mask

    def masks_along(self, node: Node) -> list[Bool[Tensor, "batch length"]]:
        """A mask for each of the node's `length_axes`, by its sequence; empty where nothing is padded."""
        return [mask for sequence in node.sequences if (mask := self.mask_of(sequence)) is not None]

    def part(self, which: slice) -> Batch:
        """Some of the samples."""
        inputs, masks = ({name: x[which] for name, x in part.items()} for part in (self.inputs, self.masks))
        mask = None if self.mask is None else self.mask[which]
        return Batch(inputs, self.labels[which], self.indices[which], mask, masks)

    @property
    def images(self) -> Tensor:
        """The first input, (batch, channel, height, width) of images."""
        return next(iter(self.inputs.values()))

    def to(self, device: torch.device) -> dict[str, Tensor]:
        """The inputs on a device."""
        return {name: values.to(device) for name, values in self.inputs.items()}


class Samples:
    """Samples of one kind, with labels or without.

    name: where they came from, for people.
    records: the samples by row, or pictures that have `load` alone. kind: of what they are, as `Records` has it.
    classes: the classes' names, by index, as the source spells them; empty where there are none.
    labels: int64 (n,) class indices; float32 (n, classes) of 0 and 1, where a sample may have several; float32 (n,)
        or (n, values) of numbers that a network is to give; or int64 (n, *places), a class for each place.
    task: what right means, by name or as a `Task`; None: what labels and network suggest.
    """

    def __init__(
        self,
        name: str,
        records: Records,
        labels: NDArray[Any] | None,
        classes: tuple[str, ...] = (),
        rows: Int64[np.ndarray, " n"] | None = None,
        task: Any = None,
    ) -> None:
        self.name = name
        self.classes = classes
        self.records = records if hasattr(records, "fill") else PlainImages(records)
        self.task = task
        self._labels = labels
        self._rows = np.arange(len(records)) if rows is None else rows
        if labels is not None and len(labels) != len(self._rows):
            raise SamplesError(f"{name} has {self._counted()} and {len(labels):,} labels; give one label each.")

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        classes = f", {plural(len(self.classes), 'class', 'classes')}" if self.classes else ""
        return f"Samples({self.name}, {self._counted()}{classes})"

    def _counted(self) -> str:
        return plural(len(self._rows), self.noun)

    @property
    def kind(self) -> Kind:
        """Of what the samples are: `image`, `tokens`, `series`, `vector` or `array`."""
        return self.records.kind

    @property
    def rows(self) -> Int64[np.ndarray, " n"]:
        """Where each of the samples stands in `records`."""
        return self._rows

    @property
    def labelled(self) -> bool:
        """Whether the samples have labels."""
        return self._labels is not None

    @property
    def labels(self) -> NDArray[Any]:
        """One a sample; NotApplicable where there are none."""
        if self._labels is None:
            raise NotApplicable(f"{self.name} has no labels, and this needs them; give samples with labels.")
        return self._labels

    @property
    def multilabel(self) -> bool:
        """Whether a sample may have several labels."""
        labels = self._labels
        numbers = getattr(self.task, "name", self.task) == "regression"
        if labels is None or labels.ndim != 2 or labels.dtype != np.float32 or numbers:
            return False
        return bool(self.classes) or bool(np.isin(labels, (0, 1)).all())  # else numbers that a network is to give

    @property
    def noun(self) -> str:
        """What one of the samples is called."""
        return NOUNS.get(self.kind, "sample")

    @property
    def classified(self) -> bool:
        """Whether each sample has a class, or several of them (`multilabel`)."""
        labels = self._labels
        one = labels is not None and labels.ndim == 1 and labels.dtype.kind in "iu"
        return bool(self.classes) and (one or self.multilabel)

    @cached_property
    def digest(self) -> str:
        """BLAKE2b (32 bytes, hexadecimal) over classes, labels and images in order; reads every file once."""
        total = hashlib.blake2b(digest_size=32)
        total.update(repr(self.classes).encode(errors="surrogatepass"))
        if self._labels is not None:
            total.update(f"{self._labels.dtype} {self._labels.shape};".encode() + self._labels.tobytes())
        if self.task is not None:
            total.update(f"task {self.task};".encode())
        for part in self.records.digest(self._rows):
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
        rows = stratify(self.strata, int(count), seed)
        return self.select(rows, f"{self.name}, {count:,} of {len(self):,} (seed {seed})")

    def select(self, rows: Int64[np.ndarray, " rows"], name: str) -> Samples:
        """The samples at the positions `rows`, 0 to n - 1, in that order, under a name of their own."""
        labels = None if self._labels is None else self._labels[rows]
        return Samples(name, self.records, labels, self.classes, self._rows[rows], self.task)

    def with_task(self, task: Any) -> Samples:
        """The same samples, with another answer to what right means."""
        return Samples(self.name, self.records, self._labels, self.classes, self._rows, task)

    def with_classes(self, names: tuple[str, ...]) -> Samples:
        """The same samples, with other names for their classes. Errors: SamplesError without labels or with too few."""
        if self._labels is None:
            raise SamplesError(f"{self.name} has no labels, so its classes have no names; leave classes out.")
        classes = name_classes(self._labels, names, self.name)
        return Samples(self.name, self.records, self._labels, classes, self._rows, self.task)

    @property
    def strata(self) -> NDArray[Any]:
        """Labels to draw evenly from; where there are no classes, all samples are alike."""
        labels = self._labels
        if labels is not None and labels.dtype.kind == "f" and not np.isin(labels, (0, 1)).all():
            return np.zeros(len(self), np.int64)  # numbers
        if labels is None or (labels.dtype.kind == "f" and not self.multilabel) or labels.ndim > 2:
            return np.zeros(len(self), np.int64)
        return labels if labels.ndim == 1 or self.multilabel else np.zeros(len(self), np.int64)

    def check(self, classes_out: int) -> None:
        """Raise SamplesError where labels are classes that a network with `classes_out` outputs does not have."""
        if self._labels is None:
            return
        if self.multilabel:
            if self.labels.shape[1] != classes_out:
                raise SamplesError(
                    f"{self.name} has {self.labels.shape[1]} labels an image and the network {classes_out} outputs; "
                    "choose a network with one output a label, or the label columns that it knows."
                )
        elif (
            self.labels.dtype.kind in "iu"
            and self.labels.ndim == 1
            and (largest := int(self.labels.max())) >= classes_out
        ):
            raise SamplesError(
                f"{self.name} has label {largest} and the network {classes_out} outputs (labels 0 to "
                f"{classes_out - 1}); choose samples or a network with the same classes."
            )

    def image(self, index: int) -> UInt8[np.ndarray, "height width channel"]:
        """The picture at `index` as it came, before any resizing: 1 (gray), 3 or 4 channels."""
        pixels = self.read(index)
        if self.kind != "image":
            what = f"{getattr(pixels, 'dtype', '')} {type(pixels).__name__}"
            raise NotApplicable(
                f"{self.name} holds no images but {self.noun}s: {self.noun} {index} is a {what.strip()}; give Pillow "
                "images, or uint8 arrays (height, width, channel)."
            )
        return pixels if pixels.dtype == np.uint8 else np.rint(pixels).astype(np.uint8)

    def read(self, index: int) -> Any:
        """The sample at `index` as it came: pixels, a text, arrays."""
        if not -len(self) <= index < len(self):
            raise SamplesError(f"no {self.noun} {index} in {self.name}; give 0 to {len(self) - 1}.")
        return self.records.read(int(self._rows[index]))

    def title(self, index: int) -> str:
        """What the sample at `index` is, in one line of plain text: its number, then the beginning of a text, a
        recording's length, or the values of a row."""
        index = range(len(self))[index]
        more = self.records.title(int(self._rows[index])) if hasattr(self.records, "title") else ""
        return f"{self.noun} {index}" + (f": {more}" if more else "")

    def thumbnail(self, index: int) -> UInt8[np.ndarray, "height width 3"] | None:
        """A small picture of the sample at `index`: an image, a waveform, a slice; None where the title shows it."""
        index = range(len(self))[index]
        return self.records.thumbnail(int(self._rows[index])) if hasattr(self.records, "thumbnail") else None

    def show(self, index: int) -> str:
        """The sample at `index` as HTML: its thumbnail, if it has one, and its title, escaped."""
        picture, title = self.thumbnail(index), html.escape(self.title(index))
        if picture is None:
            return f"<span>{title}</span>"
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "PNG")
        data = base64.b64encode(file.getvalue()).decode()
        return f'<img src="data:image/png;base64,{data}" alt="{title}"> {title}'

    def batches(
        self,
        preprocessing: Preprocessing | Signature,
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
                f"order visits {visited.min()} to {visited.max()}; {self.name} has {self.noun}s 0 to {len(self) - 1}."
            )
        if batch_size < 1 or not 0 <= start <= len(visited):
            raise SamplesError(
                f"batch size {batch_size} and start {start} must be at least 1 and within 0 to {len(visited):,}."
            )
        if hasattr(self.records, "prepare"):
            self.records.prepare(self._rows, preprocessing)
        ready = self.records.cheap(preprocessing)
        if workers is None:
            workers = 1 if ready else self.records.workers or min(8, os.cpu_count() or 1)
        jobs = self._jobs(visited[start:].astype(np.int64), preprocessing, batch_size, batch_size if ready else CHUNK)
        return prefetch(jobs, workers, ahead)

    def _jobs(
        self,
        visited: Int64[np.ndarray, " visits"],
        preprocessing: Preprocessing | Signature,
        batch_size: int,
        chunk: int,
    ) -> Iterator[Job[Batch]]:
        """Each batch over fresh buffers, with the tasks that fill them."""
        labels = None if self._labels is None else torch.from_numpy(self._labels)
        for first in range(0, len(visited), batch_size):
            indices = visited[first : first + batch_size]
            rows = self._rows[indices]
            buffers = self.records.buffers(len(rows), preprocessing)
            tasks: list[Callable[[], object]] = []
            for start in range(0, len(rows), chunk):
                part = slice(start, start + chunk)
                out = {name: array[part] for name, array in buffers.items()}
                tasks.append(partial(self.records.fill, out, rows[part], preprocessing))
            tensors = {name: torch.from_numpy(array) for name, array in buffers.items()}
            masks = {s: tensors.pop(MASK + s) for s in preprocessing.signature.lengths}
            mask = next(reversed(masks.values()), None)
            picked = torch.full((len(rows),), -1) if labels is None else labels[indices]
            yield Batch(tensors, picked, torch.from_numpy(indices), mask, masks), tasks


def check_images(samples: Samples, numbers: Sequence[int]) -> None:
    """Raise SettingsError for a number that is none of the samples'."""
    outside = [str(number) for number in numbers if not 0 <= number < len(samples)]
    if outside:
        raise SettingsError(f"no image {', '.join(outside)} in {samples.name}; give 0 to {len(samples) - 1}.")


def read_images(
    network: Network, samples: Samples, numbers: Sequence[int]
) -> Float32[Tensor, "n channel height width"]:
    """The preprocessed images of these numbers, in their order, on the network's device.

    Raises SettingsError for a number that is none of the samples', SamplesError for an image that cannot be read,
    NotApplicable where the network takes no images.
    """
    return next(iter(read_inputs(network, samples, numbers).values()))


def read_inputs(network: Network, samples: Samples, numbers: Sequence[int]) -> dict[str, Tensor]:
    """The images of these numbers as `read_images` has them, with the network's other inputs, by name."""
    check_images(samples, numbers)
    prepared = network.preprocessing if network.signature.inputs[0].kind == "image" else network.image_preprocessing
    (batch,) = samples.batches(prepared, len(numbers), order=list(numbers))
    return batch.to(network.device)
