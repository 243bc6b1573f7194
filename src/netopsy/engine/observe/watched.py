"""What a tally is shown: the values of one node, or of several at once, of one network or of several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from netopsy.engine.observe.tally import Tally
from netopsy.errors import SettingsError
from netopsy.network.network import Network

LABELS = "<labels>"
"""Stands among the nodes of a tally for the labels of the samples, as `Batch.labels` has them."""

NodeRef = str | tuple[Network, str]
NodeRefs = NodeRef | tuple[NodeRef, ...]
Tallies = Mapping[str, tuple[NodeRefs, Tally]]
_FORM = "give (node name, tally), e.g. ('relu', ZeroShare()), or ((node, node), tally) for several at once"


@dataclass(frozen=True)
class WatchedNodes:
    """The nodes of one tally.

    nodes: (network, full name) of each; the labels belong to the first network of the observation.
    together: whether the tally gets the tuple of all values, also where it is a tuple of one.
    """

    nodes: tuple[tuple[Network, str], ...]
    together: bool

    def describe(self, network: Network) -> list[object]:
        """Plain data that tells these nodes from others; `network`: the first of the observation."""
        names: list[object] = [
            name if owner is network else [owner.name, owner.digest, name] for owner, name in self.nodes
        ]
        return [names] if self.together else names


def find_watched(name: str, entry: object, network: Network) -> tuple[WatchedNodes, Tally]:
    """The nodes and the tally of one entry of `Tallies`, called `name`; node names alone are those of `network`.

    Errors: SettingsError for anything else, UnknownLayer for a node that there is not.
    """
    if not (isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[1], Tally)):
        raise SettingsError(f"tally '{name}' is {entry!r}; {_FORM}.")
    nodes, tally = entry
    together = not _is_node(nodes)
    listed = nodes if together else (nodes,)
    if not isinstance(listed, tuple) or not listed or not all(map(_is_node, listed)):
        raise SettingsError(f"tally '{name}' watches {nodes!r}; {_FORM}; (network, node) is a node of another network.")
    pairs = [(network, node) if isinstance(node, str) else node for node in listed]
    full_names = [(owner, text if text == LABELS else owner.node(text).name) for owner, text in pairs]
    return WatchedNodes(tuple(full_names), together), tally


def _is_node(value: object) -> bool:
    if isinstance(value, str):
        return True
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], Network) and isinstance(value[1], str)
