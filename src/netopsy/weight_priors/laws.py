"""What is measured of the weights: the law of a role at a depth, how its scale follows the fan-in, and filter bases."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Float64
from scipy import stats
from sklearn.covariance import ledoit_wolf_shrinkage
from torch import Tensor

from netopsy.network.layers import filters_of
from netopsy.stats.describe import describe
from netopsy.stats.fits import Density, fit_all, quantile_sample
from netopsy.stats.pca import components_for, cumulative_share, eigenvalues
from netopsy.weight_priors.places import Place

POINTS = 1024  # quantiles that stand for a parameter's values, so that each layer counts as much as any other
LARGEST_BASIS = 1024  # values of a filter, or of a slice of one, that has a basis
LARGEST_SIDE = 2048  # filters, or values of each, whose spectrum is computed: the smaller of the two
SQUARES = 0.01  # of the sum of squares, that the weights which can be pruned hold together
STAGES = ("early", "middle", "late")

ROWS: dict[str, Any] = {
    "network": pl.String,
    "parameter": pl.String,
    "role": pl.String,
    "depth": pl.Float64,
    "fan_in": pl.Int64,
    "fan_out": pl.Int64,
    "values": pl.Int64,
    "mean": pl.Float64,
    "std": pl.Float64,
    "skewness": pl.Float64,
    "kurtosis": pl.Float64,
    "zeros": pl.Float64,
    "prunable": pl.Float64,
    "he": pl.Float64,
    "glorot": pl.Float64,
    "filters": pl.Int64,
    "components": pl.List(pl.Int64),
    "kernel": pl.String,
    "spectrum": pl.List(pl.Float64),
}
"""A row a parameter: see `netopsy.Priors`."""


@dataclass(frozen=True)
class Law:
    """The law of a role's weights in a third of the depth, of mean 0 and standard deviation 1.

    family: `normal`, `Laplace` or `skew normal`, with the lowest Bayesian information criterion of the three; shape: of
    a skew normal. ks: its Kolmogorov-Smirnov distance from the weights, kurtosis: theirs, in excess of the normal's 3.
    parameters: how many tensors were read. quantiles: float32 (n,), ascending, of the weights themselves, each tensor
    standardised by itself and counted alike.
    """

    role: str
    stage: str
    family: str
    shape: float | None
    ks: float
    kurtosis: float
    parameters: int
    quantiles: np.ndarray

    @property
    def density(self) -> Density:
        """The fitted density, of mean 0 and standard deviation 1."""
        return standard_density(self.family, self.shape)

    def draw(self, size: Sequence[int], generator: torch.Generator) -> Tensor:
        """Independent numbers of this law, float32 of `size`."""
        first = torch.randn(*size, generator=generator)
        if self.family == "normal":
            return first
        if self.family == "Laplace":
            signs = torch.where(first < 0, -1.0, 1.0)
            return signs * torch.empty(*size).exponential_(math.sqrt(2), generator=generator)
        delta = _delta(self.shape or 0.0)
        skewed = delta * torch.randn(*size, generator=generator).abs() + math.sqrt(1 - delta**2) * first
        return (skewed - delta * math.sqrt(2 / math.pi)) / math.sqrt(1 - 2 * delta**2 / math.pi)


def standard_density(family: str, shape: float | None = None) -> Density:
    """The density of a family that has mean 0 and standard deviation 1 (Azzalini, 1985, for the skew normal)."""
    if family == "normal":
        return Density("normal", 0.0, 1.0)
    if family == "Laplace":
        return Density("Laplace", 0.0, math.sqrt(0.5))
    delta = _delta(shape or 0.0)
    scale = 1 / math.sqrt(1 - 2 * delta**2 / math.pi)
    return Density("skew normal", -scale * delta * math.sqrt(2 / math.pi), scale, shape or 0.0)


def _delta(shape: float) -> float:
    return shape / math.sqrt(1 + shape**2)


@dataclass(frozen=True)
class Scale:
    """How the standard deviation of a role's weights follows the fan-in: std = gain * fan_in ** exponent.

    exponent: the least-squares slope of log std on log fan_in, next to depth and with a constant a network, where the
    layers tell it to within +-1/4; else -1/2, as He and Glorot have it. low, high: the slope's 95 % interval (Student's
    t); NaN where it cannot be told. Of biases, norms and embeddings the exponent is 0.
    """

    role: str
    exponent: float
    low: float
    high: float

    @property
    def fitted(self) -> bool:
        """Whether the exponent is the layers' own."""
        return self.exponent not in (0.0, -0.5)


@dataclass(frozen=True)
class Basis:
    """The principal directions of the slices of all filters of one kernel size, or of whole filters on the image.

    directions: float64 (values, values), a column a direction, orthonormal, the one of most variance first; the largest
    entry of each is positive. variances: (values,), of weights of standard deviation 1: their mean is 1.
    layers: how many were read, each counted alike.
    """

    kernel: str
    directions: Float64[np.ndarray, "values values"]
    variances: Float64[np.ndarray, " values"]
    layers: int


