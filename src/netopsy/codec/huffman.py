"""Canonical Huffman codes, and Han's coder, which is made of them.

The lengths of the code words are the table. Symbols go in lanes of 1024, one behind the other without a gap. Before the
bits stand the lengths of the lanes, so that a reader takes a symbol of every lane at each step.

Han's coder: gaps between the weights that are kept, fillers where a gap is too long, Huffman over gaps and codes.
Han et al., "Deep Compression" (ICLR 2016), Section 2 (relative indices, Figure 2) and Section 4 (Huffman coding).
"""

from __future__ import annotations

import numpy as np

from netopsy.codec.container import Damage
from netopsy.codec.shared import ARRAY, SharedTensor
from netopsy.errors import SettingsError

Coin = tuple[int, int | None]
LONGEST = 15
LANE = 1024
PIECE = 128 * LANE
ABREAST = 4096


def code_lengths(counts: ARRAY, longest: int = LONGEST) -> ARRAY:
    """Lengths of the code words, uint8 (k,), 0 for what does not occur: the best of those no longer than `longest`.

    A symbol that is alone has length 1, and no bits are written for it.
    Package-merge (Larmore and Hirschberg, 1990): the cheapest 2 k - 2 packages of coins, a coin a symbol and length.
    """
    symbols = np.flatnonzero(counts)
    lengths = np.zeros(len(counts), np.uint8)
    if len(symbols) < 2:
        lengths[symbols] = 1
        return lengths
    coins: list[Coin] = sorted(((int(counts[symbol]), int(symbol)) for symbol in symbols), key=lambda coin: coin[0])
    row = coins
    history = []
    for _ in range(longest - 1):
        history.append(row)
        pairs: list[Coin] = [(a[0] + b[0], None) for a, b in zip(row[::2], row[1::2], strict=False)]
        row = sorted([*coins, *pairs], key=lambda item: item[0])
    history.append(row)
    # From the last row back: of the first `take` items, the coins get a bit each, the pairs take two of the row before.
    take = 2 * len(symbols) - 2
    for row in reversed(history):
        chosen = row[:take]
        for _, symbol in chosen:
            if symbol is not None:
                lengths[symbol] += 1
        take = 2 * sum(symbol is None for _, symbol in chosen)
    return lengths


def code_words(lengths: ARRAY) -> ARRAY:
    """The canonical code words, int64 (k,): ascending by length, then by symbol."""
    words = np.zeros(len(lengths), np.int64)
    word, last = 0, 0
    for symbol in np.lexsort((np.arange(len(lengths)), lengths)).tolist():
        length = int(lengths[symbol])
        if length:
            word <<= length - last
            words[symbol] = word
            word, last = word + 1, length
    return words


