"""The whole stress sweep of one set of features, against the same sweep by scikit-learn's LinearSVC.

    python benchmarks/transfer.py [--features FILE.npz] [--train 5000] [--test 1000] [--dimensions 4096]
        [--classes 20] [--sizes 4] [--levels 5] [--device cpu] [--threads 2]

Ours: `netopsy.transfer` with every stress of the paper (random drops ten times, PCA, one range, a range a dimension,
the grid of both, erased bits), from the features to the finished tables, every fit certified. Peer: LinearSVC, which is
LIBLINEAR, fit and test scores alone, of stressed features that are made for it; one process a core. It is timed on
`--sizes` numbers of dimensions, evenly spread, of each stress (of the grid at `--levels` numbers of levels), and the
mean of a stress is scaled to all its cells. Features: rectified random mixtures of overlapping classes by default.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from sklearn.svm import LinearSVC

import netopsy
from common import add_tiny, ratio, seconds, shrink, tell
from netopsy.stats.pca import fit_pca
from netopsy.studies.transfer.chains import dimension_steps, drop_order
from netopsy.transform.fit.levels import erase_bits
from netopsy.transform.fit.training import fit_ranges, quantize, unit

STRESSES = ("dr1", "dr2", "q1", "q2", "fc", "qb")
LEVELS = tuple(range(1, 31))
TARGET = {"cpu": 15.0, "cuda": 100.0}


@dataclass(frozen=True)
class Cell:
    """One stressed set of features. stands_for: how many of the stress's cells."""

    stress: str
    what: str
    train: np.ndarray
    test: np.ndarray
    stands_for: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", help="an .npz with x and y; synthetic ones by default")
    parser.add_argument("--train", type=int, default=5000)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--dimensions", type=int, default=4096)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--sizes", type=int, default=4)
    parser.add_argument("--levels", type=int, default=5)
    parser.add_argument("--grid", type=int, default=len(LEVELS), help="numbers of levels in all")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu")
    add_tiny(parser)
    options = parser.parse_args()
    shrink(options, train=60, test=20, dimensions=32, classes=3, sizes=1, levels=1, grid=2, threads=1)
    torch.set_num_threads(options.threads)
    x, y = read(options) if options.features else synthetic(options)
    part = options.train
    names = tuple(map(str, range(options.classes)))
    features = netopsy.Features("benchmark", x[:part], y[:part], x[part:], y[part:], names)
    print(
        f"torch {torch.__version__}, {options.threads} threads, {options.device}, load {os.getloadavg()[0]:.1f}; "
        f"{part:,} + {len(x) - part:,} vectors of {x.shape[1]:,}, {y.max() + 1} classes"
    )
    ours, result = seconds(lambda: netopsy.transfer(features, stresses=STRESSES, levels=LEVELS[: options.grid]))
    scores = result.tables["scores"]
    print(
        f"netopsy: {ours:.1f} s; largest certified gap {scores['gap'].max():.1e}, "
        f"{int(scores['refits'].sum())} solved again in float64"
    )
    theirs, hours = peer(unit(torch.from_numpy(x)), torch.from_numpy(y), part, options)
    ratio(ours, theirs, f"LinearSVC in {options.threads} processes", f" (target {TARGET[options.device]:.0f}x)")
    figures = {"netopsy": ours, "peer": theirs, "hours": hours, "cells": scores.height}
    tell("transfer", theirs / ours, **figures, gap=scores["gap"].max(), again=int(scores["refits"].sum()))


