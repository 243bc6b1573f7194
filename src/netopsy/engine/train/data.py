"""The samples of a training: on its device where they fit, else read again each epoch; each epoch in its own order.

On the device every image of a batch gets its own flip and shift, by one gather.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from netopsy.engine.train.recipe import Recipe
from netopsy.errors import SettingsError
from netopsy.network.preprocessing import Preprocessing
from netopsy.network.signature import MASK, Signature
from netopsy.samples.samples import Batch, Samples
from netopsy.samples.verdicts import IGNORED

Taken = Preprocessing | Signature
"""What says how a sample becomes a network's inputs."""


@dataclass(frozen=True)
class AugmentationDraws:
    """What an epoch's augmentation drew for each of its images, in the order in which they are visited.

    flip: which are mirrored left to right. shift: rows and columns by which the image moves, -pad to pad. still: no
    image moves.
    """

    flip: Bool[Tensor, " n"]
    shift: Int64[Tensor, "n 2"]
    still: bool = False

    def part(self, which: Tensor | slice) -> AugmentationDraws:
        """The draws of some of the visits."""
        return AugmentationDraws(self.flip[which], self.shift[which], self.still)

    def to(self, device: torch.device) -> AugmentationDraws:
        """The draws on a device."""
        return AugmentationDraws(self.flip.to(device), self.shift.to(device), self.still)


def draw_augmentation(recipe: Recipe, n: int, generator: torch.Generator) -> AugmentationDraws | None:
    """The draws of `n` visits, or None where the recipe does not augment."""
    if recipe.augment == "none":
        return None
    flip = torch.rand(n, generator=generator) < 0.5
    shift = torch.randint(-recipe.pad, recipe.pad + 1, (n, 2), generator=generator)
    return AugmentationDraws(
        flip if "flip" in recipe.augment else torch.zeros_like(flip),
        shift if "crop" in recipe.augment else torch.zeros_like(shift),
        "crop" not in recipe.augment,
    )


def augment_images(
    store: Float[Tensor, "m height width channel"],
    rows: Int64[Tensor, " batch"],
    draws: AugmentationDraws | None,
    black: Float[Tensor, " channel"],
    fill: str,
) -> Float[Tensor, "batch channel height width"]:
    """The images `rows` of `store`, flipped and then shifted, in the memory format channels_last.

    black: the value of a black pixel, which comes in from outside where `fill` is zero. A shift by (dy, dx) is the crop
    that begins dy rows and dx columns from the corner of the image itself.
    """
    if draws is None:
        return store.index_select(0, rows).permute(0, 3, 1, 2)
    if draws.still:
        images = store.index_select(0, rows)
        return torch.where(draws.flip[:, None, None, None], images.flip(2), images).permute(0, 3, 1, 2)
    _, height, width, channels = store.shape
    y, outside_y = _inside(torch.arange(height, device=rows.device) + draws.shift[:, :1], height)
    x, outside_x = _inside(torch.arange(width, device=rows.device) + draws.shift[:, 1:], width)
    x = torch.where(draws.flip[:, None], width - 1 - x, x)
    at = (rows[:, None, None] * height + y[:, :, None]) * width + x[:, None, :]
    images = store.reshape(-1, channels)[at.reshape(-1)].reshape(len(rows), height, width, channels)
    if fill == "zero":
        outside = outside_y[:, :, None] | outside_x[:, None, :]
        images = torch.where(outside[..., None], black, images)
    return images.permute(0, 3, 1, 2)


def _inside(
    at: Int64[Tensor, "batch size"], size: int
) -> tuple[Int64[Tensor, "batch size"], Bool[Tensor, "batch size"]]:
    """Places mirrored into 0 to size - 1 (the edge pixel not repeated), and which were outside."""
    outside = (at < 0) | (at >= size)
    at = at.abs()
    return size - 1 - (size - 1 - at).abs(), outside


SHARE = 0.5  # of the free memory that samples may take
_BATCH = 512

_cache: WeakKeyDictionary[Samples, tuple[Taken, torch.device, dict[str, Tensor]]] = WeakKeyDictionary()


