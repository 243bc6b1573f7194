"""Minimise 1/2 |w|^2 + the loss of all classes at once.

Nonlinear conjugate gradients (Polak and Ribiere) in the metric of a curvature that all classes share, with an exact
line search: on a piecewise quadratic function a Newton method that solves its linear systems along the way. A step
costs one product with the features and one with their transpose, for all classes together.

The Hessian of class k is I + slope X^T D_k X with D_k the mask of its support vectors. All of them are near
I + slope s X^T X with s the mean share of support vectors, whose leading eigenvectors a single product with a few
random vectors finds (randomised Nyström preconditioning; Frangella, Tropp and Udell, 2023).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from netopsy.stats.svm.model import DesignMatrix, Piece

RANK = 64
WHOLE = 256  # up to so many coefficients all directions are taken


@dataclass(frozen=True)
class Curvature:
    """Leading eigenvectors (p + 1, rank) of [x, 1]^T [x, 1], orthonormal, and their eigenvalues (rank,)."""

    directions: Float[Tensor, "p+1 rank"]
    eigenvalues: Float[Tensor, " rank"]

    def solve(
        self, gradient: Float[Tensor, "p+1 classes"], weight: Float[Tensor, " classes"]
    ) -> Float[Tensor, "p+1 classes"]:
        """(I + weight * Gram)^-1 gradient; what the directions leave counts as the smallest eigenvalue."""
        inside = self.directions.T @ gradient
        rest = 1 / (1 + weight * self.eigenvalues.min())
        within = 1 / (1 + weight * self.eigenvalues[:, None])
        return gradient * rest + self.directions @ (inside * (within - rest))


def curvature(design: DesignMatrix, *, rank: int = RANK, seed: int = 0) -> Curvature:
    """The curvature of `design`; exact up to 256 coefficients."""
    p = design.shape[1]
    if p <= WHOLE:
        basis = torch.eye(p, dtype=design.x.dtype, device=design.x.device)
    else:
        draw = torch.Generator().manual_seed(seed)
        start = torch.randn(p, rank, generator=draw).to(design.x)
        basis = torch.linalg.qr(design.adjoint(design.forward(start)))[0]
    image = design.forward(basis)
    values, vectors = _eigh(image)
    return Curvature(basis @ vectors, values.clamp_min(0))


def _eigh(image: Float[Tensor, "n rank"]) -> tuple[Float[Tensor, " rank"], Float[Tensor, "rank rank"]]:
    """Eigenvalues and eigenvectors of image^T image."""
    try:
        return torch.linalg.eigh(image.T @ image)
    except torch.linalg.LinAlgError:  # squares of features below 1e-19 leave the range of float32, and LAPACK gives up
        values, vectors = torch.linalg.eigh(image.double().T @ image.double())
        return values.to(image), vectors.to(image)


Coefficients = Float[Tensor, "p+1 classes"]
PerClass = Float[Tensor, " classes"]

_MOST = 2000  # steps
_STALLED = 60  # steps without a smaller gradient, after which rounding has the last word
_FRESH = 20  # steps after which the scores are computed again, since their updates lose digits
_SEARCH = 8  # trials of a line search
_SPARE = 0.75  # finished classes are put aside once fewer than this share go on


@dataclass
class _Front:
    """The classes that go on, a column each: where they stand, and the step that brought them there."""

    columns: Int64[Tensor, " classes"]
    y: Float[Tensor, "n classes"]
    loss: Piece
    target: PerClass
    w: Coefficients
    scores: Float[Tensor, "n classes"]
    least: PerClass
    stalled: PerClass
    direction: Coefficients
    gradient: Coefficients
    scale: PerClass

    def take(self, which: Tensor) -> _Front:
        values = {name: value if name == "loss" else value[..., which] for name, value in vars(self).items()}
        return _Front(**values | {"loss": self.loss.take(which)})


def descend(
    design: DesignMatrix,
    y: Float[Tensor, "n classes"],
    loss: Piece,
    metric: Curvature,
    start: Coefficients,
    tolerance: float | PerClass,
) -> tuple[Coefficients, int]:
    """The coefficients, and how many steps they took.

    y: +1 and -1. start: where to begin. A class is done when half its squared gradient is at most `tolerance` times its
    objective: the objective is strongly convex with modulus 1, so it is then so near to the least one. It also stops
    when rounding keeps the gradient from shrinking.
    """
    result = start.clone()
    front = _front(design, y, loss, start, tolerance)
    for step in range(_MOST):
        margins = front.y * front.scores
        dual = front.loss.dual(margins)
        gradient = front.w - design.adjoint(front.y * dual)
        violation = 0.5 * _dot(gradient, gradient)
        objective = 0.5 * _dot(front.w, front.w) + front.loss.value(margins, dual).sum(0)
        shrunk = violation < front.least
        front.least = torch.where(shrunk, violation, front.least)
        front.stalled = torch.where(shrunk, 0, front.stalled + 1)
        going = (violation > front.target * objective) & (front.stalled < _STALLED)
        if not going.any():
            result[:, front.columns] = front.w
            return result, step
        if going.to(y.dtype).mean() < _SPARE:
            result[:, front.columns] = front.w
            front, gradient, dual = front.take(going), gradient[:, going], dual[:, going]
        _advance(design, front, gradient, dual, metric)
        if not (step + 1) % _FRESH:
            front.scores = design.forward(front.w)
    result[:, front.columns] = front.w
    return result, _MOST


def _front(design: DesignMatrix, y: Tensor, loss: Piece, start: Coefficients, tolerance: float | PerClass) -> _Front:
    classes = y.shape[1]
    none = y.new_zeros(classes)
    return _Front(
        columns=torch.arange(classes, device=y.device),
        y=y,
        loss=loss,
        target=none + tolerance,
        w=start.clone(),
        scores=design.forward(start),
        least=none + torch.inf,
        stalled=none,
        direction=torch.zeros_like(start),
        gradient=torch.zeros_like(start),
        scale=none + 1,
    )


def _advance(design: DesignMatrix, front: _Front, gradient: Coefficients, dual: Tensor, metric: Curvature) -> None:
    """Choose a direction for each class, and go to the lowest point along it."""
    weight = front.loss.slope * front.loss.inside(dual).to(gradient.dtype).mean(0)
    downhill = metric.solve(gradient, weight)
    now = _dot(gradient, downhill)
    momentum = ((now - _dot(front.gradient, downhill)) / front.scale).clamp_min_(0)
    direction = momentum * front.direction - downhill
    direction = torch.where(_dot(gradient, direction) < 0, direction, -downhill)
    image = design.forward(direction)
    size = _lowest(front, direction, image)
    front.w = front.w + size * direction
    front.scores = front.scores + size * image
    front.direction, front.gradient, front.scale = direction, gradient, now


def _lowest(front: _Front, direction: Coefficients, image: Float[Tensor, "n classes"]) -> PerClass:
    """How far along `direction` each objective is least: safeguarded Newton steps on its derivative."""
    first, square = _dot(front.w, direction), _dot(direction, direction)
    along, margins = front.y * image, front.y * front.scores
    size = torch.ones_like(first)
    low, high = torch.zeros_like(size), torch.full_like(size, torch.inf)
    for _ in range(_SEARCH):
        dual = front.loss.dual(margins + size * along)
        derivative = first + size * square - _dot(dual, along)
        curve = square + front.loss.slope * (along * front.loss.inside(dual)).square_().sum(0)
        low, high = torch.where(derivative < 0, size, low), torch.where(derivative > 0, size, high)
        newton = size - derivative / curve.clamp_min(torch.finfo(curve.dtype).tiny)
        between = (newton > low) & (newton < high)
        following = torch.where(between, newton, torch.where(high.isinf(), 2 * low, 0.5 * (low + high)))
        settled = (following - size).abs() <= 1e-3 * size
        size = following
        if settled.all():
            break
    return size


def _dot(a: Tensor, b: Tensor) -> PerClass:
    return (a * b).sum(0)
