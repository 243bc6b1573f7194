"""Bits: those erased from a number, those that a stressed vector takes, and what that saves (Carvalho et al.)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float32
from torch import Tensor

from netopsy.errors import SettingsError


def erase_bits(x: Float32[Tensor, "*shape"], removed: int) -> Float32[Tensor, "*shape"]:
    """The numbers with the rightmost `removed` bits (0..32) of their float32 pattern set to zero (Q-B).

    1 to 23 bits go from the mantissa, 24 to 31 from the exponent as well, 32 take the sign too and leave 0.
    The authors erase from 64-bit numbers. For values of 2^-63 to 2, r bits there are exactly r - 29 bits here, for r
    from 29 to 58; fewer change nothing, for a float32 has only zeros in these places. From 59 on, values below 2 are 0
    here, and one and the same tiny number there.
    """
    if not 0 <= removed <= 32:
        raise SettingsError(f"{removed} bits to erase; a 32-bit number has 0 to 32.")
    mask = -(1 << removed) if removed < 32 else 0
    return (x.float().contiguous().view(torch.int32) & mask).view(torch.float32)


def bits_per_vector(p: int, h: int) -> int:
    """Bits of p dimensions with h levels each, p ceil(log2 h): every dimension is a number of whole bits."""
    return p * level_bits(h)


def level_bits(h: int) -> int:
    """Bits that tell h levels apart, ceil(log2 h); 0 for a single one."""
    if h < 1:
        raise SettingsError(f"{h} levels; give at least 1.")
    return (h - 1).bit_length()


def compression(bits: int, n: int, word: int = 32) -> float:
    """Share of n words of `word` bits that `bits` save, 0..1; below 0 where they take more.

    409 dimensions of 27 levels of 4096 32-bit numbers: 1 - 409 x 5 / (4096 x 32) = 98.44 %.
    """
    if n < 1 or word < 1 or not math.isfinite(bits):
        raise SettingsError(f"{bits} bits of {n} words of {word} bits; give at least one word of at least one bit.")
    return 1 - bits / (word * n)