def encode_symbols(symbols: ARRAY, alphabet: int) -> bytes:
    """`symbols`, ints (n,) below `alphabet`, as code lengths (4 bits each), lane lengths (16 bits each) and bits."""
    lengths = code_lengths(np.bincount(symbols, minlength=alphabet))
    nibbles = np.append(lengths, np.zeros(alphabet % 2, np.uint8))
    table = (nibbles[::2] | nibbles[1::2] << 4).tobytes()
    if np.count_nonzero(lengths) < 2:
        return table
    words = code_words(lengths)
    total = int((np.bincount(symbols, minlength=alphabet) * lengths.astype(np.int64)).sum())
    out = np.zeros(total // 32 + 2, np.uint32)
    marks, end = [], 0
    for start in range(0, len(symbols), PIECE):
        piece = symbols[start : start + PIECE]
        ends = end + lengths[piece].cumsum(dtype=np.int64)
        _put(out, words[piece], lengths[piece].astype(np.int64), ends)
        marks += ends[LANE - 1 :: LANE].tolist()
        end = int(ends[-1])
    if len(symbols) % LANE:
        marks.append(end)
    lanes = np.diff(marks, prepend=0).astype("<u2").tobytes() if len(marks) > 1 else b""
    return table + lanes + out.astype(">u4").tobytes()[: -(-total // 8)]


def _put(out: ARRAY, words: ARRAY, sizes: ARRAY, ends: ARRAY) -> None:
    """Add code words to the bits in `out`, uint32: most significant first, each up to its end."""
    starts = ends - sizes
    at = starts >> 5
    shifted = words.astype(np.uint64) << (64 - (starts & 31) - sizes).astype(np.uint64)
    first = np.flatnonzero(np.diff(at, prepend=-1))
    joined = np.add.reduceat(shifted, first)
    out[at[first]] += (joined >> np.uint64(32)).astype(np.uint32)
    out[at[first] + 1] += (joined & np.uint64(0xFFFFFFFF)).astype(np.uint32)


def decode_symbols(stream: bytes, count: int, alphabet: int) -> ARRAY:
    """The `count` symbols, uint16 (count,), that `encode_symbols` put in `stream`; Damage where it holds none such."""
    start = -(-alphabet // 2)
    raw = np.frombuffer(stream[:start], np.uint8)
    lengths = np.stack([raw & 15, raw >> 4], axis=1).reshape(-1)[:alphabet].astype(np.int64)
    if len(lengths) < alphabet:
        raise Damage("the code lengths of a stream are cut short")
    used = np.flatnonzero(lengths)
    if len(used) < 2:
        if len(stream) > start or (count and not len(used)):
            raise Damage("a stream has bits and no code words, or the other way round")
        return np.full(count, used[0] if len(used) else 0, np.uint16)
    if int((1 << LONGEST >> lengths[lengths > 0]).sum()) != 1 << LONGEST:
        raise Damage("the code lengths of a stream make no code")
    lanes = -(-count // LANE)
    marks = np.zeros(lanes + 1, np.int64)
    if lanes > 1:
        raw_lengths = np.frombuffer(stream[start : start + 2 * lanes], np.uint8)
        if len(raw_lengths) < 2 * lanes:
            raise Damage("the lanes of a stream are cut short")
        marks[1:] = raw_lengths.view("<u2").cumsum(dtype=np.int64)
        start += 2 * lanes
    bits = 8 * (len(stream) - start)
    if lanes == 1:
        marks[1] = -1
    elif not bits - 8 < marks[-1] <= bits:
        raise Damage("the lanes of a stream do not add up to it")
    return _read(stream[start:], marks, count, lengths)


def _read(stream: bytes, marks: ARRAY, count: int, lengths: ARRAY) -> ARRAY:
    longest = int(lengths.max())
    order = np.lexsort((np.arange(len(lengths)), lengths))
    order = order[lengths[order] > 0]
    # Entry of every window of `longest` bits: symbol and length of the code word it begins with.
    entries = np.repeat(order << 4 | lengths[order], 1 << longest - lengths[order])
    # No lane can run further than its 1024 longest words, so that no look-up leaves the padded bytes.
    padded = np.frombuffer(stream + bytes(LANE * LONGEST // 8 + 8), np.uint8)
    lanes = len(marks) - 1
    out = np.zeros(lanes * LANE, np.uint16)
    for left in range(0, lanes, ABREAST):
        right = min(lanes, left + ABREAST)
        base = int(marks[left]) >> 3
        stop = (int(marks[right]) if marks[right] >= 0 else 8 * len(stream)) // 8 + LANE * LONGEST // 8 + 4
        near = padded[base : stop + 4].astype(np.uint32)
        windows = near[:-3] << 24 | near[1:-2] << 16 | near[2:-1] << 8 | near[3:]
        at = marks[left:right] - 8 * base
        decoded = np.zeros((LANE, right - left), np.uint16)
        short = count - (lanes - 1) * LANE if right == lanes else LANE
        for step in range(LANE if right - left > 1 or right < lanes else short):
            if step == short:
                last_lane, at = at[-1:], at[:-1]
            entry = entries[windows[at >> 3] >> (32 - longest - (at & 7)).astype(np.uint32) & (1 << longest) - 1]
            decoded[step, : len(at)] = entry >> 4
            at = at + (entry & 15)
        if short < LANE and right - left > 1:
            at = np.concatenate([at, last_lane])
        ends = marks[left + 1 : right + 1] - 8 * base
        if lanes == 1:
            if not 8 * (len(stream) - 1) < at[0] <= 8 * len(stream):
                raise Damage("a stream holds more or less than its symbols")
        elif (at != ends).any():
            raise Damage("a lane of a stream does not end where it should")
        out[left * LANE : right * LANE] = decoded.T.reshape(-1)
    return out[:count]


WIDTHS = (3, 4, 5, 8)
"""Bits of a gap that Han et al. use."""


def relative(shared: SharedTensor, width: int) -> tuple[ARRAY, ARRAY]:
    """Gaps and codes of the entries that are stored, ints (e,): the kept weights and, in between, fillers.

    width: bits of a gap. A gap g says that g zeros lie between an entry and the one before it; where more than
    2 ** width - 1 do, the last that a gap can reach is stored itself, as a filler of the value 0.
    """
    if shared.zero is None:
        raise SettingsError("a tensor without zeros has no gaps.")
    if not 1 <= width <= 16:
        raise SettingsError(f"a gap of {width} bits; give 1 to 16 (Han: 5 for linear layers, 8 for convolutions).")
    reach = 1 << width
    nonzero = np.flatnonzero(shared.codes != shared.zero)
    steps = np.diff(nonzero, prepend=-1)
    fillers = (steps - 1) // reach
    ends = (fillers + 1).cumsum()
    gaps = np.full(int(ends[-1]) if len(ends) else 0, reach - 1, np.int64)
    codes = np.full(len(gaps), shared.zero, np.int64)
    gaps[ends - 1] = steps - 1 - fillers * reach
    codes[ends - 1] = shared.codes[nonzero]
    return gaps, codes


def encode_relative(shared: SharedTensor, width: int | None = None) -> tuple[bytes, bytes]:
    """The streams of the positions and of the codes.

    width: bits of a gap; None for the best of `WIDTHS` and of no gaps at all, where zero is a code like any other.
    """
    entries = len(shared.table)
    tries = []
    if width is None or shared.zero is None:
        tries.append((b"", encode_symbols(shared.codes, entries)))
    if shared.zero is not None:
        for bits in WIDTHS if width is None else (width,):
            gaps, codes = relative(shared, bits)
            head = bytes([bits]) + len(gaps).to_bytes(5, "little")
            tries.append((head + encode_symbols(gaps, 1 << bits), encode_symbols(codes, entries)))
    return min(tries, key=lambda streams: len(streams[0]) + len(streams[1]))


def decode_relative(positions: bytes, codes: bytes, entries: int, zero: int | None, out: ARRAY) -> None:
    """Fill `out` (n,) with the codes. Damage where the streams hold no such tensor."""
    if not positions:
        decoded = decode_symbols(codes, len(out), entries)
        if len(decoded) and int(decoded.max()) >= entries:
            raise Damage("a code is beyond its table")
        out[:] = decoded
        return
    bits, count = positions[0], int.from_bytes(positions[1:6], "little")
    if zero is None or len(positions) < 6 or not 1 <= bits <= 16 or count > len(out):
        raise Damage("the positions of a tensor cannot be")
    gaps = decode_symbols(positions[6:], count, 1 << bits)
    at = (gaps.astype(np.int64) + 1).cumsum() - 1
    if count and at[-1] >= len(out):
        raise Damage("the positions of a tensor lie outside it")
    out[:] = zero
    out[at] = decode_symbols(codes, count, entries)
