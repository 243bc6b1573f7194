"""Other codes of as many bits: products of codebooks, binary codes, truncation, whitening (beyond the paper)."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import polars as pl
import torch

from netopsy.errors import SettingsError
from netopsy.stats.retrieval import draw_queries, nearest, recall, same_class
from netopsy.studies.transfer.bench import Bench, ScoreRow
from netopsy.studies.transfer.chains import Chain, Stresses
from netopsy.studies.transfer.tables import code_line
from netopsy.transform.fit.levels import Bins, Directions, Truncation, Whitened
from netopsy.transform.fit.product import Itq, OptimizedProductQuantizer, ProductQuantizer, SignBits, TransformCoding
from netopsy.transform.fit.training import Quantizer

WIDTHS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16)
WHITENED_WIDTHS = (1, 2, 3, 4, 6, 8)
PER_CENTROID = 39
"""Training vectors a centroid, below which faiss warns that there are too few."""
LARGEST_ITQ = 1024
LARGEST_OPQ = 512
"""Dimensions up to which a learned rotation takes seconds; each of its steps is a singular value decomposition."""

ALTERNATIVES: dict[str, Any] = {
    "node": pl.String,
    "budget": pl.Int64,
    "method": pl.String,
    "recipe": pl.String,
    "bits": pl.Int64,
    "compression": pl.Float64,
    "score": pl.Float64,
    "relative": pl.Float64,
    "accuracy": pl.Float64,
    "map": pl.Float64,
    "map11": pl.Float64,
    "train_score": pl.Float64,
    "recall_1": pl.Float64,
    "recall_10": pl.Float64,
    "same_class": pl.Float64,
    "gap": pl.Float64,
    "refits": pl.Int64,
}
QUERIES = 1000  # test vectors whose neighbours are looked for
NEIGHBOURS = 10
LEVELS = (2, 4, 16, 256)  # numbers of levels that are tried beside the others; the grid has them all
SIZES = 4
FEWEST = 4  # bits of the smallest codebook of a product


def budgets(dimensions: int) -> list[int]:
    """The bits at which codes are compared: powers of 4 from 16 on, up to 4 bits a dimension; the largest four."""
    sizes = [4**k for k in range(2, 16) if 4**k <= 4 * dimensions]
    return sizes[-SIZES:] or [4 * dimensions]


def quantizers_for(dimensions: int, train: int, bits: int) -> tuple[list[Quantizer], list[str]]:
    """The quantizers of at most `bits` that can be fitted here, and a sentence where product quantization cannot.

    dimensions: of the vectors. train: how many there are to fit on.
    """
    quantizers = candidates(dimensions, train, bits)
    products = [
        quantizer for quantizer in quantizers if isinstance(quantizer, ProductQuantizer | OptimizedProductQuantizer)
    ]
    if not products and bits >= FEWEST and train < PER_CENTROID << FEWEST:
        least = PER_CENTROID << FEWEST
        return quantizers, [f"Product quantization was left out: it needs {least} training vectors."]
    if not products or importlib.util.find_spec("faiss") is not None:
        return quantizers, []
    others = [quantizer for quantizer in quantizers if quantizer not in products]
    return others, ["Product quantization was left out: it needs faiss (pip install 'netopsy[embeddings]')."]


def codes_to_compare(bench: Bench) -> tuple[list[tuple[int, Quantizer]], list[str]]:
    """(budget, quantizer) of the codes to compare, and what was left out."""
    chosen: list[tuple[int, Quantizer]] = []
    sentences: list[str] = []
    for budget in budgets(bench.dimensions):
        quantizers, sentences = quantizers_for(bench.dimensions, len(bench.features.x_train), budget)
        for quantizer in quantizers:
            if not isinstance(quantizer, Directions | Whitened) or quantizer.h in LEVELS:
                chosen.append((budget, quantizer))
    return chosen, sentences


def alternative_chains(stresses: Stresses, chosen: Sequence[tuple[int, Quantizer]], seed: int) -> list[Chain]:
    """One chain a code."""
    exact: dict[str, torch.Tensor] = {}

    def run(quantizer: Quantizer) -> Iterator[ScoreRow]:
        bench = stresses.bench
        transform = quantizer.fit(stresses.training, seed=seed)
        train, test = bench.code_vectors(transform)
        _, row = bench.fit(train, test)
        yield row._replace(**retrieval(bench, train, test, exact, seed))

    return [
        Chain(stresses.bench, "alternatives", budget, 1, partial(run, quantizer), (repr(quantizer), seed))
        for budget, quantizer in chosen
    ]


def retrieval(
    bench: Bench, train: torch.Tensor, test: torch.Tensor, exact: dict[str, torch.Tensor], seed: int
) -> dict[str, float]:
    """recall_1, recall_10 (with ten training vectors or more) and same_class of coded vectors.

    exact: keeps the true neighbours from one code to the next.
    """
    rows = torch.from_numpy(draw_queries(len(test), QUERIES, seed)).to(bench.device)
    most = min(NEIGHBOURS, len(train))
    if bench.node not in exact:
        exact[bench.node] = nearest(bench.test[rows], bench.train, most)
    neighbours = nearest(test[rows], train, most)
    measured = {
        "recall_1": recall(neighbours, exact[bench.node], 1),
        "same_class": same_class(neighbours, bench.y_test[rows], bench.y_train),
    }
    return measured | ({"recall_10": recall(neighbours, exact[bench.node], NEIGHBOURS)} if most == NEIGHBOURS else {})


def alternative_lines(
    bench: Bench, rows: Sequence[tuple[int, Quantizer, ScoreRow]], unstressed: float
) -> list[dict[str, Any]]:
    """Lines of the table `alternatives`."""
    return [{"budget": budget, **code_line(bench, quantizer, row, unstressed)} for budget, quantizer, row in rows]


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
