"""The naive loop: deep copy, write the edited weights, evaluate everything. Slow, and nothing to go wrong."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from netopsy.engine.sweep.edits import Replace, Shift, Variant
from netopsy.network.network import Network
from netopsy.samples.samples import Samples


def inputs(network: Network, samples: Samples) -> Tensor:
    return torch.cat([batch.images for batch in samples.batches(network.preprocessing, 64)])


@torch.no_grad()
def outputs(network: Network, variant: Variant, images: Tensor) -> Tensor:
    """Outputs (n, classes) of a deep copy that has the variant's weights."""
    module = copy.deepcopy(network.module)
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    if isinstance(variant.edit, Replace):
        for name, value in variant.edit.function(network.tensors).items():
            tensors[name].copy_(value)
    elif isinstance(variant.edit, Shift):
        for name, value in variant.edit.direction(network.tensors).items():
            tensors[name].copy_(tensors[name] + variant.edit.scale * value)
    return torch.cat([module(part) for part in images.split(64)])


def scores(network: Network, samples: Samples, variants: list[Variant]) -> list[dict[str, Any]]:
    """Shares by counting; single labels only."""
    images, labels = inputs(network, samples), torch.from_numpy(samples.labels)
    plain = outputs(network, Variant({}, None), images).argmax(1)
    rows = []
    for variant in variants:
        out = outputs(network, variant, images)
        five = out.topk(min(5, out.shape[1])).indices
        losses = torch.logsumexp(out.double(), 1) - out.double().gather(1, labels[:, None])[:, 0]
        rows.append(
            {
                "top1": (out.argmax(1) == labels).double().mean().item(),
                "top5": (five == labels[:, None]).any(1).double().mean().item(),
                "agreement": (out.argmax(1) == plain).double().mean().item(),
                "loss": losses.mean().item(),
                "drop": ((plain == labels).double() - (out.argmax(1) == labels).double()).mean().item(),
            }
        )
    return rows
