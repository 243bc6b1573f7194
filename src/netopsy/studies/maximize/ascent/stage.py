"""Where an ascent takes place: from the pixels of the units' fields to the units' values, with gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, fx
from torch.nn import functional as F

from netopsy.network.activations import activations
from netopsy.network.graph import is_tensor
from netopsy.network.network import Network
from netopsy.network.preprocessing import Preprocessing
from netopsy.studies.maximize.ascent.target import Target

_MAP = 3  # sides of a map whose Gram matrix says something about places


class Stage:
    """Runs the part of a network that some targets depend on: fields in, values out.

    targets: of one node, of one `signature`. What lies outside a field is not run, where the network can be cut.
    features: whether the map that judges likeness is wanted: the last activation of at least 3 x 3 places in the tree.
    Parameters are used detached, so that they can get no gradient.
    """

    def __init__(self, network: Network, targets: Sequence[Target], *, features: bool = False) -> None:
        self.network, self.targets, self.tree = network, list(targets), targets[0].tree
        self.features = self._feature_node() if features else None
        floating = (t.dtype for t in network.tensors.values() if t.is_floating_point())
        self._kind = next(floating, torch.float32)

    def values(
        self, images: Float[Tensor, "n channel height width"], targets: Sequence[Target]
    ) -> tuple[Float[Tensor, " n"], Tensor | None]:
        """Each image's own unit, and the map that judges likeness; images: pixel shares in each target's field."""
        # beyond the field lies the mean colour, which is 0 in the network's input
        x = F.pad(network_input(images, self.network.preprocessing), self.targets[0].margins).to(self._kind)
        kept = [self.features] if self.features else []
        found = self.tree.forward(x, keep=kept)
        reached = found[self.tree.trunk.target]
        values = torch.cat([target.value(reached[i : i + 1]) for i, target in enumerate(targets)])
        features = found[self.features].float() if self.features else None
        return values.float(), features

    def image_bytes(self) -> int:
        """About what one image holds until its gradient is back: every value on the way."""
        return 4 * sum(torch.Size(self.tree.size(node)).numel() for node in self.tree.trunk.data if is_tensor(node))

    def _feature_node(self) -> fx.Node | None:
        known = set(activations(self.network, mixing=False).values())
        sizes = {node: self.tree.size(node) for node in self.tree.trunk.data if node in known}
        maps = [node for node, size in sizes.items() if len(size) == 3 and min(size[1:]) >= _MAP]
        return maps[-1] if maps else None


def network_input(
    shares: Float[Tensor, "n channel height width"], preprocessing: Preprocessing
) -> Float[Tensor, "n channel height width"]:
    """Pixel shares 0..1 in the network's order of channels as its input."""
    mean, std = (
        torch.tensor(v, device=shares.device).view(1, -1, 1, 1) for v in (preprocessing.mean, preprocessing.std)
    )
    return (shares * (255 * preprocessing.scale) - mean) / std
