"""What a weights file must say of its network, so that `load_network(file)` gives the same one."""

from __future__ import annotations

import json
from typing import Any

from torch import nn

from netopsy.network.network import Network
from netopsy.network.preprocessing import Preprocessing

OWN = ("netopsy:", "torchvision:", "timm:")
"""The sources that a file alone can name; code of the user's is not run because a file asks for it."""


def describe(network: Network) -> dict[str, str]:
    """The metadata of a safetensors file: architecture, its options, preprocessing, and names of one tensor.

    architecture: the source, such as `torchvision:resnet18`. options: a JSON object, `{"num_classes": 10}`.
    size, resize, mean, std, channels, scale, interpolation: as the fields of `Preprocessing`; numbers keep all digits.
    tied: a JSON object, from further names of a tensor that the state dict holds several times to the name kept.
    """
    source = str(network.provenance.get("source", network.name))
    said = {"architecture": source, "options": json.dumps(_options(network, source), sort_keys=True)}
    tied = aliases(network.module)
    return said | _fields(network.preprocessing) | ({"tied": json.dumps(tied, sort_keys=True)} if tied else {})


def aliases(module: nn.Module) -> dict[str, str]:
    """Names in the state dict of tensors that it holds under an earlier name too (tied weights)."""
    first: dict[int, str] = {}
    again: dict[str, str] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) in first:
            again[name] = first[id(tensor)]
        first.setdefault(id(tensor), name)
    return again


def _options(network: Network, source: str) -> dict[str, Any]:
    options = dict(network.provenance.get("options", {}))
    rescales = getattr(network.module, "transform_input", None)
    if source.startswith("torchvision:") and isinstance(rescales, bool):
        options["transform_input"] = rescales  # torchvision's default depends on where the weights come from
    plain = {name: value for name, value in options.items() if isinstance(value, bool | int | float | str)}
    return plain if source.startswith(OWN) else {}


def _fields(own: Preprocessing) -> dict[str, str]:
    return {
        "size": "x".join(map(str, own.size)),
        "resize": "none" if own.resize is None else str(own.resize),
        "mean": ",".join(map(repr, own.mean)),
        "std": ",".join(map(repr, own.std)),
        "channels": own.channels,
        "scale": repr(own.scale),
        "interpolation": own.interpolation,
    }
