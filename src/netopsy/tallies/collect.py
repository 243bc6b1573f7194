"""What a node gives on every sample: all values, in a file, or a digest of them."""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int64
from numpy.lib.format import open_memmap
from torch import Tensor

from netopsy.engine.observe.tally import Tally
from netopsy.errors import NetworkError, SettingsError

Pool = Literal["none", "mean", "max", "first", "last"]
FloatKind = Literal["float32", "float16"]
_MAPPED = 64 * 2**20  # bytes written before the file is mapped again: what is mapped counts as memory of the process


class Collect(Tally):
    """One row a sample in a memory-mapped `.npy`, float (samples, dimensions); the row's number is the sample's index.

    path: the file; one that is there is continued. samples: their number. node: its name, for errors.
    pool: `none` flattens the values in the order of torch.flatten(1); `mean` and `max` pool each channel over its
        places, `first` and `last` take those of one place.
    axis: where the channels are. dtype: `float32` or `float16`, in which the rows are written.
    update: (batch, *any shape), floating point. result: the path. Memory does not grow with the number of samples.
    Raises NetworkError for NaN or infinity, SettingsError for a value above float16's largest number, 65,504.
    """

    on_disk = True
    by_sample = True

    def __init__(
        self,
        path: str | Path,
        samples: int,
        node: str,
        *,
        pool: Pool = "none",
        axis: int = 1,
        dtype: FloatKind = "float32",
    ) -> None:
        self.path, self.samples, self.node = os.fspath(path), samples, node
        self.pool, self.axis, self.dtype = pool, axis, dtype
        self._file: np.memmap | None = None
        self._written = 0  # bytes, since the file was mapped

    def __deepcopy__(self, memo: object) -> Collect:
        twin = Collect(self.path, self.samples, self.node, pool=self.pool, axis=self.axis, dtype=self.dtype)
        return twin  # the file is mapped again

    def update(self, values: Tensor, indices: Tensor) -> None:
        if len(values) != len(indices) or not values.is_floating_point():
            raise NetworkError(
                f"node '{self.node}' gives {values.dtype} of shape {tuple(values.shape)} for {len(indices)} images, "
                "not one row of real numbers an image; choose a node before or behind it."
            )
        pooled = pool_places(values, self.pool, self.axis)
        rows = pooled.to(torch.float32 if self.dtype == "float32" else torch.float16)
        good = torch.isfinite(rows).all(1)
        if not good.all():
            self._refuse(pooled, indices, int((~good).nonzero()[0, 0]))
        file = self._open(rows.shape[1])
        file[indices.cpu().numpy()] = rows.cpu().numpy()
        self._written += rows.numel() * rows.element_size()
        if self._written > _MAPPED:
            self._close()

    def merge(self, other: Collect) -> None:
        """Nothing to add: parts of one set of samples write their rows into one file."""
        if other.path != self.path:
            raise SettingsError(f"rows in '{other.path}' cannot be merged into '{self.path}': collect into one file.")

    def result(self) -> Path:
        self._close()
        return Path(self.path)

    def state(self) -> dict[str, Tensor]:
        """No tensors: the rows are on the disk when this returns."""
        if self._file is not None:
            self._file.flush()
        return {}

    def _open(self, dimensions: int) -> np.memmap:
        if self._file is None:
            shape, kind = (self.samples, dimensions), np.dtype(self.dtype)
            if not os.path.exists(self.path):
                self._create(shape, kind)
            file = open_memmap(self.path, mode="r+")
            if file.shape != shape or file.dtype != kind:
                raise SettingsError(
                    f"'{self.path}' holds {file.dtype} {file.shape}, not the {kind} {shape} of node '{self.node}'; "
                    "delete it or give another path."
                )
            self._file = file
        return self._file

    def _create(self, shape: tuple[int, int], kind: np.dtype) -> None:
        """An empty file, unless another process that collects into it was faster."""
        new = f"{self.path}.{os.getpid()}"
        open_memmap(new, mode="w+", dtype=kind, shape=shape)
        try:
            os.link(new, self.path)
        except FileExistsError:
            pass
        finally:
            os.unlink(new)

    def _close(self) -> None:
        if self._file is not None:
            self._file.flush()
        self._file, self._written = None, 0

    def _refuse(self, pooled: Tensor, indices: Tensor, row: int) -> None:
        largest, image = pooled[row].abs().max().item(), int(indices[row])
        if math.isfinite(largest):
            raise SettingsError(
                f"node '{self.node}' reaches {largest:.6g} on image {image}, above float16's largest number 65,504; "
                "write its features as float32."
            )
        raise NetworkError(
            f"node '{self.node}' is NaN or infinite on image {image}, so it gives no features; choose a node before it."
        )


