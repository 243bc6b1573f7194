"""One entry of the zoo."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from netopsy.network.preprocessing import Preprocessing


@dataclass(frozen=True)
class Architecture:
    """How to build a network, and what its input looks like.

    build: makes the module with freshly drawn weights; its parameters are the options of the architecture.
    preprocessing: what the published weights of this architecture expect.
    shipped: file under `netopsy/network/shipped` with trained weights, if the package holds them.
    """

    build: Callable[..., nn.Module]
    preprocessing: Preprocessing
    shipped: str | None = None
