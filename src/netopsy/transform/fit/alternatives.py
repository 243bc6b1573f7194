"""The quantizers that are worth trying for a number of bits."""

from __future__ import annotations

from collections.abc import Iterator

from netopsy.errors import SettingsError
from netopsy.transform.fit.binary import Itq, SignBits, TransformCoding
from netopsy.transform.fit.levels import Bins, Directions, Truncation, Whitened
from netopsy.transform.fit.product import OptimizedProductQuantizer, ProductQuantizer
from netopsy.transform.fit.quantizer import Quantizer

WIDTHS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16)
WHITENED_WIDTHS = (1, 2, 3, 4, 6, 8)
PER_CENTROID = 39
"""Training vectors a centroid, below which faiss warns that there are too few."""
LARGEST_ITQ = 1024
LARGEST_OPQ = 512
"""Dimensions up to which a learned rotation takes seconds; each of its steps is a singular value decomposition."""


def candidates(n_dims: int, n_train: int, budget_bits: int) -> list[Quantizer]:
    """At most about 30 quantizers of at most `budget_bits` for vectors of `n_dims` values and `n_train` for fitting.

    Levels come as powers of two, since fewer take as many bits. For each number of bits a dimension, as many dimensions
    as fit; where all of them fit, only the most bits. Directions are at most the training set's own. Raises
    SettingsError for a budget below 1 bit.
    """
    if min(n_dims, n_train, budget_bits) < 1:
        raise SettingsError(
            f"a budget of {budget_bits} bits for {n_dims} dimensions and {n_train} vectors; give at least 1 of each."
        )
    rank = min(n_dims, n_train)
    quantizers: list[Quantizer] = [Directions(p, 1 << width) for p, width in _line(rank, budget_bits, WIDTHS)]
    # n centred vectors have at most n - 1 directions of variance
    varied = min(n_dims, max(n_train - 1, 1))
    quantizers += [Whitened(p, 1 << width) for p, width in _line(varied, budget_bits, WHITENED_WIDTHS)]
    quantizers += [Truncation(p, width) for p, width in _line(n_dims, budget_bits, (8, 16, 32))]
    if budget_bits >= n_dims:
        quantizers.append(Bins(n_dims, 1 << min(budget_bits // n_dims, 16)))
    quantizers.append(TransformCoding(min(budget_bits, 8 * varied)))
    quantizers.append(SignBits(min(varied, budget_bits)))
    if min(varied, budget_bits) <= LARGEST_ITQ:
        quantizers.append(Itq(min(varied, budget_bits)))
    quantizers += _products(n_dims, n_train, budget_bits)
    return quantizers


def _line(dimensions: int, budget: int, widths: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """(dimensions, bits each) along the budget."""
    for width, wider in zip(widths, (*widths[1:], budget + 1), strict=True):
        if width <= budget and wider * dimensions > budget:
            yield min(dimensions, budget // width), width


def _products(n_dims: int, n_train: int, budget: int) -> Iterator[Quantizer]:
    """PQ and OPQ with as many centroids as the training set can bear (256 at most), and with 16."""
    bearable = [width for width in range(4, 9) if PER_CENTROID << width <= n_train and width <= budget]
    for width in sorted({bearable[0], bearable[-1]} if bearable else (), reverse=True):
        parts = min(budget // width, n_dims)
        stretch = -(-n_dims // parts)
        yield ProductQuantizer(-(-n_dims // stretch), width)
        parts = min(budget // width, n_dims, n_train)
        if parts <= LARGEST_OPQ:
            yield OptimizedProductQuantizer(
                parts, parts * max(1, min(4, LARGEST_OPQ // parts, min(n_dims, n_train) // parts)), width
            )