class TrainingBatch(NamedTuple):
    """One process's share of a batch, augmented.

    inputs: by name, or the stored value that stands for them. size: samples in the whole batch, over all processes.
    targets: what the outputs should be. mask: which places are no padding, where samples differ in length.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    size: int
    targets: Tensor | None = None
    mask: Bool[Tensor, "batch length"] | None = None

    @property
    def images(self) -> Tensor:
        """The first input."""
        return next(iter(self.inputs.values()))

    def part(self, which: slice) -> TrainingBatch:
        """Some of the samples, of a batch as large."""
        inputs = {name: values[which] for name, values in self.inputs.items()}
        targets = None if self.targets is None else self.targets[which]
        return TrainingBatch(
            inputs, self.labels[which], self.size, targets, None if self.mask is None else self.mask[which]
        )


def takes_images(taken: Taken) -> bool:
    """Whether the one input is an image (channel, height, width), which can be flipped and shifted."""
    inputs = taken.signature.inputs
    return len(inputs) == 1 and inputs[0].kind == "image" and len(inputs[0].shape) == 3


def check_augment(recipe: Recipe, taken: Taken, samples: Samples) -> None:
    """SettingsError where the recipe asks for an augmentation that these samples cannot have."""
    size = taken.input_shape[1:]
    if takes_images(taken) and recipe.fill == "reflect" and recipe.pad >= min(size):
        raise SettingsError(f"pad {recipe.pad} must be below {min(size)}, the images' size.")
    if recipe.augment == "none":
        return
    if not takes_images(taken):
        inputs = ", ".join(map(str, taken.signature.inputs))
        raise SettingsError(f"augment '{recipe.augment}' varies images, and the network takes {inputs}; give none.")
    if by_place(samples) and samples.labels.shape[1:] != size:
        raise SettingsError(
            f"augment '{recipe.augment}' moves a class for each pixel along, and the labels of {samples.name} are "
            f"{samples.labels.shape[1:]} for images of {size}; give none."
        )


def by_place(samples: Samples) -> bool:
    """Whether the labels are a class for each place."""
    return samples.labelled and samples.labels.ndim > 1 and samples.labels.dtype.kind != "f"


@dataclass(frozen=True)
class TrainingSamples:
    """Samples as a training sees them.

    store: all of them by input, on the device; images normalised, (n, height, width, channel); None where they do not
        fit. labels: on the device; -1 where there are none.
    sequence: the one whose padding does not count, see `TrainingJob`.
    """

    samples: Samples
    preprocessing: Taken
    device: torch.device
    store: dict[str, Tensor] | None
    labels: Tensor
    sequence: str = ""

    @classmethod
    def of(
        cls, samples: Samples, preprocessing: Taken, device: torch.device, processes: int = 1, sequence: str = ""
    ) -> TrainingSamples:
        """The samples on `device`, read once and kept as long as `samples` is, if they take at most half of what is
        free."""
        labels = torch.from_numpy(samples.labels) if samples.labelled else torch.full((len(samples),), -1)
        labels = labels.to(device)
        cached = _cache.get(samples)
        if cached is not None and cached[:2] == (preprocessing, device):
            return cls(samples, preprocessing, device, cached[2], labels, sequence)
        inputs = preprocessing.signature.inputs
        needed = len(samples) * sum(math.prod(entry.shape) * entry.dtype.itemsize for entry in inputs)
        on_cpu = device.type == "cpu"
        if needed > SHARE * free_memory(device) / (processes if on_cpu else 1):
            return cls(samples, preprocessing, device, None, labels, sequence)
        store: dict[str, Tensor] = {}
        images = takes_images(preprocessing)
        for batch in samples.batches(preprocessing, _BATCH):
            part = slice(int(batch.indices[0]), int(batch.indices[-1]) + 1)
            for name, values in {**batch.inputs, **_marked(batch)}.items():
                rows = values.permute(0, 2, 3, 1) if images else values
                if name not in store:
                    store[name] = torch.empty((len(samples), *rows.shape[1:]), dtype=rows.dtype, device=device)
                store[name][part] = rows.to(device)
        _cache[samples] = (preprocessing, device, store)
        return cls(samples, preprocessing, device, store, labels, sequence)

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample's first input, channels first."""
        return self.preprocessing.input_shape

    @property
    def black(self) -> Float[Tensor, " channel"]:
        """The value of a black pixel."""
        if isinstance(self.preprocessing, Signature):
            return torch.zeros(self.shape[0], device=self.device)
        mean, std = (
            torch.tensor(values, device=self.device) for values in (self.preprocessing.mean, self.preprocessing.std)
        )
        return -mean / std

    def epoch(self, recipe: Recipe, epoch: int, rank: int = 0, processes: int = 1) -> Iterator[TrainingBatch]:
        """The steps of `epoch` (from 0), of each the share of the process `rank`; the same for the same seed."""
        generator = torch.Generator().manual_seed(epoch_seed(recipe.seed, epoch))
        order = torch.randperm(len(self.samples), generator=generator)
        draws, first = draw_augmentation(recipe, len(order), generator), 0
        for count, size in step_sizes(len(order), recipe.batch_size):
            visits = torch.arange(first, first + count * size).reshape(count, size)[:, rank::processes]
            first += count * size
            part = None if draws is None else draws.part(visits.reshape(-1)).to(self.device)
            share = visits.shape[1]
            rows = order[visits.reshape(-1)]
            device_rows, steps = rows.to(self.device), range(0, len(rows), share)
            for at, (store, picked) in zip(steps, self._loaded(rows, device_rows, share), strict=True):
                now = None if part is None else part.part(slice(at, at + share))
                yield self._batch(store, picked, device_rows[at : at + share], size, recipe, now)

    def _loaded(self, rows: Tensor, device_rows: Tensor, share: int) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """For each step, where its samples are and at which rows."""
        if self.store is not None:
            for at in range(0, len(rows), share):
                yield self.store, device_rows[at : at + share]
            return
        for batch in self.samples.batches(self.preprocessing, share, order=rows.numpy()):
            yield self._moved(batch), torch.arange(share, device=self.device)

    def _moved(self, batch: Batch) -> dict[str, Tensor]:
        """A batch on the device, as the store has it."""
        values = batch.to(self.device)
        if takes_images(self.preprocessing):
            values = {name: images.permute(0, 2, 3, 1) for name, images in values.items()}
        return values | {name: mask.to(self.device) for name, mask in _marked(batch).items()}

    def _mask(self, values: dict[str, Tensor]) -> Tensor | None:
        """The mask of the sequence; all masks are taken out of `values`."""
        masks = {name: values.pop(name) for name in list(values) if name.startswith(MASK)}
        return masks.get(MASK + self.sequence)

    def _batch(
        self,
        store: dict[str, Tensor],
        picked: Tensor,
        rows: Tensor,
        size: int,
        recipe: Recipe,
        draws: AugmentationDraws | None,
    ) -> TrainingBatch:
        """The samples `picked` from the store, whose labels are in the `rows`."""
        if not takes_images(self.preprocessing):
            values = {name: kept.index_select(0, picked) for name, kept in store.items()}
            mask = self._mask(values)
            return TrainingBatch(values, self.labels[rows], size, None, mask)
        ((name, images),) = store.items()
        inputs = {name: augment_images(images, picked, draws, self.black, recipe.fill)}
        if draws is None or not by_place(self.samples):
            return TrainingBatch(inputs, self.labels[rows], size)
        outside = torch.tensor([IGNORED], device=self.device)
        moved = augment_images(self.labels[..., None], rows, draws, outside, recipe.fill)[:, 0]
        return TrainingBatch(inputs, moved, size)

    def ordered(self, batch_size: int) -> Iterator[TrainingBatch]:
        """All samples as they are, in their order."""
        if self.store is None:
            for batch in self.samples.batches(self.preprocessing, batch_size):
                inputs, mask, rows = batch.to(self.device), batch.mask_of(self.sequence), batch.indices.to(self.device)
                mask = None if mask is None else mask.to(self.device)
                yield TrainingBatch(inputs, self.labels[rows], len(rows), None, mask)
            return
        images = takes_images(self.preprocessing)
        for first in range(0, len(self.labels), batch_size):
            part = slice(first, first + batch_size)
            values = {name: kept[part] for name, kept in self.store.items()}
            mask = self._mask(values)
            inputs = {name: kept.permute(0, 3, 1, 2) if images else kept for name, kept in values.items()}
            yield TrainingBatch(inputs, self.labels[part], len(self.labels[part]), None, mask)


