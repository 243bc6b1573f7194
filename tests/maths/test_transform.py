"""Transforms: bytes and back, alone and in batches, files good and bad, and no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import reference_stress as reference
import safetensors.numpy
import torch

from netopsy import load_transform
from netopsy.errors import TransformError
from netopsy.transform.chain import Transform
from netopsy.transform.coders import Floats, Levels, ProductCoder, Scalars, Signs, pack, unpack
from netopsy.transform.fit.training import fit_ranges, quantize, unit
from netopsy.transform.steps import Project, Take, UnitLength

P = 24


def features(n: int = 40, p: int = P, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, p)).astype(np.float32)


def project(q: int, p: int = P) -> Project:
    generator = np.random.default_rng(1)
    return Project(generator.normal(size=(p, q)).astype(np.float32), generator.normal(size=q).astype(np.float32))


def levels(q: int, h: int, shared: bool = False) -> Levels:
    low = -np.random.default_rng(2).random(1 if shared else q).astype(np.float32)
    return Levels(q, low, low + np.float32(1.5), h)


CODEBOOKS = np.random.default_rng(3).normal(size=(3, 16, 4)).astype(np.float32)
WIDTHS = np.array([3, 1, 8, 2, 5], np.uint8)
CENTROIDS = np.concatenate([np.sort(features(1, 1 << width)[0]) for width in WIDTHS.tolist()])
CHAINS: dict[str, Transform] = {
    "float32": Transform((Floats(P, 32),)),
    "float16": Transform((UnitLength(P), Take(P, 5), Floats(5, 16))),
    "levels": Transform((UnitLength(P), project(10), levels(10, 27)), "a network, its pool"),
    "one range": Transform((UnitLength(P), levels(P, 5, shared=True))),
    "one level": Transform((UnitLength(P), levels(P, 1))),
    "300 levels": Transform((project(7), levels(7, 300))),
    "65536 levels": Transform((levels(P, 65536),)),
    "signs": Transform((project(13), Signs(13))),
    "scalars": Transform((UnitLength(P), project(5), Scalars(WIDTHS, CENTROIDS))),
    "product": Transform((UnitLength(P), project(11), ProductCoder(11, CODEBOOKS))),
}
BITS = {"float32": 32 * P, "float16": 80, "levels": 50, "one range": 3 * P, "one level": 0, "300 levels": 63}
BITS |= {"65536 levels": 16 * P, "signs": 13, "scalars": 19, "product": 12}
every = pytest.mark.parametrize("name", CHAINS)


@pytest.mark.parametrize("bits", range(1, 17))
@pytest.mark.parametrize("q", [1, 3, 8, 21])
def test_packed_codes_are_the_bits_side_by_side(bits: int, q: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 1 << bits, (5, q)).astype(np.uint8 if bits <= 8 else np.uint16)
    packed = pack(codes, bits)
    assert [row.tobytes() for row in packed] == reference.pack(codes, bits)
    assert np.array_equal(unpack(packed, q, bits), codes)


@every
def test_codes_take_exactly_the_bits(name: str) -> None:
    chain, x = CHAINS[name], features()
    codes = chain.encode(x)
    assert chain.bits == BITS[name] and codes.shape == (40, -(-BITS[name] // 8)) and codes.dtype == np.uint8
    back = chain.decode(codes)
    assert back.shape == (40, chain.outputs) and back.dtype == np.float32
    assert np.array_equal(back, chain.transform(x))
    # what came back from a code has this code (signs, bins and centroids are their own nearest)
    if name != "float32" and len(chain.steps) == 1:
        assert np.array_equal(chain.transform(back), back)


@every
def test_rows_alone_give_the_codes_of_the_batch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chain, x = CHAINS[name], features(200)
    codes = chain.encode(x)
    assert np.array_equal(np.concatenate([chain.encode(row[None]) for row in x]), codes)
    monkeypatch.setattr("netopsy.transform.chain.AT_ONCE", 7 * P)
    assert np.array_equal(chain.encode(x), codes)
    assert np.array_equal(chain.decode(codes), np.concatenate([chain.decode(row[None]) for row in codes]))
    assert chain.encode(x[:0]).shape == (0, chain.bytes) and chain.transform(x[:0]).shape == (0, chain.outputs)


def test_any_real_type_is_taken(tmp_path: Path) -> None:
    chain, x = CHAINS["levels"], features().astype(np.float16)
    codes = chain.encode(x)
    np.save(tmp_path / "x.npy", x)
    inputs = [x.astype(np.float32), x.astype(np.float64), x.astype(">f8"), torch.from_numpy(x), x.tolist()]
    for same in [*inputs, np.load(tmp_path / "x.npy", mmap_mode="r"), np.asfortranarray(x)]:
        assert np.array_equal(chain.encode(same), codes)
    whole = np.arange(2 * P).reshape(2, P)
    assert np.array_equal(chain.encode(whole), chain.encode(whole.astype(np.float64)))


def test_levels_are_those_of_the_stress_to_the_bit() -> None:
    train, x = torch.from_numpy(features(90)), torch.from_numpy(features(seed=5))
    for h in (1, 2, 27, 256, 1000):
        for per_dimension in (True, False):
            ranges = fit_ranges(unit(train), per_dimension)
            chain = Transform((UnitLength(P), Levels(P, ranges.low.numpy(), ranges.high.numpy(), h)))
            assert np.array_equal(chain.transform(x), quantize(unit(x), ranges, h).numpy())


def test_each_step_is_what_it_says() -> None:
    x = features()
    step = project(6)
    assert np.allclose(Transform((step, Floats(6))).transform(x), x @ step.components + step.offset, atol=1e-5)
    assert np.allclose(
        Transform((UnitLength(P), Floats(P))).transform(x), x / np.linalg.norm(x, axis=1)[:, None], atol=1e-7
    )
    assert np.array_equal(Transform((Take(P, 3), Floats(3))).transform(x), x[:, :3])
    assert np.array_equal(Transform((Floats(P, 16),)).transform(x), x.astype(np.float16).astype(np.float32))
    signs = Transform((Signs(P),)).transform(x)
    assert np.allclose(signs, np.sign(x) / np.sqrt(P)) and np.allclose(np.linalg.norm(signs, axis=1), 1)
    parts = np.split(CENTROIDS, np.cumsum(1 << WIDTHS.astype(int))[:-1])
    nearest = [part[np.abs(x[:, j, None] - part).argmin(1)] for j, part in enumerate(parts)]
    assert np.array_equal(Transform((Take(P, 5), Scalars(WIDTHS, CENTROIDS))).transform(x), np.stack(nearest, 1))
    padded = np.pad(x[:, :11], ((0, 0), (0, 1))).reshape(-1, 3, 1, 4)
    closest = ((padded - CODEBOOKS) ** 2).sum(3).argmin(2)
    expected = np.stack([CODEBOOKS[i, closest[:, i]] for i in range(3)], 1).reshape(-1, 12)[:, :11]
    assert np.array_equal(Transform((Take(P, 11), ProductCoder(11, CODEBOOKS))).transform(x), expected)


def test_extreme_values_come_back_finite() -> None:
    x = np.zeros((4, P))
    x[1], x[2, 0], x[3, 1] = 1e300, 1e-300, -1e200
    for chain in CHAINS.values():
        assert np.isfinite(chain.transform(x)).all()
    assert Transform((Floats(P, 16),)).transform(x)[1:, 0].tolist() == [65504, 0, 0]
    assert (Transform((Signs(P),)).transform(x)[0] < 0).all()  # +1 is above 0 only
    assert Transform((UnitLength(P), Floats(P))).transform(x)[:, :2].tolist() == pytest.approx(
        np.array([[0, 0], [P**-0.5, P**-0.5], [1, 0], [0, -1]])
    )


@every
def test_a_file_gives_back_the_transform(name: str, tmp_path: Path) -> None:
    chain, x = CHAINS[name], features()
    path = chain.save(tmp_path / "transform.safetensors")
    loaded = load_transform(path)
    assert [type(step) for step in loaded.steps] == [type(step) for step in chain.steps]
    assert np.array_equal(loaded.encode(x), chain.encode(x))
    assert np.array_equal(loaded.decode(chain.encode(x)), chain.transform(x))
    assert (loaded.source, loaded.describe(), loaded.inputs) == (chain.source, chain.describe(), P)
    assert list(tmp_path.iterdir()) == [path]


def test_the_description_names_the_steps_and_the_size() -> None:
    assert CHAINS["levels"].describe() == (
        "unit length, 10 directions of 24 dimensions, 27 levels a dimension (5 bits): "
        "50 bits (7 bytes) a vector, 93.49 % less than 24 32-bit numbers"
    )
    assert repr(CHAINS["levels"]) == f"Transform({CHAINS['levels'].describe()})"


def test_a_saved_transform_works_without_torch(tmp_path: Path) -> None:
    chain, x = CHAINS["product"], features()
    chain.save(tmp_path / "t.safetensors")
    np.save(tmp_path / "x.npy", x)
    code = f"""
