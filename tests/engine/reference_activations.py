"""An independent version of training to a squared error, by torch's own optimizer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from netopsy.engine.train.data import epoch_seed
from netopsy.engine.train.recipe import Recipe


class Head(nn.Module):
    """What the network `Tiny` does to its pooled maps (batch, 8, 3, 3)."""

    def __init__(self, fc: nn.Linear) -> None:
        super().__init__()
        self.fc = fc

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, 5)."""
        return self.fc(x.flatten(1))


def regressed(
    module: nn.Module, inputs: Tensor, targets: Tensor, recipe: Recipe, error: Callable[[Tensor, Tensor], Tensor]
) -> tuple[dict[str, Tensor], list[float]]:
    """Parameters after torch's own SGD on `error` (of a batch, per image), and each epoch's mean error."""
    optimizer = torch.optim.SGD(module.parameters(), recipe.learning_rate, momentum=recipe.momentum)
    losses = []
    for epoch in range(recipe.epochs):
        order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(epoch_seed(recipe.seed, epoch)))
        errors = []
        for rows in order.tensor_split(-(-len(inputs) // recipe.batch_size)):
            each = error(module(inputs[rows]), targets[rows])
            optimizer.zero_grad()
            each.mean().backward()
            optimizer.step()
            errors.append(each.detach())
        losses.append(float(torch.cat(errors).mean()))
    return dict(module.named_parameters()), losses
