"""A few of many: where not all can be shown."""

from __future__ import annotations

import numpy as np


def spread(count: int, most: int) -> list[int]:
    """At most `most` of the indices 0 to `count` - 1, evenly spaced, ascending, the first and the last among them."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()
