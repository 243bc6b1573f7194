# ruff: noqa: E501
"""ONNX graphs as networks: each operator, and whole files, against onnxruntime."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from netopsy import load_network
from netopsy.errors import NetworkError, SettingsError
from netopsy.network.sources.onnx_graph import open_onnx

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

RANDOM = np.random.default_rng(0)
FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64


def normal(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def write(
    path: Path,
    nodes: list[Any],
    constants: dict[str, Any],
    shape: tuple[Any, ...] = ("batch", 4, 6),
    kind: int = FLOAT,
    outputs: tuple[str, ...] = ("y",),
    opset: int = 20,
    inputs: tuple[Any, ...] = (),
) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, list(shape)), *inputs],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    ms = helper.make_opsetid("com.microsoft", 1)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset), ms], ir_version=9), path)
    return path


def agree(path: Path, x: np.ndarray, *, singly: bool = False, tolerance: float = 1e-4, **options: Any) -> Any:
    """The module, whose outputs are onnxruntime's; exported with a dynamic batch too."""
    module, _ = open_onnx(path, **options)
    session = ort.InferenceSession(path)
    batches = [x[i : i + 1] for i in range(len(x))] if singly else [x]
    wanted = [session.run(None, {"x": batch}) for batch in batches]
    graph = torch.export.export(
        module, (torch.from_numpy(x),), dynamic_shapes=(({0: torch.export.Dim("batch")},),), strict=False
    ).module()
    for run in (module, graph):
        with torch.no_grad():
            got = run(torch.from_numpy(x))
        parts = list(got.values()) if isinstance(got, dict) else [got]
        for part, expected in zip(parts, zip(*wanted, strict=True), strict=True):
            joined = np.concatenate(expected) if singly else expected[0]
            assert part.shape == joined.shape
            np.testing.assert_allclose(part.numpy().astype(float), joined.astype(float), rtol=tolerance, atol=tolerance)
    return module


def n(operator: str, *inputs: str, out: str = "y", **attributes: Any) -> Any:
    return helper.make_node(operator, list(inputs), out.split(","), **attributes)


UNARY = "Abs Atan Ceil Cos Cosh Erf Exp Floor HardSwish Identity Mish Neg Reciprocal Relu Round Sigmoid Sign Sin Sinh"
UNARY += " Softplus Softsign Tan Tanh Elu Celu Selu LeakyRelu Gelu HardSigmoid ThresholdedRelu Shrink Softmax"
UNARY += " LogSoftmax IsNaN IsInf Flatten Transpose"


@pytest.mark.parametrize("operator", UNARY.split())
def test_functions_of_one_value(operator: str, tmp_path: Path) -> None:
    cast = [n("Cast", "r", to=FLOAT)] if operator.startswith("Is") else [n("Identity", "r")]
    agree(write(tmp_path / "f.onnx", [n(operator, "x", out="r"), *cast], {}), normal(3, 4, 6))


@pytest.mark.parametrize("operator", ["Acos", "Asin", "Atanh", "Sqrt", "Log", "Asinh", "Acosh"])
def test_functions_of_some_numbers(operator: str, tmp_path: Path) -> None:
    x = RANDOM.uniform(0.1, 0.9, (3, 4, 6)).astype(np.float32) + (1 if operator == "Acosh" else 0)
    agree(write(tmp_path / "f.onnx", [n(operator, "x")], {}), x)


