"""Which parameters of a network have a prior: what each does (its role), how deep it is, and how many values feed it.

A `Network` is read by its graph, in order of execution; a plain module, as `torch.nn.init` takes it, by its submodules
in the order in which they were made, which is that of execution in nearly all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from netopsy.errors import SettingsError
from netopsy.network.layers import CONVOLUTION_KINDS, Layer, filter_shape, layer_name
from netopsy.network.network import Network

WEIGHTS, NORM_SCALE, NORM_SHIFT, BIAS = "weights", "norm scale", "norm shift", "bias"
PARTS = {NORM_SCALE: "norms", NORM_SHIFT: "norms", BIAS: "biases"}
IMAGE_DEPTH = 4  # input channels of a convolution whose filters see the image itself, at most


@dataclass(frozen=True)
class Place:
    """A parameter with a prior.

    name: of the parameter. role: `conv 3x3`, `depthwise 3x3`, `conv_transpose 4x4`, `linear`, `recurrent`, `embedding`,
        `bias`, `norm scale` or `norm shift`.
    depth: from 0 (the first layer) to 1 (the last); of a bias that of its layer, of a norm that of the layer before it.
    fan_in, fan_out: as `torch.nn.init` counts them; of an embedding fan_in is the length of an entry.
    layer: of a weight its layer, else None.
    """

    name: str
    role: str
    depth: float
    fan_in: int
    fan_out: int
    layer: Layer | None = None

    @property
    def part(self) -> str:
        """`weights`, `biases` or `norms`."""
        return PARTS.get(self.role, WEIGHTS)

    @property
    def kernel(self) -> str:
        """What its filter basis is called: `3x3` of slices, `3x3 of 3` of whole filters on the image; else empty."""
        if self.layer is None or self.layer.kind not in CONVOLUTION_KINDS:
            return ""
        _, depth, *kernel = filter_shape(self.layer)
        extent = "x".join(map(str, kernel))
        if self.depth == 0 and depth <= IMAGE_DEPTH and self.layer.groups == 1 and self.layer.kind == "conv":
            return f"{extent} of {depth}"
        return extent if math.prod(kernel) > 1 else ""


def name_of(target: object) -> str:
    """The network's name, or the class of a module."""
    return target.name if isinstance(target, Network) else type(target).__name__


def places_of(target: Network | nn.Module) -> list[Place]:
    """The places of `target`, layers first in order, then biases and norms. SettingsError where it has no layer."""
    if not isinstance(target, Network | nn.Module):
        raise SettingsError(f"priors are of a network or a torch module, not of a {type(target).__name__}.")
    module = target.module if isinstance(target, Network) else target
    layers = list(target.layers if isinstance(target, Network) else _layers_of(target))
    if not layers:
        raise SettingsError(
            f"{name_of(target)} has no convolution, linear layer or embedding that a prior could be of."
        )
    depths = {layer.name: i / max(1, len(layers) - 1) for i, layer in enumerate(layers)}
    places, biases = [], []
    for layer in layers:
        fan_in, fan_out = _fans(layer)
        places.append(Place(layer.weight, _role(layer), depths[layer.name], fan_in, fan_out, layer))
        if layer.bias is not None:
            biases.append(Place(layer.bias, BIAS, depths[layer.name], fan_in, fan_out))
    taken = {place.name for place in (*places, *biases)}
    norms = [place for place in _norms(module, depths) if place.name not in taken]
    return [*places, *{place.name: place for place in (*biases, *norms)}.values()]


def _role(layer: Layer) -> str:
    if layer.kind not in CONVOLUTION_KINDS:
        return layer.kind
    _, depth, *kernel = filter_shape(layer)
    kind = "depthwise" if layer.kind == "conv" and depth == 1 and layer.groups > 1 else layer.kind
    return f"{kind} {'x'.join(map(str, kernel))}"


def _fans(layer: Layer) -> tuple[int, int]:
    size = math.prod(layer.weight_shape)
    if layer.kind == "embedding":
        entries = layer.weight_shape[layer.output_axis]
        return size // max(1, entries), entries
    if layer.kind in CONVOLUTION_KINDS:
        filters, depth, *kernel = filter_shape(layer)
        return depth * math.prod(kernel), filters * math.prod(kernel)
    outputs = layer.weight_shape[layer.output_axis]
    return size // max(1, outputs), outputs


def _norms(module: nn.Module, depths: dict[str, float]) -> Iterator[Place]:
    """Scales and shifts of whatever calls itself a norm, at the depth of the layer that was made before it."""
    depth = 0.0
    for path, part in module.named_modules():
        depth = depths.get(path, depth)
        if "norm" not in type(part).__name__.lower():
            continue
        for name, parameter in part.named_parameters(recurse=False):
            role = {"weight": NORM_SCALE, "bias": NORM_SHIFT}.get(name)
            if role is not None and parameter.ndim == 1:
                yield Place(f"{path}.{name}".lstrip("."), role, depth, len(parameter), len(parameter))


def _layers_of(module: nn.Module) -> Iterator[Layer]:
    """The layers of a plain module, without its graph; of a weight that several share, the first."""
    seen: set[int] = set()
    for path, part in module.named_modules():
        for kind, weight, bias, groups, axis in _maps(part):
            parameter = getattr(part, weight)
            if not isinstance(parameter, Tensor) or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            full = f"{path}.{weight}".lstrip(".")
            has_bias = bias is not None and isinstance(getattr(part, bias, None), Tensor)
            of_bias = f"{path}.{bias}".lstrip(".") if has_bias else None
            shape = tuple(parameter.shape)
            yield Layer(layer_name(full), kind, (), full, of_bias, shape, axis, groups, (), math.prod(shape), 0)


def _maps(part: nn.Module) -> Iterator[tuple[str, str, str | None, int, int]]:
    """(kind, weight, bias, groups, output axis) of each learned map of a module that is no container."""
    if isinstance(part, nn.modules.conv._ConvNd):
        yield "conv_transpose" if part.transposed else "conv", "weight", "bias", part.groups, 0
    elif isinstance(part, nn.Linear):
        yield "linear", "weight", "bias", 1, 0
    elif isinstance(part, nn.Embedding | nn.EmbeddingBag):
        yield "embedding", "weight", None, 1, 0
    elif isinstance(part, nn.MultiheadAttention) and part.in_proj_weight is not None:
        yield "linear", "in_proj_weight", "in_proj_bias", 1, 0
    elif isinstance(part, nn.RNNBase | nn.RNNCellBase):
        for name, _ in part.named_parameters(recurse=False):
            if name.startswith("weight_"):
                yield "recurrent", name, name.replace("weight_", "bias_"), 1, 0
    elif type(part).__name__ == "Conv1D" and getattr(part, "nf", None):  # of transformers: a matrix the other way round
        yield "linear", "weight", "bias", 1, 1
