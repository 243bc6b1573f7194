"""Rounding that makes good its errors: each column of a layer's weights takes over what the ones before it got wrong.

Source: Frantar, Ashkboos, Hoefler & Alistarh, "GPTQ", ICLR 2023, Section 3, after Hassibi & Stork's optimal brain
surgeon (1993): least squared error of the layer's outputs on the images seen, one column of inputs after the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from netopsy.codec.shared import SharedTensor
from netopsy.engine.observe.observe import observe
from netopsy.engine.observe.tally import Tally
from netopsy.network.layers import Layer
from netopsy.network.network import Network
from netopsy.network.node import Node
from netopsy.samples.samples import Samples
from netopsy.studies.prescribe.cells import Cells, Groups

WIDEST = 4608
"""Inputs of a layer beyond which the square matrix of their products is too large to keep."""
DAMPING = 0.01
"""Share of the mean power of the inputs that is added to each."""
BLOCK = 64
ROWS = 256
"""Places of a feature map that count, at most: neighbours are alike."""

FLOATS = NDArray[np.float64]


class Products(Tally):
    """Sum of x x^T over the inputs x of a layer, each the window or the row that one output is made from.

    update: the layer's input, (batch, channel, height, width) or (batch, ..., inputs). result: float64 (inputs,
    inputs), with `DAMPING` of the mean power added to each input's for each time that the inputs outnumber the rows
    seen: directions that few images did not show are not free.
    """

    def __init__(self, kernel: tuple[int, ...] = (), **window: tuple[int, ...]) -> None:
        self.kernel, self.window, self.seen = kernel, window, 0

    total: Tensor

    def update(self, values: Tensor, indices: Tensor) -> None:
        rows = values.float()
        if self.kernel:
            rows = F.unfold(rows, self.kernel, **self.window).transpose(1, 2)
        if rows.ndim > 2:  # a different choice of places an image would gain little
            rows = rows.flatten(1, -2)
            rows = rows[:, :: max(1, rows.shape[1] // ROWS)]
        rows = rows.reshape(-1, rows.shape[-1])
        product = (rows.T @ rows).double()
        self.seen += len(rows)
        self.total = self.total + product if hasattr(self, "total") else product

    def merge(self, other: Products) -> None:
        if hasattr(other, "total"):
            self.seen += other.seen
            self.total = self.total + other.total if hasattr(self, "total") else other.total

    def result(self) -> Tensor:
        unseen = DAMPING * len(self.total) / self.seen * self.total.diagonal().mean()
        return self.total + unseen * torch.eye(len(self.total)).to(self.total)


def input_products(network: Network, samples: Samples, layers: Sequence[Layer]) -> dict[str, NDArray[np.float64]]:
    """The sum of products of the inputs of each layer that can be compensated, by its name; see `Products`.

    Plain 2-D convolutions without groups and linear maps of the last axis are; others are left out.
    """
    tallies: dict[str, tuple[str, Tally]] = {}
    for layer in layers:
        for call in layer.nodes:
            entry = _tally(network, layer, network.nodes[call])
            if entry is not None:
                tallies[f"{layer.name} {call}"] = entry
    if not tallies:
        return {}
    products: dict[str, NDArray[np.float64]] = {}
    for name, total in observe(network, samples, tallies).items():
        layer_name = name.rsplit(" ", 1)[0]
        products[layer_name] = products.get(layer_name, 0) + total.cpu().numpy()
    return products


def _tally(network: Network, layer: Layer, node: Node) -> tuple[str, Tally] | None:
    source, weight = node.argument("input"), node.argument("weight")
    width = int(np.prod(layer.weight_shape[1:]))
    plain = isinstance(weight, Node) and weight.op == "get_attr"  # not standardised, scaled or otherwise made
    if not plain or not isinstance(source, Node) or source.name not in network.nodes or width > WIDEST:
        return None
    if node.operator == "linear":
        return source.name, Products()
    padding = node.argument("padding")
    if node.operator != "conv2d" or layer.groups != 1 or len(source.full_shape) != 4 or isinstance(padding, str):
        return None
    window = {key: _pair(node.argument(key)) for key in ("stride", "dilation")} | {"padding": _pair(padding)}
    return source.name, Products(layer.weight_shape[2:], **window)


def _pair(setting: Sequence[int] | int) -> tuple[int, int]:
    values = [setting] if isinstance(setting, int) else [int(value) for value in setting]
    return (values[0], values[-1])


def _factor_of_inverse(products: torch.Tensor, damping: float) -> torch.Tensor:
    """The upper Cholesky factor of the inverse of `products`, (inputs, inputs), with `damping` on its diagonal.

    Of inputs of very different size rounding makes indefinite products: the damping grows until they are not.
    """
    while True:
        lower, failed = torch.linalg.cholesky_ex(products + damping * torch.eye(len(products), dtype=products.dtype))
        if not failed:
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
        if not failed:
            return upper
        damping *= 10


class Rounder:
    """A layer's weights and what they are applied to: rounds them to the values of cells, and says how far off that is.

    weight: (outputs, *inputs). products: (inputs, inputs), the sum of x x^T over the inputs seen; None where they are
    not known: then nothing is made good, and every input counts as much.
    """

    def __init__(self, weight: NDArray[np.float32], products: FLOATS | None = None) -> None:
        self.weight = weight
        self._matrix: FLOATS = weight.reshape(len(weight) if weight.ndim else 1, -1).astype(np.float64)
        known = products is not None and np.isfinite(products).all() and np.trace(products) > 0
        self._products = products if known else None
        self._factor: tuple[NDArray[np.int64], FLOATS] | None = None

    def noise(self, values: NDArray[np.float32]) -> float:
        """Squared error of the layer's outputs over their squares, on the inputs seen: 0 for no error."""
        power = self._power(self._matrix)
        return self._power(values.reshape(self._matrix.shape) - self._matrix) / power if power > 0 else 0.0

    def round(self, cells: Cells | Groups) -> SharedTensor:
        """The weights in the values of `cells`, each error made good by the inputs still to come.

        Inputs of most power come first. A weight that is 0.0 because its whole column is stays so. The scales of groups
        are those of the weights as they were.
        """
        if self._products is None:
            return cells.share(self.weight)
        order, upper = self._upper()
        values = self._matrix[:, order]
        rounded = np.empty_like(values)
        for start in range(0, len(order), BLOCK):
            stop = min(len(order), start + BLOCK)
            errors = np.empty((len(values), stop - start))
            for j in range(start, stop):
                rounded[:, j] = cells.nearest(values[:, j], int(order[j]))
                errors[:, j - start] = (values[:, j] - rounded[:, j]) / upper[j, j]
                values[:, j + 1 : stop] -= np.outer(errors[:, j - start], upper[j, j + 1 : stop])
            values[:, stop:] -= errors @ upper[start:stop, stop:]
        out = np.empty_like(rounded)
        out[:, order] = rounded
        return cells.tensor(out.astype(np.float32).reshape(self.weight.shape))

    def _power(self, matrix: FLOATS) -> float:
        if self._products is None:
            return float(np.square(matrix, dtype=np.float64).sum())
        return float(((matrix @ self._products) * matrix).sum())

    def _upper(self) -> tuple[NDArray[np.int64], FLOATS]:
        """The order of the inputs, and the upper Cholesky factor of the inverse of their products in that order."""
        if self._factor is None:
            assert self._products is not None
            power = np.diag(self._products)
            order = np.argsort(-power, kind="stable")
            products = torch.from_numpy(self._products[np.ix_(order, order)])
            self._factor = order, _factor_of_inverse(products, DAMPING * float(power.mean())).numpy()
        return self._factor
