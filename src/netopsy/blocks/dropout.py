"""Where a network's dropouts are, which its graph in evaluation mode does not show."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten

from netopsy.errors import NetworkError
from netopsy.network.graph import export_graph
from netopsy.network.network import Network

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

_kept: weakref.WeakKeyDictionary[fx.GraphModule, Dropouts] = weakref.WeakKeyDictionary()


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
    graph = network.graph
    if graph not in _kept:
        _kept[graph] = _found(network)
    return _kept[graph]


def _found(network: Network) -> Dropouts:
    floats = (p for p in network.module.parameters() if p.is_floating_point())
    like = next(floats, torch.zeros(()))
    example = torch.zeros(2, *network.preprocessing.input_shape, dtype=like.dtype, device=like.device)
    with torch.no_grad(), _Watch() as watch:
        network.module(example)
    if not watch.calls and not _depths(network.module):
        return Dropouts((), {})
    with _Mark(), _marked_depths(network.module):
        marked = export_graph(network.module, network.preprocessing.input_shape)
    return _read(network, marked)


def _read(network: Network, marked: fx.GraphModule) -> Dropouts:
    """The dropouts of the `marked` graph under the names of the network's."""
    own = [n for n in network.graph.graph.nodes if n.op == "call_function"]
    marks = [n for n in marked.graph.nodes if n.target is torch.ops.netopsy.dropout.default]
    twins = [n for n in marked.graph.nodes if n.op == "call_function" and n not in set(marks)]
    if [n.target for n in own] != [n.target for n in twins]:
        raise NetworkError(
            f"the dropouts of {network.name} cannot be placed: its graph is another one with them. Set their p to 0."
        )
    names = {twin: str(node.meta["name"]) for twin, node in zip(twins, own, strict=True)}
    names |= {n: "input" for n in marked.graph.nodes if n.op == "placeholder"}
    numbers = {mark: i for i, mark in enumerate(marks)}
    drops = []
    for mark in marks:
        source, p, kind = mark.args
        drops.append(Drop(numbers[source] if source in numbers else names[source], str(kind), float(p)))
    readers = {}
    for node in marked.graph.nodes:
        if node not in numbers:
            for position, value in enumerate(flat(node)):
                if value in numbers:
                    readers[names.get(node, "output"), position] = numbers[value]
    return Dropouts(tuple(drops), readers)


def flat(node: fx.Node) -> list[Any]:
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
    found = {
        path: float(getattr(one, _DEPTH[type(one).__name__], 0) or 0)
        for path, one in module.named_modules()
        if type(one).__name__ in _DEPTH
    }
    return {path: p for path, p in found.items() if p > 0}


@contextmanager
def _marked_depths(module: nn.Module) -> Iterator[None]:
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
