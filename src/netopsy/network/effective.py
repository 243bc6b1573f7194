"""Effective weights: what an operator multiplies with is what a network holds, not the tensors it is computed from.

Masks of `torch.nn.utils.prune`, weight and spectral norms, orthogonal and other parametrisations are removed as torch
itself removes them; a weight that its module computes in `forward` (weight standardisation, a cosine classifier, a
low-rank update) is computed once and passed to the operator instead.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.overrides import TorchFunctionMode

from netopsy.errors import NetworkError
from netopsy.network.layers import weight_argument
from netopsy.network.network import Network
from netopsy.network.node import Node

EFFECTIVE = "effective"
"""What a file's header says of `weights` that the architecture has computed, and must not compute again."""

_LEGACY = {WeightNorm: remove_weight_norm, SpectralNorm: remove_spectral_norm}
_LAYOUT = {
    *("alias", "clone", "contiguous", "detach", "expand", "get_attr", "getitem", "lift_fresh", "numpy_T", "permute"),
    *("reshape", "select", "slice", "split", "squeeze", "t", "to", "to_copy", "transpose", "unsqueeze", "view"),
}
"""Operators that move values and compute none."""
_MULTIPLY = {"linear", *(f"conv{how}{axes}d" for how in ("", "_transpose") for axes in (1, 2, 3))}


def remove_parametrizations(module: nn.Module) -> list[str]:
    """Make each masked or parametrised tensor of `module` a plain parameter of its effective value, in place.

    Returns the tensors' names. The module is put into eval mode, in which spectral norm keeps its estimate.
    """
    names = []
    module.eval()
    with torch.no_grad():
        for path, part in module.named_modules():
            for name, remove in _removable(part):
                remove(part, name)
                if not name.endswith("bias"):
                    _move_to_front(part, name)
                names.append(f"{path}.{name}".lstrip("."))
    return names


def _removable(module: nn.Module) -> list[tuple[str, Any]]:
    """(tensor, function that makes it plain) of each reparametrisation that sits on `module` itself."""
    pairs: list[tuple[str, Any]] = []
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, prune.BasePruningMethod):
            pairs.append((hook._tensor_name, prune.remove))
        elif type(hook) in _LEGACY:
            pairs.append((hook.name, _LEGACY[type(hook)]))  # type: ignore[attr-defined]
    if parametrize.is_parametrized(module):
        pairs += [(name, _remove_parametrization) for name in list(module.parametrizations)]  # type: ignore[arg-type]
    return pairs


def _remove_parametrization(module: nn.Module, name: str) -> None:
    """As `parametrize.remove_parametrizations`, which would break the module that this one was copied from.

    The class that torch makes for a parametrised module is shared by its copies, and torch's function edits it.
    """
    parametrizations: Any = module.parametrizations
    value = getattr(module, name).detach().clone()
    learned = any(p.requires_grad for p in parametrizations[name].parameters())
    cls, original = type(module), parametrize.type_before_parametrizations(module)
    if len(parametrizations) == 1:
        del module.parametrizations
        module.__class__ = original
    else:
        del parametrizations[name]
        rest = {key: entry for key, entry in vars(cls).items() if key != name}
        module.__class__ = type(cls.__name__, cls.__bases__, rest)
    hooks: Any = module._load_state_dict_pre_hooks
    for key in [k for k, hook in hooks.items() if "weight_norm" in getattr(hook.hook, "__qualname__", "")]:
        del hooks[key]  # it would turn the plain weight of a state dict into a norm and a direction again
    module.register_parameter(name, nn.Parameter(value, requires_grad=learned))


def _move_to_front(module: nn.Module, name: str) -> None:
    """Torch appends what it makes plain; a layer's weight comes before its bias."""
    parameters = module._parameters
    for other in [key for key in parameters if key != name]:
        parameters[other] = parameters.pop(other)


def is_parametrized(module: nn.Module) -> bool:
    """Whether a tensor anywhere in `module` is masked or parametrised."""
    return any(map(_removable, module.modules()))