import sys
sys.modules.update(torch=None, faiss=None, scipy=None, sklearn=None, polars=None)
import numpy as np
from netopsy import load_transform
transform = load_transform({str(tmp_path / "t.safetensors")!r})
np.save({str(tmp_path / "codes.npy")!r}, transform.encode(np.load({str(tmp_path / "x.npy")!r})))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert np.array_equal(np.load(tmp_path / "codes.npy"), chain.encode(x))


# --- mistakes


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((2, 23)), r"float64 \(2, 23\); this transform takes real numbers \(n, 24\)"),
        (np.zeros(P), r"as x\[None\] for a single vector"),
        (np.full((2, P), np.nan), "NaN or infinite"),
        (np.full((2, P), "a"), "real numbers"),
        (np.zeros((2, P), complex), "real numbers"),
        ([[1.0], [1.0, 2.0]], "cannot be read as a numpy array"),
        (torch.zeros(2, P, dtype=torch.bfloat16), "cannot be read as a numpy array"),
        (torch.zeros(2, P, requires_grad=True), "cannot be read as a numpy array"),
        (None, "real numbers"),
    ],
)
def test_vectors_that_do_not_fit_are_errors(x: object, message: str) -> None:
    with pytest.raises(TransformError, match=message):
        CHAINS["levels"].encode(x)


