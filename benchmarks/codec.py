"""Entropy coders of shared weights: netopsy's two against zlib, zstd, constriction alone, dahuffman and nncodec.

    python benchmarks/codec.py [--flat 10000000] [--pruned 4096 9216] [--sample 500000] [--repeats 3]

Two inputs. `flat`: independent 5-bit codes of normal weights on an even grid, none of them zero. `pruned`: a layer of
the size of AlexNet's fc6 of which 9 % are kept, independently, with 31 values beside zero: Han et al.'s densities.
Both are the hard case for netopsy, for its contexts have nothing to find; real networks are in
docs/compressed_file.md. Sizes are of all streams with their tables, beside the order-0 entropy of the dense codes.
Times are CPU seconds of one thread (the machine may be shared), the best of the repeats, from codes in memory to
streams and back; each result is compared with what went in.

zlib, zstd and dahuffman get the codes as bytes, one a weight, zeros too; nncodec (DeepCABAC) gets them as integers.
The slow ones run on the first `--sample` weights, and their sizes are scaled up. constriction's ANS gets exact counts
as its model, which are added to its size as 4 bytes an entry. A peer that is not installed is skipped with a sentence.
"""

from __future__ import annotations

import argparse
import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from common import add_tiny, shrink, tell
from netopsy.codec.shared import SharedTensor
from netopsy.codec.tensor import decode_tensor, encode_tensor

Coder = tuple[Callable[[SharedTensor], Any], Callable[[Any], np.ndarray], Callable[[Any], int]]


def flat(count: int) -> SharedTensor:
    values = np.random.default_rng(0).normal(size=count)
    codes = np.searchsorted(np.linspace(-3, 3, 31), values).astype(np.uint8)
    return SharedTensor((count,), np.arange(-15.5, 16, 1).astype(np.float32), codes)


def pruned(rows: int, columns: int) -> SharedTensor:
    rng = np.random.default_rng(1)
    table = (np.arange(32) - 16).astype(np.float32)
    nonzero = rng.random(rows * columns, dtype=np.float32) < 0.09
    levels = np.clip(np.rint(rng.normal(size=int(nonzero.sum())) * 6), -16, 15)
    codes = np.full(rows * columns, 16, np.uint8)
    codes[nonzero] = np.where(levels == 0, 1, levels) + 16
    return SharedTensor((rows, columns), table, codes)


def netopsy(coder: Any) -> Coder:
    return (
        lambda tensor: encode_tensor(tensor, coder),
        lambda coded: decode_tensor(coded).codes,
        lambda coded: coded.size,
    )


def zlib_huffman() -> Coder:
    def encode(tensor: SharedTensor) -> bytes:
        press = zlib.compressobj(9, strategy=zlib.Z_HUFFMAN_ONLY)
        return press.compress(tensor.codes.data) + press.flush()

    return encode, lambda stream: np.frombuffer(zlib.decompress(stream), np.uint8), len


def zstd(level: int) -> Coder:
    import zstandard

    return (
        lambda tensor: zstandard.ZstdCompressor(level).compress(tensor.codes.data),
        lambda stream: np.frombuffer(zstandard.ZstdDecompressor().decompress(stream), np.uint8),
        len,
    )


def bare_ans() -> Coder:
    import constriction

    ans, categorical = constriction.stream.stack.AnsCoder, constriction.stream.model.Categorical

    def encode(tensor: SharedTensor) -> Any:
        counts = np.bincount(tensor.codes, minlength=len(tensor.table)).astype(np.float64)
        model = categorical(counts / counts.sum(), perfect=False, lazy=False)
        coder = ans()
        coder.encode_reverse(tensor.codes.astype(np.int32), model)
        return coder.get_compressed(), counts, len(tensor.codes)

    def decode(coded: Any) -> np.ndarray:
        model = categorical(coded[1] / coded[1].sum(), perfect=False, lazy=False)
        return ans(coded[0]).decode(model, coded[2])

    return encode, decode, lambda coded: 4 * len(coded[0]) + 4 * len(coded[1])


def dahuffman() -> Coder:
    from dahuffman import HuffmanCodec

    def encode(tensor: SharedTensor) -> Any:
        raw = tensor.codes.tobytes()
        codec = HuffmanCodec.from_data(raw)
        return codec, codec.encode(raw)

    return (
        encode,
        lambda coded: np.frombuffer(coded[0].decode(coded[1]), np.uint8),
        lambda coded: len(coded[1]) + len(coded[0].get_code_table()),
    )