def stage_of(depth: float) -> str:
    """The third of the depth: `early`, `middle` or `late`."""
    return STAGES[min(2, int(3 * depth))]


def measure(network: str, place: Place, weight: Tensor) -> tuple[dict[str, Any], np.ndarray, Tensor | None]:
    """The row of a parameter, its quantiles standardised, and the covariance of its slices or None.

    Pruned weights (exact zeros) count in mean and standard deviation, and not in the law.
    """
    values = weight.detach().to("cpu", torch.float32).reshape(-1).numpy().copy()
    values.sort()
    about = describe(values)
    row: dict[str, Any] = dict.fromkeys(ROWS) | {
        "network": network,
        "parameter": place.name,
        "role": place.role,
        "depth": place.depth,
        "fan_in": place.fan_in,
        "fan_out": place.fan_out,
        "values": about.values,
        "mean": about.mean,
        "std": about.std,
        "skewness": about.skewness,
        "kurtosis": about.kurtosis,
        "zeros": about.zeros,
        "kernel": place.kernel,
    }
    kept = values[values != 0] if about.zeros > SQUARES else values
    sample = quantile_sample(kept, POINTS) if len(kept) else np.zeros(0)
    spread = float(sample.std()) if len(sample) else 0.0
    covariance = None
    if place.layer is not None and about.std > 0:
        sizes = np.cumsum(np.sort(np.abs(quantile_sample(values))) ** 2)
        row["prunable"] = float(np.searchsorted(sizes, SQUARES * sizes[-1], side="right") / len(sizes))
        row["he"] = about.std / math.sqrt(2 / place.fan_in)
        row["glorot"] = about.std / math.sqrt(2 / (place.fan_in + place.fan_out))
        filters = filters_of(place.layer, weight.detach()).flatten(1)
        if min(filters.shape) <= LARGEST_SIDE and place.role != "embedding" and not place.role.startswith("depthwise"):
            row["filters"] = filters.shape[0]
            shares = cumulative_share(eigenvalues(filters))
            if not np.isnan(shares[-1]):
                row["components"] = [components_for(shares, s / 100) for s in range(1, 101)]
        if place.kernel:
            covariance = slice_covariance(place, weight.detach(), about.mean, about.std)
    return row, (sample - sample.mean()) / spread if spread > 0 else np.zeros(0), covariance


def slices(place: Place, weight: Tensor) -> Tensor:
    """The vectors that a filter basis is of: the kernel of each input channel, or a whole filter on the image."""
    assert place.layer is not None
    whole = " of " in place.kernel
    return weight.flatten(1) if whole else weight.flatten(2).flatten(0, 1)


def slice_covariance(place: Place, weight: Tensor, mean: float, std: float) -> Tensor | None:
    """Of the slices about the layer's mean, float64 (values, values) with a mean diagonal of 1.

    Where there are few slices it is shrunk towards the identity (Ledoit & Wolf, 2004), which keeps its trace.
    """
    vectors = slices(place, weight)
    count, size = vectors.shape
    if size > LARGEST_BASIS:
        return None
    vectors = (vectors.to("cpu", torch.float64) - mean) / std
    covariance = vectors.T @ vectors / count
    if count < 100 * size:
        share = float(ledoit_wolf_shrinkage(vectors.numpy(), assume_centered=True)) if count > 1 else 1.0
        covariance = (1 - share) * covariance + share * torch.eye(size, dtype=torch.float64)
    return covariance


def fit_bases(rows: Sequence[dict[str, Any]], covariances: Sequence[Tensor | None]) -> dict[str, Basis]:
    """The basis of each kernel size; fills in each row's `spectrum`: its variances along those directions."""
    bases = {}
    for kernel in dict.fromkeys(row["kernel"] for row, each in zip(rows, covariances, strict=True) if each is not None):
        which = [(r, c) for r, c in zip(rows, covariances, strict=True) if c is not None and r["kernel"] == kernel]
        mean = torch.stack([c for _, c in which]).mean(0)
        values, vectors = (each.flip(-1) for each in torch.linalg.eigh(mean))
        largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
        vectors = vectors * torch.where(largest < 0, -1.0, 1.0)
        for row, covariance in which:
            row["spectrum"] = torch.einsum("id,ij,jd->d", vectors, covariance, vectors).clamp_min(0).tolist()
        bases[kernel] = Basis(kernel, vectors.numpy(), values.clamp_min(0).numpy(), len(which))
    return bases


def fit_laws(rows: Sequence[dict[str, Any]], samples: Sequence[np.ndarray]) -> tuple[Law, ...]:
    """The law of each role in each third of the depth in which it has values that differ."""
    pooled: dict[tuple[str, str], list[np.ndarray]] = {}
    for row, sample in zip(rows, samples, strict=True):
        if len(sample):
            pooled.setdefault((row["role"], stage_of(row["depth"])), []).append(sample)
    laws = []
    for (role, stage), parts in pooled.items():
        values = np.sort(np.concatenate(parts))
        about = describe(values)
        fits = fit_all(values, about)
        best = min(fits, key=lambda fit: fit.bic).density if fits else Density("normal", 0.0, 1.0)
        ks = min(fits, key=lambda fit: fit.bic).ks if fits else math.nan
        quantiles = quantile_sample(values, 4 * POINTS).astype(np.float32)
        laws.append(Law(role, stage, best.label, best.shape, ks, about.kurtosis, len(parts), quantiles))
    return tuple(laws)


