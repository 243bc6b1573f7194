"""The bricks of the coders against slow twins: ANS, adaptive counts, Huffman, relative indices, arrays and tables."""

from __future__ import annotations

import hashlib
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference_codec import ans_encode, entropy_bytes, huffman_bits, huffman_decode, relative_walk

from netopsy.codec.arrays import DTYPES, decode_array, decode_table, encode_array, encode_table
from netopsy.codec.container import Damage
from netopsy.codec.huffman import (
    LANE,
    code_lengths,
    code_words,
    decode_relative,
    decode_symbols,
    encode_relative,
    encode_symbols,
    relative,
)
from netopsy.codec.levels import code_plane
from netopsy.codec.ports import TOTAL, ReadPort, WritePort, frequencies
from netopsy.codec.shared import SharedTensor
from netopsy.codec.tensor import encode_tensor
from netopsy.errors import SettingsError


def random_symbols(seed: int, count: int, entries: int, power: float = 3) -> np.ndarray:
    shares = np.random.default_rng(seed).random(entries) ** power + 1e-6
    return np.random.default_rng(seed + 1).choice(entries, count, p=shares / shares.sum())


@given(st.lists(st.integers(0, 1 << 30), min_size=2, max_size=300))
def test_frequencies_sum_to_the_total_and_none_is_zero(weights: list[int]) -> None:
    result = frequencies(np.array(weights))
    assert result.sum() == TOTAL and result.min() >= 1
    if sum(weights):
        expected = np.array(weights) / sum(weights) * TOTAL
        assert np.abs(result - expected).max() <= 2 * len(weights) + 1


def test_a_port_writes_what_ans_one_symbol_at_a_time_writes() -> None:
    port, parts = WritePort(), []
    for seed, entries in enumerate((2, 3, 40, 256)):
        symbols, counts = random_symbols(seed, 500, entries), frequencies(random_symbols(seed + 9, entries, 1000) + 1)
        port.code(symbols, counts)
        parts.append((symbols.tolist(), counts.tolist()))
    stream = port.finish()
    assert stream == ans_encode(parts)
    reader = ReadPort(stream)
    for symbols, counts in parts:
        assert reader.code(np.zeros(len(symbols)), np.array(counts)).tolist() == symbols
    reader.finish()


