"""Numbers and names as the findings spell them."""

from __future__ import annotations

from collections.abc import Sequence


def plural(count: int, noun: str, nouns: str = "") -> str:
    """`1 layer`, `3 layers`; `nouns` where the plural is irregular."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def ends(count: int, noun: str) -> tuple[str, str]:
    """(`the first layer`, `the last`), or (`the first 3 layers`, `the last 3`)."""
    return (
        ("the first " + noun, "the last") if count == 1 else (f"the first {plural(count, noun)}", f"the last {count}")
    )


def listing(names: Sequence[str], most: int = 5) -> str:
    """`a, b and c`; of more than `most` names the first ones and how many more there are."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def points(share: float) -> str:
    """A difference of shares in percentage points: 0.0123 is `1.23 points`."""
    return f"{100 * share + 0.0:.2f} points"


def two(value: float) -> str:
    """With two decimals: `-0.10`, and `0.00` without a sign."""
    return f"{round(float(value), 2) + 0.0:.2f}"


def size(bytes: float) -> str:
    """`1.5 MB` (10^6 bytes), `27.2 kB`."""
    return f"{bytes / 1e6:,.1f} MB" if bytes >= 1e6 else f"{bytes / 1e3:,.1f} kB"


def duration(seconds: float) -> str:
    """About how long something will take, as roughly as it is known: `5 s`, `40 s`, `3 min`, `2 h 10 min`."""
    if seconds < 55:
        return f"{max(5 * round(seconds / 5), 1 if seconds < 2.5 else 5)} s"
    if seconds < 3570:
        return f"{max(round(seconds / 60), 1)} min"
    tens = round(seconds / 600)
    return f"{tens // 6} h {10 * (tens % 6)} min" if tens % 6 else f"{tens // 6} h"


def capital(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]
