"""Damaged and hostile files: a clear error, quickly, in bounded memory, whatever was changed and however well."""

from __future__ import annotations

import contextlib
import json
import resource
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import netopsy
from netopsy.codec.arrays import decode_array, decode_table
from netopsy.codec.container import Damage, read_container, write_container
from netopsy.codec.file import read_compressed, sizes, write_compressed
from netopsy.codec.shared import SharedTensor
from netopsy.codec.tensor import decode_tensor, encode_tensor
from netopsy.errors import WeightsError

SUFFIX = ".netopsy.safetensors"


def pruned(shape: tuple[int, ...], seed: int = 0, entries: int = 9) -> SharedTensor:
    rng = np.random.default_rng(seed)
    codes = np.where(rng.random(int(np.prod(shape))) < 0.4, rng.integers(0, entries, int(np.prod(shape))), entries // 2)
    return SharedTensor(shape, (np.arange(entries) - entries // 2).astype(np.float32), codes.astype(np.uint8))


def small(folder: Path, coder: str) -> Path:
    shared = {"a.weight": pruned((6, 4, 3, 3)), "b.weight": pruned((12, 20), 1), "c": pruned((3, 2, 5, 5), 2)}
    scales = np.linspace(1, 2, 6, dtype=np.float32).reshape(3, 2)
    shared["d"] = replace(pruned((3, 6), 3), group=4, scales=scales)
    kept = {"a.bias": np.linspace(0, 1, 6, dtype=np.float32), "seen": np.array(3)}
    metadata = {"architecture": "netopsy:lenet5"}
    return write_compressed(
        folder / f"small{SUFFIX}", shared, kept, metadata=metadata, settings={"bits": 3}, coder=coder
    )


@pytest.fixture(autouse=True)
def _in_memory_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of files need not reach the disk."""
    monkeypatch.setattr("os.fsync", lambda _: None)


def refuses(path: Path, run: Callable[[Path], object] = read_compressed) -> None:
    started = time.perf_counter()
    with pytest.raises(WeightsError) as caught:
        run(path)
    message = str(caught.value)
    assert (
        str(path) in message and message.endswith(".") and "\n" not in message and len(message) < 400 + len(str(path))
    )
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize("coder", ["ans", "huffman"])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, coder: str) -> None:
    raw = small(tmp_path, coder).read_bytes()
    path = tmp_path / f"cut{SUFFIX}"
    for length in range(len(raw)):
        path.write_bytes(raw[:length])
        refuses(path)
    path.write_bytes(raw + b"\0")
    refuses(path)


@pytest.mark.parametrize("coder", ["ans", "huffman"])
def test_every_flipped_bit_is_refused(tmp_path: Path, coder: str) -> None:
    raw = small(tmp_path, coder).read_bytes()
    path = tmp_path / f"flipped{SUFFIX}"
    bits = np.random.default_rng(0).choice(8 * len(raw), 800, replace=False).tolist()
    for bit in [*range(64), *bits]:
        broken = bytearray(raw)
        broken[bit // 8] ^= 1 << bit % 8
        path.write_bytes(broken)
        refuses(path)


@pytest.mark.parametrize("coder", ["ans", "huffman"])
def test_streams_changed_under_a_true_digest_are_refused(tmp_path: Path, coder: str) -> None:
    """The parsers themselves are fuzzed here: the container's digest is made anew after each change.

    A few bytes say nothing of the tensors (the last bits of a Huffman stream, the scale where no context is used): a
    file with another value there holds the same network.
    """
    metadata, blob = read_container(small(tmp_path, coder))
    expected = read_compressed(tmp_path / f"small{SUFFIX}").state()
    passed = 0
    path = tmp_path / f"changed{SUFFIX}"
    rng = np.random.default_rng(1)
    start = 4 + int.from_bytes(blob[:4], "little")
    for turn in range(500):
        broken = bytearray(blob)
        for _ in range(int(rng.integers(1, 4))):
            broken[int(rng.integers(start, len(blob)))] = int(rng.integers(0, 256))
        if turn % 3 == 0:
            at, length = int(rng.integers(start, len(blob))), int(rng.integers(1, 40))
            broken[at : at + length] = rng.integers(0, 256, len(broken[at : at + length]), np.uint8).tobytes()
        write_container(path, metadata, bytes(broken))
        try:
            state = read_compressed(path).state()
        except WeightsError:
            continue
        passed += 1
        assert all(state[name].tobytes() == array.tobytes() for name, array in expected.items())
    assert passed < 20


def rebuilt(path: Path, metadata: dict[str, str], blob: bytes, change: Callable[[list], list | None]) -> None:
    """Write `blob` with its index changed and every digest of the container made anew."""
    start = 4 + int.from_bytes(blob[:4], "little")
    content = json.loads(zlib.decompress(blob[20:start], -15))
    if (changed := change(content)) is not None:
        content = changed[0]
    press = zlib.compressobj(9, wbits=-15)
    index = blob[4:20] + press.compress(json.dumps(content).encode()) + press.flush()
    write_container(path, metadata, len(index).to_bytes(4, "little") + index + blob[start:])


def test_lies_in_the_index_are_refused(tmp_path: Path) -> None:
    metadata, blob = read_container(small(tmp_path, "ans"))
    path = tmp_path / f"lying{SUFFIX}"
    odd = [0, -1, 1, 2, 7, 255, 2**31, 2**62, 2**63, 10**30, 1.5, None, "", "x", [], [1], {}, True, "\ud800", "ans"]
    rng = np.random.default_rng(2)
    for turn in range(600):

        def change(content: list, turn: int = turn) -> None:
            line = content[1][turn % len(content[1])]
            field = int(rng.integers(0, 6))
            value = odd[int(rng.integers(0, len(odd)))]
            if isinstance(line[field], list) and line[field] and rng.random() < 0.8:
                was = line[field][(at := int(rng.integers(0, len(line[field]))))]
                line[field][at] = value
                same = was == value
            else:
                same, line[field] = line[field] == value, value
            if same or (field == 0 and isinstance(value, str) and value != "\ud800"):
                line[2] = "neither a new name nor the same value is a lie"

        rebuilt(path, metadata, blob, change)
        refuses(path)


@pytest.mark.parametrize(
    "content", [[], [{}], [[], []], [{}, {}], 5, None, "x", [{}, [[]]], [{}, [1, 2]], [{}, [["a"] * 6]]]
)
def test_an_index_of_another_form_is_refused(tmp_path: Path, content: object) -> None:
    metadata, blob = read_container(small(tmp_path, "ans"))
    rebuilt(tmp_path / f"form{SUFFIX}", metadata, blob, lambda _: [content])
    refuses(tmp_path / f"form{SUFFIX}")
    refuses(tmp_path / f"form{SUFFIX}", sizes)


def test_random_streams_never_leave_the_decoders_but_as_damage() -> None:
    rng = np.random.default_rng(3)
    coded = {coder: encode_tensor(pruned((8, 5, 3, 3)), coder) for coder in ("ans", "huffman")}
    for turn in range(700):
        now = coded["ans" if turn % 2 else "huffman"]
        parts = {
            name: rng.integers(0, 256, int(rng.integers(0, 90)), np.uint8).tobytes() if rng.random() < 0.4 else stream
            for name, stream in (("positions", now.positions), ("codes", now.codes), ("table", now.table))
        }
        if rng.random() < 0.5:
            parts["codes"] = now.codes[:3] + parts["codes"]
        with contextlib.suppress(Damage):
            assert decode_tensor(type(now)(now.shape, now.entries, now.coder, **parts)).codes.max() < now.entries
        noise = rng.integers(0, 256, int(rng.integers(0, 60)), np.uint8).tobytes()
        with contextlib.suppress(Damage):
            assert decode_array(noise, "float32", turn % 50).shape == (turn % 50,)
        with contextlib.suppress(Damage):
            assert (np.diff(decode_table(noise, 1 + turn % 50)) > 0).all()


def header(entry: object, metadata: object, raw: bytes = b"") -> bytes:
    text = json.dumps({"__metadata__": metadata, "netopsy": entry}, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + raw


def test_hostile_headers_are_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / f"hostile{SUFFIX}"
    metadata = {"netopsy_format": "compressed/1", "netopsy_digest": "0" * 32}
    huge = {"dtype": "U8", "shape": [10**12], "data_offsets": [0, 10**12]}
    files = [
        b"", b"\0", b"\xff" * 8, (10**12).to_bytes(8, "little") + b"{}", (2).to_bytes(8, "little") + b"{}",
        (200_000).to_bytes(8, "little") + b"[" * 200_000, header(huge, metadata), header(huge, metadata, b"\0" * 100),
        header({}, metadata), header(None, None), header(huge, {"netopsy_format": 5}), header(huge, {"a": "\ud800"}),
        header(huge, {**metadata, "netopsy_format": "compressed/9"}), b"\x80\x04\x95" + bytes(100),
    ]  # fmt: skip
    for raw in files:
        path.write_bytes(raw)
        refuses(path)
        refuses(path, sizes)
        refuses(path, lambda p: netopsy.load_network("netopsy:digits-a", weights=p))


def test_a_bomb_in_the_index_is_refused(tmp_path: Path) -> None:
    metadata, _ = read_container(small(tmp_path, "ans"))
    press = zlib.compressobj(9, wbits=-15)
    bomb = bytes(16) + press.compress(b"[" + b"0," * (1 << 25) + b"0]") + press.flush()
    write_container(tmp_path / f"bomb{SUFFIX}", metadata, len(bomb).to_bytes(4, "little") + bomb)
    refuses(tmp_path / f"bomb{SUFFIX}")


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="does not exist"):
        read_compressed(tmp_path / f"none{SUFFIX}")
    with pytest.raises(WeightsError, match="is a folder"):
        sizes(tmp_path)


def test_a_claim_of_a_million_million_weights_takes_no_memory(tmp_path: Path) -> None:
    """With true digests throughout, in a process that may take 400 MB more than it has after its imports."""
    metadata, blob = read_container(small(tmp_path, "ans"))
    paths = []
    for number, shape in enumerate(([10**12], [10**6, 10**6], [6, 4, 3, 10**11], [2**40, 0, 2**40], [1 << 47])):

        def change(content: list, shape: list[int] = shape) -> None:
            content[1][0][2] = shape

        paths.append(tmp_path / f"claim{number}{SUFFIX}")
        rebuilt(paths[-1], metadata, blob, change)
    code = """if True:
        import resource, sys
        from netopsy.codec import read_compressed
        from netopsy.errors import WeightsError
        taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + 400 * 2**20,) * 2)
        for path in sys.argv[1:]:
            try:
                read_compressed(path)
            except WeightsError as error:
                assert "memory" not in str(error), error
                continue
            sys.exit(1)
    """
    done = subprocess.run([sys.executable, "-c", code, *map(str, paths)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss > 0


def test_reading_takes_a_few_bytes_a_weight(tmp_path: Path) -> None:
    """What is stated: the codes, and passing copies of the size of the codes; never eight bytes a weight."""
    path = write_compressed(tmp_path / f"wide{SUFFIX}", {"w": pruned((3000, 3000))}, {})
    import tracemalloc

    tracemalloc.start()
    read_compressed(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * 9_000_000 + 20_000_000