def _marked(batch: Batch) -> dict[str, Tensor]:
    """The batch's masks by names that no input has."""
    return {MASK + sequence: mask for sequence, mask in batch.masks.items()}


def step_sizes(n: int, batch_size: int) -> list[tuple[int, int]]:
    """(steps, samples a step) pairs that part `n` samples into steps of at most `batch_size`, equal within one."""
    steps = -(-n // batch_size)
    size, larger = divmod(n, steps)
    return [(count, images) for count, images in ((larger, size + 1), (steps - larger, size)) if count]


def steps_an_epoch(n: int, recipe: Recipe) -> int:
    """How many steps an epoch has; SettingsError where a step has fewer samples than there are devices."""
    sizes = step_sizes(n, recipe.batch_size)
    if min(size for _, size in sizes) < recipe.devices:
        raise SettingsError(
            f"steps of {min(size for _, size in sizes)} samples cannot be shared by {recipe.devices} devices; "
            "give a larger batch_size or fewer devices."
        )
    return sum(count for count, _ in sizes)


def check_devices(recipe: Recipe, device: torch.device) -> None:
    """SettingsError where the machine has too few of them."""
    if device.type == "cuda" and recipe.devices > torch.cuda.device_count():
        raise SettingsError(f"{recipe.devices} devices are wanted; this machine has {torch.cuda.device_count()} GPUs.")


def epoch_seed(seed: int, epoch: int, rank: int = 0) -> int:
    """A seed for one epoch (and process) that has nothing to do with those of other epochs and seeds."""
    return int(np.random.SeedSequence((seed, epoch, rank)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def free_memory(device: torch.device) -> int:
    """Bytes that are free on the device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":", 1) for line in file)
        return 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 2**31
