"""Karnaugh maps: a truth table folded so that neighbours differ in one input.

Source: Karnaugh, "The map method for synthesis of combinational logic circuits", Transactions AIEE 72 (1953).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64


def gray_code(bits: int) -> list[int]:
    """All numbers of so many bits, each differing from the next (and the last from the first) in one bit."""
    return [n ^ (n >> 1) for n in range(2**bits)]


def karnaugh_map(inputs: int) -> Int64[np.ndarray, "rows columns"]:
    """The cells of a truth table as a Karnaugh map: the first half of the inputs down, the others across."""
    down = inputs // 2
    across = inputs - down
    return np.array([[row << across | column for column in gray_code(across)] for row in gray_code(down)])
