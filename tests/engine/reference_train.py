"""Slow, independent versions of training: loops over images, and weights that are a table's entries to autograd."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from netopsy import Network, Samples
from netopsy.codec.shared import SharedTensor
from netopsy.engine.train.data import epoch_seed
from netopsy.engine.train.recipe import Recipe


def crop(image: np.ndarray, flip: bool, shift: tuple[int, int], pad: int, fill: str, black: np.ndarray) -> np.ndarray:
    """One image (height, width, channel): mirrored if `flip`, padded, and cut out `shift` from the centre."""
    height, width, _ = image.shape
    if flip:
        image = image[:, ::-1]
    if fill == "reflect":
        padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
    else:
        padded = np.broadcast_to(black, (height + 2 * pad, width + 2 * pad, image.shape[2])).copy()
        padded[pad : pad + height, pad : pad + width] = image
    top, left = pad + shift[0], pad + shift[1]
    return padded[top : top + height, left : left + width]


def inputs(network: Network, samples: Samples) -> tuple[Tensor, Tensor]:
    """All images and labels in one batch."""
    (batch,) = samples.batches(network.preprocessing, len(samples))
    return batch.images, batch.labels


def batches(samples: Samples, recipe: Recipe, epoch: int) -> list[np.ndarray]:
    """The rows that each step of an epoch sees."""
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(epoch_seed(recipe.seed, epoch)))
    return np.array_split(order.numpy(), -(-len(samples) // recipe.batch_size))


def train(
    network: Network, samples: Samples, recipe: Recipe, shared: Mapping[str, SharedTensor] | None = None
) -> dict[str, Tensor]:
    """The parameters after SGD with momentum written out, at a constant rate, without augmentation.

    A shared parameter is `table[codes]` in the graph, so that autograd itself finds the table's gradient.
    """
    images, labels = inputs(network, samples)
    parameters = {name: p.detach().clone() for name, p in network.module.named_parameters()}
    tables = {name: torch.from_numpy(one.table.copy()) for name, one in (shared or {}).items()}
    codes = {name: torch.from_numpy(one.codes.astype(np.int64)) for name, one in (shared or {}).items()}
    leaves = {
        **{n: p for n, p in parameters.items() if n not in tables},
        **{f"table {n}": t for n, t in tables.items()},
    }
    velocity: dict[str, Tensor] = {}

    def values(values_now: Mapping[str, Tensor]) -> dict[str, Tensor]:
        plain_values = {name: value for name, value in values_now.items() if not name.startswith("table ")}
        return plain_values | {n: values_now[f"table {n}"][codes[n]].reshape(parameters[n].shape) for n in tables}

    for epoch in range(recipe.epochs):
        for rows in batches(samples, recipe, epoch):
            values_now = {name: leaf.clone().requires_grad_() for name, leaf in leaves.items()}
            loss = F.cross_entropy(functional_call(network.module, values(values_now), (images[rows],)), labels[rows])
            gradients = dict(zip(values_now, torch.autograd.grad(loss, list(values_now.values())), strict=True))
            for name, gradient in gradients.items():
                rate = recipe.learning_rate
                if name.startswith("table "):
                    one = (shared or {})[name.removeprefix("table ")]
                    if one.zero is not None:
                        gradient[one.zero] = 0
                    if recipe.table_gradient == "mean":
                        gradient = gradient / torch.from_numpy(np.bincount(one.codes, minlength=len(one.table)))
                    rate *= recipe.table_learning_rate
                elif gradient.ndim > 1 or recipe.decay_all:
                    gradient = gradient + recipe.weight_decay * leaves[name]
                velocity[name] = recipe.momentum * velocity[name] + gradient if name in velocity else gradient
                step = gradient + recipe.momentum * velocity[name] if recipe.nesterov else velocity[name]
                leaves[name] = leaves[name] - rate * step
    return {name: value.detach() for name, value in values(leaves).items()}


def distilled(outputs: Tensor, teacher: Tensor, labels: Tensor, alpha: float, temperature: float) -> float:
    """Hinton et al. (2015) with numpy, image by image: the mean loss."""
    total = 0.0
    for z, t, label in zip(outputs.double().numpy(), teacher.double().numpy(), labels.tolist(), strict=True):
        p, q = (np.exp(v / temperature) / np.exp(v / temperature).sum() for v in (t, z))
        hard = -np.log(np.exp(z)[label] / np.exp(z).sum())
        total += (1 - alpha) * hard + alpha * temperature**2 * float((p * np.log(p / q)).sum())
    return total / len(labels)


class Tiny(nn.Module):
    """A convolution with batch norm, dropout, and a linear layer, for images of 3 x 8 x 8."""

    def __init__(self, norm: bool = True, dropout: float = 0.2) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, bias=not norm)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.drop = nn.Dropout(dropout)
        self.fc = nn.Linear(72, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, 5)."""
        return self.fc(self.drop(F.max_pool2d(F.relu(self.norm(self.conv(x))), 2).flatten(1)))