def synthetic(options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Rectified mixtures of latent values that decay as those of deep features do, half of them zero."""
    draw = np.random.default_rng(0)
    n, latent = options.train + options.test, 256
    y = draw.integers(0, options.classes, n)
    scale = np.arange(1, latent + 1) ** -0.5
    centres = draw.normal(size=(options.classes, latent)) * scale
    values = 0.2 * centres[y] + draw.normal(size=(n, latent)) * scale
    mixed = values @ draw.normal(size=(latent, options.dimensions))
    mixed += 0.3 * mixed.std() * draw.normal(size=mixed.shape)
    return np.maximum(mixed, 0).astype(np.float32), y


def read(options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    with np.load(options.features) as file:
        count = options.train + options.test
        return file["x"][:count].astype(np.float32), file["y"][:count].astype(np.int64)


def peer(x: torch.Tensor, y: torch.Tensor, part: int, options: argparse.Namespace) -> tuple[float, dict[str, float]]:
    """Seconds that LinearSVC takes for all cells, from a sample of them; hours of one core of each stress."""
    labels, seen = y.numpy(), y.numpy()[part:]
    total: dict[str, float] = dict.fromkeys(STRESSES, 0.0)
    count = 0
    for pair in pairs(cells(x[:part], x[part:], options), options.threads):
        timed = Parallel(n_jobs=options.threads)(delayed(fit)(cell.train, labels[:part], cell.test) for cell in pair)
        for cell, (elapsed, predicted) in zip(pair, timed, strict=True):
            count += 1
            total[cell.stress] += elapsed * cell.stands_for
            accuracy = float((predicted == seen).mean())
            print(f"  {cell.stress} {cell.what}: {elapsed:.2f} s, accuracy {accuracy:.4f}", flush=True)
    print(
        f"  scaled from {count} cells, hours of one core: " + ", ".join(f"{k} {v / 3600:.2f}" for k, v in total.items())
    )
    return sum(total.values()) / options.threads, {stress: elapsed / 3600 for stress, elapsed in total.items()}


def fit(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> tuple[float, np.ndarray]:
    """Seconds of a fit and its predictions on the test set."""
    warnings.simplefilter("ignore")
    start = time.perf_counter()
    predicted = LinearSVC(C=1.0).fit(train, labels).predict(test)
    return time.perf_counter() - start, predicted


def cells(train: torch.Tensor, test: torch.Tensor, options: argparse.Namespace) -> Iterator[Cell]:
    """The sample: of each stress some sizes or levels, each standing for its share of the stress's cells."""
    n = train.shape[1]
    sizes = sorted(dimension_steps(n))
    few, some = spread(sizes, options.sizes), spread(LEVELS[1:], options.levels)
    order = drop_order(n, 0)
    for size in few:
        columns = order[:size]
        yield cell("dr1", f"{size}", train[:, columns], test[:, columns], 10 * (len(sizes) - 1) / len(few))
    pca = fit_pca(train)
    projected = pca.apply(train), pca.apply(test)
    for size in few:
        yield cell("dr2", f"{size}", *(part[:, :size] for part in projected), len(sizes) / len(few))
    for stress, per_dimension in (("q1", False), ("q2", True)):
        ranges = fit_ranges(train, per_dimension)
        for h in some:
            yield cell(stress, f"{h} levels", *(quantize(p, ranges, h) for p in (train, test)), len(LEVELS) / len(some))
    ranges = fit_ranges(projected[0], True)
    for h in some:
        coded = [quantize(part, ranges, h) for part in projected]
        for size in few:
            share = len(sizes) * len(LEVELS) / len(few) / len(some)
            yield cell("fc", f"{size} x {h} levels", *(part[:, :size] for part in coded), share)
    removed = spread(range(33), options.sizes)
    for bits in removed:
        yield cell("qb", f"{bits} bits", erase_bits(train, bits), erase_bits(test, bits), 33 / len(removed))


def cell(stress: str, what: str, train: torch.Tensor, test: torch.Tensor, stands_for: float) -> Cell:
    return Cell(stress, what, train.double().numpy(), test.double().numpy(), stands_for)


def spread(values: Any, count: int) -> list[int]:
    """`count` of the values in the middle of equal parts."""
    every = list(values)
    return [every[int((i + 0.5) * len(every) / count)] for i in range(min(count, len(every)))]


def pairs(items: Iterator[Cell], size: int) -> Iterator[list[Cell]]:
    """The items in lists of `size`."""
    group: list[Cell] = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


if __name__ == "__main__":
    main()
