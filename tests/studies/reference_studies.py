"""The studies' edits and scores written out slowly: a deep copy, an assignment, a plain forward pass."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from netopsy import Network, Samples


def naive_top1(network: Network, samples: Samples, weights: dict[str, Tensor]) -> float:
    """Top-1 accuracy of a copy of the plain module with other weights."""
    module = copy.deepcopy(network.module)
    with torch.no_grad():
        for name, value in weights.items():
            dict(module.named_parameters())[name].copy_(value)
    right = 0
    with torch.inference_mode():
        for batch in samples.batches(network.preprocessing, 50):
            right += int((module(batch.images).argmax(1) == batch.labels).sum())
    return right / len(samples)


def integers(weight: np.ndarray, bits: int, by_channel: bool) -> np.ndarray:
    """Symmetric integers, one weight after another."""
    result = np.empty_like(weight)
    top = 2 ** (bits - 1) - 1
    for index, value in np.ndenumerate(weight):
        largest = np.abs(weight[index[0]] if by_channel else weight).max()
        scale = np.float32(largest) / np.float32(top) if largest > 0 else np.float32(1)
        result[index] = np.float32(np.round(np.float32(value) / scale)) * scale
    return result


def variance_shares(filters: np.ndarray) -> np.ndarray:
    """Cumulative shares of variance of the rows, by the singular values of the centred matrix."""
    singular = np.linalg.svd(filters - filters.mean(0), compute_uv=False) ** 2
    nonzero = singular[: min(len(filters) - 1, filters.shape[1])]
    return np.cumsum(nonzero) / singular.sum()
