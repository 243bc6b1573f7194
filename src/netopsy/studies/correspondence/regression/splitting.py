"""A rough minimum for all targets by few large matrix products: which weights are zero, mostly."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from netopsy.studies.correspondence.regression.gram import Gram

_BURST = 10  # steps between two looks at which weights are zero
_MOST = 40  # bursts
_SETTLED = 1.0  # weights a target, on average, that become or cease to be zero in a burst: exact rounds mend so few

_RELAXATION = np.float32(1.6)


def approach(
    gram: Gram, targets: Float64[np.ndarray, "p q"], strength: float, start: Float64[np.ndarray, "p q"]
) -> Float64[np.ndarray, "p q"]:
    """Weights near the minimum of w'Gw/2 - c'w + strength |w|_1, in float32, with exact zeros.

    The alternating direction method of multipliers: Boyd, Parikh, Chu, Peleato, Eckstein, "Distributed optimization and
    statistical learning via the alternating direction method of multipliers", Foundations and Trends in Machine
    Learning 3 (2011), Section 6.4; over-relaxed as in their Section 3.4.3.
    """
    bound = np.float32(strength / gram.step)
    fixed = (targets / gram.step).astype(np.float32) @ gram.inverse
    sparse = start.astype(np.float32)
    dual = ((targets - start @ gram.matrix) / gram.step).astype(np.float32).clip(-bound, bound)
    smooth, spare = np.empty_like(sparse), np.empty_like(sparse)
    pattern = sparse != 0
    for _ in range(_MOST):
        for _ in range(_BURST):
            np.subtract(sparse, dual, out=spare)
            np.matmul(spare, gram.inverse, out=smooth)
            smooth += fixed
            smooth *= _RELAXATION
            sparse *= _RELAXATION - 1
            smooth -= sparse
            smooth += dual
            np.clip(smooth, -bound, bound, out=dual)
            np.subtract(smooth, dual, out=sparse)
        before, pattern = pattern, sparse != 0
        if (pattern != before).sum() <= _SETTLED * len(sparse):
            break
    return sparse.astype(np.float64)