@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Mean", "PRelu"])
@pytest.mark.parametrize("shape", [(), (6,), (4, 1), (1, 4, 6)])
def test_functions_of_two_values(operator: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    x = np.abs(normal(3, 4, 6)) if operator == "Pow" else normal(3, 4, 6)
    agree(write(tmp_path / "f.onnx", [n(operator, "x", "c")], {"c": normal(*shape) + 0.5}), x)


@pytest.mark.parametrize("operator", ["Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual"])
def test_comparisons_choose(operator: str, tmp_path: Path) -> None:
    nodes = [n(operator, "x", "c", out="k"), n("Not", "k", out="l"), n("And", "k", "k", out="m")]
    nodes += [n("Or", "m", "l", out="o"), n("Xor", "o", "k", out="q"), n("Where", "q", "x", "d")]
    agree(write(tmp_path / "f.onnx", nodes, {"c": np.float32(0), "d": normal(6)}), normal(3, 4, 6))


def test_whole_numbers_divide_towards_zero(tmp_path: Path) -> None:
    nodes = [n("Div", "x", "c", out="q"), n("Mod", "x", "c", out="r"), n("Mul", "q", "r")]
    x = RANDOM.integers(-20, 20, (3, 4, 6))
    agree(write(tmp_path / "f.onnx", nodes, {"c": np.int64(7)}, kind=INT), x)


REDUCE = "ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSumExp"


@pytest.mark.parametrize("operator", REDUCE.split())
@pytest.mark.parametrize(("axes", "keep"), [((1,), 1), ((-1, 1), 0), ((2,), 0)])
def test_reductions(operator: str, axes: tuple[int, ...], keep: int, tmp_path: Path) -> None:
    path = write(tmp_path / "f.onnx", [n(operator, "x", "a", keepdims=keep)], {"a": np.array(axes)})
    agree(path, normal(3, 4, 6))


MOVES: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "reshape": ([n("Reshape", "x", "s")], {"s": np.array([0, -1, 3, 2])}),
    "slice": ([n("Slice", "x", "s", "e", "a")], {"s": np.array([1, -5]), "e": np.array([9, -1]), "a": np.array([1, 2])}),
    "slice back": (
        [n("Slice", "x", "s", "e", "a", "t")],
        {"s": np.array([-1]), "e": np.array([-99]), "a": np.array([2]), "t": np.array([-2])},
    ),
    "gather": ([n("Gather", "x", "i", axis=2)], {"i": np.array([[0, -1], [2, 2]])}),
    "gather one": ([n("Gather", "x", "i", axis=1)], {"i": np.int64(-2)}),
    "gather elements": (
        [n("TopK", "x", "k", out="v,i", axis=2), n("GatherElements", "x", "i", axis=2)],
        {"k": np.array([3])},
    ),
    "scatter": (
        [n("TopK", "x", "k", out="v,i", axis=2), n("ScatterElements", "x", "i", "v", axis=2, reduction="add")],
        {"k": np.array([2])},
    ),
    "expand": ([n("Unsqueeze", "x", "a", out="u"), n("Expand", "u", "s")], {"a": np.array([1]), "s": np.array([5, 1, 1])}),
    "tile": ([n("Tile", "x", "r")], {"r": np.array([1, 2, 3])}),
    "split": ([n("Split", "x", "s", out="a,b", axis=2), n("Concat", "b", "a", axis=-1)], {"s": np.array([2, 4])}),
    "squeeze": ([n("Slice", "x", "s", "e", "a", out="t"), n("Squeeze", "t", "a")], {"s": np.array([1]), "e": np.array([2]), "a": np.array([1])}),
    "pad": ([n("Pad", "x", "p", "v")], {"p": np.array([0, 1, 2, 0, 0, 1]), "v": np.float32(2)}),
    "pad reflect": ([n("Pad", "x", "p", mode="reflect")], {"p": np.array([0, 1, 2, 0, 2, 1])}),
    "pad edge": ([n("Pad", "x", "p", mode="edge")], {"p": np.array([0, 0, 2, 0, 0, 3])}),
    "cumsum": ([n("CumSum", "x", "a", exclusive=1, reverse=1)], {"a": np.int64(2)}),
    "trilu": ([n("Trilu", "x", "k", upper=0)], {"k": np.int64(1)}),
    "argmax": ([n("ArgMax", "x", axis=2, keepdims=0, out="i"), n("OneHot", "i", "d", "v")], {"d": np.int64(6), "v": np.float32([0, 3])}),
    "einsum": ([n("Einsum", "x", "w", equation="bij,jk->bki")], {"w": normal(6, 2)}),
    "clip": ([n("Clip", "x", "l", "h")], {"l": np.float32(-0.5), "h": np.float32(1)}),
    "size of the batch": (
        [
            n("Shape", "x", out="s"), n("Gather", "s", "i", out="b"), n("Unsqueeze", "b", "i", out="u"),
            n("Concat", "u", "r", out="t", axis=0), n("Reshape", "x", "t"),
        ],
        {"i": np.array([0])[0:1].reshape(1)[0], "r": np.array([24])},
    ),
    "zeros for the batch": (
        [
            n("Shape", "x", out="s"), n("ConstantOfShape", "s", value=numpy_helper.from_array(np.float32([2]))  , out="z"),
            n("Add", "x", "z"),
        ],
        {},
    ),
}  # fmt: skip
MOVES["size of the batch"][0][2] = n("Unsqueeze", "b", "o", out="u")
MOVES["size of the batch"][1]["o"] = np.array([0])


