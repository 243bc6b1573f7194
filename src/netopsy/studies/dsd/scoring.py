"""The scores of networks that differ in their weights alone, in one pass over the images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from netopsy.engine.sweep.edits import replacement
from netopsy.engine.sweep.scopes import sweep_edits
from netopsy.network.network import Network
from netopsy.samples.samples import Samples


def scores(network: Network, samples: Samples, others: Sequence[Network]) -> dict[str, dict[str, Any]]:
    """By digest, the scores of `others`, each `network` with other weights and statistics."""
    distinct = {other.digest: other for other in others}
    edits = [({"digest": digest}, replacement(network, other.tensors)) for digest, other in distinct.items()]
    return {row["digest"]: row for row in sweep_edits(network, samples, edits).iter_rows(named=True)}
