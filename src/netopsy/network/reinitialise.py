"""The same architecture with freshly drawn weights."""

from __future__ import annotations

import torch

from netopsy.errors import SettingsError
from netopsy.network.network import Network


def fresh(network: Network, seed: int) -> Network:
    """A copy of `network` whose modules have drawn their weights anew, each by its own `reset_parameters`.

    Errors: SettingsError where a parameter belongs to a module that has none.
    """
    copied = network.with_tensors({})
    module = copied.module
    drawn: set[str] = set()
    with torch.random.fork_rng([network.device] if network.device.type == "cuda" else []):
        torch.manual_seed(seed)
        for path, part in module.named_modules():
            reset = getattr(part, "reset_parameters", None) or getattr(part, "_reset_parameters", None)
            if callable(reset):
                reset()
                drawn |= {f"{path}.{name}".lstrip(".") for name, _ in part.named_parameters()}
    left = [name for name, _ in module.named_parameters() if name not in drawn]
    if left:
        raise SettingsError(
            f"{network.name} cannot be drawn anew: nothing says how {left[0]} begins; load it with weights='random' "
            "and take its weights as they are."
        )
    copied.provenance |= {"weights": "random", "seed": seed}
    return copied
