"""The initialisers of an ONNX file, as torch's layers hold them, under a network's names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from netopsy.errors import MissingExtra, NetworkError, WeightsError
from netopsy.network.network import Network, tensor_state
from netopsy.network.preprocessing import Preprocessing
from netopsy.network.signature import Signature
from netopsy.network.weights.naming import find_prefix

NORMALISATIONS = ("BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization")
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Mul", "PRelu", *NORMALISATIONS)


@dataclass(frozen=True)
class Use:
    """One initialiser as one operator applies it.

    name: the initialiser's. tensor: in torch's layout, a linear map as (outputs, inputs). raw: as the file holds it.
    ordered: whether a layer's operator applies it, so that its place among the others tells something.
    """

    name: str
    tensor: Tensor
    raw: Tensor
    ordered: bool = True


def load_model(path: Path) -> Any:
    """The file as ONNX's own record of a model.

    Raises MissingExtra without the package onnx, WeightsError for a file that it cannot parse.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingExtra(f"Reading '{path}'", "onnx") from error
    try:
        return onnx.load(path)
    except Exception as error:
        # protobuf, onnx and the file system each raise their own kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160].rstrip(".")
        raise WeightsError(f"'{path}' is damaged or not an ONNX file ({reason}); export it again.") from error


def read_attributes(node: Any) -> dict[str, Any]:
    """The attributes of an operator by name."""
    from onnx.helper import get_attribute_value

    return {attribute.name: get_attribute_value(attribute) for attribute in node.attribute}


def read_onnx(path: Path) -> tuple[tuple[Use, ...], dict[str, Tensor], dict[str, int]]:
    """The weights of the graph's operators, in order of execution, the same by name, and how many it has of each kind.

    Gemm with `transB = 0` and MatMul hold their weights as (inputs, outputs): they are transposed.
    Raises MissingExtra without the package onnx, WeightsError for a file that it cannot parse.
    """
    model = load_model(path)
    from onnx import numpy_helper

    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    roots = {name: name for name in values}
    uses: dict[str, Use] = {}
    for node in model.graph.node:
        attributes = read_attributes(node)
        output = node.output[0]
        if node.op_type == "Constant" and "value" in attributes:
            values[output], roots[output] = numpy_helper.to_array(attributes["value"]), output
        elif node.op_type in ("Identity", "Transpose") and node.input[0] in values:
            array = values[node.input[0]]
            values[output] = array if node.op_type == "Identity" else array.transpose(attributes.get("perm"))
            # identical tensors are stored once and given their other names by Identity
            roots[output] = output if node.op_type == "Identity" else roots[node.input[0]]
        elif node.op_type in WEIGHTED:
            for index, name in enumerate(node.input):
                operand = values.get(name)
                if operand is not None and operand.dtype.kind == "f" and operand.ndim:
                    root = roots[name]
                    tensor = _torch_layout(node.op_type, index, attributes, operand)
                    uses.setdefault(root, Use(root, _tensor(tensor), _tensor(values[root])))
    for tensor in model.graph.initializer:
        array = values[tensor.name]
        if tensor.name not in uses and array.dtype.kind == "f" and array.ndim:
            uses[tensor.name] = Use(tensor.name, _tensor(array), _tensor(array), ordered=False)
    operators = dict(Counter(node.op_type for node in model.graph.node))
    return tuple(uses.values()), {use.name: use.tensor for use in uses.values()}, operators


def _torch_layout(operator: str, index: int, attributes: dict[str, Any], array: np.ndarray) -> np.ndarray:
    """Input `index` of an operator as torch's layer of that kind holds it: (outputs, inputs) weights, 1-D biases."""
    if operator == "Gemm":
        array = array * array.dtype.type(attributes.get("beta" if index == 2 else "alpha", 1.0))
        if index == 1 and not attributes.get("transB", 0):
            array = array.T
    elif operator == "MatMul" and index == 1 and array.ndim == 2:
        array = array.T
    flat = operator == "PRelu" or operator == "Add" or (operator == "Gemm" and index == 2)
    return array.reshape(-1) if flat and max(array.shape) == array.size else array


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array, order="C"))


