"""Stored values of a node in place of images: what a training reads when all before the node is frozen."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from netopsy.engine.train.data import SHARE, TrainingBatch, draw_augmentation, epoch_seed, free_memory, step_sizes
from netopsy.engine.train.recipe import Recipe
from netopsy.errors import SettingsError
from netopsy.samples.labels import Labels

_cache: WeakKeyDictionary[ActivationSet, tuple[Tensor, Tensor | None]] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class ActivationSet:
    """A training or validation set of stored values, in place of Samples.

    values: a `.npy` that `cache` wrote: float32, a row an image, (n, *shape); of maps (n, height, width, channel), so
        that a batch of rows is channels_last as it lies. labels: int64 (n,), or float32 (n, classes) of 0 and 1.
    targets: a file alike, of what is to be learned by the squared error; None where labels or a teacher say it.
    flips: the files have 2n rows, and those from n on are of the mirrored images.
    mask: bool (n, length), which places of values of tokens are no padding. beside: by name, what the module that takes
        the values also reads, a row a sample, such as the network's own mask.
    Errors: SettingsError for files that do not fit.
    """

    values: Path
    labels: Labels
    targets: Path | None = None
    flips: bool = False
    mask: NDArray[np.bool_] | None = None
    beside: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    shape: tuple[int, ...] = field(init=False)
    target_shape: tuple[int, ...] | None = field(init=False)

    def __post_init__(self) -> None:
        for name in ("values", "targets"):
            path = getattr(self, name)
            object.__setattr__(self, name, None if path is None else Path(path))
        object.__setattr__(self, "shape", self._shape(self.values))
        object.__setattr__(self, "target_shape", None if self.targets is None else self._shape(self.targets))

    def _shape(self, path: Path) -> tuple[int, ...]:
        """Of one image's value as a module gives it: channels first."""
        rows = map_rows(path)
        needed = len(self.labels) * (1 + self.flips)
        if len(rows) != needed:
            twice = ", two an image" if self.flips else ""
            raise SettingsError(
                f"{path.name} has {len(rows):,} rows; {len(self.labels):,} labels need {needed:,}{twice}."
            )
        shape = rows.shape[1:]
        return (shape[2], *shape[:2]) if len(shape) == 3 else shape

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def name(self) -> str:
        """The name of the file of the values."""
        return self.values.name

    @property
    def multilabel(self) -> bool:
        """Whether an image may have several labels."""
        return self.labels.ndim == 2 and self.labels.dtype.kind == "f"

    @property
    def digest(self) -> str:
        """SHA-256 over the labels and the files' names, which `cache` makes from all that their contents depend on."""
        total = hashlib.sha256(f"{self.labels.dtype} {self.labels.shape} {self.flips};".encode())
        total.update(np.ascontiguousarray(self.labels).tobytes())
        for path in (self.values, self.targets):
            total.update(b"-" if path is None else f"{path.name} {path.stat().st_size};".encode())
        for name, kept in ({} if self.mask is None else {"mask": self.mask, **self.beside}).items():
            total.update(f"{name};".encode() + np.ascontiguousarray(kept).tobytes())
        return total.hexdigest()


def map_rows(path: Path) -> NDArray[np.float32]:
    """The rows in a file, read from it as they are asked for."""
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise SettingsError(f"cannot read stored values from '{path}' ({error}); write them with `cache`.") from error
    if not isinstance(rows, np.ndarray) or rows.dtype != np.float32 or rows.ndim < 2:
        raise SettingsError(f"'{path}' holds no float32 rows; write stored values with `cache`.")
    return rows