def fold_computed_weights(network: Network) -> list[str]:
    """Give each weight that a module computes from parameters alone its effective value, in place; returns their names.

    The module passes that value to the operator from then on; parameters that it was computed from and that nothing
    else reads become buffers that no state dict holds. A weight stays as it is where the module that multiplies with
    it does not contain it, or where two such weights of one module have the same shape.
    """
    if not any(map(_may_compute, network.module.modules())):
        return []
    try:
        computed = _computed_weights(network)
    except NetworkError:  # said when the graph is asked for
        return []
    if not computed:
        return []
    with torch.no_grad():
        for name, (path, value) in computed.items():
            network.module.get_parameter(name).copy_(value)
            _Multiply.attach(network.module.get_submodule(path), name.removeprefix(f"{path}."))
    network.forget()
    read = {name for node in network.program.nodes for name in node.parameters}
    for path, _ in computed.values():
        part = network.module.get_submodule(path)
        for name, tensor in list(part.named_parameters()):
            if f"{path}.{name}".lstrip(".") not in read:
                owner, _, last = name.rpartition(".")
                holder = part.get_submodule(owner)
                del holder._parameters[last]
                holder.register_buffer(last, tensor.detach(), persistent=False)
    network.forget()
    return list(computed)


def _may_compute(module: nn.Module) -> bool:
    """Whether a module has a matrix or more of its own and a forward pass that is not torch's."""
    own = any(p is not None and p.ndim > 1 for p in module._parameters.values())
    return own and not type(module).forward.__module__.startswith("torch.nn.")


def _computed_weights(network: Network) -> dict[str, tuple[str, Tensor]]:
    """Path of the multiplying module and effective value of each weight that is computed, by name."""
    tensors = network.tensors
    calls: dict[str, list[Node]] = {}
    for node in network.program.nodes:
        for name in node.weights:
            calls.setdefault(name, []).append(node)
    computed: dict[str, tuple[str, Tensor]] = {}
    for name, nodes in calls.items():
        operands = {weight_argument(node) for node in nodes}
        paths = {node.modules[-1] if node.modules else "" for node in nodes}
        operand, path = operands.pop(), paths.pop()
        if operands or paths or operand is None or any(node.operator not in _MULTIPLY for node in nodes):
            continue
        chain = set(_operations(operand))
        inside = not path or name.startswith(f"{path}.")
        if inside and chain - _LAYOUT and operand.full_shape == tuple(tensors[name].shape):
            computed[name] = path, _evaluate(operand, {**network.program.constants, **tensors})
    places = [(path, value.shape) for path, value in computed.values()]
    return {name: (path, value) for name, (path, value) in computed.items() if places.count((path, value.shape)) == 1}


def _operations(node: Node) -> Iterator[str]:
    """Operators between parameters and `node`, itself included."""
    yield node.operator if node.op == "call_function" else node.op
    for operand in node.inputs:
        yield from _operations(operand)


@torch.no_grad()
def _evaluate(node: Node, tensors: dict[str, Tensor]) -> Any:
    """The value of a node that depends on parameters alone."""
    if node.op == "get_attr":
        return tensors[node.target]
    args, kwargs = node.filled({operand: _evaluate(operand, tensors) for operand in node.inputs})
    return node.target(*args, **kwargs)


class _Multiply(TorchFunctionMode):
    """While a module runs, its linear map or convolution takes the parameter and not what is computed from it."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if getattr(func, "__name__", "") in _MULTIPLY:
            given = args[1] if len(args) > 1 else kwargs.get("weight")
            if given is not None and given is not self.weight and given.shape == self.weight.shape:
                args = (args[0], self.weight, *args[2:]) if len(args) > 1 else args
                kwargs |= {"weight": self.weight} if "weight" in kwargs else {}
        return func(*args, **kwargs)

    @staticmethod
    def attach(module: nn.Module, name: str) -> None:
        """From now on `module` multiplies with its parameter `name`."""
        module.register_forward_pre_hook(_Enter(name))
        module.register_forward_hook(_leave, always_call=True)


class _Enter:
    """Hook before a module runs; an object, so that a module with it can be copied and sent to another process."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        mode = _Multiply(module.get_parameter(self.name))
        mode.__enter__()
        _running.modes = [*getattr(_running, "modes", ()), mode]


def _leave(module: nn.Module, inputs: Any, output: Any) -> None:
    _running.modes.pop().__exit__(None, None, None)


_running = threading.local()  # as torch's own modes are
