"""Fit machines for all classes at once, and certify them; also on ever more of the leading columns of the features.

Features with more dimensions than samples are first turned into as many dimensions as samples: weights that minimise
the objective are sums of samples, w = x^T b, so only the inner products x x^T matter, and a square root of that matrix
is a shorter set of features with the same solution.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from netopsy.errors import SettingsError
from netopsy.stats.svm.model import DesignMatrix, Piece, Svm, SvmCertificate, certify, check_loss
from netopsy.stats.svm.solver import RANK, curvature, descend

COLUMNS = 4096  # turned into float64 at a time
_STEPS = 25  # of a typical fit


@dataclass(frozen=True)
class Reduction:
    """x = root @ (some orthonormal rows). root: float64 (n, n), lower triangular."""

    x: Float[Tensor, "n p"]
    root: Float64[Tensor, "n n"]

    @property
    def features(self) -> Float[Tensor, "n n"]:
        """What takes the place of x, in its precision."""
        return self.root.to(self.x.dtype)

    def forth(self, coefficients: Float[Tensor, "p+1 classes"]) -> Float[Tensor, "n+1 classes"]:
        """Coefficients of x as coefficients of the `features` with the same scores."""
        scores = (self.x @ coefficients[:-1]).double()
        reduced = torch.linalg.solve_triangular(self.root, scores, upper=False)
        return torch.cat([reduced.to(self.x.dtype), coefficients[-1:]])

    def back(self, coefficients: Float[Tensor, "n+1 classes"]) -> Float[Tensor, "p+1 classes"]:
        """Coefficients of the `features` as coefficients of x; summed in float64, for what samples share cancels."""
        shares = torch.linalg.solve_triangular(self.root.T, coefficients[:-1].double(), upper=True)
        parts = [(shares.T @ block).to(self.x.dtype).T for block in _blocks(self.x)]
        return torch.cat([*parts, coefficients[-1:]])


def add_gram(gram: Float64[Tensor, "n n"], x: Float[Tensor, "n p"]) -> None:
    """Add x x^T to `gram`, in float64: rounding in float32 would be felt where all samples have a large mean."""
    for block in _blocks(x):
        gram.addmm_(block, block.T)


def reduction(x: Float[Tensor, "n p"], gram: Float64[Tensor, "n n"] | None = None) -> Reduction:
    """The reduction of x. gram: x x^T, if it is known.

    A singular Gram matrix (equal samples) gets a diagonal as small as rounding allows; the certificate of a fit is
    computed from x itself and sees what that changed.
    """
    if gram is None:
        gram = torch.zeros(len(x), len(x), dtype=torch.float64, device=x.device)
        add_gram(gram, x)
    size = gram.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny)
    jitter = size * 1e-14
    while True:
        shifted = gram.clone()
        shifted.diagonal().add_(jitter)
        root, failed = torch.linalg.cholesky_ex(shifted)
        if not failed or not torch.isfinite(size):
            return Reduction(x, root)
        jitter = jitter * 10


def pays(n: int, sizes: Iterable[int], classes: int) -> bool:
    """Whether machines on the leading `sizes` of n samples' columns take fewer operations on reduced features."""
    widths = list(sizes)
    step = 4 * n * (_STEPS * classes + RANK)
    plain = step * sum(widths)
    reduced = 2 * n * n * max(widths) + len(widths) * (step * n + n**3 / 3)
    return reduced < plain


def _blocks(x: Float[Tensor, "n p"]) -> Iterator[Float64[Tensor, "n columns"]]:
    return (x[:, first : first + COLUMNS].double() for first in range(0, x.shape[1], COLUMNS))


_DOUBLE = 1e-5  # gaps below this are asked of float64 from the start
_AIM = 0.5  # of the tolerance, so that the float64 check passes
_ROUNDS = 60  # of the augmented Lagrangian


