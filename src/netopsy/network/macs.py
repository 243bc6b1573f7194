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
_PRODUCTS = {"matmul": 0, "mm": 0, "bmm": 0, "mv": 0, "dot": 0, "addmm": 1, "baddbmm": 1, "addbmm": 1, "addmv": 1}
PRODUCTS = {*CONVOLUTIONS, *_PRODUCTS, "linear", "einsum", "scaled_dot_product_attention"}


def node_macs(node: Node) -> int:
    """Multiply-accumulates of one node for a batch of one; 0 where it multiplies no matrices."""
    name = node.operator
    if node.op != "call_function" or name not in PRODUCTS or not node.is_tensor:
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
        return _einsum(str(inputs[0]), [x.full_shape for x in inputs[1]])
    if name == "scaled_dot_product_attention":
        query, key, value = (x.full_shape for x in inputs[:3])
        pairs = math.prod(query[:-1]) * key[-2]
        return pairs * query[-1] + pairs * value[-1]
    first = inputs[_PRODUCTS[name]].full_shape
    return (output if name != "addbmm" else output * first[0]) * first[-1]


def graph_macs(nodes: Iterable[Node]) -> int:
    """Multiply-accumulates of `nodes` for one input, products of two activations included."""
    return sum(node_macs(node) for node in nodes)


def _einsum(formula: str, shapes: list[tuple[int, ...]]) -> int:
    """Every index is kept or summed once: the product of all sizes, operands taken from the left two by two."""
    terms, output = einsum_terms(formula, [len(shape) for shape in shapes])
    size: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for index, n in zip(term, shape, strict=True):
            size[index] = max(size.get(index, 1), n)

    def needed(indices: str, rest: list[str]) -> str:
        return "".join(dict.fromkeys(i for i in indices if i in output or any(i in term for term in rest)))

    total, left = 0, needed(terms[0], terms[1:])
    for position, term in enumerate(terms[1:], 1):
        rest = terms[position + 1 :]
        right = needed(term, [left, *rest])
        total += math.prod(size[i] for i in dict.fromkeys(left + right))
        left = needed(left + right, rest)
    return total


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