def test_a_stream_that_is_longer_or_ends_in_zero_is_refused() -> None:
    port = WritePort()
    port.code(np.ones(40, np.int32), np.array([TOTAL // 2, TOTAL // 2]))
    with pytest.raises(Damage, match="more than its symbols"):
        ReadPort(port.finish()).finish()
    with pytest.raises(Damage, match="zero byte"):
        ReadPort(b"\x01\0")


def test_counting_as_it_goes_costs_little_more_than_the_entropy() -> None:
    symbols, port = random_symbols(3, 100_000, 32), WritePort()
    code_plane(port, symbols.copy(), np.ones(32, np.int64), 8)
    size = len(port.finish())
    # Each free frequency costs about half the logarithm of the count (Rissanen, 1984).
    assert 0 < size - entropy_bytes(symbols) < 31 * 0.5 * np.log2(1e5) / 8 + 150


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [0, 1, 7, 3000])
def test_arrays_come_back_bit_for_bit(dtype: str, count: int) -> None:
    bits = np.random.default_rng(1).integers(0, 256, count * np.dtype(dtype).itemsize, np.uint8)
    for raw in (bits & 1 if dtype == "bool" else bits, np.zeros_like(bits)):
        array = raw.view(dtype)
        stream = encode_array(array)
        assert decode_array(stream, dtype, count).tobytes() == array.tobytes()
        assert len(stream) <= array.nbytes * 1.01 + 14


def test_the_exponents_of_weights_are_packed() -> None:
    weights = np.random.default_rng(0).normal(size=20_000).astype(np.float32)
    # Sign and mantissa are 24 bits; the exponent of a normal deviate has an entropy of about 2.5 bits.
    exponents = np.frexp(weights)[1]
    assert len(encode_array(weights)) < 3 * 20_000 + 1.02 * entropy_bytes(exponents) + 60


@given(hnp.arrays(np.float32, st.integers(1, 300), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
@settings(max_examples=60, deadline=None)
def test_tables_come_back_bit_for_bit(values: np.ndarray) -> None:
    table = np.unique(values + np.float32(0))
    assert decode_table(encode_table(table), len(table)).tobytes() == table.tobytes()


def test_a_sorted_table_takes_less_than_its_floats() -> None:
    table = np.unique(np.random.default_rng(0).normal(size=256).astype(np.float32))
    assert len(encode_table(table)) < 0.72 * table.nbytes


@pytest.mark.parametrize("entries", [1, 2, 3, 16, 300, 4096])
@pytest.mark.parametrize("count", [0, 1, 5, LANE - 1, LANE, LANE + 1, 5 * LANE, 20_000])
def test_huffman_comes_back(entries: int, count: int) -> None:
    symbols = random_symbols(entries, count, entries)
    assert (decode_symbols(encode_symbols(symbols, entries), count, entries) == symbols).all()


def test_huffman_bits_are_those_of_the_code_and_are_read_bit_by_bit() -> None:
    symbols = random_symbols(5, 900, 40)
    counts = np.bincount(symbols, minlength=40)
    lengths = code_lengths(counts)
    assert (counts * lengths).sum() == huffman_bits(counts)
    assert 8 * entropy_bytes(symbols) <= huffman_bits(counts) < 8 * entropy_bytes(symbols) + len(symbols)
    stream = encode_symbols(symbols, 40)
    bits = "".join(format(byte, "08b") for byte in stream[20:])
    assert huffman_decode(bits, lengths.tolist(), len(symbols)) == symbols.tolist()
    assert huffman_bits(np.array([7])) == 0 and huffman_bits(np.array([3, 5])) == 8


def test_limited_lengths_are_the_best_that_kraft_allows() -> None:
    for counts in ([1, 1, 2, 4, 8, 16], [5, 0, 1, 1, 1, 40], [1, 2, 3, 5, 8, 13]):
        used = [count for count in counts if count]
        best = min(
            sum(count * length for count, length in zip(used, lengths, strict=True))
            for lengths in product((1, 2, 3), repeat=len(used))
            if sum(2.0**-length for length in lengths) <= 1
        )
        assert (code_lengths(np.array(counts), 3) * counts).sum() == best


def test_very_uneven_counts_stay_within_fifteen_bits() -> None:
    counts = np.array([1 << n for n in range(24)])
    lengths = code_lengths(counts)
    assert lengths.max() == 15 and sum(2.0 ** -int(n) for n in lengths) == 1
    assert len({format(w, f"0{n}b") for w, n in zip(code_words(lengths), lengths, strict=True)}) == 24


@given(st.lists(st.sampled_from([0, 0, 0, 0, 0, 1, 2]), min_size=1, max_size=400), st.sampled_from([1, 2, 3, 4, 5, 8]))
@settings(max_examples=80, deadline=None)
def test_relative_indices_are_those_of_a_walk(codes: list[int], width: int) -> None:
    tensor = SharedTensor((len(codes),), np.array([0, 1, 2], np.float32), np.array(codes, np.uint8))
    gaps, stored = relative(tensor, width)
    assert (gaps.tolist(), stored.tolist()) == relative_walk(codes, 0, width)
    out = np.zeros(len(codes), np.uint8)
    decode_relative(*encode_relative(tensor, width), 3, 0, out)
    assert out.tolist() == codes


def test_the_figure_of_the_paper() -> None:
    """Han et al., ICLR 2016, Figure 2: weights at 1, 4 and 15 in 3 bits need a filler at 12."""
    codes = np.zeros(16, np.uint8)
    codes[[1, 4, 15]] = [3, 1, 2]
    tensor = SharedTensor((16,), np.array([0, 0.9, 1.7, 3.4], np.float32), codes)
    gaps, stored = relative(tensor, 3)
    assert (gaps[1:] + 1).tolist() == [3, 8, 3] and stored.tolist() == [3, 1, 0, 2]


def test_gaps_without_zeros_and_of_odd_widths_are_refused() -> None:
    with pytest.raises(SettingsError, match="without zeros"):
        relative(SharedTensor((2,), np.array([1, 2], np.float32), np.array([0, 1], np.uint8)), 4)
    with pytest.raises(SettingsError, match="1 to 16"):
        relative(SharedTensor((2,), np.array([0, 2], np.float32), np.array([0, 1], np.uint8)), 0)


def test_the_bytes_of_a_tensor_never_change() -> None:
    """Files must be read by later versions of numpy and constriction: the streams are pinned, from integers alone."""
    at = np.arange(8 * 6 * 9, dtype=np.int64)
    codes = (at * at * 7 + at // 9 * 5) % 23 % 16
    table = (np.arange(16) - 5).astype(np.float32) / 8
    mixed = np.where((at * 13) % 7 < 4, 5, codes).astype(np.uint8)
    prints = {}
    for coder in ("ans", "huffman"):
        for shape in ((8, 6, 3, 3), (16, 27), (432,)):
            coded = encode_tensor(SharedTensor(shape, table, mixed), coder)
            streams = coded.positions + b"/" + coded.codes + b"/" + coded.table
            prints[coder, len(shape)] = hashlib.sha256(streams).hexdigest()[:12]
    relative_indices = "6c40abb1295d"
    assert prints == {
        ("ans", 4): "aea357190bf9",
        ("ans", 2): "40d4a67de058",
        ("ans", 1): "bc4412bffeca",
        **{("huffman", sides): relative_indices for sides in (4, 2, 1)},
    }
