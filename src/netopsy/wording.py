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
    """`12 s`, `4 min`, `3 h`: in the largest unit that there are two of, one for seconds."""
    for unit, name in ((3600.0, "h"), (60.0, "min")):
        if seconds >= 1.95 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{max(1.0, seconds):.0f} s"


def capital(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]