def nncodec() -> Coder:
    """DeepCABAC with ten unary bins and its parameters optimised; the codes are its integers as they are, zero at 0."""
    from nncodec.extensions import deepCABAC

    off = deepCABAC.HdspMode.AlwaysOff, np.zeros(2, np.int8)

    def encode(tensor: SharedTensor) -> Any:
        zero = tensor.zero if tensor.zero is not None else len(tensor.table) // 2
        values = (tensor.codes.astype(np.int32) - zero).reshape(tensor.shape[0], -1)
        encoder = deepCABAC.Encoder()
        encoder.initCtxModels(11, 1)
        encoder.encodeLayer(values, 0, 0, 0, 0, 0, np.zeros(len(values), np.int32), *off, 0, 0)
        return np.array(encoder.finish()), values.shape, zero

    def decode(coded: Any) -> np.ndarray:
        stream, shape, zero = coded
        values = np.zeros(shape, np.int32)
        decoder = deepCABAC.Decoder()
        decoder.setStream(stream)
        decoder.initCtxModels(11)
        decoder.decodeLayer(values, 0, 0, 0, 0, *off, 0, 0)
        return (values.reshape(-1) + zero).astype(np.uint8)

    return encode, decode, lambda coded: len(coded[0])


def peers() -> dict[str, tuple[Callable[[], Coder], bool]]:
    """Each coder by name, and whether it runs on a sample."""
    return {
        "netopsy ans": (lambda: netopsy("ans"), False),
        "netopsy huffman": (lambda: netopsy("huffman"), False),
        "constriction ans": (bare_ans, False),
        "zlib huffman only": (zlib_huffman, False),
        "zstd 3": (lambda: zstd(3), False),
        "zstd 19": (lambda: zstd(19), True),
        "dahuffman": (dahuffman, True),
        "nncodec": (nncodec, False),
    }


def entropy_bytes(codes: np.ndarray) -> float:
    share = np.unique(codes, return_counts=True)[1] / len(codes)
    return float(-(share * np.log2(share)).sum() * len(codes) / 8)


def cpu(run: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of one call, and what it returned."""
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


def part(tensor: SharedTensor, count: int) -> SharedTensor:
    """The first rows, or the first values, of a tensor."""
    columns = int(np.prod(tensor.shape[1:]))
    rows = max(1, min(tensor.shape[0], count // columns))
    return SharedTensor((rows, *tensor.shape[1:]), tensor.table, tensor.codes[: rows * columns])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--flat", type=int, default=10_000_000)
    parser.add_argument("--pruned", type=int, nargs=2, default=(4096, 9216))
    parser.add_argument("--sample", type=int, default=500_000)
    parser.add_argument("--repeats", type=int, default=3)
    add_tiny(parser)
    options = parser.parse_args()
    shrink(options, flat=2000, pruned=(32, 64), sample=500, repeats=1)
    inputs: dict[str, dict[str, dict[str, float]]] = {}
    for name, whole in (("flat", flat(options.flat)), ("pruned", pruned(*options.pruned))):
        bound = entropy_bytes(whole.codes)
        print(f"{name}: {len(whole.codes):,} weights, order-0 entropy {bound:,.0f} bytes", flush=True)
        measured: dict[str, tuple[float, float]] = {}
        for peer, (make, sampled) in peers().items():
            try:
                encode, decode, size_of = make()
            except ImportError as error:
                print(f"  {peer:18} not installed here ({error}): skipped")
                continue
            tensor = part(whole, options.sample) if sampled else whole
            count = len(tensor.codes)
            writes, reads = [], []
            for _ in range(1 if sampled else options.repeats):
                seconds, stream = cpu(lambda: encode(tensor))  # noqa: B023
                writes.append(seconds)
                seconds, back = cpu(lambda: decode(stream))  # noqa: B023
                reads.append(seconds)
            if not np.array_equal(back, tensor.codes):
                raise SystemExit(f"{peer} gave back something else")
            size = size_of(stream) / count * len(whole.codes)
            measured[peer] = count / min(reads), size
            rates = {"encode": count / min(writes) / 1e6, "decode": count / min(reads) / 1e6, "entropy": size / bound}
            inputs.setdefault(name, {})[peer] = rates
            note = f" (on {count:,}, size scaled)" if sampled else ""
            print(
                f"  {peer:18} encode {count / min(writes) / 1e6:7.2f} M/s  decode {count / min(reads) / 1e6:7.2f} M/s  "
                f"{size:12,.0f} bytes  {size / bound:.4f} of the entropy{note}",
                flush=True,
            )
        for peer, (speed, size) in measured.items():
            if not peer.startswith("netopsy"):
                ours = measured["netopsy ans"]
                print(
                    f"netopsy vs {peer}, {name}: decodes {ours[0] / speed:.2g}x as fast, {size / ours[1]:.3f}x smaller"
                )
    ours, bare = (inputs["pruned"][peer]["decode"] for peer in ("netopsy ans", "constriction ans"))
    tell("codec", ours / bare, inputs=inputs)


if __name__ == "__main__":
    main()
