"""Numbers before nouns: one is singular, everything else plural."""

from __future__ import annotations

import pytest

from netopsy.wording import ends, listing, plural


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 layers"), (1, "1 layer"), (2, "2 layers"), (1_234, "1,234 layers")]
)
def test_counts_before_a_noun(count: int, words: str) -> None:
    assert plural(count, "layer") == words
    assert plural(count, "class", "classes") == words.replace("layers", "classes").replace("layer", "class")


def test_the_first_and_the_last() -> None:
    assert ends(1, "activation") == ("the first activation", "the last")
    assert ends(3, "layer") == ("the first 3 layers", "the last 3")


def test_lists() -> None:
    assert [listing(list("abcdef")[:n]) for n in (0, 1, 2, 3)] == ["", "a", "a and b", "a, b and c"]
    assert listing(list("abcdef")) == "a, b, c, d, e and 1 more"
