"""One entropy coder with two faces: a model says the frequencies, a port writes symbols with them or reads them back.

A model is written once and run twice. It calls `plane[where] = port.code(plane[where], frequencies)`: the writer's port
takes the symbols that stand there and returns them, the reader's port ignores what stands there and returns what was
written. A model therefore uses nothing but what it has coded before.

The code is the range variant of asymmetric numeral systems (Duda, 2013; constriction's `AnsCoder`): a state of 64 bits,
words of 32 bits, frequencies that sum to 2**24. Frequencies are integers made by integer arithmetic, so that every
machine has the same ones.
"""

from __future__ import annotations

from typing import Any, Protocol

import constriction
import numpy as np

from netopsy.codec.container import Damage
from netopsy.codec.shared import ARRAY

TOTAL = 1 << 24
AnsCoder = constriction.stream.stack.AnsCoder
Categorical = constriction.stream.model.Categorical


class Port(Protocol):
    """`code` takes symbols, int of any shape (n,), and their frequencies, int64 (k,); it returns int32 (n,)."""

    def code(self, symbols: ARRAY, frequencies: ARRAY) -> ARRAY: ...


def frequencies(weights: ARRAY) -> ARRAY:
    """Frequencies, int64 (k,), at least 1 each and 2**24 in all, in proportion to `weights` (int, sum below 2**38)."""
    free = TOTAL - len(weights)
    shares = weights.astype(np.int64) * free // max(1, int(weights.sum()))
    shares[int(np.argmax(weights))] += free - int(shares.sum())
    return shares + 1


def _model(counts: ARRAY) -> Any:
    # The quantiser gives symbol i the bounds floor(sum(p[:i])) + i where p sums to 2**24 - k: with p = count - 1, these
    # are the counts themselves.
    return Categorical((counts - 1).astype(np.float64), perfect=False, lazy=False)


class WritePort:
    """Collects the symbols; `finish` gives the stream. ANS is a stack: the last symbol goes in first."""

    def __init__(self) -> None:
        self.parts: list[tuple[ARRAY, ARRAY]] = []

    def code(self, symbols: ARRAY, frequencies: ARRAY) -> ARRAY:
        plain = symbols.astype(np.int32)
        if len(frequencies) > 1 and len(plain):
            self.parts.append((plain, frequencies))
        return plain

    def finish(self) -> bytes:
        """The words of the coder, little-endian, less the zero bytes at the end."""
        coder = AnsCoder()
        for symbols, counts in reversed(self.parts):
            coder.encode_reverse(symbols, _model(counts))
        return coder.get_compressed().astype("<u4").tobytes().rstrip(b"\0")


class ReadPort:
    """Reads what a WritePort wrote; `finish` raises Damage where the symbols did not use the stream up exactly."""

    def __init__(self, stream: bytes) -> None:
        if stream.endswith(b"\0"):
            raise Damage("a stream ends in a zero byte")
        words = np.frombuffer(stream + b"\0" * (-len(stream) % 4), "<u4")
        self.coder = AnsCoder(words.astype(np.uint32))

    def code(self, symbols: ARRAY, frequencies: ARRAY) -> ARRAY:
        if len(frequencies) < 2 or not len(symbols):
            return np.zeros(len(symbols), np.int32)
        return self.coder.decode(_model(frequencies), len(symbols))

    def finish(self) -> None:
        if not self.coder.is_empty():
            raise Damage("a stream holds more than its symbols")
