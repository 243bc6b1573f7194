"""Store the values of nodes for every image, once, for several trainings and processes to read instead of images."""

from __future__ import annotations

import io
import math
import os
import secrets
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Bool
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor

from netopsy.blocks.flow import side_inputs
from netopsy.engine.interpreter import plan
from netopsy.engine.observe.observe import default_batch_size
from netopsy.engine.workspace.workspace import check_room, conditions, current_workspace, file_stem
from netopsy.errors import NetopsyError, NetworkError
from netopsy.files import finish
from netopsy.network.network import Network
from netopsy.samples.samples import Samples

try:
    import fcntl
except ImportError:  # Windows: a pass that was killed begins again
    fcntl = None  # type: ignore[assignment]


def cache(
    network: Network, samples: Samples, nodes: Sequence[str], folder: str | Path, *, flips: bool = False
) -> dict[str, Path]:
    """A `.npy` for each of `nodes`, by the name given, of its value on every image in evaluation mode, float32.

    flips: also on the mirrored images, as rows n to 2n - 1. Maps are written (height, width, channel), other values as
    they are; of samples of differing length with their padding, which `side_values` tells. Those files that are there
    are used again: their names are digests of network, preprocessing, samples, node and flips. The others come from
    one pass over the images; killed, it goes on where it was. A file takes its name when it is whole. Processes that
    want the same file at once each write one of their own, and the last stays.

    Errors: UnknownLayer; NetworkError for a node without one value of real numbers an image, and for NaN or infinity;
    SettingsError where the disk has no room.
    """
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    full = {node: network.node(node).name for node in nodes}
    shapes = {name: row_shape(network, name) for name in full.values()}
    height = len(samples) * (1 + flips)
    spec = {**conditions(network, samples), "flips": flips, "layout": "channels last"}
    paths = {name: place / f"{file_stem('values', {**spec, 'node': name})}.npy" for name in shapes}
    missing = {name: path for name, path in paths.items() if not _whole(path, (height, *shapes[name]))}
    if missing:
        with ExitStack() as stack:
            parts = {
                name: stack.enter_context(Part(path, len(samples), shapes[name], flips))
                for name, path in missing.items()
            }
            left = sum(part.bytes - part.written for part in parts.values())
            check_room(place, left, "the stored values", "take fewer images, or train on the images themselves")
            _run(network, samples, parts, flips)
            for part in parts.values():
                part.finish()
    return {node: paths[name] for node, name in full.items()}


def bytes_needed(network: Network, n: int, nodes: Sequence[str], flips: bool) -> int:
    """Bytes that `cache` writes for `n` images."""
    total = 0
    for name in {network.node(node).name for node in nodes}:
        shape = (n * (1 + flips), *row_shape(network, name))
        total += len(_header(shape)) + 4 * math.prod(shape)
    return total


def row_shape(network: Network, node: str) -> tuple[int, ...]:
    """Shape of one row of the file of `node`; NetworkError where there is no value of real numbers an image."""
    record = network.node(node)
    if not record.per_sample or not record.is_floating_point or not record.shape:
        raise NetworkError(
            f"node '{node}' of {network.name} has no value of real numbers for each image ({record.dtype}, shape "
            f"{record.full_shape} for one image), so it cannot be stored; choose a node before or behind it."
        )
    return (*record.shape[1:], record.shape[0]) if len(record.shape) == 3 else record.shape


