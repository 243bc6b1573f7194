"""From a compressed file back to an ordinary state dict, and ordinary files of networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from netopsy.codec.file import SUFFIX, read_compressed
from netopsy.deep_compression.save import aliases, describe, destination
from netopsy.errors import SettingsError
from netopsy.files import atomic_write
from netopsy.network.network import Network
from netopsy.network.sources.options import FIELDS


def expand(path: str | Path, out: str | Path | None = None) -> dict[str, Tensor]:
    """The state dict that the compressed file `path` holds, on the CPU; values kept in 16 bits come as float32.

    A tensor that the network's state dict has under several names is there under each. out: a .safetensors file to
    write it to as well, with metadata from which `load_network(out)` builds the network; one that is there is replaced.
    Raises WeightsError where `path` is missing or damaged, SettingsError where `out` cannot be written.
    """
    target = None if out is None else destination(out, ".safetensors", force=True)
    if target is not None and target.name.lower().endswith(SUFFIX):
        raise SettingsError(
            f"'{out}' ends in {SUFFIX}, as compressed files do, and an expanded one is none; "
            "give another name that ends in .safetensors."
        )
    read = read_compressed(path)
    state = {name: _tensor(value) for name, value in read.state().items()}
    for name, kept in _tied(read.metadata).items():
        if kept in state:
            state[name] = state[kept]
    if target is not None:
        _write(state, target, read.metadata)
    return state


def save_network(network: Network, path: Path) -> Path:
    """Write the state dict of `network` to the .safetensors file `path`, with what `load_network(path)` needs."""
    again = aliases(network.module)
    state = {name: value for name, value in network.module.state_dict().items() if name not in again}
    _write(state, path, describe(network))
    return path


def _tensor(value: np.ndarray[Any, np.dtype[Any]]) -> Tensor:
    return torch.from_numpy(value.astype(np.float32) if value.dtype == np.float16 else value.copy())


def _tied(metadata: dict[str, str]) -> dict[str, str]:
    try:
        said = json.loads(metadata.get("tied", "{}"))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(said, dict):
        return {}
    return {name: kept for name, kept in said.items() if isinstance(kept, str)}


def _write(state: dict[str, Tensor], target: Path, metadata: dict[str, str]) -> None:
    said = {key: metadata[key] for key in ("architecture", "options", *FIELDS) if key in metadata}
    try:
        tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
        with atomic_write(target) as part:
            safetensors.torch.save_file(tensors, part, metadata=said)
    except OSError as error:
        raise SettingsError(f"cannot write '{target}' ({error.strerror or error}); give another path.") from error
