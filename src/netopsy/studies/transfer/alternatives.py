"""Other codes of as many bits: products of codebooks, binary codes, truncation, whitening (beyond the paper)."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import polars as pl
import torch

from netopsy.stats.nearest import draw_queries, nearest, recall, same_class
from netopsy.studies.transfer.bench import Bench, ScoreRow
from netopsy.studies.transfer.chains import Chain, Stresses
from netopsy.studies.transfer.tables import code_line
from netopsy.transform.fit.alternatives import PER_CENTROID, candidates
from netopsy.transform.fit.levels import Directions, Whitened
from netopsy.transform.fit.product import OptimizedProductQuantizer, ProductQuantizer
from netopsy.transform.fit.quantizer import Quantizer

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