def fit_scales(rows: Iterable[dict[str, Any]]) -> tuple[Scale, ...]:
    """How each role's standard deviation follows the fan-in."""
    by_role: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["std"] > 0:
            by_role.setdefault(row["role"], []).append(row)
    return tuple(_scale(role, some) for role, some in by_role.items())


def _scale(role: str, rows: Sequence[dict[str, Any]]) -> Scale:
    if role in ("embedding", "bias") or role.startswith("norm"):
        return Scale(role, 0.0, math.nan, math.nan)
    fans = np.log([row["fan_in"] for row in rows])
    names = sorted({row["network"] for row in rows})
    constants = np.array([[row["network"] == name for name in names] for row in rows], float)
    design = np.column_stack([fans, [row["depth"] for row in rows], constants])
    free = len(rows) - design.shape[1]
    if free < 3 or len(set(fans)) < 3 or np.linalg.matrix_rank(design) < design.shape[1]:
        return Scale(role, -0.5, math.nan, math.nan)
    logs = np.log([row["std"] for row in rows])
    solution = np.linalg.lstsq(design, logs, rcond=None)[0]
    variance = float(((logs - design @ solution) ** 2).sum()) / free * np.linalg.inv(design.T @ design)[0, 0]
    half = float(stats.t.ppf(0.975, free)) * math.sqrt(max(variance, 0.0))
    slope = float(solution[0])
    return Scale(role, slope if half <= 0.25 else -0.5, slope - half, slope + half)


def interpolate(rows: Sequence[dict[str, Any]], values: Sequence[Any], depth: float) -> Any:
    """The values of the rows at a depth: between the layers of each network on a line, then averaged over networks."""
    by_network: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        by_network.setdefault(row["network"], []).append(i)
    every = np.asarray(values, np.float64)
    means = []
    for indices in by_network.values():
        at, place = np.unique([rows[i]["depth"] for i in indices], return_inverse=True)
        counts = np.bincount(place)
        columns = every[indices].reshape(len(indices), -1).T
        levels = [np.bincount(place, column) / counts for column in columns]
        means.append([float(np.interp(depth, at, level)) for level in levels])
    mean = np.mean(means, 0)
    return mean if every.ndim > 1 else mean[0]


_KIN = {
    "conv": ("conv", "linear"),
    "conv_transpose": ("conv_transpose", "conv"),
    "depthwise": ("depthwise",),
    "linear": ("conv", "recurrent"),
    "recurrent": ("linear",),
}


def similar_role(role: str, known: Sequence[str]) -> str | None:
    """The role among the `known` whose law a role has: its own, else that of the same kind whose kernel is nearest in
    size; for a convolution then that of linear layers, and the other way round. None where there is none.
    """
    if role in known:
        return role
    kind, _, kernel = role.partition(" ")
    for name in _KIN.get(kind, ()):
        some = [other for other in known if other.split(" ")[0] == name]
        if some:
            return min(some, key=lambda other: abs(math.log(_area(other.partition(" ")[2]) / _area(kernel))))
    return None


def _area(kernel: str) -> int:
    return math.prod(int(side) for side in kernel.split("x")) if kernel else 1


def random_components(filters: int, dimensions: int, share: float) -> float:
    """How many components hold the `share` of the variance of as many random filters, by the law of Marchenko and
    Pastur (1967) of the eigenvalues of independent numbers of one variance: a network that learned nothing needs these.
    """
    small, large = sorted((max(filters - 1, 1), dimensions))
    ratio = small / large
    angles = np.linspace(0, math.pi, 4001)
    arcs = 2 / math.pi * np.sin(angles) ** 2  # the variance that an angle holds
    counts = arcs / np.maximum(1 + ratio + 2 * math.sqrt(ratio) * np.cos(angles), 1e-12)
    step = angles[1]
    held, above = (np.concatenate([[0], np.cumsum((v[1:] + v[:-1]) / 2 * step)]) for v in (arcs, counts))
    return small * float(np.interp(share, held / held[-1], above / above[-1]))


def width_rows(layers: pl.DataFrame, percentile: int) -> list[dict[str, Any]]:
    """A row a layer with a spectrum, but the last: network, parameter, role, depth, width (its filters), components
    that hold so many per cent of their variance, random (that as many random filters need), ratio (at most 1).
    """
    rows = []
    for row in layers.filter(pl.col("components").is_not_null() & (pl.col("depth") < 1)).iter_rows(named=True):
        needed = float(row["components"][percentile - 1])
        expected = random_components(row["filters"], row["values"] // row["filters"], percentile / 100)
        one = {name: row[name] for name in ("network", "parameter", "role", "depth")} | {"width": row["filters"]}
        rows.append(one | {"components": needed, "random": expected, "ratio": min(1.0, needed / expected)})
    return rows
