"""The initialisers of an ONNX file, as torch's layers hold them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netopsy.errors import MissingExtra, WeightsError

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


def read_onnx(path: Path) -> tuple[tuple[Use, ...], dict[str, Tensor]]:
    """The weights of the graph's operators, in order of execution, and the same by name.

    Gemm with `transB = 0` and MatMul hold their weights as (inputs, outputs): they are transposed.
    Raises MissingExtra without the package onnx, WeightsError for a file that it cannot parse.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise MissingExtra(f"Reading the weights of '{path}'", "onnx") from error
    try:
        model = onnx.load(path)
        values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    except Exception as error:
        # protobuf, onnx and the file system each raise their own kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160].rstrip(".")
        raise WeightsError(
            f"weights file '{path}' is damaged or not an ONNX file ({reason}); export it again."
        ) from error
    roots = {name: name for name in values}
    uses: dict[str, Use] = {}
    for node in model.graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
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
                given = values.get(name)
                if given is not None and given.dtype.kind == "f" and given.ndim:
                    root = roots[name]
                    tensor = _torch_layout(node.op_type, index, attributes, given)
                    uses.setdefault(root, Use(root, _tensor(tensor), _tensor(values[root])))
    for tensor in model.graph.initializer:
        array = values[tensor.name]
        if tensor.name not in uses and array.dtype.kind == "f" and array.ndim:
            uses[tensor.name] = Use(tensor.name, _tensor(array), _tensor(array), ordered=False)
    return tuple(uses.values()), {use.name: use.tensor for use in uses.values()}


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