@pytest.mark.parametrize("name", MOVES)
def test_moves(name: str, tmp_path: Path) -> None:
    nodes, constants = MOVES[name]
    agree(write(tmp_path / "f.onnx", nodes, constants), normal(3, 4, 6))


LAYERS: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "conv": ([n("Conv", "x", "w", "b", strides=[2, 1], pads=[1, 0, 0, 2], dilations=[1, 2])], {"w": normal(5, 4, 3, 3), "b": normal(5)}),
    "conv groups": ([n("Conv", "x", "w", group=2, auto_pad="SAME_UPPER", strides=[2, 2])], {"w": normal(6, 2, 3, 2)}),
    "conv and bias": ([n("Conv", "x", "w", out="p"), n("Add", "p", "b")], {"w": normal(5, 4, 1, 1), "b": normal(1, 5, 1, 1)}),
    "transposed": ([n("ConvTranspose", "x", "w", "b", strides=[2, 2], pads=[1, 0, 1, 1], output_padding=[1, 0])], {"w": normal(4, 3, 3, 3), "b": normal(3)}),
    "max pool": ([n("MaxPool", "x", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 0, 1])], {}),
    "max pool ceil": ([n("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)], {}),
    "average pool": ([n("AveragePool", "x", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])], {}),
    "average pool one side": ([n("AveragePool", "x", kernel_shape=[2, 2], pads=[0, 0, 1, 1])], {}),
    "average pool counted": ([n("AveragePool", "x", kernel_shape=[2, 2], pads=[0, 0, 1, 1], count_include_pad=1)], {}),
    "global pools": ([n("GlobalAveragePool", "x", out="a"), n("GlobalMaxPool", "x", out="m"), n("Add", "a", "m")], {}),
    "batch norm": ([n("BatchNormalization", "x", "s", "b", "m", "v")], {"s": normal(4), "b": normal(4), "m": normal(4), "v": np.abs(normal(4))}),
    "instance norm": ([n("InstanceNormalization", "x", "s", "b")], {"s": normal(4), "b": normal(4)}),
    "layer norm": ([n("LayerNormalization", "x", "s", "b", axis=-2)], {"s": normal(7, 6), "b": normal(7, 6)}),
    "local norm": ([n("LRN", "x", size=3)], {}),
    "nearest": ([n("Resize", "x", "", "s", mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")], {"s": np.float32([1, 1, 2, 3])}),
    "nearest of any size": ([n("Resize", "x", "", "", "z", mode="nearest")], {"z": np.array([1, 4, 5, 9])}),
    "linear": ([n("Resize", "x", "", "s", mode="linear")], {"s": np.float32([1, 1, 2, 1.5])}),
    "linear asymmetric": ([n("Resize", "x", "", "s", mode="linear", coordinate_transformation_mode="asymmetric")], {"s": np.float32([1, 1, 2, 2])}),
    "aligned": ([n("Resize", "x", "", "s", mode="linear", coordinate_transformation_mode="align_corners")], {"s": np.float32([1, 1, 2, 2])}),
    "cubic": ([n("Resize", "x", "", "s", mode="cubic")], {"s": np.float32([1, 1, 2, 2])}),
    "depth to space": ([n("DepthToSpace", "x", blocksize=2)], {}),
    "depth to space, columns first": ([n("DepthToSpace", "x", blocksize=2, mode="CRD")], {}),
    "matrices": ([n("MatMul", "x", "w", out="p"), n("Add", "b", "p")], {"w": normal(6, 3), "b": normal(3)}),
    "matrix of values": ([n("Transpose", "x", perm=[0, 1, 3, 2], out="t"), n("MatMul", "x", "t")], {}),
    "gemm": ([n("Flatten", "x", out="f"), n("Gemm", "f", "w", "b", transB=1, alpha=0.5, beta=2.0)], {"w": normal(3, 168), "b": normal(1, 3)}),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str, tmp_path: Path) -> None:
    nodes, constants = LAYERS[name]
    path = write(tmp_path / "f.onnx", nodes, constants, ("batch", 4, 7, 6))
    if name == "nearest of any size":  # the sizes name the batch as well
        path = write(tmp_path / "f.onnx", nodes, constants, (1, 4, 7, 6))
        agree(path, normal(2, 4, 7, 6), singly=True)
    else:
        agree(path, normal(3, 4, 7, 6))


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("operator", ["LSTM", "GRU", "RNN"])
def test_recurrence(operator: str, direction: str, tmp_path: Path) -> None:
    gates, ways = {"LSTM": 4, "GRU": 3, "RNN": 1}[operator], 2 if direction == "bidirectional" else 1
    constants = {"w": normal(ways, gates * 5, 6), "r": normal(ways, gates * 5, 5), "b": normal(ways, 2 * gates * 5)}
    nodes = [n("Transpose", "x", perm=[1, 0, 2], out="t")]
    nodes += [n(operator, "t", "w", "r", "b", out="s,h", hidden_size=5, direction=direction)]
    nodes += [n("Transpose", "s", perm=[2, 0, 1, 3]), n("Transpose", "h", perm=[1, 0, 2], out="z")]
    agree(write(tmp_path / "f.onnx", nodes, constants, outputs=("y", "z")), normal(3, 4, 6))


def test_gru_that_resets_behind_its_matrix(tmp_path: Path) -> None:
    constants = {"w": normal(1, 15, 6), "r": normal(1, 15, 5), "b": normal(1, 30)}
    nodes = [n("Transpose", "x", perm=[1, 0, 2], out="t")]
    nodes += [n("GRU", "t", "w", "r", "b", out="s", hidden_size=5, linear_before_reset=1)]
    nodes += [n("Transpose", "s", perm=[2, 0, 1, 3])]
    agree(write(tmp_path / "f.onnx", nodes, constants), normal(3, 4, 6))


def test_weights_keep_their_names_and_linear_maps_are_torch_s(tmp_path: Path) -> None:
    nodes = [n("Conv", "x", "features.0.weight", "features.0.bias", out="c"), n("Relu", "c", out="r")]
    nodes += [n("GlobalAveragePool", "r", out="g"), n("Flatten", "g", out="f")]
    nodes += [n("MatMul", "f", "head.weight", out="p"), n("Add", "p", "head.bias")]
    constants = {"features.0.weight": normal(5, 3, 3, 3), "features.0.bias": normal(5)}
    constants |= {"head.weight": normal(5, 2), "head.bias": normal(2)}
    path = write(tmp_path / "f.onnx", nodes, constants, ("batch", 3, 8, 8))
    network = load_network(f"onnx:{path}")
    layers = {layer.name: layer for layer in network.layers}
    assert list(layers) == ["features.0", "head"]
    assert [layer.kind for layer in layers.values()] == ["conv", "linear"]
    assert layers["head"].weight_shape == (2, 5) and layers["head"].bias == "head.bias"
    assert network.preprocessing.input_shape == (3, 8, 8)
    x = normal(3, 3, 8, 8)
    wanted = ort.InferenceSession(path).run(None, {"x": x})[0]
    with torch.no_grad():
        np.testing.assert_allclose(network.module(torch.from_numpy(x)).numpy(), wanted, atol=1e-5)


def test_a_file_for_one_sample_takes_a_batch(tmp_path: Path) -> None:
    nodes = [n("Concat", "t", "x", axis=1, out="c"), n("Reshape", "c", "s", out="r"), n("MatMul", "r", "w", out="m")]
    nodes += [n("Reshape", "m", "f")]
    constants = {"t": normal(1, 1, 6), "s": np.array([5, 6]), "w": normal(6, 6), "f": np.array([1, -1])}
    path = write(tmp_path / "f.onnx", nodes, constants, (1, 4, 6))
    with pytest.raises(NetworkError, match="one sample at a time"):
        write(tmp_path / "g.onnx", [n("Squeeze", "x", "a")], {"a": np.array([0])}, (1, 4, 6))
        open_onnx(tmp_path / "g.onnx")
    constants["s"] = np.array([1, 30])
    nodes[2] = n("Identity", "r", out="m")
    agree(write(path, nodes, constants, (1, 4, 6)), normal(3, 4, 6), singly=True)


@pytest.mark.parametrize("taken", [True, False])
def test_a_branch_on_a_constant_is_taken_and_the_other_s_weights_are_left_out(taken: bool, tmp_path: Path) -> None:
    def branch(name: str) -> Any:
        weight = numpy_helper.from_array(normal(6, 2), f"{name}.weight")
        out = helper.make_empty_tensor_value_info(f"{name}_out")
        return helper.make_graph([n("MatMul", "x", f"{name}.weight", out=f"{name}_out")], name, [], [out], [weight])

    node = n("If", "c", then_branch=branch("yes"), else_branch=branch("no"))
    module = agree(write(tmp_path / "f.onnx", [node], {"c": np.array(taken)}), normal(3, 4, 6))
    assert [name for name, _ in module.named_parameters()] == [f"{'yes' if taken else 'no'}.weight"]


def test_a_loop_of_known_length_is_written_out_with_one_weight(tmp_path: Path) -> None:
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [n("MatMul", "v", "w", out="m"), n("Tanh", "m", out="t"), n("Identity", "k", out="k2"), n("Identity", "t", out="row")],
        "body",
        [info("i", INT, []), info("k", TensorProto.BOOL, []), info("v", FLOAT, None)],
        [info("k2", TensorProto.BOOL, []), info("t", FLOAT, None), info("row", FLOAT, None)],
    )  # fmt: skip
    nodes = [n("Loop", "n", "go", "x", out="last,rows", body=body), n("Transpose", "rows", perm=[1, 0, 2, 3], out="z")]
    constants = {"n": np.int64(3), "go": np.array(True), "w": normal(6, 6)}
    module = agree(write(tmp_path / "f.onnx", nodes, constants, outputs=("last", "z")), normal(3, 4, 6))
    assert [name for name, _ in module.named_parameters()] == ["w"]


def test_a_branch_on_values_is_refused_by_name(tmp_path: Path) -> None:
    graph = helper.make_graph([n("Identity", "x", out="o")], "b", [], [helper.make_empty_tensor_value_info("o")])
    nodes = [n("ReduceMax", "x", keepdims=0, out="m"), n("Cast", "m", to=TensorProto.BOOL, out="c")]
    nodes += [helper.make_node("If", ["c"], ["y"], name="choice", then_branch=graph, else_branch=graph)]
    with pytest.raises(NetworkError, match=r"If \('choice'\) depends on the values"):
        open_onnx(write(tmp_path / "f.onnx", nodes, {}))


def quantized_weight() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return RANDOM.integers(-127, 127, (5, 4, 3, 3)).astype(np.int8), np.float32(0.02), np.int8(0)


def test_quantize_and_dequantize_are_opened_with_float_weights(tmp_path: Path) -> None:
    w, scale, zero = quantized_weight()
    nodes = [n("QuantizeLinear", "x", "s", "z", out="q"), n("DequantizeLinear", "q", "s", "z", out="d")]
    nodes += [n("DequantizeLinear", "w", "ws", "wz", out="f"), n("Conv", "d", "f")]
    constants = {"s": np.float32(0.03), "z": np.uint8(100), "w": w, "ws": scale, "wz": zero}
    module = agree(write(tmp_path / "f.onnx", nodes, constants, ("batch", 4, 7, 6)), normal(3, 4, 7, 6))
    (parameter,) = [p for name, p in module.named_parameters() if name == "w"]
    np.testing.assert_allclose(parameter.detach().numpy(), w * 0.02, atol=1e-6)
    assert "quantized" in module.notes[0]


def test_integer_convolutions_compute_what_they_say(tmp_path: Path) -> None:
    w, scale, zero = quantized_weight()
    nodes = [
        n("QuantizeLinear", "x", "s", "z", out="q"),
        n("QLinearConv", "q", "s", "z", "w", "ws", "wz", "ys", "z", "b", out="c"),
    ]
    nodes += [n("DequantizeLinear", "c", "ys", "z")]
    constants = {"s": np.float32(0.03), "z": np.uint8(100), "w": w, "ws": scale, "wz": zero, "ys": np.float32(0.1)}
    constants["b"] = RANDOM.integers(-500, 500, 5).astype(np.int32)
    path = write(tmp_path / "f.onnx", nodes, constants, ("batch", 4, 7, 6))
    agree(path, normal(3, 4, 7, 6), tolerance=0.1001)  # one step of the output: ties round either way
    nodes = [n("DynamicQuantizeLinear", "x", out="q,s,z"), n("ConvInteger", "q", "w", "z", "wz", out="i")]
    nodes += [n("Cast", "i", to=FLOAT, out="f"), n("Mul", "s", "ws", out="t"), n("Mul", "f", "t")]
    constants = {"w": w, "ws": scale, "wz": zero}
    path = write(tmp_path / "g.onnx", nodes, constants, ("batch", 4, 7, 6))
    module, example = open_onnx(path)  # one range for the whole batch, as in the file
    (x,) = example.values()
    with torch.no_grad():
        np.testing.assert_allclose(
            module(x).numpy(), ort.InferenceSession(path).run(None, {"x": x.numpy()})[0], atol=1e-4
        )


def test_open_sizes_must_be_given(tmp_path: Path) -> None:
    path = write(tmp_path / "f.onnx", [n("Relu", "x")], {}, ("batch", 3, "height", "width"))
    with pytest.raises(SettingsError, match=r"\(batch, 3, height, width\); give the sizes of a sample"):
        load_network(f"onnx:{path}")
    assert load_network(f"onnx:{path}", size=16).preprocessing.input_shape == (3, 16, 16)
    assert load_network(f"onnx:{path}", shape="3x8x9").preprocessing.input_shape == (3, 8, 9)
    with pytest.raises(SettingsError, match="sizes such as 3x48x96"):
        load_network(f"onnx:{path}", shape="3xbig")


def test_inputs_that_are_no_samples_are_fixed(tmp_path: Path) -> None:
    scale = helper.make_tensor_value_info("k", FLOAT, [])
    path = write(tmp_path / "f.onnx", [n("Mul", "x", "k")], {}, inputs=(scale,))
    with pytest.raises(SettingsError, match=r"'k' .* has no batch axis; give its value"):
        load_network(f"onnx:{path}")
    network = load_network(f"onnx:{path}", fixed="k=3")
    assert torch.equal(network.module(torch.ones(2, 4, 6)), torch.full((2, 4, 6), 3.0))


def test_several_inputs_go_in_by_name(tmp_path: Path) -> None:
    other = helper.make_tensor_value_info("mask:0", INT, ["batch", 4])
    nodes = [n("Cast", "mask:0", to=FLOAT, out="m"), n("Unsqueeze", "m", "a", out="u"), n("Mul", "x", "u")]
    path = write(tmp_path / "f.onnx", nodes, {"a": np.array([2])}, inputs=(other,))
    network = load_network(f"onnx:{path}")
    assert [entry.name for entry in network.signature.inputs] == ["x", "mask_0"]
    assert network.output


def test_unknown_operators_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=r"operator Unique .*not supported"):
        open_onnx(write(tmp_path / "f.onnx", [n("Unique", "x")], {}))
    (tmp_path / "g.onnx").write_bytes(b"no graph")
    with pytest.raises(Exception, match="not an ONNX file"):
        load_network(tmp_path / "g.onnx")


REAL = {  # a file of a package from PyPI, and how it is opened
    "silero_vad": ("silero_vad/data/silero_vad.onnx", {"shape": 576, "fixed": {"sr": 16000, "state": 0}}),
    "magika": ("magika/models/standard_v3_3/model.onnx", {}),
}


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.skipif("NETOPSY_SHARED" not in os.environ, reason="needs NETOPSY_SHARED")
@pytest.mark.parametrize("package", REAL)
def test_published_files_equal_onnxruntime_on_real_input(package: str) -> None:
    found = pytest.importorskip(package)
    path = Path(found.__file__).parent.parent / REAL[package][0]
    if not path.exists():
        path = next(Path(found.__file__).parent.rglob("*.onnx"))
    module, example = open_onnx(path, **REAL[package][1])
    (shape,) = (tuple(x.shape[1:]) for x in example.values())
    session = ort.InferenceSession(path)
    if package == "magika":
        files = [Path(__file__).read_bytes(), path.read_bytes()]
        x = np.stack([np.frombuffer(data[: shape[0]], np.uint8) for data in files]).astype(np.int32)
        wanted = session.run(None, {session.get_inputs()[0].name: x})[0]
    else:
        spoken = np.load(Path(os.environ["NETOPSY_SHARED"]) / "data" / "audio" / "spoken-digits.npz")
        # 8 kHz, repeated to the 16 kHz that the file takes; 576 samples out of the middle of four recordings
        x = np.stack([np.repeat(spoken["x"][i] / np.float32(32768), 2)[2000:2576] for i in (0, 150, 300, 450)])
        x = x.astype(np.float32)
        state, rate = np.zeros((2, 4, 128), np.float32), np.array(16000)
        wanted = session.run(None, {"input": x, "state": state, "sr": rate})[0]
    with torch.no_grad():
        got = module(torch.from_numpy(x))
    got = next(iter(got.values())) if isinstance(got, dict) else got
    np.testing.assert_allclose(got.numpy(), wanted, atol=1e-4)
