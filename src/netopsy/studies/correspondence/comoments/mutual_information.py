"""The mutual information of chosen pairs of units, over some of the images."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from netopsy.engine.interpreter import plan
from netopsy.engine.observe.observe import default_batch_size
from netopsy.engine.workspace.workspace import current_workspace
from netopsy.network.network import Network
from netopsy.network.units import channel_axis
from netopsy.samples.samples import Samples
from netopsy.studies.correspondence.comoments.grid import common_grid, pooled
from netopsy.studies.correspondence.comoments.information import Information, PairInformation

Names = tuple[str, str]


def pair_information(
    network_a: Network,
    network_b: Network,
    samples: Samples,
    wanted: Mapping[Names, Int64[np.ndarray, "m 2"]],
    *,
    bins: int = 16,
    images: int = 1000,
    seed: int = 0,
) -> dict[Names, tuple[Information, Information]]:
    """(of the pairs of units, of the same with the images of b in another order), by (layer_a, layer_b).

    wanted: the unit of a and the unit of b of each pair. images: how many are drawn, without repetition. Layers of
    different size meet on their common grid. In the control each image of a is paired with the one that b saw before
    it, the first of a batch with the batch's last.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(samples))[:images]
    size = min(default_batch_size(network_a), default_batch_size(network_b))
    size = max(2, min(size, len(order)))
    order = order[: len(order) - (len(order) % size == 1)]  # a batch of one image has no other order
    own = {names: PairInformation(pairs, bins) for names, pairs in wanted.items() if len(pairs)}
    control = {names: PairInformation(pairs, bins) for names, pairs in wanted.items() if len(pairs)}
    views = [_View(network_a, {a for a, _ in own}), _View(network_b, {b for _, b in own})]
    done, report = 0, current_workspace().report
    readers = [samples.batches(view.network.preprocessing, size, order=order) for view in views]
    with torch.inference_mode():
        for batches in zip(*readers, strict=True):
            first, second = (view(batch.images) for view, batch in zip(views, batches, strict=True))
            for a, b in own:
                x, y = first[a], second[b]
                grid = common_grid(tuple(x.shape[1:-1]), tuple(y.shape[1:-1]))
                x, y = pooled(x, grid).cpu(), pooled(y, grid).cpu()
                own[a, b].update(x.flatten(0, -2), y.flatten(0, -2))
                control[a, b].update(x.flatten(0, -2), y.roll(1, 0).flatten(0, -2))
            done += len(batches[0].indices)
            report("mutual information", done, len(order))
    return {names: (own[names].result(), control[names].result()) for names in own}


class _View:
    """A network that gives the values of some nodes, (images, *places, channel), for a batch of images."""

    def __init__(self, network: Network, names: set[str]) -> None:
        self.network = network
        self.axes = {name: channel_axis(network.nodes[name]) for name in names}
        self.walk = plan(network, (), watched=dict.fromkeys(names), folded=True)

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}

        def visit(name: str, values: Tensor) -> None:
            found[name] = values.movedim(self.axes[name], -1).clone()

        self.walk.run({"input": images.to(self.network.device)}, batch=len(images), visit=visit)
        return found
