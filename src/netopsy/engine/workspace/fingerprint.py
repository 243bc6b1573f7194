"""What the outcome of work on a network depends on: a checkpoint of anything else is not taken up."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from netopsy._version import __version__
from netopsy.network.network import Network
from netopsy.samples.samples import Samples


def fingerprint(network: Network, samples: Samples | None = None) -> dict[str, Any]:
    """Digests of the network's weights and graph and of the samples, the preprocessing, and the versions."""
    return {
        "network": network.digest,
        "graph": network.structure,
        "preprocessing": asdict(network.preprocessing),
        "samples": None if samples is None else samples.digest,
        "versions": {"netopsy": __version__, "torch": torch.__version__},
    }
