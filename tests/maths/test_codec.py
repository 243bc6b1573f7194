"""Whole tensors and whole files: exact, small, fast to account for, and without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from math import prod
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_codec import entropy_bytes
from safetensors import safe_open

import netopsy
from netopsy.codec.container import Damage
from netopsy.codec.file import is_compressed, read_compressed, sizes, write_compressed
from netopsy.codec.neighbours import nonzero_neighbours
from netopsy.codec.planes import INTERLACED, View
from netopsy.codec.shared import SharedTensor
from netopsy.codec.tensor import decode_tensor, encode_tensor
from netopsy.errors import SettingsError, WeightsError


def tensor(shape: tuple[int, ...], density: float = 0.3, entries: int = 16, seed: int = 0) -> SharedTensor:
    """Normal weights, the largest kept, rounded to a grid."""
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    step = np.float32(6 / entries)
    cut = np.quantile(np.abs(values), 1 - density) if values.size else 0
    rounded = (
        np.where(np.abs(values) >= cut, np.rint(values / step) * step, 0) if density < 1 else np.rint(values) + 0.5
    )
    return SharedTensor.of(rounded.astype(np.float32))


def same(a: SharedTensor, b: SharedTensor) -> bool:
    return a.shape == b.shape and a.table.tobytes() == b.table.tobytes() and (a.codes == b.codes).all()


def network() -> tuple[dict[str, SharedTensor], dict[str, np.ndarray]]:
    shared = {
        "conv.weight": tensor((8, 4, 3, 3)),
        "fc.weight": tensor((10, 40), 0.1),
        "point": tensor((16, 8, 1, 1), 1),
    }
    kept = {
        "conv.bias": np.linspace(-1, 1, 8, dtype=np.float32),
        "bn.seen": np.array(7),
        "half": np.ones(3, np.float16),
    }
    return shared, kept


SHAPES = "- 1 0 0x3 5x0x3x3 7 3000 1x1 4x5 70x90 8x1x3x3 6x5x1x1 4x3x7x7 3x4x5 2x3x2x3x3 2x2x20x20 64x32x3x3"


@pytest.mark.parametrize("coder", ["ans", "huffman"])
@pytest.mark.parametrize("shape", [tuple(map(int, s.split("x"))) if s != "-" else () for s in SHAPES.split()])
@pytest.mark.parametrize("density", [0.1, 1.0])
def test_tensors_of_every_shape_come_back(shape: tuple[int, ...], density: float, coder: str) -> None:
    given_ = (
        tensor(shape, density) if prod(shape) else SharedTensor(shape, np.zeros(1, np.float32), np.zeros(0, np.uint8))
    )
    coded = encode_tensor(given_, coder)
    assert same(decode_tensor(coded), given_)
    assert coded.size == len(coded.positions) + len(coded.codes) + len(coded.table)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_tensors_of_any_codes_come_back(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    entries = data.draw(st.sampled_from([1, 2, 3, 17, 256, 257, 4096]))
    seed = data.draw(st.integers(0, 1 << 16))
    rng = np.random.default_rng(seed)
    table = np.unique(rng.normal(size=entries).astype(np.float32))
    if data.draw(st.booleans()):
        table = np.unique(np.append(table[1:], np.float32(0)))
    kind = np.uint8 if len(table) <= 256 else np.uint16
    given_ = SharedTensor(shape, table, rng.integers(0, len(table), prod(shape)).astype(kind))
    assert same(decode_tensor(encode_tensor(given_, data.draw(st.sampled_from(["ans", "huffman"])))), given_)


@pytest.mark.parametrize("value", [0.0, 0.25])
def test_a_constant_tensor_takes_a_byte_for_256_weights(value: float) -> None:
    given_ = SharedTensor.of(np.full((400, 400), value, np.float32))
    for coder in ("ans", "huffman"):
        coded = encode_tensor(given_, coder)
        assert same(decode_tensor(coded), given_) and coded.size == 625


def test_independent_codes_come_within_a_hundredth_of_their_entropy() -> None:
    for shape in ((1_000_000,), (1000, 1000)):
        given_ = tensor(shape, 0.09, 32)
        assert encode_tensor(given_).size < 1.01 * entropy_bytes(given_.codes)


def test_what_rows_columns_and_neighbours_tell_is_used() -> None:
    rng = np.random.default_rng(0)
    rows, columns = np.exp(rng.normal(size=(300, 1))), np.exp(rng.normal(size=(1, 300)))
    uneven = rng.random((300, 300)) < np.clip(0.1 * rows * columns, 0, 1)
    matrix = SharedTensor.of(np.where(uneven, np.rint(rng.normal(size=uneven.shape) * 4) + 0.5, 0).astype(np.float32))
    assert encode_tensor(matrix).size < 0.93 * entropy_bytes(matrix.codes)
    smooth = rng.normal(size=(64, 64, 1, 1)) + 0.4 * rng.normal(size=(64, 64, 3, 3))
    kernels = SharedTensor.of((np.rint(smooth * 3) / 3).astype(np.float32))
    assert encode_tensor(kernels).size < 0.8 * entropy_bytes(kernels.codes)


def test_columns_that_go_together_tell_of_each_other() -> None:
    rng = np.random.default_rng(2)
    runs = np.repeat(rng.random((200, 50)) < 0.1, 8, axis=1) ^ (rng.random((200, 400)) < 0.01)
    given_ = SharedTensor.of(np.where(runs, rng.integers(1, 5, runs.shape), 0).astype(np.float32))
    coded = encode_tensor(given_)
    share = runs.mean()
    alone = -(share * np.log2(share) + (1 - share) * np.log2(1 - share)) * runs.size / 8
    assert coded.positions[0] == INTERLACED and len(coded.positions) < 0.55 * alone
    assert same(decode_tensor(coded), given_)


@pytest.mark.parametrize("shape", [(1, 4), (3, 5), (9, 6), (70, 7), (40, 33)])
def test_bands_visit_each_column_once_after_the_columns_that_tell_of_it(shape: tuple[int, int]) -> None:
    mask = (np.random.default_rng(3).random(shape) < 0.5).astype(np.uint8)
    seen = np.zeros(shape, int)
    for (rows, columns), distance in View(shape).bands():
        if distance:
            wide = np.pad(mask[rows], ((0, 0), (distance, distance)))
            known = np.pad(seen[rows], ((0, 0), (distance, distance)), constant_values=1)
            at = np.arange(shape[1])[columns] + distance
            assert known[:, at - distance].all() and known[:, at + distance].all()
            naive = 1 + wide[:, at - distance] + wide[:, at + distance]
            assert np.array_equal(nonzero_neighbours(mask[rows], columns, distance), naive)
        seen[rows, columns] += 1
    assert (seen == 1).all()


def test_a_fitted_predictor_finds_what_the_plain_one_misses() -> None:
    rng = np.random.default_rng(1)
    kernels = rng.normal(size=(96, 96, 3, 3))
    kernels[..., 2, 2] = -kernels[..., 0, 0] + 0.1 * rng.normal(size=(96, 96))
    given_ = SharedTensor.of((np.rint(kernels * 3) / 3).astype(np.float32))
    coded = encode_tensor(given_)
    assert coded.codes[0] == 2 and coded.size < 0.97 * entropy_bytes(given_.codes)
    assert same(decode_tensor(coded), given_)


def test_unknown_coders_and_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="give one of ans, huffman"):
        encode_tensor(tensor((3,)), "zip")  # type: ignore[arg-type]
    shared, kept = network()
    with pytest.raises(SettingsError, match="must end in"):
        write_compressed(tmp_path / "x.safetensors", shared, kept)
    path = tmp_path / "x.netopsy.safetensors"
    with pytest.raises(SettingsError, match="plain data"):
        write_compressed(path, shared, kept, settings={"a": object()})
    with pytest.raises(SettingsError, match="one of the two"):
        write_compressed(path, shared, shared)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="kept arrays are float32"):
        write_compressed(path, shared, {"c": np.ones(3, complex)})
    (tmp_path / "a file").write_text("")
    with pytest.raises(WeightsError, match="cannot be written"):
        write_compressed(tmp_path / "a file" / path.name, shared, kept)
    assert [p.name for p in tmp_path.iterdir()] == ["a file"]


@pytest.mark.parametrize("coder", ["ans", "huffman"])
def test_a_file_holds_what_was_written(tmp_path: Path, coder: str) -> None:
    shared, kept = network()
    metadata = {"architecture": "netopsy:lenet5", "mean": "0.5", "sign": "é"}
    path = write_compressed(
        tmp_path / "new" / "n.netopsy.safetensors", shared, kept, metadata=metadata, settings={"bits": [4]}, coder=coder
    )
    compressed = read_compressed(path)
    assert all(same(compressed.shared[name], shared[name]) for name in shared) and set(compressed.shared) == set(shared)
    for name, array in kept.items():
        assert compressed.kept[name].dtype == array.dtype and compressed.kept[name].shape == array.shape
        assert compressed.kept[name].tobytes() == array.tobytes()
    assert compressed.metadata == metadata and compressed.settings == {"bits": [4]}
    state = compressed.state()
    assert list(state) == [*shared, *kept]
    assert state["fc.weight"].tobytes() == shared["fc.weight"].decode().tobytes()
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    again = path.read_bytes()
    write_compressed(path, shared, kept, metadata=metadata, settings={"bits": [4]}, coder=coder)
    assert path.read_bytes() == again


def test_the_account_sums_to_the_file(tmp_path: Path) -> None:
    shared, kept = network()
    path = write_compressed(tmp_path / "n.netopsy.safetensors", shared, kept)
    lines = sizes(path)
    assert sum(line["bytes"] for line in lines) == path.stat().st_size
    assert [line["name"] for line in lines] == [*shared, *kept, "header"]
    first = lines[0]
    assert (first["kind"], first["values"], first["bytes_before"]) == ("shared", 288, 4 * 288)
    assert first["kept"] == shared["conv.weight"].kept and first["entries"] == len(shared["conv.weight"].table)
    assert all(line["bytes"] == line["positions"] + line["codes"] + line["table"] for line in lines[:-1])
    assert lines[4] == {
        **{"name": "bn.seen", "kind": "kept", "values": 1, "kept": 1, "entries": None, "bytes_before": 8},
        **{"positions": 0, "codes": lines[4]["bytes"], "table": 0, "bytes": lines[4]["bytes"]},
    }


@pytest.mark.parametrize("coder", ["ans", "huffman"])
def test_tensors_in_groups_come_back_as_integers_times_the_scale_of_their_group(tmp_path: Path, coder: str) -> None:
    lot = np.random.default_rng(3)
    shared, expected = {}, {}
    for name, shape, group in (("a", (5, 70), 32), ("b", (3, 4, 2, 2), 5), ("c", (9,), 4), ("d", (2, 3), 3)):
        rows, width = (shape[0], int(np.prod(shape[1:]))) if len(shape) > 1 else (1, shape[0])
        integers = lot.integers(-7, 8, (rows, width)).astype(np.float32)
        scales = lot.gamma(1, size=(rows, -(-width // group))).astype(np.float32)
        scales[0, 0] = 0
        codes = SharedTensor.of(integers.reshape(shape))
        shared[name] = SharedTensor(shape, codes.table, codes.codes, group, scales)
        by_hand = [[integers[r, k] * scales[r, k // group] for k in range(width)] for r in range(rows)]
        expected[name] = np.array(by_hand, np.float32).reshape(shape)
    path = write_compressed(tmp_path / "n.netopsy.safetensors", shared, {}, coder=coder)
    state = read_compressed(path).state()
    assert all(state[name].tobytes() == expected[name].tobytes() for name in shared)
    lines = sizes(path)
    assert sum(line["bytes"] for line in lines) == path.stat().st_size
    assert all(line["bytes"] == line["positions"] + line["codes"] + line["table"] for line in lines[:-1])


@pytest.mark.parametrize(
    ("group", "scales", "words"),
    [
        (4, None, "give both or none"),
        (0, np.ones((2, 1), np.float32), "give both or none"),
        (4, np.ones((2, 1), np.float32), r"must be \(2, 2\) float32"),
        (4, np.ones((2, 2)), "float32"),
        (4, np.full((2, 2), -1, np.float32), "not below 0"),
        (4, np.full((2, 2), np.nan, np.float32), "finite"),
        (-4, np.ones((2, 2), np.float32), "both or none"),
    ],
)
def test_scales_that_do_not_fit_are_refused(group: int, scales: np.ndarray | None, words: str) -> None:
    whole = SharedTensor.of(np.ones((2, 5), np.float32))
    with pytest.raises(SettingsError, match=words):
        SharedTensor(whole.shape, whole.table, whole.codes, group, scales)
    with pytest.raises(SettingsError, match="whole numbers below 32768"):
        SharedTensor(whole.shape, whole.table / 2, whole.codes, 4, np.ones((2, 2), np.float32))


def test_the_table_of_a_tensor_in_groups_takes_a_few_bytes() -> None:
    lot = np.random.default_rng(4)
    for top in (1, 7, 127, 32_767):
        integers = lot.integers(-top, top + 1, (30, 64)).astype(np.float32)
        codes = SharedTensor.of(integers)
        shared = SharedTensor(codes.shape, codes.table, codes.codes, 32, np.ones((30, 2), np.float32))
        coded = encode_tensor(shared)
        assert same(decode_tensor(coded), codes) and (len(coded.table) < 30 or top > 127)


def test_the_file_is_a_safetensors_file(tmp_path: Path) -> None:
    shared, kept = network()
    path = write_compressed(tmp_path / "n.netopsy.safetensors", shared, kept, metadata={"architecture": "a"})
    with safe_open(path, framework="np") as file:
        assert file.metadata()["architecture"] == "a" and file.metadata()["netopsy_format"] == "compressed/1"
        (name,) = file.keys()
        assert file.get_tensor(name).dtype == np.uint8
    assert is_compressed(path) and not is_compressed(tmp_path / "none")


def test_a_compressed_network_loads_like_any_other(tmp_path: Path) -> None:
    plain = netopsy.load_network("netopsy:digits-a")
    state = {name: value.numpy() for name, value in plain.module.state_dict().items()}
    shared = {n: SharedTensor.of(np.round(a, 1)) for n, a in state.items() if a.ndim > 1}
    kept = {n: a for n, a in state.items() if a.ndim < 2}
    metadata = {"architecture": "netopsy:digits-a", "std": "0.25"}
    path = write_compressed(tmp_path / "d.netopsy.safetensors", shared, kept, metadata=metadata)
    alone = netopsy.load_network(str(path))
    assert alone.preprocessing.std == (0.25,)
    renamed = path.rename(tmp_path / "renamed.safetensors")
    for loaded in (alone, netopsy.load_network("netopsy:digits-a", weights=renamed)):
        for name, value in loaded.module.state_dict().items():
            expected = shared[name].decode() if name in shared else kept[name]
            assert value.numpy().tobytes() == expected.tobytes(), name


def test_reading_needs_no_torch(tmp_path: Path) -> None:
    shared, kept = network()
    path = write_compressed(tmp_path / "n.netopsy.safetensors", shared, kept)
    code = """if True:
        import sys, json
        sys.modules["torch"] = None
        from netopsy.codec import read_compressed, sizes, write_compressed
        found = read_compressed(sys.argv[1])
        write_compressed(sys.argv[1], found.shared, found.kept)
        print(json.dumps([len(sizes(sys.argv[1])), {n: float(a.sum()) for n, a in found.state().items()}]))
    """
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    count, sums = json.loads(done.stdout)
    assert count == 7 and sums["fc.weight"] == pytest.approx(float(shared["fc.weight"].decode().sum()), rel=1e-6)


def test_claims_beyond_the_bound_are_damage() -> None:
    coded = encode_tensor(tensor((40, 40)))
    for change in ({"shape": (10**6, 10**6)}, {"entries": 0}, {"entries": 5000}, {"shape": (-1, 5)}, {"coder": "lzw"}):
        with pytest.raises(Damage):
            decode_tensor(type(coded)(**{**coded.__dict__, **change}))
