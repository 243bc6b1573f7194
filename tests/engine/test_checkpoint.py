"""What a checkpoint holds comes back as it was, whatever it is made of; anything else is refused."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from netopsy.engine.workspace.checkpoint import Checkpoint, checksum
from netopsy.errors import NetopsyWarning

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]


def through(path: Path, state: dict[str, Any], done: int = 1) -> dict[str, Any]:
    """The state that comes back from a file."""
    Checkpoint(path).save(done, lambda: state, final=True)
    done_before, again = Checkpoint(path).load()
    assert done_before == done
    return again


def equal(one: Any, other: Any) -> bool:
    """Whether two states are the same to the last bit, types and orders included."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        same = (one.dtype, one.shape) == (other.dtype, other.shape)
        return same and bits(one) == bits(other)
    if isinstance(one, dict):
        return (
            list(one) == list(other)
            and equal(list(map(type, one)), list(map(type, other)))
            and equal(list(one.values()), list(other.values()))
        )
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, float):
        return one.hex() == other.hex()
    return bool(one == other)


def bits(tensor: Tensor) -> bytes:
    """The values' bytes in the order of their places."""
    return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor).flatten().view(torch.uint8).numpy().tobytes()


def tensors() -> st.SearchStrategy[Tensor]:
    """Of any shape and kind, also without values or axes, transposed and not a number."""

    def make(shape: list[int], dtype: torch.dtype, seed: int) -> Tensor:
        values = torch.randint(0, 256, (*shape[::-1], 8), dtype=torch.uint8, generator=torch.manual_seed(seed))
        if dtype == torch.bool:
            return (values[..., 0] > 99).permute(list(range(len(shape)))[::-1])
        return values.view(dtype)[..., 0].permute(list(range(len(shape)))[::-1])

    return st.builds(make, st.lists(st.integers(0, 4), max_size=4), st.sampled_from(DTYPES), st.integers(0, 99))


plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
keys = st.text(max_size=5) | st.integers() | st.none()
nested = st.recursive(
    plain | tensors(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys | st.sampled_from(["tensor", "dict", "tuple", "a']['b"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(state=st.dictionaries(st.text(max_size=5), nested, max_size=4))
def test_nested_data_comes_back_bit_for_bit(tmp_path: Path, state: dict[str, Any]) -> None:
    assert equal(through(tmp_path / "x.safetensors", state), state)


def test_the_hard_cases_come_back(tmp_path: Path) -> None:
    base = torch.arange(6.0)
    state = {
        "one": base,
        "same": base,
        "part": base[2:5],
        "wide": torch.ones(1).expand(4, 3),
        "empty": [torch.empty(0), torch.empty(0), torch.empty(2, 0, 3)],
        "alone": torch.tensor(-0.0),
        "learned": nn.Parameter(torch.ones(2)),
        "a.b": {1: torch.ones(1), "1": torch.zeros(1), 1.5: (), None: [], "True": {}},
        "numbers": (math.inf, -math.inf, math.nan, -0.0, 5e-324, 2**80, False, 0),
        "\0']['é": ("\ud800", [[()]], {}),
    }
    again = through(tmp_path / "x.safetensors", state)
    learned = again["learned"]
    assert type(learned) is Tensor and not learned.requires_grad
    assert equal(again, state | {"learned": learned}) and torch.equal(learned, torch.ones(2))
    again["one"].zero_()
    assert again["same"].tolist() == base.tolist() and again["part"].tolist() == [2, 3, 4]


def test_memory_formats_stay(tmp_path: Path) -> None:
    last = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    state = {"last": last, "turned": torch.randn(3, 4).T, "plain": torch.randn(2, 3, 4, 5)}
    again = through(tmp_path / "x.safetensors", state)
    assert equal(again, state) and [v.stride() for v in again.values()] == [v.stride() for v in state.values()]


@pytest.mark.parametrize("kind", ["sgd", "adamw", "amsgrad"])
def test_an_optimizer_goes_on_to_the_same_weights(tmp_path: Path, kind: str) -> None:
    def begin() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(32, 4)).to(memory_format=torch.channels_last)
        groups = [{"params": [p for p in module.parameters() if (p.ndim > 1) == big], "scale": 2} for big in (0, 1)]
        if kind == "sgd":
            return module, torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
        return module, torch.optim.AdamW(groups, lr=0.1, amsgrad=kind == "amsgrad")

    def steps(module: nn.Module, optimizer: torch.optim.Optimizer, numbers: range) -> None:
        for number in numbers:
            optimizer.zero_grad()
            module(torch.randn(5, 3, 4, 4, generator=torch.manual_seed(number))).square().sum().backward()
            optimizer.step()

    whole, optimizer_one = begin()
    steps(whole, optimizer_one, range(3))
    state = through(
        tmp_path / "x.safetensors", {"module": dict(whole.state_dict()), "optimizer": optimizer_one.state_dict()}
    )
    assert equal(state["optimizer"], optimizer_one.state_dict())
    other, optimizer_two = begin()
    other.load_state_dict(state["module"])
    optimizer_two.load_state_dict(state["optimizer"])
    steps(whole, optimizer_one, range(3, 6))
    steps(other, optimizer_two, range(3, 6))
    assert equal(dict(other.state_dict()), dict(whole.state_dict()))
    assert equal(optimizer_two.state_dict(), optimizer_one.state_dict())


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": [{"b": {1}}]}, r"state\['a'\]\[0\]\['b'\] is a set"),
        ({"a": {(1, 2): 3}}, r"state\['a'\] has a key"),
        ({"a": Path("x")}, r"state\['a'\] is a \w*Path"),
    ],
)
def test_anything_else_is_refused_with_its_path(tmp_path: Path, state: dict[str, Any], message: str) -> None:
    path = tmp_path / "x.safetensors"
    before = through(path, {"kept": 1})
    with pytest.raises(TypeError, match=message):
        Checkpoint(path).save(2, lambda: state, final=True)
    assert Checkpoint(path).load() == (1, before) and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "header",
    [
        None,
        {"done": "1"},
        {"done": "one", "state": '{"dict": []}'},
        {"done": "1", "state": "{"},
        {"done": "1", "state": json.dumps({"dict": [["x", {"tensor": "y", "axes": [0]}]]})},
        {"done": "1", "state": json.dumps({"dict": [["x", {"tensor": "x", "axes": [0, 1]}]]})},
        {"done": "1", "state": json.dumps({"dict": [["x", {}]]})},
        {"done": "1", "state": json.dumps({"dict": [3]})},
        {"done": "1", "state": "[" * 100_000},
        {"done": "1", "state": "[1]"},
    ],
)
def test_a_foreign_file_is_as_good_as_none(tmp_path: Path, header: dict[str, str] | None) -> None:
    path, tensors = tmp_path / "x.safetensors", {"x": torch.ones(3)}
    for digest in (
        {},
        {} if header is None else {"checksum": checksum(header["done"] + header.get("state", ""), tensors)},
    ):
        safetensors.torch.save_file(tensors, path, metadata=header and {**header, **digest})
        with pytest.warns(NetopsyWarning, match="its work is done again"):
            assert Checkpoint(path).load() == (0, {})
    torch.save({"module": {}, "tables": {}, "rows": []}, path)
    assert Checkpoint(path).load() == (0, {})


def test_a_cut_file_is_as_good_as_none(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    through(path, {"x": torch.ones(3), "y": [1, (2.5, None)]})
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        assert Checkpoint(path).load() == (0, {})


def test_a_flipped_bit_anywhere_is_noticed_and_said(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    state = {
        "x": torch.arange(3.0),
        "y": [1, (2.5, None)],
        "z": torch.ones(2, dtype=torch.bfloat16),
        "b": torch.tensor(True),
    }
    through(path, state)
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            done, loaded = Checkpoint(path).load()
        if done:  # blanks at the end of the header may differ, and say nothing
            assert repr(loaded) == repr(state) and whole[at] == ord(" ")
        else:
            assert [w.category for w in caught] == [NetopsyWarning]
