"""Where an ascent takes place: from the pixels of a unit's field to the unit's value, with gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from netopsy.engine.ascent.target import Box, Target
from netopsy.engine.walk import plan
from netopsy.network.activations import activations
from netopsy.network.graph import shape_of
from netopsy.network.network import Network
from netopsy.network.preprocessing import Preprocessing

_MAP = 3  # sides of a map whose Gram matrix says something about places


class Stage:
    """Runs the network from the fields of some targets of one node up to that node.

    Outside the field the image is the preprocessing's mean colour, which is 0 in the network's input: it reaches the
    node's other units, never this one. Parameters are used detached, so that they can get no gradient.
    """

    def __init__(self, network: Network, node: str, *, features: bool = False) -> None:
        self.network, self.node = network, node
        self.features = feature_node(network, node) if features else None
        names = [node, *([self.features] if self.features else [])]
        self._plan = plan(network, names)
        self._tensors = {name: tensor.detach() for name, tensor in network.tensors.items()}

    def run(
        self, images: Float[Tensor, "n channel height width"], boxes: Sequence[Box]
    ) -> tuple[Float[Tensor, "n *unit"], Tensor | None]:
        """The node's values, and those of the map that judges likeness, for pixel shares in each image's box."""
        preprocessing = self.network.preprocessing
        height, width = preprocessing.size
        x = network_input(images, preprocessing)
        margins = [(left, width - right, top, height - bottom) for top, left, bottom, right in boxes]
        if len(set(margins)) == 1:
            x = F.pad(x, margins[0])
        else:
            x = torch.stack([F.pad(image, margin) for image, margin in zip(x, margins, strict=True)])
        values = self._plan.run({"input": x}, batch=len(x), overrides=self._tensors)
        return values[self.node], values[self.features] if self.features else None

    def values(
        self, images: Float[Tensor, "n channel height width"], targets: Sequence[Target]
    ) -> tuple[Float[Tensor, " n"], Tensor | None]:
        """Each image's own unit, and the map that judges likeness."""
        found, features = self.run(images, [target.box for target in targets])
        return torch.cat([t.value(found[i : i + 1]) for i, t in enumerate(targets)]), features

    @property
    def bytes_per_image(self) -> int:
        """About what one image holds until the gradient is back: every value on the way."""
        sizes = (shape_of(step.node) for step in self._plan.steps if step.node.meta["name"] in self.network.nodes)
        return 4 * sum(torch.Size(size).numel() for size in sizes)


def feature_node(network: Network, node: str) -> str | None:
    """The last activation before or at `node` that is a map of some places; None where there is none."""
    before = {step.node.meta["name"] for step in plan(network, [node]).steps}
    maps = [name for name in activations(network, mixing=False) if name in before and is_map(network, name)]
    return maps[-1] if maps else None


def is_map(network: Network, node: str) -> bool:
    """Whether the node's values are maps of at least 3 x 3 places."""
    shape = shape_of(network.nodes[node])
    return len(shape) == 4 and min(shape[2:]) >= _MAP


def network_input(
    shares: Float[Tensor, "n channel height width"], preprocessing: Preprocessing
) -> Float[Tensor, "n channel height width"]:
    """Pixel shares 0..1 in the network's order of channels as its input."""
    mean, std = (torch.tensor(v, device=shares.device).view(1, -1, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    return (shares * (255 * preprocessing.scale) - mean) / std