@torch.no_grad()
def fit_svm(
    x: Float[Tensor, "n p"],
    y: Float[Tensor, "n classes"],
    *,
    c: float = 1.0,
    loss: str = "squared_hinge",
    tolerance: float = 1e-4,
    start: Svm | None = None,
) -> Svm:
    """One-vs-rest linear machines: the least of 1/2 |w|^2 + 1/2 b^2 + C sum loss(1 - y (x w + b)) for each class.

    x: float features. y: +1 and -1 (see `signs`). loss: "squared_hinge" or "hinge", LIBLINEAR's solvers 1 and 3 with
    its bias of 1. tolerance: largest relative gap to the optimum, certified in float64; classes that miss it are solved
    again, cold and in float64. start: machines to begin with, for instance those of nearly the same features.
    Errors: SettingsError for shapes that do not fit, features that are not finite, a loss or C that cannot be.
    """
    check_arguments(x, y, c, loss, tolerance, start)
    return solve(x, y, c, loss, tolerance, start, _reduce(x, y))


def solve(
    x: Float[Tensor, "n p"],
    y: Float[Tensor, "n classes"],
    c: float,
    loss: str,
    tolerance: float,
    start: Svm | None,
    reduced: Reduction | None,
) -> Svm:
    """`fit_svm` of checked arguments; reduced: those of x, or None to work on x itself."""
    kind = torch.float64 if tolerance < _DOUBLE else torch.float32
    x, y = x.to(kind), y.to(kind).T.contiguous().T
    if reduced is not None:
        reduced = Reduction(x, reduced.root)
    begin = None if start is None else start.coefficients.to(kind)
    coefficients, proof, steps = _attempt(x, y, c, loss, tolerance, begin, reduced)
    missed = ~(proof.gap <= tolerance)
    if missed.any() and (kind is torch.float32 or start is not None):
        x, y = x.double(), y[:, missed].double()
        reduced = None if reduced is None else Reduction(x, reduced.root)
        again, second, more = _attempt(x, y, c, loss, tolerance, None, reduced)
        coefficients = coefficients.double()
        coefficients[:, missed] = again
        for field, new_field in zip(proof, second, strict=True):
            field[missed] = new_field
        steps += more
    return Svm(coefficients[:-1], coefficients[-1], proof.objective, proof.gap, steps, int(missed.sum()))


def _attempt(
    x: Tensor, y: Tensor, c: float, loss: str, tolerance: float, begin: Tensor | None, reduced: Reduction | None
) -> tuple[Tensor, SvmCertificate, int]:
    """Coefficients (p + 1, classes), what they are worth, and the steps they took."""
    design = DesignMatrix(x if reduced is None else reduced.features)
    if begin is None:
        begin = y.new_zeros(y.shape[1], design.shape[1]).T
    elif reduced is not None:
        begin = reduced.forth(begin)
    method = _squared_hinge if loss == "squared_hinge" else _hinge
    coefficients, dual, steps = method(design, y, c, tolerance * _AIM, begin)
    if reduced is not None:
        coefficients = reduced.back(coefficients)
    return coefficients, certify(x, y, coefficients, c, dual), steps


def _squared_hinge(
    design: DesignMatrix, y: Tensor, c: float, target_gap: float, begin: Tensor
) -> tuple[Tensor, None, int]:
    coefficients, steps = descend(design, y, Piece(2 * c), curvature(design), begin, target_gap)
    return coefficients, None, steps


