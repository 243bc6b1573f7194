"""Machines on ever more of the leading columns of one set of features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from netopsy.errors import SettingsError
from netopsy.stats.svm.fit import check, solve
from netopsy.stats.svm.reduction import Reduction, add_gram, pays, reduction
from netopsy.stats.svm.svm import Svm


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
    wanted = list(sizes)
    if not wanted or wanted != sorted(set(wanted)) or not 0 < wanted[0] <= wanted[-1] <= x.shape[1]:
        raise SettingsError(f"sizes {wanted} must ascend within 1 to {x.shape[1]}.")
    check(x, y, c, loss, tolerance, start)
    return _fits(x, y, wanted, c, loss, tolerance, start)


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
            machines = solve(part, y, c, loss, tolerance, _widened(machines, size), reduced)
        before = size
        yield size, machines


def _widened(machines: Svm | None, size: int) -> Svm | None:
    """The machines with weights of 0 for the columns that they do not know."""
    if machines is None:
        return None
    weights = machines.weights.new_zeros(size, machines.weights.shape[1])
    weights[: len(machines.weights)] = machines.weights
    return Svm(weights, machines.bias, machines.objective, machines.gap, machines.steps)
