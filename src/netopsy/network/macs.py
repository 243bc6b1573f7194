"""Multiply-accumulates of a graph's products: convolutions, linear maps, matrix products, attention.

Biases, norms, activations and other elementwise work are not counted, as in `torch.utils.flop_counter`, whose count of
floating-point operations is twice that of a graph.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from netopsy.network.node import Node

CONVOLUTIONS = {f"{name}{n}d": name for name in ("conv", "conv_transpose") for n in (1, 2, 3)} | {"convolution": "conv"}
# operator -> position of its first factor
FACTORS = dict.fromkeys(("matmul", "linalg_matmul", "mm", "bmm", "mv", "dot", "inner"), 0)
FACTORS |= dict.fromkeys(("addmm", "baddbmm", "addbmm", "addmv"), 1)
CELLS = {"lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"}  # one step
RECURRENT = {"lstm", "gru", "rnn_tanh", "rnn_relu", *CELLS}
PRODUCTS = {*CONVOLUTIONS, *FACTORS, *RECURRENT, "linear", "bilinear", "einsum", "tensordot"}
PRODUCTS |= {"scaled_dot_product_attention"}


def node_macs(node: Node) -> int:
    """Multiply-accumulates of one node for a batch of one; 0 where it multiplies no matrices."""
    name = node.operator
    if node.op != "call_function" or name not in PRODUCTS:
        return 0
    if name in RECURRENT:
        return sum(recurrent_map_macs(node, weight) for weight, _ in recurrent_maps(node))
    if not node.is_tensor:
        return 0
    inputs: list[Any] = list(node.args)
    output = math.prod(node.full_shape)
    if name in CONVOLUTIONS:
        x, weight = inputs[0].full_shape, node.argument("weight").full_shape
        transposed = name.startswith("conv_transpose") or bool(node.argument("transposed"))
        # a transposed convolution spreads each input value over one window, a plain one gathers each output from one
        return (math.prod(x) if transposed else output) * math.prod(weight[1:])
    if name == "linear":
        return output * node.argument("weight").full_shape[-1]
    if name == "einsum":
        return sum(einsum_macs(str(inputs[0]), [x.full_shape for x in inputs[1]]))
    if name == "bilinear":
        return sum(einsum_macs("...i,oij,...j->...o", [inputs[k].full_shape for k in (0, 2, 1)]))
    if name == "tensordot":
        return output * math.prod(inputs[0].full_shape[axis] for axis in inputs[2])
    if name == "scaled_dot_product_attention":
        query, key, value = (x.full_shape for x in inputs[:3])
        pairs = math.prod(query[:-1]) * key[-2]
        return pairs * query[-1] + pairs * value[-1]
    first = inputs[FACTORS[name]].full_shape
    return (output if name != "addbmm" else output * first[0]) * first[-1]


def graph_macs(nodes: Iterable[Node]) -> int:
    """Multiply-accumulates of `nodes` for one input, products of two activations included."""
    return sum(node_macs(node) for node in nodes)


def recurrent_maps(node: Node) -> list[tuple[Node, Node | None]]:
    """(weight, bias) of each linear map in a recurrent operator or cell, in the order of `torch.nn.LSTM`.

    Layer by layer, in each the forward direction first: of the input, of the hidden state, then the projection.
    """
    if node.operator in CELLS:
        return [(node.argument(f"w_{of}"), node.argument(f"b_{of}")) for of in ("ih", "hh")]
    tensors = node.argument("params")
    biases = 2 if node.argument("has_biases") else 0
    size = len(tensors) // (node.argument("num_layers") * (2 if node.argument("bidirectional") else 1))
    maps: list[tuple[Node, Node | None]] = []
    for start in range(0, len(tensors), size):
        of_input, of_state, *rest = tensors[start : start + size]
        maps += zip((of_input, of_state), rest[:biases] or (None, None), strict=True)
        maps += [(projection, None) for projection in rest[biases:]]
    return maps


def recurrent_map_macs(node: Node, weight: Node) -> int:
    """Multiply-accumulates of one linear map of a recurrent operator, which applies it at every step.

    Four gates in an LSTM: 4 * hidden * (inputs + hidden) a step; three in a GRU, one in a plain recurrent network.
    """
    data: Any = node.args[0]
    return math.prod(data.full_shape[:-1]) * math.prod(weight.full_shape)


def einsum_macs(formula: str, shapes: list[tuple[int, ...]]) -> list[int]:
    """Of each product, operands taken from the left two by two: every index is kept or summed once."""
    terms, output = einsum_terms(formula, [len(shape) for shape in shapes])
    size: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for index, n in zip(term, shape, strict=True):
            size[index] = max(size.get(index, 1), n)

    def needed(indices: str, rest: list[str]) -> str:
        return "".join(dict.fromkeys(i for i in indices if i in output or any(i in term for term in rest)))

    counts, left = [], needed(terms[0], terms[1:])
    for position, term in enumerate(terms[1:], 1):
        rest = terms[position + 1 :]
        right = needed(term, [left, *rest])
        counts.append(math.prod(size[i] for i in dict.fromkeys(left + right)))
        left = needed(left + right, rest)
    return counts


def einsum_terms(formula: str, ranks: list[int]) -> tuple[list[str], str]:
    """The index letters of each operand and of the output; an ellipsis becomes Greek letters of its own."""
    left, arrow, output = formula.replace(" ", "").partition("->")
    terms = left.split(",")
    free = [chr(code) for code in range(0x3B1, 0x3B1 + 24)]
    widest = max(rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True))
    letters = "".join(free[:widest])

    def spell(term: str, rank: int) -> str:
        count = rank - len(term.replace("...", ""))
        return term.replace("...", letters[widest - count :] if count else "")

    spelt = [spell(term, rank) for term, rank in zip(terms, ranks, strict=True)]
    if not arrow:
        every = "".join(spelt)
        output = letters + "".join(sorted(i for i in set(every) - set(letters) if every.count(i) == 1))
    return spelt, output.replace("...", letters)
