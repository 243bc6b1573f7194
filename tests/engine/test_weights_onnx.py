"""Initialisers of ONNX files: the loaded network must compute what ONNX's own reference evaluator computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from netopsy.errors import WeightsError
from netopsy.network.sources.load import load_network

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402


class Net(nn.Module):
    """Two convolutions of one shape, and a square linear map: shape alone decides nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Conv2d(3, 3, 3, padding=1)
        self.first = nn.Conv2d(3, 3, 3, padding=1)
        self.hidden = nn.Linear(48, 48)
        self.out = nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x).relu()).relu().flatten(1)
        return self.out(self.hidden(x).relu())


def arrays(seed: int = 3) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed).standard_normal
    shapes = {
        "first.weight": (3, 3, 3, 3),
        "first.bias": (3,),
        "second.weight": (3, 3, 3, 3),
        "second.bias": (3,),
        "hidden.weight": (48, 48),
        "hidden.bias": (48,),
        "out.weight": (5, 48),
        "out.bias": (5,),
    }
    return {name: draw(shape).astype(np.float32) * 0.2 for name, shape in shapes.items()}


def save(path: Path, *, linear: str = "gemm", rename=lambda name, index: name) -> ReferenceEvaluator:  # type: ignore[no-untyped-def]
    """Write the net as ONNX; linear: 'gemm' (transB=1), 'gemm-t' (transB=0), 'matmul', 'transpose' (then MatMul)."""
    values = arrays()
    if linear in ("gemm-t", "matmul"):
        values |= {name: values[name].T.copy() for name in ("hidden.weight", "out.weight")}
    names = {name: rename(name, index) for index, name in enumerate(values)}
    nodes = []
    for name, source, target in (("first", "x", "a"), ("second", "b", "c")):
        pads = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
        nodes.append(
            helper.make_node("Conv", [source, names[f"{name}.weight"], names[f"{name}.bias"]], [target], **pads)
        )
        nodes.append(helper.make_node("Relu", [target], [chr(ord(target) + 1)]))
    nodes.append(helper.make_node("Flatten", ["d"], ["e"]))
    for name, source, target in (("hidden", "e", "f"), ("out", "g", "y")):
        weight, bias = names[f"{name}.weight"], names[f"{name}.bias"]
        if linear.startswith("gemm"):
            nodes.append(helper.make_node("Gemm", [source, weight, bias], [target], transB=int(linear == "gemm")))
        else:
            if linear == "transpose":
                nodes.append(helper.make_node("Transpose", [weight], [f"{name}_t"], perm=[1, 0]))
                weight = f"{name}_t"
            nodes.append(helper.make_node("MatMul", [source, weight], [f"{name}_m"]))
            nodes.append(helper.make_node("Add", [f"{name}_m", bias], [target]))
        if name == "hidden":
            nodes.append(helper.make_node("Relu", ["f"], ["g"]))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(array, names[name]) for name, array in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return ReferenceEvaluator(model)


@pytest.mark.parametrize("linear", ["gemm", "gemm-t", "matmul", "transpose"])
@pytest.mark.parametrize("named", [True, False])
def test_the_network_computes_what_the_file_computes(tmp_path: Path, linear: str, named: bool) -> None:
    rename = (lambda name, index: name) if named else (lambda name, index: f"onnx::{(index * 5) % 8}")
    oracle = save(tmp_path / "w.onnx", linear=linear, rename=rename)
    network = load_network(Net(), weights=tmp_path / "w.onnx", size=4)
    x = torch.randn(3, 3, 4, 4)
    with torch.no_grad():
        np.testing.assert_allclose(
            network.module(x).numpy(), oracle.run(None, {"x": x.numpy()})[0], rtol=1e-4, atol=1e-5
        )
    assert network.provenance["weights_matched"] == (
        "by name" if named else "0 by name, 8 by shape and order of execution"
    )


