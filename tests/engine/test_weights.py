"""Weights files: every form, every way of being wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from netopsy.errors import MissingExtra, NetopsyError, WeightsError
from netopsy.network.sources.load import load_network
from netopsy.network.weights.matching import compare
from netopsy.network.weights.naming import find_prefix, match_names
from netopsy.network.weights.weights import read_weights


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """Weights that no random initialisation of the default seed gives."""
    return {k: t.clone() for k, t in load_network("netopsy:resnet20", seed=5).module.state_dict().items()}


def put(folder: Path, name: str, content: object) -> Path:
    path = folder / name
    if path.suffix == ".safetensors":
        save_file(content, path)  # type: ignore[arg-type]
    elif path.suffix == ".npz":
        np.savez(path, **{k: t.numpy() for k, t in content.items()})  # type: ignore[attr-defined]
    else:
        torch.save(content, path)
    return path


def same(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return tensors.keys() == expected.keys() and all(torch.equal(tensors[k], expected[k]) for k in expected)


@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        ("w.safetensors", lambda s: s),
        ("w.npz", lambda s: s),
        ("w.pt", lambda s: s),
        ("w.pth", lambda s: {"epoch": 3, "model_state_dict": s, "best": 0.9}),
        ("w.th", lambda s: {"state_dict": {f"module.{k}": t for k, t in s.items()}}),
        ("w.pt", lambda s: {"model": {f"_orig_mod.module.{k}": t for k, t in s.items()}}),
        ("w.ckpt", lambda s: {"state_dict": {f"model.{k}": t for k, t in s.items()}, "hyper_parameters": {"lr": 0.1}}),
        ("w.safetensors", lambda s: {k: t for k, t in s.items() if "num_batches" not in k}),
        ("w.pt", lambda s: {k: t.double() for k, t in s.items()}),
    ],
)
def test_weights_come_back_from_every_form(tmp_path: Path, state: dict[str, Tensor], name: str, wrap) -> None:  # type: ignore[no-untyped-def]
    network = load_network("netopsy:resnet20", weights=put(tmp_path, name, wrap(state)))
    assert same(network.module.state_dict(), state)
    assert network.provenance["weights"] == name
    assert len(network.provenance["weights_sha256"]) == 64


def test_a_state_dict_at_hand_serves_too(state: dict[str, Tensor]) -> None:
    assert same(load_network("netopsy:resnet20", weights=state).module.state_dict(), state)


def damage(folder: Path, state: dict[str, Tensor], kind: str) -> Path:
    if kind.startswith("cut"):
        path = put(folder, "w." + kind.split()[1], state)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return path
    path = folder / f"w.{kind.split()[1]}"
    path.write_bytes(b"junk\n" if kind.startswith("junk") else b"")
    return path


DAMAGE = [f"{kind} {suffix}" for kind in ("cut", "junk", "empty") for suffix in ("safetensors", "pt", "npz")]


@pytest.mark.parametrize("kind", [*DAMAGE, "junk onnx", "empty onnx"])
def test_damaged_files_are_called_damaged(tmp_path: Path, state: dict[str, Tensor], kind: str) -> None:
    path = damage(tmp_path, state, kind)
    with pytest.raises(WeightsError, match=r"is damaged or not|holds no tensors") as caught:
        load_network("netopsy:resnet20", weights=path)
    assert "\n" not in str(caught.value)


class Ours:
    """Something that only an unrestricted pickle brings back."""


def test_pickled_objects_are_not_run(tmp_path: Path, state: dict[str, Tensor]) -> None:
    for content in ({"state_dict": state, "arguments": Ours()}, nn.Linear(2, 2)):
        with pytest.raises(WeightsError, match="holds Python objects, which Netopsy does not run"):
            load_network("netopsy:resnet20", weights=put(tmp_path, "w.pt", content))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nowhere.safetensors", "does not exist"),
        ("weights.h5", "ends in '.h5'; Netopsy reads .safetensors"),
        (".", "is a folder"),
    ],
)
def test_paths_that_cannot_be_read(tmp_path: Path, given: str, message: str) -> None:
    (tmp_path / "weights.h5").write_bytes(b"h5")
    with pytest.raises(WeightsError, match=message):
        read_weights(tmp_path / given)


def test_files_without_tensors(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"holds no tensors \(it holds epoch, lr\)"):
        read_weights(put(tmp_path, "w.pt", {"epoch": 1, "lr": 0.1}))
    with pytest.raises(WeightsError, match="holds a list; it must hold a state dict"):
        read_weights(put(tmp_path, "w.pt", [1, 2]))


def test_a_mismatch_names_the_first_few_of_each_kind_and_the_network_that_fits(state: dict[str, Tensor]) -> None:
    wrong = {k: t for k, t in state.items() if not k.startswith("layer3.2.")}
    wrong |= {f"layer9.{i}": torch.zeros(1) for i in range(5)}
    wrong["conv1.weight"] = torch.zeros(16, 1, 3, 3)
    with pytest.raises(WeightsError) as caught:
        load_network("netopsy:resnet20", weights=wrong)
    message = str(caught.value)
    assert "10 missing (layer3.2.conv1.weight, layer3.2.bn1.weight, layer3.2.bn1.bias, ...)" in message
    assert "5 unexpected (layer9.0, layer9.1, layer9.2, ...)" in message
    assert "1 mis-shaped (conv1.weight is 16x1x3x3 and should be 16x3x3x3)" in message
    with pytest.raises(WeightsError, match="they fit netopsy:resnet20"):
        load_network("netopsy:resnet56", weights={f"module.{k}": t for k, t in state.items()})


def test_the_number_of_classes_comes_from_the_file_where_only_the_classifier_differs(state: dict[str, Tensor]) -> None:
    other = {**state, "linear.weight": torch.ones(100, 64), "linear.bias": torch.ones(100)}
    network = load_network("netopsy:resnet20", weights=other)
    assert same(network.module.state_dict(), other)
    assert network.provenance["num_classes"].startswith("100, ")
    with pytest.raises(WeightsError, match="2 mis-shaped"):
        load_network("netopsy:resnet20", weights=other, num_classes=10)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("layer1.0.conv1.weight", float("nan"), r"NaN or infinity in 'layer1.0.conv1.weight' \(1 of 2,304 values\)"),
        ("layer2.0.bn1.running_mean", float("inf"), "NaN or infinity in 'layer2.0.bn1.running_mean'"),
        ("layer2.0.bn1.running_var", -1.0, "a negative variance in 'layer2.0.bn1.running_var'"),
    ],
)
def test_values_that_no_training_means_are_named(
    state: dict[str, Tensor], name: str, value: float, message: str
) -> None:
    bad = {**state, name: state[name].clone()}
    bad[name].view(-1)[0] = value
    with pytest.raises(WeightsError, match=message):
        load_network("netopsy:resnet20", weights=bad)


def test_a_module_with_nan_is_refused_too() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    module[1].weight.data[0, 0] = float("nan")
    with pytest.raises(WeightsError, match=r"the weights of Sequential hold NaN or infinity in '1.weight'"):
        load_network(module)


def test_whole_numbers_for_weights_are_refused(state: dict[str, Tensor]) -> None:
    with pytest.raises(WeightsError, match=r"hold 'conv1\.weight' as int8"):
        load_network("netopsy:resnet20", weights={**state, "conv1.weight": state["conv1.weight"].to(torch.int8)})


def test_tied_weights_may_be_stored_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4, bias=False)
            self.b = nn.Linear(4, 4, bias=False)
            self.b.weight = self.a.weight

    assert not compare(Tied(), {"a.weight": torch.zeros(4, 4)})
    assert compare(Tied(), {}).missing == ["a.weight", "b.weight"]


def test_a_prefix_that_the_network_itself_has_stays() -> None:
    tensors = {"model.a": torch.zeros(2), "model.b": torch.zeros(2)}
    for prefix, names in (("", ("model.a", "model.b")), ("model.", ("a", "b"))):
        assert find_prefix(tensors, names) == prefix
        match = match_names(tensors, dict.fromkeys(names, (2,)))[0]
        assert set(match.tensors) == set(names) and match.prefix == prefix


def test_without_onnx_the_message_holds_the_install_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w.onnx").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtra, match=r"pip install 'netopsy\[onnx\]'") as caught:
        read_weights(tmp_path / "w.onnx")
    assert isinstance(caught.value, NetopsyError)