def test_bytes_that_are_no_codes_are_errors() -> None:
    chain = CHAINS["levels"]
    for codes in (np.zeros((2, 6), np.uint8), np.zeros((2, 7), np.int8), np.zeros(7, np.uint8)):
        with pytest.raises(TransformError, match=r"this transform takes uint8 \(n, 7\)"):
            chain.decode(codes)
    # every pattern of the other codes stands for something: nothing to refuse
    assert CHAINS["scalars"].decode(np.full((1, 3), 255, np.uint8)).shape == (1, 5)
    with pytest.raises(TransformError, match="a code is 31, of 27 levels"):
        chain.decode(np.full((1, 7), 255, np.uint8))


def test_steps_that_do_not_fit_are_errors() -> None:
    ones = np.ones(4, np.float32)
    wrong = [
        lambda: Transform(()),
        lambda: Transform((UnitLength(4),)),
        lambda: Transform((Floats(4), Floats(4))),
        lambda: Transform((UnitLength(4), Floats(5))),
        lambda: UnitLength(0),
        lambda: Take(3, 4),
        lambda: Floats(4, 64),
        lambda: Signs(2.0),  # type: ignore[arg-type]
        lambda: Levels(4, ones, ones, 0),
        lambda: Levels(4, ones, ones, 65537),
        lambda: Levels(4, ones, -ones, 2),
        lambda: Levels(5, ones, ones, 2),
        lambda: Levels(4, ones.astype(np.float64), ones, 2),
        lambda: Levels(4, ones * np.inf, ones, 2),
        lambda: Levels(4, ones * np.float32(-2e38), ones, 2),
        lambda: Project(np.ones((4, 3), np.float32), ones),
        lambda: Scalars(WIDTHS[:-1], CENTROIDS),
        lambda: Scalars(WIDTHS, CENTROIDS[::-1].copy()),
        lambda: Scalars(np.array([0, 3], np.uint8), CENTROIDS[:9]),
        lambda: Scalars(np.array([9], np.uint8), np.zeros(512, np.float32)),
        lambda: Scalars(WIDTHS.astype(np.int64), CENTROIDS),
        lambda: ProductCoder(4, np.ones((2, 3, 2), np.float32)),
        lambda: ProductCoder(5, np.ones((2, 4, 2), np.float32)),
        lambda: ProductCoder(2, np.ones((2, 4, 2), np.float32)),
    ]
    for make in wrong:
        with pytest.raises(TransformError):
            make()


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TransformError, match="cannot write the transform"):
        CHAINS["signs"].save(tmp_path / "no" / "folder.safetensors")
    (tmp_path / "taken").mkdir()
    with pytest.raises(TransformError, match="cannot write the transform"):
        CHAINS["signs"].save(tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def saved(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray], dict[str, str]]:
    path = CHAINS["levels"].save(tmp_path / "t.safetensors")
    with safetensors.safe_open(path, "numpy") as file:
        return path, {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def test_missing_and_foreign_files_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    with pytest.raises(TransformError, match="no file"):
        load_transform(path)
    with pytest.raises(TransformError, match="no file"):
        load_transform(tmp_path)
    safetensors.numpy.save_file({"weight": np.zeros(3)}, path)
    with pytest.raises(TransformError, match="no transform"):
        load_transform(path)
    path.write_bytes(b"PK\x03\x04 not this")
    with pytest.raises(TransformError, match="damaged"):
        load_transform(path)


def test_tampered_files_are_errors(tmp_path: Path) -> None:
    path, arrays, metadata = saved(tmp_path)
    steps = json.loads(metadata["steps"])

    def refuse(message: str, arrays: dict[str, np.ndarray] = arrays, **changed: str) -> None:
        safetensors.numpy.save_file(arrays, path, {**metadata, **changed})
        with pytest.raises(TransformError, match=message) as caught:
            load_transform(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)

    refuse("of version 2, this Netopsy reads version 1", version="2")
    refuse("no transform", version="one")
    refuse("no transform", format="other")
    for text in ("", "{", "7", "[7]", '["unit"]', "null", "[[]]", "{}", "[]", "[" * 100_000):
        refuse("damaged", steps=text)
    for settings in ({"kind": "eval"}, {}, {"kind": "unit"}, {"kind": "unit", "inputs": "24"}, {"kind": ["unit"]}):
        refuse("damaged", steps=json.dumps([settings, *steps[1:]]))
    refuse("damaged", steps=json.dumps(steps[:2]))
    refuse("damaged", steps=json.dumps([steps[0], {**steps[1], "extra": 1}, steps[2]]))
    refuse("damaged", steps=json.dumps([*steps[:2], {**steps[2], "h": 27.5}]))
    refuse("damaged", steps=json.dumps([*steps[:2], {**steps[2], "low": [0.0]}]), arrays={"2.high": arrays["2.high"]})
    for name, values in arrays.items():
        refuse("damaged", arrays={key: value for key, value in arrays.items() if key != name})
        refuse("damaged", arrays={**arrays, name: values.astype(np.float64)})
        refuse("damaged", arrays={**arrays, name: values * np.nan})
        refuse("damaged", arrays={**arrays, name: values[:-1]})
    refuse("which no step uses", arrays={**arrays, "9.low": np.ones(2, np.float32)})


def test_no_damage_escapes_as_another_error(tmp_path: Path) -> None:
    path, _, _ = saved(tmp_path)
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    header = 8 + int.from_bytes(whole[:8], "little")
    refused = 0
    for i in range(600):
        broken = bytearray(whole)
        if i < 100:
            broken = broken[: int(generator.integers(0, len(whole)))]
        else:
            for place in generator.integers(0, header if i % 2 else len(whole), 3):
                broken[place] = int(generator.integers(0, 256))
        path.write_bytes(broken)
        try:
            load_transform(path).transform(features(3))
        except TransformError as error:
            refused += "\n" not in str(error)
    assert refused > 300
