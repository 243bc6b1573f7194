"""Numbers and names as the findings spell them: three significant digits, thousands separated, a space before %."""

from __future__ import annotations

import math
import re
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


def number(value: float) -> str:
    """Three significant digits: `0.0123`, `12.3`, `12,346`; `0` without a sign, and `-` for what is no number."""
    if not math.isfinite(value):
        return "-"
    text = f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"
    return "0" if float(text.replace(",", "")) == 0 else text


def percent(share: float) -> str:
    """A share in per cent: `12.3 %`, `0.05 %`; `100 %` of the whole alone, just below it `over 99.9 %`."""
    if 0 < share < 1 and number(100 * share) == "100":
        return "over 99.9 %"
    if 0 < share < 1e-5:
        return "under 0.001 %"
    return f"{number(100 * share)} %"


def points(share: float) -> str:
    """A difference of shares in percentage points: 0.0123 is `1.23 points`."""
    return f"{hundredths(100 * share)} points"


def hundredths(value: float) -> str:
    """Two decimals, one from 10 on: `-0.10`, `12.3`, and `0.00` without a sign."""
    digits = 2 if abs(value) < 9.995 else 1
    return f"{round(float(value), digits) + 0.0:.{digits}f}"


def between(low: str, high: str) -> str:
    """`95 % interval 0.12 to 0.34`."""
    return f"95 % interval {low} to {high}"


def two(value: float) -> str:
    """With two decimals: `-0.10`, and `0.00` without a sign."""
    return f"{round(float(value), 2) + 0.0:.2f}"


def chance(p: float) -> str:
    """A p-value: `p = 0.03`, `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


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
    """The text with a capital first letter; names of layers and formats keep theirs."""
    first = text.split(" ", 1)[0]
    named = any(sign in "._:" or sign.isdigit() for sign in first) and not first.startswith("top-")
    return text if named else text[:1].upper() + text[1:]


def alike(names: Sequence[str], values: Sequence[float]) -> list[str]:
    """The names of the largest of `values`: of all that read alike, so that no tie is given to one of them."""
    top = number(max(values)) if values else ""
    return [name for name, value in zip(names, values, strict=True) if number(value) == top]


_FREE, _ENDED = r"(?<![\w.:/\"'`])", r"(s?)(?![\w/]|[.:]\w)"  # around a word that is part of no name


def of_samples(text: str, noun: str) -> str:
    """A text about images as one about other samples: `over 17 images` is `over 17 texts`.

    Names stay as they are: of nodes and units (`image.conv1`, `encoder.image:3`), of settings and files in quotes.
    """
    if noun == "image":
        return text
    article = re.sub(rf"{_FREE}(a|A)n image{_ENDED}", rf"\1 {noun}\2", text)
    return re.sub(rf"{_FREE}image{_ENDED}", rf"{noun}\1", article)
