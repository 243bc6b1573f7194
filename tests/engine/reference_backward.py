"""Slow twins of the backward rules: written out as matrices, and by autograd on the whole image."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from netopsy import Network
from netopsy.network.activations import ELEMENTWISE


def convolution_matrix(weight: np.ndarray, size: tuple[int, int], stride: int = 1, padding: int = 0) -> np.ndarray:
    """W of y = W x for x (channels, *size) flattened, by loops over the definition of a convolution."""
    out, depth, kh, kw = weight.shape
    height, width = ((n + 2 * padding - k) // stride + 1 for n, k in zip(size, (kh, kw), strict=True))
    matrix = np.zeros((out, height, width, depth, *size))
    for y in range(height):
        for x in range(width):
            for i in range(kh):
                for j in range(kw):
                    v, u = y * stride + i - padding, x * stride + j - padding
                    if 0 <= v < size[0] and 0 <= u < size[1]:
                        matrix[:, y, x, :, v, u] += weight[:, :, i, j]
    return matrix.reshape(out * height * width, -1)


def pooling_matrix(value: np.ndarray, size: int) -> np.ndarray:
    """The sub-permutation P of max-pooling without overlap, for `value` (channel, height, width)."""
    channels, height, width = value.shape
    rows = []
    for c in range(channels):
        for y in range(0, height - size + 1, size):
            for x in range(0, width - size + 1, size):
                window = value[c, y : y + size, x : x + size]
                i, j = np.unravel_index(window.argmax(), window.shape)
                row = np.zeros(value.shape)
                row[c, y + i, x + j] = 1
                rows.append(row.ravel())
    return np.array(rows)


class _Ruled(torch.autograd.Function):
    """An activation whose backward pass follows a rule; the derivative comes from autograd itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Any, rule: str) -> Tensor:
        ctx.save_for_backward(x)
        ctx.function, ctx.rule = function, rule
        return function(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
        (x,) = ctx.saved_tensors
        if ctx.rule == "deconvnet":
            return g.clamp(min=0), None, None
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(ctx.function(leaf).sum(), leaf)
        return (g if ctx.rule == "gradient" else g.clamp(min=0)) * slope, None, None


class _Twin(fx.Interpreter):
    """The graph as it is, on whole images, with every activation under the rule."""

    def __init__(self, network: Network, rule: str) -> None:
        super().__init__(network.graph, garbage_collect_values=False)
        self.rule, self.named = rule, {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self.named[n.meta.get("name")] = value
        return value

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if _name(target) in ELEMENTWISE and isinstance(args[0], Tensor):
            return _Ruled.apply(args[0], lambda x: target(x, *args[1:], **kwargs), self.rule)
        return super().call_function(target, args, kwargs)


def _name(target: Any) -> str:
    return target._schema.name.split("::")[-1] if hasattr(target, "_schema") else ""


def by_autograd(network: Network, images: Tensor, unit: tuple[Any, ...], rule: str, image: int = 0) -> Tensor:
    """The map of a unit started at 1, (channel, height, width)."""
    node, *place = unit
    leaf = images.clone().requires_grad_()
    twin = _Twin(network, rule)
    twin.run(leaf)
    value = twin.named[node]
    (g,) = torch.autograd.grad(value[(image, *place)], leaf)
    return g[image]
