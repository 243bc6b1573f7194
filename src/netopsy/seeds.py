"""Streams of random numbers for what Netopsy draws by itself: controls, random weights and random starts."""

from __future__ import annotations

import hashlib


def stream(purpose: str, seed: int, draw: int = 0) -> int:
    """A seed of 63 bits for draw number `draw` of `purpose`, as "weights".

    Never the user's own: most trainings begin at seed 0, and a control drawn from 0 would be the thing itself.
    """
    digest = hashlib.sha256(f"netopsy {purpose} {seed} {draw}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1 | 1 << 62
