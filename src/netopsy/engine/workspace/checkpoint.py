"""The file from which long work goes on: how much is done, and nested plain data with tensors.

    saved = Checkpoint(Path("work.safetensors"))
    saved.save(3, lambda: {"sums": torch.ones(2), "optimizer": {"step": torch.tensor(7), "betas": (0.9, None)}})
    done, state = saved.load()        # 3 and an equal state; (0, {}) where there is no such file

Tensors lie in a safetensors file under their paths, such as `state['optimizer']['step']`; all else is JSON in its
header, with a checksum over both. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from netopsy.errors import NetopsyWarning
from netopsy.files import atomic_write

State = dict[str, Any]


class Checkpoint:
    """The state of one piece of work, written whole or not at all.

    path: of the file, or None: nothing is kept. every: seconds between two writes.
    """

    def __init__(self, path: Path | None, every: float = 5.0) -> None:
        self.path, self.every, self._saved = path, every, time.monotonic()

    def load(self) -> tuple[int, State]:
        """(how much is done, state), tensors on the CPU; (0, {}) where there is no file, a damaged or a foreign one.

        Warns: NetopsyWarning of a file that is there and is not what was written.
        """
        if self.path is None or not self.path.exists():
            return 0, {}
        try:
            with safe_open(self.path, "pt") as file:
                header = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            if header["checksum"] == checksum(header["done"] + header["state"], tensors):
                return int(header["done"]), dict(_join(json.loads(header["state"]), tensors.__getitem__))
        except (SafetensorError, OSError, LookupError, ValueError, TypeError, RuntimeError):
            pass
        warnings.warn(f"checkpoint '{self.path}' is damaged; its work is done again.", NetopsyWarning, stacklevel=2)
        return 0, {}

    def save(self, done: int, state: Callable[[], State], *, final: bool = False) -> None:
        """Write `state()` if `every` seconds have passed since the last time, or if this is the `final` one.

        The state: dicts, lists and tuples of tensors, str, int, float, bool and None; keys are anything but tensors
        and containers. It comes back equal to the last bit, with types, shapes and memory formats; tensors that share
        memory come back apart. Errors: TypeError for anything else, with its path.
        """
        if self.path is None or (not final and time.monotonic() - self._saved < self.every):
            return
        tensors: dict[str, Tensor] = {}
        header = {"done": str(done), "state": json.dumps(_split(state(), "state", tensors))}
        tensors = _apart(tensors)
        header["checksum"] = checksum(header["done"] + header["state"], tensors)
        with atomic_write(self.path) as part:
            safetensors.torch.save_file(tensors, part, metadata=header)
        self._saved = time.monotonic()


def checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """A digest of `text` and of the names, types, shapes and bytes of `tensors`, on the CPU and contiguous."""
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        if tensor.numel():
            row = tensor.as_strided((tensor.numel(),), (1,))  # whatever stride an axis of length 1 has
            digest.update(row.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _split(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON: lists stay, a dict names what JSON has no kind for. tensors: takes each one, by its path."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        entries = [_split(entry, f"{path}[{index}]", tensors) for index, entry in enumerate(value)]
        return entries if isinstance(value, list) else {"tuple": entries}
    if isinstance(value, dict):
        if not all(key is None or isinstance(key, bool | int | float | str) for key in value):
            raise TypeError(f"{path} has a key that is no plain value; a checkpoint cannot hold it.")
        return {"dict": [[key, _split(entry, f"{path}[{key!r}]", tensors)] for key, entry in value.items()]}
    if isinstance(value, Tensor):
        # A safetensors file holds rows of memory: the order of the axes there is kept beside, as channels last has one.
        axes = sorted(range(value.ndim), key=value.stride, reverse=True)
        tensors[path] = value.detach().permute(axes)
        return {"tensor": path, "axes": axes}
    raise TypeError(f"{path} is a {type(value).__name__}; a checkpoint cannot hold it.")


def _join(value: Any, tensor: Callable[[str], Tensor]) -> Any:
    """What `_split` has taken apart. tensor: gives the one under a path."""
    if isinstance(value, list):
        return [_join(entry, tensor) for entry in value]
    if not isinstance(value, dict):
        return value
    if "tuple" in value:
        return tuple(_join(value["tuple"], tensor))
    if "dict" in value:
        return {key: _join(entry, tensor) for key, entry in value["dict"]}
    axes = value["axes"]
    return tensor(value["tensor"]).permute(sorted(range(len(axes)), key=axes.__getitem__))


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, contiguous, and copied where one before lies in the same memory."""
    apart, memories = {}, set()
    for path, tensor in tensors.items():
        copied = tensor.cpu().contiguous()
        memory = copied.untyped_storage().data_ptr()
        apart[path] = copied.clone() if memory in memories else copied
        memories.add(memory)
    return apart