def _hinge(design: DesignMatrix, y: Tensor, c: float, target_gap: float, begin: Tensor) -> tuple[Tensor, Tensor, int]:
    """A smooth problem after the other, each around the dual variables of the one before, ever steeper."""
    metric, coefficients, steps_taken = curvature(design), begin, 0
    loss, inner = Piece(2 * c, c), torch.full_like(begin[0], 0.1)
    while True:
        coefficients, steps = descend(design, y, loss, metric, coefficients, inner)
        margins = y * design.forward(coefficients)
        dual = loss.dual(margins)
        steps_taken += steps
        size = 0.5 * coefficients.double().square().sum(0)
        primal = size + c * (1 - margins).clamp_min(0).double().sum(0)
        gap = primal - dual.double().sum(0) + 0.5 * design.adjoint(y * dual).double().square().sum(0)
        if (gap <= target_gap * primal).all() or loss.slope > c * 2.0**_ROUNDS:
            return coefficients, dual, steps_taken
        inner = (0.05 * gap / primal).clamp(0.01 * target_gap, 0.1).to(y.dtype)
        loss = Piece(2 * loss.slope, c, dual)


def _reduce(x: Tensor, y: Tensor) -> Reduction | None:
    n, p = x.shape
    return reduction(x) if p > n and pays(n, [p], y.shape[1]) else None


def check_arguments(x: Tensor, y: Tensor, c: float, loss: str, tolerance: float, start: Svm | None) -> None:
    """Raise SettingsError for what cannot be fitted."""
    check_loss(loss, c)
    if not 0 < tolerance < 1:
        raise SettingsError(f"tolerance {tolerance} must lie between 0 and 1: the largest relative gap to the optimum.")
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or not x.numel() or not y.numel():
        raise SettingsError(
            f"features {tuple(x.shape)} and signs {tuple(y.shape)} do not fit; give (n, p) and (n, classes)."
        )
    if start is not None and (start.weights.shape[1] != y.shape[1] or start.weights.shape[0] > x.shape[1]):
        raise SettingsError(f"machines {tuple(start.weights.shape)} are no start for features {tuple(x.shape)}.")
    if not torch.isfinite(x.sum()):
        raise SettingsError("the features hold NaN or infinity (or values whose sum overflows); leave these rows out.")


def fit_nested(
    x: Float[Tensor, "n p"],
    y: Float[Tensor, "n classes"],
    sizes: Sequence[int],
    *,
    c: float = 1.0,
    loss: str = "squared_hinge",
    tolerance: float = 1e-4,
    start: Svm | None = None,
) -> Iterator[tuple[int, Svm]]:
    """`fit_svm` on x[:, :size] for each of the `sizes`, which ascend; each begins where the one before ended.

    Where that is cheaper the machines are found from inner products, and those of all sizes cost one Gram matrix.
    start: machines for the first size, or for fewer columns.
    Errors: SettingsError as `fit_svm`, and for sizes that do not ascend within 1..p.
    """
    size_list = list(sizes)
    if not size_list or size_list != sorted(set(size_list)) or not 0 < size_list[0] <= size_list[-1] <= x.shape[1]:
        raise SettingsError(f"sizes {size_list} must ascend within 1 to {x.shape[1]}.")
    check_arguments(x, y, c, loss, tolerance, start)
    return _fits(x, y, size_list, c, loss, tolerance, start)


def _fits(
    x: Tensor, y: Tensor, sizes: list[int], c: float, loss: str, tolerance: float, machines: Svm | None
) -> Iterator[tuple[int, Svm]]:
    n = len(x)
    reduces = sizes[-1] > n and pays(n, sizes, y.shape[1])
    gram = torch.zeros(n, n, dtype=torch.float64, device=x.device) if reduces else None
    before = 0
    for size in sizes:
        with torch.no_grad():
            part = x[:, :size]
            reduced: Reduction | None = None
            if gram is not None:
                add_gram(gram, x[:, before:size])
                reduced = reduction(part, gram) if size > n else None
            machines = solve(part, y, c, loss, tolerance, _widen(machines, size), reduced)
        before = size
        yield size, machines


def _widen(machines: Svm | None, size: int) -> Svm | None:
    """The machines with weights of 0 for the columns that they do not know."""
    if machines is None:
        return None
    weights = machines.weights.new_zeros(size, machines.weights.shape[1])
    weights[: len(machines.weights)] = machines.weights
    return Svm(weights, machines.bias, machines.objective, machines.gap, machines.steps)
