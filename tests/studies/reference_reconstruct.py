"""The slow twin of replaced masks: a small network written out as matrices, with masks and switches given by hand."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from netopsy.settings import stream


def dense(linear_map: nn.Module, size: tuple[int, ...]) -> np.ndarray:
    """W of a map without its bias, one column a value of an input of `size`."""
    eye = torch.eye(int(np.prod(size)), dtype=torch.float64).reshape(-1, *size)
    with torch.no_grad():
        columns = linear_map(eye) - linear_map(torch.zeros(1, *size, dtype=torch.float64))
    return columns.reshape(len(eye), -1).T.numpy()


def switches(value: np.ndarray) -> np.ndarray:
    """P of max-pooling 2 x 2 of `value` (channel, height, width): 1 at each window's first largest place."""
    channels, height, width = value.shape
    matrix = np.zeros((channels, height // 2, width // 2, channels, height, width))
    for c, y, x in np.ndindex(matrix.shape[:3]):
        i, j = np.unravel_index(value[c, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].argmax(), (2, 2))
        matrix[c, y, x, c, 2 * y + i, 2 * x + j] = 1
    return matrix.reshape(channels * (height // 2) * (width // 2), -1)


def shuffled(value: np.ndarray, node: str, seed: int) -> np.ndarray:
    """(channel, height, width) with the places of each channel in another order, by loops."""
    channels, height, width = value.shape
    places = height * width
    generator = torch.Generator().manual_seed(stream(node, seed))
    order = torch.randperm(places, generator=generator).tolist()
    shifts = torch.randint(places, (channels, 1), generator=generator).flatten().tolist()
    result = np.zeros_like(value)
    for c in range(channels):
        for place in range(places):
            origin = order[(place + shifts[c]) % places]
            result[c, place // width, place % width] = value[c, origin // width, origin % width]
    return result


def masked_map(module: nn.Sequential, image: Tensor, masks: list[np.ndarray], neuron: int) -> np.ndarray:
    """Equations 6-7 on conv, ReLU, pool, conv, ReLU, flatten, linear, ReLU, started at the unit's value on `image`.

    image: (channel, height, width). masks: the maps whose signs and largest places are the masks and switches, of the
    first and the second ReLU. The unit's own mask is that of `image`.
    """
    with torch.no_grad():
        value = float(module(image[None])[0, neuron])
    size = tuple(image.shape)
    first, second = masks
    pooled = (first.shape[0], first.shape[1] // 2, first.shape[2] // 2)
    conv1, conv2, linear = dense(module[0], size), dense(module[3], pooled), module[6].weight.detach().numpy()
    flow = np.maximum(linear[neuron] * value, 0)
    flow = np.maximum(conv2.T @ ((second.ravel() > 0) * flow), 0)
    flow = conv1.T @ ((first.ravel() > 0) * (switches(first).T @ flow))
    return flow.reshape(size)
