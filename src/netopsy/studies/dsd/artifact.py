"""The trained network as a file."""

from __future__ import annotations

import os
from pathlib import Path

import safetensors.torch

from netopsy.engine.compress.describe import aliases, describe
from netopsy.network.network import Network


def save(network: Network, path: Path) -> Path:
    """Write the weights of `network` to `path`, with what `load_network(path)` needs, and return it."""
    again = aliases(network.module)
    tensors = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in network.module.state_dict().items()
        if name not in again
    }
    part = path.with_suffix(f".{os.getpid()}.part")
    safetensors.torch.save_file(tensors, part, metadata=describe(network))
    os.replace(part, path)
    return path
