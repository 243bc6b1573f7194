"""Numbers before nouns: one is singular, everything else plural."""

from __future__ import annotations

import pytest

from netopsy.wording import alike, capital, chance, ends, hundredths, listing, number, percent, plural, points


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


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (0.01234, "0.0123"),
        (12.34, "12.3"),
        (999.4, "999"),
        (999.6, "1,000"),
        (12345.6, "12,346"),
        (-1.005, "-1"),
        (float("nan"), "-"),
        (float("inf"), "-"),
    ],
)
def test_numbers_have_three_significant_digits(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0 %"),
        (0.12, "12 %"),
        (0.12345, "12.3 %"),
        (1.0, "100 %"),
        (0.9996, "over 99.9 %"),
        (0.9994, "99.9 %"),
        (1e-7, "under 0.001 %"),
        (2.5, "250 %"),
    ],
)
def test_shares_in_per_cent_are_whole_only_where_they_are(share: float, text: str) -> None:
    assert percent(share) == text


def test_differences_in_points() -> None:
    assert [points(share) for share in (0.0123, -0.00004, 0.1234, 0.09999)] == [
        "1.23 points",
        "0.00 points",
        "12.3 points",
        "10.0 points",
    ]
    assert hundredths(-0.096) == "-0.10"


def test_a_capital_is_given_to_words_and_not_to_names() -> None:
    words = ("noise of 5 %", "int8 per channel", "layer1.0.conv1 is", "K = 4", "")
    assert [capital(text) for text in words] == ["Noise of 5 %", *words[1:]]


def test_chances_and_ties() -> None:
    assert [chance(p) for p in (0.5, 0.034, 0.001, 0.0009)] == ["p = 0.5", "p = 0.034", "p = 0.001", "p < 0.001"]
    assert alike(["a", "b", "c"], [0.87501, 0.875, 0.5]) == ["a", "b"] and alike([], []) == []
