"""Slow twins of the coders: one symbol at a time, in Python's own integers."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

WORD, STATE, PRECISION = 32, 64, 24


def ans_encode(parts: Sequence[tuple[Sequence[int], Sequence[int]]]) -> bytes:
    """Range ANS with a 64-bit state and 32-bit words. parts: symbols and their frequencies, in the order of reading."""
    state, words = 0, []
    for symbols, frequencies in reversed(parts):
        starts = [sum(frequencies[:symbol]) for symbol in range(len(frequencies))]
        for symbol in reversed(symbols):
            if state >> (STATE - PRECISION) >= frequencies[symbol]:
                words.append(state & (1 << WORD) - 1)
                state >>= WORD
            count = frequencies[symbol]
            state = (state // count << PRECISION) + state % count + starts[symbol]
    while state:
        words.append(state & (1 << WORD) - 1)
        state >>= WORD
    return b"".join(word.to_bytes(4, "little") for word in words).rstrip(b"\0")


def huffman_decode(bits: str, lengths: Sequence[int], count: int) -> list[int]:
    """Symbols of a string of 0 and 1, bit by bit, by the canonical code of the lengths."""
    words: dict[str, int] = {}
    word = 0
    last = 0
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(lengths) if length):
        word <<= length - last
        words[format(word, f"0{length}b")] = symbol
        word, last = word + 1, length
    symbols, bits_so_far = [], ""
    for bit in bits:
        if len(symbols) == count:
            break
        bits_so_far += bit
        if bits_so_far in words:
            symbols.append(words[bits_so_far])
            bits_so_far = ""
    return symbols


def relative_walk(codes: Sequence[int], zero: int, width: int) -> tuple[list[int], list[int]]:
    """Han's relative indices by walking along the weights: the gaps and the codes that are stored."""
    gaps, stored, zeros = [], [], 0
    last = max((at for at, code in enumerate(codes) if code != zero), default=-1)
    for code in codes[: last + 1]:
        if code != zero or zeros == (1 << width) - 1:
            gaps.append(zeros)
            stored.append(code)
            zeros = 0
        else:
            zeros += 1
    return gaps, stored


def entropy_bytes(symbols: np.ndarray) -> float:
    """Order-0 entropy of all symbols together, in bytes."""
    share = np.unique(symbols, return_counts=True)[1] / max(1, symbols.size)
    return float(-(share * np.log2(share)).sum() * symbols.size / 8)


def huffman_bits(counts: np.ndarray) -> int:
    """Bits that symbols seen `counts` (k,) times take in a Huffman code (Huffman, 1952), its table not counted.

    The sum of all inner nodes of the tree: no code word is as long as it is deep there, so no limit applies. A single
    symbol takes none.
    """
    heap = [int(count) for count in np.asarray(counts).reshape(-1) if count > 0]
    heapq.heapify(heap)
    bits = 0
    while len(heap) > 1:
        joined = heapq.heappop(heap) + heapq.heappop(heap)
        bits += joined
        heapq.heappush(heap, joined)
    return bits
