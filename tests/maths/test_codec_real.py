"""A network that Han's group stored in their own format (SqueezeNet, 675,763 bytes), read here and stored in ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from reference_codec import entropy_bytes, huffman_bits

from netopsy.codec.file import read_compressed, sizes, write_compressed
from netopsy.codec.huffman import relative
from netopsy.codec.shared import SharedTensor

FIRES = [(96, 16, 64), (128, 16, 64), (128, 32, 128), (256, 32, 128), (256, 48, 192), (384, 48, 192), (384, 64, 256)]
FIRES += [(512, 64, 256)]


class Stored:
    """A layer of the file: shape, codebook float32 (256,), biases, codes and gaps of its entries, uint8 (e,)."""

    def __init__(
        self, shape: tuple[int, ...], book: np.ndarray, biases: np.ndarray, codes: np.ndarray, gaps: np.ndarray
    ):
        self.shape, self.book, self.biases, self.codes, self.gaps = shape, book, biases, codes, gaps
        self.dense = np.zeros(int(np.prod(shape)), np.uint8)
        self.dense[np.cumsum(gaps.astype(np.int64) + 1) - 1] = codes

    @property
    def weights(self) -> np.ndarray:
        return self.book[self.dense].reshape(self.shape)


def stored(path: Path) -> list[Stored]:
    """26 counts, then for each layer 256 float32, the biases, a byte a code, and gaps of 4 bits, low nibble first."""
    raw = path.read_bytes()
    shapes = [(96, 3, 7, 7)]
    for inputs, squeeze, expand in FIRES:
        shapes += [(squeeze, inputs, 1, 1), (expand, squeeze, 1, 1), (expand, squeeze, 3, 3)]
    shapes.append((1000, 512, 1, 1))
    at, layers = 104, []
    for count, shape in zip(np.frombuffer(raw, "<u4", 26).tolist(), shapes, strict=True):
        book = np.frombuffer(raw, "<f4", 256, at)
        biases = np.frombuffer(raw, "<f4", shape[0], at + 1024)
        codes = np.frombuffer(raw, np.uint8, count, at + 1024 + 4 * shape[0])
        at += 1024 + 4 * shape[0] + count
        pairs = np.frombuffer(raw, np.uint8, -(-count // 2), at)
        at += len(pairs)
        gaps = np.stack([pairs & 15, pairs >> 4], axis=1).reshape(-1)[:count]
        layers.append(Stored(shape, book, biases, codes, gaps))
    assert at == len(raw)
    return layers


@pytest.fixture(scope="module")
def layers(shared: Path) -> list[Stored]:
    return stored(shared / "data/networks/squeezenet-deepcompressed.net")


@pytest.mark.real
def test_the_file_is_understood(layers: list[Stored]) -> None:
    assert sum(len(layer.codes) for layer in layers) == 422_083
    assert sum(int(np.count_nonzero(layer.codes)) for layer in layers) == 415_921
    assert round(sum(entropy_bytes(layer.dense) for layer in layers)) == 496_613
    for layer in layers:
        assert layer.book[0] == 0 and len(np.unique(layer.book)) == 256


@pytest.mark.real
def test_our_relative_indices_are_theirs(layers: list[Stored]) -> None:
    """Gaps of 4 bits with fillers, made from the weights alone, are those of the file, entry by entry."""
    for layer in layers:
        tensor = SharedTensor.of(layer.weights)
        gaps, codes = relative(tensor, 4)
        end = len(gaps)
        assert (gaps == layer.gaps[:end]).all() and not layer.codes[end:].any()
        assert (tensor.table[codes] == layer.book[layer.codes[:end]]).all()


@pytest.mark.real
@pytest.mark.parametrize(("coder", "streams", "whole"), [("ans", 490_000, 525_000), ("huffman", 504_338, 540_000)])
def test_codes_and_positions_take_less_than_they_did(
    layers: list[Stored], tmp_path: Path, coder: str, streams: int, whole: int
) -> None:
    shared = {f"{number}.weight": SharedTensor.of(layer.weights) for number, layer in enumerate(layers)}
    kept = {f"{number}.bias": layer.biases for number, layer in enumerate(layers)}
    path = write_compressed(tmp_path / "squeezenet.netopsy.safetensors", shared, kept, coder=coder)
    size = sum(line["positions"] + line["codes"] for line in sizes(path) if line["kind"] == "shared")
    assert size <= streams and path.stat().st_size <= whole
    compressed = read_compressed(path)
    for number, layer in enumerate(layers):
        tensor = compressed.shared[f"{number}.weight"]
        assert tensor.decode().tobytes() == (layer.weights + np.float32(0)).tobytes()
        assert tensor.table.tobytes() == np.sort(layer.book).tobytes()
        assert compressed.kept[f"{number}.bias"].tobytes() == layer.biases.tobytes()


@pytest.mark.real
def test_per_layer_huffman_of_their_entries_is_what_is_published(layers: list[Stored]) -> None:
    bits = sum(huffman_bits(np.bincount(a)) for layer in layers for a in (layer.codes, layer.gaps))
    assert bits / 8 == pytest.approx(513_937, rel=2e-3)