class Part:
    """The file of a node while it is written; how far it has come is how long it is.

    Rows n to 2n - 1 are written along with the first n, each batch after its own, so the end of the file counts both.
    """

    def __init__(self, path: Path, n: int, shape: tuple[int, ...], flips: bool) -> None:
        self.path, self.n, self.flips = path, n, flips
        self.row = 4 * math.prod(shape)
        self.header = _header((n * (1 + flips), *shape))
        self.bytes = len(self.header) + self.row * n * (1 + flips)

    def __enter__(self) -> Part:
        self.part, self.file = self._taken_up() or self._begun()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None and issubclass(kind, NetopsyError):  # what cannot be stored once cannot be gone on with
            self.part.unlink(missing_ok=True)
        self.file.close()

    @property
    def written(self) -> int:
        """Bytes on the disk."""
        return os.fstat(self.file.fileno()).st_blocks * 512

    @property
    def done(self) -> int:
        """Images whose rows are written."""
        size = os.fstat(self.file.fileno()).st_size - len(self.header) - self.row * self.n * self.flips
        return max(0, size // self.row)

    def write(self, first: int, values: Tensor, mirrored: Tensor | None) -> None:
        """The rows of a batch that begins at the image `first`."""
        for start, block in ((first, values), (self.n + first, mirrored)):
            if block is not None:
                self.file.seek(len(self.header) + self.row * start)
                self.file.write(block.numpy().data)
        self.file.flush()

    def finish(self) -> None:
        """Give the file its name."""
        finish(self.part, self.path)

    def _begun(self) -> tuple[Path, BinaryIO]:
        part = self.path.with_suffix(f".{secrets.token_hex(4)}.part")
        file = open(part, "x+b")  # noqa: SIM115
        _locked(file)
        file.write(self.header)
        file.flush()
        return part, file

    def _taken_up(self) -> tuple[Path, BinaryIO] | None:
        """What a killed pass left: a file that no living process holds."""
        for part in sorted(self.path.parent.glob(f"{self.path.stem}.*.part")):
            try:
                file = open(part, "r+b")  # noqa: SIM115
            except OSError:
                continue
            if _locked(file) and _same(part, file) and file.read(len(self.header)) == self.header:
                return part, file
            file.close()
        return None


def _run(network: Network, samples: Samples, parts: dict[str, Part], flips: bool) -> None:
    """One pass over the images that some part has not yet."""
    done = min(part.done for part in parts.values())
    walk = plan(network, (), watched=tuple(parts), folded=True)
    place, device = current_workspace(), network.device
    size = default_batch_size(network) * (2 if device.type == "cpu" else 16)
    latest: dict[str, Tensor] = {}

    def visit(node: str, values: Tensor) -> None:
        rows = values.permute(0, 2, 3, 1) if values.ndim == 4 else values
        latest[node] = rows.to("cpu", torch.float32, memory_format=torch.contiguous_format, copy=True)

    def values_of(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        walk.run(inputs, batch=len(next(iter(inputs.values()))), visit=visit)
        copied = dict(latest)
        latest.clear()
        return copied

    place.report("store values", done, len(samples))
    with torch.inference_mode():
        for batch in samples.batches(network.preprocessing, size, start=done):
            inputs = batch.to(device)
            plain = values_of(inputs)
            mirrored = values_of({k: x.flip(3) if x.ndim == 4 else x for k, x in inputs.items()}) if flips else {}
            for name, part in parts.items():
                for values in (plain[name], mirrored.get(name)):
                    if values is not None and not torch.isfinite(values).all():
                        raise NetworkError(
                            f"node '{name}' of {network.name} is NaN or infinite on an image of {samples.name}, so its "
                            "values are not worth storing; choose a node before it."
                        )
                part.write(done, plain[name], mirrored.get(name))
            done += len(batch.indices)
            place.report("store values", done, len(samples))


def side_values(
    network: Network, samples: Samples
) -> tuple[Bool[np.ndarray, "n length"] | None, dict[str, NDArray[Any]]]:
    """What stored values need beside them: which places are no padding (None where samples are of one size), and the
    masks and segments that the network reads, a row a sample.
    """
    names, masks = side_inputs(network), list[NDArray[Any]]()
    values: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    if names or network.signature.length is not None:
        for batch in samples.batches(network.preprocessing, 256):
            masks += [] if batch.mask is None else [batch.mask.cpu().numpy()]
            for name in names:
                values[name].append(batch.inputs[name].cpu().numpy())
    beside = {name: np.concatenate(parts) for name, parts in values.items()}
    return (np.concatenate(masks) if masks else None), beside


def _header(shape: tuple[int, ...]) -> bytes:
    """The beginning of a `.npy` of float32 rows."""
    buffer = io.BytesIO()
    described = {"descr": npy.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(buffer, described)
    return buffer.getvalue()


def _whole(path: Path, shape: tuple[int, ...]) -> bool:
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return rows.shape == shape and rows.dtype == np.float32


def _locked(file: BinaryIO) -> bool:
    """Whether the file is now this process's alone; the system lets go of it when the process ends."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _same(path: Path, file: BinaryIO) -> bool:
    """Whether `path` still names the open file: another process may have finished and renamed it meanwhile."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except OSError:
        return False
