"""A network with shared weights, exactly as the file that holds it will give it back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from netopsy.codec.shared import SharedTensor
from netopsy.deep_compression.describe import aliases
from netopsy.errors import SettingsError, nearest
from netopsy.network.network import Network

Kept = Literal["exact", "float16"]
ARRAY = np.ndarray[Any, np.dtype[Any]]


def measured(network: Network, shared: Mapping[str, SharedTensor], kept: Kept = "exact") -> Network:
    """A copy of `network` with the weights that expanding its file gives, bit for bit; `network` stays as it is.

    shared: by the weights' names. kept: how all other values are held, see `others`.
    """
    check(network, shared)
    tensors = network.tensors
    changed = {name: torch.from_numpy(one.decode()) for name, one in shared.items()}
    for name, array in others(network, shared, kept).items():
        if name in tensors:
            changed[name] = torch.from_numpy(array)
    return network.with_tensors(changed)


def others(network: Network, shared: Mapping[str, SharedTensor], kept: Kept = "exact") -> dict[str, ARRAY]:
    """The rest of the state dict as the file keeps it: biases, norms, running statistics, weights not shared.

    kept: "exact", or "float16": floating-point tensors as IEEE 754 halves, but for one with a value beyond 65504.
    Integers stay as they are. A tensor with several names is there once, under the first.
    """
    if kept not in get_args(Kept):
        raise SettingsError(f"kept {kept!r} is unknown; give one of {', '.join(get_args(Kept))}.")
    again = aliases(network.module)
    state = network.module.state_dict()
    return {name: _array(value, kept) for name, value in state.items() if name not in shared and name not in again}


def check(network: Network, shared: Mapping[str, SharedTensor]) -> None:
    """Raise SettingsError unless each of `shared` stands for a parameter of the network, of the same shape."""
    tensors = network.tensors
    for name, one in shared.items():
        if name not in tensors:
            raise SettingsError(f"no parameter '{name}' in {network.name}; nearest: {nearest(name, tensors)}.")
        if one.shape != tuple(tensors[name].shape):
            raise SettingsError(
                f"shared weights of shape {one.shape} for {name}, which is {tuple(tensors[name].shape)}."
            )


def _array(value: Tensor, kept: Kept) -> ARRAY:
    value = value.detach().cpu().contiguous()
    if not value.is_floating_point():
        return value.numpy().copy()
    array: ARRAY = (value if value.dtype in (torch.float16, torch.float32, torch.float64) else value.float()).numpy()
    if kept == "float16":
        with np.errstate(over="ignore"):
            half = array.astype(np.float16)
        if np.array_equal(np.isfinite(half), np.isfinite(array)):
            return half
    return array.copy()