def test_some_by_name_and_the_rest_by_order(tmp_path: Path) -> None:
    oracle = save(tmp_path / "w.onnx", rename=lambda name, index: name if name.startswith("out") else f"v{index}")
    network = load_network(Net(), weights=tmp_path / "w.onnx", size=4)
    x = torch.randn(1, 3, 4, 4)
    with torch.no_grad():
        np.testing.assert_allclose(
            network.module(x).numpy(), oracle.run(None, {"x": x.numpy()})[0], rtol=1e-4, atol=1e-5
        )
    assert network.provenance["weights_matched"] == "2 by name, 6 by shape and order of execution"


class Swapped(nn.Module):
    """Uses its two square maps and its two others in an order that the file does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(48, 48)
        self.first = nn.Conv2d(3, 3, 3, padding=1)
        self.second = nn.Conv2d(3, 3, 3, padding=1)
        self.out = nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.hidden(x.flatten(1)).relu().view(-1, 3, 4, 4)
        return self.out(self.second(self.first(x)).flatten(1))


def test_another_order_with_shapes_that_occur_twice_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "w.onnx", rename=lambda name, index: f"v{index}")
    with pytest.raises(
        WeightsError, match=r"2 tensors of shape 3(x3x3x3)? in another order than the network uses them"
    ):
        load_network(Swapped(), weights=tmp_path / "w.onnx", size=4)


class Distinct(nn.Module):
    """Every tensor has a shape of its own; executed the other way round than the file has them."""

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Linear(48, 6, bias=False)
        self.a = nn.Linear(6, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(self.b(x.flatten(1)))


def test_shapes_that_occur_once_need_no_order(tmp_path: Path) -> None:
    values = [np.random.default_rng(i).standard_normal(s).astype(np.float32) for i, s in enumerate([(5, 6), (6, 48)])]
    nodes = [
        helper.make_node("Gemm", ["x", "p"], ["y"], transB=1),
        helper.make_node("Gemm", ["z", "q"], ["w"], transB=1),
    ]
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", s]) for n, s in (("x", 6), ("z", 48))]
    outs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", s]) for n, s in (("y", 5), ("w", 6))]
    initialisers = [numpy_helper.from_array(v, n) for v, n in zip(values, "pq", strict=True)]
    onnx.save(
        helper.make_model(helper.make_graph(nodes, "g", infos, outs, initialisers), ir_version=9), tmp_path / "w.onnx"
    )
    network = load_network(Distinct(), weights=tmp_path / "w.onnx", size=4)
    assert torch.equal(network.module.a.weight, torch.from_numpy(values[0]))
    assert torch.equal(network.module.b.weight, torch.from_numpy(values[1]))


def test_a_file_of_another_network_lists_what_does_not_fit(tmp_path: Path) -> None:
    save(tmp_path / "w.onnx")
    with pytest.raises(WeightsError, match=r"do not fit netopsy:lenet5: 8 missing .*8 unexpected \(first.weight"):
        load_network("netopsy:lenet5", weights=tmp_path / "w.onnx")


def test_tensors_stored_once_under_two_names(tmp_path: Path) -> None:
    weight, bias = np.ones((3, 3, 3, 3), np.float32) / 9, np.zeros(3, np.float32)
    pads = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    nodes = [
        helper.make_node("Identity", ["first.bias"], ["second.bias"]),
        helper.make_node("Conv", ["x", "first.weight", "first.bias"], ["a"], **pads),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "second.weight", "second.bias"], ["y"], **pads),
    ]
    values = {"first.weight": weight, "second.weight": -weight, "first.bias": bias}
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, 4, 4]) for name in "xy"]
    stored = [numpy_helper.from_array(array, name) for name, array in values.items()]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:], stored)
    onnx.save(helper.make_model(graph, ir_version=9), tmp_path / "w.onnx")

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x).relu())

    network = load_network(Two(), weights=tmp_path / "w.onnx", size=4)
    assert torch.equal(network.module.second.weight, -network.module.first.weight)
    assert network.module.second.bias.count_nonzero() == 0

    folded = nn.Sequential()
    for name in ("first", "second"):
        folded.add_module(name, nn.Conv2d(3, 3, 3))
        folded.add_module(f"{name}_bn", nn.BatchNorm2d(3))
    with pytest.raises(WeightsError, match="the export has folded batch normalisation into the convolutions"):
        load_network(folded, weights=tmp_path / "w.onnx", size=8)