def pool_places(values: Tensor, pool: Pool, axis: int = 1) -> Tensor:
    """(batch, dimensions) of (batch, *any shape): flattened, or each channel's mean, maximum, first or last place.

    NaN stands at places that are padding: they count for nothing, and are 0 where nothing is pooled.
    """
    if values.ndim < 3:
        return values.reshape(len(values), -1)
    places = values.movedim(axis, 1).flatten(2)
    if pool == "first" or (values.is_meta and pool == "last"):
        return places[:, :, 0]
    padded = places.isnan().all(1, keepdim=True)
    if pool == "last":
        at = places.shape[2] - 1 - (~padded).flip(2).float().argmax(2, keepdim=True)
        return places.gather(2, at.expand(-1, places.shape[1], 1))[:, :, 0]
    if values.is_meta or not padded.any():
        if pool == "none":
            return values.reshape(len(values), -1)
        return places.amax(2) if pool == "max" else places.float().mean(2)
    if pool == "none":
        moved = values.movedim(axis, 1)
        return moved.masked_fill(padded.unflatten(2, moved.shape[2:]), 0).movedim(1, axis).reshape(len(values), -1)
    if pool == "max":
        return places.masked_fill(padded, -torch.inf).amax(2)
    real = ~padded
    return places.float().masked_fill(padded, 0).sum(2) / real.sum(2).clamp_min(1)


class Digests(Tally):
    """A digest of what each sample gives the nodes, so that equal samples are found without keeping them.

    update: (batch, ...), or a tuple of such. result: int64 (samples, 3), by sample: its index, see `digest_rows`.
    """

    by_sample = True

    def __init__(self) -> None:
        self.rows = torch.zeros(0, 3, dtype=torch.int64)  # with room for as many again
        self.count = 0

    def update(self, values: Tensor | tuple[Tensor, ...], indices: Tensor) -> None:
        parts = values if isinstance(values, tuple) else (values,)
        self._add(torch.cat([indices.cpu()[:, None], digest_rows(parts)], 1))

    def _add(self, rows: Tensor) -> None:
        end = self.count + len(rows)
        if end > len(self.rows):
            room = torch.zeros(max(end, 2 * len(self.rows)), 3, dtype=torch.int64)
            room[: self.count] = self.rows[: self.count]
            self.rows = room
        self.rows[self.count : end] = rows
        self.count = end

    def merge(self, other: Digests) -> None:
        self._add(other.rows[: other.count])

    def result(self) -> Int64[np.ndarray, "samples 3"]:
        rows = self.rows[: self.count].cpu().numpy()
        return rows[np.argsort(rows[:, 0], kind="stable")]


def digest_rows(parts: tuple[Tensor, ...]) -> Int64[Tensor, "batch 2"]:
    """For each row BLAKE2b over its values, and of pictures an outline that survives a change of a few values: whether
    it grows darker from each of 8 x 9 fields to the next. Of all else the digest again.
    """
    plain = [part.detach().cpu().float().nan_to_num(0).flatten(1).contiguous() for part in parts]  # NaN is padding
    rows = [part.numpy() for part in plain]
    digests = [
        int.from_bytes(hashlib.blake2b(b"".join(row[i].tobytes() for row in rows), digest_size=8).digest(), "little")
        for i in range(len(rows[0]))
    ]
    exact = torch.from_numpy(np.array(digests, np.uint64).view(np.int64))
    outline = exact
    if len(parts) == 1 and parts[0].ndim == 4 and parts[0].is_floating_point():
        fields = torch.nn.functional.adaptive_avg_pool2d(parts[0].cpu().float().mean(1, keepdim=True), (8, 9))[:, 0]
        darker = (fields[:, :, 1:] < fields[:, :, :-1]).flatten(1).numpy()
        outline = torch.from_numpy(np.packbits(darker, axis=1).view(np.int64)[:, 0])
    return torch.stack([exact, outline], 1)
