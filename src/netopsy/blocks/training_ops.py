"""What a section needs in training and its graph in evaluation mode lacks.

Dropouts, batch norm with the statistics of the batch, and operators that do not write over what gradients need.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

from netopsy.errors import NetworkError
from netopsy.network.capture import call
from netopsy.network.graph import aten, export_graph
from netopsy.network.network import Network
from netopsy.network.node import Node
from netopsy.network.program import Program

_ROLES = ("weight", "bias", "running_mean", "running_var")


class Norm(_BatchNorm):
    """Batch norm over values of any number of axes, on tensors that it shares."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], path: str, node: Node, module: nn.Module | None) -> Norm:
        """The norm whose tensors lie at `path` among `tensors`, with the settings of `node` and of its `module`."""
        mean = tensors[f"{path}.running_mean"]
        affine = f"{path}.weight" in tensors
        momentum = getattr(module, "momentum", node.args[6])
        norm = cls(mean.numel(), eps=float(node.args[7]), momentum=momentum, affine=affine, device="meta")
        for role in _ROLES[:2] if affine else ():
            norm.register_parameter(role, tensors[f"{path}.{role}"])  # type: ignore[arg-type]
        for role in _ROLES[2:]:
            norm.register_buffer(role, tensors[f"{path}.{role}"])
        count = tensors.get(f"{path}.num_batches_tracked")
        norm.register_buffer("num_batches_tracked", torch.tensor(0, device=mean.device) if count is None else count)
        return norm


def norm_path(tensors: Mapping[str, Tensor], node: Node) -> str | None:
    """Path at which the tensors of the batch norm `node` lie among `tensors`; None for another node or place."""
    if node.target is not aten.batch_norm.default or node.args[5]:
        return None
    names = [None if p is None else str(getattr(p, "target", "")) for p in node.args[1:5]]
    path = (names[2] or "").rpartition(".")[0]
    expected = [f"{path}.{role}" for role in _ROLES]
    plain = names == expected or (names[:2] == [None, None] and names[2:] == expected[2:])
    learned = all(name is None or isinstance(tensors.get(name), nn.Parameter) for name in names[:2])
    return path if path and plain and learned else None


# The gradients of these need their result at most, and those of _SOURCES do not need theirs.
_TWINS = {
    aten.relu.default: aten.relu_.default,
    aten.hardtanh.default: aten.hardtanh_.default,
    aten.add.Tensor: aten.add_.Tensor,
}
_SOURCES = {"conv1d", "conv2d", "conv3d", "linear", "batch_norm", "add"}


def overwriting(node: Node) -> Any:
    """The operator that does the same as `node` in the memory of its first operand, which nobody else reads; or None.

    A network's own module often overwrites too (`nn.ReLU(inplace=True)`), which its functional graph does not tell.
    """
    twin: Any = _TWINS.get(node.target)
    source = node.args[0] if node.args else None
    if twin is None or not isinstance(source, Node) or source.operator not in _SOURCES:
        return None
    alone = len(source.users) == 1 and list(node.inputs).count(source) == 1
    return twin if alone and node.same_shape(source) and node.dtype == source.dtype else None


MODULES: dict[str, Callable[[float], nn.Module]] = {
    "dropout": nn.Dropout,
    "dropout1d": nn.Dropout1d,
    "dropout2d": nn.Dropout2d,
    "dropout3d": nn.Dropout3d,
    "alpha_dropout": nn.AlphaDropout,
    "feature_alpha_dropout": nn.FeatureAlphaDropout,
}
_FUNCTIONS = {getattr(F, kind): kind for kind in MODULES}
_DEPTH = {"StochasticDepth": "p", "DropPath": "drop_prob"}  # torchvision's and timm's classes, and the share they drop

_cache: weakref.WeakKeyDictionary[Program, Dropouts] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Drop:
    """One dropout: what it drops from, a node's name or the number of another dropout; its kind and probability.

    kind: a key of `MODULES`, or the path of the network's module that does stochastic depth.
    """

    source: str | int
    kind: str
    p: float

    def module(self, network: Network) -> nn.Module:
        """A module that drops as this one does."""
        if self.kind in MODULES:
            return MODULES[self.kind](self.p)
        return copy.deepcopy(network.module.get_submodule(self.kind))