def name_onnx(
    uses: tuple[Use, ...], module: nn.Module, preprocessing: Preprocessing | Signature, label: str
) -> tuple[dict[str, Tensor], str]:
    """The tensors of `uses` under the module's names, and how they were matched.

    First by name; what is left by shape, where a shape occurs once on either side; the rest by order of execution,
    where both sides use the same shapes in the same order. Raises WeightsError where that leaves a choice.
    """
    wanted = {k: t for k, t in tensor_state(module).items() if not k.endswith("num_batches_tracked")}
    prefix = find_prefix([use.name for use in uses], wanted)
    by_name = {use.name.removeprefix(prefix): use for use in uses}
    given = {k: _for_owner(use, k, wanted, module) for k, use in by_name.items() if use.ordered or k in wanted}
    named = {k: t for k, t in given.items() if k in wanted and t.shape == wanted[k].shape}
    left = {k: t for k, t in given.items() if k not in named}
    open_names = [k for k in wanted if k not in named]
    if not left or not open_names:
        return given, "by name"
    ordered = [k for k in _execution_order(module, preprocessing) if k in open_names]
    shapes = [tuple(wanted[k].shape) for k in ordered]
    if set(ordered) == set(open_names) and shapes == [tuple(t.shape) for t in left.values()]:
        matched = dict(zip(ordered, left.values(), strict=True))
        return {**named, **matched}, f"{len(named)} by name, {len(matched)} by shape and order of execution"
    have, want = Counter(tuple(t.shape) for t in left.values()), Counter(tuple(wanted[k].shape) for k in open_names)
    if have == want and max(have.values()) == 1:
        by_shape = {tuple(t.shape): t for t in left.values()}
        return {**named, **{k: by_shape[tuple(wanted[k].shape)] for k in open_names}}, (
            f"{len(named)} by name, {len(left)} by shape"
        )
    if have == want:
        shape = next(shape for shape, count in have.items() if count > 1)
        names = ", ".join(k for k in open_names if tuple(wanted[k].shape) == shape)
        raise WeightsError(
            f"weights '{label}' hold {have[shape]} tensors of shape {'x'.join(map(str, shape))} in another order than "
            f"the network uses them, so which belongs to {names} is open; export the file with the parameters' names."
        )
    return given, "by name"


def _for_owner(use: Use, name: str, wanted: dict[str, Tensor], module: nn.Module) -> Tensor:
    """The tensor of `use` as the parameter `name` wants it; a parameter of no known layer stays as the file has it."""
    if name not in wanted or isinstance(module.get_submodule(name.rpartition(".")[0]), nn.Linear):
        return use.tensor
    return use.raw if use.raw.shape == wanted[name].shape else use.tensor


def _execution_order(module: nn.Module, preprocessing: Preprocessing | Signature) -> list[str]:
    """Names of the module's tensors in the order in which its forward pass uses them."""
    try:
        program = Network("", module, preprocessing).program
    except NetworkError:
        return []
    calls = (node for node in program.nodes if node.op == "call_function")
    return list(dict.fromkeys(name for node in calls for name in node.parameters))


_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger")


def explain_misfit(operators: Mapping[str, int], module: nn.Module) -> str:
    """Why the weights of an ONNX file do not fit `module`, from the file's operators and the module's layers."""
    kinds = {
        "convolutions": (("Conv", "ConvTranspose"), nn.modules.conv._ConvNd),
        "linear maps": (("Gemm", "MatMul"), nn.Linear),
        "batch normalisations": (("BatchNormalization",), nn.modules.batchnorm._BatchNorm),
        "other normalisations": (
            NORMALISATIONS[1:],
            (nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm),
        ),
    }
    given = {kind: sum(operators.get(name, 0) for name in names) for kind, (names, _) in kinds.items()}
    wanted = {kind: sum(isinstance(part, layer) for part in module.modules()) for kind, (_, layer) in kinds.items()}  # type: ignore[arg-type]
    if integers := [name for name in _QUANTIZED if name in operators]:
        return f"the file is quantized (it has {integers[0]} operators); export the float network instead"
    convolutions, batch_norms = "convolutions", "batch normalisations"
    if wanted[batch_norms] and not given[batch_norms] and given[convolutions] == wanted[convolutions]:
        return (
            "the export has folded batch normalisation into the convolutions, so export again in training mode with "
            "do_constant_folding=False"
        )
    both = [kind for kind in kinds if given[kind] != wanted[kind]]
    if not both:
        return (
            "it has as many layers of each kind, of other names or sizes; choose the architecture it was exported from"
        )
    counts = (", ".join(f"{one[kind]} {kind}" for kind in both) for one in (given, wanted))
    return "the file has {} and the network {}; choose the architecture that it was exported from".format(*counts)