@dataclass(frozen=True)
class TrainingActivations:
    """Activations as a training sees them, with the methods of `TrainingSamples`.

    values, targets: rows on the device; on the CPU, and where the device has no room, they stay in the file: the
        system keeps in memory what is read again and again, once for all processes.
    """

    data: ActivationSet
    device: torch.device
    values: Tensor
    targets: Tensor | None
    labels: Tensor

    @classmethod
    def of(cls, data: ActivationSet, device: torch.device) -> TrainingActivations:
        """The rows on `device` if they take at most half of what is free there, else in their files."""
        values = _tensor(map_rows(data.values))
        targets = None if data.targets is None else _tensor(map_rows(data.targets))
        if device.type != "cpu":
            values, targets = _resident(data, device, values, targets)
        return cls(data, device, values, targets, torch.from_numpy(data.labels).to(device))

    def __len__(self) -> int:
        return len(self.data)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image's value, channels first."""
        return self.data.shape

    def epoch(self, recipe: Recipe, epoch: int, rank: int = 0, processes: int = 1) -> Iterator[TrainingBatch]:
        """The steps of `epoch` (from 0), of each the share of the process `rank`: order and flips are as of images."""
        n = len(self.data)
        generator = torch.Generator().manual_seed(epoch_seed(recipe.seed, epoch))
        order = torch.randperm(n, generator=generator)
        draws, first = draw_augmentation(recipe, n, generator), 0
        rows = order if draws is None else order + n * draws.flip
        for count, size in step_sizes(n, recipe.batch_size):
            visits = torch.arange(first, first + count * size).reshape(count, size)[:, rank::processes]
            first += count * size
            # moved at once: a device waits for each move
            images = order[visits].to(self.device)
            for picked, labelled in zip(rows[visits].to(self.values.device), images, strict=True):
                targets = None if self.targets is None else self._pick(self.targets, picked)
                inputs, mask = self._beside(self._pick(self.values, picked), labelled)
                yield TrainingBatch(inputs, self.labels[labelled], size, targets, mask)

    def ordered(self, batch_size: int) -> Iterator[TrainingBatch]:
        """All values, none of mirrored images, in their order."""
        for first in range(0, len(self), batch_size):
            part = slice(first, min(first + batch_size, len(self)))
            targets = None if self.targets is None else _maps(self.targets[part].to(self.device))
            # a copy: a module that begins with an operation in place would write to the file's memory
            values, labels = _maps(self.values[part].clone().to(self.device)), self.labels[part]
            inputs, mask = self._beside(values, torch.arange(part.start, part.stop, device=self.device))
            yield TrainingBatch(inputs, labels, len(labels), targets, mask)

    def _beside(self, values: Tensor, rows: Tensor) -> tuple[dict[str, Tensor], Tensor | None]:
        """The inputs of a module: the values, and what it reads besides; and the mask."""
        beside = {name: torch.from_numpy(kept).to(self.device)[rows] for name, kept in self.data.beside.items()}
        mask = None if self.data.mask is None else torch.from_numpy(self.data.mask).to(self.device)[rows]
        return {"x": values, **beside}, mask

    def _pick(self, store: Tensor, rows: Tensor) -> Tensor:
        return _maps(store.index_select(0, rows).to(self.device))


def _resident(
    data: ActivationSet, device: torch.device, values: Tensor, targets: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The rows on the device if they fit, kept for as long as `data` lives or until other data need the room."""
    resident = _cache.get(data)
    if resident is not None and resident[0].device == device:
        return resident
    needed = values.nbytes + (0 if targets is None else targets.nbytes)
    if needed > SHARE * free_memory(device) and _cache:
        _cache.clear()
        torch.cuda.empty_cache()  # does nothing without a GPU
    if needed > SHARE * free_memory(device):
        return values, targets
    _cache[data] = values.to(device), None if targets is None else targets.to(device)
    return _cache[data]


def check_recipe(data: ActivationSet, recipe: Recipe) -> None:
    """SettingsError where the recipe asks for an augmentation that stored values do not hold."""
    if "crop" in recipe.augment:
        raise SettingsError(
            f"augment '{recipe.augment}' shifts images, and values of shifted images are not stored; train on the "
            "images themselves, or augment by flip or none."
        )
    if recipe.augment == "flip" and not data.flips:
        raise SettingsError(
            f"augment 'flip' needs the values of mirrored images, which {data.name} does not hold; store them with "
            "flips=True, or augment by none."
        )


def _maps(rows: Tensor) -> Tensor:
    """Rows as a module takes them: maps (batch, channel, height, width) in the memory format channels_last."""
    return rows.permute(0, 3, 1, 2) if rows.ndim == 4 else rows


def _tensor(rows: NDArray[np.float32]) -> Tensor:
    """The rows as a tensor over the file, which nobody writes to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the memory cannot be written to
        return torch.from_numpy(rows)