@dataclass(frozen=True)
class Dropouts:
    """All dropouts, and who reads them: (node's name, position among its flat arguments) -> number of the dropout."""

    drops: tuple[Drop, ...]
    readers: dict[tuple[str, int], int]


def find_dropouts(network: Network) -> Dropouts:
    """The dropouts of `network` with p > 0, modules or functions, and its stochastic depth, worked out once.

    The module is exported a second time with each call of a dropout function, and of a module that does stochastic
    depth, kept as an operator of its own. Dropout inside attention (`dropout_p`) is not found.
    Errors: NetworkError where the two graphs differ in more than the dropouts.
    """
    if network.program not in _cache:
        _cache[network.program] = _find_dropouts(network)
    return _cache[network.program]


def _find_dropouts(network: Network) -> Dropouts:
    with torch.no_grad(), _Watch() as watch:
        call(network.module, network.signature.example(2, network.module))
    if not watch.calls and not _depths(network.module):
        return Dropouts((), {})
    with _Mark(), _mark_depths(network.module):
        marked = export_graph(network.module, network.signature)
    return _read(network, marked)


def _read(network: Network, marked: fx.GraphModule) -> Dropouts:
    """The dropouts of the `marked` graph under the names of the network's."""
    nodes = [n for n in network.program.nodes if n.op == "call_function"]
    marks = [n for n in marked.graph.nodes if n.target is torch.ops.netopsy.dropout.default]
    twins = [n for n in marked.graph.nodes if n.op == "call_function" and n not in set(marks)]
    if [n.target for n in nodes] != [n.target for n in twins]:
        raise NetworkError(
            f"the dropouts of {network.name} cannot be placed: its graph is another one with them. Set their p to 0."
        )
    names = {twin: node.name for twin, node in zip(twins, nodes, strict=True)}
    inputs = [n for n in marked.graph.nodes if n.op == "placeholder"]
    names |= {n: "input" if len(inputs) == 1 else str(n.target) for n in inputs}
    numbers = {mark: i for i, mark in enumerate(marks)}
    drops = []
    for mark in marks:
        source, p, kind = mark.args
        drops.append(Drop(numbers[source] if source in numbers else names[source], str(kind), float(p)))
    readers = {}
    for node in marked.graph.nodes:
        if node not in numbers:
            for position, value in enumerate(flat_arguments(node)):
                if value in numbers:
                    readers[names.get(node, "output"), position] = numbers[value]
    return Dropouts(tuple(drops), readers)


def flat_arguments(node: Node) -> list[Any]:
    """The node's arguments, lists opened."""
    return list(tree_flatten((node.args, node.kwargs))[0])


class _Watch(TorchFunctionMode):
    """Counts the dropouts with p > 0."""

    calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += func in _FUNCTIONS and _probability(args, kwargs or {}) > 0
        return func(*args, **(kwargs or {}))


class _Mark(TorchFunctionMode):
    """Puts the marker operator where a dropout with p > 0 is called."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _FUNCTIONS and (p := _probability(args, kwargs)) > 0:
            return _marker(args[0] if args else kwargs["input"], p, _FUNCTIONS[func])
        return func(*args, **kwargs)


def _depths(module: nn.Module) -> dict[str, float]:
    """Paths of the modules that leave out a branch of single images in training, and how often they do."""
    rates = {
        path: float(getattr(module_inside, _DEPTH[type(module_inside).__name__], 0) or 0)
        for path, module_inside in module.named_modules()
        if type(module_inside).__name__ in _DEPTH
    }
    return {path: p for path, p in rates.items() if p > 0}


@contextmanager
def _mark_depths(module: nn.Module) -> Iterator[None]:
    """Puts the marker operator behind the modules of `_depths`, which pass their input on in evaluation."""

    def marked(path: str, p: float) -> Callable[..., Tensor]:
        return lambda _module, _args, output: _marker(output, p, path)

    hooks = [module.get_submodule(path).register_forward_hook(marked(path, p)) for path, p in _depths(module).items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _probability(args: Any, kwargs: dict[str, Any]) -> float:
    return float(args[1] if len(args) > 1 else kwargs.get("p", 0.5))


@torch.library.custom_op("netopsy::dropout", mutates_args=())
def _marker(x: Tensor, p: float, kind: str) -> Tensor:
    return x.clone()


@_marker.register_fake
def _(x: Tensor, p: float, kind: str) -> Tensor:
    return torch.empty_like(x)
